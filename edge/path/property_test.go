package path

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/swanherd/swanherd/edge/probe"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

var overLatency = []*swanherdv1.SlaViolation{{Metric: swanherdv1.SlaMetric_SLA_METRIC_LATENCY, Measured: 2, Limit: 1}}

// observer holds a Chooser against what has to be true whatever is observed.
type observer struct {
	chooser, twin *Chooser
	members       []Member
	// dead is when a path was last seen dead.
	dead     map[string]time.Time
	switches map[string]int // by class
}

func newObserver(members []Member, classes ...Class) *observer {
	o := &observer{chooser: NewChooser(), twin: NewChooser(), members: members, dead: map[string]time.Time{}, switches: map[string]int{}}
	o.chooser.Set([]Group{{Name: "g", Members: members, Classes: classes}})
	backwards := slices.Clone(members)
	slices.Reverse(backwards)
	o.twin.Set([]Group{{Name: "g", Members: backwards, Classes: classes}})
	return o
}

func lives(o Observation) bool { return o.Up && o.State != probe.Dead }

// step is an error if something is not as it has to be.
func (o *observer) step(now time.Time, seen map[string]Observation) error {
	order := o.chooser.Order()
	switches, same := o.chooser.Step(now, seen), o.twin.Step(now, seen)
	if o.chooser.Order() == order && len(same) > 0 || o.chooser.Order() != order &&
		(!reflect.DeepEqual(switches, same) || !reflect.DeepEqual(o.chooser.Choices(), o.twin.Choices())) {
		return fmt.Errorf("the same was observed, and %v and %v came of it", switches, same)
	}
	for _, s := range switches {
		o.switches[s.Class]++
		if s.Reason == "" || slices.Equal(s.From, s.To) {
			return fmt.Errorf("%+v", s)
		}
	}
	living := false
	for _, m := range o.members {
		if !lives(seen[m.Tunnel]) {
			o.dead[m.Tunnel] = now
		} else if died, ok := o.dead[m.Tunnel]; !ok || now.Sub(died) > deadTime {
			living = true
		}
	}
	for _, u := range o.chooser.groups[0].uses {
		if err := o.check(u.choice, seen, living); u.chosen && err != nil {
			return err
		}
	}
	return nil
}

func (o *observer) check(c Choice, seen map[string]Observation, living bool) error {
	have := map[string]bool{}
	for i, p := range c.Paths {
		have[p.Tunnel] = true
		if p.Weight == 0 || i == 0 && p.Rank != 0 || i > 0 && p.Rank != c.Paths[i-1].Rank && p.Rank != c.Paths[i-1].Rank+1 {
			return fmt.Errorf("paths %+v", c.Paths)
		}
		if living && p.Rank == 0 && !lives(seen[p.Tunnel]) {
			return fmt.Errorf("class %q uses %s, which is dead, though others live: %+v", c.Class, p.Tunnel, c.Paths)
		}
	}
	if len(have) != len(o.members) || len(c.Paths) != len(o.members) {
		return fmt.Errorf("paths %+v of %d", c.Paths, len(o.members))
	}
	return nil
}

// anything is an observation, as absurd as you like.
func anything(r *rand.Rand) Observation {
	o := Observation{Up: r.IntN(8) > 0, Life: probe.Life{State: probe.State(r.IntN(4)), Probes: r.IntN(60) - 5, Lost: r.IntN(60) - 5}}
	if r.IntN(2) == 0 {
		o.Lost = 0
	}
	if r.IntN(4) == 0 {
		o.Outside = map[string][]*swanherdv1.SlaViolation{[]string{"", "voice"}[r.IntN(2)]: overLatency}
	}
	return o
}

func drawMembers(t *rapid.T) []Member {
	var members []Member
	for i := range rapid.IntRange(1, 5).Draw(t, "paths") {
		members = append(members, Member{
			Tunnel: fmt.Sprintf("t%d", i), Cost: rapid.Uint64Range(0, 2).Draw(t, "cost"), Metered: rapid.Bool().Draw(t, "metered"),
		})
	}
	return members
}

