package access

import (
	"fmt"
	"testing"
	"time"
)

// Each principal has a burst and then its rate, whatever others do, and is told when it
// may call again.
func TestCallsAreLimitedPerPrincipal(t *testing.T) {
	l, now := newCallLimiter(RateLimit{PerSecond: 2, Burst: 3}), time.Unix(1000, 0)
	for i := range 3 {
		if wait := l.take("token:a", now); wait != 0 {
			t.Errorf("call %d of the burst has to wait %v", i, wait)
		}
	}
	if wait := l.take("token:a", now); wait != 500*time.Millisecond {
		t.Errorf("after the burst it waits %v, want 500 ms", wait)
	}
	if wait := l.take("token:b", now); wait != 0 {
		t.Errorf("another principal waits %v", wait)
	}
	if wait := l.take("token:a", now.Add(500*time.Millisecond)); wait != 0 {
		t.Errorf("after the time that it was told it waits %v", wait)
	}
	for range 100 { // what is refused costs nothing
		l.take("token:a", now.Add(500*time.Millisecond))
	}
	if wait := l.take("token:a", now.Add(time.Second)); wait != 0 {
		t.Errorf("after many that were refused it waits %v", wait)
	}
	free := newCallLimiter(RateLimit{PerSecond: -1})
	for range 2 * DefaultCallsBurst {
		if free.take("token:a", now) != 0 {
			t.Fatal("without a limit it has to wait")
		}
	}
}

func TestPrincipalsAreBounded(t *testing.T) {
	l, now := newCallLimiter(RateLimit{PerSecond: 1, Burst: 1}), time.Unix(1000, 0)
	for i := range maxPrincipals + 100 {
		l.take(fmt.Sprint(i), now)
	}
	if len(l.callers) > maxPrincipals {
		t.Errorf("%d principals are remembered", len(l.callers))
	}
	l.take("late", now.Add(time.Minute))
	if len(l.callers) != 1 {
		t.Errorf("%d principals are remembered after a minute", len(l.callers))
	}
}
