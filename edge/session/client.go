package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/swanherd/swanherd/edge/state"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// The longest that a Goaway may send the edge away for.
	goawayMax = 10 * time.Minute
	// openTimeout is how long it may take from the first packet to Welcome.
	openTimeout = 20 * time.Second
	// Until Welcome says otherwise.
	defaultHeartbeat = 15 * time.Second
	defaultCounters  = 10 * time.Second
	// Of so many drifts the controller is told when it is back.
	maxDrift = 64
	// Of so many ends of jobs likewise: as many as run at once.
	maxJobs = 4
	// Of these intervals without a word the session is given up.
	silentIntervals = 3
)

// Intent is who runs intents. Apply is not called concurrently with itself.
type Intent interface {
	// Running is what the edge runs, nil if it never had an intent, and
	// Unconfirmed whether it is taken back if no Confirm comes.
	Running() *state.Intent
	Unconfirmed() bool
	// Apply makes the edge run i, or leaves it running what it ran and
	// returns a *RejectedError. Unless confirmWithin is zero, i is taken back
	// after that time.
	Apply(ctx context.Context, i *state.Intent, confirmWithin time.Duration) error
	// Awaited are the tunnels that have to carry traffic again before what runs can be
	// kept; some of them, if they are many.
	Awaited() []string
	// Confirm keeps what runs. It returns false if that has another digest, or tunnels
	// are awaited.
	Confirm(digest []byte) bool
	// Reverted is the update that was taken back last, nil if another was
	// applied since. Changed is sent to, without blocking, when one is, and when
	// Awaited changes.
	Reverted() *swanherdv1.Reverted
	Changed() <-chan struct{}
}

// RejectedError says why an intent was not applied.
type RejectedError struct {
	Code   swanherdv1.Nack_Code
	Errors []*swanherdv1.ResourceError
}

func (e *RejectedError) Error() string {
	if len(e.Errors) == 0 {
		return e.Code.String()
	}
	first := e.Errors[0]
	s := fmt.Sprintf("%s: %s %s: %s", e.Code, first.GetResource(), first.GetFieldPath(), first.GetMessage())
	if more := len(e.Errors) - 1; more > 0 {
		s += fmt.Sprintf(" (and %d more)", more)
	}
	return s
}

// Health is where reports come from. Its methods do not block.
type Health interface {
	// Changed is sent to, without blocking, when there are transitions to
	// report.
	Changed() <-chan struct{}
	// Full returns every tunnel's state, and Transitions those that changed
	// or went since the last call of either.
	Full() []*swanherdv1.TunnelReport
	Transitions() (changed []*swanherdv1.TunnelReport, removed []string)
	Counters() []*swanherdv1.TunnelCounters
}

// Uplinks is what the edge knows of its WAN attachments.
type Uplinks interface {
	// Changed is sent to, without blocking, when Current has changed.
	Changed() <-chan struct{}
	Current() []*swanherdv1.Uplink
}

// Config is what a Client needs.
type Config struct {
	// Dial makes a connection to an endpoint, with the credentials of the
	// moment. It does not block; the Client closes the connection.
	Dial func(endpoint string) (*grpc.ClientConn, error)
	// Endpoints are the controller's, `host:port`. They are tried in an order of chance,
	// so that a fleet spreads over them, but for Last, the one that was good last.
	Endpoints []string
	Last      string
	// Keep is told what to begin with the next time; nil: nobody is.
	Keep func(endpoints []string, last string)

	AgentVersion string
	DataPlane    string
	Intent       Intent
	Health       Health
	Uplinks      Uplinks
	// Welcomed is told of each session: the controller's endpoints, that of the session
	// first, and the ports at which it answers STUN. It does not block; nil: nobody is told.
	Welcomed func(endpoints []string, stunPorts []uint32)
	// Command begins what an operator wants done, and does not block; nil: nothing is.
	Command func(*swanherdv1.Command) error
	Logger  *slog.Logger
}

// Status is what a person wants to know of the session.
type Status struct {
	Connected bool
	Endpoint  string
	// Since is when Connected last changed.
	Since time.Time
	// RoundTrip is the time of the last Ping and its Pong.
	RoundTrip time.Duration
	// LastError is why the last session ended or could not begin.
	LastError   string
	NextAttempt time.Time
}

// Client keeps a session with the controller.
type Client struct {
	cfg       Config
	bootID    string
	status    atomic.Pointer[Status]
	reconnect chan struct{}
	drift     chan *swanherdv1.DriftReport // that wait to be sent
	jobs      chan *swanherdv1.JobReport   // likewise

	// Of Run's goroutine: where the controller is, and when it last said so.
	places     places
	redirected time.Time
}

