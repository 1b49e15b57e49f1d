package fleet

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// maxPendingEvents bounds what a store that does not answer makes the
	// controller hold; the oldest events go first.
	maxPendingEvents = 10000
	recordRetry      = time.Second
)

// Record is what there is to write down.
type Record struct {
	// Events without names: the journal gives them.
	Events []*swanherdv1.Event
	// Statuses, at most one of an edge.
	Statuses []*storev1.EdgeStatus
}

// Journal keeps records.
type Journal interface {
	// Record stores r as a whole. The recorder repeats it when it fails.
	Record(ctx context.Context, r Record) error
}

// Recorder writes transitions to a Journal, in batches and off the path of the
// reports that cause them. Of statuses of one edge only the newest is written.
type Recorder struct {
	journal Journal
	log     *slog.Logger
	wake    chan struct{}

	mu       sync.Mutex
	events   []*swanherdv1.Event
	statuses map[string]*storev1.EdgeStatus
	dropped  int
	bursts   bursts
}

// NewRecorder returns a recorder that writes to journal once it runs.
func NewRecorder(journal Journal, log *slog.Logger) *Recorder {
	return &Recorder{
		journal:  journal,
		log:      log,
		wake:     make(chan struct{}, 1),
		statuses: map[string]*storev1.EdgeStatus{},
		bursts:   bursts{},
	}
}

// Run writes what accrues until ctx ends, and then what is left, once.
func (r *Recorder) Run(ctx context.Context) error {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			if !r.endBursts(now) {
				continue
			}
		case <-ctx.Done():
			r.endBursts(time.Now().Add(burstQuiet))
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
			defer cancel()
			return r.flush(last)
		case <-r.wake:
		}
		if err := r.flush(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn("cannot record transitions, retrying", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(recordRetry):
			}
			r.signal()
		}
	}
}

// endBursts says whether there is something to tell of bursts.
func (r *Recorder) endBursts(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	over := r.bursts.over(now)
	r.events = append(r.events, over...)
	return len(over) > 0
}

func (r *Recorder) flush(ctx context.Context) error {
	r.mu.Lock()
	rec := Record{Events: r.events}
	for _, s := range r.statuses {
		rec.Statuses = append(rec.Statuses, s)
	}
	r.events, r.statuses = nil, map[string]*storev1.EdgeStatus{}
	if r.dropped > 0 {
		r.log.Warn("dropped events that the store did not take in time", "count", r.dropped)
		r.dropped = 0
	}
	r.mu.Unlock()
	if len(rec.Events) == 0 && len(rec.Statuses) == 0 {
		return nil
	}
	slices.SortFunc(rec.Statuses, func(a, b *storev1.EdgeStatus) int { return cmp.Compare(a.GetEdge(), b.GetEdge()) })
	err := r.journal.Record(ctx, rec)
	if err != nil {
		r.restore(rec)
	}
	return err
}

// restore puts back what could not be written, behind what is newer.
func (r *Recorder) restore(rec Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(rec.Events, r.events...)
	if over := len(r.events) - maxPendingEvents; over > 0 {
		r.events, r.dropped = r.events[over:], r.dropped+over
	}
	for _, s := range rec.Statuses {
		if _, newer := r.statuses[s.GetEdge()]; !newer {
			r.statuses[s.GetEdge()] = s
		}
	}
}

func (r *Recorder) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *Recorder) add(events []*swanherdv1.Event, status *storev1.EdgeStatus) {
	r.mu.Lock()
	for _, e := range events {
		if r.bursts.add(e) {
			r.events = append(r.events, e)
		}
	}
	if status != nil {
		r.statuses[status.GetEdge()] = status
	}
	r.mu.Unlock()
	r.signal()
}

// tunnelChanged records that a tunnel has another status. The receiver may be
// nil, as in the other methods: a fleet without a recorder keeps nothing.
func (r *Recorder) tunnelChanged(t *swanherdv1.Tunnel) {
	if r == nil {
		return
	}
	status := strings.ToLower(strings.TrimPrefix(t.GetStatus().String(), "TUNNEL_STATUS_"))
	message := fmt.Sprintf("%s is %s", path.Base(t.GetName()), status)
	if t.GetReason() != "" {
		message += ": " + t.GetReason()
	}
	r.add([]*swanherdv1.Event{transition(t.GetName(), "system", "tunnel."+status, message)}, nil)
}

func (r *Recorder) edgeConnected(now *storev1.EdgeStatus, transitioned bool) {
	if r == nil {
		return
	}
	edge, status := now.GetEdge(), now.GetStatus()
	var events []*swanherdv1.Event
	if transitioned {
		message := fmt.Sprintf("%s connected, agent %s, %s data plane", path.Base(edge),
			cmp.Or(status.GetAgentVersion(), "of unknown version"), cmp.Or(status.GetDataPlane(), "unknown"))
		events = append(events, transition(edge, "edge:"+edge, "edge.connect", message))
	}
	r.add(events, now)
}

