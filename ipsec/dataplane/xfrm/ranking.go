package xfrm

import (
	"slices"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// SetRanking implements dataplane.RankingPlane. The kernel has one policy for equal
// selectors, that of the child whose tunnel goes first: it replaces one by another as a
// whole, so that each packet meets either.
func (p *Plane) SetRanking(r dataplane.Ranking) error {
	if err := r.Validate(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return dataplane.ErrClosed
	}
	p.ranking = r
	var slots []slot
	for _, c := range p.children {
		if place := p.place(c.tunnel); place != c.place {
			c.place = place
			slots = slices.Concat(slots, c.slots)
		}
	}
	return p.settle(slots)
}

// TakesClasses implements dataplane.RankingPlane. What is in a policy's selector the kernel
// could tell apart, but for each flow and code point it would need one.
func (p *Plane) TakesClasses() bool { return false }

// place is the rank of a tunnel for what is of no class.
func (p *Plane) place(tunnel string) uint8 { return p.ranking.Rank(tunnel, len(p.ranking.Classes)) }
