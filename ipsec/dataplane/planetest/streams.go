package planetest

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// streams stands for the TCP connections between the two sides, which a test
// needs none of.
type streams struct {
	mu       sync.Mutex
	receive  [2]dataplane.StreamReceive // of A and B
	last     []byte                     // the last packet
	passed   int
	broken   error          // what send returns instead
	reroutes netip.AddrPort // where packets seem to come from, if set
}

// joinStreams ties both planes to connections.
func (h *harness) joinStreams() *streams {
	h.Helper()
	s := &streams{}
	for i, side := range []Side{h.A, h.B} {
		plane, ok := side.Plane.(dataplane.StreamPlane)
		if !ok {
			h.Fatalf("the %s data plane carries no ESP in TCP", side.Plane.Name())
		}
		receive, err := plane.JoinStreams(func(local, remote netip.AddrPort, packet []byte) error {
			return s.send(1-i, local, remote, packet)
		})
		if err != nil {
			h.Fatalf("JoinStreams: %v", err)
		}
		s.receive[i] = receive
		if _, err := plane.JoinStreams(nil); err == nil {
			h.Error("joined twice")
		}
	}
	return s
}

func (s *streams) send(to int, local, remote netip.AddrPort, packet []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return s.broken
	}
	s.passed++
	s.last = bytes.Clone(packet)
	if s.reroutes.IsValid() {
		local = s.reroutes
	}
	packets := [][]byte{bytes.Clone(packet)}
	go s.receive[to](remote, local, packets) // as on a goroutine of the connection
	return nil
}

func (s *streams) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.passed
}

// overTCP puts the SAs into a connection that A opened.
func (h *harness) overTCP(s pairOfSAs) pairOfSAs {
	a, b := h.streamEnds()
	for _, sa := range []*dataplane.SA{&s.inA, &s.outA} {
		sa.TCP, sa.Local, sa.Remote = true, a, b
	}
	for _, sa := range []*dataplane.SA{&s.inB, &s.outB} {
		sa.TCP, sa.Local, sa.Remote = true, b, a
	}
	return s
}

func (h *harness) streamEnds() (a, b netip.AddrPort) {
	return netip.AddrPortFrom(h.A.Outer.Addr(), 40001), h.B.Outer
}

func (h *harness) install(s pairOfSAs) {
	h.Helper()
	h.apply(h.A, h.policyA(), dataplane.InstallSA{SA: s.inA}, dataplane.InstallSA{SA: s.outA})
	h.apply(h.B, h.policyB(), dataplane.InstallSA{SA: s.inB}, dataplane.InstallSA{SA: s.outB})
}

func testStreams(t *testing.T, h *harness) {
	st := h.joinStreams()
	s := h.overTCP(h.newSAs(1))
	h.install(s)
	for range 3 {
		h.passes(h.A, h.B, h.toB())
		h.passes(h.B, h.A, h.packet(hostB6, hostA6))
	}
	if n := st.count(); n != 6 {
		t.Errorf("%d packets went over TCP, want 6", n)
	}
	h.eventually(h.B, s.inB, "three packets", func(c dataplane.Counters) bool { return c.Packets == 3 })
	ev := h.event(h.B, dataplane.FirstInbound)
	if ev.SPI != s.inB.SPI {
		t.Errorf("FirstInbound names %+v", ev)
	}

	// The same packet again, and noise.
	st.mu.Lock()
	last := st.last
	st.mu.Unlock()
	a, b := h.streamEnds()
	forged := bytes.Clone(last)
	forged[7]++  // another sequence number,
	forged[14]++ // and not what was sealed
	if known, bad := st.receive[0](a, b, [][]byte{bytes.Clone(last), {}, {1, 2, 3}, forged, bytes.Repeat([]byte{0xee}, 100)}); known != 2 || bad != 1 {
		t.Errorf("%d packets are for an SA that is there and %d are forged, want 2 and 1", known, bad)
	}
	h.eventually(h.A, s.inA, "replayed packet", func(c dataplane.Counters) bool { return c.ReplayDrops == 1 })

	// A connection that is gone loses packets and harms nothing.
	st.mu.Lock()
	st.broken = errors.New("no connection")
	st.mu.Unlock()
	_ = h.A.Send(h.toB())
	st.mu.Lock()
	st.broken = nil
	st.mu.Unlock()
	h.passes(h.A, h.B, h.toB())
}

func testStreamMove(t *testing.T, h *harness) {
	st := h.joinStreams()
	s := h.up(1)
	h.passes(h.A, h.B, h.toB())
	a, b := h.streamEnds()
	for i, tcp := range []bool{true, false, true} {
		before := st.count()
		localA, localB := h.A.Outer, h.B.Outer
		if tcp {
			localA, localB = a, b
		}
		h.apply(h.A, dataplane.UpdateEndpoints{Tunnel: tunnel, Local: localA, Remote: localB, TCP: tcp})
		h.apply(h.B, dataplane.UpdateEndpoints{Tunnel: tunnel, Local: localB, Remote: localA, TCP: tcp})
		h.passes(h.A, h.B, h.toB())
		h.passes(h.B, h.A, h.toA())
		if n := st.count() - before; (n == 2) != tcp || (n == 0) == tcp {
			t.Errorf("move %d: %d packets went over TCP", i+1, n)
		}
	}
	h.eventually(h.B, s.inB, "counters that go on along the way", func(c dataplane.Counters) bool { return c.Packets == 4 })
}

func testStreamRebind(t *testing.T, h *harness) {
	st := h.joinStreams()
	s := h.overTCP(h.newSAs(1))
	h.install(s)
	h.passes(h.A, h.B, h.toB())
	again := netip.AddrPortFrom(h.A.Outer.Addr(), 40002)
	st.mu.Lock()
	st.reroutes = again
	st.mu.Unlock()
	h.passes(h.A, h.B, h.toB())
	_, b := h.streamEnds()
	if ev := h.event(h.B, dataplane.MappingChanged); ev.Remote != again || ev.Local != b || !ev.TCP || ev.SPI != s.inB.SPI {
		t.Errorf("MappingChanged is %+v, want TCP from %s to %s", ev, again, b)
	}

	// By UDP after all; in IP itself a packet tells of no NAT.
	if h.Native {
		return
	}
	next := h.newSAs(2)
	h.apply(h.A, dataplane.InstallSA{SA: next.inA}, dataplane.InstallSA{SA: next.outA})
	h.apply(h.B, dataplane.InstallSA{SA: h.overTCP(next).inB})
	h.passes(h.A, h.B, h.toB())
	if ev := h.event(h.B, dataplane.MappingChanged); ev.Remote != h.A.Outer || ev.Local != h.B.Outer || ev.TCP || ev.SPI != next.inB.SPI {
		t.Errorf("MappingChanged is %+v, want UDP from %s", ev, h.A.Outer)
	}
}

func testStreamInvalid(t *testing.T, h *harness) {
	s := h.overTCP(h.newSAs(1))
	if err := h.A.Plane.Apply([]dataplane.Op{dataplane.InstallSA{SA: s.inA}})[0]; err == nil {
		t.Error("an SA with TCP is installed and there are no connections")
	}
	plane, ok := h.A.Plane.(dataplane.StreamPlane)
	if !ok {
		return
	}
	receive, err := plane.JoinStreams(func(netip.AddrPort, netip.AddrPort, []byte) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	h.apply(h.A, dataplane.InstallSA{SA: s.inA})
	if err := plane.Close(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		receive(s.inA.Local, s.inA.Remote, [][]byte{slices.Repeat([]byte{1}, 100)})
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Error("packets of a stream wait for a plane that is closed")
	}
}
