package lab_test

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/swanherd/swanherd/deployments/lab"
)

// TestEdgesShareTraffic runs two agents that each have two workers: they make two Child
// SAs for the same selectors (RFC 9611), and the connections between the LANs spread
// over both, in both directions.
func TestEdgesShareTraffic(t *testing.T) {
	lab.Require(t, "ip")
	p := &edgePair{interop: newInterop(t, buildAgent(t), "psk", "ours"), options: []string{"--workers", "2"}}
	p.edges = [2]*lab.Namespace{p.ours, p.theirs}
	p.writeCredentials()
	p.start(0)
	p.start(1)
	p.awaitPing("the tunnel", p.agents[0], p.agents[1])
	two := func(least int) func(in, out []int) bool {
		return func(in, out []int) bool {
			return len(in) == 2 && slices.Min(in) >= least && slices.Min(out) >= least
		}
	}
	for i := range p.edges {
		p.awaitCounts(i, "two Child SAs", two(0))
	}
	p.talk(64)
	for i := range p.edges {
		p.awaitCounts(i, "packets on both Child SAs", two(1))
	}
}

// talk has many pairs of ports exchange a datagram each way.
func (p *edgePair) talk(ports int) {
	p.t.Helper()
	listen := func(ns *lab.Namespace, host netip.Addr) (c *net.UDPConn) {
		p.must(ns.Do(func() (err error) {
			c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(host, 0)))
			return err
		}))
		return c
	}
	server := listen(p.theirsLAN, p.theirsHost)
	defer server.Close()
	go func() {
		b := make([]byte, 100)
		for {
			n, from, err := server.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			server.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	for range ports {
		c := listen(p.oursLAN, p.oursHost)
		_, err := c.WriteToUDPAddrPort([]byte("hello"), server.LocalAddr().(*net.UDPAddr).AddrPort())
		p.must(err)
		if deadline, ok := p.ctx.Deadline(); ok {
			c.SetDeadline(deadline)
		}
		_, _, err = c.ReadFromUDPAddrPort(make([]byte, 100))
		p.must(err)
		c.Close()
	}
}

// awaitCounts waits until the packets that an edge has counted on its Child SAs, in and
// out, are as they should.
func (p *edgePair) awaitCounts(i int, what string, ok func(in, out []int) bool) {
	p.t.Helper()
	for p.ctx.Err() == nil {
		var in, out []int
		for _, tunnel := range p.tunnels(i) {
			for _, c := range tunnel.ChildSAs {
				in, out = append(in, c.Counters.PacketsIn), append(out, c.Counters.PacketsOut)
			}
		}
		if ok(in, out) {
			return
		}
	}
	p.t.Fatalf("edge %d: waited in vain for %s:\n%s", i, what, p.status(i, "table"))
}
