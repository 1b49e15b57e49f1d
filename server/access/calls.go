package access

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Defaults of RateLimit.
const (
	DefaultCallsPerSecond = 200
	DefaultCallsBurst     = 2000
)

// maxPrincipals bounds the memory that limits cost. Beyond it those that have their full
// burst back are forgotten, and if that frees none, unknown ones share one limit.
const maxPrincipals = 1 << 14

// RateLimit is how often one principal may call, by whatever credential it comes and from
// wherever. A stream counts as one call.
type RateLimit struct {
	// PerSecond on average; 0: DefaultCallsPerSecond, below 0: no limit.
	PerSecond float64
	// Burst at once; 0: DefaultCallsBurst.
	Burst int
}

// callLimiter is a token bucket for each principal.
type callLimiter struct {
	limit rate.Limit
	burst int

	mu      sync.Mutex
	callers map[string]*rate.Limiter // by actor
	rest    *rate.Limiter
	forgot  time.Time
}

func newCallLimiter(l RateLimit) *callLimiter {
	if l.PerSecond == 0 {
		l.PerSecond = DefaultCallsPerSecond
	}
	if l.Burst == 0 {
		l.Burst = DefaultCallsBurst
	}
	limit := rate.Limit(l.PerSecond)
	if l.PerSecond < 0 {
		limit = rate.Inf
	}
	return &callLimiter{limit: limit, burst: l.Burst, callers: map[string]*rate.Limiter{}, rest: rate.NewLimiter(limit, l.Burst)}
}

// take counts a call of the actor; wait is after which time it may call again, 0: now.
func (l *callLimiter) take(actor string, now time.Time) (wait time.Duration) {
	if l.limit == rate.Inf {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	lim := l.callers[actor]
	if lim == nil {
		lim = l.admit(actor, now)
	}
	if lim.AllowN(now, 1) {
		return 0
	}
	missing := 1 - lim.TokensAt(now)
	return time.Duration(missing / float64(l.limit) * float64(time.Second))
}

// admit makes the limit of an actor that has none.
func (l *callLimiter) admit(actor string, now time.Time) *rate.Limiter {
	if len(l.callers) >= maxPrincipals && now.Sub(l.forgot) > time.Second {
		l.forgot = now
		for a, lim := range l.callers {
			if lim.TokensAt(now) >= float64(l.burst) {
				delete(l.callers, a)
			}
		}
	}
	if len(l.callers) >= maxPrincipals {
		return l.rest
	}
	lim := rate.NewLimiter(l.limit, l.burst)
	l.callers[actor] = lim
	return lim
}

// errTooManyCalls says when the actor may call again.
func errTooManyCalls(actor string, wait time.Duration) error {
	return withDetails(codes.ResourceExhausted, actor+" calls too often; wait, and call less often or in larger pages",
		&errdetails.RetryInfo{RetryDelay: durationpb.New(wait)}, errorInfo(ReasonRateLimited, map[string]string{"principal": actor}))
}
