package fleet

import (
	"container/list"
	"context"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Defaults of Config.
const (
	// DefaultStaleAfter is short enough that an operator sees a lost edge at
	// once and long enough for an edge to redial.
	DefaultStaleAfter = 10 * time.Second
	// tombstoneLife is how long the fleet remembers that a row is gone, for
	// readers that are behind. A reader further behind starts anew.
	tombstoneLife = 10 * time.Minute
	sweepInterval = time.Second
)

// Config configures a Fleet.
type Config struct {
	// StaleAfter is how long an edge may be without a session before its
	// tunnels are shown as STALE. Default DefaultStaleAfter.
	StaleAfter time.Duration
	// Recorder gets transitions to keep; nil keeps none.
	Recorder *Recorder
	// Leads says whether this replica leads: the leader records what no replica saw
	// first hand. Nil: it is the only one.
	Leads func() bool
}

// Change is how what the fleet should consist of differs from before. What goes is not
// in what comes.
type Change struct {
	// Edges that are new or differ, as stored, uplinks included; and names of those
	// that are gone.
	Edges        []*swanherdv1.Edge
	RemovedEdges []string
	// Sites by resource name.
	Sites, RemovedSites []string
	// Tunnels as planned: names and ends, no reports, no status.
	Tunnels        []*swanherdv1.Tunnel
	RemovedTunnels []string
}

// Fleet holds the live state. Its zero value is not usable, see New.
type Fleet struct {
	cfg Config

	mu      sync.RWMutex
	seq     uint64
	rows    map[string]*row
	order   *list.List // of *row, the last changed first
	floor   uint64     // readers below it have missed tombstones
	tunnels map[string]*tunnel
	edges   map[string]*edge
	sites   map[string]struct{}
	// early is what other replicas say of edges that are not known here yet.
	early map[string]*early

	// countSeq is the sequence number of the last change that a count depends on.
	countSeq   uint64
	countCache map[string]cachedCounts

	watched atomic.Int64 // when somebody last looked, in nanoseconds of Unix time
}

// row is a thing that readers follow by sequence number: a tunnel or an edge.
type row struct {
	name    string
	seq     uint64
	elem    *list.Element
	tunnel  *swanherdv1.Tunnel // nil for an edge
	edge    *swanherdv1.Edge   // nil for a tunnel
	isEdge  bool
	removed time.Time // zero while it exists
	// told and counted are the sequence numbers of the last change, of the last
	// counters, that an edge brought to this replica: what others have to hear of.
	told, counted uint64
}

// news is what a change of a row is to other replicas.
type news int

const (
	noNews      news = iota // they find it out by themselves, or know it
	toldHere                // an edge told this replica
	countedHere             // counters that an edge told this replica
)

type tunnel struct {
	plan *swanherdv1.Tunnel
	view *swanherdv1.Tunnel
	// settled is false until enough was reported, see settles. Changes before
	// that are the controller learning, not transitions.
	settled bool
	// recorded is the last status that is in the records, or was not worth it.
	recorded swanherdv1.TunnelStatus
}

type edge struct {
	stored  *swanherdv1.Edge
	uplinks []*swanherdv1.Uplink // as last reported
	status  *swanherdv1.EdgeStatus
	boot    string // of its last Hello
	// certificate is the serial number of that of its last session.
	certificate string
	session     string    // id of its session, empty without one
	lost        time.Time // when the session ended; zero if there was none
	stale       bool      // last sweep found it silent for longer than StaleAfter
	reports     map[string]report
	tunnels     map[string]struct{} // planned for it
	away
}

type report struct {
	message  *swanherdv1.TunnelReport
	received *timestamppb.Timestamp // shared, and never changed
}

// New returns an empty fleet.
func New(cfg Config) *Fleet {
	if cfg.StaleAfter == 0 {
		cfg.StaleAfter = DefaultStaleAfter
	}
	return &Fleet{
		cfg:        cfg,
		rows:       map[string]*row{},
		order:      list.New(),
		tunnels:    map[string]*tunnel{},
		edges:      map[string]*edge{},
		sites:      map[string]struct{}{},
		early:      map[string]*early{},
		countCache: map[string]cachedCounts{},
	}
}

// Run ages the state until ctx ends: edges without a session become stale,
// tombstones are dropped.
func (f *Fleet) Run(ctx context.Context) error {
	t := time.NewTicker(sweepInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-t.C:
			f.sweep(now)
		}
	}
}

func (f *Fleet) sweep(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.edges {
		if e.session == "" && !e.stale && !e.lost.IsZero() && now.Sub(e.lost) >= f.cfg.StaleAfter {
			e.stale = true
			f.refreshTunnelsOf(e, now)
		}
		f.recordLost(e, now)
	}
	for el := f.order.Back(); el != nil; {
		r, prev := el.Value.(*row), el.Prev()
		if !r.removed.IsZero() && now.Sub(r.removed) > tombstoneLife {
			f.floor = max(f.floor, r.seq)
			f.order.Remove(el)
			delete(f.rows, r.name)
		}
		el = prev
	}
}

