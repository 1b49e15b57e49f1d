package hostnet

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/edge/state"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// inNamespace moves the test to a network namespace of its own, or skips it.
func inNamespace(t *testing.T) *Host {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("SKIPPED: needs a network namespace (%v); run the test as root or under `unshare -Urnm`", err)
	}
	h, err := Open(slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// must fails the test at the first error.
func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// iface makes an interface that is up, with addresses. It is one end of a
// cable, as not every kernel has dummy interfaces.
func iface(t *testing.T, h *Host, name string, addrs ...string) netlink.Link {
	t.Helper()
	must(t, h.nl.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "peer-" + name}))
	peer, err := h.nl.LinkByName("peer-" + name)
	must(t, err)
	must(t, h.nl.LinkSetUp(peer))
	link, err := h.nl.LinkByName(name)
	must(t, err)
	for _, a := range addrs {
		addAddress(t, h, link, a)
	}
	must(t, h.nl.LinkSetUp(link))
	return link
}

func addAddress(t *testing.T, h *Host, link netlink.Link, address string) {
	t.Helper()
	a, err := netlink.ParseAddr(address)
	must(t, err)
	a.Flags = unix.IFA_F_NODAD
	must(t, h.nl.AddrAdd(link, a))
}

func defaultVia(t *testing.T, h *Host, link netlink.Link, gateway string, metric int) {
	t.Helper()
	must(t, h.nl.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(gateway), Priority: metric}))
}

