package session

import "time"

const (
	// lateLimit is how late the server may be with what it does each second before it
	// counts as loaded.
	lateLimit = 500 * time.Millisecond
	// calmTicks is how many ticks in time it takes to ask for more again.
	calmTicks = 10
	// noCounters is the level at which no counters are wanted.
	noCounters = 4
)

// throttle decides how often counters are wanted, from how late the server is with work of
// its own: at each level half as often, and at the last not at all. Transitions are never
// throttled.
type throttle struct {
	level, calm int
}

// tick notes that the work of a tick was done that late.
func (t *throttle) tick(late time.Duration) {
	switch {
	case late > lateLimit:
		t.level, t.calm = min(t.level+1, noCounters), 0
	case late > lateLimit/4:
		t.calm = 0
	default:
		if t.calm++; t.calm == calmTicks {
			t.level, t.calm = max(t.level-1, 0), 0
		}
	}
}

// interval is how often counters are wanted that are wanted at preset of an idle server;
// zero: not at all.
func (t *throttle) interval(preset time.Duration) time.Duration {
	if t.level == noCounters {
		return 0
	}
	return preset << t.level
}
