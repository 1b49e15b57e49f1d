package session

import (
	"context"
	"errors"
	"fmt"
	"io"
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

// session is one stream. Its fields belong to the goroutine of run.
type session struct {
	c        *Client
	endpoint string
	stream   stream

	welcomeTime time.Time // zero until Welcome
	heartbeat   time.Duration
	counters    time.Duration
	sequence    uint64

	running  *state.Intent // as of the last Ack
	update   *update       // being assembled
	applying *update       // handed to Intent.Apply
	applied  chan error    // its result

	pingTick, counterTick *time.Ticker
}

func newSession(c *Client, endpoint string) *session {
	return &session{
		c: c, endpoint: endpoint, running: c.cfg.Intent.Running(),
		heartbeat: defaultHeartbeat, counters: defaultCounters, applied: make(chan error, 1),
	}
}

func (s *session) welcomed() bool { return !s.welcomeTime.IsZero() }

// run has the session until it fails or ctx ends. An update that is being
// applied is waited for: the next Hello has to say what the edge then runs.
func (s *session) run(parent context.Context, client swanherdv1.EdgeControlServiceClient) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	// The watch cancels the stream rather than telling the loop, which may
	// itself hang in Send.
	watch := time.AfterFunc(silentIntervals*s.heartbeat, func() {
		cancel(errors.New("controller is silent"))
	})
	defer watch.Stop()

	err := s.open(ctx, client)
	if err == nil {
		s.pingTick, s.counterTick = time.NewTicker(s.heartbeat), time.NewTicker(s.counters)
		defer s.pingTick.Stop()
		defer s.counterTick.Stop()
		received := make(chan *swanherdv1.ControllerMessage)
		go s.receive(ctx, cancel, received, watch)
		err = s.loop(parent, ctx, received)
	}
	if s.applying != nil {
		<-s.applied
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, errReconnect) {
		err = cause
	}
	return explain(err)
}

func (s *session) open(ctx context.Context, client swanherdv1.EdgeControlServiceClient) error {
	var err error
	if s.stream, err = client.Session(ctx); err != nil {
		return err
	}
	err = s.stream.Send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Hello{Hello: &swanherdv1.Hello{
		ProtocolVersion: uint32(swanherdv1.ProtocolVersion_PROTOCOL_VERSION_1),
		BootId:          s.c.bootID,
		AgentVersion:    s.c.cfg.AgentVersion,
		Applied:         s.running.Applied(),
		Uplinks:         s.c.cfg.Uplinks.Current(),
		DataPlane:       s.c.cfg.DataPlane,
		Unconfirmed:     s.c.cfg.Intent.Unconfirmed(),
		Reverted:        s.c.cfg.Intent.Reverted(),
	}}})
	if errors.Is(err, io.EOF) {
		_, err = s.stream.Recv() // has the reason for which the stream is over
	}
	return err
}

// receive passes what the controller says to the loop and puts the watch for
// silence off with each message.
func (s *session) receive(ctx context.Context, cancel context.CancelCauseFunc, to chan<- *swanherdv1.ControllerMessage, watch *time.Timer) {
	for interval := defaultHeartbeat; ; {
		m, err := s.stream.Recv()
		if err != nil {
			cancel(err)
			return
		}
		if w := m.GetWelcome(); w != nil {
			interval = heartbeatOf(w)
		}
		watch.Reset(silentIntervals * interval)
		select {
		case to <- m:
		case <-ctx.Done():
			return
		}
	}
}

func (s *session) loop(parent, ctx context.Context, received <-chan *swanherdv1.ControllerMessage) error {
	for {
		// Nothing is reported before Welcome: a nil channel never is ready.
		var health, uplinks, reverted <-chan struct{}
		if s.welcomed() {
			health, uplinks, reverted = s.c.cfg.Health.Changed(), s.c.cfg.Uplinks.Changed(), s.c.cfg.Intent.Changed()
		}
		var err error
		select {
		case <-ctx.Done():
			_ = s.stream.CloseSend()
			return ctx.Err()
		case <-s.c.reconnect:
			_ = s.stream.CloseSend()
			return errReconnect
		case m := <-received:
			err = s.handle(parent, m)
		case result := <-s.applied:
			err = s.answer(result)
		case <-health:
			err = s.sendTransitions()
		case <-uplinks:
			err = s.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Uplinks{
				Uplinks: &swanherdv1.UplinkReport{Uplinks: s.c.cfg.Uplinks.Current()},
			}})
		case <-reverted:
			err = s.sendReverted()
		case now := <-s.pingTick.C:
			err = s.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Ping{
				Ping: &swanherdv1.Ping{SendTime: timestamppb.New(now)},
			}})
		case <-s.counterTick.C:
			err = s.sendCounters()
		}
		if err != nil {
			return err
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
	if w := m.GetWelcome(); w != nil {
		return s.welcome(w)
	}
	if g := m.GetGoaway(); g != nil {
		return &goawayError{g.GetReason(), min(max(g.GetRetryAfter().AsDuration(), 0), goawayMax)}
	}
	if !s.welcomed() {
		return fmt.Errorf("controller sent %T before Welcome", m.GetMessage())
	}
	switch m := m.GetMessage().(type) {
	case *swanherdv1.ControllerMessage_Intent:
		return s.intent(ctx, m.Intent)
	case *swanherdv1.ControllerMessage_Bookmark:
		s.c.cfg.Logger.Debug("intent is current", "revision", m.Bookmark.GetSourceRevision())
	case *swanherdv1.ControllerMessage_Confirm:
		return s.confirm(m.Confirm.GetSetDigest())
	case *swanherdv1.ControllerMessage_FullStatusRequest:
		return s.sendFull()
	case *swanherdv1.ControllerMessage_Pong:
		if sent := m.Pong.GetPingSendTime(); sent.IsValid() {
			st := s.c.Status()
			st.RoundTrip = time.Since(sent.AsTime())
			s.c.status.Store(&st)
		}
	}
	return nil // a message of a newer controller is not for this agent
}

func (s *session) welcome(w *swanherdv1.Welcome) error {
	if s.welcomed() {
		return errors.New("controller sent Welcome twice")
	}
	if v := w.GetProtocolVersion(); v != uint32(swanherdv1.ProtocolVersion_PROTOCOL_VERSION_1) {
		return fmt.Errorf("controller speaks version %d of the session protocol, this agent version 1; upgrade the older one", v)
	}
	now := time.Now()
	s.welcomeTime = now
	s.heartbeat = heartbeatOf(w)
	s.counters = clampInterval(w.GetCounterInterval(), defaultCounters)
	s.pingTick.Reset(s.heartbeat)
	s.counterTick.Reset(s.counters)
	s.c.status.Store(&Status{Connected: true, Endpoint: s.endpoint, Since: now})
	s.c.cfg.Logger.Info("session with the controller", "controller", s.endpoint, "epoch", w.GetEpoch())
	return s.sendFull()
}

func heartbeatOf(w *swanherdv1.Welcome) time.Duration {
	return clampInterval(w.GetHeartbeatInterval(), defaultHeartbeat)
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
	if !s.welcomed() {
		return nil
	}
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
