package userspace

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// TestWorkersKeepOrder: with many connections over several SAs, spread over several
// workers, the packets of each SA leave and arrive in the order of their sequence
// numbers, and none is lost.
func TestWorkersKeepOrder(t *testing.T) {
	const workers, tunnels, connections = 4, 3, 4
	nsA, nsB := joined(t)
	wire := nsB.tap(t, "wire")
	x := &tunnel{
		t: t, suite: gcm128,
		a: newGateway(t, nsA, outerA, Config{Workers: workers}, nil, nil),
		b: newGateway(t, nsB, outerB, Config{Workers: workers}, nil, nil),
	}
	var servers []netip.Addr
	for n := range tunnels {
		from, to := netip.AddrFrom4([4]byte{10, 1, byte(n), 1}), netip.AddrFrom4([4]byte{10, 2, byte(n), 1})
		x.host(n, from, to)
		servers = append(servers, to)
	}
	var running sync.WaitGroup
	errs := make(chan error, tunnels*connections)
	for _, server := range servers {
		for range connections {
			running.Go(func() { errs <- x.exchange("tcp4", server, 8<<20) })
		}
	}
	running.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	for _, g := range []*gateway{x.a, x.b} {
		for _, c := range g.Counters() {
			if c.Missing+c.ReplayDrops+c.AuthFailures > 0 {
				t.Errorf("%+v", c)
			}
		}
		if d := g.Drops(); d.UnknownSPI+d.Malformed+d.SendErrors > 0 {
			t.Errorf("%+v", d)
		}
	}
	last := map[uint32]uint32{}
	for len(wire.packets) > 0 {
		esp := espOf(<-wire.packets)
		if esp == nil {
			continue
		}
		spi, sequence := binary.BigEndian.Uint32(esp), binary.BigEndian.Uint32(esp[4:])
		if sequence <= last[spi] {
			t.Fatalf("SA %08x: %d after %d on the wire", spi, sequence, last[spi])
		}
		last[spi] = sequence
	}
	if len(last) != tunnels {
		t.Errorf("packets of %d SAs were seen, want %d", len(last), tunnels)
	}
}

// host gives x tunnel number n between two addresses.
func (x *tunnel) host(n int, from, to netip.Addr) {
	x.t.Helper()
	own := func(a netip.Addr) []ts.Selector { return []ts.Selector{ts.FromPrefix(netip.PrefixFrom(a, 32))} }
	for _, end := range []struct {
		here, there *gateway
		from, to    netip.Addr
		in, out     uint32
	}{{x.a, x.b, from, to, 0x1000, 0x2000}, {x.b, x.a, to, from, 0x2000, 0x1000}} {
		g := end.here
		g.ns.ip(fmt.Sprintf("addr add %s/32 dev %s", end.from, g.Interface()))
		g.ns.ip(fmt.Sprintf("route add %s dev %s src %s", end.to, g.Interface(), end.from))
		sa := dataplane.SA{
			SPI: end.in + uint32(n), Direction: dataplane.Inbound, Tunnel: fmt.Sprint(n), Child: "c", Local: g.outer, Remote: end.there.outer,
			Suite: x.suite, Key: make([]byte, x.suite.KeyLen()), LocalTS: own(end.from), RemoteTS: own(end.to),
		}
		out := sa
		out.SPI, out.Direction = end.out+uint32(n), dataplane.Outbound
		x.apply(g,
			dataplane.SetPolicy{Policy: dataplane.Policy{Tunnel: sa.Tunnel, Child: "c", LocalTS: sa.LocalTS, RemoteTS: sa.RemoteTS}},
			dataplane.InstallSA{SA: sa}, dataplane.InstallSA{SA: out})
	}
}

// TestFlowsSpreadOverQueues: of several workers, each writes flows to all its queues in
// about equal shares, by their ports or by their addresses.
func TestFlowsSpreadOverQueues(t *testing.T) {
	const flows = 64 * queuesOfIntake
	m := &merger{}
	for queue := range queuesOfIntake {
		m.queues = append(m.queues, queue)
	}
	for name, flowOf := range map[string]func(i int) flow{
		"hosts": func(i int) flow {
			return flow{src: addressOf(netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)})), dst: addressOf(siteA.Addr()), protocol: protoICMP}
		},
		"IPv6 networks": func(i int) flow {
			return flow{src: addressOf(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 0, byte(i >> 8), byte(i), 15: 1})), dst: addressOf(siteA6.Addr())}
		},
		"connections": func(i int) flow {
			return flow{src: addressOf(siteB.Addr()), dst: addressOf(siteA.Addr()), protocol: protoTCP, srcPort: 443, dstPort: uint16(32768 + i), hasPorts: true}
		},
	} {
		var of [queuesOfIntake]int
		for i := range flows {
			f := flowOf(i)
			of[m.queue(&f, f.hasPorts)]++
		}
		for queue, n := range of {
			if n < flows/queuesOfIntake/2 || n > flows/queuesOfIntake*2 {
				t.Errorf("%s: queue %d has %d of %d flows", name, queue, n, flows)
			}
		}
	}
}
