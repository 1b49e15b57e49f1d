package userspace

import (
	"hash/fnv"
	"slices"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// database is what policies are looked up in, as it is at one moment. It never changes:
// whoever changes something stores another one.
type database struct {
	root    *spdNode
	ranking *ranking // nil for none
}

// ranking is a dataplane.Ranking made ready for packets.
type ranking struct {
	classes []classOfTraffic
	byDSCP  bool // a class has code points
	tunnels map[string]*ranked
}

type classOfTraffic struct {
	selectors
	dscp uint64 // a bit for each code point; 0: any
}

// ranked is a tunnel of a ranking.
type ranked struct {
	ranking *ranking
	ranks   []uint8
	seed    uint64 // of its scores
}

// of returns a child's tunnel, nil if it has no ranks. The child knows it, but for the
// moment in which another ranking takes the place of this one.
func (r *ranking) of(c *child) *ranked {
	if known := c.ranked.Load(); known != nil && known.ranking == r {
		return known
	}
	return r.tunnels[c.tunnel]
}

// find is of, of a ranking that there may be none of.
func (r *ranking) find(tunnel string) *ranked {
	if r == nil {
		return nil
	}
	return r.tunnels[tunnel]
}

// SetRanking implements dataplane.RankingPlane.
func (p *Plane) SetRanking(r dataplane.Ranking) error {
	if err := r.Validate(); err != nil {
		return err
	}
	compiled := compileRanking(r)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return dataplane.ErrClosed
	}
	p.ranking = compiled
	for key, c := range p.children {
		c.ranked.Store(compiled.find(key.tunnel))
	}
	for _, in := range p.insides {
		in.spd.Store(&database{in.spd.Load().root, compiled})
	}
	return nil
}

// TakesClasses implements dataplane.RankingPlane.
func (p *Plane) TakesClasses() bool { return true }

func compileRanking(r dataplane.Ranking) *ranking {
	if len(r.Ranks) == 0 {
		return nil
	}
	out := &ranking{tunnels: make(map[string]*ranked, len(r.Ranks))}
	for _, c := range r.Classes {
		class := classOfTraffic{selectors: selectors{compileSelectors(c.LocalTS), compileSelectors(c.RemoteTS)}}
		for _, point := range c.DSCP {
			class.dscp |= 1 << point
			out.byDSCP = true
		}
		out.classes = append(out.classes, class)
	}
	for tunnel, ranks := range r.Ranks {
		h := fnv.New64a()
		h.Write([]byte(tunnel))
		out.tunnels[tunnel] = &ranked{out, slices.Clone(ranks), h.Sum64()}
	}
	return out
}

func (c *classOfTraffic) matches(f *flow, dscp uint8) bool {
	return (c.dscp == 0 || c.dscp>>dscp&1 == 1) &&
		(len(c.local) == 0 || matchAny(c.local, f.src, f.protocol, f.srcPort, f.hasPorts)) &&
		(len(c.remote) == 0 || matchAny(c.remote, f.dst, f.protocol, f.dstPort, f.hasPorts))
}

// contest is between policies that match one packet.
type contest struct {
	ranking *ranking
	flow    *flow
	dscp    uint8
	first   *policy  // of those that were entered
	place   standing // of first, if it is known
	known   bool

	begun bool // class and hash are known, which few packets need
	class int
	hash  uint64
}

// standing is where a tunnel is among others.
type standing struct {
	rank  uint8
	score uint64 // for the flow: the highest one goes first
}

// wins reports whether p goes before the first, whose remote prefix is as long and which
// was set before it.
func (x *contest) wins(p *policy) bool {
	if x.first == nil {
		return true
	}
	if p.priority != x.first.priority {
		return p.priority < x.first.priority
	}
	if carries := p.child.carries(); x.ranking == nil || carries != x.first.child.carries() {
		return carries && !x.first.child.carries()
	}
	if !x.known {
		x.place, x.known = x.standing(x.first), true
	}
	of := x.standing(p)
	return of.rank < x.place.rank || of.rank == x.place.rank && of.score > x.place.score
}

// enter makes p the first.
func (x *contest) enter(p *policy) { x.first, x.known = p, false }

// standing of a tunnel by its ranks, all alike if it has none. A flow's score is another one
// for each tunnel, so that a tunnel that comes or goes moves the flows that it takes or
// leaves, and no others (rendezvous hashing).
func (x *contest) standing(p *policy) standing {
	r := x.ranking.of(p.child)
	if r == nil {
		return standing{rank: dataplane.Unranked}
	}
	x.begin()
	if r.ranks[x.class] == dataplane.Unranked {
		return standing{rank: dataplane.Unranked}
	}
	h := x.hash ^ r.seed
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return standing{r.ranks[x.class], h ^ h>>31}
}

func (x *contest) begin() {
	if x.begun {
		return
	}
	x.begun, x.hash = true, x.flow.hash()
	for x.class = 0; x.class < len(x.ranking.classes) && !x.ranking.classes[x.class].matches(x.flow, x.dscp); {
		x.class++
	}
}
