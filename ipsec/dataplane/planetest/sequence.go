package planetest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// goOn moves the sequence numbers of an SA on.
func (h *harness) goOn(s Side, sa dataplane.SA, sequence uint64) {
	h.Helper()
	plane, ok := s.Plane.(sequencer)
	if !ok {
		h.Fatalf("the %s data plane has no SetSequenceForTest", s.Plane.Name())
	}
	if err := plane.SetSequenceForTest(sa, sequence); err != nil {
		h.Fatal(err)
	}
}

// again has the n-th packet that A sent to B arrive once more.
func (h *harness) again(n int) {
	h.Helper()
	h.wait(fmt.Sprintf("packet %d on the wire", n), func() bool { return h.Wire.Sent() > n })
	if err := h.Wire.Deliver(n); err != nil {
		h.Fatal(err)
	}
}

// refused are the packets that an inbound SA dropped. One that is older than the window
// may look like one of the next 2^32 (RFC 4303, Appendix A2.2).
func refused(c dataplane.Counters) uint64 { return c.ReplayDrops + c.AuthFailures }

// testExtended: the high half of the sequence number, which is not sent, goes into the
// cipher's additional data, or behind what is authenticated (RFC 4303, Section 2.2.1).
func testExtended(t *testing.T, h *harness) {
	const boundary = 1 << 32
	for n, text := range []string{"aes256gcm16-esn", "chacha20poly1305-esn", "aes128-sha256-esn"} {
		h.choose(text)
		s := h.newSAs(byte(n + 1))
		h.install(s)
		for side, sas := range map[*Side][2]dataplane.SA{&h.A: {s.outA, s.inA}, &h.B: {s.outB, s.inB}} {
			h.goOn(*side, sas[0], boundary-3)
			h.goOn(*side, sas[1], boundary-3)
		}
		sent := h.Wire.Sent()
		for range 5 {
			h.passes(h.A, h.B, h.toB())
			h.passes(h.B, h.A, h.packet(hostB6, hostA6))
		}
		before := h.counters(h.B, s.inB)
		for i := range 5 { // on both sides of the boundary
			h.again(sent + i)
		}
		h.eventually(h.B, s.inB, text+": five replayed packets", func(c dataplane.Counters) bool { return c.ReplayDrops == 5 })
		if c := h.counters(h.B, s.inB); c.Packets != before.Packets || c.AuthFailures != 0 {
			t.Errorf("%s: after replayed packets %+v, before %+v", text, c, before)
		}
		h.passes(h.A, h.B, h.toB())
	}
}

// testExhausted: an SA without a sequence number left sends no more, as a number that
// is used twice would give the key away (RFC 4303, Section 3.3.3; RFC 4106, Section 3).
func testExhausted(t *testing.T, h *harness) {
	for n, of := range []struct {
		suite string
		last  uint64
	}{{"aes128gcm16", math.MaxUint32}, {"aes128gcm16-esn", math.MaxUint64}} {
		h.choose(of.suite)
		s := h.newSAs(byte(n + 1))
		h.install(s)
		h.goOn(h.A, s.outA, of.last-2)
		h.goOn(h.B, s.inB, of.last-2)
		sent := h.Wire.Sent() + 2
		h.passes(h.A, h.B, h.toB())
		h.passes(h.A, h.B, h.toB())
		h.wait("both packets on the wire", func() bool { return h.Wire.Sent() == sent })
		for range 3 {
			_ = h.A.Send(h.toB()) // must not arrive
		}
		ev := h.event(h.A, dataplane.HardExpire)
		if ev.SPI != s.outA.SPI || ev.Direction != dataplane.Outbound || ev.Tunnel != tunnel || ev.Child != child {
			t.Errorf("%s: HardExpire names %+v", of.suite, ev)
		}
		if n := h.Wire.Sent(); n != sent {
			t.Errorf("%s: %d packets were sent after the last sequence number", of.suite, n-sent)
		}
		h.apply(h.A, remove(s.outA), remove(s.inA))
		h.apply(h.B, remove(s.outB), remove(s.inB))
	}
	next := h.newSAs(9)
	h.apply(h.B, dataplane.InstallSA{SA: next.inB})
	h.apply(h.A, dataplane.InstallSA{SA: next.outA})
	h.passes(h.A, h.B, h.toB())
}

// window is the model of a receiver (RFC 4303, Section 3.4.3).
type window struct {
	size, top uint64
	seen      map[uint64]bool
}

// behind reports whether the window has passed a number by.
func (w *window) behind(sequence uint64) bool {
	return sequence < w.top && w.top-sequence >= w.size
}

