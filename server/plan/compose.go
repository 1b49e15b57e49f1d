package plan

import (
	"bytes"
	"maps"
	"slices"
	"strings"

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

// admits says whether an edge has the change. Where no edge is, but a gateway, nothing is
// waited for.
func (s *Stage) admits(edge string) bool {
	if edge == "" {
		return true
	}
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
	secrets  Secrets
}

// target is a stage with its plan.
type target struct {
	stage   Stage
	planner *Planner
	// edges and tunnels that differ from the base.
	edges, tunnels map[string]bool
}

// NewComposer returns a composer that planned the empty topology. Its plans have the
// pre-shared keys that secrets opens; nil for plans without them.
func NewComposer(secrets Secrets) *Composer {
	c := &Composer{base: NewPlanner(), targets: map[string]*target{}, composed: &Plan{}, secrets: secrets}
	c.base.secrets = secrets
	return c
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
	next := &composition{revision: t.Revision}
	for _, name := range slices.Sorted(maps.Keys(edges)) {
		c.composeEdge(name, next)
	}
	for _, name := range slices.Sorted(maps.Keys(tunnels)) {
		c.composeTunnel(name, next)
	}
	c.composed = next.apply(c.composed)
	return c.composed, next.changes
}

// composition gathers what an Update of a Composer changes.
type composition struct {
	revision int64
	intents  []model.Row[*Intent]
	tunnels  []model.Row[*swanherdv1.Tunnel]
	changes  Changes
}

func (n *composition) apply(before *Plan) *Plan {
	return &Plan{
		Revision: n.revision,
		Intents:  before.Intents.Apply(n.intents, n.changes.RemovedIntents),
		Tunnels:  before.Tunnels.Apply(n.tunnels, n.changes.RemovedTunnels),
	}
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
			now.planner.secrets = c.secrets
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
	return a.GetMesh() == b.GetMesh() && proto.Equal(a.GetA(), b.GetA()) && proto.Equal(a.GetB(), b.GetB()) && proto.Equal(a.GetPath(), b.GetPath())
}

// targetOf is the stage that is about the network of a resource; nil for none.
func (c *Composer) targetOf(name string) *target {
	for _, g := range c.targets {
		if strings.HasPrefix(name, g.stage.Network.String()+"/") {
			return g
		}
	}
	return nil
}

// composeEdge adds how an edge's intent differs from the one before.
func (c *Composer) composeEdge(name string, next *composition) {
	before, want := c.composed.Intents.Value(name), c.base.plan.Intents.Value(name)
	if g := c.targetOf(name); want != nil && g != nil {
		want = g.compose(want)
	}
	switch {
	case want == nil && before != nil:
		next.changes.RemovedIntents = append(next.changes.RemovedIntents, name)
	case want != nil && (before == nil || !bytes.Equal(before.Resources.Digest(), want.Resources.Digest())):
		next.intents = append(next.intents, model.Row[*Intent]{Name: name, Value: want, Revision: next.revision})
		next.changes.Intents = append(next.changes.Intents, name)
	}
}

// compose is the edge's intent with as much of the change as it is to have.
func (g *target) compose(base *Intent) *Intent {
	if !g.stage.admits(base.Edge) {
		return base
	}
	upserts, removals := digest.Difference(base.Resources, resources(g.planner.plan.Intents.Value(base.Edge)))
	upserts = slices.DeleteFunc(upserts, func(r *swanherdv1.IntentResource) bool { return !g.admitsPeer(r) })
	removals = slices.DeleteFunc(removals, func(name string) bool { return !g.admitsPeer(base.Resources.Get(name)) })
	if len(upserts)+len(removals) == 0 {
		return base
	}
	return &Intent{Edge: base.Edge, Resources: base.Resources.With(upserts, removals)}
}

// admitsPeer says whether the other end has the change, if the resource is a tunnel.
func (g *target) admitsPeer(r *swanherdv1.IntentResource) bool {
	return r.GetTunnel() == nil || g.stage.admits(r.GetTunnel().GetPeerEdge())
}

// composeTunnel adds how a tunnel differs from the one before.
func (c *Composer) composeTunnel(name string, next *composition) {
	before, want := c.composed.Tunnels.Value(name), c.base.plan.Tunnels.Value(name)
	if g := c.targetOf(name); g != nil {
		to := g.planner.plan.Tunnels.Value(name)
		ends := to
		if ends == nil {
			ends = want
		}
		if g.stage.admits(ends.GetA().GetEdge()) && g.stage.admits(ends.GetB().GetEdge()) {
			want = to
		}
	}
	switch {
	case sameTunnel(before, want):
	case want == nil:
		next.changes.RemovedTunnels = append(next.changes.RemovedTunnels, name)
	default:
		own := proto.CloneOf(want)
		own.PlannedRevision = next.revision
		next.tunnels = append(next.tunnels, model.Row[*swanherdv1.Tunnel]{Name: name, Value: own, Revision: next.revision})
		next.changes.Tunnels = append(next.changes.Tunnels, name)
	}
}
