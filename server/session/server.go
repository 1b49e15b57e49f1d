package session

import (
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/fleet"
)

// Defaults of Config.
const (
	DefaultHeartbeatInterval = 15 * time.Second
	DefaultCounterInterval   = 10 * time.Second
	DefaultConfirmWithin     = 30 * time.Second
)

const (
	// silenceFactor times the heartbeat interval is how long an edge may say
	// nothing before its session is given up.
	silenceFactor = 3
	// helloTimeout bounds how long an authenticated edge may take to speak.
	helloTimeout = 10 * time.Second
	// farewellTimeout bounds the wait for an edge to take a Goaway.
	farewellTimeout = time.Second
	// applyRetry is when an update is sent again that an edge could not apply.
	applyRetry = 30 * time.Second
	// lostRetry is when an update is sent again that an edge took back because it did
	// not hear from the controller, which may have been gone for another reason.
	lostRetry = 10 * time.Minute
	// maxAttempts is how often an edge gets an update that it took back.
	maxAttempts = 3
	// leastReturnRate is how many sessions per second may come back after a
	// drain: retries are spread over sessions/leastReturnRate seconds.
	leastReturnRate = 500
)

// Config configures a Server. Epoch, Board, Fleet and Admit are required.
type Config struct {
	// Epoch identifies the store that intents are planned from.
	Epoch string
	Board *Board
	Fleet *fleet.Fleet
	// Admit says whether an edge may have a session now; its error is a gRPC
	// status. It is asked again at each Recheck, and must not block.
	Admit func(access.EdgeIdentity) error
	// HeartbeatInterval and CounterInterval are what Welcome tells the edge.
	HeartbeatInterval time.Duration
	CounterInterval   time.Duration
	// ConfirmWithin is after what time an edge takes an update back that cost it
	// the controller; at least a second.
	ConfirmWithin time.Duration
	// Metrics observes; nil observes nothing.
	Metrics Metrics
	Log     *slog.Logger
}

// Metrics observes what sessions do. Implementations must not block.
type Metrics interface {
	// SessionOpened and SessionClosed count sessions; code is the gRPC status
	// a session ended with.
	SessionOpened()
	SessionClosed(code codes.Code)
	// IntentSent observes an update that was handed to the stream whole.
	IntentSent(full bool, octets int, took time.Duration)
	// IntentAnswered observes the time from the first chunk to the answer;
	// result is `ack` or `nack`.
	IntentAnswered(result string, took time.Duration)
}

// Server implements EdgeControlService.
type Server struct {
	swanherdv1.UnimplementedEdgeControlServiceServer

	cfg Config

	mu       sync.Mutex
	sessions map[string]*session // by edge
	draining bool
}

// New returns a server without sessions.
func New(cfg Config) *Server {
	if cfg.HeartbeatInterval == 0 {
		cfg.HeartbeatInterval = DefaultHeartbeatInterval
	}
	if cfg.CounterInterval == 0 {
		cfg.CounterInterval = DefaultCounterInterval
	}
	if cfg.ConfirmWithin == 0 {
		cfg.ConfirmWithin = DefaultConfirmWithin
	}
	if cfg.Metrics == nil {
		cfg.Metrics = unobserved{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, sessions: map[string]*session{}}
}

// Session runs one edge's session until either side ends it.
func (s *Server) Session(stream swanherdv1.EdgeControlService_SessionServer) error {
	id, err := access.EdgeFrom(stream.Context())
	if err != nil {
		return err
	}
	if err := s.cfg.Admit(id); err != nil {
		return err
	}
	sess := &session{
		server:   s,
		identity: id,
		edge:     id.Edge,
		id:       rand.Text(),
		log:      s.cfg.Log.With("edge", id.Edge),
		stream:   stream,
		in:       make(chan *swanherdv1.EdgeMessage),
		out:      make(chan *swanherdv1.ControllerMessage),
		end:      make(chan *ending, 1),
		done:     make(chan struct{}),
	}
	if err := s.register(sess); err != nil {
		return err
	}
	s.cfg.Metrics.SessionOpened()
	err = sess.run()
	s.unregister(sess)
	s.cfg.Fleet.Disconnect(sess.edge, sess.id, status.Convert(err).Message())
	s.cfg.Metrics.SessionClosed(status.Code(err))
	sess.log.Info("edge session ended", "code", status.Code(err), "reason", status.Convert(err).Message())
	return err
}

// register makes sess the edge's session; the one it had before ends. Of two
// devices with the same identity the newer wins, as an edge that came back
// over another path must not wait for the silence of the old one.
func (s *Server) register(sess *session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return status.Error(codes.Unavailable, "the controller is shutting down")
	}
	if old := s.sessions[sess.edge]; old != nil {
		old.finish(replaced)
	}
	s.sessions[sess.edge] = sess
	return nil
}

// replaced is why a session ends when the edge has begun another one.
var replaced = &ending{code: codes.Aborted, reason: "replaced by a newer session of the same edge"}

// Supersede ends the session with the given id if it still is the edge's: the edge has
// a newer one at another replica.
func (s *Server) Supersede(edge, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sess := s.sessions[edge]; sess != nil && sess.id == id {
		sess.finish(replaced)
	}
}

func (s *Server) unregister(sess *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[sess.edge] == sess {
		delete(s.sessions, sess.edge)
	}
}

// Recheck asks Admit about every edge that has a session and ends the sessions
// it no longer admits, at once: their edges were deleted or their certificates
// revoked.
func (s *Server) Recheck() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sess := range s.sessions {
		if err := s.cfg.Admit(sess.identity); err != nil {
			sess.finish(&ending{code: status.Code(err), reason: status.Convert(err).Message()})
		}
	}
}

// Drain refuses new sessions, asks every edge to come back later, spread over
// time, and waits until they left or ctx ends.
func (s *Server) Drain(ctx context.Context) {
	s.mu.Lock()
	s.draining = true
	waiting := make([]*session, 0, len(s.sessions))
	spread := time.Duration(len(s.sessions)) * time.Second / leastReturnRate
	for _, sess := range s.sessions {
		waiting = append(waiting, sess)
		sess.finish(&ending{
			code:       codes.Unavailable,
			reason:     "the controller is shutting down",
			retryAfter: time.Duration(len(waiting)) * spread / time.Duration(len(s.sessions)),
		})
	}
	s.mu.Unlock()
	for _, sess := range waiting {
		select {
		case <-sess.done:
		case <-ctx.Done():
			return
		}
	}
}

type unobserved struct{}

func (unobserved) SessionOpened()                       {}
func (unobserved) SessionClosed(codes.Code)             {}
func (unobserved) IntentSent(bool, int, time.Duration)  {}
func (unobserved) IntentAnswered(string, time.Duration) {}
