package dataplane

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestLatencyBuckets: every duration is in the bucket whose bounds hold it, and no
// bucket is wider than an eighth of its lower bound or the unit.
func TestLatencyBuckets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := int64(latencyBound(latencyBuckets)) - 1
		d := time.Duration(rapid.OneOf(rapid.Int64Range(0, limit), rapid.Int64Range(0, 100000)).Draw(t, "d"))
		i := latencyBucket(d)
		from, to := latencyBound(i), latencyBound(i+1)
		if d < from || d >= to {
			t.Fatalf("%d ns is in bucket %d, of %d to %d ns", d, i, from, to)
		}
		if to-from > max(from/latencySteps, latencyUnit) {
			t.Fatalf("bucket %d of %d to %d ns is too wide", i, from, to)
		}
	})
	for i := range latencyBuckets {
		if got := latencyBucket(latencyBound(i)); got != i {
			t.Errorf("bucket %d begins in %d", i, got)
		}
	}
	for d, want := range map[time.Duration]int{-1: 0, 0: 0, time.Hour: latencyBuckets - 1, 1<<63 - 1: latencyBuckets - 1} {
		if got := latencyBucket(d); got != want {
			t.Errorf("%d ns is in bucket %d, want %d", d, got, want)
		}
	}
}

func TestLatency(t *testing.T) {
	var l Latency
	if s := l.Snapshot(); s.Quantile(0.5) != 0 || s.Below(time.Hour) != 0 {
		t.Error("nothing observed, something found")
	}
	for i := 1; i <= 1000; i++ {
		l.Observe(time.Duration(i) * time.Microsecond)
	}
	s := l.Snapshot()
	if s.Count != 1000 || s.Sum != 500500*time.Microsecond {
		t.Errorf("%d observed, sum %s", s.Count, s.Sum)
	}
	for q, want := range map[float64]time.Duration{0: time.Microsecond, 0.5: 500 * time.Microsecond, 0.99: 990 * time.Microsecond, 1: time.Millisecond} {
		if got := s.Quantile(q); got < want || got > want+want/latencySteps+latencyUnit {
			t.Errorf("quantile %v is %s, want %s or up to an eighth more", q, got, want)
		}
	}
	if got := s.Below(1 << 18); got != 262 { // 262,144 ns
		t.Errorf("%d below 262 us", got)
	}
	if n := testing.AllocsPerRun(100, func() { l.Observe(time.Millisecond) }); n != 0 {
		t.Errorf("observing allocates %v times", n)
	}
}

func BenchmarkLatency(b *testing.B) {
	var l Latency
	d := time.Duration(0)
	for b.Loop() {
		d += 997
		l.Observe(d & 0xfffff)
	}
}
