package fleet

import (
	"path"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	replicav1 "github.com/swanherd/swanherd/proto/swanherd/replica/v1"
)

// away is what there is to an edge's session besides its being here.
type away struct {
	// home is the replica that holds the edge's session or held its last one; empty:
	// this one.
	home string
	// began is when the newest session of the edge that is known here began, by the
	// clock of its home. Of two sessions the later counts.
	began time.Time
	// unreachable: home is alive but tells nothing, so that nobody can say whether the
	// edge has a session.
	unreachable bool
	// orphaned is when the session ended with its home, which is not in the records yet;
	// zero: it did not.
	orphaned time.Time
}

// arrive notes a session here. It is later than any other that this replica has heard
// of, whatever the clocks say.
func (a *away) arrive(now time.Time) {
	if !now.After(a.began) {
		now = a.began.Add(1)
	}
	*a = away{began: now}
}

// isHere says whether the newest session of the edge is, or was, with this replica.
func (a *away) isHere() bool { return a.home == "" && !a.began.IsZero() }

// early is what a replica said of an edge before the edge was known here.
type early struct {
	home    string
	session *replicav1.EdgeSession
	ends    map[string]*replicav1.EndReport // by tunnel
}

// Share is what edges told this replica itself.
type Share struct {
	Edges []*replicav1.EdgeSession
	Ends  []*replicav1.EndReport
}

// ShareSince returns what changed after the sequence number after, 0 for all that there
// is, and the number to go on from. Counters, which change all the time, are in it from
// the number counters on; negative: none.
func (f *Fleet) ShareSince(after uint64, counters int64) (Share, uint64) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	var s Share
	for el := f.order.Front(); el != nil; el = el.Next() {
		r := el.Value.(*row)
		if r.seq <= after && (counters < 0 || r.seq <= uint64(counters)) {
			break
		}
		if r.removed.IsZero() && (r.told > after || counters >= 0 && r.counted > uint64(counters)) {
			f.share(&s, r)
		}
	}
	return s, f.seq
}

func (f *Fleet) share(s *Share, r *row) {
	if r.isEdge {
		if e := f.edges[r.name]; e.isHere() {
			s.Edges = append(s.Edges, e.shared())
		}
		return
	}
	for _, end := range []string{r.tunnel.GetA().GetEdge(), r.tunnel.GetB().GetEdge()} {
		e := f.edges[end]
		if e == nil || !e.isHere() {
			continue
		}
		out := &replicav1.EndReport{Edge: end, Tunnel: r.name}
		if held, ok := e.reports[r.name]; ok {
			out.Report, out.ReceiveTime = held.message, held.received
		}
		s.Ends = append(s.Ends, out)
	}
}

func (e *edge) shared() *replicav1.EdgeSession {
	s := &replicav1.EdgeSession{
		Edge:      e.stored.GetName(),
		StartTime: timestamppb.New(e.began),
		BootId:    e.boot,
		Uplinks:   e.uplinks,
		Status:    e.status,
	}
	if e.session == "" {
		s.EndTime = timestamppb.New(e.lost)
	}
	return s
}

// Superseded is a session here that the edge has left for one at another replica.
type Superseded struct{ Edge, Session string }

// Adopt takes in what another replica shares. What it says of an edge that has been
// elsewhere since is left out. It returns the sessions here that are over by it.
func (f *Fleet) Adopt(replica string, s Share) []Superseded {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	var over []Superseded
	for _, session := range s.Edges {
		e := f.edges[session.GetEdge()]
		if e == nil {
			f.earlyOf(session.GetEdge(), replica).session = session
			continue
		}
		here := e.session
		if wasHere := e.home == "" && here != ""; f.adoptEdge(e, replica, session, now) && wasHere {
			over = append(over, Superseded{session.GetEdge(), here})
		}
	}
	for _, end := range s.Ends {
		if e := f.edges[end.GetEdge()]; e != nil {
			f.adoptEnd(e, replica, end, now)
		} else {
			f.earlyOf(end.GetEdge(), replica).ends[end.GetTunnel()] = end
		}
	}
	return over
}

func (f *Fleet) earlyOf(edge, replica string) *early {
	if w := f.early[edge]; w != nil && w.home == replica {
		return w
	}
	w := &early{home: replica, ends: map[string]*replicav1.EndReport{}}
	f.early[edge] = w
	return w
}