// Whatever is observed, no path is used that is dead while another lives, equal observations
// make equal choices, and each choice is an order of all paths.
func TestWhateverIsObserved(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := drawMembers(t)
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		pace := time.Duration(rapid.IntRange(1, 30_000).Draw(t, "pace in ms")) * time.Millisecond
		o := newObserver(members, Class{Name: "voice", Transports: []swanherdv1.TransportClass{swanherdv1.TransportClass_TRANSPORT_CLASS_LTE}})
		seen := map[string]Observation{}
		now := start
		for range 300 {
			for _, m := range members {
				if r.IntN(3) == 0 {
					seen[m.Tunnel] = anything(r)
				}
			}
			if err := o.step(now, seen); err != nil {
				t.Fatal(err)
			}
			now = now.Add(time.Duration(r.Float64() * float64(pace)))
		}
	})
}

// mostSwitches is how often traffic goes another way in a time, at most, in a group with n
// paths of which one is always good: each time that one of the others is left
// its figure of merit is raised, and that may not come over cutoff.
func mostSwitches(n int, span time.Duration) int {
	decay := cutoff * math.Ln2 / halfLife.Seconds() * span.Seconds()
	return 1 + 2*(n-1)*int(math.Ceil(cutoff+decay))
}

// However the others lie, flap or lose, with one path that is good traffic does not go to
// and fro.
func TestOneGoodPathIsPeace(t *testing.T) {
	worst := 0
	rapid.Check(t, func(t *rapid.T) {
		members := drawMembers(t)
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 2))
		// What it is that changes, and how long it stays, in seconds at most.
		stays := rapid.SampledFrom([]float64{1, 5, 12, 15, 40, 100, 400}).Draw(t, "stays")
		kind := rapid.IntRange(0, 3).Draw(t, "kind")
		stable := members[rapid.IntRange(0, len(members)-1).Draw(t, "stable")].Tunnel
		o := newObserver(members, Class{Name: "voice", Transports: []swanherdv1.TransportClass{swanherdv1.TransportClass_TRANSPORT_CLASS_LTE}})
		seen, until := map[string]Observation{stable: {Up: true, Life: probe.Life{State: probe.Alive}}}, map[string]time.Time{}
		for now := start; now.Before(start.Add(time.Hour)); now = now.Add(time.Second) {
			for _, m := range members {
				if m.Tunnel == stable || now.Before(until[m.Tunnel]) {
					continue
				}
				until[m.Tunnel] = now.Add(time.Duration((0.5 + r.Float64()/2) * stays * float64(time.Second)))
				was := seen[m.Tunnel]
				is := Observation{Up: true, Life: probe.Life{State: probe.Alive}}
				switch {
				case kind == 0 && lives(was):
					is.State = probe.Dead
				case kind == 1 && was.Lost == 0:
					is.Probes, is.Lost = 40, 8+r.IntN(30)
				case kind == 2 && was.Outside == nil:
					is.Outside = map[string][]*swanherdv1.SlaViolation{"": overLatency, "voice": overLatency}
				case kind == 3:
					is = anything(r)
				}
				seen[m.Tunnel] = is
			}
			if err := o.step(now, seen); err != nil {
				t.Fatal(err)
			}
		}
		for class, n := range o.switches {
			worst = max(worst, n)
			if most := mostSwitches(len(members), time.Hour); n > most {
				t.Fatalf("class %q: %d switches in an hour, want %d at most", class, n, most)
			}
		}
	})
	t.Logf("%d switches in an hour at most; with two paths the bound is %d", worst, mostSwitches(2, time.Hour))
}