func TestRoutes(t *testing.T) {
	h := inNamespace(t)
	wan := iface(t, h, "eth0", "192.0.2.2/24")
	defaultVia(t, h, wan, "192.0.2.1", 0)
	iface(t, h, "lan0", "10.1.0.1/24", "2001:db8:1::1/64")
	tun := iface(t, h, "swan0")
	must(t, h.SetLink("swan0", 1400))

	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	first := []Route{
		{Prefix: prefix("10.2.0.0/24"), Source: addr("10.1.0.1")},
		{Prefix: prefix("10.3.0.0/24")},
		{Prefix: prefix("2001:db8:2::/48"), Source: addr("2001:db8:1::1")},
	}
	narrow := slices.Clone(first)
	for i := range narrow {
		narrow[i].MTU = 1300
	}
	second := []Route{
		{Prefix: prefix("10.2.0.0/24")}, // another source
		{Prefix: prefix("10.4.0.0/16"), Source: addr("10.1.0.1")},
	}
	for _, want := range [][]Route{first, first, narrow, first, narrow, second, nil} {
		must(t, h.SetRoutes("swan0", want))
		have, err := h.own(tun)
		must(t, err)
		if len(have) != len(want) {
			t.Errorf("routes = %v, want %v", have, want)
		}
		for _, w := range want {
			// The kernel chooses a source where none was asked for.
			if got, ok := have[w.Prefix]; !ok || w.Source.IsValid() && got.Source != w.Source || got.MTU != w.MTU {
				t.Errorf("route %s = %v, want %v", w.Prefix, got, w)
			}
		}
	}
	if list, err := h.nl.RouteListFiltered(unix.AF_INET, &netlink.Route{LinkIndex: wan.Attrs().Index, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE); err != nil || len(list) != 2 {
		t.Errorf("routes of others = %v, %v, want the two of eth0 untouched", list, err)
	}
}

// TestRouteMTU: the kernel fragments what it forwards, or tells its sender, by the MTU of
// the route, of either family.
func TestRouteMTU(t *testing.T) {
	h := inNamespace(t)
	iface(t, h, "swan0", "192.0.2.1/24")
	must(t, h.SetLink("swan0", 1418))
	for _, tt := range []struct {
		prefix    string
		mtu, want int
	}{
		{"10.2.0.0/24", 1300, 1300}, {"10.2.0.0/24", 1000, 1000}, {"10.2.0.0/24", 1418, 0}, {"10.2.0.0/24", 0, 0},
		{"2001:db8:2::/48", 1300, 1300}, {"2001:db8:2::/48", 1000, 1280}, {"2001:db8:2::/48", 1500, 0},
	} {
		p := netip.MustParsePrefix(tt.prefix)
		must(t, h.SetRoutes("swan0", []Route{{Prefix: p, MTU: tt.mtu}}))
		routes, err := h.nl.RouteListFiltered(family(p), &netlink.Route{Dst: ipNet(p)}, netlink.RT_FILTER_DST)
		must(t, err)
		for _, r := range routes {
			if r.Type == unix.RTN_UNICAST && (r.MTU != tt.want || r.MTULock != (tt.want != 0 && p.Addr().Is6())) {
				t.Errorf("route to %s for packets of %d octets has MTU %d, locked %v, want %d", p, tt.mtu, r.MTU, r.MTULock, tt.want)
			}
		}
	}
}

// TestGuards: where the interface goes, as it does with a process in user space that is
// killed, what was routed into it goes nowhere, and not to the default gateway.
func TestGuards(t *testing.T) {
	h := inNamespace(t)
	wan := iface(t, h, "eth0", "192.0.2.2/24", "2001:db8::2/64")
	defaultVia(t, h, wan, "192.0.2.1", 0)
	defaultVia(t, h, wan, "2001:db8::1", 2048)
	prefixes := []string{"10.2.0.0/24", "2001:db8:2::/48"}
	far := []string{"10.2.0.9", "2001:db8:2::9"}
	through := func(i int) string {
		t.Helper()
		routes, err := h.nl.RouteGet(net.ParseIP(far[i]))
		if err != nil || len(routes) == 0 {
			return "nothing"
		}
		link, err := h.nl.LinkByIndex(routes[0].LinkIndex)
		must(t, err)
		return link.Attrs().Name
	}
	var want []Route
	for i, p := range prefixes {
		want = append(want, Route{Prefix: netip.MustParsePrefix(p)})
		if got := through(i); got != "eth0" {
			t.Fatalf("before there is a tunnel %s goes through %s", p, got)
		}
	}
	all := func(when, name string) {
		t.Helper()
		for i, p := range prefixes {
			if got := through(i); got != name {
				t.Errorf("%s %s goes through %s, want %s", when, p, got, name)
			}
		}
	}
	for range 2 {
		tun := iface(t, h, "swan0")
		must(t, h.SetRoutes("swan0", want))
		all("with a tunnel", "swan0")
		must(t, h.nl.LinkDel(tun))
		all("after the process was killed", "nothing")
		must(t, h.Flush("swan0"))
		all("when the next one begins", "nothing")
	}
	iface(t, h, "swan0")
	must(t, h.SetRoutes("swan0", want), h.SetRoutes("swan0", want[:1]))
	if a, b := through(0), through(1); a != "swan0" || b != "eth0" {
		t.Errorf("with the first prefix alone: %s and %s", a, b)
	}
	must(t, h.Flush("swan0"), h.Release("swan0"))
	all("at an orderly end", "eth0")
}

// TestDefault: what comes from the site goes into the tunnel, wherever it is for, past all
// routes of the host, and nowhere when the process is killed; the site itself, what other
// routes lead into tunnels, and what the host sends from outside do not.
func TestDefault(t *testing.T) {
	h := inNamespace(t)
	wan := iface(t, h, "eth0", "192.0.2.2/24", "2001:db8::2/64")
	iface(t, h, "lan0", "10.1.0.1/24", "2001:db8:1::1/64")
	defaultVia(t, h, wan, "192.0.2.1", 0)
	defaultVia(t, h, wan, "2001:db8::1", 2048)
	// As a stranger on the way out may give it by DHCP.
	_, narrow, err := net.ParseCIDR("203.0.113.0/24")
	must(t, err, h.nl.RouteAdd(&netlink.Route{LinkIndex: wan.Attrs().Index, Dst: narrow, Gw: net.ParseIP("192.0.2.1")}))
	prefix := netip.MustParsePrefix
	want := Default{
		From:   []netip.Prefix{prefix("10.1.0.0/24"), prefix("2001:db8:1::/64")},
		Except: []netip.Prefix{prefix("10.1.0.0/24"), prefix("2001:db8:1::/64"), prefix("10.2.0.0/24")},
		MTU:    1300,
	}
	through := func(from, to string) string {
		t.Helper()
		routes, err := h.nl.RouteGetWithOptions(net.ParseIP(to), &netlink.RouteGetOptions{SrcAddr: net.ParseIP(from)})
		if err != nil || len(routes) == 0 {
			return "nothing"
		}
		link, err := h.nl.LinkByIndex(routes[0].LinkIndex)
		must(t, err)
		return link.Attrs().Name
	}
	expect := func(when, site, site6 string) {
		t.Helper()
		for _, x := range []struct{ from, to, want string }{
			{"10.1.0.1", "198.51.100.9", site}, {"10.1.0.1", "203.0.113.9", site}, {"10.1.0.1", "192.0.2.9", site},
			{"2001:db8:1::1", "2001:db8:9::9", site6}, {"2001:db8:1::1", "2001:db8::9", site6},
			{"10.1.0.1", "10.1.0.7", "lan0"}, {"2001:db8:1::1", "2001:db8:1::7", "lan0"},
			{"192.0.2.2", "198.51.100.9", "eth0"}, {"", "198.51.100.9", "eth0"}, {"192.0.2.2", "10.1.0.7", "lan0"},
			{"2001:db8::2", "2001:db8:9::9", "eth0"}, {"", "2001:db8:9::9", "eth0"},
		} {
			if got := through(x.from, x.to); got != x.want {
				t.Errorf("%s what goes from %q to %s goes through %s, want %s", when, x.from, x.to, got, x.want)
			}
		}
	}
	must(t, h.SetDefault("swan0", Default{})) // there is no interface yet
	expect("at first", "eth0", "eth0")
	for range 2 {
		tun := iface(t, h, "swan0")
		must(t, h.SetLink("swan0", 1418))
		must(t, h.SetRoutes("swan0", []Route{{Prefix: prefix("10.2.0.0/24"), Source: netip.MustParseAddr("10.1.0.1")}}))
		for range 2 {
			must(t, h.SetDefault("swan0", want))
			expect("with a tunnel", "swan0", "swan0")
		}
		if got := through("10.1.0.1", "10.2.0.9"); got != "swan0" {
			t.Errorf("what another route leads into a tunnel goes through %s", got)
		}
		must(t, h.nl.LinkDel(tun))
		expect("after the process was killed", "nothing", "nothing")
		must(t, h.Flush("swan0"))
		expect("when the next one begins", "nothing", "nothing")
	}
	iface(t, h, "swan0")
	must(t, h.SetDefault("swan0", Default{From: want.From[1:], Except: want.Except}))
	expect("with IPv6 alone", "eth0", "swan0")
	must(t, h.SetDefault("swan0", want), h.Flush("swan0"), h.Release("swan0"))
	expect("at an orderly end", "eth0", "eth0")
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := h.nl.RouteListFiltered(family, &netlink.Route{Table: defaultTable}, netlink.RT_FILTER_TABLE)
		if rules, ruleErr := h.defaultRules(family); err != nil || ruleErr != nil || len(routes)+len(rules) > 0 {
			t.Errorf("left at an orderly end: %v, %v (%v, %v)", routes, rules, err, ruleErr)
		}
	}
}

