package fleet

import (
	"cmp"
	"slices"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Delta is what changed between two looks at the fleet, each row once and in
// its present state.
type Delta struct {
	// Seq is what to pass to Since next.
	Seq uint64
	// Reset is true when the reader was so far behind that it must drop every
	// row it has; the rest of the delta is everything there is.
	Reset          bool
	Tunnels        []*swanherdv1.Tunnel
	RemovedTunnels []string
	Edges          []*swanherdv1.Edge
	RemovedEdges   []string
}

// watchedFor is how long after somebody looked at the fleet counters are of interest.
const watchedFor = time.Minute

// Watched says whether somebody looked at tunnels within the last minute, so that the
// counters which other replicas have are of use here.
func (f *Fleet) Watched() bool {
	return time.Since(time.Unix(0, f.watched.Load())) < watchedFor
}

func (f *Fleet) looked() { f.watched.Store(time.Now().UnixNano()) }

// Since returns what changed in network after seq; AllNetworks for all of
// them, 0 for everything there is.
func (f *Fleet) Since(seq uint64, network string) Delta {
	f.looked()
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.since(seq, network)
}

// since needs the lock.
func (f *Fleet) since(seq uint64, network string) Delta {
	d := Delta{Seq: f.seq}
	if seq != 0 && seq < f.floor {
		d.Reset = true
		seq = 0
	}
	for el := f.order.Front(); el != nil; el = el.Next() {
		r := el.Value.(*row)
		if r.seq <= seq {
			break
		}
		if inNetwork(r.name, network) {
			d.add(r, seq == 0)
		}
	}
	return d
}

func (d *Delta) add(r *row, fresh bool) {
	switch {
	case r.removed.IsZero() && r.isEdge:
		d.Edges = append(d.Edges, r.edge)
	case r.removed.IsZero():
		d.Tunnels = append(d.Tunnels, r.tunnel)
	case fresh: // a reader that has nothing has nothing to remove
	case r.isEdge:
		d.RemovedEdges = append(d.RemovedEdges, r.name)
	default:
		d.RemovedTunnels = append(d.RemovedTunnels, r.name)
	}
}

// Tunnel returns the tunnel of that name.
func (f *Fleet) Tunnel(name string) (*swanherdv1.Tunnel, bool) {
	f.looked()
	f.mu.RLock()
	defer f.mu.RUnlock()
	t := f.tunnels[name]
	if t == nil {
		return nil, false
	}
	return t.view, true
}

// Tunnels returns the tunnels of network, or of AllNetworks, by name.
func (f *Fleet) Tunnels(network string) []*swanherdv1.Tunnel {
	f.looked()
	f.mu.RLock()
	var out []*swanherdv1.Tunnel
	for name, t := range f.tunnels {
		if inNetwork(name, network) {
			out = append(out, t.view)
		}
	}
	f.mu.RUnlock()
	slices.SortFunc(out, func(a, b *swanherdv1.Tunnel) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return out
}

// TunnelStatuses returns the status of each tunnel of network.
func (f *Fleet) TunnelStatuses(network string) map[string]swanherdv1.TunnelStatus {
	f.mu.RLock()
	defer f.mu.RUnlock()
	out := map[string]swanherdv1.TunnelStatus{}
	for name, t := range f.tunnels {
		if inNetwork(name, network) {
			out[name] = t.view.GetStatus()
		}
	}
	return out
}

// TunnelsOverSLA returns the tunnels of network whose path is over a limit of its SLA.
func (f *Fleet) TunnelsOverSLA(network string) map[string]bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	out := map[string]bool{}
	for name, t := range f.tunnels {
		if inNetwork(name, network) && OverSLA(t.view) {
			out[name] = true
		}
	}
	return out
}

// EdgeStatus returns what is known of an edge right now; nil when the fleet
// has no such edge.
func (f *Fleet) EdgeStatus(name string) *swanherdv1.EdgeStatus {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if e := f.edges[name]; e != nil {
		return e.status
	}
	return nil
}

// Home says which replica holds the edge's session, empty for this one; ok is false when
// it has none.
func (f *Fleet) Home(edge string) (replica string, ok bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	e := f.edges[edge]
	if e == nil || e.session == "" {
		return "", false
	}
	return e.home, true
}

type cachedCounts struct {
	seq    uint64
	counts *swanherdv1.FleetCounts
}

// Counts counts the network, or AllNetworks. The result is shared between
// callers and counted anew only when something it depends on changed.
func (f *Fleet) Counts(network string) *swanherdv1.FleetCounts {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c, ok := f.countCache[network]; ok && c.seq == f.countSeq {
		return c.counts
	}
	c := f.count(network)
	f.countCache[network] = cachedCounts{seq: f.countSeq, counts: c}
	return c
}

func (f *Fleet) count(network string) *swanherdv1.FleetCounts {
	var tally Tally
	for name, t := range f.tunnels {
		if inNetwork(name, network) {
			tally.Tunnel(t.view)
		}
	}
	for name, e := range f.edges {
		if inNetwork(name, network) {
			tally.Edge(e.status)
		}
	}
	for s := range f.sites {
		if inNetwork(s, network) {
			tally.Site(s)
		}
	}
	return tally.Counts()
}

// Tally counts a part of a fleet: its tunnels, its edges, then its sites. The zero value
// has counted nothing.
type Tally struct {
	counts  swanherdv1.FleetCounts
	reached map[string]struct{} // sites with a tunnel that is up
}

// Tunnel counts a tunnel.
func (y *Tally) Tunnel(t *swanherdv1.Tunnel) {
	c := &y.counts
	switch t.GetStatus() {
	case swanherdv1.TunnelStatus_TUNNEL_STATUS_UP:
		c.Up++
	case swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED:
		c.Degraded++
		if OverSLA(t) {
			c.SlaViolated++
		}
	case swanherdv1.TunnelStatus_TUNNEL_STATUS_DOWN:
		c.Down++
		return
	case swanherdv1.TunnelStatus_TUNNEL_STATUS_NEGOTIATING:
		c.Negotiating++
		return
	default:
		c.Stale++
		return
	}
	if y.reached == nil {
		y.reached = map[string]struct{}{}
	}
	y.reached[t.GetA().GetSite()] = struct{}{}
	y.reached[t.GetB().GetSite()] = struct{}{}
}

// Edge counts an edge by its status.
func (y *Tally) Edge(s *swanherdv1.EdgeStatus) {
	y.counts.Edges++
	if s.GetConnected() {
		y.counts.EdgesConnected++
	}
	if s.GetConnected() && inSync(s.GetIntentState()) {
		y.counts.EdgesInSync++
	}
}

// Site counts a site by its name, after the tunnels.
func (y *Tally) Site(name string) {
	y.counts.Sites++
	if _, ok := y.reached[name]; !ok {
		y.counts.SitesIsolated++
	}
}

// Counts is what was counted.
func (y *Tally) Counts() *swanherdv1.FleetCounts { return &y.counts }

// inSync reports whether an edge in that state runs what is planned for it.
func inSync(s swanherdv1.IntentState) bool {
	return s == swanherdv1.IntentState_INTENT_STATE_APPLIED || s == swanherdv1.IntentState_INTENT_STATE_CONFIRMED
}

// Changes is a Delta with what there is to say of edges whose state is not known.
type Changes struct {
	Delta
	// Unreachable are those of Edges whose home, another replica, lives and cannot be
	// reached: whether they have a session is unknown.
	Unreachable map[string]struct{}
}

// Changes returns what changed in all networks after seq, as Since does. It is for who
// always looks: it does not count as somebody's interest in counters.
func (f *Fleet) Changes(seq uint64) Changes {
	f.mu.RLock()
	defer f.mu.RUnlock()
	c := Changes{Delta: f.since(seq, AllNetworks), Unreachable: map[string]struct{}{}}
	for _, e := range c.Edges {
		if held := f.edges[e.GetName()]; held != nil && held.unreachable {
			c.Unreachable[e.GetName()] = struct{}{}
		}
	}
	return c
}

// Seen is a tunnel of which this replica keeps the history.
type Seen struct {
	Tunnel *swanherdv1.Tunnel
	// End is the one that counts: the first whose edge has a session here; nil: neither.
	End *swanherdv1.TunnelEnd
}

// Seen returns the tunnels whose transitions this replica records: each is with one
// replica.
func (f *Fleet) Seen() []Seen {
	f.mu.RLock()
	defer f.mu.RUnlock()
	out := make([]Seen, 0, len(f.tunnels))
	for _, t := range f.tunnels {
		if !f.records(t) {
			continue
		}
		s := Seen{Tunnel: t.view}
		for _, end := range []*swanherdv1.TunnelEnd{t.view.GetA(), t.view.GetB()} {
			if e := f.edges[end.GetEdge()]; s.End == nil && e != nil && e.session != "" && e.home == "" {
				s.End = end
			}
		}
		out = append(out, s)
	}
	return out
}
