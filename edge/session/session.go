package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/swanherd/swanherd/edge/state"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

type stream = grpc.BidiStreamingClient[swanherdv1.EdgeMessage, swanherdv1.ControllerMessage]

// session is one stream. Once it is open its fields belong to the goroutine of serve.
type session struct {
	c        *Client
	endpoint string
	conn     *grpc.ClientConn
	stream   stream

	ctx    context.Context
	cancel context.CancelCauseFunc
	// watch cancels the stream when the controller is silent. It does not tell the loop,
	// which may itself hang in Send.
	watch *time.Timer

	welcome     *swanherdv1.Welcome
	welcomeTime time.Time
	heartbeat   time.Duration
	sequence    uint64

	running  *state.Intent // as of the last Ack
	update   *update       // being assembled
	applying *update       // handed to Intent.Apply
	applied  chan error    // its result

	pingTick *time.Ticker
	// roundTrip of the last Ping that was answered; zero: none was.
	roundTrip time.Duration
	// counterTick ticks when counters are due; stopped while none are wanted.
	counterTick *time.Ticker

	move    *move  // to another session, while that is being opened
	release func() // called when the session is closed; may be nil
}

func newSession(parent context.Context, c *Client, endpoint string, conn *grpc.ClientConn) *session {
	s := &session{c: c, endpoint: endpoint, conn: conn, running: c.cfg.Intent.Running(), applied: make(chan error, 1)}
	s.ctx, s.cancel = context.WithCancelCause(parent)
	s.watch = time.AfterFunc(openTimeout, func() { s.cancel(errors.New("controller is silent")) })
	return s
}

func (s *session) close() {
	s.watch.Stop()
	s.cancel(nil)
	s.conn.Close()
	if s.release != nil {
		s.release()
	}
}

// cause is what ended the session, given what a call on its stream says.
func (s *session) cause(err error) error {
	if cause := context.Cause(s.ctx); cause != nil && !errors.Is(err, errReconnect) {
		return cause
	}
	return err
}

// lasted says that it was a session worth the name.
func (s *session) lasted() bool {
	return !s.welcomeTime.IsZero() && time.Since(s.welcomeTime) >= s.heartbeat
}

// open says Hello and hears Welcome.
func (s *session) open() error {
	var err error
	if s.stream, err = swanherdv1.NewEdgeControlServiceClient(s.conn).Session(s.ctx); err != nil {
		return err
	}
	if err := s.stream.Send(s.hello()); err != nil && !errors.Is(err, io.EOF) {
		return err // with EOF Recv has the reason for which the stream is over
	}
	m, err := s.stream.Recv()
	if err != nil {
		return err
	}
	if g := m.GetGoaway(); g != nil {
		return away(g)
	}
	if s.welcome = m.GetWelcome(); s.welcome == nil {
		return fmt.Errorf("controller sent %T before Welcome", m.GetMessage())
	}
	if v := s.welcome.GetProtocolVersion(); v != uint32(swanherdv1.ProtocolVersion_PROTOCOL_VERSION_1) {
		return fmt.Errorf("controller speaks version %d of the session protocol, this agent version 1; upgrade the older one", v)
	}
	s.welcomeTime = time.Now()
	s.heartbeat = clampInterval(s.welcome.GetHeartbeatInterval(), defaultHeartbeat)
	s.watch.Reset(silentIntervals * s.heartbeat)
	return nil
}

func (s *session) hello() *swanherdv1.EdgeMessage {
	return &swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Hello{Hello: &swanherdv1.Hello{
		ProtocolVersion: uint32(swanherdv1.ProtocolVersion_PROTOCOL_VERSION_1),
		BootId:          s.c.bootID,
		AgentVersion:    s.c.cfg.AgentVersion,
		Applied:         s.running.Applied(),
		Uplinks:         s.c.cfg.Uplinks.Current(),
		DataPlane:       s.c.cfg.DataPlane,
		Unconfirmed:     s.c.cfg.Intent.Unconfirmed(),
		Reverted:        s.c.cfg.Intent.Reverted(),
		AwaitedTunnels:  s.c.cfg.Intent.Awaited(),
	}}}
}

