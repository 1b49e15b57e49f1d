package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/fleet"
)

// session is one edge's stream. All fields below the channels belong to the
// goroutine that runs it.
type session struct {
	server   *Server
	identity access.EdgeIdentity
	edge     string
	id       string
	log      *slog.Logger
	stream   swanherdv1.EdgeControlService_SessionServer

	in   chan *swanherdv1.EdgeMessage
	out  chan *swanherdv1.ControllerMessage
	end  chan *ending
	done chan struct{} // closed when run returns

	// running is the intent the edge is known to run with its resources; nil
	// when the controller cannot tell, so that the next update is a snapshot.
	running *Intent
	// applied is what the edge says it runs, known or not.
	applied *swanherdv1.AppliedIntent
	// confirmed: the edge keeps what applied names. Confirming is what it was told
	// last to keep.
	confirmed  bool
	confirming *Intent
	// flight is the update that awaits its answer.
	flight *update
	nonce  uint64
	// refused is the intent the edge turned down or took back.
	refused       *refusal
	retry         *time.Timer
	connected     bool
	hello         *swanherdv1.Hello
	reportSeq     uint64
	askFullStatus bool

	// What waits to be sent, by urgency: each slot holds the last only.
	queue []*swanherdv1.ControllerMessage
	pong  *swanherdv1.Pong
}

// refusal is why an edge does not run an intent.
type refusal struct {
	digest []byte
	state  swanherdv1.IntentState // REJECTED or REVERTED
	words  string                 // the edge's
}

// of reports whether the refusal is of that intent.
func (r *refusal) of(i *Intent) bool { return r != nil && bytes.Equal(r.digest, i.Digest()) }

// ending is why a session ends by the controller's will.
type ending struct {
	code       codes.Code
	reason     string
	retryAfter time.Duration
}

// finish asks the session to end; only the first asking counts.
func (s *session) finish(e *ending) {
	select {
	case s.end <- e:
	default:
	}
}

// run is the session's life. Its error is a gRPC status.
func (s *session) run() error {
	defer close(s.done)
	ctx, cancel := context.WithCancel(s.stream.Context())
	defer cancel()
	received := make(chan error, 1)
	go func() { received <- s.receive(ctx) }()
	sender := make(chan struct{})
	go func() { defer close(sender); s.send(ctx) }()

	s.retry = time.NewTimer(applyRetry)
	s.retry.Stop()
	defer s.retry.Stop()
	if err := s.greet(ctx, received); err != nil {
		return err
	}
	err := s.loop(ctx, received)
	if e, ok := err.(*ending); ok {
		s.farewell(e, sender)
		return status.Error(e.code, e.reason)
	}
	return err
}

func (e *ending) Error() string { return e.reason }

