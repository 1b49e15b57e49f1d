package planetest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// The networks behind the two sides.
var (
	netA  = netip.MustParsePrefix("10.91.1.0/24")
	netB  = netip.MustParsePrefix("10.91.2.0/24")
	netA6 = netip.MustParsePrefix("fd91:1::/64")
	netB6 = netip.MustParsePrefix("fd91:2::/64")

	hostA, hostB   = netip.MustParseAddr("10.91.1.1"), netip.MustParseAddr("10.91.2.1")
	hostA6, hostB6 = netip.MustParseAddr("fd91:1::1"), netip.MustParseAddr("fd91:2::1")
)

const (
	tunnel = "planetest"
	child  = "net"
)

type harness struct {
	*testing.T
	*Pair
	lacks   Lack
	suite   suite.ESPSuite
	packets uint32
}

func newHarness(t *testing.T, p *Pair) *harness {
	t.Helper()
	chosen, _, err := suite.ChooseESP(suite.OfferESP(suite.DefaultESP(), []byte{0, 0, 1, 0}), suite.DefaultESP())
	if err != nil {
		t.Fatalf("choose the default ESP suite: %v", err)
	}
	return &harness{T: t, Pair: p, suite: chosen}
}

// key returns key material that differs by n.
func (h *harness) key(n byte) []byte {
	return bytes.Repeat([]byte{n}, h.suite.KeyLen())
}

// pairOfSAs are the four SAs of one Child SA between the two sides.
type pairOfSAs struct {
	inA, outA, inB, outB dataplane.SA
}

// newSAs allocates SPIs and describes a Child SA whose keys depend on n.
func (h *harness) newSAs(n byte) pairOfSAs {
	h.Helper()
	spiA, errA := h.A.Plane.AllocateSPI()
	spiB, errB := h.B.Plane.AllocateSPI()
	if err := errors.Join(errA, errB); err != nil {
		h.Fatalf("AllocateSPI: %v", err)
	}
	toA, toB := h.key(2*n), h.key(2*n+1)
	tsA, tsB := selectors(netA, netA6), selectors(netB, netB6)
	base := dataplane.SA{Tunnel: tunnel, Child: child, Suite: h.suite, ReplayWindow: 128}
	a, b := base, base
	a.Local, a.Remote, a.LocalTS, a.RemoteTS = h.A.Outer, h.B.Outer, tsA, tsB
	b.Local, b.Remote, b.LocalTS, b.RemoteTS = h.B.Outer, h.A.Outer, tsB, tsA
	s := pairOfSAs{inA: a, outA: a, inB: b, outB: b}
	set := func(sa *dataplane.SA, d dataplane.Direction, spi, peer uint32, key []byte) {
		sa.Direction, sa.SPI, sa.PeerSPI, sa.Key = d, spi, peer, bytes.Clone(key)
	}
	set(&s.inA, dataplane.Inbound, spiA, spiB, toA)
	set(&s.outA, dataplane.Outbound, spiB, spiA, toB)
	set(&s.inB, dataplane.Inbound, spiB, spiA, toB)
	set(&s.outB, dataplane.Outbound, spiA, spiB, toA)
	return s
}

func selectors(prefixes ...netip.Prefix) []ts.Selector {
	var out []ts.Selector
	for _, p := range prefixes {
		out = append(out, ts.FromPrefix(p))
	}
	return out
}

// policies are those of the two sides.
func policyA() dataplane.SetPolicy {
	return dataplane.SetPolicy{Policy: dataplane.Policy{
		Tunnel: tunnel, Child: child,
		LocalTS: selectors(netA, netA6), RemoteTS: selectors(netB, netB6),
	}}
}

func policyB() dataplane.SetPolicy {
	return dataplane.SetPolicy{Policy: dataplane.Policy{
		Tunnel: tunnel, Child: child,
		LocalTS: selectors(netB, netB6), RemoteTS: selectors(netA, netA6),
	}}
}

// apply wants every operation to succeed.
func (h *harness) apply(s Side, ops ...dataplane.Op) {
	h.Helper()
	results := s.Plane.Apply(ops)
	if len(results) != len(ops) {
		h.Fatalf("Apply of %d operations returned %d results", len(ops), len(results))
	}
	for i, err := range results {
		if err != nil {
			h.Fatalf("Apply of %T: %v", ops[i], err)
		}
	}
}

// up installs everything on both sides, inbound SAs first.
func (h *harness) up(n byte) pairOfSAs {
	h.Helper()
	s := h.newSAs(n)
	h.apply(h.A, policyA(), dataplane.InstallSA{SA: s.inA})
	h.apply(h.B, policyB(), dataplane.InstallSA{SA: s.inB}, dataplane.InstallSA{SA: s.outB})
	h.apply(h.A, dataplane.InstallSA{SA: s.outA})
	return s
}

