package hostnet

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// twoUplinks is a host with a LAN, a tunnel and two uplinks, of which the main table prefers
// the first for everything.
func twoUplinks(t *testing.T) (h *Host, eth0, eth1 netlink.Link) {
	t.Helper()
	h = inNamespace(t)
	eth0 = iface(t, h, "eth0", "192.0.2.2/24", "2001:db8:a::2/64")
	eth1 = iface(t, h, "eth1", "198.51.100.2/24", "2001:db8:b::2/64")
	iface(t, h, "lan0", "10.1.0.1/24", "fd00:1::1/64")
	defaultVia(t, h, eth0, "192.0.2.1", 100)
	defaultVia(t, h, eth1, "198.51.100.1", 200)
	defaultVia(t, h, eth0, "2001:db8:a::1", 1024)
	defaultVia(t, h, eth1, "2001:db8:b::1", 2048)
	return h, eth0, eth1
}

// leavesBy says by which interface and gateway the host sends.
func leavesBy(t *testing.T, h *Host, from, to string) string {
	t.Helper()
	routes, err := h.nl.RouteGetWithOptions(net.ParseIP(to), &netlink.RouteGetOptions{SrcAddr: net.ParseIP(from)})
	if err != nil || len(routes) == 0 {
		return "nothing"
	}
	link, err := h.nl.LinkByIndex(routes[0].LinkIndex)
	must(t, err)
	if routes[0].Gw != nil {
		return link.Attrs().Name + " " + routes[0].Gw.String()
	}
	return link.Attrs().Name
}

type journey struct{ from, to, by string }

func expectJourneys(t *testing.T, h *Host, when string, journeys ...journey) {
	t.Helper()
	for _, j := range journeys {
		if got := leavesBy(t, h, j.from, j.to); got != j.by {
			t.Errorf("%s what leaves from %q to %s goes by %s, want %s", when, j.from, j.to, got, j.by)
		}
	}
}

const (
	far4, far6 = "203.0.113.9", "2001:db8:9::9"
	gw0, gw1   = "eth0 192.0.2.1", "eth1 198.51.100.1"
	gw60, gw61 = "eth0 2001:db8:a::1", "eth1 2001:db8:b::1"
)

// apartNow are the journeys of two uplinks that are kept apart.
var apartNow = []journey{
	{"192.0.2.2", far4, gw0}, {"198.51.100.2", far4, gw1}, {"", far4, gw0},
	{"2001:db8:a::2", far6, gw60}, {"2001:db8:b::2", far6, gw61}, {"", far6, gw60},
	// Peers in the network of the other uplink, and in that of the own one.
	{"198.51.100.2", "192.0.2.77", gw1}, {"192.0.2.2", "198.51.100.77", gw0},
	{"198.51.100.2", "198.51.100.77", "eth1"}, {"192.0.2.2", "192.0.2.77", "eth0"},
	{"2001:db8:b::2", "2001:db8:a::77", gw61}, {"2001:db8:b::2", "2001:db8:b::77", "eth1"},
	// What is not outside stays where it is.
	{"198.51.100.2", "10.1.0.7", "lan0"}, {"2001:db8:b::2", "fd00:1::7", "lan0"},
	{"198.51.100.2", "10.2.0.7", "swan0"}, {"10.1.0.1", "10.2.0.7", "swan0"},
}

func leftOver(t *testing.T, h *Host) (left []string) {
	t.Helper()
	for _, fam := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := h.nl.RuleList(fam)
		must(t, err)
		for _, r := range rules {
			if ours(r) {
				left = append(left, r.String())
			}
		}
		for table := uplinkTables; table < uplinkTables+2*maxApart; table++ {
			must(t, h.eachRoute(fam, netlink.Route{Table: table}, func(r *netlink.Route) { left = append(left, r.String()) }))
		}
	}
	return left
}