// receive hands the edge's messages over until the stream ends.
func (s *session) receive(ctx context.Context) error {
	for {
		m, err := s.stream.Recv()
		if err != nil {
			return err
		}
		select {
		case s.in <- m:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// send writes to the stream what it is handed, and ends when out is closed, the
// session ends, or the stream breaks; the receiver tells of the last.
func (s *session) send(ctx context.Context) {
	for {
		select {
		case m, ok := <-s.out:
			if !ok || s.stream.Send(m) != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// greet waits for Hello and queues the answer to it.
func (s *session) greet(ctx context.Context, received <-chan error) error {
	timeout := time.NewTimer(helloTimeout)
	defer timeout.Stop()
	var hello *swanherdv1.Hello
	select {
	case m := <-s.in:
		hello = m.GetHello()
	case err := <-received:
		return streamEnd(err)
	case e := <-s.end:
		return status.Error(e.code, e.reason)
	case <-timeout.C:
		return status.Errorf(codes.DeadlineExceeded, "the edge said no Hello within %s", helloTimeout)
	}
	if hello == nil {
		return status.Error(codes.InvalidArgument, "the first message of a session is Hello")
	}
	if hello.GetProtocolVersion() < uint32(swanherdv1.ProtocolVersion_PROTOCOL_VERSION_1) {
		return status.Errorf(codes.FailedPrecondition,
			"the edge speaks session protocol %d, the controller %d and newer: update the edge",
			hello.GetProtocolVersion(), swanherdv1.ProtocolVersion_PROTOCOL_VERSION_1)
	}
	if err := checkUplinks(hello.GetUplinks()); err != nil {
		return err
	}
	hello.AgentVersion, hello.DataPlane = clip(hello.GetAgentVersion(), maxWord), clip(hello.GetDataPlane(), maxWord)
	hello.BootId = clip(hello.GetBootId(), maxWord)
	s.hello, s.applied, s.confirmed = hello, hello.GetApplied(), !hello.GetUnconfirmed()
	s.tookBack(hello.GetReverted())
	s.enqueue(&swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Welcome{Welcome: &swanherdv1.Welcome{
		ProtocolVersion:   uint32(swanherdv1.ProtocolVersion_PROTOCOL_VERSION_1),
		Epoch:             s.server.cfg.Epoch,
		ServerTime:        timestamppb.Now(),
		HeartbeatInterval: durationpb.New(s.server.cfg.HeartbeatInterval),
		CounterInterval:   durationpb.New(s.server.cfg.CounterInterval),
	}}})
	s.log.InfoContext(ctx, "edge session began", "agent", hello.GetAgentVersion(), "data_plane", hello.GetDataPlane())
	return nil
}

func (s *session) loop(ctx context.Context, received <-chan error) error {
	limit := silenceFactor * s.server.cfg.HeartbeatInterval
	silence := time.NewTimer(limit)
	defer silence.Stop()
	for {
		wanted, changed := s.server.cfg.Board.Look(s.edge)
		s.connect()
		s.advance(wanted)
		out, next := s.next()
		select {
		case out <- next:
			s.sent(next)
		case m := <-s.in:
			silence.Reset(limit)
			if err := s.handle(m, wanted); err != nil {
				return err
			}
		case <-changed:
		case <-s.retry.C:
			s.refused = nil
		case e := <-s.end:
			return e
		case err := <-received:
			return streamEnd(err)
		case <-silence.C:
			return &ending{code: codes.DeadlineExceeded, reason: fmt.Sprintf("the edge said nothing for %s", limit)}
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// connect makes the session known to the fleet, as soon as the fleet knows the
// edge: one that has only just enrolled may be here before the plan is.
func (s *session) connect() {
	if s.connected {
		return
	}
	s.connected = s.server.cfg.Fleet.Connect(s.edge, fleet.SessionStart{
		ID:           s.id,
		AgentVersion: s.hello.GetAgentVersion(),
		DataPlane:    s.hello.GetDataPlane(),
		Uplinks:      s.hello.GetUplinks(),
		BootID:       s.hello.GetBootId(),

		CertificateSerial: s.identity.Serial(),
	})
}

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
	sameEpoch := s.applied.GetEpoch() == s.server.cfg.Epoch
	switch {
	case bytes.Equal(s.applied.GetSetDigest(), wanted.Digest()) && sameEpoch:
		s.inSync(wanted)
	case s.refused.of(wanted):
		s.progress(wanted, s.refused.state, s.refused.words)
	case sameEpoch && wanted.Revision < s.applied.GetSourceRevision():
		// The edge comes from a replica that has seen more. This one will, too.
		s.progress(wanted, swanherdv1.IntentState_INTENT_STATE_PENDING, fmt.Sprintf(
			"the edge runs an intent of revision %d, which this replica has not seen yet", s.applied.GetSourceRevision()))
	default:
		s.begin(wanted)
		s.progress(wanted, swanherdv1.IntentState_INTENT_STATE_PENDING, "")
	}
}

// inSync notes that the edge runs what is wanted. That it says so in a session means
// that it still reaches the controller: all that is needed to confirm it.
func (s *session) inSync(wanted *Intent) {
	if s.running == nil { // it came with what it should have
		s.enqueue(&swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Bookmark{
			Bookmark: &swanherdv1.Bookmark{SourceRevision: wanted.Revision},
		}})
	}
	s.running = wanted
	if s.confirmed {
		s.progress(wanted, swanherdv1.IntentState_INTENT_STATE_CONFIRMED, "")
		return
	}
	if s.confirming != wanted {
		s.confirming = wanted
		s.enqueue(&swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Confirm{
			Confirm: &swanherdv1.Confirm{SetDigest: wanted.Digest()},
		}})
	}
	s.progress(wanted, swanherdv1.IntentState_INTENT_STATE_APPLIED, "")
}

func (s *session) begin(wanted *Intent) {
	s.nonce++
	s.flight = newUpdate(s.nonce, s.server.cfg, s.running, wanted)
	for _, c := range s.flight.chunks {
		s.enqueue(&swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Intent{Intent: c}})
	}
}

func (s *session) progress(wanted *Intent, state swanherdv1.IntentState, refusal string) {
	applied := s.applied.GetSourceRevision()
	if state == swanherdv1.IntentState_INTENT_STATE_APPLIED || state == swanherdv1.IntentState_INTENT_STATE_CONFIRMED {
		applied = wanted.Revision
	}
	s.server.cfg.Fleet.SetIntent(s.edge, fleet.IntentProgress{
		PlannedRevision: wanted.Revision,
		AppliedRevision: applied,
		State:           state,
		Error:           refusal,
	})
}

func (s *session) enqueue(m *swanherdv1.ControllerMessage) { s.queue = append(s.queue, m) }

// next returns what to send next and the channel to send it on, nil when there
// is nothing. A pong goes first, once the edge was welcomed, so that a long
// snapshot does not look like a dead controller.
func (s *session) next() (chan<- *swanherdv1.ControllerMessage, *swanherdv1.ControllerMessage) {
	if len(s.queue) > 0 && s.queue[0].GetWelcome() != nil {
		return s.out, s.queue[0]
	}
	if s.pong != nil {
		s.pong.SendTime = timestamppb.Now()
		return s.out, &swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Pong{Pong: s.pong}}
	}
	if s.askFullStatus {
		return s.out, &swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_FullStatusRequest{
			FullStatusRequest: &swanherdv1.FullStatusRequest{},
		}}
	}
	if len(s.queue) > 0 {
		return s.out, s.queue[0]
	}
	return nil, nil
}

// sent notes that m was handed to the stream.
func (s *session) sent(m *swanherdv1.ControllerMessage) {
	switch {
	case m.GetPong() != nil:
		s.pong = nil
		return
	case m.GetFullStatusRequest() != nil:
		s.askFullStatus = false
		return
	}
	s.queue = s.queue[1:]
	c := m.GetIntent()
	if c == nil || s.flight == nil || c.GetNonce() != s.flight.nonce {
		return
	}
	if c.GetChunk() == 0 {
		s.flight.sent = time.Now()
	}
	s.flight.octets += proto.Size(c)
	if c.GetChunk()+1 == c.GetChunkCount() {
		s.flight.whole = true
		s.server.cfg.Metrics.IntentSent(s.flight.full, s.flight.octets, time.Since(s.flight.sent))
	}
}

func (s *session) handle(m *swanherdv1.EdgeMessage, wanted *Intent) error {
	switch m := m.GetMessage().(type) {
	case *swanherdv1.EdgeMessage_Hello:
		return status.Error(codes.InvalidArgument, "Hello comes once, at the start of a session")
	case *swanherdv1.EdgeMessage_Ack:
		s.acknowledged(m.Ack)
	case *swanherdv1.EdgeMessage_Nack:
		s.rejected(m.Nack)
	case *swanherdv1.EdgeMessage_Reverted:
		s.reverted(m.Reverted)
	case *swanherdv1.EdgeMessage_Status:
		s.reported(m.Status)
	case *swanherdv1.EdgeMessage_Counters:
		s.server.cfg.Fleet.Count(s.edge, m.Counters)
	case *swanherdv1.EdgeMessage_Uplinks:
		if err := checkUplinks(m.Uplinks.GetUplinks()); err != nil {
			return err
		}
		s.hello.Uplinks = m.Uplinks.GetUplinks()
		s.server.cfg.Fleet.SetUplinks(s.edge, m.Uplinks.GetUplinks())
	case *swanherdv1.EdgeMessage_Ping:
		s.pong = &swanherdv1.Pong{PingSendTime: m.Ping.GetSendTime()}
	}
	return nil
}

// acknowledged takes the edge's word for how far it is with the update. An answer to
// an update that is not in flight is old and says nothing, but that the edge keeps what
// it runs.
func (s *session) acknowledged(a *swanherdv1.Ack) {
	kept := a.GetStage() == swanherdv1.Ack_STAGE_CONFIRMED
	if s.flight == nil || a.GetNonce() != s.flight.nonce {
		if kept && bytes.Equal(a.GetRunning().GetSetDigest(), s.applied.GetSetDigest()) {
			s.confirmed = true
		}
		return
	}
	if a.GetStage() == swanherdv1.Ack_STAGE_RECEIVED {
		s.flight.received = true
		return
	}
	u := s.flight
	s.flight = nil
	s.applied, s.confirmed = a.GetRunning(), kept
	s.server.cfg.Metrics.IntentAnswered("ack", time.Since(u.sent))
	if !bytes.Equal(a.GetRunning().GetSetDigest(), u.intent.Digest()) {
		s.mismatched(u, "acknowledged an intent other than the one sent")
		return
	}
	s.running, s.refused = u.intent, nil
}

func (s *session) rejected(n *swanherdv1.Nack) {
	if s.flight == nil || n.GetNonce() != s.flight.nonce {
		return
	}
	u := s.flight
	s.flight = nil
	s.applied = n.GetRunning()
	s.server.cfg.Metrics.IntentAnswered("nack", time.Since(u.sent))
	if s.running != nil && !bytes.Equal(s.applied.GetSetDigest(), s.running.Digest()) {
		s.running = nil
	}
	words := describe(n)
	s.log.Warn("edge refused an intent", "revision", u.intent.Revision, "code", n.GetCode(), "error", words)
	if n.GetCode() == swanherdv1.Nack_CODE_DIGEST_MISMATCH {
		s.mismatched(u, words)
		return
	}
	s.refuse(u.intent.Digest(), words)
	if n.GetCode() == swanherdv1.Nack_CODE_APPLY_FAILED {
		s.retry.Reset(applyRetry)
	}
}

// mismatched makes the next update a snapshot, as what the edge has is unknown.
// When this one was a snapshot already, another would fail as it did.
func (s *session) mismatched(u *update, words string) {
	s.running = nil
	if u.full {
		s.refuse(u.intent.Digest(), words)
		s.retry.Reset(applyRetry)
	}
}

func (s *session) refuse(digest []byte, words string) {
	s.refused = &refusal{digest: digest, state: swanherdv1.IntentState_INTENT_STATE_REJECTED, words: words}
}

// reverted notes that the edge took an update back.
func (s *session) reverted(r *swanherdv1.Reverted) {
	s.log.Warn("edge took an intent back", "reason", r.GetReason(), "attempts", r.GetAttempts())
	s.applied, s.confirmed, s.running = r.GetRunning(), true, nil
	s.tookBack(r)
}

// tookBack keeps the edge from getting at once what it took back, nil for nothing. That it
// lost the controller, or that its agent ended, may have had another reason, so it gets
// it again, but not for ever.
func (s *session) tookBack(r *swanherdv1.Reverted) {
	if r == nil {
		return
	}
	s.refused = &refusal{digest: r.GetSetDigest(), state: swanherdv1.IntentState_INTENT_STATE_REVERTED, words: revertedWords[r.GetReason()]}
	switch {
	case r.GetAttempts() >= maxAttempts:
	case r.GetReason() == swanherdv1.Reverted_REASON_RESTARTED:
		s.retry.Reset(applyRetry)
	default:
		s.retry.Reset(lostRetry)
	}
}

var revertedWords = map[swanherdv1.Reverted_Reason]string{
	swanherdv1.Reverted_REASON_NOT_CONFIRMED: "the edge ran it, did not hear from the controller, and went back: it seems to cut the edge off; change it",
	swanherdv1.Reverted_REASON_RESTARTED:     "the agent ended while the edge ran it for the first time, and began with the one before; look at the agent's log",
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

// reported passes a status report on. Reports are numbered, and the first of a
// session holds everything: after a gap the edge is asked to start over.
func (s *session) reported(r *swanherdv1.StatusReport) {
	if !r.GetFull() && (s.reportSeq == 0 || r.GetSequence() != s.reportSeq+1) {
		s.askFullStatus = true
	}
	s.reportSeq = r.GetSequence()
	for _, t := range r.GetTunnels() {
		if e := t.GetLastError(); e != nil {
			clipError(e)
		}
	}
	s.server.cfg.Fleet.Report(s.edge, r)
}

// farewell tells the edge why the session ends, if it takes it in time.
func (s *session) farewell(e *ending, sender <-chan struct{}) {
	timeout := time.NewTimer(farewellTimeout)
	defer timeout.Stop()
	m := &swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Goaway{Goaway: &swanherdv1.Goaway{
		Reason: e.reason, RetryAfter: durationpb.New(e.retryAfter),
	}}}
	select {
	case s.out <- m:
		close(s.out)
	case <-sender:
		return
	case <-timeout.C:
		return
	}
	select {
	case <-sender:
	case <-timeout.C:
	}
}

// streamEnd turns what the receiver ended with into the session's status.
func streamEnd(err error) error {
	if err == io.EOF {
		return status.Error(codes.OK, "the edge closed the session")
	}
	if status.Code(err) == codes.Canceled || errors.Is(err, context.Canceled) {
		return status.Error(codes.Canceled, "the connection ended")
	}
	return err
}
