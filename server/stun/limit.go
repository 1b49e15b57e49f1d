package stun

import (
	"hash/maphash"
	"net/netip"
	"time"
)

// What a source may ask: many edges may be behind one carrier's NAT, and come back at the
// same time.
const (
	perSecond = 50
	burst     = 500
	buckets   = 1 << 13
)

// limiter bounds how often each source is answered, in an amount of memory that does not
// grow: sources are hashed, with a seed that nobody outside knows, into buckets, each one
// the theoretical arrival time of the generic cell rate algorithm. Sources that share a
// bucket share its budget. An IPv6 source is its /64, as that is what one customer has. It
// is for one goroutine.
type limiter struct {
	seed    maphash.Seed
	buckets [buckets]int64 // nanoseconds of Unix time
}

func newLimiter() *limiter { return &limiter{seed: maphash.MakeSeed()} }

// allow counts one more request of a source if that is within its rate.
func (l *limiter) allow(source netip.Addr, now time.Time) bool {
	const interval = int64(time.Second) / perSecond
	source = source.Unmap()
	key := source.As16()
	size := 16
	if source.Is6() {
		size = 8
	}
	bucket := &l.buckets[maphash.Bytes(l.seed, key[:size])%buckets]
	next := max(*bucket, now.UnixNano()) + interval
	if next-now.UnixNano() > interval*burst {
		return false
	}
	*bucket = next
	return true
}
