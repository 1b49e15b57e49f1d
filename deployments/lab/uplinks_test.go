package lab_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
)

// TestUplinks runs an agent with two uplinks, whose providers drop what has the address of the
// other one, and whose own filter of reverse paths is strict. Three tunnels to one peer, one
// of them over IPv6, go by their own uplinks at once; when the address of one changes its
// tunnel moves, and when it loses its carrier its tunnels are known to be down, while the
// others lose nothing.
func TestUplinks(t *testing.T) {
	lab.Require(t, "ip", "nft")
	t.Parallel()
	testUplinks(t)
}

// TestUplinksOnKernel does so with the kernel's data plane, in a virtual machine.
func TestUplinksOnKernel(t *testing.T) {
	if !inGuest() {
		runInGuestWith(t, func() []string { return []string{buildAgent(t)} }, lab.KernelDir, lab.TreeStrongSwan)
		return
	}
	t.Run("psk", func(t *testing.T) { testUplinks(t, "--data-plane", "kernel", "--tcp-port", "0") })
}

func testUplinks(t *testing.T, options ...string) {
	m := newMultihomed(t, options...)
	m.start(1)
	m.start(0)
	for k := range m.tunnels {
		m.awaitUp(k)
	}
	m.eachByItsUplink()
	m.addressChanges()
	m.carrierGoes()
	m.agentGoes()
	for i := range m.isps {
		if n := m.counted(i, "foreign"); n != 0 {
			t.Errorf("provider %d dropped %d packets with the address of the other one", i+1, n)
		}
	}
}

// multihomed is an edge with two uplinks, a provider behind each, and a peer behind both.
type multihomed struct {
	t       *testing.T
	ctx     context.Context
	dir     string
	agent   string
	options []string

	edge, peer, core *lab.Namespace
	lans             [2]*lab.Namespace // behind the edge and behind the peer
	isps             [2]*lab.Namespace
	agents           [2]*lab.Program
	tunnels          []uplinkTunnel
}

// uplinkTunnel is one tunnel, between 10.1.K.0/24 and 10.2.K.0/24.
type uplinkTunnel struct {
	name          string
	uplink        int
	local, remote string // outer addresses
}

var ispNets = [2]struct{ net4, gateway4, edge4, net6, gateway6, edge6 string }{
	{"192.0.2.0/24", "192.0.2.1", "192.0.2.2", "2001:db8:a::/64", "2001:db8:a::1", "2001:db8:a::2"},
	{"198.51.100.0/24", "198.51.100.1", "198.51.100.2", "2001:db8:b::/64", "2001:db8:b::1", "2001:db8:b::2"},
}

const (
	peer4, peer6 = "203.0.113.10", "2001:db8:c::10"
	leased       = "198.51.100.77" // that the second uplink gets later
)