// New returns a Client; Run makes it work.
func New(cfg Config) *Client {
	c := &Client{cfg: cfg, bootID: rand.Text(), reconnect: make(chan struct{}, 1), drift: make(chan *swanherdv1.DriftReport, maxDrift), jobs: make(chan *swanherdv1.JobReport, maxJobs), places: newPlaces(cfg.Endpoints, cfg.Last)}
	c.status.Store(&Status{Since: time.Now()})
	return c
}

// Status returns the state of the session.
func (c *Client) Status() Status { return *c.status.Load() }

// Reconnect ends the session and opens another, for instance because Dial has
// new credentials.
func (c *Client) Reconnect() {
	select {
	case c.reconnect <- struct{}{}:
	default:
	}
}

// Drifted has the controller told of a drift, also when there is no session until later.
// Of many the first are told.
func (c *Client) Drifted(d *swanherdv1.DriftReport) {
	select {
	case c.drift <- d:
	default:
	}
}

// JobEnded has the controller told of a job's end, also when there is no session until
// later. Of many the first are told.
func (c *Client) JobEnded(r *swanherdv1.JobReport) {
	select {
	case c.jobs <- r:
	default:
	}
}

var errReconnect = errors.New("reconnecting with new credentials")

// goawayError is the controller's wish to be left alone for a while.
type goawayError struct {
	reason string
	after  time.Duration
}

func (e *goawayError) Error() string { return "controller asked to come back later: " + e.reason }

// Run keeps a session open until ctx ends.
func (c *Client) Run(ctx context.Context) {
	lost := time.Now() // since when there is no session worth the name
	var next *session  // that was opened while another still went on
	for ctx.Err() == nil {
		s, err := next, error(nil)
		endpoint := c.places.current()
		if next = nil; s == nil {
			s, err = c.open(ctx, endpoint)
		}
		if err == nil {
			endpoint = s.endpoint
			next, err = s.serve(ctx)
			if s.lasted() {
				lost = time.Now()
			}
		}
		if next != nil || ctx.Err() != nil {
			continue
		}
		if s == nil || !s.lasted() {
			c.places.advance() // a session that was good stays with its endpoint
		}
		wait := backoff(time.Since(lost))
		var away *goawayError
		switch {
		case errors.As(err, &away):
			wait = away.after + mathrand.N(away.after/2+backoffMin)
		case errors.Is(err, errReconnect):
			wait = 0
		}
		c.lost(endpoint, err, wait)
		if !c.wait(ctx, wait) {
			break
		}
	}
	if next != nil {
		next.close()
	}
	c.status.Store(&Status{Since: time.Now(), LastError: "agent is stopping"})
}

// open opens a session at an endpoint; the error is for people.
func (c *Client) open(ctx context.Context, endpoint string) (*session, error) {
	conn, err := c.cfg.Dial(endpoint)
	if err != nil {
		return nil, fmt.Errorf("dial controller: %w", err)
	}
	s := newSession(ctx, c, endpoint, conn)
	if err := s.open(); err != nil {
		err = explain(s.cause(err))
		s.close()
		return nil, err
	}
	return s, nil
}

// openAny opens a session at the first of the endpoints at which that is possible.
func (c *Client) openAny(ctx context.Context, endpoints []string) (*session, error) {
	var all []error
	for _, endpoint := range endpoints {
		s, err := c.open(ctx, endpoint)
		if err == nil {
			return s, nil
		}
		all = append(all, fmt.Errorf("%s: %w", endpoint, err))
	}
	return nil, errors.Join(all...)
}

// keep has it kept where the next agent begins.
func (c *Client) keep(last string) {
	if c.cfg.Keep != nil {
		c.cfg.Keep(slices.Clone(c.places.endpoints), last)
	}
}

// lost notes and logs the end of a session.
func (c *Client) lost(endpoint string, err error, wait time.Duration) {
	now := time.Now()
	before := c.status.Load()
	s := &Status{Endpoint: endpoint, Since: before.Since, LastError: err.Error(), NextAttempt: now.Add(wait)}
	level := slog.LevelDebug
	if before.Connected {
		s.Since = now
		level = slog.LevelWarn
	} else if before.LastError != s.LastError {
		level = slog.LevelWarn
	}
	c.status.Store(s)
	c.cfg.Logger.Log(context.Background(), level, "no session with the controller; tunnels go on",
		"controller", endpoint, "error", err, "retry_in", wait.Round(time.Millisecond))
}

// wait waits for d; false if ctx ended first.
func (c *Client) wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-c.reconnect:
	case <-timer.C:
	}
	return true
}
