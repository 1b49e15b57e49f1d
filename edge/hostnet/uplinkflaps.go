package hostnet

import (
	"fmt"
	"math"
	"time"
)

// An uplink that goes and comes all the time costs more than one that is down: each time its
// tunnels and the session are made anew and traffic is led there and away. As with routes that
// flap (RFC 2439) each loss is a penalty that wears off; above a limit an uplink counts as down
// until it has been up for a while. The only one that is up is used as it is.

const (
	// flapHalfLife is when half of a penalty has worn off, of which each loss is 1, and which
	// is flapMost at most.
	flapHalfLife = 30 * time.Second
	flapLimit    = 2.5
	flapMost     = 4.0
	// flapQuiet is how long an uplink above the limit has to be up without a break.
	flapQuiet = 10 * time.Second
)

// flaps are how uplinks came and went, by name.
type flaps map[string]*flapping

type flapping struct {
	up      bool
	since   time.Time
	penalty float64 // at since
	held    bool
}

// damp adds to down those uplinks of names that are up and were not for long enough, and
// returns when it is to be asked again if nothing happens, 0 for never.
func (f flaps) damp(now time.Time, names []string, down map[string]string) (again time.Duration) {
	up := 0
	for _, name := range names {
		s := f[name]
		if s == nil {
			s = &flapping{up: down[name] == "", since: now}
			f[name] = s
		}
		s.turn(now, down[name] == "")
		if s.up && !s.held {
			up++
		}
	}
	for _, name := range names {
		s := f[name]
		if left := flapQuiet - now.Sub(s.since); s.up && s.held && up > 0 {
			down[name] = fmt.Sprintf("it was lost again and again, and has to be up for %s without a break", flapQuiet)
			if again == 0 || left < again {
				again = left
			}
		}
	}
	return again
}

// turn takes in whether the uplink is up.
func (s *flapping) turn(now time.Time, up bool) {
	passed := now.Sub(s.since)
	if s.up == up {
		s.held = s.held && (!up || passed < flapQuiet)
		return
	}
	s.penalty *= math.Exp2(-passed.Seconds() / flapHalfLife.Seconds())
	s.held = s.held && !(s.up && passed >= flapQuiet)
	if !up {
		s.penalty = min(s.penalty+1, flapMost)
	}
	s.up, s.since = up, now
	s.held = s.held || s.penalty > flapLimit
}