// TestIntercept: what the host says to a peer goes into the interface, also of a family
// apart, what the agent itself sends does not, and when the interface goes nothing leaves
// in clear.
func TestIntercept(t *testing.T) {
	h := inNamespace(t)
	wan := iface(t, h, "eth0", "192.0.2.2/24", "2001:db8::2/64")
	defaultVia(t, h, wan, "192.0.2.1", 0)
	defaultVia(t, h, wan, "2001:db8::1", 2048)
	peers := []netip.Addr{netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("2001:db8:9::9")}
	through := func(to netip.Addr, mark uint32) string {
		t.Helper()
		routes, err := h.nl.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{Mark: mark})
		if err != nil || len(routes) == 0 {
			return "nothing"
		}
		link, err := h.nl.LinkByIndex(routes[0].LinkIndex)
		must(t, err)
		return link.Attrs().Name
	}
	expect := func(when string, host ...string) {
		t.Helper()
		for i, peer := range peers {
			if got := through(peer, 0); got != host[i] {
				t.Errorf("%s what is for %s goes through %s, want %s", when, peer, got, host[i])
			}
			if got := through(peer, Mark); got != "eth0" {
				t.Errorf("%s what the agent sends to %s goes through %s", when, peer, got)
			}
		}
	}
	must(t, h.Intercept("swan0", nil)) // there is no interface yet
	tun := iface(t, h, "swan0")
	for range 2 {
		must(t, h.Intercept("swan0", peers))
		expect("with a tunnel", "swan0", "swan0")
	}
	must(t, h.Intercept("swan0", peers[:1]))
	expect("without the second peer", "swan0", "eth0")
	must(t, h.Intercept("swan0", peers), h.nl.LinkDel(tun))
	expect("after the process was killed", "nothing", "nothing")
	iface(t, h, "swan0")
	must(t, h.Intercept("swan0", peers[1:]))
	expect("when the next one has taken over", "eth0", "swan0")
	must(t, h.Release("swan0"), h.Release("swan0"))
	expect("at an orderly end", "eth0", "eth0")
	rules, err := h.nl.RuleListFiltered(netlink.FAMILY_ALL, &netlink.Rule{Table: interceptTable}, netlink.RT_FILTER_TABLE)
	if err != nil || len(rules) > 0 {
		t.Errorf("rules at the end: %v, %v", rules, err)
	}
}