// With no path that is good there is a bound too: a path that died is dead for deadTime, and
// nothing gets better but after holdTime.
func TestSwitchesAreBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := drawMembers(t)
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 3))
		o := newObserver(members)
		const span = 2 * time.Minute
		for now := start; now.Before(start.Add(span)); now = now.Add(100 * time.Millisecond) {
			seen := map[string]Observation{}
			for _, m := range members {
				seen[m.Tunnel] = anything(r)
			}
			if err := o.step(now, seen); err != nil {
				t.Fatal(err)
			}
		}
		// Of each path: down and up again for each deadTime, and for each holdTime the levels
		// between.
		most := 1 + len(members)*(2*int(span/deadTime)+int(dead)*int(span/holdTime))
		if n := o.switches[""]; n > most {
			t.Fatalf("%d switches in %v, want %d at most", n, span, most)
		}
	})
}

// FuzzChooser is TestWhateverIsObserved with observations from octets: four for each step,
// which path, its state, its loss, and for how long.
func FuzzChooser(f *testing.F) {
	f.Add([]byte{0, 2, 0, 10, 1, 2, 0, 200, 0, 6, 0, 5, 1, 6, 0, 1, 0, 2, 0, 255})
	f.Add([]byte{0, 2, 40, 10, 1, 2, 200, 200, 0, 18, 0, 5, 2, 2, 0, 100})
	f.Fuzz(func(t *testing.T, steps []byte) {
		members := []Member{{Tunnel: "a", Cost: 1}, {Tunnel: "b", Cost: 1}, {Tunnel: "c", Cost: 1, Metered: true}, {Tunnel: "d"}}
		o := newObserver(members, Class{Name: "voice", Transports: []swanherdv1.TransportClass{swanherdv1.TransportClass_TRANSPORT_CLASS_LTE}})
		seen := map[string]Observation{}
		now := start
		for ; len(steps) >= 4; steps = steps[4:] {
			is := Observation{Up: steps[1]&2 != 0, Life: probe.Life{State: probe.State(steps[1] >> 2 & 3), Probes: 40, Lost: int(int8(steps[2]))}}
			if steps[1]&16 != 0 {
				is.Outside = map[string][]*swanherdv1.SlaViolation{"voice": overLatency}
			}
			seen[members[steps[0]%4].Tunnel] = is
			if err := o.step(now, seen); err != nil {
				t.Fatal(err)
			}
			now = now.Add(time.Duration(steps[3]) * time.Duration(steps[3]) * time.Millisecond)
		}
	})
}

// TestNoGoodPath has both paths become bad in turns, by each kind of trouble and at each pace,
// one always while the other is not: what is worst for a chooser that follows. Damping has it
// stay.
func TestNoGoodPath(t *testing.T) {
	troubles := map[string]func(*Observation){
		"dead":  func(o *Observation) { o.State = probe.Dead },
		"loses": func(o *Observation) { o.Probes, o.Lost = 40, 8 },
		"lies":  func(o *Observation) { o.Outside = map[string][]*swanherdv1.SlaViolation{"": overLatency} },
	}
	for name, trouble := range troubles {
		for _, turn := range []time.Duration{time.Second, 5 * time.Second, 11 * time.Second, 15 * time.Second, time.Minute} {
			o := newObserver([]Member{{Tunnel: "a", Cost: 1}, {Tunnel: "b", Cost: 2}})
			const span = time.Hour
			for now := start; now.Before(start.Add(span)); now = now.Add(lookInterval) {
				a, b := Observation{Up: true, Life: probe.Life{State: probe.Alive}}, Observation{Up: true, Life: probe.Life{State: probe.Alive}}
				if now.Sub(start)/turn%2 == 0 {
					trouble(&a)
				} else {
					trouble(&b)
				}
				if err := o.step(now, map[string]Observation{"a": a, "b": b}); err != nil {
					t.Fatal(err)
				}
			}
			// A path that is dead is left whenever the other one lives.
			most := 2*mostSwitches(2, span) + 1
			if name == "dead" {
				most = int(span/turn) + 1
			}
			if n := o.switches[""]; n > most {
				t.Errorf("%s in turns of %v: %d switches in an hour, want %d at most", name, turn, n, most)
			} else {
				t.Logf("%s in turns of %v: %d switches in an hour", name, turn, n)
			}
		}
	}
}
