package edge

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/swanherd/swanherd/edge/session"
	"github.com/swanherd/swanherd/edge/state"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// An update is on trial from when it is applied until the controller confirms it over a
// session, which it does once the edge has its critical tunnels again (check.go). It may be
// what cuts the edge off: then nobody can mend it from afar, so the edge takes it back by
// itself. While it is on trial the stored intent is the one before, so that it is taken back
// also by a crash or a loss of power; a note beside that intent tells the next agent what was
// tried.

// trial is the update that runs until it is confirmed or its time is over.
type trial struct {
	began    time.Time
	within   time.Duration
	deadline *time.Timer
	before   before
	awaited  []string    // critical tunnels that have not carried traffic since, by name
	look     *time.Timer // at them; nil: at none
}

// Apply implements session.Intent.
func (r *runner) Apply(_ context.Context, i *state.Intent, confirmWithin time.Duration) error {
	r.bring.Lock()
	defer r.bring.Unlock()
	if r.dir == nil {
		confirmWithin = 0
	}
	note, carried := r.note(), r.lookBefore(i)
	if confirmWithin > 0 {
		if err := r.noteTrial(i.Digest()); err != nil {
			return rejection(fmt.Errorf("nothing was changed, as it could not be taken back: %w", err))
		}
	}
	if err := r.reconciler.Apply(i.EdgeIntent()); err != nil {
		r.setNote(note)
		return rejection(err)
	}
	r.endTrial()
	if confirmWithin > 0 {
		r.beginTrial(i, confirmWithin, carried)
		return nil
	}
	r.setRunning(i)
	r.keep(i)
	return nil
}

// Confirm implements session.Intent.
func (r *runner) Confirm(digest []byte) bool {
	r.bring.Lock()
	defer r.bring.Unlock()
	running := r.Running()
	if running == nil || !bytes.Equal(running.Digest(), digest) {
		return false
	}
	if r.trial == nil {
		return true
	}
	if len(r.Awaited()) > 0 {
		return false
	}
	if err := r.keepAnchors(running); err != nil {
		r.logger.Error("the update is not confirmed: after a restart this edge would not know the controller any more", "error", err)
		return false
	}
	r.endTrial()
	r.keep(running)
	return true
}

// keepAnchors stores whom the edge takes for the controller. That a stored intent says it too
// is not enough: the controller counts on what is confirmed, and an intent that cannot be
// stored or read again may be missed, its anchors not.
func (r *runner) keepAnchors(i *state.Intent) error {
	texts := i.EdgeIntent().GetTrust().GetControllerAnchors()
	if len(texts) == 0 || r.dir == nil {
		return nil
	}
	anchors, err := state.ParseCertificates("controller_anchors", []byte(strings.Join(texts, "")))
	if err != nil {
		return err
	}
	return r.dir.SaveControllerRoots(anchors)
}

// Unconfirmed implements session.Intent.
func (r *runner) Unconfirmed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.trial != nil
}

// Reverted implements session.Intent.
func (r *runner) Reverted() *swanherdv1.Reverted {
	note := r.note()
	if note.GetReason() == swanherdv1.Reverted_REASON_UNSPECIFIED {
		return nil
	}
	told := proto.Clone(note).(*swanherdv1.Reverted)
	told.Running = r.Running().Applied()
	return told
}

// Changed implements session.Intent.
func (r *runner) Changed() <-chan struct{} { return r.changed }

func (r *runner) beginTrial(i *state.Intent, within time.Duration, carried before) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &trial{began: time.Now(), within: within, before: carried, awaited: slices.Sorted(maps.Keys(carried))}
	t.deadline = time.AfterFunc(within, func() { r.revert(t) })
	if len(t.awaited) > 0 {
		t.look = time.AfterFunc(min(checkSettle, within/4), func() { r.check(t) })
	}
	r.running, r.trial = i, t
	r.tellTrust()
}

