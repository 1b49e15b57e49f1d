package hostnet

import (
	"math/rand/v2"
	"testing"
	"time"
)

// flapped is how one of two uplinks is seen when it is up or down for these times by turns:
// how often it turned, and how long it was seen to be up, of how long it was.
func flapped(turns []time.Duration, otherUp bool) (seen int, used, was time.Duration) {
	const step = 50 * time.Millisecond
	f, now, names := flaps{}, time.Unix(0, 0), []string{"wan1", "wan2"}
	last := true
	for i, turn := range turns {
		up := i%2 == 0
		for range turn / step {
			down := map[string]string{}
			if !up {
				down["wan2"] = "no carrier"
			}
			if !otherUp {
				down["wan1"] = "no carrier"
			}
			f.damp(now, names, down)
			is := down["wan2"] == ""
			if is != last {
				seen++
			}
			if last = is; is {
				used += step
			}
			if up {
				was += step
			}
			now = now.Add(step)
		}
	}
	return seen, used, was
}

// TestUplinkFlaps: an uplink that comes back is used at once, one that does so again and again
// is left alone until it is quiet, unless there is no other.
func TestUplinkFlaps(t *testing.T) {
	s := time.Second
	storm := []time.Duration{60 * s}
	for range 200 {
		storm = append(storm, s/2, s/2)
	}
	for _, tt := range []struct {
		name    string
		turns   []time.Duration
		alone   bool
		seen    int
		notUsed time.Duration // of the time that it was up
	}{
		{"never", []time.Duration{600 * s}, false, 0, 0},
		{"once", []time.Duration{60 * s, s, 60 * s}, false, 2, 0},
		{"twice", []time.Duration{60 * s, s, 5 * s, s, 60 * s}, false, 4, 0},
		{"three times at once", []time.Duration{60 * s, s, s, s, s, s, 60 * s}, false, 6, 10 * s},
		{"each minute", []time.Duration{60 * s, s, 60 * s, s, 60 * s, s, 60 * s, s, 60 * s, s, 60 * s}, false, 10, 0},
		{"in a storm", append(storm, s, 30*s), false, 6, 99*s + 10*s},
		{"in a storm, alone", append(storm, s, 30*s), true, 402, 0},
	} {
		seen, used, was := flapped(tt.turns, !tt.alone)
		if seen != tt.seen || was-used != tt.notUsed {
			t.Errorf("%s: turned %d times and was not used for %v of %v, want %d and %v", tt.name, seen, was-used, was, tt.seen, tt.notUsed)
		}
	}
}

// However an uplink comes and goes, it does not turn more often than a few times a minute, and
// once it is quiet it is used.
func TestUplinkFlapsAreFew(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 0))
		var turns []time.Duration
		total := time.Duration(0)
		for len(turns)%2 == 1 || total < 10*time.Minute {
			turn := time.Duration(1+r.IntN(1<<r.IntN(9))) * 50 * time.Millisecond
			turns, total = append(turns, turn), total+turn
		}
		turns = append(turns, 30*time.Second)
		seen, _, _ := flapped(turns, true)
		if most := 6 + 6*int(total/time.Minute+1); seen > most {
			t.Errorf("seed %d: it turned %d times in %v, want %d at most", seed, seen, total, most)
		}
		before, _, _ := flapped(turns[:len(turns)-1], true)
		if (seen-before)%2 != 0 && before%2 == 0 || seen%2 != 0 {
			t.Errorf("seed %d: it is not used when it is quiet", seed)
		}
	}
}