// TestUplinksApart: what leaves from the address of an uplink leaves by it and its router, of
// either family, and no LAN or tunnel is passed by; the tables follow the main one, an
// uplink that loses its router is not replaced by the other, and all goes with the uplink,
// at the end, and after an agent that was killed.
func TestUplinksApart(t *testing.T) {
	h, _, eth1 := twoUplinks(t)
	iface(t, h, "swan0")
	must(t, h.SetLink("swan0", 1400), h.SetRoutes("swan0", []Route{{Prefix: netip.MustParsePrefix("10.2.0.0/24"), Source: netip.MustParseAddr("10.1.0.1")}}))
	expectJourneys(t, h, "at first", journey{"198.51.100.2", far4, gw0}, journey{"2001:db8:b::2", far6, gw60})
	u, err := h.NewUplinks(UplinksConfig{Tunnel: "swan0", Port: 4500})
	must(t, err)
	expectJourneys(t, h, "with two uplinks", apartNow...)

	before := leftOver(t, h)
	u.refresh()
	if after := leftOver(t, h); !slices.Equal(before, after) {
		t.Errorf("looking again changed %v to %v", before, after)
	}
	// A way to much of the address space by one uplink, as of MPLS: what is inside of it and
	// in a LAN or a tunnel stays there.
	must(t, h.nl.RouteAdd(&netlink.Route{LinkIndex: eth1.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("10.0.0.0/8")), Gw: net.ParseIP("198.51.100.9")}))
	u.refresh()
	expectJourneys(t, h, "with a wide route", append(slices.Clone(apartNow),
		journey{"198.51.100.2", "10.9.0.1", "eth1 198.51.100.9"}, journey{"192.0.2.2", "10.9.0.1", gw0},
		journey{"192.0.2.2", "10.1.0.7", "lan0"}, journey{"192.0.2.2", "10.2.0.7", "swan0"})...)

	// Another address and router, as by DHCP.
	addAddress(t, h, eth1, "198.51.100.66/24")
	old, err := netlink.ParseAddr("198.51.100.2/24")
	must(t, err, h.nl.AddrDel(eth1, old), h.nl.AddrReplace(eth1, mustAddr(t, "198.51.100.66/24")))
	must(t, h.nl.RouteReplace(&netlink.Route{LinkIndex: eth1.Attrs().Index, Gw: net.ParseIP("198.51.100.254"), Priority: 200}))
	u.refresh()
	expectJourneys(t, h, "after the lease changed", journey{"198.51.100.66", far4, "eth1 198.51.100.254"}, journey{"192.0.2.2", far4, gw0}, journey{"198.51.100.66", "192.0.2.77", "eth1 198.51.100.254"})

	// It loses its router: nothing leaves by the other one in its place.
	u.cfg.Configured = u.Current()
	must(t, h.nl.RouteDel(&netlink.Route{LinkIndex: eth1.Attrs().Index, Dst: allNet(), Gw: net.ParseIP("198.51.100.254"), Priority: 200}))
	u.refresh()
	expectJourneys(t, h, "without the second router", journey{"198.51.100.66", far4, "nothing"}, journey{"198.51.100.66", "10.1.0.7", "lan0"}, journey{"192.0.2.2", far4, gw0})

	// An agent that was killed: the next one has other uplinks.
	must(t, h.nl.LinkDel(eth1))
	_, err = h.NewUplinks(UplinksConfig{Tunnel: "swan0"})
	must(t, err)
	if left := leftOver(t, h); len(left) > 0 {
		t.Errorf("with one uplink there is left: %v", left)
	}
	eth1 = iface(t, h, "eth1", "198.51.100.2/24")
	defaultVia(t, h, eth1, "198.51.100.1", 200)
	_, err = h.NewUplinks(UplinksConfig{Tunnel: "swan0"})
	must(t, err)
	expectJourneys(t, h, "with two again", journey{"198.51.100.2", far4, gw1})
	must(t, h.ReleaseUplinks())
	if left := leftOver(t, h); len(left) > 0 {
		t.Errorf("at the end there is left: %v", left)
	}
	expectJourneys(t, h, "at the end", journey{"198.51.100.2", far4, gw0}, journey{"192.0.2.2", "10.2.0.7", "swan0"})
}

func mustAddr(t *testing.T, text string) *netlink.Addr {
	t.Helper()
	a, err := netlink.ParseAddr(text)
	must(t, err)
	return a
}

func allNet() *net.IPNet { return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)} }