// serve has the session until it fails, parent ends, or another takes its place, which it
// returns. An update that is being applied is waited for: the next Hello has to say what
// the edge then runs.
func (s *session) serve(parent context.Context) (next *session, err error) {
	defer s.close()
	s.pingTick = time.NewTicker(s.heartbeat)
	s.counterTick = time.NewTicker(clampInterval(s.welcome.GetCounterInterval(), defaultCounters))
	defer s.pingTick.Stop()
	defer s.counterTick.Stop()
	s.running = s.c.cfg.Intent.Running() // it may be another than when this was opened
	s.began()
	err = s.sendFull()
	if err == nil {
		received := make(chan *swanherdv1.ControllerMessage)
		go s.receive(received)
		next, err = s.loop(parent, received)
	}
	if s.applying != nil {
		<-s.applied
	}
	if next == nil && s.move != nil {
		next = s.move.stop()
	}
	return next, explain(s.cause(err))
}

// began notes that there is a session.
func (s *session) began() {
	s.c.status.Store(&Status{Connected: true, Endpoint: s.endpoint, Since: s.welcomeTime})
	s.c.cfg.Logger.Info("session with the controller", "controller", s.endpoint, "epoch", s.welcome.GetEpoch())
	s.c.places.good(s.endpoint)
	s.c.keep(s.endpoint)
	if s.c.cfg.Welcomed != nil {
		others := slices.DeleteFunc(slices.Clone(s.c.places.endpoints), func(e string) bool { return e == s.endpoint })
		s.c.cfg.Welcomed(append([]string{s.endpoint}, others...), s.welcome.GetStunPorts())
	}
}

// receive passes what the controller says to the loop and puts the watch for
// silence off with each message.
func (s *session) receive(to chan<- *swanherdv1.ControllerMessage) {
	for {
		m, err := s.stream.Recv()
		if err != nil {
			s.cancel(err)
			return
		}
		s.watch.Reset(silentIntervals * s.heartbeat)
		select {
		case to <- m:
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *session) loop(parent context.Context, received <-chan *swanherdv1.ControllerMessage) (*session, error) {
	for {
		var err error
		select {
		case <-s.ctx.Done():
			_ = s.stream.CloseSend()
			return nil, s.ctx.Err()
		case <-s.c.reconnect:
			_ = s.stream.CloseSend()
			return nil, errReconnect
		case m := <-received:
			err = s.handle(parent, m)
		case result := <-s.applied:
			err = s.answer(result)
		case <-s.c.cfg.Health.Changed():
			err = s.sendTransitions()
		case <-s.c.cfg.Uplinks.Changed():
			err = s.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Uplinks{
				Uplinks: &swanherdv1.UplinkReport{Uplinks: s.c.cfg.Uplinks.Current()},
			}})
		case <-s.c.cfg.Intent.Changed():
			err = s.sendTrial()
		case d := <-s.c.drift:
			err = s.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Drift{Drift: d}})
		case r := <-s.c.jobs:
			err = s.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_JobReport{JobReport: r}})
		case now := <-s.pingTick.C:
			err = s.sendPing(now)
		case <-s.counterTick.C:
			err = s.sendCounters()
		case o := <-s.move.opened():
			var next *session
			if next, err = s.moved(o); next != nil {
				_ = s.stream.CloseSend()
				return next, nil
			}
		}
		if err != nil {
			return nil, err
		}
	}
}

func (s *session) send(m *swanherdv1.EdgeMessage) error {
	if err := s.stream.Send(m); !errors.Is(err, io.EOF) {
		return err
	}
	// The stream is over and Recv has the reason, which it puts in the context.
	<-s.stream.Context().Done()
	return s.stream.Context().Err()
}

