package rollout

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	running   = swanherdv1.Rollout_STATE_RUNNING
	paused    = swanherdv1.Rollout_STATE_PAUSED
	halted    = swanherdv1.Rollout_STATE_HALTED
	reverting = swanherdv1.Rollout_STATE_REVERTING
	reverted  = swanherdv1.Rollout_STATE_REVERTED
	completed = swanherdv1.Rollout_STATE_COMPLETED

	defaultBake   = time.Minute
	defaultSettle = 2 * time.Minute
)

// Ended says whether a rollout is over.
func Ended(s swanherdv1.Rollout_State) bool { return s == reverted || s == completed }

// A Result is what comes of a step.
type Result struct {
	// Next is what the rollout is from now on; nil: as it was.
	Next *storev1.Rollout
	// Action and Message are what there is to tell; empty: nothing.
	Action, Message string
	// Complete: every batch was good; the change is to become the network together with
	// Next.
	Complete bool
}

// Start is a rollout that begins. ends are those of Order.
func Start(r *swanherdv1.Rollout, ends []uint32) *storev1.Rollout {
	r.State = running
	before := uint32(0)
	for _, end := range ends {
		r.BatchStates = append(r.BatchStates, &swanherdv1.Rollout_Batch{Edges: end - before})
		before = end
	}
	return &storev1.Rollout{Rollout: r}
}

// step is a step in the making.
type step struct {
	r    *storev1.Rollout
	p    *storev1.RolloutPlan
	v    *View
	now  time.Time
	told Result
}

// Step says what becomes of a rollout. It changes nothing that it is given.
func Step(now time.Time, r *storev1.Rollout, p *storev1.RolloutPlan, v *View) Result {
	s := &step{r: proto.CloneOf(r), p: p, v: v, now: now}
	switch r.GetRollout().GetState() {
	case running:
		s.run()
	case reverting:
		s.goBack()
	}
	if !proto.Equal(s.r, r) {
		s.told.Next = s.r
	}
	return s.told
}

func (s *step) tell(action, message string) { s.told.Action, s.told.Message = action, message }

func (s *step) run() {
	if s.ended() {
		return
	}
	if s.r.GetSince() == nil {
		s.begin()
		return
	}
	s.v.shrink(s.r)
	h := s.v.look(s.r, s.p)
	policy := s.r.GetRollout().GetPolicy()
	if reason := h.refusal(policy); reason != "" {
		s.fail(s.inBatch(reason))
		return
	}
	if s.admit(h) {
		return
	}
	waiting := h.waiting(policy)
	if left := s.batchEnd() - s.r.GetAdmitted(); left > 0 {
		waiting = append(waiting, fmt.Sprintf("%d edges are not admitted yet, as %d sites are without a tunnel or not through", left, len(h.unsettled)))
	}
	since := s.r.GetSince().AsTime()
	switch good := len(waiting) == 0; {
	case good != s.r.GetGood():
		s.r.Good, s.r.Since = good, timestamppb.New(s.now)
		if good && bake(policy) == 0 {
			s.end()
		}
	case good && s.now.Sub(since) >= bake(policy):
		s.end()
	case !good && s.now.Sub(later(since, s.v.Known)) >= settle(policy):
		s.fail(s.inBatch(strings.Join(waiting[:min(maxWords, len(waiting))], "; ")))
	}
}

// batchEnd is how many edges have the change when the batch is admitted.
func (s *step) batchEnd() uint32 { return s.p.GetBatchEnds()[s.r.GetRollout().GetBatch()] }