// TestUplinksOfOthers: where the host has a rule for an address of an uplink it stays as it
// is, as does an uplink without a router, and what has our priorities and is not ours.
func TestUplinksOfOthers(t *testing.T) {
	h, _, eth1 := twoUplinks(t)
	quiet := iface(t, h, "eth2", "203.0.113.129/25")
	theirs := netlink.NewRule()
	theirs.Src, theirs.Priority, theirs.Table = ipNet(netip.MustParsePrefix("198.51.100.0/24")), 900, 100
	near := netlink.NewRule()
	near.Dst, near.Priority, near.Table = ipNet(netip.MustParsePrefix("203.0.113.7/32")), nearPriority, 100
	must(t, h.nl.RuleAdd(theirs), h.nl.RuleAdd(near),
		h.nl.RouteAdd(&netlink.Route{LinkIndex: eth1.Attrs().Index, Gw: net.ParseIP("198.51.100.200"), Table: 100}))
	u, err := h.NewUplinks(UplinksConfig{})
	must(t, err)
	u.cfg.Configured = append(u.Current(), u.Current()[0])
	u.cfg.Configured[2].Name, u.cfg.Configured[2].Interface = "wan3", quiet.Attrs().Name
	want := []journey{
		{"192.0.2.2", far4, gw0}, {"198.51.100.2", far4, "eth1 198.51.100.200"}, {"2001:db8:b::2", far6, gw61},
		{"203.0.113.129", "100.64.0.1", gw0},
	}
	for range 2 {
		expectJourneys(t, h, "beside rules of others", want[:3]...)
		u.refresh()
	}
	must(t, h.ReleaseUplinks())
	rules, err := h.nl.RuleList(unix.AF_INET)
	must(t, err)
	for _, r := range []*netlink.Rule{theirs, near} {
		if !slices.ContainsFunc(rules, func(have netlink.Rule) bool { return have.Priority == r.Priority && have.Table == 100 }) {
			t.Errorf("rule %s of somebody else is gone: %v", r, rules)
		}
	}
}

// TestUplinksApartMany: a host that has its routes by a routing protocol has no copy of them.
func TestUplinksApartMany(t *testing.T) {
	h, _, eth1 := twoUplinks(t)
	for i := range maxNear + 1 {
		dst := &net.IPNet{IP: net.IPv4(100, 64+byte(i>>8), byte(i), 0).To4(), Mask: net.CIDRMask(24, 32)}
		must(t, h.nl.RouteAdd(&netlink.Route{LinkIndex: eth1.Attrs().Index, Dst: dst, Gw: net.ParseIP("198.51.100.9")}))
	}
	_, err := h.NewUplinks(UplinksConfig{})
	must(t, err)
	expectJourneys(t, h, "with many routes", journey{"198.51.100.2", far4, gw1}, journey{"192.0.2.2", far4, gw0}, journey{"198.51.100.2", "100.64.1.1", "eth1 198.51.100.9"})
	if n := len(leftOver(t, h)); n > 100 {
		t.Errorf("%d rules and routes", n)
	}
}

// namespaceWith moves an interface to a network namespace of its own, gives it addresses, and
// returns the path of that.
func namespaceWith(t *testing.T, h *Host, link netlink.Link, addresses ...string) string {
	t.Helper()
	type made struct {
		fd  netns.NsHandle
		err error
	}
	result := make(chan made)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		fd, err := netns.New()
		result <- made{fd, err}
	}()
	m := <-result
	must(t, m.err)
	t.Cleanup(func() { m.fd.Close() })
	there, err := netlink.NewHandleAt(m.fd, unix.NETLINK_ROUTE)
	must(t, err)
	t.Cleanup(there.Close)
	must(t, h.nl.LinkSetNsFd(link, int(m.fd)))
	moved, err := there.LinkByName(link.Attrs().Name)
	must(t, err)
	for _, a := range addresses {
		must(t, there.AddrAdd(moved, mustAddr(t, a)))
	}
	must(t, there.LinkSetUp(moved))
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(m.fd))
}

// TestUplinksStrictly: with the rules, strict reverse path filtering (RFC 3704) lets in what
// comes by the uplink that the main table does not prefer, and without them it does not.
func TestUplinksStrictly(t *testing.T) {
	if _, err := exec.LookPath("ping"); err != nil {
		t.Skip("SKIPPED: the ping command is missing; install iputils-ping")
	}
	h, _, _ := twoUplinks(t)
	// The peer is behind the second uplink's cable, in a host of its own.
	peer, err := h.nl.LinkByName("peer-eth1")
	must(t, err)
	far := namespaceWith(t, h, peer, "198.51.100.1/24", far4+"/32")
	for _, name := range []string{"all", "eth0", "eth1"} {
		if err := os.WriteFile(sysctlPath("ipv4", "conf", name, "rp_filter"), []byte("1"), 0o644); err != nil {
			t.Skipf("SKIPPED: kernel settings cannot be written here (%v); run the test as root", err)
		}
	}
	hears := func(seconds string) bool { // sends until an answer comes
		return exec.Command("nsenter", "--net="+far, "ping", "-c", "1", "-w", seconds, "-I", far4, "198.51.100.2").Run() == nil
	}
	if hears("1") {
		t.Error("without rules strict reverse path filtering lets in what comes by the other uplink")
	}
	_, err = h.NewUplinks(UplinksConfig{})
	must(t, err)
	if !hears("10") {
		t.Error("with them it does not")
	}
}
