package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/swanherd/swanherd/edge/state"
	"github.com/swanherd/swanherd/proto/digest"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// Bounds of one update, far above what an edge of ten thousand tunnels
	// needs, so that no controller makes an edge run out of memory.
	maxChunks      = 1024
	maxUpdateBytes = 64 << 20
	// Bounds of the time that an update may be on trial.
	confirmMin = time.Second
	confirmMax = time.Hour
	// Names of the resources that are not tunnels.
	settingsName = "settings"
	trustName    = "trust"
)

// update is an intent update that arrives in chunks.
type update struct {
	first    *swanherdv1.IntentChunk
	next     uint32 // index of the chunk that has to come
	size     int
	upserts  []*swanherdv1.IntentResource
	removals []string
	// intent is the result, once it is complete.
	intent *state.Intent
}

// intent takes one chunk, and starts to apply the update with the last.
func (s *session) intent(ctx context.Context, c *swanherdv1.IntentChunk) error {
	if s.applying != nil {
		return fmt.Errorf("controller sent update %d while %d was being applied", c.GetNonce(), s.applying.first.GetNonce())
	}
	if s.update == nil {
		s.update = &update{first: c}
	}
	if err := s.update.add(c); err != nil {
		return err
	}
	if s.update.next < s.update.first.GetChunkCount() {
		return nil
	}
	u := s.update
	s.update = nil
	if err := u.complete(s.running); err != nil {
		return s.nack(u, err)
	}
	if s.running != nil && s.running.Epoch == u.intent.Epoch && u.intent.SourceRevision < s.running.SourceRevision {
		return s.nack(u, &RejectedError{Code: swanherdv1.Nack_CODE_OUTDATED, Errors: []*swanherdv1.ResourceError{{Message: fmt.Sprintf(
			"it is planned from revision %d, and what runs from revision %d", u.intent.SourceRevision, s.running.SourceRevision)}}})
	}
	s.applying = u
	go func() { s.applied <- s.c.cfg.Intent.Apply(ctx, u.intent, confirmWithin(u.first)) }()
	return s.ack(u.first.GetNonce(), swanherdv1.Ack_STAGE_RECEIVED)
}

// confirmWithin is how long an update is on trial, within reason.
func confirmWithin(c *swanherdv1.IntentChunk) time.Duration {
	d := c.GetConfirmWithin()
	if !d.IsValid() || d.AsDuration() <= 0 {
		return 0
	}
	return min(max(d.AsDuration(), confirmMin), confirmMax)
}

// add appends a chunk. Its errors are breaches of the protocol.
func (u *update) add(c *swanherdv1.IntentChunk) error {
	f := u.first
	switch {
	case c.GetChunkCount() == 0 || c.GetChunkCount() > maxChunks:
		return fmt.Errorf("controller announced an update of %d chunks, allowed are 1 to %d", c.GetChunkCount(), maxChunks)
	case c.GetNonce() != f.GetNonce() || c.GetChunkCount() != f.GetChunkCount() || c.GetFull() != f.GetFull() ||
		!bytes.Equal(c.GetResultDigest(), f.GetResultDigest()):
		return fmt.Errorf("controller mixed chunks of the updates %d and %d", f.GetNonce(), c.GetNonce())
	case c.GetChunk() != u.next:
		return fmt.Errorf("controller sent chunk %d of update %d where chunk %d was due", c.GetChunk(), f.GetNonce(), u.next)
	}
	if u.size += proto.Size(c); u.size > maxUpdateBytes {
		return fmt.Errorf("update %d is larger than %d octets", f.GetNonce(), maxUpdateBytes)
	}
	u.next++
	u.upserts = append(u.upserts, c.GetUpserts()...)
	u.removals = append(u.removals, c.GetRemovals()...)
	return nil
}

