package dataplane

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Bucket i of an SALatency, but the last, ends at 2^i times saLatencyUnit, about 4
// microseconds.
const (
	saLatencyPower   = 12
	saLatencyUnit    = time.Duration(1) << saLatencyPower
	saLatencyBuckets = 16
)

// SALatency is a histogram of how long packets of one SA stayed in a plane. There may be
// tens of thousands of SAs, so it is small, and coarse: each bucket is twice as wide as
// the one before. Any goroutine observes and looks. The zero value is ready.
type SALatency struct {
	counts [saLatencyBuckets]atomic.Uint64
	sum    atomic.Int64 // nanoseconds
}

// Observe counts n packets that took d.
func (l *SALatency) Observe(d time.Duration, n uint64) {
	power := bits.Len64(uint64(max(d, 0)) >> saLatencyPower)
	l.counts[min(power, saLatencyBuckets-1)].Add(n)
	l.sum.Add(int64(d) * int64(n))
}

// Snapshot returns what was observed so far, nil for nothing.
func (l *SALatency) Snapshot() *SALatencySnapshot {
	s := SALatencySnapshot{Sum: time.Duration(l.sum.Load())}
	for i := range l.counts {
		s.counts[i] = l.counts[i].Load()
		s.Count += s.counts[i]
	}
	if s.Count == 0 {
		return nil
	}
	return &s
}

// SALatencySnapshot is an SALatency at one time, or a sum of such. A nil one has nothing.
type SALatencySnapshot struct {
	Count  uint64        // packets
	Sum    time.Duration // of all of them
	counts [saLatencyBuckets]uint64
}

// AddSince adds what s has more than before, an earlier snapshot of the same SA.
func (t *SALatencySnapshot) AddSince(s, before *SALatencySnapshot) {
	if s == nil {
		return
	}
	if before == nil {
		before = &SALatencySnapshot{}
	}
	t.Count += s.Count - before.Count
	t.Sum += s.Sum - before.Sum
	for i := range t.counts {
		t.counts[i] += s.counts[i] - before.counts[i]
	}
}

// Below returns how many packets took less than d, which is exact for 4,096 ns and its
// doubles up to 67 ms.
func (t *SALatencySnapshot) Below(d time.Duration) (n uint64) {
	for i, bound := 0, saLatencyUnit; i < saLatencyBuckets-1 && bound <= d; i, bound = i+1, 2*bound {
		n += t.counts[i]
	}
	return n
}
