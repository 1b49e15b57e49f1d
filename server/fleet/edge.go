package fleet

import (
	"maps"
	"slices"
	"time"
	"unique"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// SessionStart is what an edge says of itself when its session begins.
type SessionStart struct {
	// ID tells the session from others of the same edge.
	ID           string
	AgentVersion string
	DataPlane    string
	// Uplinks as the edge sees them now.
	Uplinks []*swanherdv1.Uplink
	// BootID is new with each start of the agent.
	BootID string
	// CertificateSerial of the control certificate by which it proved itself.
	CertificateSerial string
}

// Connect notes that edge has a session. A session it had before is replaced.
// It returns false when the fleet has no such edge.
func (f *Fleet) Connect(name string, s SessionStart) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.edges[name]
	if e == nil {
		return false
	}
	now := time.Now()
	was := e.status.GetConnected()
	status := proto.Clone(e.status).(*swanherdv1.EdgeStatus)
	status.Connected = true
	status.LastSeenTime = timestamppb.New(now)
	status.AgentVersion = s.AgentVersion
	status.DataPlane = s.DataPlane
	e.session, e.status, e.stale, e.uplinks, e.boot = s.ID, status, false, s.Uplinks, s.BootID
	e.certificate = s.CertificateSerial
	e.arrive(now)
	f.publishEdge(e, toldHere)
	f.refreshTunnelsOf(e, now)
	f.cfg.Recorder.edgeConnected(e.record(), !was)
	return true
}

// record is what the store keeps of the edge's status.
func (e *edge) record() *storev1.EdgeStatus {
	out := &storev1.EdgeStatus{
		Edge:    e.stored.GetName(),
		Uplinks: e.uplinks,
		Status:  e.status,
		BootId:  e.boot,

		CertificateSerial: e.certificate,
	}
	if !e.began.IsZero() {
		out.SessionStartTime = timestamppb.New(e.began)
	}
	return out
}

// Disconnect notes that the session with the given id ended. It does nothing
// when the edge has another session by now.
func (f *Fleet) Disconnect(name, session, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.edges[name]
	if e == nil || e.session != session {
		return
	}
	now := time.Now()
	status := proto.Clone(e.status).(*swanherdv1.EdgeStatus)
	status.Connected = false
	status.LastSeenTime = timestamppb.New(now)
	e.session, e.status, e.lost = "", status, now
	f.publishEdge(e, toldHere)
	f.refreshTunnelsOf(e, now)
	f.cfg.Recorder.edgeDisconnected(e.record(), reason)
}

// SetUplinks notes the WAN attachments that edge reported. They come back
// through the store, where the planner sees them.
func (f *Fleet) SetUplinks(name string, uplinks []*swanherdv1.Uplink) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.edges[name]
	if e == nil || slices.EqualFunc(e.uplinks, uplinks, sameUplink) {
		return
	}
	e.uplinks = uplinks
	f.cfg.Recorder.uplinksChanged(e.record())
}

// IntentProgress is how far an edge is with its intent.
type IntentProgress struct {
	PlannedRevision int64
	AppliedRevision int64
	State           swanherdv1.IntentState
	// Error is why it does not run its newest intent.
	Error string
	// ConflictEpoch is where it comes from what the edge runs, if that is the reason.
	ConflictEpoch string
	// Awaited are the tunnels that the edge waits for before it keeps what it runs.
	Awaited []string
}

func (p IntentProgress) is(s *swanherdv1.EdgeStatus) bool {
	return p.PlannedRevision == s.GetPlannedRevision() && p.AppliedRevision == s.GetAppliedRevision() && p.State == s.GetIntentState() &&
		p.Error == s.GetIntentError() && p.ConflictEpoch == s.GetConflictEpoch() && slices.Equal(p.Awaited, s.GetAwaitedTunnels())
}

// SetIntent notes how far edge is with its intent.
func (f *Fleet) SetIntent(name string, p IntentProgress) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.edges[name]
	if e == nil || p.is(e.status) {
		return
	}
	status := proto.Clone(e.status).(*swanherdv1.EdgeStatus)
	status.PlannedRevision = p.PlannedRevision
	status.AppliedRevision = p.AppliedRevision
	status.IntentState = p.State
	status.IntentError = p.Error
	status.ConflictEpoch = p.ConflictEpoch
	status.AwaitedTunnels = p.Awaited
	// What an edge confirmed is counted on, also where this replica has known it as confirmed
	// only from another one, which may have ended before it wrote it down.
	changed := e.status.GetIntentState() != p.State ||
		p.State == swanherdv1.IntentState_INTENT_STATE_CONFIRMED && e.status.GetAppliedRevision() != p.AppliedRevision
	e.status = status
	f.publishEdge(e, toldHere)
	if changed {
		f.cfg.Recorder.intentChanged(e.record())
	}
}

const (
	// tripNews is by how much the round trip to an edge has to differ, besides by half or
	// to the double, for that to be told on; clockNews is so for its clock.
	tripNews  = 5 * time.Millisecond
	clockNews = 500 * time.Millisecond
)