// complete computes the intent that results from the update on top of running,
// and checks it; its error is a *RejectedError.
func (u *update) complete(running *state.Intent) error {
	var base *digest.Set
	if !u.first.GetFull() {
		if running == nil || !bytes.Equal(running.Digest(), u.first.GetBaseDigest()) {
			return mismatch("delta is against another set of resources than the edge runs")
		}
		base = running.Resources
	}
	var invalid []*swanherdv1.ResourceError
	for _, r := range u.upserts {
		if msg := checkResource(r); msg != "" {
			invalid = append(invalid, &swanherdv1.ResourceError{Resource: r.GetName(), Message: msg})
		}
	}
	if len(invalid) > 0 {
		return &RejectedError{Code: swanherdv1.Nack_CODE_INVALID, Errors: invalid}
	}
	i := &state.Intent{
		Epoch: u.first.GetEpoch(), SourceRevision: u.first.GetSourceRevision(),
		Resources: base.With(u.upserts, u.removals),
	}
	if !bytes.Equal(i.Digest(), u.first.GetResultDigest()) {
		return mismatch("resources do not add up to the digest that the controller announced")
	}
	u.intent = i
	return nil
}

// checkResource says what is wrong with a resource apart from its body.
func checkResource(r *swanherdv1.IntentResource) string {
	switch body := r.GetBody().(type) {
	case *swanherdv1.IntentResource_Settings:
		if r.GetName() != settingsName {
			return "settings under another name than " + settingsName
		}
	case *swanherdv1.IntentResource_Trust:
		if r.GetName() != trustName {
			return "a trust bundle under another name than " + trustName
		}
	case *swanherdv1.IntentResource_Tunnel:
		if r.GetName() != body.Tunnel.GetName() || r.GetName() == "" {
			return fmt.Sprintf("tunnel %q under another name", body.Tunnel.GetName())
		}
	default:
		return "this agent does not know this kind of resource; upgrade it"
	}
	if len(r.GetVersion()) != digest.VersionSize {
		return fmt.Sprintf("version has %d octets, not %d", len(r.GetVersion()), digest.VersionSize)
	}
	return ""
}

func mismatch(message string) *RejectedError {
	return &RejectedError{Code: swanherdv1.Nack_CODE_DIGEST_MISMATCH, Errors: []*swanherdv1.ResourceError{{Message: message}}}
}

// answer tells the controller what became of the update that was applied.
func (s *session) answer(result error) error {
	u := s.applying
	s.applying = nil
	if result != nil {
		return s.nack(u, result)
	}
	s.running = u.intent
	s.c.cfg.Logger.Info("applied intent", "revision", u.intent.SourceRevision, "resources", u.intent.Resources.Len())
	return s.ack(u.first.GetNonce(), s.stage())
}

// stage is how far the edge is with what it runs.
func (s *session) stage() swanherdv1.Ack_Stage {
	if s.c.cfg.Intent.Unconfirmed() {
		return swanherdv1.Ack_STAGE_APPLIED
	}
	return swanherdv1.Ack_STAGE_CONFIRMED
}

func (s *session) ack(nonce uint64, stage swanherdv1.Ack_Stage) error {
	a := &swanherdv1.Ack{Nonce: nonce, Running: s.running.Applied(), Stage: stage}
	if stage == swanherdv1.Ack_STAGE_APPLIED {
		a.AwaitedTunnels = s.c.cfg.Intent.Awaited()
	}
	return s.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Ack{Ack: a}})
}

// confirm keeps what runs. A confirmation of something else is late.
func (s *session) confirm(digest []byte) error {
	if !s.c.cfg.Intent.Confirm(digest) {
		return nil
	}
	return s.ack(0, swanherdv1.Ack_STAGE_CONFIRMED)
}

// sendTrial tells that an update was taken back, or which tunnels it awaits by now.
func (s *session) sendTrial() error {
	r := s.c.cfg.Intent.Reverted()
	if r == nil {
		if s.applying != nil || !s.c.cfg.Intent.Unconfirmed() {
			return nil // another one is, and its answer tells; or it was confirmed meanwhile
		}
		return s.ack(0, swanherdv1.Ack_STAGE_APPLIED)
	}
	s.running = s.c.cfg.Intent.Running()
	return s.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Reverted{Reverted: r}})
}

func (s *session) nack(u *update, why error) error {
	rejected := &RejectedError{
		Code:   swanherdv1.Nack_CODE_APPLY_FAILED,
		Errors: []*swanherdv1.ResourceError{{Message: why.Error()}},
	}
	errors.As(why, &rejected)
	s.c.cfg.Logger.Warn("refused intent; the one before it goes on", "revision", u.first.GetSourceRevision(), "error", why)
	return s.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Nack{Nack: &swanherdv1.Nack{
		Nonce: u.first.GetNonce(), Code: rejected.Code, Running: s.running.Applied(), Errors: rejected.Errors,
	}}})
}
