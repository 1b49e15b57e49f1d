package session

import (
	"cmp"
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/fleet"
)

// greet answers Hello, nil for another message.
func (s *session) greet(hello *swanherdv1.Hello) error {
	if hello == nil {
		return status.Error(codes.InvalidArgument, "the first message of a session is Hello")
	}
	if hello.GetProtocolVersion() < uint32(swanherdv1.ProtocolVersion_PROTOCOL_VERSION_1) {
		return status.Errorf(codes.FailedPrecondition,
			"the edge speaks session protocol %d, the controller %d and newer: update the edge",
			hello.GetProtocolVersion(), swanherdv1.ProtocolVersion_PROTOCOL_VERSION_1)
	}
	s.hello, s.applied, s.confirmed = hello, hello.GetApplied(), !hello.GetUnconfirmed()
	s.awaited = hello.GetAwaitedTunnels()
	s.tookBack(hello.GetReverted())
	cfg := s.server.cfg
	s.interval = s.server.counterInterval()
	s.told = s.interval > 0 // Welcome cannot say none
	s.enqueue(&swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Welcome{Welcome: &swanherdv1.Welcome{
		ProtocolVersion:   uint32(swanherdv1.ProtocolVersion_PROTOCOL_VERSION_1),
		Epoch:             cfg.Epoch,
		ServerTime:        timestamppb.New(time.Now()),
		HeartbeatInterval: durationpb.New(cfg.HeartbeatInterval),
		CounterInterval:   durationpb.New(cmp.Or(s.interval, cfg.CounterInterval)),
		StunPorts:         cfg.STUNPorts,
	}}})
	if len(cfg.Redirect) > 0 {
		s.enqueue(&swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Redirect{
			Redirect: &swanherdv1.Redirect{Endpoints: cfg.Redirect},
		}})
	}
	s.log().Info("edge session began", "agent", hello.GetAgentVersion(), "data_plane", hello.GetDataPlane())
	return nil
}

// connect makes the session known to the fleet, as soon as the fleet knows the
// edge: one that has only just enrolled may be here before the plan is.
func (s *session) connect() {
	if s.connected {
		return
	}
	s.connected = s.server.cfg.Fleet.Connect(s.identity.Edge, fleet.SessionStart{
		ID:           s.id,
		AgentVersion: s.hello.GetAgentVersion(),
		DataPlane:    s.hello.GetDataPlane(),
		Uplinks:      s.hello.GetUplinks(),
		BootID:       s.hello.GetBootId(),

		CertificateSerial: s.identity.Serial(),
	})
}

// admission waits until the server takes another Hello. A fleet that comes back all at once is
// let in at a pace that leaves time for those that are in; who would wait for long is
// sent away, with a time to come back at.
func (s *session) admission(ctx context.Context) error {
	place := s.server.hellos.Reserve()
	wait := place.Delay()
	if wait > maxHelloWait {
		place.Cancel()
		_ = s.stream.Send(goaway("too many edges come at a time", wait, 0))
		return status.Errorf(codes.ResourceExhausted, "too many edges come at a time; come back in %s", wait.Round(time.Millisecond))
	}
	if wait == 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return streamEnd(ctx.Err())
	}
}
