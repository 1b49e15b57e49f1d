package planetest

import (
	"net/netip"
	"testing"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// other is a second tunnel of A, of which B knows nothing.
const other = "planetest-other"

// policyOfOther is a policy of the other tunnel.
func (h *harness) policyOfOther(priority uint32, remote ...ts.Selector) dataplane.SetPolicy {
	p := h.policy(h.tsA, remote)
	p.Policy.Tunnel, p.Policy.Priority = other, priority
	return p
}

// testOrder: of the policies that match a packet the first decides, whether it has an SA or
// not (RFC 4301, Section 4.4.1): what is meant for one peer is not sent to another.
func testOrder(_ *testing.T, h *harness) {
	beside := func() []byte { return h.packet(hostA6, hostB6) } // by the wider policy alone
	one := ts.FromPrefix(netip.PrefixFrom(hostB, 32))
	h.up(1)
	for _, action := range []dataplane.Action{dataplane.Protect, dataplane.Discard} {
		nearer := h.policyOfOther(0, one)
		nearer.Policy.Action = action
		h.apply(h.A, nearer)
		_ = h.A.Send(h.toB()) // must not arrive: its policy has no SA, or discards
		h.passes(h.A, h.B, beside())
		nearer.Policy.Priority = 1 // goes last, whatever its prefixes are
		h.apply(h.A, nearer)
		h.passes(h.A, h.B, h.toB())
		h.passes(h.A, h.B, beside())
		h.apply(h.A, dataplane.RemovePolicy{Tunnel: other, Child: child})
	}
	last := h.policyA()
	last.Policy.Priority = 1
	h.apply(h.A, last, h.policyOfOther(0, h.tsB...))
	_ = h.A.Send(h.toB()) // must not arrive: a wider policy goes first
	h.apply(h.A, dataplane.RemovePolicy{Tunnel: other, Child: child})
	h.passes(h.A, h.B, h.toB())
}

// testAlternatives: of equal policies one whose child has an SA goes first, and then the
// one that was set first. Both tunnels lead to B.
func testAlternatives(_ *testing.T, h *harness) {
	h.apply(h.A, h.policyOfOther(0, h.tsB...)) // before the first, and without an SA
	s := h.up(1)
	h.sentBy(s.outA, 1)
	second := h.upOther(2)
	h.sentBy(second.outA, 1) // set first
	h.passes(h.B, h.A, h.toA())
	h.apply(h.A, remove(second.outA)) // the other is there at once, and no packet waits
	h.sentBy(s.outA, 2)
	third := h.upOther(3)
	h.sentBy(third.outA, 1)
	h.apply(h.A, dataplane.RemovePolicy{Tunnel: other, Child: child})
	h.sentBy(s.outA, 3)
}

// upOther installs SAs of the other tunnel on both sides, where A has a policy for them.
func (h *harness) upOther(n byte) pairOfSAs {
	h.Helper()
	s := h.newSAs(n)
	for _, sa := range []*dataplane.SA{&s.inA, &s.outA, &s.inB, &s.outB} {
		sa.Tunnel = other
	}
	ofB := h.policyB()
	ofB.Policy.Tunnel = other
	h.apply(h.B, ofB, dataplane.InstallSA{SA: s.inB}, dataplane.InstallSA{SA: s.outB})
	h.apply(h.A, dataplane.InstallSA{SA: s.inA}, dataplane.InstallSA{SA: s.outA})
	return s
}

// sentBy sends a packet to B, and wants that to have been the nth by an SA of A.
func (h *harness) sentBy(sa dataplane.SA, n uint64) {
	h.Helper()
	h.passes(h.A, h.B, h.toB())
	h.eventually(h.A, sa, "the packet of this SA", func(c dataplane.Counters) bool { return c.Packets == n })
}

// testNested: an SA that was narrowed to one of the policy's prefixes carries what is in it,
// and in another one of the policy too.
func testNested(_ *testing.T, h *harness) {
	all := h.tsB
	h.tsB = append(selectors(netip.PrefixFrom(hostB, 32)), all...)
	h.apply(h.A, h.policyA())
	h.tsB = all
	s := h.newSAs(1)
	h.apply(h.A, dataplane.InstallSA{SA: s.inA})
	h.apply(h.B, h.policyB(), dataplane.InstallSA{SA: s.inB}, dataplane.InstallSA{SA: s.outB})
	h.apply(h.A, dataplane.InstallSA{SA: s.outA})
	h.passes(h.A, h.B, h.toB())
	h.passes(h.B, h.A, h.toA())
}
