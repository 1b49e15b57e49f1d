package planetest

import (
	"encoding/binary"
	"testing"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// rank has A's tunnels go first in that order for what is of no class.
func (h *harness) rank(ranks map[string]uint8) {
	h.Helper()
	r := dataplane.Ranking{Ranks: map[string][]uint8{}}
	for tunnel, n := range ranks {
		r.Ranks[tunnel] = []uint8{n}
	}
	h.setRanking(r)
}

func (h *harness) setRanking(r dataplane.Ranking) {
	h.Helper()
	if err := h.A.Plane.(dataplane.RankingPlane).SetRanking(r); err != nil {
		h.Fatalf("SetRanking: %v", err)
	}
}

// testRanking: of tunnels with SAs and equal policies the one of the lower rank carries the
// traffic, from the next packet on; one without an SA goes last, whatever its rank is.
func testRanking(t *testing.T, h *harness) {
	first := h.up(1)
	h.apply(h.A, h.policyOfOther(0, h.tsB...))
	h.rank(map[string]uint8{tunnel: 1, other: 0})
	h.sentBy(first.outA, 1) // the other has no SA
	second := h.upOther(2)
	h.sentBy(second.outA, 1)
	h.rank(map[string]uint8{tunnel: 0, other: 1})
	h.sentBy(first.outA, 2)
	h.passes(h.B, h.A, h.toA())
	h.rank(map[string]uint8{other: 7})
	h.sentBy(second.outA, 2) // the first is not ranked
	again := h.newSAs(3)
	again.inA.Tunnel, again.outA.Tunnel, again.inB.Tunnel, again.outB.Tunnel = other, other, other, other
	h.apply(h.B, dataplane.InstallSA{SA: again.inB}, dataplane.InstallSA{SA: again.outB})
	h.apply(h.A, dataplane.InstallSA{SA: again.inA}, dataplane.InstallSA{SA: again.outA})
	h.sentBy(again.outA, 1) // after a rekey too
	h.rank(nil)
	h.sentBy(first.outA, 3) // set first
	for name, bad := range map[string]dataplane.Ranking{
		"ranks for other classes": {Ranks: map[string][]uint8{other: {0, 1}}},
		"no code point":           {Classes: []dataplane.TrafficClass{{DSCP: []uint8{64}}}},
		"no selector":             {Classes: []dataplane.TrafficClass{{RemoteTS: []ts.Selector{{}}}}},
	} {
		if h.A.Plane.(dataplane.RankingPlane).SetRanking(bad) == nil {
			t.Errorf("%s: taken", name)
		}
	}
	h.sentBy(first.outA, 4)
}

const sharedFlows = 24

// testClasses: of tunnels of equal rank each has some of the flows, all packets of a flow
// go by one, and classes of traffic have ranks of their own. A plane that takes no classes
// sends all by the first.
func testClasses(t *testing.T, h *harness) {
	takes := h.A.Plane.(dataplane.RankingPlane).TakesClasses()
	first := h.up(1)
	h.apply(h.A, h.policyOfOther(0, h.tsB...))
	second := h.upOther(2)
	h.rank(map[string]uint8{tunnel: 3, other: 3})
	for n := range sharedFlows {
		for range 2 {
			h.passes(h.A, h.B, h.udp(hostA, hostB, 5000+uint16(n), 4321))
		}
	}
	one, two := h.settled(first.outA, second.outA, 2*sharedFlows)
	switch {
	case !takes && two != 0:
		t.Errorf("%d packets went by the second tunnel", two)
	case takes && (one < 8 || two < 8 || one%2 != 0):
		t.Errorf("%d packets of %d flows went by the first tunnel, and %d by the second", one, sharedFlows, two)
	}
	voice := ts.FromPrefix(netA)
	voice.Protocol, voice.StartPort, voice.EndPort = protocolUDP, 16384, 32767
	h.setRanking(dataplane.Ranking{
		Classes: []dataplane.TrafficClass{{DSCP: []uint8{46}}, {LocalTS: []ts.Selector{voice}}},
		Ranks:   map[string][]uint8{tunnel: {1, 1, 0}, other: {0, 0, 1}},
	})
	marked := h.toB()
	marked[1] = 46 << 2
	marked[10], marked[11] = 0, 0
	binary.BigEndian.PutUint16(marked[10:], checksum(0, marked[:20]))
	h.passes(h.A, h.B, marked)
	h.passes(h.A, h.B, h.udp(hostA, hostB, 20000, 4321))
	h.passes(h.A, h.B, h.udp(hostA, hostB, 5000, 4321))
	h.passes(h.A, h.B, h.packet(hostA6, hostB6))
	a, b := h.settled(first.outA, second.outA, 2*sharedFlows+4)
	if a, b = a-one, b-two; takes && (a != 2 || b != 2) || !takes && b != 0 {
		t.Errorf("of two packets of classes and two of none %d went by the first tunnel, which is for these, and %d by the second", a, b)
	}
}

// settled returns how many packets went by two SAs of A, when these are all that did.
func (h *harness) settled(one, two dataplane.SA, all uint64) (a, b uint64) {
	h.Helper()
	h.wait("all packets to be counted", func() bool {
		a, b = h.counters(h.A, one).Packets, h.counters(h.A, two).Packets
		return a+b == all
	})
	return a, b
}
