package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
)

// session is one edge's stream. One goroutine at a time reads the stream; another writes to it
// while there is something to write, and only then: ten thousand edges are quiet nearly
// always. The RPC's own goroutine does nothing but wait for the end.
type session struct {
	server   *Server
	identity access.EdgeIdentity
	id       string
	stream   swanherdv1.EdgeControlService_SessionServer

	over chan error    // what the RPC returns; the first counts
	done chan struct{} // closed when it has returned

	mu sync.Mutex // of all below

	opened time.Time
	heard  time.Time // when the edge said something; zero before it did
	hello  *swanherdv1.Hello
	// sending: a goroutine writes to the stream. It waits for the edge to take what it
	// writes since stuck, zero while it does not.
	sending bool
	stuck   time.Time
	ending  *ending
	parting *time.Timer // ends the session when the edge does not take the farewell

	delivery
	outbox
	commands  commands
	reportSeq uint64
	connected bool
	// leaveAt is when the edge is asked to connect anew.
	leaveAt time.Time
	leaving bool
	// awayAt is when the edge is asked to look for another controller, and stays if it
	// finds none; zero: it is not.
	awayAt time.Time
}

// outbox is what waits to be sent, by urgency: each but the queue holds the last only.
type outbox struct {
	queue         []*swanherdv1.ControllerMessage
	pong          *swanherdv1.Pong
	askFullStatus bool
	// interval is how often the edge was last told to report counters; told is false
	// when that is another by now.
	interval time.Duration
	told     bool
}

// ending is why a session ends by the controller's will.
type ending struct {
	code       codes.Code
	reason     string
	retryAfter time.Duration
}

func (e *ending) status() error { return status.Error(e.code, e.reason) }

func (s *session) log() *slog.Logger { return s.server.cfg.Log.With("edge", s.identity.Edge) }

// run waits for the session's end. Its error is a gRPC status.
func (s *session) run() error {
	defer close(s.done)
	go s.receive(nil)
	err := <-s.over
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending = &ending{} // nothing is begun any more
	if s.parting != nil {
		s.parting.Stop()
	}
	return err
}

// end ends the session with a status; only the first counts.
func (s *session) end(err error) {
	select {
	case s.over <- err:
	default:
	}
}

// finish ends the session after a farewell; only the first counts.
func (s *session) finish(e *ending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finishLocked(e)
}

// finishLocked is finish for who holds mu.
func (s *session) finishLocked(e *ending) {
	if s.ending != nil {
		return
	}
	s.ending = e
	if s.hello == nil {
		s.end(e.status())
		return
	}
	s.parting = time.AfterFunc(farewellTimeout, func() { s.end(e.status()) })
	if !s.sending {
		s.sending = true
		go s.send()
	}
}

// receive takes in the next thing that the edge says, and leaves the one after it to a new
// goroutine, until the stream ends: to decode takes a larger stack than to wait, and it is
// the waiting that lasts. It waits for nothing that the edge has to do: an edge that does
// not read would wait for us, and we for it.
func (s *session) receive(pace *rate.Limiter) {
	defer s.contain()
	m, err := s.stream.Recv()
	if err != nil { // at the end of what the edge says, too: its status is no error
		s.end(streamEnd(err))
		return
	}
	switch ctx := s.stream.Context(); {
	case pace == nil:
		pace = rate.NewLimiter(floodRate, floodBurst)
		s.hear()
		err = s.admission(ctx)
	case pace.Wait(ctx) != nil:
		err = streamEnd(ctx.Err())
	}
	if err == nil {
		err = s.take(m)
	}
	if err != nil {
		s.end(err)
		return
	}
	go s.receive(pace)
}

// hear notes that the edge speaks.
func (s *session) hear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = time.Now()
}

// take takes in one message.
func (s *session) take(m *swanherdv1.EdgeMessage) error {
	if err := bound(m); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = time.Now()
	err := s.handle(m)
	if err == nil && s.proceed() {
		go s.send()
	}
	return err
}

// attend does what is to be done.
func (s *session) attend() {
	defer s.contain()
	if s.begins() {
		s.send()
	}
}

// begins is proceed for who does not hold mu.
func (s *session) begins() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proceed()
}