// catchUp takes in what was said of e before it was known.
func (f *Fleet) catchUp(e *edge, now time.Time) {
	name := e.stored.GetName()
	w := f.early[name]
	if w == nil {
		return
	}
	delete(f.early, name)
	if w.session == nil || !f.adoptEdge(e, w.home, w.session, now) {
		return
	}
	for _, end := range w.ends {
		f.adoptEnd(e, w.home, end, now)
	}
}

// adoptEdge returns whether what the replica says of e counts.
func (f *Fleet) adoptEdge(e *edge, replica string, s *replicav1.EdgeSession, now time.Time) bool {
	began := s.GetStartTime().AsTime()
	if began.Before(e.began) || e.home != replica && began.Equal(e.began) {
		return false
	}
	status := proto.CloneOf(s.GetStatus())
	status.CertificateExpireTime = e.status.GetCertificateExpireTime()
	wasLive, wasHome := e.session != "", e.home
	e.away = away{home: replica, began: began}
	e.status, e.boot, e.uplinks = status, s.GetBootId(), s.GetUplinks()
	if s.GetEndTime() == nil {
		e.session, e.stale = replica, false
	} else {
		e.session = ""
		if wasLive || e.lost.IsZero() {
			e.lost = now
		}
	}
	f.publishEdge(e, noNews)
	if wasLive != (e.session != "") || wasHome != replica {
		f.refreshTunnelsOf(e, now)
	}
	return true
}

// adoptEnd keeps reports of tunnels that are not planned here yet: the plan follows.
func (f *Fleet) adoptEnd(e *edge, replica string, end *replicav1.EndReport, now time.Time) {
	if e.home != replica {
		return
	}
	held, known := e.reports[end.GetTunnel()]
	switch {
	case end.GetReport() == nil && !known, known && proto.Equal(held.message, end.GetReport()):
		return
	case end.GetReport() == nil:
		delete(e.reports, end.GetTunnel())
	default:
		e.reports[end.GetTunnel()] = report{message: end.GetReport(), received: end.GetReceiveTime()}
	}
	if t := f.tunnels[end.GetTunnel()]; t != nil {
		f.refreshTunnel(t, now, noNews)
	}
}

// Unreachable notes that a replica which lives cannot be followed: what became of its
// edges is unknown. Adopt makes it known again.
func (f *Fleet) Unreachable(replica string) { f.loseHome(replica, true) }

// Gone notes that a replica ended, and with it the sessions that it held.
func (f *Fleet) Gone(replica string) { f.loseHome(replica, false) }

func (f *Fleet) loseHome(replica string, unreachable bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for name, w := range f.early {
		if w.home == replica {
			delete(f.early, name)
		}
	}
	for _, e := range f.edges {
		if e.home != replica || e.session == "" && !e.unreachable {
			continue
		}
		if e.session != "" {
			status := proto.CloneOf(e.status)
			status.Connected = false
			status.LastSeenTime = timestamppb.New(now)
			e.session, e.status, e.lost = "", status, now
		}
		e.unreachable, e.orphaned = unreachable, now
		f.publishEdge(e, noNews)
		f.refreshTunnelsOf(e, now)
	}
}

// recordLost has the leader record that an edge lost its session with its home, unless
// the edge came back to another replica in time.
func (f *Fleet) recordLost(e *edge, now time.Time) {
	if e.orphaned.IsZero() || e.unreachable || now.Sub(e.orphaned) < f.cfg.StaleAfter {
		return
	}
	e.orphaned = time.Time{}
	if f.leads() {
		f.cfg.Recorder.edgeDisconnected(e.record(), "its replica of the controller, "+path.Base(e.home)+", ended, and it did not come to another")
	}
	f.refreshTunnelsOf(e, now)
}

func (f *Fleet) leads() bool { return f.cfg.Leads == nil || f.cfg.Leads() }

// records says whether it is this replica that records what becomes of t: the home of
// its first end that has a session, and the leader when neither has one.
func (f *Fleet) records(t *tunnel) bool {
	for _, end := range []string{t.plan.GetA().GetEdge(), t.plan.GetB().GetEdge()} {
		if e := f.edges[end]; e != nil && e.session != "" {
			return e.home == ""
		}
	}
	return f.leads()
}

// sure says whether the status of t is what is, not what this replica cannot see.
func (f *Fleet) sure(t *tunnel) bool {
	for _, end := range []string{t.plan.GetA().GetEdge(), t.plan.GetB().GetEdge()} {
		if e := f.edges[end]; e != nil && (e.unreachable || !e.orphaned.IsZero()) {
			return false
		}
	}
	return true
}