// A route of somebody else is neither taken over nor removed.
func TestRouteInTheWay(t *testing.T) {
	h := inNamespace(t)
	wan := iface(t, h, "eth0", "192.0.2.2/24")
	iface(t, h, "swan0")
	p := netip.MustParsePrefix("10.2.0.0/24")
	must(t, h.nl.RouteAdd(&netlink.Route{LinkIndex: wan.Attrs().Index, Dst: ipNet(p), Gw: net.ParseIP("192.0.2.9")}))
	err := h.SetRoutes("swan0", []Route{{Prefix: p}, {Prefix: netip.MustParsePrefix("10.3.0.0/24")}})
	if err == nil || !strings.Contains(err.Error(), "dev eth0") || !strings.Contains(err.Error(), "10.2.0.0/24") {
		t.Errorf("SetRoutes = %v, want the route that is in the way", err)
	}
	must(t, h.Flush("swan0"), h.Flush("gone0"), h.Release("swan0"))
	list, err := h.nl.RouteListFiltered(unix.AF_INET, &netlink.Route{Dst: ipNet(p)}, netlink.RT_FILTER_DST)
	if err != nil || len(list) != 1 {
		t.Errorf("the other's route: %v, %v", list, err)
	}
}

func TestAddressIn(t *testing.T) {
	h := inNamespace(t)
	iface(t, h, "eth0", "192.0.2.2/24")
	iface(t, h, "lan0", "10.1.0.9/24", "10.1.0.1/24", "2001:db8:1::1/64")
	iface(t, h, "swan0", "10.1.0.0/32")
	site := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("2001:db8:1::/48")}
	for _, tc := range []struct {
		v4   bool
		want string
	}{{true, "10.1.0.1"}, {false, "2001:db8:1::1"}} {
		got, err := h.AddressIn(site, tc.v4, "swan0")
		if err != nil || got.String() != tc.want {
			t.Errorf("AddressIn(v4 %v) = %v, %v, want %s", tc.v4, got, err, tc.want)
		}
	}
	if got, err := h.AddressIn(site[:1], false, "swan0"); got.IsValid() || err != nil {
		t.Errorf("AddressIn without a match = %v, %v", got, err)
	}
}

func names(ups []*swanherdv1.Uplink) (out []string) {
	for _, u := range ups {
		out = append(out, u.GetName()+"="+u.GetInterface()+":"+strings.Join(u.GetAddresses(), ","))
	}
	return out
}