// contain ends the session if its goroutine panics: gRPC would contain it in the RPC's own
// one only, and a controller carries thousands of others.
func (s *session) contain() {
	if p := recover(); p != nil {
		s.log().Error("panic in an edge session", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		s.end(status.Error(codes.Internal, "the controller made a mistake; its log has the details"))
	}
}

// proceed does what is to be done, and says whether the caller is to call send, without
// mu.
func (s *session) proceed() bool {
	if s.hello == nil || s.ending != nil {
		return false
	}
	s.connect()
	s.advance(s.server.cfg.Board.Look(s.identity.Edge))
	if s.sending || s.next() == nil {
		return false
	}
	s.sending = true
	return true
}

// send writes to the stream until there is nothing to write. When the stream breaks the
// receiver tells why.
func (s *session) send() {
	defer s.contain()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		m := s.next()
		if m == nil {
			s.sending = false
			return
		}
		farewell := s.ending != nil
		if err := s.write(m); err != nil {
			return // for ever sending: nothing else is
		}
		if farewell {
			s.end(s.ending.status())
			return
		}
		s.sent(m)
		if s.ending == nil {
			s.advance(s.server.cfg.Board.Look(s.identity.Edge))
		}
	}
}

// write hands m to the stream, without mu.
func (s *session) write(m *swanherdv1.ControllerMessage) error {
	s.stuck = time.Now()
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.stuck = time.Time{}
	}()
	return s.stream.Send(m)
}

// next returns what to send next, nil when there is nothing. A pong goes first, once the
// edge was welcomed, so that a long snapshot does not look like a dead controller.
func (s *session) next() *swanherdv1.ControllerMessage {
	switch {
	case s.ending != nil:
		return goaway(s.ending.reason, s.ending.retryAfter, 0)
	case len(s.queue) > 0 && s.queue[0].GetWelcome() != nil:
		return s.queue[0]
	case s.pong != nil:
		s.pong.SendTime = timestamppb.Now()
		return &swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Pong{Pong: s.pong}}
	case s.askFullStatus:
		return &swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_FullStatusRequest{
			FullStatusRequest: &swanherdv1.FullStatusRequest{},
		}}
	case !s.told:
		return &swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_FlowGrant{
			FlowGrant: &swanherdv1.FlowGrant{CounterInterval: durationpb.New(s.interval)},
		}}
	case len(s.queue) > 0:
		return s.queue[0]
	}
	return nil
}

func (s *session) enqueue(m *swanherdv1.ControllerMessage) { s.queue = append(s.queue, m) }

func goaway(reason string, retryAfter, leaveWithin time.Duration) *swanherdv1.ControllerMessage {
	g := &swanherdv1.Goaway{Reason: reason, RetryAfter: durationpb.New(retryAfter)}
	if leaveWithin > 0 {
		g.LeaveWithin = durationpb.New(leaveWithin)
	}
	return &swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Goaway{Goaway: g}}
}

// sent notes that m was handed to the stream.
func (s *session) sent(m *swanherdv1.ControllerMessage) {
	switch {
	case m.GetPong() != nil:
		if s.pong == m.GetPong() {
			s.pong = nil
		}
		return
	case m.GetFullStatusRequest() != nil:
		s.askFullStatus = false
		return
	case m.GetFlowGrant() != nil:
		s.told = m.GetFlowGrant().GetCounterInterval().AsDuration() == s.interval
		return
	}
	if s.queue = s.queue[1:]; len(s.queue) == 0 {
		s.queue = nil // the chunks of a snapshot are not kept
	}
	c := m.GetIntent()
	if c == nil || s.flight == nil || c.GetNonce() != s.flight.nonce {
		return
	}
	if c.GetChunk()+1 == c.GetChunkCount() {
		s.flight.whole = true
		s.server.cfg.Metrics.IntentSent(s.flight.full, s.flight.octets, time.Since(s.flight.begun))
	}
}

