package userspace

import (
	"hash/fnv"

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
	tunnels map[string]ranked
}

type classOfTraffic struct {
	selectors
	dscp uint64 // a bit for each code point; 0: any
}

// ranked is a tunnel of a ranking.
type ranked struct {
	ranks []uint8
	seed  uint64 // of its scores
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
	out := &ranking{tunnels: make(map[string]ranked, len(r.Ranks))}
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
		out.tunnels[tunnel] = ranked{append([]uint8(nil), ranks...), h.Sum64()}
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
	begun   bool // class and hash are known, which few packets need
	class   int
	hash    uint64
}

// before reports whether p goes before q, whose remote prefix is as long and which was
// set before it.
func (x *contest) before(p, q *policy) bool {
	if p.priority != q.priority {
		return p.priority < q.priority
	}
	if carries := p.child.carries(); x.ranking == nil || carries != q.child.carries() {
		return carries && !q.child.carries()
	}
	x.begin()
	a, b := x.ranking.tunnels[p.child.tunnel], x.ranking.tunnels[q.child.tunnel]
	if m, n := x.rank(a), x.rank(b); m != n || m == dataplane.Unranked {
		return m < n
	}
	return x.score(a) > x.score(b)
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

func (x *contest) rank(r ranked) uint8 {
	if r.ranks == nil {
		return dataplane.Unranked
	}
	return r.ranks[x.class]
}

// score of a tunnel for the flow: the highest one carries it, so that a tunnel that comes
// or goes moves the flows that it takes or leaves, and no others (rendezvous hashing).
func (x *contest) score(r ranked) uint64 {
	h := x.hash ^ r.seed
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