func TestUplinksFollowTheHost(t *testing.T) {
	h := inNamespace(t)
	eth1 := iface(t, h, "eth1", "198.51.100.2/24")
	eth0 := iface(t, h, "eth0", "192.0.2.2/24")
	iface(t, h, "lan0", "10.1.0.1/24")
	defaultVia(t, h, eth0, "192.0.2.1", 100)
	defaultVia(t, h, eth1, "198.51.100.1", 200)

	u, err := h.NewUplinks(UplinksConfig{Tunnel: "swan0", Port: 4500})
	must(t, err)
	want := []string{"wan1=eth0:192.0.2.2", "wan2=eth1:198.51.100.2"}
	if got := names(u.Current()); !slices.Equal(got, want) {
		t.Fatalf("uplinks = %v, want %v", got, want)
	}
	// The subscription is made on the test's thread, where the namespace is.
	notes, done := make(chan struct{}, 1), make(chan struct{})
	lost, err := u.subscribe(notes, done)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { u.follow(ctx, notes, lost) })
	addAddress(t, h, eth0, "192.0.2.3/24")
	select {
	case <-u.Changed():
	case <-time.After(time.Minute):
		t.Fatal("no notice of a new address")
	}
	if got := names(u.Current()); got[0] != "wan1=eth0:192.0.2.2,192.0.2.3" {
		t.Errorf("uplinks = %v", got)
	}
	cancel()
	wg.Wait()
	close(done)
	<-lost
}

// An uplink that is away is listed by its name, without addresses, and comes back under it
// when the next agent looks, which was told what was known; why nothing leaves by it is said.
func TestUplinksGoAndCome(t *testing.T) {
	h := inNamespace(t)
	eth0 := iface(t, h, "eth0", "192.0.2.2/24")
	eth1 := iface(t, h, "eth1", "198.51.100.2/24")
	defaultVia(t, h, eth0, "192.0.2.1", 100)
	defaultVia(t, h, eth1, "198.51.100.1", 200)
	var known []state.KnownUplink
	cfg := UplinksConfig{Remember: func(k []state.KnownUplink) { known = k }}
	u, err := h.NewUplinks(cfg)
	must(t, err)
	look := func(when string, why string, want ...string) {
		t.Helper()
		u.lookAgain()
		if got := names(u.Current()); !slices.Equal(got, want) {
			t.Errorf("%s: uplinks %v, want %v", when, got, want)
		}
		if down := u.Down(); down["wan2"] != why || down["wan1"] != "" {
			t.Errorf("%s: down %v, want %q", when, down, why)
		}
	}
	both := []string{"wan1=eth0:192.0.2.2", "wan2=eth1:198.51.100.2"}
	look("at first", "", both...)
	peer, err := h.nl.LinkByName("peer-eth1")
	must(t, err, h.nl.LinkSetDown(peer))
	look("without carrier", "interface eth1 has no carrier", both...)
	must(t, h.nl.LinkSetUp(peer))
	look("with carrier again", "", both...)
	must(t, h.nl.LinkSetDown(eth1))
	look("switched off", "interface eth1 has no default route", both[0], "wan2=eth1:")
	must(t, h.nl.LinkSetUp(eth1))
	cfg.Known = known
	defaultVia(t, h, eth1, "198.51.100.1", 50) // preferred now
	u, err = h.NewUplinks(cfg)
	must(t, err)
	look("after a restart", "", both...)
}

// The controller is told of an uplink without addresses when it has been for a while, and of
// others at once.
func TestUplinksAreTold(t *testing.T) {
	up := func(addresses ...string) []*swanherdv1.Uplink {
		return []*swanherdv1.Uplink{{Name: "wan1", Addresses: []string{"192.0.2.2"}}, {Name: "wan2", Addresses: addresses}}
	}
	u := &Uplinks{lost: map[string]time.Time{}, changed: make(chan struct{}, 1)}
	first := up()
	u.told.Store(&first)
	began := time.Now()
	for i, tt := range []struct {
		at      time.Duration
		now     []string
		told    []string
		changed bool
		again   time.Duration
	}{
		{0, nil, nil, false, 0},
		{0, []string{"198.51.100.2"}, []string{"198.51.100.2"}, true, 0},
		{time.Second, nil, []string{"198.51.100.2"}, false, awayTime},
		{2 * time.Second, nil, []string{"198.51.100.2"}, false, awayTime - time.Second},
		{3 * time.Second, []string{"198.51.100.2"}, []string{"198.51.100.2"}, false, 0},
		{4 * time.Second, nil, []string{"198.51.100.2"}, false, awayTime},
		{5 * time.Second, []string{"198.51.100.7", "2001:db8::7"}, []string{"198.51.100.7", "2001:db8::7"}, true, 0},
		{6 * time.Second, []string{"198.51.100.7"}, []string{"198.51.100.7"}, true, 0},
		{7 * time.Second, nil, []string{"198.51.100.7"}, false, awayTime},
		{7*time.Second + awayTime, nil, nil, true, 0},
		{8*time.Second + awayTime, nil, nil, false, 0},
	} {
		u.current.Store(&uplinkState{uplinks: up(tt.now...)})
		again := u.tell(began.Add(tt.at))
		changed := false
		select {
		case <-u.changed:
			changed = true
		default:
		}
		if got := u.Told()[1].GetAddresses(); !slices.Equal(got, tt.told) || changed != tt.changed || again != tt.again || len(u.Told()) != 2 {
			t.Errorf("%d: told %v, changed %t, again %v, want %+v", i, got, changed, again, tt)
		}
	}
}

