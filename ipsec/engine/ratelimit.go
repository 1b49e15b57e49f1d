package engine

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"
)

// rateLimiter bounds how often each source may do something, in a fixed
// amount of memory and without allocating: sources are hashed, with a seed
// that nobody outside knows, into a table of buckets, each one the
// theoretical arrival time of the generic cell rate algorithm. Sources that
// share a bucket share its budget. An IPv6 source is its /64, as that is what
// one customer has.
type rateLimiter struct {
	seed     maphash.Seed
	interval int64 // nanoseconds that one event costs
	burst    int64 // nanoseconds that a source may be ahead
	buckets  []atomic.Int64
}

// newRateLimiter allows each source perSecond events a second and burst of
// them at once.
func newRateLimiter(perSecond, burst, buckets int) *rateLimiter {
	interval := int64(time.Second) / int64(perSecond)
	return &rateLimiter{
		seed:     maphash.MakeSeed(),
		interval: interval,
		burst:    interval * int64(burst),
		buckets:  make([]atomic.Int64, buckets),
	}
}

// allow reports whether one more event from source is within its rate, and
// counts it if so. It may be called from any goroutine.
func (l *rateLimiter) allow(source netip.Addr, now time.Time) bool { return l.allowOf(source, now, 1) }

// allowOf is allow for a source that share as many have, each with a rate of its
// own.
func (l *rateLimiter) allowOf(source netip.Addr, now time.Time, share int) bool {
	interval := l.interval / int64(max(share, 1))
	key := source.As16()
	size := 16
	if source.Is6() && !source.Is4In6() {
		size = 8
	}
	bucket := &l.buckets[maphash.Bytes(l.seed, key[:size])%uint64(len(l.buckets))]
	t := now.UnixNano()
	for {
		old := bucket.Load()
		next := max(old, t) + interval
		if next-t > l.burst {
			return false
		}
		if bucket.CompareAndSwap(old, next) {
			return true
		}
	}
}
