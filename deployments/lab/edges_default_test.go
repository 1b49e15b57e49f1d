package lab_test

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
)

// TestEdgesDefaultRoute has a tunnel be the way out of a site for everything, of both
// families. What comes from the site is never in clear on the wire, also with no SA and
// with no agent, and also where the host has a narrower route past the tunnel. What the
// edge itself sends from its uplink, as to its peer and its controller, takes the host's
// own way all the time.
func TestEdgesDefaultRoute(t *testing.T) {
	lab.Require(t, "ip", "nft")
	testEdgesDefaultRoute(t, "userspace")
}

// TestEdgesDefaultRouteOnKernel does so with the kernel's data plane.
func TestEdgesDefaultRouteOnKernel(t *testing.T) {
	if !inGuest() {
		runInGuestWith(t, func() []string { return []string{buildAgent(t)} }, lab.KernelDir, lab.TreeStrongSwan)
		return
	}
	t.Run("psk", func(t *testing.T) { testEdgesDefaultRoute(t, "kernel") })
}

// The Internet is a host behind the other edge, which the site's own edge would also
// reach past the tunnel.
var internet = []netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8:9::9")}

func testEdgesDefaultRoute(t *testing.T, plane string) {
	p := newEdgePair(t, "psk", "--data-plane", plane, "--tcp-port", "0")
	p.dual = true
	p.child = [2]string{
		`localTs: [10.1.0.0/24, "2001:db8:1::/64"], remoteTs: [0.0.0.0/0, "::/0"]`,
		`localTs: [0.0.0.0/0, "::/0"], remoteTs: [10.1.0.0/24, "2001:db8:1::/64"]`,
	}
	hosts6 := p.dualLANs()
	site, outside := []netip.Addr{p.oursHost, hosts6[0]}, p.openInternet()
	wire := p.meterClear()
	stop := p.sendFrom(site)
	wire.await() // so the test would see a leak
	stop()

	reached := func(when string, from *lab.Namespace, sources []netip.Addr) {
		t.Helper()
		for i, to := range internet {
			for {
				_, err := from.Ping(p.ctx, sources[i], to, 3)
				if err == nil {
					break
				}
				if p.ctx.Err() != nil {
					t.Fatalf("%s %s does not reach %s: %v", when, sources[i], to, err)
				}
			}
		}
	}
	p.start(0)
	p.start(1)
	p.established("at first")
	before := wire.clear()
	defer p.sendFrom(site)()
	reached("with a tunnel", p.oursLAN, site)
	reached("with a tunnel", p.ours, outside)

	p.must(p.agents[1].Stop(10 * time.Second))
	for strings.Contains(p.status(0, "table"), "established") && p.ctx.Err() == nil {
	}
	reached("without an SA", p.ours, outside)
	p.agents[0].Kill()
	<-p.agents[0].Done()
	reached("without an agent", p.ours, outside)
	p.start(0)
	p.start(1)
	p.established("after one end was killed")
	reached("after one end was killed", p.oursLAN, site)
	if now := wire.clear(); now != before {
		t.Errorf("of each family %v packets of the site were in clear on the wire", [2]int{now[0] - before[0], now[1] - before[1]})
	}

	p.must(p.agents[0].Stop(10 * time.Second))
	wire.await() // nothing is left that would hold them back
	if out, err := p.ours.Run(p.ctx, "ip", "rule"); err != nil || strings.Contains(out, "5358") {
		t.Errorf("rules after the stop: %v\n%s", err, out)
	}
}

// openInternet gives the hosts their ways, and returns our addresses on the outside.
func (p *edgePair) openInternet() (outside []netip.Addr) {
	p.t.Helper()
	for _, x := range []struct {
		host *lab.Namespace
		argv string
	}{
		{p.theirsLAN, "address add 203.0.113.9/32 dev eth0"},
		{p.theirsLAN, "address add 2001:db8:9::9/128 dev eth0 nodad"},
		{p.theirs, "route add 203.0.113.9 via 10.2.0.2"},
		{p.theirs, "route add 2001:db8:9::9 via 2001:db8:2::2"},
		{p.theirs, "address add 2001:db8:ffff::2/64 dev wan1 nodad"},
		{p.ours, "address add 2001:db8:ffff::1/64 dev wan1 nodad"},
		{p.ours, "route add default via 192.0.2.2"},
		{p.ours, "route add default via 2001:db8:ffff::2"},
		// As a stranger on the way out may give it by DHCP.
		{p.ours, "route add 203.0.113.0/25 via 192.0.2.2"},
	} {
		if out, err := x.host.Run(p.ctx, append([]string{"ip"}, strings.Fields(x.argv)...)...); err != nil {
			p.t.Fatalf("ip %s: %v: %s", x.argv, err, out)
		}
	}
	return []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:ffff::1")}
}

// sendFrom has the hosts of our site send to the Internet and elsewhere until the
// function that it returns is called.
func (p *edgePair) sendFrom(site []netip.Addr) (stop func()) {
	p.t.Helper()
	var all []net.Conn
	for i, to := range append([]netip.Addr{netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8:7::7")}, internet...) {
		p.must(p.oursLAN.Do(func() error {
			c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(site[i%2], 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
			if err == nil {
				all = append(all, c)
			}
			return err
		}))
	}
	done := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			for _, c := range all {
				_, _ = c.Write([]byte("of the site")) // routers may say that there is no way
			}
		}
	})
	return sync.OnceFunc(func() {
		close(done)
		sending.Wait()
		for _, c := range all {
			c.Close()
		}
	})
}

// clearMeter counts packets of our site that come over the wire in clear.
type clearMeter struct{ p *edgePair }

func (p *edgePair) meterClear() clearMeter {
	p.t.Helper()
	const count = `table inet leaks { chain in { type filter hook prerouting priority -500;
		iifname wan1 ip saddr 10.1.0.0/24 counter drop; iifname wan1 ip6 saddr 2001:db8:1::/64 counter drop; }; }`
	if out, err := p.theirs.Run(p.ctx, "nft", count); err != nil {
		p.t.Fatalf("nft: %v: %s", err, out)
	}
	return clearMeter{p}
}

var packetsCounted = regexp.MustCompile(`counter packets (\d+)`)

// clear is how many packets were counted of each family.
func (m clearMeter) clear() (n [2]int) {
	m.p.t.Helper()
	text, err := m.p.theirs.Run(m.p.ctx, "nft", "list", "table", "inet", "leaks")
	found := packetsCounted.FindAllStringSubmatch(text, -1)
	if err != nil || len(found) != len(n) {
		m.p.t.Fatalf("nft list: %v: %s", err, text)
	}
	for i, f := range found {
		fmt.Sscan(f[1], &n[i])
	}
	return n
}

// await waits until more packets of each family are in clear.
func (m clearMeter) await() {
	m.p.t.Helper()
	before := m.clear()
	for {
		n := m.clear()
		if n[0] > before[0] && n[1] > before[1] {
			return
		}
		if m.p.ctx.Err() != nil {
			m.p.t.Fatalf("%v packets are in clear where nothing is in their way", n)
		}
	}
}
