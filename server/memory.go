package server

import (
	"context"
	"runtime/debug"
	"time"
)

const (
	// lookInterval is how often it is looked at what happens: a fleet that comes back is
	// there within seconds.
	lookInterval = 100 * time.Millisecond
	// thriftyPercent is the collector's GOGC while sessions begin, if it is the preset
	// otherwise. What is garbage of handshakes lies between what sessions keep, and would
	// leave holes of as much memory again, the more the slower they come.
	thriftyPercent = 40
	presetPercent  = 100
	// comingTime is how long after a session the next one is waited for.
	comingTime = time.Second
	// calmTime is how long little has to have happened before what is free goes back to
	// the system, and manySessions or manyUpdates from one look to the next are not little.
	calmTime     = 10 * time.Second
	manySessions = 5
	manyUpdates  = 10
)

// tendMemory keeps small what sessions take, until ctx ends.
func (s *Server) tendMemory(ctx context.Context) {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	var m thrift
	defer m.relax()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			m.step(now, s.sessions.Begun(), s.sessions.Updated())
		}
	}
}

// thrift is how the collector works, and whether there is something to give back.
type thrift struct {
	begun, updated uint64 // by the last look
	// on: the collector is thrifty by our will.
	on bool
	// came is when a session began last.
	came time.Time
	// busy is when much happened last; zero when what that left was given back.
	busy time.Time
}

// step looks at how many sessions and updates have begun since the start. Where edges wait
// for updates, and not for sessions, the collector's time is theirs.
func (m *thrift) step(now time.Time, begun, updated uint64) {
	sessions, updates := begun-m.begun, updated-m.updated
	m.begun, m.updated = begun, updated
	if sessions >= manySessions || updates >= manyUpdates {
		m.busy = now
	}
	if sessions > 0 {
		m.came = now
		m.save()
	} else if updates >= manyUpdates || now.Sub(m.came) >= comingTime {
		m.relax()
	}
	if !m.busy.IsZero() && now.Sub(m.busy) >= calmTime {
		debug.FreeOSMemory()
		m.busy = time.Time{}
	}
}

// save begins the thrift.
func (m *thrift) save() {
	if m.on {
		return
	}
	before := debug.SetGCPercent(thriftyPercent)
	if m.on = before == presetPercent; !m.on {
		debug.SetGCPercent(before) // somebody has set it, who knows better
	}
}

// relax ends the thrift.
func (m *thrift) relax() {
	if m.on {
		debug.SetGCPercent(presetPercent)
		m.on = false
	}
}