func newMultihomed(t *testing.T, options ...string) *multihomed {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	m := &multihomed{t: t, ctx: ctx, dir: t.TempDir(), agent: buildAgent(t), options: options}
	m.tunnels = []uplinkTunnel{
		{"a--b.wan1", 0, ispNets[0].edge4, peer4},
		{"a--b.wan2", 1, ispNets[1].edge4, peer4},
		{"a--b.wan2six", 1, ispNets[1].edge6, peer6},
	}
	n := lab.New()
	t.Cleanup(func() { n.Close() })
	for name, at := range map[string]**lab.Namespace{
		"edge": &m.edge, "peer": &m.peer, "core": &m.core, "isp1": &m.isps[0], "isp2": &m.isps[1], "edge-lan": &m.lans[0], "peer-lan": &m.lans[1],
	} {
		ns, err := n.Add(name)
		must(t, err)
		*at = ns
	}
	all4, all6 := netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	for i, isp := range m.isps {
		p := ispNets[i]
		must(t,
			n.Link(lab.End{Host: m.edge, Interface: fmt.Sprintf("eth%d", i), Addresses: prefixes(p.edge4+"/24", p.edge6+"/64")},
				lab.End{Host: isp, Interface: "customer", Addresses: prefixes(p.gateway4+"/24", p.gateway6+"/64")}),
			n.Link(lab.End{Host: isp, Interface: "up", Addresses: prefixes(fmt.Sprintf("198.18.%d.1/30", i), fmt.Sprintf("2001:db8:f%d::1/64", i))},
				lab.End{Host: m.core, Interface: fmt.Sprintf("isp%d", i), Addresses: prefixes(fmt.Sprintf("198.18.%d.2/30", i), fmt.Sprintf("2001:db8:f%d::2/64", i))}),
			isp.Route(all4, addr(fmt.Sprintf("198.18.%d.2", i))), isp.Route(all6, addr(fmt.Sprintf("2001:db8:f%d::2", i))),
			m.core.Route(prefix(p.net4), addr(fmt.Sprintf("198.18.%d.1", i))), m.core.Route(prefix(p.net6), addr(fmt.Sprintf("2001:db8:f%d::1", i))))
		m.filter(i)
		m.edgeDo("ip", "route", "add", "default", "via", p.gateway4, "metric", strconv.Itoa(100*(i+1)))
		m.edgeDo("ip", "-6", "route", "add", "default", "via", p.gateway6, "dev", fmt.Sprintf("eth%d", i), "metric", strconv.Itoa(1024*(i+1)))
		must(t, m.edge.Do(func() error {
			return os.WriteFile(fmt.Sprintf("/proc/sys/net/ipv4/conf/eth%d/rp_filter", i), []byte("1"), 0o644)
		}))
	}
	must(t, n.Link(lab.End{Host: m.peer, Interface: "eth0", Addresses: prefixes(peer4+"/24", peer6+"/64")},
		lab.End{Host: m.core, Interface: "peer", Addresses: prefixes("203.0.113.1/24", "2001:db8:c::1/64")}),
		m.peer.Route(all4, addr("203.0.113.1")), m.peer.Route(all6, addr("2001:db8:c::1")))
	for i, gateway := range []*lab.Namespace{m.edge, m.peer} {
		var inside, hosts []string
		for k := range m.tunnels {
			inside, hosts = append(inside, fmt.Sprintf("10.%d.%d.1/24", i+1, k)), append(hosts, fmt.Sprintf("10.%d.%d.2/24", i+1, k))
		}
		must(t, n.Link(lab.End{Host: gateway, Interface: "lan0", Addresses: prefixes(inside...)}, lab.End{Host: m.lans[i], Interface: "eth0", Addresses: prefixes(hosts...)}),
			m.lans[i].Route(all4, addr(fmt.Sprintf("10.%d.0.1", i+1))))
	}
	must(t, os.WriteFile(filepath.Join(m.dir, "psk"), []byte(psk+"\n"), 0o600))
	return m
}

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

// filter has a provider drop, and count, what does not have an address of its own.
func (m *multihomed) filter(i int) {
	m.t.Helper()
	p := ispNets[i]
	m.do(m.isps[i], "nft", fmt.Sprintf(`table inet isp {
		counter own {}
		counter foreign {}
		chain in {
			type filter hook prerouting priority -200;
			iifname != "customer" accept;
			ip saddr %s counter name own accept;
			ip6 saddr %s counter name own accept;
			ip6 saddr { ::, fe80::/10 } accept;
			counter name foreign drop;
		}
	}`, p.net4, p.net6))
}

func (m *multihomed) do(ns *lab.Namespace, argv ...string) string {
	m.t.Helper()
	out, err := ns.Run(m.ctx, argv...)
	if err != nil {
		m.t.Fatalf("%v: %v: %s", argv, err, out)
	}
	return out
}

func (m *multihomed) edgeDo(argv ...string) { m.t.Helper(); m.do(m.edge, argv...) }

var packetsPattern = regexp.MustCompile(`packets (\d+)`)

// counted is how many packets from the edge a provider has counted.
func (m *multihomed) counted(isp int, counter string) int {
	m.t.Helper()
	out := m.do(m.isps[isp], "nft", "list", "counter", "inet", "isp", counter)
	n, err := strconv.Atoi(packetsPattern.FindStringSubmatch(out)[1])
	must(m.t, err)
	return n
}

func (m *multihomed) stateDir(i int) string { return filepath.Join(m.dir, fmt.Sprintf("state%d", i)) }

// start runs the agent of the edge, or of the peer. The edge finds its uplinks by itself.
func (m *multihomed) start(i int) {
	m.t.Helper()
	file := filepath.Join(m.dir, fmt.Sprintf("edge%d.yaml", i))
	must(m.t, os.WriteFile(file, []byte(m.intent(i)), 0o600))
	m.run(i, append([]string{"--intent", file}, m.options...)...)
}

func (m *multihomed) run(i int, options ...string) {
	m.t.Helper()
	argv := append([]string{m.agent, "run", "--state-dir", m.stateDir(i)}, options...)
	running, err := []*lab.Namespace{m.edge, m.peer}[i].Start(nil, nil, argv...)
	must(m.t, err)
	m.agents[i] = running
	m.t.Cleanup(func() {
		if err := running.Stop(10 * time.Second); err != nil && !m.t.Failed() {
			m.t.Logf("stop agent %d: %v", i, err)
		}
		if m.t.Failed() {
			m.t.Logf("agent %d:\n%s", i, running.Output())
		}
	})
}

