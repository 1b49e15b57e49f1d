package plan

import (
	"cmp"
	"slices"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// defaultMaxPaths is how many tunnels two edges have where a mesh wants several and does
// not say how many.
const defaultMaxPaths = 4

// uplinkPair is the pair of uplinks that carries a tunnel; of an edge that reported none it is
// nil.
type uplinkPair struct{ a, b *uplinkInfo }

// pairing is which pairs of their uplinks the edges of a mesh use.
type pairing struct {
	several   bool // two edges may have more than one tunnel
	sameClass bool // both uplinks of a pair are of one transport class
	most      int
}

func pairingOf(m *swanherdv1.Mesh) pairing {
	return pairing{
		several:   model.SeveralPaths(m),
		sameClass: m.GetPaths().GetPairing() == swanherdv1.MeshPaths_PAIRING_SAME_CLASS,
		most:      cmp.Or(int(m.GetPaths().GetMaxPaths()), defaultMaxPaths),
	}
}

// pairs appends the pairs of uplinks that carry the tunnels between two edges, the
// preferred one first. There is one at least.
func (p pairing) pairs(paths []uplinkPair, as, bs []*uplinkInfo) []uplinkPair {
	if !p.several || len(as) == 0 || len(bs) == 0 {
		a, b := pair(as, bs)
		return append(paths, uplinkPair{a, b})
	}
	for _, c := range p.candidates(as, bs) {
		if c.chosen {
			paths = append(paths, c.uplinkPair)
		}
	}
	return paths
}

// candidate is a pair of uplinks of two edges.
type candidate struct {
	uplinkPair
	reaches   bool // one knows an address at which it can reach the other
	sameClass bool
	chosen    bool
}

// candidates are all pairs of uplinks in order of preference, which is that of pair. Those
// that get a tunnel come first, in the order in which they were chosen: of those that are
// left the one whose uplinks are in the fewest before it, so that what one uplink costs when
// it fails is as little as can be.
func (p pairing) candidates(as, bs []*uplinkInfo) []candidate {
	all := make([]candidate, 0, len(as)*len(bs))
	for _, a := range as {
		for _, b := range bs {
			all = append(all, candidate{
				uplinkPair: uplinkPair{a, b},
				reaches:    len(endpoints(a, b)) > 0 || len(endpoints(b, a)) > 0,
				sameClass:  a.GetTransportClass() == b.GetTransportClass(),
			})
		}
	}
	slices.SortStableFunc(all, func(x, y candidate) int {
		return cmp.Or(trueFirst(x.reaches, y.reaches), trueFirst(x.sameClass, y.sameClass), cmp.Compare(x.cost(), y.cost()))
	})
	uses := map[*uplinkInfo]int{}
	for n := range min(p.most, len(all)) {
		best := -1
		for i := n; i < len(all); i++ {
			c := &all[i]
			if p.whyNot(c) == "" && (best < 0 || uses[c.a]+uses[c.b] < uses[all[best].a]+uses[all[best].b]) {
				best = i
			}
		}
		switch {
		case best >= 0:
		case n == 0:
			best = 0 // two edges are never left without a tunnel
		default:
			return all
		}
		chosen := all[best]
		chosen.chosen = true
		uses[chosen.a]++
		uses[chosen.b]++
		copy(all[n+1:best+1], all[n:best])
		all[n] = chosen
	}
	return all
}

// trueFirst orders what is so before what is not.
func trueFirst(x, y bool) int {
	switch {
	case x == y:
		return 0
	case x:
		return -1
	}
	return 1
}

// whyNot says why a pair gets no tunnel whatever others there are; empty if it may.
func (p pairing) whyNot(c *candidate) string {
	switch {
	case !c.reaches && len(c.a.all)+len(c.b.all) == 0:
		return "neither end knows an address of the other"
	case !c.reaches:
		return "the two have no address family in common"
	case !c.sameClass && p.sameClass:
		return "the two are of different transport classes, and the mesh pairs those of the same"
	}
	return ""
}

func (p uplinkPair) cost() uint64 { return p.a.cost() + p.b.cost() }

// cost of an uplink, 0 where none is known.
func (u *uplinkInfo) cost() uint64 {
	if u == nil {
		return 0
	}
	return uint64(u.GetCost())
}

// limits orders transport classes by how limited what goes over them is.
var limits = map[swanherdv1.TransportClass]int{
	swanherdv1.TransportClass_TRANSPORT_CLASS_MPLS:        0,
	swanherdv1.TransportClass_TRANSPORT_CLASS_UNSPECIFIED: 1,
	swanherdv1.TransportClass_TRANSPORT_CLASS_BROADBAND:   2,
	swanherdv1.TransportClass_TRANSPORT_CLASS_LTE:         3,
	swanherdv1.TransportClass_TRANSPORT_CLASS_SATELLITE:   4,
}

// class is that of the more limited uplink.
func (p uplinkPair) class() swanherdv1.TransportClass {
	if p.a == nil || p.b == nil {
		return swanherdv1.TransportClass_TRANSPORT_CLASS_UNSPECIFIED
	}
	a, b := p.a.GetTransportClass(), p.b.GetTransportClass()
	if limits[b] > limits[a] {
		return b
	}
	return a
}

func (p uplinkPair) metered() bool {
	return p.a != nil && p.a.GetMetered() || p.b != nil && p.b.GetMetered()
}

// message is what edges are told of a path of a group.
func (p uplinkPair) message(group string) *swanherdv1.TunnelPath {
	return &swanherdv1.TunnelPath{Group: group, Cost: p.cost(), Class: p.class(), Metered: p.metered()}
}
