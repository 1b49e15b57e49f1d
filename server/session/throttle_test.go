package session

import (
	"testing"
	"time"
)

func TestThrottle(t *testing.T) {
	var load throttle
	for i, step := range []struct {
		ticks int
		late  time.Duration
		want  time.Duration
	}{
		{100, 0, 10 * time.Second},
		{1, time.Second, 20 * time.Second},
		{1, 501 * time.Millisecond, 40 * time.Second},
		{100, 200 * time.Millisecond, 40 * time.Second}, // neither loaded nor calm
		{1, time.Second, 80 * time.Second},
		{1, time.Second, 0},
		{50, time.Minute, 0},
		{9, time.Millisecond, 0},
		{1, 300 * time.Millisecond, 0}, // begins anew
		{9, time.Millisecond, 0},
		{1, time.Millisecond, 80 * time.Second},
		{30, 0, 10 * time.Second},
	} {
		for range step.ticks {
			load.tick(step.late)
		}
		if got := load.interval(10 * time.Second); got != step.want {
			t.Errorf("step %d: counters each %v, want %v", i, got, step.want)
		}
	}
}