func (m *multihomed) intent(i int) string {
	names := [2]string{"edge.example", "peer.example"}
	var local []string
	text := ""
	for k, tunnel := range m.tunnels {
		here, there := fmt.Sprintf("10.%d.%d.0/24", i+1, k), fmt.Sprintf("10.%d.%d.0/24", 2-i, k)
		local = append(local, here)
		role, remote, uplink := "INITIATOR", tunnel.remote, fmt.Sprintf("wan%d", tunnel.uplink+1)
		if i == 1 {
			role, remote, uplink = "RESPONDER", tunnel.local, "wan1"
		}
		text += fmt.Sprintf(`  - name: %s
    role: TUNNEL_ROLE_%s
    uplink: %s
    remoteEndpoints: [{address: '%s', port: 4500}]
    authentication: {localId: %s, remoteId: %s, psk: {file: psk}}
    children: [{name: net, localTs: [%s], remoteTs: [%s]}]
`, tunnel.name, role, uplink, remote, names[i], names[1-i], here, there)
	}
	return "settings:\n  localPrefixes: [" + strings.Join(local, ", ") + "]\ntunnels:\n" + text
}

// uplinkReport is what an agent says of a tunnel.
type uplinkReport struct {
	Tunnel    string
	State     string
	Local     string                         `json:"local_endpoint"`
	Remote    string                         `json:"remote_endpoint"`
	LastError struct{ Code, Message string } `json:"last_error"`
	ChildSAs  []struct {
		In  string `json:"spi_in"`
		Out string `json:"spi_out"`
	} `json:"child_sas"`
}

func (r uplinkReport) up() bool { return r.State == "TUNNEL_STATE_ESTABLISHED" }

// report is what the edge says of a tunnel, or the peer.
func (m *multihomed) report(i, k int) (out uplinkReport) {
	m.t.Helper()
	var s struct{ Tunnels []uplinkReport }
	text, err := exec.CommandContext(m.ctx, m.agent, "status", "--state-dir", m.stateDir(i), "-o", "json").Output()
	if err != nil {
		return out
	}
	must(m.t, json.Unmarshal(text, &s))
	at := slices.IndexFunc(s.Tunnels, func(r uplinkReport) bool { return r.Tunnel == m.tunnels[k].name })
	if at < 0 {
		return out
	}
	return s.Tunnels[at]
}