// Apply takes in a change. It costs what the change touches, not what there is. Reports
// that the ends of a tunnel sent stay as long as the tunnel keeps its ends.
func (f *Fleet) Apply(c Change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for _, name := range c.RemovedTunnels {
		f.removeTunnel(name, now)
	}
	for _, name := range c.RemovedEdges {
		if f.edges[name] != nil {
			delete(f.edges, name)
			f.bury(name, now)
		}
	}
	f.setSites(c)
	for _, stored := range c.Edges {
		f.setEdge(stored, now)
	}
	for _, planned := range c.Tunnels {
		f.setTunnel(planned, now)
	}
}

func (f *Fleet) setSites(c Change) {
	had := len(f.sites)
	for _, name := range c.RemovedSites {
		delete(f.sites, name)
	}
	kept := len(f.sites)
	for _, name := range c.Sites {
		f.sites[name] = struct{}{}
	}
	if kept < had || len(f.sites) > kept {
		f.countSeq = f.nextSeq()
	}
}

func (f *Fleet) setEdge(stored *swanherdv1.Edge, now time.Time) {
	e := f.edges[stored.GetName()]
	if e == nil {
		e = newEdge(stored)
		f.edges[stored.GetName()] = e
		defer f.catchUp(e, now)
	} else if e.stored.GetUid() != stored.GetUid() {
		// Deleted, and enrolled anew under its name: it starts without reports.
		planned := e.tunnels
		e = newEdge(stored)
		e.tunnels = planned
		f.edges[stored.GetName()] = e
		f.refreshTunnelsOf(e, now)
	} else if !e.certify(stored.GetStatus().GetCertificateExpireTime()) && sameEdge(e.stored, stored) {
		return
	}
	e.stored = stored
	f.publishEdge(e, noNews)
}

// certify notes when the edge's newest control certificate expires, the one
// part of its status that the store knows better, and says whether that is new.
func (e *edge) certify(expire *timestamppb.Timestamp) bool {
	if proto.Equal(e.status.GetCertificateExpireTime(), expire) {
		return false
	}
	status := proto.Clone(e.status).(*swanherdv1.EdgeStatus)
	status.CertificateExpireTime = expire
	e.status = status
	return true
}

// sameEdge compares what is stored of an edge apart from its status, which the
// fleet knows better.
func sameEdge(a, b *swanherdv1.Edge) bool {
	return a == b || a.GetEtag() == b.GetEtag() && a.GetUid() == b.GetUid() && a.GetSite() == b.GetSite() &&
		a.GetDisabled() == b.GetDisabled() && a.GetDisplayName() == b.GetDisplayName() &&
		slices.EqualFunc(a.GetUplinks(), b.GetUplinks(), sameUplink)
}

func newEdge(stored *swanherdv1.Edge) *edge {
	status, _ := proto.Clone(stored.GetStatus()).(*swanherdv1.EdgeStatus)
	if status == nil {
		status = &swanherdv1.EdgeStatus{}
	}
	// What the store says of a connection is from an earlier life.
	status.Connected = false
	return &edge{
		stored:  stored,
		uplinks: stored.GetUplinks(),
		status:  status,
		stale:   true,
		reports: map[string]report{},
		tunnels: map[string]struct{}{},
	}
}

func (f *Fleet) setTunnel(planned *swanherdv1.Tunnel, now time.Time) {
	t := f.tunnels[planned.GetName()]
	if t == nil {
		t = &tunnel{}
		f.tunnels[planned.GetName()] = t
	}
	if indexed := f.index(planned); indexed && samePlan(t.plan, planned) {
		return
	}
	t.plan = planned
	f.refreshTunnel(t, now, noNews)
}

func (f *Fleet) removeTunnel(name string, now time.Time) {
	t := f.tunnels[name]
	if t == nil {
		return
	}
	delete(f.tunnels, name)
	for _, end := range []string{t.plan.GetA().GetEdge(), t.plan.GetB().GetEdge()} {
		if e := f.edges[end]; e != nil {
			delete(e.tunnels, name)
			delete(e.reports, name)
		}
	}
	f.bury(name, now)
}

// index notes the tunnel at its edges and returns whether it was there before.
func (f *Fleet) index(p *swanherdv1.Tunnel) bool {
	known := true
	for _, end := range []string{p.GetA().GetEdge(), p.GetB().GetEdge()} {
		e := f.edges[end]
		if e == nil {
			continue
		}
		if _, ok := e.tunnels[p.GetName()]; !ok {
			e.tunnels[p.GetName()] = struct{}{}
			known = false
		}
	}
	return known
}

// samePlan compares what was planned, apart from the revision: a tunnel that a
// new plan leaves as it is must not cost every viewer a row.
func samePlan(a, b *swanherdv1.Tunnel) bool {
	return a.GetMesh() == b.GetMesh() && proto.Equal(a.GetA(), b.GetA()) && proto.Equal(a.GetB(), b.GetB())
}

func (f *Fleet) nextSeq() uint64 {
	f.seq++
	return f.seq
}