func (s *session) handle(m *swanherdv1.EdgeMessage) error {
	if s.hello == nil {
		return s.greet(m.GetHello())
	}
	fleet, edge := s.server.cfg.Fleet, s.identity.Edge
	switch m := m.GetMessage().(type) {
	case *swanherdv1.EdgeMessage_Hello:
		return status.Error(codes.InvalidArgument, "Hello comes once, at the start of a session")
	case *swanherdv1.EdgeMessage_Ack:
		return s.acknowledged(m.Ack)
	case *swanherdv1.EdgeMessage_Nack:
		return s.rejected(m.Nack)
	case *swanherdv1.EdgeMessage_Reverted:
		s.reverted(m.Reverted)
	case *swanherdv1.EdgeMessage_Status:
		s.reported(m.Status)
	case *swanherdv1.EdgeMessage_Counters:
		fleet.Count(edge, m.Counters)
	case *swanherdv1.EdgeMessage_Uplinks:
		s.hello.Uplinks = m.Uplinks.GetUplinks()
		fleet.SetUplinks(edge, m.Uplinks.GetUplinks())
	case *swanherdv1.EdgeMessage_Drift:
		s.drifted(m.Drift)
	case *swanherdv1.EdgeMessage_RedirectResult:
		fleet.Note(edge, "edge.redirect_failed", "cannot be welcomed where it was redirected to: "+m.RedirectResult.GetMessage())
	case *swanherdv1.EdgeMessage_CommandResult:
		s.answered(m.CommandResult)
	case *swanherdv1.EdgeMessage_JobReport:
		if ended := s.server.cfg.JobEnded; ended != nil {
			ended(edge, m.JobReport)
		}
	case *swanherdv1.EdgeMessage_Ping:
		s.pong = &swanherdv1.Pong{PingSendTime: m.Ping.GetSendTime()}
		s.timed(m.Ping, time.Now())
	}
	return nil
}

// timed notes how far away the edge is, and its clock from ours: the Ping is taken for half
// a round trip old.
func (s *session) timed(p *swanherdv1.Ping, now time.Time) {
	if p.GetRoundTrip() == nil || p.GetSendTime() == nil {
		return
	}
	trip := min(max(0, p.GetRoundTrip().AsDuration()), s.server.cfg.HeartbeatInterval)
	s.server.cfg.Fleet.SetTiming(s.identity.Edge, trip, p.GetSendTime().AsTime().Add(trip/2).Sub(now))
}

// reported passes a status report on. Reports are numbered, and the first of a
// session holds everything: after a gap the edge is asked to start over.
func (s *session) reported(r *swanherdv1.StatusReport) {
	if !r.GetFull() && (s.reportSeq == 0 || r.GetSequence() != s.reportSeq+1) {
		s.askFullStatus = true
	}
	s.reportSeq = r.GetSequence()
	s.server.cfg.Fleet.Report(s.identity.Edge, r)
}

// drifted records that something on an edge's host was not as its intent has it.
func (s *session) drifted(d *swanherdv1.DriftReport) {
	action := "edge.drift_repaired"
	if d.GetKind() == swanherdv1.DriftReport_KIND_UNREPAIRABLE {
		action = "edge.drift_unrepairable"
	}
	s.server.cfg.Fleet.Note(s.identity.Edge, action, d.GetSubject()+": "+d.GetMessage())
}

// sendAway has the edge look for another controller at a time.
func (s *session) sendAway(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.leaving {
		s.awayAt = at
	}
}

// tend does what is due at a time.
func (s *session) tend(now time.Time, interval time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := silenceFactor * s.server.cfg.HeartbeatInterval
	switch {
	case s.ending != nil:
		return
	case s.hello == nil:
		if s.heard.IsZero() && now.Sub(s.opened) >= helloTimeout {
			s.end(status.Errorf(codes.DeadlineExceeded, "the edge said no Hello within %s", helloTimeout))
		}
		return
	case now.Sub(s.heard) >= limit:
		s.finishLocked(&ending{code: codes.DeadlineExceeded, reason: fmt.Sprintf("the edge said nothing for %s", limit)})
		return
	case !s.stuck.IsZero() && now.Sub(s.stuck) >= limit:
		s.end(status.Errorf(codes.DeadlineExceeded, "the edge took nothing for %s", limit))
		return
	case s.leaving && now.Sub(s.leaveAt) >= leaveWithin:
		s.finishLocked(&ending{code: codes.Unavailable, reason: agedReason})
		return
	}
	due := s.due(now)
	if s.interval != interval { // told with what is sent next: load must not make load
		s.interval, s.told = interval, false
	}
	if !s.leaving && !now.Before(s.leaveAt) {
		s.leaving, due = true, true
		s.enqueue(goaway(agedReason, 0, leaveWithin))
	}
	if !s.awayAt.IsZero() && !now.Before(s.awayAt) {
		s.awayAt, due = time.Time{}, true
		m := goaway(cutOffReason, 0, leaveWithin)
		m.GetGoaway().Elsewhere = true
		s.enqueue(m)
	}
	if due {
		go s.attend()
	}
}

// streamEnd turns what the receiver ended with into the session's status.
func streamEnd(err error) error {
	if err == io.EOF {
		return nil // the edge closed the session
	}
	if status.Code(err) == codes.Canceled || errors.Is(err, context.Canceled) {
		return status.Error(codes.Canceled, "the connection ended")
	}
	return err
}