func remove(sa dataplane.SA) dataplane.Op {
	return dataplane.RemoveSA{Tunnel: sa.Tunnel, SPI: sa.SPI, Direction: sa.Direction}
}

// marker begins the payload of every packet of the suite.
const marker = "planetest "

// packet makes a new UDP packet.
func (h *harness) packet(src, dst netip.Addr) []byte {
	h.packets++
	body := fmt.Appendf(nil, "%s%d", marker, h.packets)
	udp := binary.BigEndian.AppendUint16(nil, 1234)
	udp = binary.BigEndian.AppendUint16(udp, 4321)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(body)))
	udp = append(udp, 0, 0)
	udp = append(udp, body...)
	binary.BigEndian.PutUint16(udp[6:], udpChecksum(src, dst, udp))
	if src.Is4() {
		return append(ipv4Header(src, dst, len(udp)), udp...)
	}
	return append(ipv6Header(src, dst, len(udp)), udp...)
}

const protocolUDP = 17

func ipv4Header(src, dst netip.Addr, payload int) []byte {
	b := make([]byte, 20)
	b[0] = 0x45
	binary.BigEndian.PutUint16(b[2:], uint16(20+payload))
	b[6] = 0x40 // do not fragment
	b[8], b[9] = 64, protocolUDP
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^fold(sum(0, b)))
	return b
}

func ipv6Header(src, dst netip.Addr, payload int) []byte {
	b := make([]byte, 40)
	b[0] = 0x60
	binary.BigEndian.PutUint16(b[4:], uint16(payload))
	b[6], b[7] = protocolUDP, 64
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return b
}

func udpChecksum(src, dst netip.Addr, udp []byte) uint16 {
	s := sum(sum(0, src.AsSlice()), dst.AsSlice())
	s = sum(s+protocolUDP+uint32(len(udp)), udp)
	if c := ^fold(s); c != 0 {
		return c
	}
	return 0xffff
}

func sum(s uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// payload returns what of a packet must arrive unchanged: a host that forwards
// may lower the hop limit, so headers are left out.
func payload(packet []byte) ([]byte, bool) {
	i := bytes.Index(packet, []byte(marker))
	if i < 0 {
		return nil, false
	}
	return packet[i:], true
}

// passes sends a packet from a side and wants it to be the next that the other
// side receives, so that whatever was sent before has been dropped.
func (h *harness) passes(from, to Side, packet []byte) {
	h.Helper()
	if err := from.Send(packet); err != nil {
		h.Fatalf("send: %v", err)
	}
	h.arrives(to, packet)
}

func (h *harness) arrives(at Side, packet []byte) {
	h.Helper()
	want, _ := payload(packet)
	if got := h.receive(at); !bytes.Equal(got, want) {
		h.Fatalf("received %q, want %q", got, want)
	}
}

// receive returns what must arrive unchanged of the next packet of the suite.
func (h *harness) receive(at Side) []byte {
	h.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		select {
		case got := <-at.Received:
			if body, ours := payload(got); ours {
				return body
			}
		case <-timeout.C:
			h.Fatal("no packet arrived")
		}
	}
}

func (h *harness) toB() []byte { return h.packet(hostA, hostB) }
func (h *harness) toA() []byte { return h.packet(hostB, hostA) }

// event waits for an event of a kind, passing over others.
func (h *harness) event(s Side, kind dataplane.EventKind) dataplane.Event {
	h.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		select {
		case ev, ok := <-s.Plane.Events():
			if !ok {
				h.Fatalf("events closed, want %s", kind)
			}
			if ev.Kind == kind {
				return ev
			}
		case <-timeout.C:
			h.Fatalf("no %s event", kind)
		}
	}
}

// counters returns those of one SA.
func (h *harness) counters(s Side, sa dataplane.SA) dataplane.Counters {
	h.Helper()
	for _, c := range s.Plane.Counters() {
		if c.Tunnel == sa.Tunnel && c.SPI == sa.SPI && c.Direction == sa.Direction {
			return c
		}
	}
	h.Fatalf("no counters for the %s SA %08x", sa.Direction, sa.SPI)
	return dataplane.Counters{}
}

// eventually waits until the counters of an SA are as wanted.
func (h *harness) eventually(s Side, sa dataplane.SA, what string, ok func(dataplane.Counters) bool) {
	h.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		c := h.counters(s, sa)
		if ok(c) {
			return
		}
		select {
		case <-poll.C:
		case <-deadline.C:
			h.Fatalf("%s: counters stay %+v", what, c)
		}
	}
}
