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
	p := newEdgePair(t, "psk", "--workers", "2")
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
	p.must(p.talk(64))
	for i := range p.edges {
		p.awaitCounts(i, "packets on both Child SAs", two(1))
	}
}

// TestEdgesShareOnKernel does so with the data plane of the kernel, in a virtual machine
// with two CPUs: each has a Child SA of its own, and there is one that either may use.
func TestEdgesShareOnKernel(t *testing.T) {
	if !inGuest() {
		runInGuestWith(t, func() []string { return []string{buildAgent(t)} }, lab.KernelNewDir, lab.TreeStrongSwan)
		return
	}
	t.Run("psk", testEdgesShareOnKernel)
}

func testEdgesShareOnKernel(t *testing.T) {
	p := newEdgePair(t, "psk", "--data-plane", "kernel", "--tcp-port", "0")
	p.start(0)
	p.start(1)
	p.awaitPing("the tunnel", p.agents[0], p.agents[1])
	for i := range p.edges {
		p.awaitCounts(i, "three Child SAs", func(in, _ []int) bool { return len(in) == 3 })
	}
	const each = 64
	for cpu := range 2 {
		p.must(onCPU(cpu, func() error { return p.talk(each) }))
	}
	busy := func(counts []int) bool {
		slices.Sort(counts)
		return len(counts) == 3 && counts[1] >= each
	}
	p.awaitCounts(0, "packets out on the Child SAs of both CPUs", func(_, out []int) bool { return busy(out) })
	p.awaitCounts(1, "packets in on the Child SAs of both CPUs", func(in, _ []int) bool { return busy(in) })
}

// talk has many pairs of ports exchange a datagram each way.
func (p *edgePair) talk(ports int) error {
	listen := func(ns *lab.Namespace, host netip.Addr) (c *net.UDPConn, err error) {
		return c, ns.Do(func() (err error) {
			c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(host, 0)))
			return err
		})
	}
	server, err := listen(p.theirsLAN, p.theirsHost)
	if err != nil {
		return err
	}
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
	to := server.LocalAddr().(*net.UDPAddr).AddrPort()
	for range ports {
		c, err := listen(p.oursLAN, p.oursHost)
		if err != nil {
			return err
		}
		defer c.Close()
		if deadline, ok := p.ctx.Deadline(); ok {
			c.SetDeadline(deadline)
		}
		if _, err := c.WriteToUDPAddrPort([]byte("hello"), to); err != nil {
			return err
		}
		if _, _, err := c.ReadFromUDPAddrPort(make([]byte, 100)); err != nil {
			return err
		}
	}
	return nil
}

// awaitCounts waits until the packets that an edge has counted on its Child SAs, in and
// out, are as they should.
func (p *edgePair) awaitCounts(i int, what string, ok func(in, out []int) bool) {
	p.t.Helper()
	var in, out []int
	for p.ctx.Err() == nil {
		in, out = nil, nil
		for _, tunnel := range p.tunnels(i) {
			for _, c := range tunnel.ChildSAs {
				in, out = append(in, c.Counters.PacketsIn), append(out, c.Counters.PacketsOut)
			}
		}
		if ok(in, out) {
			return
		}
	}
	p.t.Fatalf("edge %d: waited in vain for %s; the last that it said was %d in, %d out", i, what, in, out)
}
