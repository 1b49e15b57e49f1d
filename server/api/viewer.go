package api

import (
	"context"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// viewer follows the fleet for one stream.
type viewer struct {
	fleet  *fleet.Fleet
	parent string
	who    access.Principal
	seq    uint64
	stale  staleness
	part   *viewedPart // nil: labels do not limit the caller
}

func (f *Fleet) newViewer(ctx context.Context, parent string) (*viewer, error) {
	snap := f.store.Snapshot()
	if err := checkParent(&snap.Topology, parent); err != nil {
		return nil, err
	}
	v := &viewer{fleet: f.fleet, parent: parent, who: access.PrincipalFrom(ctx), stale: staleness{store: f.store}}
	if v.who.Scope(snap).Limited() {
		v.part = &viewedPart{
			store: f.store, who: v.who, parent: parent, snap: snap,
			tunnels: map[string]*swanherdv1.Tunnel{}, edges: map[string]*swanherdv1.Edge{},
		}
	}
	return v, nil
}

// next returns what changed since the last call, as far as the caller sees it.
func (v *viewer) next() (fleet.Delta, error) {
	d := v.fleet.Since(v.seq, v.parent)
	v.seq = d.Seq
	if d.Reset {
		return d, status.Error(codes.Aborted, "the stream fell too far behind; watch again")
	}
	if v.part != nil {
		return v.part.take(d)
	}
	if v.parent != fleet.AllNetworks || v.who.Global() {
		return d, nil
	}
	hidden := func(name string) bool { return !v.who.Sees(networkOf(name).String()) }
	d.Tunnels = slices.DeleteFunc(d.Tunnels, func(t *swanherdv1.Tunnel) bool { return hidden(t.GetName()) })
	d.Edges = slices.DeleteFunc(d.Edges, func(e *swanherdv1.Edge) bool { return hidden(e.GetName()) })
	d.RemovedTunnels = slices.DeleteFunc(d.RemovedTunnels, hidden)
	d.RemovedEdges = slices.DeleteFunc(d.RemovedEdges, hidden)
	return d, nil
}

func (v *viewer) counts() *swanherdv1.FleetCounts {
	if v.part != nil {
		return v.part.count()
	}
	if v.parent != fleet.AllNetworks || v.who.Global() {
		return v.fleet.Counts(v.parent)
	}
	sum := &swanherdv1.FleetCounts{}
	for _, n := range v.who.Networks() {
		add(sum, v.fleet.Counts(n))
	}
	return sum
}

// add adds to sum all that c counts.
func add(sum, c *swanherdv1.FleetCounts) {
	r := sum.ProtoReflect()
	c.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, n protoreflect.Value) bool {
		r.Set(f, protoreflect.ValueOfUint32(uint32(r.Get(f).Uint()+n.Uint())))
		return true
	})
}

// viewedPart is the part of the fleet that somebody sees whose role labels limit.
type viewedPart struct {
	store  *store.Store
	who    access.Principal
	parent string
	// snap is the state by which it was decided what is shown.
	snap *store.Snapshot
	// tunnels and edges are what was shown: of what is gone nobody knows the labels.
	tunnels map[string]*swanherdv1.Tunnel
	edges   map[string]*swanherdv1.Edge
	counts  *swanherdv1.FleetCounts // nil: to be counted
}

// take keeps of d what is in scope. Where that changed for what is there the stream
// ends, as nothing of d would tell.
func (p *viewedPart) take(d fleet.Delta) (fleet.Delta, error) {
	if err := p.follow(p.store.Snapshot()); err != nil { // not older than what d is made from
		return d, err
	}
	scope := p.who.Scope(p.snap)
	d.Tunnels = slices.DeleteFunc(d.Tunnels, func(t *swanherdv1.Tunnel) bool { return !seesTunnel(scope, t) })
	d.Edges = slices.DeleteFunc(d.Edges, func(e *swanherdv1.Edge) bool { return !scope.Sees(e.GetName()) })
	d.RemovedTunnels = slices.DeleteFunc(d.RemovedTunnels, func(name string) bool { return p.tunnels[name] == nil })
	d.RemovedEdges = slices.DeleteFunc(d.RemovedEdges, func(name string) bool { return p.edges[name] == nil })
	for _, t := range d.Tunnels {
		p.tunnels[t.GetName()] = t
	}
	for _, e := range d.Edges {
		p.edges[e.GetName()] = e
	}
	for _, name := range d.RemovedTunnels {
		delete(p.tunnels, name)
	}
	for _, name := range d.RemovedEdges {
		delete(p.edges, name)
	}
	if len(d.Tunnels)+len(d.Edges)+len(d.RemovedTunnels)+len(d.RemovedEdges) > 0 {
		p.counts = nil
	}
	return d, nil
}

// follow goes on to a newer state. An edge that comes into scope or leaves it, with its
// tunnels, has to be shown or taken back: the caller is to begin again.
func (p *viewedPart) follow(now *store.Snapshot) error {
	before := p.snap
	p.snap = now
	if same(before.Sites, now.Sites) && same(before.Edges, now.Edges) {
		return nil
	}
	p.counts = nil
	was, is := p.who.Scope(before), p.who.Scope(now)
	for row := range before.Edges.All() {
		if _, stays := now.Edges.Get(row.Name); stays && was.Sees(row.Name) != is.Sees(row.Name) {
			return status.Error(codes.Aborted, "what your role is limited to is other things now; watch again")
		}
	}
	return nil
}

func same[T any](a, b model.Table[T]) bool {
	for range model.Diff(a, b) {
		return false
	}
	return true
}

func (p *viewedPart) count() *swanherdv1.FleetCounts {
	if p.counts == nil {
		var tally fleet.Tally
		for _, t := range p.tunnels {
			tally.Tunnel(t)
		}
		for _, e := range p.edges {
			tally.Edge(e.GetStatus())
		}
		for row := range rowsOf(p.snap.Sites, p.parent, "", p.who.Scope(p.snap)) {
			tally.Site(row.Name)
		}
		p.counts = tally.Counts()
	}
	return p.counts
}

// seesTunnel says whether the caller may see a tunnel.
func seesTunnel(scope access.Scope, t *swanherdv1.Tunnel) bool {
	return scope.Sees(networkOf(t.GetName()).String()) && scope.Tunnel(t, false)
}