// SetTiming notes how long a message to edge and back takes, and how far its clock is ahead
// of ours. Little changes are not told on: all edges measure all the time.
func (f *Fleet) SetTiming(name string, roundTrip, clockOffset time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.edges[name]
	if e == nil {
		return
	}
	trip, offset := e.status.GetControlRoundTrip(), e.status.GetClockOffset()
	if trip != nil && roundTrip < 2*trip.AsDuration()+tripNews && roundTrip > trip.AsDuration()/2-tripNews &&
		(clockOffset-offset.AsDuration()).Abs() < clockNews {
		return
	}
	status := proto.CloneOf(e.status)
	status.ControlRoundTrip, status.ClockOffset = durationpb.New(roundTrip), durationpb.New(clockOffset)
	e.status = status
	f.publishEdge(e, toldHere)
}

// Note records as an event what an edge tells; action is its kind, such as
// `edge.drift_repaired`.
func (f *Fleet) Note(name, action, message string) {
	f.mu.RLock()
	known := f.edges[name] != nil
	f.mu.RUnlock()
	if known {
		f.cfg.Recorder.noted(name, action, message)
	}
}

// Report takes in what edge says of its tunnels. Tunnels that are not planned
// for the edge are left out.
func (f *Fleet) Report(name string, r *swanherdv1.StatusReport) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.edges[name]
	if e == nil {
		return
	}
	now := time.Now()
	received := timestamppb.New(now)
	touched, before := map[string]struct{}{}, e.reports
	if r.GetFull() {
		before = maps.Clone(e.reports)
		for t := range e.reports {
			touched[t] = struct{}{}
		}
		for t := range e.tunnels { // of which others may have a report from another session
			touched[t] = struct{}{}
		}
		clear(e.reports)
	}
	for _, t := range r.GetRemoved() {
		if _, ok := e.reports[t]; ok {
			delete(e.reports, t)
			touched[t] = struct{}{}
		}
	}
	for _, m := range r.GetTunnels() {
		if _, planned := e.tunnels[m.GetTunnel()]; planned {
			keepCounters(m, before[m.GetTunnel()].message)
			f.cfg.Recorder.pathTaken(name, m, before[m.GetTunnel()].message)
			f.shareWords(m)
			e.reports[m.GetTunnel()] = report{message: m, received: received}
			touched[m.GetTunnel()] = struct{}{}
		}
	}
	for name := range touched {
		if t := f.tunnels[name]; t != nil { // a report that came by a replica may be ahead of the plan
			f.refreshTunnel(t, now, toldHere)
		}
	}
}

// Count takes in the counters of edge's SAs. Counters of an SA that the edge
// has not reported are left out: its report follows.
func (f *Fleet) Count(name string, r *swanherdv1.CounterReport) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.edges[name]
	if e == nil {
		return
	}
	now := time.Now()
	received := timestamppb.New(now)
	for _, t := range r.GetTunnels() {
		old, ok := e.reports[t.GetTunnel()]
		row := f.tunnels[t.GetTunnel()]
		if !ok || row == nil {
			continue
		}
		if m, changed := withCounters(old.message, t); changed {
			e.reports[t.GetTunnel()] = report{message: m, received: received}
			f.refreshTunnel(row, now, countedHere)
		}
	}
}

// keepCounters gives a report that has none the counters of the one before, where the SAs
// are the same: a transition is told without.
func keepCounters(m, before *swanherdv1.TunnelReport) {
	if m.GetQuality() == nil {
		m.Quality = before.GetQuality()
	}
	for _, sa := range m.GetChildSas() {
		for _, old := range before.GetChildSas() {
			if sa.GetCounters() == nil && sa.GetSpiIn() == old.GetSpiIn() {
				sa.Counters = old.GetCounters()
			}
		}
	}
}

// shareWords has the report hold what it has in common with others that come about the
// same time, until the collector's next run: names, suites and selectors are more than half
// of its text.
func (f *Fleet) shareWords(m *swanherdv1.TunnelReport) {
	if t := f.tunnels[m.GetTunnel()]; t != nil {
		m.Tunnel = t.plan.GetName()
	}
	if sa := m.GetIkeSa(); sa != nil {
		sa.Suite = shared(sa.GetSuite())
	}
	for _, sa := range m.GetChildSas() {
		sa.Name, sa.Suite, sa.Mode = shared(sa.GetName()), shared(sa.GetSuite()), shared(sa.GetMode())
		for _, selectors := range [][]string{sa.GetLocalTs(), sa.GetRemoteTs()} {
			for i, s := range selectors {
				selectors[i] = shared(s)
			}
		}
	}
}

// shared is s as others have it that are equal. Nothing keeps what nobody holds: an edge
// cannot fill a table with names.
func shared(s string) string { return unique.Make(s).Value() }

// withCounters returns a copy of m with the counters in it.
func withCounters(m *swanherdv1.TunnelReport, counters *swanherdv1.TunnelCounters) (*swanherdv1.TunnelReport, bool) {
	out := proto.Clone(m).(*swanherdv1.TunnelReport)
	changed := !proto.Equal(out.GetQuality(), counters.GetQuality())
	out.Quality = counters.GetQuality()
	for _, c := range counters.GetChildren() {
		for _, sa := range out.GetChildSas() {
			if sa.GetSpiIn() == c.GetSpiIn() && !proto.Equal(sa.GetCounters(), c.GetCounters()) {
				sa.Counters = c.GetCounters()
				changed = true
			}
		}
	}
	return out, changed
}

func sameUplink(a, b *swanherdv1.Uplink) bool { return proto.Equal(a, b) }
