package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/swanherd/swanherd/edge/state"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// Backoff between tries: anything up to a bound that doubles from the
	// first to the second.
	backoffMin = 500 * time.Millisecond
	backoffMax = time.Minute
	// The longest that a Goaway may send the edge away for.
	goawayMax = 10 * time.Minute
	// Until Welcome says otherwise.
	defaultHeartbeat = 15 * time.Second
	defaultCounters  = 10 * time.Second
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
	// Confirm keeps what runs. It returns false if that has another digest.
	Confirm(digest []byte) bool
	// Reverted is the update that was taken back last, nil if another was
	// applied since. Changed is sent to, without blocking, when one is.
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
	// Endpoints are the controller's, best first.
	Endpoints []string

	AgentVersion string
	DataPlane    string
	Intent       Intent
	Health       Health
	Uplinks      Uplinks
	Logger       *slog.Logger
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
}

// New returns a Client; Run makes it work.
func New(cfg Config) *Client {
	c := &Client{cfg: cfg, bootID: rand.Text(), reconnect: make(chan struct{}, 1)}
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

var errReconnect = errors.New("reconnecting with new credentials")

// goawayError is the controller's wish to be left alone for a while.
type goawayError struct {
	reason string
	after  time.Duration
}

func (e *goawayError) Error() string { return "controller asked to come back later: " + e.reason }

// Run keeps a session open until ctx ends.
func (c *Client) Run(ctx context.Context) {
	bound := backoffMin
	for next := 0; ctx.Err() == nil; {
		endpoint := c.cfg.Endpoints[next%len(c.cfg.Endpoints)]
		good, err := c.attempt(ctx, endpoint)
		if ctx.Err() != nil {
			break
		}
		if good {
			bound = backoffMin
		} else {
			next++ // a session that was good stays with its endpoint
		}
		wait := mathrand.N(bound)
		var away *goawayError
		switch {
		case errors.As(err, &away):
			wait = away.after + mathrand.N(away.after/2+backoffMin)
		case errors.Is(err, errReconnect):
			wait = 0
		default:
			bound = min(2*bound, backoffMax)
		}
		c.lost(endpoint, err, wait)
		if !c.wait(ctx, wait) {
			break
		}
	}
	c.status.Store(&Status{Since: time.Now(), LastError: "agent is stopping"})
}

// attempt has one session; good is true if it lasted for a heartbeat.
func (c *Client) attempt(ctx context.Context, endpoint string) (good bool, err error) {
	conn, err := c.cfg.Dial(endpoint)
	if err != nil {
		return false, fmt.Errorf("dial controller: %w", err)
	}
	defer conn.Close()
	s := newSession(c, endpoint)
	err = s.run(ctx, swanherdv1.NewEdgeControlServiceClient(conn))
	return s.welcomed() && time.Since(s.welcomeTime) >= s.heartbeat, err
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
