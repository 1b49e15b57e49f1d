package dataplane

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// A bucket of a Latency is at most an eighth of its lower bound wide, or
// latencyUnit.
const (
	latencyUnit    = 64 // nanoseconds
	latencySteps   = 8  // of each power of two
	latencyBuckets = 26 * latencySteps
)

// Latency is a histogram of durations, cheap enough to be always on: it has a fixed
// size and takes no lock. Any goroutine observes and looks. The zero value is
// ready.
type Latency struct {
	counts [latencyBuckets]atomic.Uint64
	sum    atomic.Int64 // nanoseconds
}

// Observe counts one duration. Those beyond the last bucket, of about 15 s, are in
// it.
func (l *Latency) Observe(d time.Duration) {
	l.counts[latencyBucket(d)].Add(1)
	l.sum.Add(int64(d))
}

func latencyBucket(d time.Duration) int {
	u := uint64(max(d, 0)) / latencyUnit
	if u < latencySteps {
		return int(u)
	}
	power := bits.Len64(u) - 4 // of the width of its bucket
	return min((power+1)*latencySteps+int(u>>power)&(latencySteps-1), latencyBuckets-1)
}

// latencyBound is where bucket i begins.
func latencyBound(i int) time.Duration {
	if i < latencySteps {
		return time.Duration(i) * latencyUnit
	}
	return time.Duration(latencySteps+i%latencySteps) << (i/latencySteps - 1) * latencyUnit
}

// Snapshot returns what was observed so far.
func (l *Latency) Snapshot() LatencySnapshot {
	s := LatencySnapshot{Sum: time.Duration(l.sum.Load())}
	for i := range l.counts {
		s.counts[i] = l.counts[i].Load()
		s.Count += s.counts[i]
	}
	return s
}

// LatencySnapshot is a Latency at one time.
type LatencySnapshot struct {
	Count  uint64
	Sum    time.Duration
	counts [latencyBuckets]uint64
}

// Quantile returns a duration that a share q of all does not exceed, 0 if there
// are none. It errs by at most an eighth upwards.
func (s *LatencySnapshot) Quantile(q float64) time.Duration {
	if s.Count == 0 {
		return 0
	}
	rank := max(1, uint64(q*float64(s.Count)))
	var seen uint64
	for i, n := range s.counts {
		if seen += n; seen >= rank {
			return latencyBound(i + 1)
		}
	}
	return latencyBound(latencyBuckets)
}

// Below returns how many were shorter than d, which is exact for the powers of two
// of nanoseconds from 64 on.
func (s *LatencySnapshot) Below(d time.Duration) uint64 {
	var n uint64
	for i, c := range s.counts {
		if latencyBound(i+1) > d {
			break
		}
		n += c
	}
	return n
}

// Measured is a Plane that measures how long packets stay in it.
type Measured interface {
	Plane

	// Latency returns how long batches of one direction took since the plane was
	// made: from when the first packet was read to when the last was written.
	Latency(Direction) LatencySnapshot
}
