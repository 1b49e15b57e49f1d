package server

import (
	"runtime/debug"
	"testing"
	"time"
)

// The collector is thrifty while sessions begin, and only then; what much work left is
// given back once it is calm.
func TestThrift(t *testing.T) {
	percent := func() int {
		p := debug.SetGCPercent(presetPercent)
		debug.SetGCPercent(p)
		return p
	}
	defer debug.SetGCPercent(debug.SetGCPercent(presetPercent))
	at := time.Unix(1000, 0)
	var m thrift
	for _, s := range []struct {
		name           string
		after          time.Duration
		begun, updated uint64
		percent        int
		busy           bool
	}{
		{"nothing", lookInterval, 0, 0, presetPercent, false},
		{"a session", lookInterval, 1, 5, thriftyPercent, false},
		{"none for a moment", comingTime / 2, 1, 5, thriftyPercent, false},
		{"none for longer", comingTime / 2, 1, 5, presetPercent, false},
		{"many, which are updated", lookInterval, 1 + manySessions, 5 + manyUpdates, thriftyPercent, true},
		{"updates only", lookInterval, 1 + manySessions, 5 + 2*manyUpdates, presetPercent, true},
		{"a session among updates", lookInterval, 2 + manySessions, 5 + 3*manyUpdates, thriftyPercent, true},
		{"nothing for less than it takes", calmTime - time.Second, 2 + manySessions, 5 + 3*manyUpdates, presetPercent, true},
		{"nothing for long", time.Second, 2 + manySessions, 5 + 3*manyUpdates, presetPercent, false},
	} {
		at = at.Add(s.after)
		m.step(at, s.begun, s.updated)
		if got := percent(); got != s.percent || m.busy.IsZero() == s.busy {
			t.Errorf("%s: GOGC is %d, busy since %v", s.name, got, m.busy)
		}
	}
}

// A GOGC that somebody has set stays.
func TestThriftLeavesGOGC(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(250))
	var m thrift
	m.step(time.Unix(1000, 0), manySessions, 0)
	if p := debug.SetGCPercent(250); p != 250 {
		t.Errorf("GOGC is %d", p)
	}
	m.step(time.Unix(1001, 0), manySessions, 0)
	if p := debug.SetGCPercent(250); p != 250 {
		t.Errorf("GOGC is %d afterwards", p)
	}
}
