package server

import (
	"context"
	"runtime/debug"
	"time"
)

const (
	// manySessions begin in a second while a fleet comes, or comes back.
	manySessions = 20
	// thriftyPercent is the collector's GOGC then, if it is the preset otherwise. What is
	// garbage of handshakes lies between what sessions keep, and would leave holes of as
	// much memory again.
	thriftyPercent = 40
	presetPercent  = 100
	// calmTime is how long little has to have happened before what is free goes back to
	// the system, and manyUpdates in a second are not little.
	calmTime    = 10 * time.Second
	manyUpdates = 100
)

// tendMemory keeps small what sessions take, until ctx ends.
func (s *Server) tendMemory(ctx context.Context) {
	tick := time.NewTicker(time.Second)
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
	// busy is when much happened last; zero when what that left was given back.
	busy time.Time
}

// step looks at how many sessions and updates have begun since the start.
func (m *thrift) step(now time.Time, begun, updated uint64) {
	many := begun-m.begun >= manySessions
	if many || updated-m.updated >= manyUpdates {
		m.busy = now
	}
	m.begun, m.updated = begun, updated
	if !many {
		m.relax()
	} else if !m.on {
		before := debug.SetGCPercent(thriftyPercent)
		if m.on = before == presetPercent; !m.on {
			debug.SetGCPercent(before) // somebody has set it, who knows better
		}
	}
	if !m.busy.IsZero() && now.Sub(m.busy) >= calmTime {
		debug.FreeOSMemory()
		m.busy = time.Time{}
	}
}

// relax ends the thrift.
func (m *thrift) relax() {
	if m.on {
		debug.SetGCPercent(presetPercent)
		m.on = false
	}
}