// publish makes r the last changed row.
func (f *Fleet) publish(r *row, n news) {
	r.seq = f.nextSeq()
	r.removed = time.Time{}
	if old := f.rows[r.name]; old != nil {
		f.order.Remove(old.elem)
		r.told, r.counted = old.told, old.counted
	}
	switch n {
	case toldHere:
		r.told = r.seq
	case countedHere:
		r.counted = r.seq
	}
	f.rows[r.name] = r
	r.elem = f.order.PushFront(r)
}

func (f *Fleet) bury(name string, now time.Time) {
	old := f.rows[name]
	if old == nil {
		return
	}
	f.publish(&row{name: name, isEdge: old.isEdge}, noNews)
	f.rows[name].removed = now
	f.countSeq = f.seq
}

func (f *Fleet) publishEdge(e *edge, n news) {
	view := shallow(e.stored)
	view.Status = e.status // never changed, but exchanged
	f.publish(&row{name: view.GetName(), edge: view, isEdge: true}, n)
	f.countSeq = f.seq
}

// shallow returns a copy of a message whose lists and messages are m's own: nobody changes
// what is in a row, and what an edge says often must not cost a copy of all that is known.
func shallow[M proto.Message](m M) M {
	to := m.ProtoReflect().New()
	m.ProtoReflect().Range(func(d protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		to.Set(d, v)
		return true
	})
	return to.Interface().(M)
}

// refreshTunnel computes t's view anew and publishes it.
func (f *Fleet) refreshTunnel(t *tunnel, now time.Time, n news) {
	view := &swanherdv1.Tunnel{
		Name:            t.plan.GetName(),
		Mesh:            t.plan.GetMesh(),
		Segment:         t.plan.GetSegment(),
		Path:            t.plan.GetPath(),
		PlannedRevision: t.plan.GetPlannedRevision(),
		Obstacle:        t.plan.GetObstacle(),
	}
	var a, b endState
	view.A, a = f.end(t.plan.GetName(), t.plan.GetA(), now)
	view.B, b = f.end(t.plan.GetName(), t.plan.GetB(), now)
	if b.gateway = t.plan.GetB().GetGateway(); b.gateway != "" {
		view.B.Stale = false // it never has a session
		view.Status, view.Reason = statusWithGateway(a)
	} else {
		view.Status, view.Reason = statusOf(a, b)
	}
	if view.GetObstacle() != "" && view.GetReason() != "" && view.GetStatus() != swanherdv1.TunnelStatus_TUNNEL_STATUS_UP {
		view.Reason += "; " + view.GetObstacle()
	}
	view.Reason = clip(view.GetReason())
	old := t.view
	if old.GetStatus() == view.GetStatus() {
		view.StatusTime = old.GetStatusTime()
	} else {
		view.StatusTime = timestamppb.New(now)
	}
	t.view = view
	f.publish(&row{name: view.GetName(), tunnel: view}, n)
	if old.GetStatus() != view.GetStatus() {
		f.countSeq = f.seq
	}
	if t.recorded != view.GetStatus() && f.sure(t) {
		if t.settled && f.records(t) {
			f.cfg.Recorder.tunnelChanged(view)
		}
		t.recorded = view.GetStatus()
	}
	t.settled = t.settled || settles(a, b)
}

// settles says whether what the ends reported is enough to call the next change
// a transition: both have spoken, or the one that can, or one says that it has no SA. After a start
// of the controller the reports of a tunnel that was up all along come one
// after the other, and are none.
func settles(a, b endState) bool {
	if b.gateway != "" {
		return a.report != nil
	}
	return a.report != nil && b.report != nil || a.report != nil && !a.usable() || b.report != nil && !b.usable()
}

func (f *Fleet) end(tunnel string, plan *swanherdv1.TunnelEnd, now time.Time) (*swanherdv1.TunnelEnd, endState) {
	view := shallow(plan)
	state := endState{edge: plan.GetEdge()}
	view.Stale = true
	e := f.edges[plan.GetEdge()]
	if e == nil {
		return view, state
	}
	view.Stale = e.session == ""
	state.live = !e.stale
	if !e.lost.IsZero() {
		state.silence = max(now.Sub(e.lost), 1)
	}
	if e.unreachable {
		state.unreachable = path.Base(e.home)
	}
	if r, ok := e.reports[tunnel]; ok {
		state.report = r.message
		view.Report = r.message
		view.ReceiveTime = r.received
		if r.message.GetLocalEndpoint() != "" {
			view.Endpoint = r.message.GetLocalEndpoint()
		}
	}
	return view, state
}

func (f *Fleet) refreshTunnelsOf(e *edge, now time.Time) {
	for name := range e.tunnels {
		f.refreshTunnel(f.tunnels[name], now, noNews)
	}
}

// inNetwork says whether name lies in the network, `networks/n`, or in any
// network when network is `networks/-`.
func inNetwork(name, network string) bool {
	return network == AllNetworks || strings.HasPrefix(name, network+"/")
}

// AllNetworks is the parent that stands for every network (AIP-159).
const AllNetworks = "networks/-"