func TestConfiguredUplinks(t *testing.T) {
	h := inNamespace(t)
	iface(t, h, "eth0", "192.0.2.2/24", "2001:db8::2/64")
	u, err := h.NewUplinks(UplinksConfig{Tunnel: "swan0", Port: 4500, Configured: []*swanherdv1.Uplink{
		{Name: "fibre", Interface: "eth0", TransportClass: swanherdv1.TransportClass_TRANSPORT_CLASS_BROADBAND},
		{Name: "lte", Interface: "wwan0"},
	}})
	must(t, err)
	want := []string{"fibre=eth0:192.0.2.2,2001:db8::2", "lte=wwan0:"}
	if got := names(u.Current()); !slices.Equal(got, want) || u.Current()[0].GetPort() != 4500 {
		t.Errorf("uplinks = %v, want %v", got, want)
	}
	if down := u.Down(); len(down) != 1 || down["lte"] != "interface wwan0 is missing" {
		t.Errorf("down: %v", down)
	}
}

func TestForwarding(t *testing.T) {
	h := inNamespace(t)
	iface(t, h, "eth0", "2001:db8::2/64")
	iface(t, h, "swan0")
	if err := os.WriteFile(sysctlPath("ipv4", "ip_forward"), []byte("0"), 0o644); err != nil {
		t.Skipf("SKIPPED: kernel settings cannot be written here (%v); run the test as root", err)
	}
	f := Forwarding{IPv4: true, IPv6: true, Tunnel: "swan0", Uplinks: []string{"eth0"}}
	must(t, h.EnableForwarding(f), h.EnableForwarding(f))
	for path, want := range map[string]string{
		"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv6/conf/eth0/accept_ra": "2", "ipv4/conf/swan0/rp_filter": "2",
	} {
		b, err := os.ReadFile(sysctlPath(strings.Split(path, "/")...))
		if err != nil || strings.TrimSpace(string(b)) != want {
			t.Errorf("%s = %s, %v, want %s", path, b, err, want)
		}
	}
}

// A local prefix makes each of its addresses one of the host, and goes without a trace.
func TestLocalPrefix(t *testing.T) {
	h := inNamespace(t)
	link := iface(t, h, "swan0")
	if !h.HasIPv6("swan0") || h.HasIPv6("missing0") {
		t.Error("which interfaces have IPv6 is not known")
	}
	mine := func(address string) bool {
		routes, err := h.nl.RouteGet(net.ParseIP(address))
		return err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL
	}
	first, second := netip.MustParsePrefix("fd00:1::/96"), netip.MustParsePrefix("fd00:2::/96")
	must(t, h.SetLocal("swan0", first), h.SetLocal("swan0", first))
	if !mine("fd00:1::7") || mine("fd00:2::7") {
		t.Error("the prefix is not the host's")
	}
	must(t, h.SetLocal("swan0", second))
	if mine("fd00:1::7") || !mine("fd00:2::7") {
		t.Error("the next prefix is not in the place of the first")
	}
	must(t, h.SetLocal("swan0", netip.Prefix{}))
	if mine("fd00:2::7") {
		t.Error("the prefix is still the host's")
	}
	must(t, h.nl.LinkDel(link))
	if err := h.SetLocal("swan0", first); err == nil {
		t.Error("a prefix without an interface")
	}
}
