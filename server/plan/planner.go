package plan

import (
	"bytes"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/swanherd/swanherd/proto/digest"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// counterInterval is how often edges report counters.
const counterInterval = 10 * time.Second

// A Planner plans one topology after another and recomputes only what changed
// in between. It is for one goroutine.
type Planner struct {
	// only is the one network that is planned; the zero name: all.
	only     model.NetworkName
	topology *model.Topology
	plan     *Plan
	// networks by segment; without a segment it is the default one.
	networks map[model.SegmentName]*network
	// links by segment, of each edge by the edge or gateway at the other end, and the other
	// way round: a link is there twice.
	links map[string]map[string]map[string][]*link
	// secrets opens pre-shared keys; nil: the plan is without them.
	secrets Secrets
}

// NewPlanner returns a planner that planned the empty topology.
func NewPlanner() *Planner {
	return &Planner{
		topology: &model.Topology{},
		plan:     &Plan{},
		networks: map[model.SegmentName]*network{},
		links:    map[string]map[string]map[string][]*link{},
	}
}

// NewNetworkPlanner returns a planner that sees only one network.
func NewNetworkPlanner(network model.NetworkName) *Planner {
	p := NewPlanner()
	p.only = network
	return p
}

// Update plans the topology and tells what changed since the last call.
func (p *Planner) Update(t *model.Topology) (*Plan, Changes) {
	out := newOutput(t.Revision)
	for name, d := range touched(p.topology, t) {
		if p.only.Network == "" || p.only == name {
			p.updateNetwork(t, name, d, out)
		}
	}
	p.topology = t
	p.plan = out.apply(p.plan)
	return p.plan, out.changes()
}

// output gathers what an Update changes.
type output struct {
	revision int64
	// resources of edges that changed; nil removes the resource.
	resources map[string]map[string]*swanherdv1.IntentResource
	// tunnels that changed; nil removes the tunnel.
	tunnels map[string]*swanherdv1.Tunnel
	// removed edges.
	removed map[string]bool
	// intents whose digest changed.
	intents []string
}

func newOutput(revision int64) *output {
	return &output{
		revision:  revision,
		resources: map[string]map[string]*swanherdv1.IntentResource{},
		tunnels:   map[string]*swanherdv1.Tunnel{},
		removed:   map[string]bool{},
	}
}

func (o *output) setResource(edge, name string, r *swanherdv1.IntentResource) {
	if o.resources[edge] == nil {
		o.resources[edge] = map[string]*swanherdv1.IntentResource{}
	}
	o.resources[edge][name] = r
}

// setLinks replaces the links between two edges. What is the same in both is left alone.
func (o *output) setLinks(before, after []*link) {
	for _, l := range before {
		if named(after, l.tunnel.GetName()) == nil {
			o.removeLink(l)
		}
	}
	for _, l := range after {
		o.setLink(named(before, l.tunnel.GetName()), l)
	}
}

// named is the link of that name; nil: there is none.
func named(links []*link, name string) *link {
	for _, l := range links {
		if l.tunnel.GetName() == name {
			return l
		}
	}
	return nil
}

// setLink has a link take the place of the one before, of the same name; nil: there is none.
func (o *output) setLink(before, after *link) {
	name := after.tunnel.GetName()
	if before == nil || !bytes.Equal(before.a.GetVersion(), after.a.GetVersion()) {
		o.setResource(after.tunnel.GetA().GetEdge(), name, after.a)
	}
	if after.b != nil && (before == nil || !bytes.Equal(before.b.GetVersion(), after.b.GetVersion())) {
		o.setResource(after.tunnel.GetB().GetEdge(), name, after.b)
	}
	after.tunnel.PlannedRevision = before.plannedRevision()
	if before == nil || !proto.Equal(before.tunnel, after.tunnel) {
		after.tunnel.PlannedRevision = o.revision
		o.tunnels[name] = after.tunnel
	}
}

func (o *output) removeLink(l *link) {
	name := l.tunnel.GetName()
	o.setResource(l.tunnel.GetA().GetEdge(), name, nil)
	if l.b != nil {
		o.setResource(l.tunnel.GetB().GetEdge(), name, nil)
	}
	o.tunnels[name] = nil
}

// updateNetwork recomputes what d touches in one network.
func (p *Planner) updateNetwork(t *model.Topology, name model.NetworkName, d *delta, out *output) {
	segments := segmentsOf(p.topology, name, segmentsOf(t, name, nil))
	n := p.networks[segments[0]]
	if n == nil {
		n = &network{}
		d.all = true
	}
	settings := d.dirtySettings(n)
	for _, segment := range segments {
		p.updateSegment(t, segment, d, out)
	}
	if n = p.networks[segments[0]]; n == nil {
		n = &network{}
	}
	maps.Copy(settings, d.dirtySettings(n))
	for name := range settings {
		if e := n.edges[name]; e != nil {
			p.updateSettings(segments, e, out)
		} else if _, planned := p.plan.Intents.Get(name); planned {
			out.removed[name] = true
			for _, links := range p.links {
				delete(links, name)
			}
		}
	}
}

// segmentsOf adds to others, in which they are not yet, the segments of a network: the
// default one, then the others by name.
func segmentsOf(t *model.Topology, name model.NetworkName, others []model.SegmentName) []model.SegmentName {
	all := others
	if all == nil {
		all = []model.SegmentName{{Network: name.Network}}
	}
	for row := range t.Segments.InNetwork(name) {
		segment := model.SegmentName{Network: name.Network, Segment: model.SegmentID(row.Name)}
		if !slices.Contains(all, segment) {
			all = append(all, segment)
		}
	}
	return all
}

// hasSegment says whether there are the network and the segment, which the default one is
// in any network.
func hasSegment(t *model.Topology, segment model.SegmentName) bool {
	_, network := t.Networks.Get(model.NetworkName{Network: segment.Network}.String())
	if segment.Segment == "" {
		return network
	}
	_, there := t.Segments.Get(segment.String())
	return network && there
}

// updateSegment recomputes the links that d touches in one segment.
func (p *Planner) updateSegment(t *model.Topology, segment model.SegmentName, d *delta, out *output) {
	n := p.networks[segment]
	if n == nil || !hasSegment(t, segment) {
		all := *d
		all.all = true
		d = &all
	}
	if n == nil {
		n = &network{segment: segment}
	}
	links := d.dirtyLinks(n)
	n = p.index(t, segment, n, d)
	maps.Copy(links, d.dirtyLinks(n))
	p.updateLinks(n, slices.Sorted(maps.Keys(links)), out)
}

// index brings the index of a segment to the topology. What d does not touch stays as it
// is: a change of one edge or site must not cost a look at all.
func (p *Planner) index(t *model.Topology, segment model.SegmentName, n *network, d *delta) *network {
	name := model.NetworkName{Network: segment.Network}
	switch {
	case !hasSegment(t, segment):
		delete(p.networks, segment)
		return &network{segment: segment}
	case d.all || d.selection:
		n = newNetwork(t, segment, n, p.secrets)
		p.networks[segment] = n
		return n
	}
	n.update(t, d)
	if segment.Segment != "" {
		return n
	}
	if len(d.gateways)+len(d.keys) > 0 {
		n.setGateways(t, name, p.secrets)
	}
	if d.settings {
		n.setTrust(t, name)
		n.setTraffic(t, name)
	}
	return n
}

// wantedLinks are what the links between two edges are to be.
type wantedLinks struct {
	x, y   string
	drafts func() []draft // nil: none
	links  []*link
}

// updateLinks recomputes every link of the edges, on all processors.
func (p *Planner) updateLinks(n *network, edges []string, out *output) {
	links := p.links[n.segment.Segment]
	if links == nil {
		links = map[string]map[string][]*link{}
		p.links[n.segment.Segment] = links
	}
	var wanted []wantedLinks
	done := map[[2]string]bool{}
	for _, e := range edges {
		wanted = n.appendLinks(wanted, e, links[e], done)
	}
	inParallel(len(wanted), func(i int) {
		if w := &wanted[i]; w.drafts != nil {
			drafts := w.drafts()
			w.links = make([]*link, len(drafts))
			for i := range drafts {
				w.links[i] = drafts[i].link()
			}
		}
	})
	for _, w := range wanted {
		out.setLinks(links[w.x][w.y], w.links)
		setLinks(links, w.x, w.y, w.links)
		setLinks(links, w.y, w.x, w.links)
	}
}

// appendLinks appends every link of one edge, those to be and those of before, except
// those in done, by the name of the edge or gateway at the other end.
func (n *network) appendLinks(wanted []wantedLinks, name string, before map[string][]*link, done map[[2]string]bool) []wantedLinks {
	from := len(wanted)
	if e := n.edges[name]; e != nil {
		n.eachPeer(e, func(m *mesh, peer *edge) {
			if key := pairKey(name, peer.name); !done[key] {
				done[key] = true
				wanted = append(wanted, wantedLinks{x: name, y: peer.name, drafts: func() []draft { return n.newLinks(m, e, peer) }})
			}
		})
		n.eachGateway(e, func(g *gateway) {
			done[pairKey(name, g.name)] = true
			wanted = append(wanted, wantedLinks{x: name, y: g.name, drafts: func() []draft { return only(n.newGatewayLink(g, e)) }})
		})
	}
	for peer := range before {
		if key := pairKey(name, peer); !done[key] {
			done[key] = true
			wanted = append(wanted, wantedLinks{x: name, y: peer})
		}
	}
	slices.SortFunc(wanted[from:], func(a, b wantedLinks) int { return strings.Compare(a.y, b.y) })
	return wanted
}

// fewest is how many calls of f are worth a goroutine.
const fewest = 32

// inParallel calls f with 0 to n-1, on as many processors as there are.
func inParallel(n int, f func(i int)) {
	var next atomic.Int64
	some := func() {
		for {
			to := int(next.Add(fewest))
			for i := to - fewest; i < min(to, n); i++ {
				f(i)
			}
			if to >= n {
				return
			}
		}
	}
	var others sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), (n+fewest-1)/fewest) - 1 {
		others.Go(some)
	}
	some()
	others.Wait()
}

