package server

import (
	"runtime/debug"
	"testing"
	"time"
)

// The collector is thrifty while many sessions begin, and only then; what much work left
// is given back once it is calm.
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
		{"nothing", time.Second, 0, 0, presetPercent, false},
		{"a few sessions", time.Second, manySessions - 1, 5, presetPercent, false},
		{"many", time.Second, 3 * manySessions, 5, thriftyPercent, true},
		{"many more", time.Second, 5 * manySessions, 5, thriftyPercent, true},
		{"a few", time.Second, 5*manySessions + 1, 5, presetPercent, true},
		{"many updates", time.Second, 5*manySessions + 1, 5 + manyUpdates, presetPercent, true},
		{"nothing for less than it takes", calmTime - time.Second, 5*manySessions + 1, 5 + manyUpdates, presetPercent, true},
		{"nothing for long", time.Second, 5*manySessions + 1, 5 + manyUpdates, presetPercent, false},
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