func (r *runner) endTrial() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.trial != nil {
		r.trial.deadline.Stop()
		if r.trial.look != nil {
			r.trial.look.Stop()
		}
		r.trial = nil
	}
}

// revert brings back the confirmed intent, unless the trial is over.
func (r *runner) revert(t *trial) {
	r.bring.Lock()
	defer r.bring.Unlock()
	r.mu.Lock()
	current, confirmed, awaited := r.trial == t, r.confirmed, t.named()
	r.mu.Unlock()
	if !current {
		return
	}
	reason := swanherdv1.Reverted_REASON_NOT_CONFIRMED
	if len(awaited) > 0 {
		reason = swanherdv1.Reverted_REASON_TUNNELS_DOWN
		r.logger.Warn("critical tunnels do not carry traffic again: the update is taken back", "after", t.within, "tunnels", awaited)
	} else {
		r.logger.Warn("the controller did not confirm the update: it may have cut this edge off, and is taken back", "after", t.within)
	}
	intent := &swanherdv1.EdgeIntent{} // before the first one
	if confirmed != nil {
		intent = confirmed.EdgeIntent()
	}
	if err := r.reconciler.Adopt(intent); err != nil {
		r.logger.Warn("cannot go back to the intent before all at once; trying again", "error", err)
	}
	r.endTrial()
	r.setRunning(confirmed)
	note := proto.Clone(r.note()).(*swanherdv1.Reverted)
	note.Reason, note.AwaitedTunnels = reason, awaited
	r.setNote(note)
	r.tellChanged()
}

// tellChanged has the session say what became of the trial.
func (r *runner) tellChanged() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// keep makes i the intent that the edge begins with after a restart.
func (r *runner) keep(i *state.Intent) {
	r.mu.Lock()
	r.confirmed = i
	r.mu.Unlock()
	if r.dir == nil {
		return
	}
	if err := r.dir.SaveIntent(i); err != nil {
		// The intent runs; only a restart would begin with the one before, and
		// then the controller sends this one again.
		r.logger.Error("cannot store the intent; after a restart the edge begins with the one before", "error", err)
	}
	r.setNote(nil)
}

// note is what was tried last and not kept, nil for nothing.
func (r *runner) note() *swanherdv1.Reverted {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tried
}

// noteTrial notes that the intent with that digest is being tried.
func (r *runner) noteTrial(digest []byte) error {
	note := &swanherdv1.Reverted{SetDigest: digest, Attempts: 1}
	if last := r.note(); bytes.Equal(last.GetSetDigest(), digest) {
		note.Attempts += last.GetAttempts()
	}
	if err := r.dir.SaveTrial(note); err != nil {
		return err
	}
	r.mu.Lock()
	r.tried = note
	r.mu.Unlock()
	return nil
}

func (r *runner) setNote(note *swanherdv1.Reverted) {
	r.mu.Lock()
	changed := r.tried != note
	r.tried = note
	r.mu.Unlock()
	if r.dir == nil || !changed {
		return
	}
	if err := r.dir.SaveTrial(note); err != nil {
		r.logger.Error("cannot note what became of an update", "error", err)
	}
}

// resumeTrial learns what the agent before tried and did not keep.
func (r *runner) resumeTrial() {
	note, err := r.dir.LoadTrial()
	if err != nil {
		r.logger.Error("cannot tell whether an update was on trial", "error", err)
	}
	switch {
	case note == nil:
		return
	case r.confirmed != nil && bytes.Equal(note.GetSetDigest(), r.confirmed.Digest()):
		r.setNote(nil) // it was kept, and the agent ended right then
		return
	case note.GetReason() == swanherdv1.Reverted_REASON_UNSPECIFIED:
		r.logger.Warn("the agent ended while an update was on trial: it is taken back", "attempts", note.GetAttempts())
		note.Reason = swanherdv1.Reverted_REASON_RESTARTED
	}
	r.setNote(note)
}

var _ session.Intent = (*runner)(nil)