func setLinks(all map[string]map[string][]*link, edge, peer string, links []*link) {
	switch {
	case len(links) == 0:
		delete(all[edge], peer)
	case all[edge] == nil:
		all[edge] = map[string][]*link{peer: links}
	default:
		all[edge][peer] = links
	}
}

func pairKey(x, y string) [2]string {
	if y < x {
		x, y = y, x
	}
	return [2]string{x, y}
}

// eachPeer calls f with every edge that e is to be connected with, once, and
// the mesh that says so.
func (n *network) eachPeer(e *edge, f func(*mesh, *edge)) {
	if e.site == nil || !e.enabled {
		return
	}
	seen := map[*site]bool{e.site: true}
	for _, m := range n.meshes {
		for _, group := range m.peers(e.site) {
			for _, s := range group {
				if seen[s] {
					continue
				}
				seen[s] = true
				for _, peer := range s.edges {
					f(m, peer)
				}
			}
		}
	}
}

func (p *Planner) updateSettings(segments []model.SegmentName, e *edge, out *output) {
	s := &swanherdv1.EdgeSettings{
		Edge:            e.name,
		CounterInterval: durationpb.New(counterInterval),
		Probes:          e.probeSettings(),
		TrafficClasses:  p.networks[segments[0]].traffic,
	}
	if e.site != nil {
		s.LocalPrefixes = e.site.texts
		for _, segment := range segments[1:] {
			if n := p.networks[segment]; n != nil && n.sites[e.site.name] != nil {
				s.Segments = append(s.Segments, &swanherdv1.SegmentSettings{Segment: segment.Segment, LocalPrefixes: n.sites[e.site.name].texts})
			}
		}
	}
	p.updateResource(e, digest.Resource(s), out)
	p.updateResource(e, p.networks[segments[0]].trust, out)
}

