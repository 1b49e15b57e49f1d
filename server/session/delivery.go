package session

import (
	"bytes"
	"fmt"
	"path"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/fleet"
)

// delivery is how far the edge is with its intent.
type delivery struct {
	// running is the intent the edge is known to run with its resources; nil
	// when the controller cannot tell, so that the next update is a snapshot.
	running *Intent
	// applied is what the edge says it runs, known or not.
	applied *swanherdv1.AppliedIntent
	// confirmed: the edge keeps what applied names. Confirming is what it was told
	// last to keep, and awaited are the tunnels that it waits for before it may.
	confirmed  bool
	confirming *Intent
	awaited    []string
	// flight is the update that awaits its answer.
	flight *update
	nonce  uint64
	// refused is the intent the edge turned down or took back, until retryAt, zero
	// for ever.
	refused *refusal
	retryAt time.Time
	// bookmarkAt is when the edge is told next that it has all there is; zero while
	// it has not.
	bookmarkAt time.Time
	// behind is since when the edge runs what this replica has not seen yet.
	behind time.Time
}

// refusal is why an edge does not run an intent.
type refusal struct {
	digest []byte
	state  swanherdv1.IntentState // REJECTED or REVERTED
	words  string                 // the edge's
}

// of reports whether the refusal is of that intent.
func (r *refusal) of(i *Intent) bool { return r != nil && bytes.Equal(r.digest, i.Digest()) }

// advance starts an update if the edge should have something else than what it
// has, and tells the fleet how far the edge is.
func (s *session) advance(wanted *Intent) {
	if wanted == nil {
		return
	}
	if s.flight != nil { // what the edge has is open until it answers
		s.progress(wanted, s.flight.state(), "")
		return
	}
	if bytes.Equal(s.applied.GetSetDigest(), wanted.Digest()) { // in whatever epoch it was planned
		s.inSync(wanted)
		return
	}
	s.bookmarkAt = time.Time{}
	if s.refused.of(wanted) {
		s.progress(wanted, s.refused.state, s.refused.words)
		return
	}
	if state, words := s.fenced(wanted); state != swanherdv1.IntentState_INTENT_STATE_UNSPECIFIED {
		s.progress(wanted, state, words)
		return
	}
	s.begin(wanted)
	s.progress(wanted, swanherdv1.IntentState_INTENT_STATE_PENDING, "")
}

// fenced says why the edge must not get what is wanted: what it runs comes from a future
// that this controller does not know.
func (s *session) fenced(wanted *Intent) (state swanherdv1.IntentState, words string) {
	cfg, has := s.server.cfg, s.applied
	if has.GetEpoch() != cfg.Epoch {
		common, known := cfg.PastEpochs[has.GetEpoch()]
		switch {
		case has.GetEpoch() == "", has.GetEpoch() == wanted.SupersededEpoch, known && has.GetSourceRevision() <= common:
			return 0, "" // it runs nothing, or a past that both share, or that an operator gave up
		case known:
			return swanherdv1.IntentState_INTENT_STATE_CONFLICT_PAUSED, fmt.Sprintf(
				"the edge runs an intent of revision %d, and the backup that the store was restored from ends at %d: "+
					"see what the edge would lose, then `swanherd resume`", has.GetSourceRevision(), common)
		}
		return swanherdv1.IntentState_INTENT_STATE_CONFLICT_PAUSED, fmt.Sprintf(
			"the edge runs an intent of another store, of epoch %s: see what the edge would lose, then `swanherd resume`", has.GetEpoch())
	}
	if wanted.Revision >= has.GetSourceRevision() {
		s.behind = time.Time{}
		return 0, ""
	}
	// The edge comes from a replica that has seen more. This one will, too.
	now := time.Now()
	if s.behind.IsZero() {
		s.behind = now
	}
	if now.Sub(s.behind) >= behindTimeout && cfg.Board.Revision() < has.GetSourceRevision() {
		return swanherdv1.IntentState_INTENT_STATE_CONFLICT_PAUSED, fmt.Sprintf(
			"the edge runs an intent of revision %d, and the store is at %d: it was restored from a backup; "+
				"restart one controller with --restored, see what the edge would lose, then `swanherd resume`",
			has.GetSourceRevision(), cfg.Board.Revision())
	}
	return swanherdv1.IntentState_INTENT_STATE_PENDING, fmt.Sprintf(
		"the edge runs an intent of revision %d, which this replica has not seen yet", has.GetSourceRevision())
}