func (s *session) handle(ctx context.Context, m *swanherdv1.ControllerMessage) error {
	switch m := m.GetMessage().(type) {
	case *swanherdv1.ControllerMessage_Welcome:
		return errors.New("controller sent Welcome twice")
	case *swanherdv1.ControllerMessage_Goaway:
		if m.Goaway.GetLeaveWithin().AsDuration() <= 0 {
			return away(m.Goaway)
		}
		but := ""
		if m.Goaway.GetElsewhere() {
			but = s.endpoint
		}
		s.begin(ctx, &move{to: s.c.places.anew(but)})
	case *swanherdv1.ControllerMessage_Redirect:
		return s.redirect(ctx, m.Redirect.GetEndpoints())
	case *swanherdv1.ControllerMessage_FlowGrant:
		s.grant(m.FlowGrant.GetCounterInterval())
	case *swanherdv1.ControllerMessage_Intent:
		return s.intent(ctx, m.Intent)
	case *swanherdv1.ControllerMessage_Bookmark:
		s.c.cfg.Logger.Debug("intent is current", "revision", m.Bookmark.GetSourceRevision())
	case *swanherdv1.ControllerMessage_Confirm:
		return s.confirm(m.Confirm.GetSetDigest())
	case *swanherdv1.ControllerMessage_Command:
		return s.command(m.Command)
	case *swanherdv1.ControllerMessage_FullStatusRequest:
		return s.sendFull()
	case *swanherdv1.ControllerMessage_Pong:
		if sent := m.Pong.GetPingSendTime(); sent.IsValid() {
			s.roundTrip = time.Since(sent.AsTime())
			st := s.c.Status()
			st.RoundTrip = s.roundTrip
			s.c.status.Store(&st)
		}
	}
	return nil // a message of a newer controller is not for this agent
}

func (s *session) sendPing(now time.Time) error {
	ping := &swanherdv1.Ping{SendTime: timestamppb.New(now)}
	if s.roundTrip > 0 {
		ping.RoundTrip = durationpb.New(s.roundTrip)
	}
	return s.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Ping{Ping: ping}})
}

// command has a command carried out and answers whether that has begun.
func (s *session) command(c *swanherdv1.Command) error {
	err := errors.New("this agent takes no commands")
	if s.c.cfg.Command != nil {
		err = s.c.cfg.Command(c)
	}
	result := &swanherdv1.CommandResult{Id: c.GetId()}
	if err != nil {
		result.Error = err.Error()
	}
	return s.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_CommandResult{CommandResult: result}})
}

// away is a Goaway as an error.
func away(g *swanherdv1.Goaway) *goawayError {
	return &goawayError{g.GetReason(), min(max(g.GetRetryAfter().AsDuration(), 0), goawayMax)}
}

// grant takes the controller's word for how often it wants counters.
func (s *session) grant(interval *durationpb.Duration) {
	if interval.AsDuration() <= 0 {
		s.counterTick.Stop()
		return
	}
	s.counterTick.Reset(clampInterval(interval, defaultCounters))
}

// clampInterval keeps the controller's wish between a second and ten minutes.
func clampInterval(d *durationpb.Duration, preset time.Duration) time.Duration {
	if v := d.AsDuration(); d.IsValid() && v > 0 {
		return min(max(v, time.Second), 10*time.Minute)
	}
	return preset
}

func (s *session) sendFull() error {
	return s.sendStatus(true, s.c.cfg.Health.Full(), nil)
}

func (s *session) sendTransitions() error {
	changed, removed := s.c.cfg.Health.Transitions()
	if len(changed) == 0 && len(removed) == 0 {
		return nil
	}
	return s.sendStatus(false, changed, removed)
}

func (s *session) sendStatus(full bool, tunnels []*swanherdv1.TunnelReport, removed []string) error {
	for _, r := range splitReport(full, tunnels, removed) {
		s.sequence++
		r.Sequence = s.sequence
		if err := s.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Status{Status: r}}); err != nil {
			return err
		}
	}
	return nil
}

// sendCounters sends counters, behind any transition that waits.
func (s *session) sendCounters() error {
	if err := s.sendTransitions(); err != nil {
		return err
	}
	for _, r := range splitCounters(s.c.cfg.Health.Counters()) {
		if err := s.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Counters{Counters: r}}); err != nil {
			return err
		}
	}
	return nil
}

// explain says for people why a session ended, and what to do where they can
// mend it.
func explain(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return errors.New("controller ended the session")
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	switch st.Code() {
	case codes.Unauthenticated, codes.PermissionDenied:
		return fmt.Errorf("controller refuses this edge (deleted, revoked or expired): %s; enroll again if that was not meant", st.Message())
	case codes.Unavailable:
		return errors.New(st.Message()) // the connection's own words
	}
	return fmt.Errorf("%s: %s", st.Code(), st.Message())
}
