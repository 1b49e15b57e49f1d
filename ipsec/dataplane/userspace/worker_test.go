package userspace

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

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

// TestReceiversBySPI: each of several sockets gets the SPIs of one remainder, the
// first one also what is no ESP; the lanes get nothing.
func TestReceiversBySPI(t *testing.T) {
	const workers = 3
	s, err := openSocket(netip.MustParseAddrPort("127.0.0.1:0"), 0, workers)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if !s.shared {
		t.Skip("SKIPPED: this kernel has no sockets that share a port and a filter")
	}
	receivers := append([]*lane{&s.lane}, s.further...)
	if len(receivers) != workers || len(s.lanes) != workers {
		t.Fatalf("%d receive, with %d sets of lanes, want %d", len(receivers), len(s.lanes), workers)
	}
	b := make([]byte, 100)
	for _, tt := range []struct {
		packet []byte
		want   int
	}{
		{[]byte{0xff}, 0},
		{[]byte{0, 0, 0, 0, 1, 2, 3, 4}, 0}, // IKE
		{[]byte{0, 0, 1, 0, 0, 0, 0, 1}, 256 % workers},
		{[]byte{0, 0, 1, 1, 0, 0, 0, 1}, 257 % workers},
		{[]byte{0, 0, 1, 2, 0, 0, 0, 1}, 258 % workers},
		{[]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1}, 0xffffffff % workers},
		{[]byte{0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 1}, 0xfffffffe % workers},
	} {
		for range 5 { // from other ports
			c, err := net.Dial("udp", s.local.String())
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Write(tt.packet)
			c.Close()
			if err != nil {
				t.Fatal(err)
			}
			err = eventually(func() bool {
				n, _, err := unix.Recvfrom(receivers[tt.want].fd, b, 0)
				return err == nil && string(b[:n]) == string(tt.packet)
			})
			if err != nil {
				t.Errorf("%x did not come to receiver %d", tt.packet, tt.want)
			}
		}
	}
}

// TestSPIsTakeTurns: SPIs that are allocated one after the other belong to different
// receivers, and a successor's to that of its predecessor.
func TestSPIsTakeTurns(t *testing.T) {
	needNamespaces(t)
	const workers = 3
	p := newNamespace(t).plane(t, Config{Workers: workers})
	if len(p.socket.further) != workers-1 {
		t.Skip("SKIPPED: this kernel has no sockets that share a port and a filter")
	}
	last := uint32(workers)
	for range 20 {
		spi, err := p.AllocateSPI(0)
		if err != nil {
			t.Fatal(err)
		}
		if last < workers && spi%workers != (last+1)%workers {
			t.Errorf("SPI %08x of receiver %d after one of receiver %d", spi, spi%workers, last)
		}
		last = spi % workers
		next, err := p.AllocateSPI(spi)
		if err != nil {
			t.Fatal(err)
		}
		if next == spi || next%workers != last {
			t.Errorf("SPI %08x of receiver %d takes over from one of receiver %d", next, next%workers, last)
		}
	}
}