// inSync notes that the edge runs what is wanted. That it says so in a session means
// that it still reaches the controller: all that is needed to confirm it, once the edge
// awaits no tunnel.
func (s *session) inSync(wanted *Intent) {
	if s.running == nil { // it came with what it should have
		s.bookmark(wanted)
	} else if s.bookmarkAt.IsZero() { // what it applied says as much
		s.bookmarkAt = time.Now().Add(bookmarkInterval)
	}
	s.running = wanted
	if s.confirmed {
		s.progress(wanted, swanherdv1.IntentState_INTENT_STATE_CONFIRMED, "")
		return
	}
	if s.confirming != wanted && len(s.awaited) == 0 {
		s.confirming = wanted
		s.enqueue(&swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Confirm{
			Confirm: &swanherdv1.Confirm{SetDigest: wanted.Digest()},
		}})
	}
	s.progress(wanted, swanherdv1.IntentState_INTENT_STATE_APPLIED, "")
}

func (s *session) bookmark(i *Intent) {
	s.bookmarkAt = time.Now().Add(bookmarkInterval)
	s.enqueue(&swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Bookmark{
		Bookmark: &swanherdv1.Bookmark{SourceRevision: max(i.Revision, s.server.cfg.Board.Revision())},
	}})
}

// due does what is due at a time, and says whether the session is to be attended to.
func (s *session) due(now time.Time) (due bool) {
	if !s.retryAt.IsZero() && !now.Before(s.retryAt) {
		s.refused, s.retryAt, due = nil, time.Time{}, true
	}
	if !s.bookmarkAt.IsZero() && !now.Before(s.bookmarkAt) && s.running != nil {
		s.bookmark(s.running)
		due = true
	}
	if !s.behind.IsZero() && now.Sub(s.behind) >= behindTimeout {
		due = true
	}
	return due
}

func (s *session) begin(wanted *Intent) {
	s.nonce++
	s.server.updated.Add(1)
	s.flight = newUpdate(s.nonce, s.server.cfg, s.running, wanted)
	for _, c := range s.flight.takeChunks() {
		s.enqueue(&swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Intent{Intent: c}})
	}
}

func (s *session) progress(wanted *Intent, state swanherdv1.IntentState, refusal string) {
	p := fleet.IntentProgress{
		PlannedRevision: wanted.Revision,
		AppliedRevision: s.applied.GetSourceRevision(),
		State:           state,
		Error:           refusal,
	}
	switch state {
	case swanherdv1.IntentState_INTENT_STATE_APPLIED:
		p.AppliedRevision, p.Awaited = wanted.Revision, s.awaited
	case swanherdv1.IntentState_INTENT_STATE_CONFIRMED:
		p.AppliedRevision = wanted.Revision
	case swanherdv1.IntentState_INTENT_STATE_CONFLICT_PAUSED:
		p.ConflictEpoch = s.applied.GetEpoch()
	}
	s.server.cfg.Fleet.SetIntent(s.identity.Edge, p)
}

// checkNonce refuses an answer to what was never sent.
func (s *session) checkNonce(nonce uint64) error {
	if nonce > s.nonce {
		return status.Errorf(codes.InvalidArgument, "an answer to update %d, and the last one sent is %d", nonce, s.nonce)
	}
	return nil
}

// acknowledged takes the edge's word for how far it is with the update. An answer to
// an update that is not in flight says no more than whether the edge keeps what it runs,
// and what it awaits.
func (s *session) acknowledged(a *swanherdv1.Ack) error {
	if err := s.checkNonce(a.GetNonce()); err != nil {
		return err
	}
	kept := a.GetStage() == swanherdv1.Ack_STAGE_CONFIRMED
	if s.flight == nil || a.GetNonce() != s.flight.nonce {
		if bytes.Equal(a.GetRunning().GetSetDigest(), s.applied.GetSetDigest()) && a.GetStage() >= swanherdv1.Ack_STAGE_APPLIED {
			s.confirmed, s.awaited = s.confirmed || kept, a.GetAwaitedTunnels()
		}
		return nil
	}
	if a.GetStage() == swanherdv1.Ack_STAGE_RECEIVED {
		s.flight.received = true
		return nil
	}
	u := s.flight
	s.flight = nil
	s.applied, s.confirmed, s.awaited = a.GetRunning(), kept, a.GetAwaitedTunnels()
	s.server.cfg.Metrics.IntentAnswered("ack", time.Since(u.begun))
	if !bytes.Equal(a.GetRunning().GetSetDigest(), u.intent.Digest()) {
		s.mismatched(u, "acknowledged an intent other than the one sent")
		return nil
	}
	s.running, s.refused, s.retryAt = u.intent, nil, time.Time{}
	return nil
}

