package session

import (
	"cmp"
	"context"
	"crypto/rand"
	"log/slog"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
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
	DefaultMaxAge            = 2 * time.Hour
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

	// tendInterval is how often sessions are looked after.
	tendInterval = time.Second
	// bookmarkInterval is how often an edge hears that it has all there is.
	bookmarkInterval = time.Minute
	// behindTimeout is how long a replica may be behind another one.
	behindTimeout = time.Minute
	// leaveWithin is how long an edge may take that is to connect anew.
	leaveWithin = 30 * time.Second
	// sendAwayInterval is how often a controller that is cut off asks the edges that are
	// still there to look for another one.
	sendAwayInterval = time.Minute
	// helloBurst edges are let in at once, and helloRate a second after them; who would
	// wait for longer than maxHelloWait comes back later.
	helloRate    = 1000
	helloBurst   = 1000
	maxHelloWait = 5 * time.Second
	// An edge says at most floodBurst things at once, and floodRate a second after them.
	// What it says beyond that waits in its own connection. Thousands of transitions of
	// a hub are few messages.
	floodRate  = 200
	floodBurst = 1000
)

// Why an edge is asked to connect anew.
const (
	agedReason   = "the session is old: edges spread over the controllers that there are by now"
	cutOffReason = "this controller is cut off from its store; others may not be"
)

// Config configures a Server. Epoch, Board, Fleet and Admit are required.
type Config struct {
	// Epoch identifies the store that intents are planned from.
	Epoch string
	// PastEpochs are the epochs before it, with the last store revision of each that is
	// also in the past of this one.
	PastEpochs map[string]int64
	// Board is this server's alone.
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
	// MaxAge is the age at which a session has to begin anew at the latest; at the
	// earliest it is half of that.
	MaxAge time.Duration
	// Redirect is where edges are sent to, `host:port` each; empty: they stay.
	Redirect []string
	// STUNPorts are where edges ask what their port looks like from outside; none: nowhere.
	STUNPorts []uint32
	// CutOff says whether other controllers go on without this one, which learns of no
	// change: edges are asked to look for another one. Nil: never. It must not block.
	CutOff func() bool
	// JobEnded is told how jobs end, as the edge says, which nobody has proved; it must not
	// block. Nil: nobody is.
	JobEnded func(edge string, r *swanherdv1.JobReport)
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

	cfg    Config
	hellos *rate.Limiter
	// counters is how often they are wanted now.
	counters atomic.Int64
	// begun and updated are how many sessions and updates there were.
	begun, updated atomic.Uint64

	mu       sync.Mutex
	sessions map[string]*session // by edge
	load     throttle
	draining bool
	// sendAwayAt is when edges are asked again to look for another controller, as long
	// as this one is cut off.
	sendAwayAt time.Time
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
	if cfg.MaxAge == 0 {
		cfg.MaxAge = DefaultMaxAge
	}
	if cfg.Metrics == nil {
		cfg.Metrics = unobserved{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, hellos: rate.NewLimiter(helloRate, helloBurst), sessions: map[string]*session{}}
	s.counters.Store(int64(cfg.CounterInterval))
	cfg.Board.onPost(s.posted)
	return s
}

// Run looks after the sessions until ctx ends: what is due by the clock it does.
func (s *Server) Run(ctx context.Context) {
	tick := time.NewTicker(tendInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			s.tend(now)
		}
	}
}

// tend does in every session what is due at a time, which is past by as much as the server
// is late.
func (s *Server) tend(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	away := s.sendAway(now)
	for _, sess := range s.sessions {
		if away > 0 {
			sess.sendAway(now.Add(mathrand.N(away)))
		}
		sess.tend(now, s.counterInterval())
	}
	s.load.tick(time.Since(now))
	s.counters.Store(int64(s.load.interval(s.cfg.CounterInterval)))
}

// sendAway returns, when edges are to look for another controller, over what time: other
// controllers take so many at once. Zero: not now.
func (s *Server) sendAway(now time.Time) time.Duration {
	if s.cfg.CutOff == nil || !s.cfg.CutOff() {
		s.sendAwayAt = time.Time{}
		return 0
	}
	if now.Before(s.sendAwayAt) {
		return 0
	}
	s.cfg.Log.Warn("cut off from the store, while others may not be: asking edges to look for another controller", "sessions", len(s.sessions))
	s.sendAwayAt = now.Add(sendAwayInterval)
	return max(tendInterval, time.Duration(len(s.sessions))*time.Second/leastReturnRate)
}

// counterInterval is how often counters are wanted now; zero: not at all.
func (s *Server) counterInterval() time.Duration { return time.Duration(s.counters.Load()) }

// Begun is how many sessions have begun since the start.
func (s *Server) Begun() uint64 { return s.begun.Load() }

// Updated is how many updates have been begun since the start.
func (s *Server) Updated() uint64 { return s.updated.Load() }

// posted has the session of an edge look at its new intent.
func (s *Server) posted(edge string) {
	s.mu.Lock()
	sess := s.sessions[edge]
	s.mu.Unlock()
	if sess != nil {
		go sess.attend()
	}
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
		id:       rand.Text(),
		stream:   stream,
		over:     make(chan error, 1),
		done:     make(chan struct{}),
		opened:   time.Now(),
		leaveAt:  time.Now().Add(s.cfg.MaxAge/2 + mathrand.N(s.cfg.MaxAge/2)),
	}
	if err := s.register(sess); err != nil {
		return err
	}
	s.begun.Add(1)
	s.cfg.Metrics.SessionOpened()
	err = sess.run()
	s.unregister(sess)
	reason := cmp.Or(status.Convert(err).Message(), "the edge closed it")
	s.cfg.Fleet.Disconnect(id.Edge, sess.id, reason)
	s.cfg.Metrics.SessionClosed(status.Code(err))
	sess.log().Info("edge session ended", "code", status.Code(err), "reason", reason)
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
	if old := s.sessions[sess.identity.Edge]; old != nil {
		old.finish(replaced)
	}
	s.sessions[sess.identity.Edge] = sess
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
	if s.sessions[sess.identity.Edge] == sess {
		delete(s.sessions, sess.identity.Edge)
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