// updateResource sets a resource of an edge unless it has the very same already.
func (p *Planner) updateResource(e *edge, r *swanherdv1.IntentResource, out *output) {
	if intent, ok := p.plan.Intents.Get(e.name); ok {
		if bytes.Equal(intent.Value.Resources.Get(r.GetName()).GetVersion(), r.GetVersion()) {
			return
		}
	}
	out.setResource(e.name, r.GetName(), r)
}

// apply makes the next plan and finds the intents whose digest changed.
func (o *output) apply(before *Plan) *Plan {
	plan := &Plan{Revision: o.revision}
	var tunnels []model.Row[*swanherdv1.Tunnel]
	var removedTunnels []string
	for name, t := range o.tunnels {
		if t == nil {
			removedTunnels = append(removedTunnels, name)
		} else {
			tunnels = append(tunnels, model.Row[*swanherdv1.Tunnel]{Name: name, Value: t, Revision: o.revision})
		}
	}
	plan.Tunnels = before.Tunnels.Apply(tunnels, removedTunnels)

	var edges []string
	for edge := range o.resources {
		if !o.removed[edge] {
			edges = append(edges, edge)
		}
	}
	next := make([]*Intent, len(edges))
	inParallel(len(edges), func(i int) {
		next[i] = newIntent(edges[i], before.Intents.Value(edges[i]), o.resources[edges[i]])
	})
	var intents []model.Row[*Intent]
	for i, edge := range edges {
		old := before.Intents.Value(edge)
		if old != nil && bytes.Equal(old.Resources.Digest(), next[i].Resources.Digest()) {
			continue
		}
		intents = append(intents, model.Row[*Intent]{Name: edge, Value: next[i], Revision: o.revision})
		o.intents = append(o.intents, edge)
	}
	plan.Intents = before.Intents.Apply(intents, slices.Collect(maps.Keys(o.removed)))
	return plan
}

// newIntent returns the intent that follows an edge's old one, nil for none; nil in
// changed removes the resource.
func newIntent(edge string, old *Intent, changed map[string]*swanherdv1.IntentResource) *Intent {
	if old == nil {
		old = &Intent{}
	}
	upserts := make([]*swanherdv1.IntentResource, 0, len(changed))
	var removed []string
	for name, r := range changed {
		if r == nil {
			removed = append(removed, name)
		} else {
			upserts = append(upserts, r)
		}
	}
	return &Intent{Edge: edge, Resources: old.Resources.With(upserts, removed)}
}

func (o *output) changes() Changes {
	c := Changes{Intents: o.intents, RemovedIntents: slices.Collect(maps.Keys(o.removed))}
	for name, t := range o.tunnels {
		if t == nil {
			c.RemovedTunnels = append(c.RemovedTunnels, name)
		} else {
			c.Tunnels = append(c.Tunnels, name)
		}
	}
	for _, list := range [][]string{c.Intents, c.RemovedIntents, c.Tunnels, c.RemovedTunnels} {
		slices.SortFunc(list, strings.Compare)
	}
	return c
}
