package planetest

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
	"github.com/swanherd/swanherd/ipsec/wire"
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
	lacks    Lack
	suite    suite.ESPSuite
	legible  bool // one of the suites hid nothing
	mode     dataplane.Mode
	tsA, tsB []ts.Selector // what is behind each side
	packets  uint32
}

func newHarness(t *testing.T, p *Pair) *harness {
	t.Helper()
	chosen, _, err := suite.ChooseESP(suite.OfferESP(suite.DefaultESP(), []byte{0, 0, 1, 0}), suite.DefaultESP())
	if err != nil {
		t.Fatalf("choose the default ESP suite: %v", err)
	}
	return &harness{T: t, Pair: p, suite: chosen, tsA: selectors(netA, netA6), tsB: selectors(netB, netB6)}
}

// choose has the SAs that are made from now on be of a suite.
func (h *harness) choose(text string) {
	h.Helper()
	p, err := suite.ParseESP(text)
	if err != nil {
		h.Fatal(err)
	}
	if h.suite, _, err = suite.ChooseESP([]wire.Proposal{p.Wire(1, []byte{0, 0, 1, 0})}, []suite.ESPProposal{p}); err != nil {
		h.Fatal(err)
	}
	h.legible = h.legible || h.suite.AH || h.suite.Encryption == wire.EncryptionNull || h.suite.Encryption == wire.EncryptionNullAESGMAC
}

// ends are the outer endpoints of the SAs.
func (h *harness) ends() (a, b netip.AddrPort) {
	if h.Native || h.suite.AH {
		return netip.AddrPortFrom(h.A.Outer.Addr(), 0), netip.AddrPortFrom(h.B.Outer.Addr(), 0)
	}
	return h.A.Outer, h.B.Outer
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
	spiA, errA := h.A.Plane.AllocateSPI(0)
	spiB, errB := h.B.Plane.AllocateSPI(0)
	if err := errors.Join(errA, errB); err != nil {
		h.Fatalf("AllocateSPI: %v", err)
	}
	toA, toB := h.key(2*n), h.key(2*n+1)
	endA, endB := h.ends()
	base := dataplane.SA{Tunnel: tunnel, Child: child, Suite: h.suite, Mode: h.mode, ReplayWindow: 128}
	a, b := base, base
	a.Local, a.Remote, a.LocalTS, a.RemoteTS = endA, endB, h.tsA, h.tsB
	b.Local, b.Remote, b.LocalTS, b.RemoteTS = endB, endA, h.tsB, h.tsA
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

func (h *harness) policyA() dataplane.SetPolicy { return h.policy(h.tsA, h.tsB) }
func (h *harness) policyB() dataplane.SetPolicy { return h.policy(h.tsB, h.tsA) }

func (h *harness) policy(local, remote []ts.Selector) dataplane.SetPolicy {
	return dataplane.SetPolicy{Policy: dataplane.Policy{Tunnel: tunnel, Child: child, Mode: h.mode, LocalTS: local, RemoteTS: remote}}
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
	h.apply(h.A, h.policyA(), dataplane.InstallSA{SA: s.inA})
	h.apply(h.B, h.policyB(), dataplane.InstallSA{SA: s.inB}, dataplane.InstallSA{SA: s.outB})
	h.apply(h.A, dataplane.InstallSA{SA: s.outA})
	return s
}

func remove(sa dataplane.SA) dataplane.Op {
	return dataplane.RemoveSA{Tunnel: sa.Tunnel, SPI: sa.SPI, Direction: sa.Direction}
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
	got := h.receiveWhole(at)
	if body, _ := payload(got); !bytes.Equal(body, want) {
		h.Fatalf("received %q, want %q", body, want)
	}
	if !keepsWay(packet, got) {
		h.Fatalf("received %x, want the headers of %x", got, packet)
	}
}

// receive returns what must arrive unchanged of the next packet of the suite.
func (h *harness) receive(at Side) []byte {
	h.Helper()
	body, _ := payload(h.receiveWhole(at))
	return body
}

// receiveWhole returns the next packet of the suite.
func (h *harness) receiveWhole(at Side) []byte {
	h.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		select {
		case got := <-at.Received:
			if _, ours := payload(got); ours {
				return got
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
	var c dataplane.Counters
	if !within(patience, func() bool {
		c = h.counters(s, sa)
		return ok(c)
	}) {
		h.Fatalf("%s: counters stay %+v", what, c)
	}
}

// sent waits until an outbound SA counts so many packets: one may be with the peer
// before it is counted.
func (h *harness) sent(s Side, sa dataplane.SA, packets uint64) {
	h.Helper()
	h.eventually(s, sa, fmt.Sprintf("%d packets sent", packets), func(c dataplane.Counters) bool { return c.Packets == packets })
}

// wait waits for a condition.
func (h *harness) wait(what string, ok func() bool) {
	h.Helper()
	if !within(patience, ok) {
		h.Fatalf("%s: not seen in time", what)
	}
}

// within reports whether a condition comes about in time.
func within(limit time.Duration, ok func() bool) bool {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for !ok() {
		select {
		case <-poll.C:
		case <-deadline.C:
			return false
		}
	}
	return true
}
