package path

import (
	"time"

	"github.com/swanherd/swanherd/edge/probe"
)

const (
	// holdTime is for how long a path has to be better than it was taken for until it is
	// taken for that.
	holdTime = 10 * time.Second
	// deadTime is how long a path stays dead in any case: less than package probe takes to
	// say that it lives again, so it only bounds what other observations can do.
	deadTime = time.Second
	// suspectTime is for how long a path that answers nothing any more is not judged by that:
	// either it answers again, or it is dead.
	suspectTime = time.Second
	// leastLost is how many probes have to be lost before a share of them says anything.
	leastLost = 5
	// clearShare is the part of a threshold of loss below which a path is clear of it.
	clearShare = 0.5
)

// level is how good a path is, or is taken for: the less the better.
type level uint8

const (
	good level = iota
	// outside is over the SLA of the class.
	outside
	// brown loses a tenth of its packets, heavy a third.
	brown
	heavy
	// trial came back from the dead a short time ago, or is suppressed.
	trial
	// hollow loses nearly everything: probably nothing gets there.
	hollow
	dead
)

// lossThresholds are the shares of lost probes from which a path has a level.
var lossThresholds = []struct {
	level level
	share float64
}{{brown, 0.10}, {heavy, 0.33}, {hollow, 0.80}}

// standing is what a path is taken for, for one class: it gets worse at once, and better
// when it was better for holdTime. So whatever is observed, traffic does not go to and fro.
type standing struct {
	level level
	// better is since when it was better than level, and worst what it was then at most;
	// zero: it is not better.
	better time.Time
	worst  level
	loss   level // good, or one of lossThresholds
	lived  bool
	// answered: its probes were.
	answered bool
	died     time.Time
	damper   damper
	// last is what was observed last.
	last Observation
}

// look takes in what is observed, and says whether the level is another one. Answers says
// that the peer answers probes, on whichever path.
func (s *standing) look(now time.Time, class string, answers bool, o Observation) (changed bool) {
	before := s.level
	s.last = o
	if o.State == probe.Unknown && !answers {
		o.Probes, o.Lost = 0, 0
	}
	r := s.now(now, class, o)
	if r > s.level {
		if r == dead {
			s.died = now
		}
		s.damper.flap(now)
	}
	if r < trial && s.damper.suppresses(now) {
		r = trial
	}
	if s.level == dead && r < dead {
		s.level, s.better = trial, time.Time{}
		if !s.lived {
			s.level = r // it comes up for the first time
		}
		s.lived = true
	}
	if o.State == probe.Alive && !s.answered {
		// What was lost before the peer knew of the probes is not of the path.
		s.answered, s.level, s.better = true, min(s.level, r), time.Time{}
	}
	switch {
	case r >= s.level:
		s.level, s.better = r, time.Time{}
		return s.level != before
	case s.better.IsZero():
		s.better, s.worst = now, r
	}
	s.worst = max(s.worst, r)
	// A path that may be about to die is not taken for better just then.
	if now.Sub(s.better) >= holdTime && o.State != probe.Suspect {
		s.level, s.better = s.worst, time.Time{}
	}
	return s.level != before
}

// now is how good the path is at this moment.
func (s *standing) now(now time.Time, class string, o Observation) level {
	if !o.Up || o.State == probe.Dead || s.level == dead && s.lived && now.Sub(s.died) < deadTime {
		s.loss = good
		return dead
	}
	if o.State != probe.Suspect || now.Sub(o.Since) >= suspectTime {
		s.loss = lossLevel(s.loss, o.Probes, o.Lost)
	}
	if s.loss == good && len(o.Outside[class]) > 0 {
		return outside
	}
	return s.loss
}

// lossLevel is the level of a path that lost some of its probes, and had one before.
func lossLevel(before level, probes, lost int) level {
	is := good
	for _, t := range lossThresholds {
		share := t.share * float64(probes)
		switch {
		case before >= t.level && float64(lost) > clearShare*share:
			is = t.level
		case lost >= leastLost && float64(lost) >= share:
			is = t.level
		}
	}
	return is
}