func (w *window) accepts(sequence uint64) bool {
	if w.behind(sequence) || w.seen[sequence] {
		return false
	}
	w.seen[sequence] = true
	w.top = max(w.top, sequence)
	return true
}

// missing is how many numbers the window has passed by without seeing them, with and
// without those that may still come.
func (w *window) missing() (least, most uint64) {
	for n := uint64(1); n < w.top; n++ {
		switch {
		case w.seen[n]:
		case w.behind(n):
			least, most = least+1, most+1
		default:
			most++
		}
	}
	return least, most
}

// testWindow gives a receiver packets that were lost, repeated and brought out of order,
// by less and by more than its window is wide.
func testWindow(_ *testing.T, h *harness) {
	n := byte(0)
	for _, size := range []uint64{64, 128, 1024, 4096} {
		for _, of := range []struct {
			suite string
			start uint64
		}{{"aes128gcm16", 0}, {"aes128gcm16-esn", 0}, {"aes128gcm16-esn", 1<<32 - 2*size}} {
			n++
			h.choose(of.suite)
			h.receivesWithin(fmt.Sprintf("%s with a window of %d from %d", of.suite, size, of.start), n, size, of.start)
		}
	}
}

// receivesWithin sends packets that B refuses, as it has another key, and then has them
// arrive as a bad network would bring them.
func (h *harness) receivesWithin(what string, n byte, size, start uint64) {
	h.Helper()
	random := rand.New(rand.NewPCG(size, start))
	s := h.newSAs(n)
	s.inB.ReplayWindow = int(size)
	other := s.inB
	other.Key = h.key(99)
	h.apply(h.B, h.policyB(), dataplane.InstallSA{SA: other})
	h.apply(h.A, h.policyA(), dataplane.InstallSA{SA: s.outA})
	first := h.Wire.Sent()
	var numbers []uint64
	var packets [][]byte
	steps := []uint64{1, 1, 1, 2, 5, size / 8, size / 2, size - 1, size, size + 1}
	for at := start; len(numbers) < 40; {
		at += steps[random.IntN(len(steps))]
		numbers, packets = append(numbers, at), append(packets, h.toB())
		h.goOn(h.A, s.outA, at-1)
		if err := h.A.Send(packets[len(packets)-1]); err != nil {
			h.Fatalf("%s: send: %v", what, err)
		}
		h.wait(what+": a packet on the wire", func() bool { return h.Wire.Sent() == first+len(packets) })
	}
	h.eventually(h.B, other, what+": packets under another key", func(c dataplane.Counters) bool { return refused(c) == uint64(len(numbers)) })
	h.apply(h.B, remove(other), dataplane.InstallSA{SA: s.inB})
	model := &window{size: size, seen: map[uint64]bool{}}
	if start > 0 {
		h.goOn(h.B, s.inB, start)
		model.top, model.seen[start] = start, true
	}
	base := h.counters(h.B, s.inB)
	var accepted, dropped uint64
	for _, i := range disorder(random, len(numbers)) {
		h.again(first + i)
		if model.accepts(numbers[i]) {
			accepted++
			h.arrives(h.B, packets[i])
		} else {
			dropped++
		}
		h.eventually(h.B, s.inB, fmt.Sprintf("%s: %d after %d", what, numbers[i], model.top), func(c dataplane.Counters) bool {
			return c.Packets-base.Packets == accepted && refused(c) == dropped
		})
	}
	c := h.counters(h.B, s.inB)
	if !h.suite.ESN && c.AuthFailures != 0 {
		h.Errorf("%s: %d packets failed the integrity check", what, c.AuthFailures)
	}
	if start == 0 { // else too many to count
		if least, most := model.missing(); c.Missing < least || c.Missing > most {
			h.Errorf("%s: %d are missing, want %d to %d", what, c.Missing, least, most)
		}
	}
	if accepted < 20 || dropped < 5 {
		h.Errorf("%s: %d packets were accepted and %d dropped: too few to judge by", what, accepted, dropped)
	}
	h.apply(h.A, remove(s.outA))
	h.apply(h.B, remove(s.inB))
}

// disorder is the order in which a bad network brings n packets: some late, a tenth
// never, a fifth twice.
func disorder(random *rand.Rand, n int) []int {
	var order []int
	for i := range n {
		for range 1 + random.IntN(10)/8 {
			order = append(order, i)
		}
	}
	for i := range order {
		if j := i + random.IntN(6); random.IntN(3) == 0 && j < len(order) {
			order[i], order[j] = order[j], order[i]
		}
	}
	kept := order[:0]
	for _, i := range order {
		if random.IntN(10) > 0 {
			kept = append(kept, i)
		}
	}
	return kept
}
