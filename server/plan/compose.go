package plan

import (
	"bytes"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/swanherd/swanherd/proto/digest"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// A Stage is a change of one network's topology that a part of its edges have.
type Stage struct {
	// Name tells one change from another.
	Name    string
	Network model.NetworkName
	// Target makes the topology as the change wants it from the one that there is.
	Target func(*model.Topology) *model.Topology
	// Order of the edges, by name: the first Admitted of them have the change. Edges that
	// are not in it have it when all that are have it. It is not changed.
	Order    map[string]int
	Admitted int
}

// admits says whether an edge has the change.
func (s *Stage) admits(edge string) bool {
	position, ok := s.Order[edge]
	if !ok {
		position = len(s.Order) - 1
	}
	return position < s.Admitted
}

// A Composer plans topologies of which a part of the edges have a change already.
//
// A tunnel is as the change wants it when both of its ends have the change, so both
// ends always agree; all else of an edge is so when that edge has it. Without stages
// the result is the planner's. It is for one goroutine.
type Composer struct {
	base    *Planner
	targets map[string]*target // by the stage's name
	// composed is what Update returned last. As long as there was no stage it is the
	// base's own.
	composed *Plan
	staged   bool
}

// target is a stage with its plan.
type target struct {
	stage   Stage
	planner *Planner
	// edges and tunnels that differ from the base.
	edges, tunnels map[string]bool
}

// NewComposer returns a composer that planned the empty topology.
func NewComposer() *Composer {
	return &Composer{base: NewPlanner(), targets: map[string]*target{}, composed: &Plan{}}
}

// Update plans the topology and the stages, at most one of a network, and tells what
// changed since the last call.
func (c *Composer) Update(t *model.Topology, stages []Stage) (*Plan, Changes) {
	base, changes := c.base.Update(t)
	if c.staged = c.staged || len(stages) > 0; !c.staged {
		c.composed = base
		return base, changes
	}
	edges, tunnels := setOf(changes.Intents, changes.RemovedIntents), setOf(changes.Tunnels, changes.RemovedTunnels)
	c.updateTargets(t, stages, edges, tunnels)
	out := newOutput(t.Revision)
	for name := range edges {
		c.composeEdge(name, out)
	}
	for name := range tunnels {
		c.composeTunnel(name, out)
	}
	c.composed = out.apply(c.composed)
	return c.composed, out.changes()
}

func setOf(lists ...[]string) map[string]bool {
	set := map[string]bool{}
	for _, list := range lists {
		for _, name := range list {
			set[name] = true
		}
	}
	return set
}

// updateTargets plans the stages, and adds the edges and tunnels that may come out
// otherwise than before.
func (c *Composer) updateTargets(t *model.Topology, stages []Stage, edges, tunnels map[string]bool) {
	before := c.targets
	c.targets = map[string]*target{}
	for _, s := range stages {
		now := before[s.Name]
		delete(before, s.Name)
		if now == nil {
			now = &target{planner: NewNetworkPlanner(s.Network)}
		}
		admitted := now.stage.Admitted
		now.stage = s
		c.targets[s.Name] = now
		_, changes := now.planner.Update(s.Target(t))
		if admitted == s.Admitted && len(edges)+len(tunnels) == 0 && changes.empty() {
			continue
		}
		now.touch(edges, tunnels)
		now.compare(c.base.plan)
		now.touch(edges, tunnels)
	}
	for _, gone := range before {
		gone.touch(edges, tunnels)
	}
}

func (c Changes) empty() bool {
	return len(c.Intents)+len(c.RemovedIntents)+len(c.Tunnels)+len(c.RemovedTunnels) == 0
}

// touch adds what differs from the base.
func (g *target) touch(edges, tunnels map[string]bool) {
	maps.Copy(edges, g.edges)
	maps.Copy(tunnels, g.tunnels)
}

// compare finds what differs from the base.
func (g *target) compare(base *Plan) {
	g.edges, g.tunnels = map[string]bool{}, map[string]bool{}
	for row := range base.Intents.InNetwork(g.stage.Network) {
		if to := g.planner.plan.Intents.Value(row.Name); !bytes.Equal(resources(to).Digest(), row.Value.Resources.Digest()) {
			g.edges[row.Name] = true
		}
	}
	for row := range base.Tunnels.InNetwork(g.stage.Network) {
		if to := g.planner.plan.Tunnels.Value(row.Name); !sameTunnel(to, row.Value) {
			g.tunnels[row.Name] = true
		}
	}
	for row := range g.planner.plan.Tunnels.All() {
		if _, ok := base.Tunnels.Get(row.Name); !ok {
			g.tunnels[row.Name] = true
		}
	}
}

// sameTunnel compares plans of a tunnel, but for when they were made.
func sameTunnel(a, b *swanherdv1.Tunnel) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.GetMesh() == b.GetMesh() && proto.Equal(a.GetA(), b.GetA()) && proto.Equal(a.GetB(), b.GetB())
}

// targetOf is the stage that is about the network of a resource; nil for none.
func (c *Composer) targetOf(name string) *target {
	for _, g := range c.targets {
		if network, err := model.NetworkOf(name); err == nil && network == g.stage.Network {
			return g
		}
	}
	return nil
}

// composeEdge adds to out how an edge's intent differs from the one before.
func (c *Composer) composeEdge(name string, out *output) {
	base := c.base.plan.Intents.Value(name)
	if base == nil {
		if _, ok := c.composed.Intents.Get(name); ok {
			out.removed[name] = true
		}
		return
	}
	want := base.Resources
	if g := c.targetOf(name); g != nil {
		want = g.compose(name, want)
	}
	upserts, removals := digest.Difference(resources(c.composed.Intents.Value(name)), want)
	for _, r := range upserts {
		out.setResource(name, r.GetName(), r)
	}
	for _, r := range removals {
		out.setResource(name, r, nil)
	}
}

// compose is the edge's intent with as much of the change as it is to have.
func (g *target) compose(edge string, base *digest.Set) *digest.Set {
	if !g.stage.admits(edge) {
		return base
	}
	upserts, removals := digest.Difference(base, resources(g.planner.plan.Intents.Value(edge)))
	upserts = slices.DeleteFunc(upserts, func(r *swanherdv1.IntentResource) bool {
		return r.GetTunnel() != nil && !g.stage.admits(r.GetTunnel().GetPeerEdge())
	})
	removals = slices.DeleteFunc(removals, func(name string) bool {
		r := base.Get(name)
		return r.GetTunnel() != nil && !g.stage.admits(r.GetTunnel().GetPeerEdge())
	})
	return base.With(upserts, removals)
}

// composeTunnel adds to out how a tunnel differs from the one before.
func (c *Composer) composeTunnel(name string, out *output) {
	want := c.base.plan.Tunnels.Value(name)
	if g := c.targetOf(name); g != nil {
		to := g.planner.plan.Tunnels.Value(name)
		ends := to
		if ends == nil {
			ends = want
		}
		if ends != nil && g.stage.admits(ends.GetA().GetEdge()) && g.stage.admits(ends.GetB().GetEdge()) {
			want = to
		}
	}
	before := c.composed.Tunnels.Value(name)
	switch {
	case sameTunnel(before, want):
	case want == nil:
		out.tunnels[name] = nil
	default:
		own := proto.CloneOf(want)
		own.PlannedRevision = out.revision
		out.tunnels[name] = own
	}
}