// await waits until something is, and returns how long it took.
func (m *multihomed) await(what string, is func() bool) time.Duration {
	m.t.Helper()
	began := time.Now()
	for !is() {
		if m.ctx.Err() != nil || time.Since(began) > 40*time.Second {
			m.t.Fatalf("waited in vain for %s: %+v, %+v and %+v; the peer says %+v", what, m.report(0, 0), m.report(0, 1), m.report(0, 2), m.report(1, 1))
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(began)
}

func (m *multihomed) hosts(k int) (here, there netip.Addr) {
	return netip.AddrFrom4([4]byte{10, 1, byte(k), 2}), netip.AddrFrom4([4]byte{10, 2, byte(k), 2})
}

func (m *multihomed) passes(k int) bool {
	here, there := m.hosts(k)
	r, _ := m.lans[0].Ping(m.ctx, here, there, 1)
	return r.Received > 0
}

func (m *multihomed) awaitUp(k int) time.Duration {
	m.t.Helper()
	return m.await("tunnel "+m.tunnels[k].name, func() bool { return m.report(0, k).up() && m.passes(k) })
}

func (m *multihomed) flow(k int) *flow {
	m.t.Helper()
	here, there := m.hosts(k)
	f, err := startFlow([2]flowHost{{m.lans[0], here, there}, {m.lans[1], there, here}})
	must(m.t, err)
	return f
}

// whole wants that a flow that has nothing to do with what happened lost nothing.
func (m *multihomed) whole(f *flow, when string) {
	m.t.Helper()
	if there, back := f.end(2 * time.Second); there.lost > 0 || back.lost > 0 {
		m.t.Errorf("%s the other uplink's tunnel lost packets: there %v, back %v", when, there, back)
	}
}

// eachByItsUplink passes traffic of one tunnel after the other: the provider of its uplink
// counts it, and the other one does not.
func (m *multihomed) eachByItsUplink() {
	m.t.Helper()
	for k, tunnel := range m.tunnels {
		if at, err := netip.ParseAddrPort(m.report(0, k).Local); err != nil || at.Addr().String() != tunnel.local {
			m.t.Errorf("tunnel %s leaves from %v (%v), want %s", tunnel.name, at, err, tunnel.local)
		}
		own, other := m.counted(tunnel.uplink, "own"), m.counted(1-tunnel.uplink, "own")
		f := m.flow(k)
		f.ends[1].awaitMore(100)
		there, _ := f.end(2 * time.Second)
		own, other = m.counted(tunnel.uplink, "own")-own, m.counted(1-tunnel.uplink, "own")-other
		m.t.Logf("%s: of %d packets its uplink carried %d, the other one %d", tunnel.name, there.sent, own, other)
		if there.lost > 0 || own < there.sent || other > there.sent/4 {
			m.t.Errorf("%s: %v, its uplink carried %d packets and the other one %d", tunnel.name, there, own, other)
		}
	}
}

// renumber gives the second uplink another address as by DHCP: the old one goes, then comes
// the new one, and the default route.
func (m *multihomed) renumber() {
	m.t.Helper()
	m.edgeDo("ip", "addr", "del", ispNets[1].edge4+"/24", "dev", "eth1")
	m.edgeDo("ip", "addr", "add", leased+"/24", "dev", "eth1")
	m.edgeDo("ip", "route", "replace", "default", "via", ispNets[1].gateway4, "metric", "200")
}

// addressChanges renumbers the second uplink under traffic. Its tunnel moves to the new
// address or, if that comes late, to the uplink's address of IPv6, and not to the other uplink.
func (m *multihomed) addressChanges() {
	m.t.Helper()
	before := m.report(0, 1)
	first, second, six := m.flow(0), m.flow(1), m.flow(2)
	for _, f := range []*flow{first, second, six} {
		f.ends[1].awaitMore(flowLeast)
	}
	m.renumber()
	var at string
	took := m.await("the tunnel to move", func() bool {
		at = m.report(0, 1).Local
		a, err := netip.ParseAddrPort(at)
		return err == nil && (a.Addr().String() == leased || a.Addr().String() == ispNets[1].edge6) && m.report(1, 1).Remote == at
	})
	there, back := second.end(2 * time.Second)
	m.t.Logf("another address: at %s for both ends after %v; there %v, back %v", at, took.Round(time.Millisecond), there, back)
	if limit := int(3 * time.Second / flowInterval); there.lost > limit || back.lost > limit {
		m.t.Errorf("at a change of the address: there %v, back %v, at most %d may be lost", there, back, limit)
	}
	m.whole(first, "at a change of the address")
	m.whole(six, "at a change of the address")
	if after := m.report(0, 1); !slices.Equal(after.ChildSAs, before.ChildSAs) {
		m.t.Errorf("the move cost Child SAs: %+v, before %+v", after, before)
	}
}

// carrierGoes takes the second uplink's cable off and puts it back. What the tunnels are told
// to fail of says that it was not their requests that found out.
func (m *multihomed) carrierGoes() {
	m.t.Helper()
	first := m.flow(0)
	first.ends[1].awaitMore(flowLeast)
	must(m.t, m.isps[1].Down("customer"))
	stranded := func(k int) bool {
		r := m.report(0, k)
		return r.State == "TUNNEL_STATE_FAILED" && r.LastError.Code == "UPLINK_DOWN" && strings.Contains(r.LastError.Message, "no carrier")
	}
	took := m.await("word that the uplink is down", func() bool { return stranded(1) && stranded(2) })
	m.t.Logf("no carrier: known of both tunnels after %v", took.Round(time.Millisecond))
	if r := m.report(0, 0); !r.up() {
		m.t.Errorf("the tunnel of the other uplink: %+v", r)
	}
	must(m.t, m.isps[1].Up("customer"), m.isps[1].Address("customer", netip.MustParsePrefix(ispNets[1].gateway6+"/64")))
	took = m.awaitUp(1)
	m.t.Logf("carrier again: the tunnel carries traffic after %v, that over IPv6 after %v", took.Round(time.Millisecond), (took + m.awaitUp(2)).Round(time.Millisecond))
	m.whole(first, "without carrier")
}

// agentGoes kills the agent and runs another one, which goes on with the same rules, and stops
// that, which leaves none.
func (m *multihomed) agentGoes() {
	m.t.Helper()
	rules := func() string { return m.do(m.edge, "ip", "rule") + m.do(m.edge, "ip", "-6", "rule") }
	before := rules()
	m.agents[0].Kill()
	<-m.agents[0].Done()
	if left := rules(); left != before || !strings.Contains(left, leased) {
		m.t.Errorf("rules after the agent was killed:\n%sbefore:\n%s", left, before)
	}
	m.start(0)
	m.awaitUp(1)
	if after := rules(); after != before {
		m.t.Errorf("rules of the next agent:\n%sbefore:\n%s", after, before)
	}
	must(m.t, m.agents[0].Stop(10*time.Second))
	if left := rules(); strings.Contains(left, leased) || strings.Contains(left, ispNets[0].edge4) || strings.Contains(left, ispNets[1].edge6) {
		m.t.Errorf("rules after the stop:\n%s", left)
	}
}
