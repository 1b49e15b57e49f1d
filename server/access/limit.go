package access

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// failureBurst wrong secrets are free, then one per failureInterval: enough
	// for a person who mistypes, nothing for one who guesses.
	failureBurst    = 10
	failureInterval = 2 * time.Second
	// maxSources bounds the memory that sources cost. When it is reached the
	// sources that have their full burst back are forgotten, and if that frees
	// none, unknown sources share one limit.
	maxSources = 1 << 16
)

// failureLimiter limits wrong secrets per source: what is right costs nothing,
// so a whole fleet behind one NAT can enrol at once.
type failureLimiter struct {
	mu      sync.Mutex
	sources map[netip.Prefix]*rate.Limiter
	rest    *rate.Limiter
	// forgot is when the last search for sources to forget was; a flood from
	// ever new sources must not make each failure a search.
	forgot time.Time
}

func newFailureLimiter() *failureLimiter {
	return &failureLimiter{
		sources: map[netip.Prefix]*rate.Limiter{},
		rest:    rate.NewLimiter(rate.Every(failureInterval), failureBurst),
	}
}

// blocked says whether the source used up its failures.
func (l *failureLimiter) blocked(source netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	lim := l.sources[sourcePrefix(source)]
	if lim == nil {
		lim = l.rest
		if len(l.sources) < maxSources {
			return false
		}
	}
	return lim.Tokens() < 1
}

// failed counts a wrong secret against the source, and says whether it was
// within the limit.
func (l *failureLimiter) failed(source netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := sourcePrefix(source)
	lim := l.sources[p]
	if lim == nil {
		if len(l.sources) >= maxSources {
			l.forget()
		}
		if len(l.sources) >= maxSources {
			return l.rest.Allow()
		}
		lim = rate.NewLimiter(rate.Every(failureInterval), failureBurst)
		l.sources[p] = lim
	}
	return lim.Allow()
}

func (l *failureLimiter) forget() {
	now := time.Now()
	if now.Sub(l.forgot) < failureBurst*failureInterval {
		return
	}
	l.forgot = now
	for p, lim := range l.sources {
		if lim.Tokens() >= failureBurst {
			delete(l.sources, p)
		}
	}
}

// sourcePrefix is what counts as one source: an IPv4 address, or the /64 that
// an IPv6 host chooses its addresses from (RFC 4291, Section 2.5.4).
func sourcePrefix(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}