func (s *session) rejected(n *swanherdv1.Nack) error {
	if err := s.checkNonce(n.GetNonce()); err != nil {
		return err
	}
	if s.flight == nil || n.GetNonce() != s.flight.nonce {
		return nil
	}
	u := s.flight
	s.flight = nil
	s.applied = n.GetRunning()
	s.server.cfg.Metrics.IntentAnswered("nack", time.Since(u.begun))
	if s.running != nil && !bytes.Equal(s.applied.GetSetDigest(), s.running.Digest()) {
		s.running = nil
	}
	words := describe(n)
	s.log().Warn("edge refused an intent", "revision", u.intent.Revision, "code", n.GetCode(), "error", words)
	if n.GetCode() == swanherdv1.Nack_CODE_DIGEST_MISMATCH {
		s.mismatched(u, words)
		return nil
	}
	s.refuse(u.intent.Digest(), words)
	if n.GetCode() == swanherdv1.Nack_CODE_APPLY_FAILED {
		s.retryAt = time.Now().Add(applyRetry)
	}
	return nil
}

// mismatched makes the next update a snapshot, as what the edge has is unknown.
// When this one was a snapshot already, another would fail as it did.
func (s *session) mismatched(u *update, words string) {
	s.running = nil
	if u.full {
		s.refuse(u.intent.Digest(), words)
		s.retryAt = time.Now().Add(applyRetry)
	}
}

func (s *session) refuse(digest []byte, words string) {
	s.refused = &refusal{digest: digest, state: swanherdv1.IntentState_INTENT_STATE_REJECTED, words: words}
	s.retryAt = time.Time{}
}

// reverted notes that the edge took an update back.
func (s *session) reverted(r *swanherdv1.Reverted) {
	s.log().Warn("edge took an intent back", "reason", r.GetReason(), "attempts", r.GetAttempts())
	s.applied, s.confirmed, s.awaited, s.running = r.GetRunning(), true, nil, nil
	s.tookBack(r)
}

// tookBack keeps the edge from getting at once what it took back, nil for nothing. That it
// lost the controller, or that its agent ended, may have had another reason, so it gets
// it again, but not for ever.
func (s *session) tookBack(r *swanherdv1.Reverted) {
	if r == nil {
		return
	}
	s.refused = &refusal{digest: r.GetSetDigest(), state: swanherdv1.IntentState_INTENT_STATE_REVERTED, words: describeReverted(r)}
	switch {
	case r.GetAttempts() >= maxAttempts:
		s.retryAt = time.Time{}
	case r.GetReason() == swanherdv1.Reverted_REASON_RESTARTED:
		s.retryAt = time.Now().Add(applyRetry)
	default:
		s.retryAt = time.Now().Add(lostRetry)
	}
}

// describeReverted says why an update was taken back, and what to do.
func describeReverted(r *swanherdv1.Reverted) string {
	words := revertedWords[r.GetReason()]
	if r.GetReason() == swanherdv1.Reverted_REASON_TUNNELS_DOWN {
		words = fmt.Sprintf(words, tunnelIDs(r.GetAwaitedTunnels()))
	}
	return words
}

// tunnelIDs names a few tunnels for people.
func tunnelIDs(names []string) string {
	const most = 3
	var ids []string
	for _, name := range names[:min(len(names), most)] {
		ids = append(ids, path.Base(name))
	}
	if more := len(names) - most; more > 0 {
		ids = append(ids, fmt.Sprintf("%d more", more))
	}
	return strings.Join(ids, ", ")
}

var revertedWords = map[swanherdv1.Reverted_Reason]string{
	swanherdv1.Reverted_REASON_NOT_CONFIRMED: "the edge ran it, did not hear from the controller, and went back: it seems to cut the edge off; change it",
	swanherdv1.Reverted_REASON_RESTARTED:     "the agent ended while the edge ran it for the first time, and began with the one before; look at the agent's log",
	swanherdv1.Reverted_REASON_TUNNELS_DOWN:  "the edge ran it, critical tunnels that carried traffic before did not again (%s), and it went back: change it",
}

func describe(n *swanherdv1.Nack) string {
	var parts []string
	for _, e := range n.GetErrors() {
		part := e.GetMessage()
		if e.GetFieldPath() != "" {
			part = e.GetFieldPath() + ": " + part
		}
		if e.GetResource() != "" {
			part = e.GetResource() + ": " + part
		}
		parts = append(parts, part)
	}
	if len(parts) == 0 {
		return strings.ToLower(strings.TrimPrefix(n.GetCode().String(), "CODE_"))
	}
	return clip(strings.Join(parts, "; "), maxText)
}