func (r *Recorder) edgeDisconnected(now *storev1.EdgeStatus, reason string) {
	if r == nil {
		return
	}
	edge := now.GetEdge()
	message := fmt.Sprintf("%s lost its session: %s", path.Base(edge), reason)
	r.add([]*swanherdv1.Event{transition(edge, "edge:"+edge, "edge.disconnect", message)}, now)
}

func (r *Recorder) uplinksChanged(now *storev1.EdgeStatus) {
	if r == nil {
		return
	}
	edge := now.GetEdge()
	message := fmt.Sprintf("%s reports other uplinks than before: %s", path.Base(edge), describeUplinks(now.GetUplinks()))
	r.add([]*swanherdv1.Event{transition(edge, "edge:"+edge, "edge.uplinks", message)}, now)
}

func (r *Recorder) intentChanged(now *storev1.EdgeStatus) {
	if r == nil {
		return
	}
	edge, status := now.GetEdge(), now.GetStatus()
	var events []*swanherdv1.Event
	switch status.GetIntentState() {
	case swanherdv1.IntentState_INTENT_STATE_REJECTED:
		message := fmt.Sprintf("%s refused the intent of revision %d: %s",
			path.Base(edge), status.GetPlannedRevision(), status.GetIntentError())
		events = append(events, transition(edge, "edge:"+edge, "edge.reject", message))
	case swanherdv1.IntentState_INTENT_STATE_REVERTED:
		message := fmt.Sprintf("%s took back the intent of revision %d: %s",
			path.Base(edge), status.GetPlannedRevision(), status.GetIntentError())
		events = append(events, transition(edge, "edge:"+edge, "edge.revert", message))
	case swanherdv1.IntentState_INTENT_STATE_CONFLICT_PAUSED:
		message := fmt.Sprintf("%s is paused: %s", path.Base(edge), status.GetIntentError())
		events = append(events, transition(edge, "edge:"+edge, "edge.conflict", message))
	case swanherdv1.IntentState_INTENT_STATE_CONFIRMED:
	default:
		now = nil // passes by itself, not worth a write
	}
	r.add(events, now)
}

// noted records what an edge tells of itself that is no state of anything.
func (r *Recorder) noted(edge, action, message string) {
	if r == nil {
		return
	}
	r.add([]*swanherdv1.Event{transition(edge, "edge:"+edge, action, path.Base(edge)+" "+message)}, nil)
}

// pathTaken records that an edge sends by a tunnel what it sent by others before.
func (r *Recorder) pathTaken(edge string, now, before *swanherdv1.TunnelReport) {
	use, old := now.GetUse(), before.GetUse()
	if r == nil || use == nil || old == nil {
		return // what is first is no change
	}
	var gained []string
	if use.GetInUse() && !old.GetInUse() {
		gained = append(gained, "what is of no class")
	}
	for _, class := range use.GetClasses() {
		if !slices.Contains(old.GetClasses(), class) {
			gained = append(gained, class)
		}
	}
	if len(gained) == 0 {
		return
	}
	message := fmt.Sprintf("%s sends %s by %s now", path.Base(edge), strings.Join(gained, " and "), path.Base(now.GetTunnel()))
	if use.GetInUse() && !old.GetInUse() && use.GetReason() != "" {
		message += ": " + use.GetReason()
	}
	r.add([]*swanherdv1.Event{transition(now.GetTunnel(), "edge:"+edge, "tunnel.path", message)}, nil)
}

func describeUplinks(uplinks []*swanherdv1.Uplink) string {
	var parts []string
	for _, u := range uplinks {
		part := u.GetName() + " " + strings.Join(u.GetAddresses(), ",")
		for _, n := range u.GetNats() {
			if n.GetMapping() != swanherdv1.NatMapping_NAT_MAPPING_NONE {
				part += fmt.Sprintf(" (%s behind a NAT, seen as %s port %d)", n.GetAddress(), n.GetMappedAddress(), n.GetMappedPort())
			}
		}
		parts = append(parts, part)
	}
	return cmp.Or(strings.Join(parts, "; "), "none")
}

func transition(resource, actor, action, message string) *swanherdv1.Event {
	return &swanherdv1.Event{
		Time:     timestamppb.Now(),
		Kind:     swanherdv1.Event_KIND_TRANSITION,
		Actor:    actor,
		Resource: resource,
		Action:   action,
		Message:  clip(message),
	}
}