func (s *step) inBatch(reason string) string {
	return fmt.Sprintf("batch %d: %s", s.r.GetRollout().GetBatch()+1, reason)
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

func bake(p *swanherdv1.RolloutPolicy) time.Duration {
	if p.GetBakeTime() == nil {
		return defaultBake
	}
	return p.GetBakeTime().AsDuration()
}

func settle(p *swanherdv1.RolloutPolicy) time.Duration {
	if p.GetSettleTimeout() == nil {
		return defaultSettle
	}
	return p.GetSettleTimeout().AsDuration()
}

// ended completes a rollout that is through with every batch.
func (s *step) ended() bool {
	r := s.r.GetRollout()
	if int(r.GetBatch()) < len(s.p.GetBatchEnds()) {
		return false
	}
	r.State, r.EndTime = completed, timestamppb.New(s.now)
	s.r.Down, s.r.Offline, s.r.Violating = nil, nil, nil
	s.told.Complete = true
	s.tell("rollout.complete", fmt.Sprintf("%d edges have the change", len(s.p.GetEdges())))
	return true
}

// begin begins a batch, or judges one anew that was paused, once it is known how the
// fleet is.
func (s *step) begin() {
	if s.v.gathering(s.now, s.p) {
		s.r.Since = nil
		return
	}
	s.v.baseline(s.r, s.p)
	s.r.AfterRevisions = nil
	r := s.r.GetRollout()
	s.r.Good, s.r.Since = false, timestamppb.New(s.now)
	if b := r.GetBatchStates()[r.GetBatch()]; b.GetStartTime() == nil {
		b.StartTime = s.r.Since
		s.tell("rollout.batch", fmt.Sprintf("batch %d of %d begins: %d edges", r.GetBatch()+1, len(r.GetBatchStates()), b.GetEdges()))
	}
	s.admit(s.v.look(s.r, s.p))
}

// admit gives the change to as many edges of the batch as the disruption budget
// allows, and says whether that was any.
func (s *step) admit(h *health) bool {
	end := s.batchEnd()
	if s.r.GetAdmitted() >= end {
		return false
	}
	budget := int(s.r.GetRollout().GetPolicy().GetDisruptionBudget())
	before := s.r.GetAdmitted()
	offline := set(s.r.GetOffline())
	for ; s.r.Admitted < end; s.r.Admitted++ {
		id := s.p.GetEdges()[s.r.Admitted]
		if budget == 0 || offline[id] { // it takes its time anyway
			continue
		}
		site := s.v.Sites(s.v.edgeName(id))
		if !h.unsettled[site] && len(h.unsettled) >= budget {
			break
		}
		h.unsettled[site] = true
	}
	if s.r.GetAdmitted() == before {
		return false
	}
	s.r.AfterRevisions = append(s.r.AfterRevisions, s.v.Plan.Revision)
	s.r.Good, s.r.Since = false, timestamppb.New(s.now)
	return true
}

// end ends a batch that was good for long enough.
func (s *step) end() {
	r := s.r.GetRollout()
	r.GetBatchStates()[r.GetBatch()].EndTime = timestamppb.New(s.now)
	r.Batch++
	if !s.ended() {
		s.begin()
	}
}

// fail takes the change back, or leaves that to an operator.
func (s *step) fail(reason string) {
	r := s.r.GetRollout()
	r.Reason = reason
	if r.GetPolicy().GetOnFailure() == swanherdv1.RolloutPolicy_ON_FAILURE_HALT {
		r.State = halted
		s.tell("rollout.halt", r.GetReason())
		return
	}
	revert(s.r, s.v.Plan.Revision, s.now)
	s.tell("rollout.revert", r.GetReason())
}

// Fail takes back a change that cannot become the network, or leaves that to an
// operator.
func Fail(now time.Time, r *storev1.Rollout, v *View, reason string) Result {
	s := &step{r: proto.CloneOf(r), v: v, now: now}
	s.fail(reason)
	s.told.Next = s.r
	return s.told
}

func revert(r *storev1.Rollout, revision int64, now time.Time) {
	r.GetRollout().State = reverting
	r.Admitted, r.AfterRevisions = 0, []int64{revision}
	r.Good, r.Since = false, timestamppb.New(now)
}

// goBack ends a rollout when every edge that can be reached runs what it ran before, or
// when that takes too long: they get it whenever they can.
func (s *step) goBack() {
	var left []string
	for _, id := range s.p.GetEdges() {
		if state := s.v.edge(s.v.edgeName(id), s.r.GetAfterRevisions()); state != edgeConfirmed && state != edgeOffline {
			left = append(left, id)
		}
	}
	late := s.now.Sub(later(s.r.GetSince().AsTime(), s.v.Known)) >= settle(s.r.GetRollout().GetPolicy())
	if len(left) > 0 && !late {
		return
	}
	r := s.r.GetRollout()
	r.State, r.EndTime = reverted, timestamppb.New(s.now)
	s.r.Down, s.r.Offline, s.r.Violating = nil, nil, nil
	message := "every edge that can be reached runs what it ran before"
	if len(left) > 0 {
		message = fmt.Sprintf("%s have not confirmed what they ran before", some(left))
	}
	s.tell("rollout.reverted", message)
}

// Pause stops a rollout where it is. The error says why that cannot be.
func Pause(r *storev1.Rollout, actor string) error {
	if state := r.GetRollout().GetState(); state != running {
		return fmt.Errorf("it is %s; only one that is running can be paused", word(state))
	}
	r.GetRollout().State, r.GetRollout().Reason = paused, "paused by "+actor
	return nil
}

// Resume lets a rollout go on, its batch judged anew.
func Resume(r *storev1.Rollout) error {
	if state := r.GetRollout().GetState(); state != paused && state != halted {
		return fmt.Errorf("it is %s; only one that is paused or halted can go on", word(state))
	}
	r.GetRollout().State, r.GetRollout().Reason, r.Since = running, "", nil
	return nil
}

// Abort takes a rollout back; revision is the store's now.
func Abort(r *storev1.Rollout, actor string, revision int64, now time.Time) error {
	switch state := r.GetRollout().GetState(); state {
	case running, paused, halted:
	default:
		return fmt.Errorf("it is %s; only one that has not ended can be aborted", word(state))
	}
	r.GetRollout().Reason = "aborted by " + actor
	revert(r, revision, now)
	return nil
}

func word(s swanherdv1.Rollout_State) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "STATE_"))
}
