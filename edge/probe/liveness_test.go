package probe

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// newFastWAN is a path with alternatives.
func newFastWAN(t *testing.T, oneWay time.Duration) *wan {
	w := newWAN(t, nil)
	w.delay = func(bool) time.Duration { return oneWay }
	w.prober.Set(w.now, []Path{{Tunnel: "a", Local: here, Remote: there, Interval: time.Second / 2, Fast: FastInterval}})
	w.reflector.Set([]Path{{Tunnel: "a", Local: there, Remote: here, Interval: time.Second / 2, Fast: FastInterval}})
	w.up(true)
	return w
}

func (w *wan) life() Life { return w.prober.Lives(w.now)["a"] }

// when is how long after a time the path became so; -1: it did not.
func (w *wan) when(after time.Time, s State) time.Duration {
	for _, turn := range w.turns {
		if at := start.Add(turn.at); turn.state == s && !at.Before(after) {
			return at.Sub(after)
		}
	}
	return -1
}

func lossOf(w *wan, share float64) func(bool, uint32) bool {
	return func(out bool, _ uint32) bool { return out && w.random.Float64() < share }
}

func allLost(bool, uint32) bool { return true }

// A path that goes dark is dead within a second, whenever in the interval that happens, and
// lives again when it has answered for a while.
func TestBlackout(t *testing.T) {
	for oneWay, most := range map[time.Duration]time.Duration{
		time.Millisecond: 660 * time.Millisecond, 20 * time.Millisecond: 660 * time.Millisecond, 100 * time.Millisecond: time.Second,
	} {
		worst := time.Duration(0)
		for i := range time.Duration(40) {
			w := newFastWAN(t, oneWay)
			w.run(5*time.Second + i*17*time.Millisecond)
			if w.life().State != Alive {
				t.Fatalf("round trip %v: %+v after %v", 2*oneWay, w.life(), w.turns)
			}
			dark := w.now
			w.lose, w.flying = allLost, nil
			w.run(3 * time.Second)
			took := w.when(dark, Dead)
			if worst = max(worst, took); took < 0 || took > most {
				t.Errorf("round trip %v: dead after %v, want at most %v: %v", 2*oneWay, took, most, w.turns)
			}
			light := w.now
			w.lose = nil
			w.run(5 * time.Second)
			if took := w.when(light, Alive); took < reviveTime || took > 3*time.Second {
				t.Errorf("round trip %v: alive %v after it answers: %v", 2*oneWay, took, w.turns)
			}
			if q := w.quality(); q.GetWindowLost() < 7 || q.GetWindowLost() > 14 {
				t.Errorf("3 s without answers are %d lost probes: extra ones count", q.GetWindowLost())
			}
		}
		t.Logf("round trip %v: dead after %v at most", 2*oneWay, worst)
	}
}

// What was sent before the peer answers for the first time is not lost by the path: the
// tunnel may be up at this end before the peer knows of its probes.
func TestLossBeforeTheFirstAnswer(t *testing.T) {
	w := newFastWAN(t, 10*time.Millisecond)
	w.lose = allLost
	w.run(3 * time.Second)
	if l := w.life(); l.State != Unknown || l.Lost < 5 {
		t.Errorf("before any answer: %+v", l)
	}
	w.lose = nil
	for range 20 {
		w.run(100 * time.Millisecond)
		if l := w.life(); l.State != Unknown && l.Lost != 0 {
			t.Fatalf("after the first answers: %+v", l)
		}
	}
	if l := w.life(); l.State != Alive || l.Probes < 4 {
		t.Errorf("after two seconds of answers: %+v", l)
	}
}

// While other packets of the peer come in, a path without answers is not dead, however long;
// its loss says what is wrong with it.
func TestProbesAloneAreLost(t *testing.T) {
	w := newFastWAN(t, 10*time.Millisecond)
	packets := uint64(0)
	w.received = func() uint64 { packets += 3; return packets }
	w.run(5 * time.Second)
	w.lose = allLost
	w.run(20 * time.Second)
	if at := w.when(start, Dead); at >= 0 {
		t.Errorf("dead after %v though packets come in", at)
	}
	if l := w.life(); l.State != Suspect || l.Lost < 15 || l.Lost != l.Probes {
		t.Errorf("of a path that answers nothing: %+v", l)
	}
	silent := w.now
	w.received = func() uint64 { return packets }
	w.run(3 * time.Second)
	if at := w.when(silent, Dead); at < 0 || at > time.Second {
		t.Errorf("dead %v after the last packet", at)
	}
}

// Loss shows within seconds, does not look like death, and takes no probes when it is over.
func TestBrownOut(t *testing.T) {
	w := newFastWAN(t, 20*time.Millisecond)
	w.run(10 * time.Second)
	if l := w.life(); l.Lost != 0 || l.Probes < 11 || l.Probes > 15 {
		t.Errorf("of a good path: %+v", l)
	}
	w.lose = lossOf(w, 0.3)
	w.run(5 * time.Second)
	if l := w.life(); l.Lost < 5 || float64(l.Lost) < 0.15*float64(l.Probes) || l.State == Dead {
		t.Errorf("5 s after it began to lose 30 %%: %+v", l)
	}
	w.lose = nil
	w.run(12 * time.Second)
	before := w.sent
	w.run(30 * time.Second)
	if n := w.sent - before; n < 90 || n > 110 {
		t.Errorf("%d probes in 30 s of a path that is good again, want 100", n)
	}
}

// A path whose delay grows is not dead, nor one whose delay varies.
func TestDelayIsNoDeath(t *testing.T) {
	w := newFastWAN(t, 10*time.Millisecond)
	w.run(5 * time.Second)
	for name, delay := range map[string]func(bool) time.Duration{
		"jumps":  func(bool) time.Duration { return 160 * time.Millisecond },
		"varies": func(bool) time.Duration { return time.Duration(10+w.random.IntN(150)) * time.Millisecond },
	} {
		w.delay = delay
		w.run(30 * time.Second)
		if at := w.when(start, Dead); at >= 0 {
			t.Errorf("%s: dead after %v: %v", name, at, w.turns)
		}
		w.delay = func(bool) time.Duration { return 10 * time.Millisecond }
		w.run(30 * time.Second)
	}
}

// Of a peer that never answers nothing is known; of one that did before the tunnel came up
// anew it is.
func TestUnknown(t *testing.T) {
	w := newFastWAN(t, 10*time.Millisecond)
	w.lose = allLost
	w.run(20 * time.Second)
	if l := w.life(); l.State != Unknown || l.Probes < 10 || l.Lost != l.Probes || len(w.turns) != 0 {
		t.Errorf("a peer that never answered: %+v", l)
	}
	if w.sent > 80 {
		t.Errorf("%d probes in 20 s", w.sent)
	}
	w.lose = nil
	w.run(2 * time.Second)
	w.up(false)
	if l := w.life(); l.State != Unknown || l.Probes != 0 {
		t.Errorf("a tunnel that is down: %+v", l)
	}
	w.lose = allLost
	w.up(true)
	again := w.now
	w.run(3 * time.Second)
	if at := w.when(again, Dead); at < 0 || at > 1500*time.Millisecond {
		t.Errorf("up again, and nothing answers as before: dead after %v: %v", at, w.turns)
	}
}

// An edge with more tunnels than it can probe often enough still hears that a peer went
// silent.
func TestPeersProbesStandIn(t *testing.T) {
	w := newFastWAN(t, 10*time.Millisecond)
	w.prober.stretch = 4
	peer := func(d time.Duration) {
		for end := w.now.Add(d); w.now.Before(end); {
			w.prober.Heard(w.now, here, there)
			w.run(FastInterval)
		}
	}
	peer(20 * time.Second)
	if w.life().State != Alive || len(w.turns) != 1 {
		t.Fatalf("%v", w.turns)
	}
	worst := time.Duration(0)
	for i := range time.Duration(20) {
		peer(8*time.Second + i*FastInterval)
		w.run(i * 14 * time.Millisecond)
		dark := w.now
		w.lose = allLost
		w.run(3 * time.Second)
		if took := w.when(dark, Dead); took < 0 || took > time.Second {
			t.Errorf("dead after %v: %v", took, w.turns)
		} else {
			worst = max(worst, took)
		}
		w.lose, w.turns = nil, nil
	}
	t.Logf("dead after %v at most", worst)
}

// A metered path is probed seldom while it is not in use.
func TestMetered(t *testing.T) {
	w := newWAN(t, nil)
	w.prober.Set(w.now, []Path{{Tunnel: "a", Local: here, Remote: there, Interval: 10 * time.Second, Fast: FastInterval, Metered: true}})
	w.reflector.Set([]Path{{Tunnel: "a", Local: there, Remote: here, Interval: 10 * time.Second, Fast: FastInterval}})
	w.run(100 * time.Second)
	if w.sent > 13 || w.life().State != Alive {
		t.Errorf("%d probes in 100 s, %+v", w.sent, w.life())
	}
	w.prober.Use(w.now, func(string) bool { return true })
	before := w.sent
	w.run(30 * time.Second)
	if n := w.sent - before; n < 90 || n > 110 {
		t.Errorf("%d probes in 30 s in use", n)
	}
	w.prober.Use(w.now, func(string) bool { return false })
	w.run(time.Second)
	before = w.sent
	w.run(30 * time.Second)
	if n := w.sent - before; n > 5 {
		t.Errorf("%d probes in 30 s, no longer in use", n)
	}
}

// Each class is judged by its own limits.
func TestClasses(t *testing.T) {
	w := newWAN(t, nil)
	w.prober.Set(w.now, []Path{{
		Tunnel: "a", Local: here, Remote: there, Interval: time.Second / 2, Fast: FastInterval,
		Classes: []Class{{"bulk", &swanherdv1.PathSla{MaxLossPercent: proto.Float64(50)}}, {"voice", &swanherdv1.PathSla{MaxLossPercent: proto.Float64(5)}}},
	}})
	w.up(true)
	w.run(10 * time.Second)
	w.lose = lossOf(w, 0.2)
	w.run(30 * time.Second)
	l := w.life()
	if len(l.Outside) != 1 || len(l.Outside["voice"]) != 1 {
		t.Errorf("%v", l.Outside)
	}
}

// However many paths go dark at once, extra probes stay within their bounds.
func TestExtraProbesAreBounded(t *testing.T) {
	const n = 3000
	p := NewProber([32]byte{1})
	paths, _ := benchPaths(n)
	for i := range paths {
		paths[i].Fast = FastInterval
	}
	p.Set(start, paths)
	p.Follow(start, func(string) bool { return true })
	for _, path := range p.paths {
		path.answered, path.life.state = start, Alive
	}
	sent, most := 0, 0
	for now := start; now.Before(start.Add(20 * time.Second)); now = now.Add(gatherTime) {
		k := len(p.Due(now))
		p.Hear(now, nil)
		sent, most = sent+k, max(most, k)
	}
	if limit := 20*(maxRate*5/4+extraRate) + extraBurst; sent > limit {
		t.Errorf("%d probes in 20 s, want %d at most", sent, limit)
	}
	for name, l := range p.Lives(start.Add(20 * time.Second)) {
		if l.State != Dead {
			t.Fatalf("%s: %+v", name, l)
		}
	}
}

// Whatever a path does, probes stay within what its peer answers, a path that answers nothing
// is dead in the end, and one that answers everything alive.
func TestLivenessAlways(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newFastWAN(t, time.Duration(rapid.IntRange(1, 400).Draw(rt, "one way in ms"))*time.Millisecond)
		w.deaf = rapid.Float64Range(0, 0.8).Draw(rt, "deaf")
		for i := range rapid.IntRange(1, 8).Draw(rt, "phases") {
			loss := rapid.Float64Range(0, 1).Draw(rt, fmt.Sprint("loss ", i))
			w.lose = lossOf(w, loss)
			if rapid.Bool().Draw(rt, "traffic") {
				n := uint64(0)
				w.received = func() uint64 { n++; return n }
			} else {
				w.received = nil
			}
			before := w.sent
			span := time.Duration(rapid.IntRange(1, 100).Draw(rt, "tenths of a second")) * time.Second / 10
			w.run(span)
			if limit := reflectBurst + int(minReflectRate*span.Seconds()); w.sent-before > limit {
				rt.Fatalf("%d probes in %v, the peer answers %d", w.sent-before, span, limit)
			}
			if l := w.life(); l.Lost > l.Probes || l.Probes > ringSize {
				rt.Fatalf("%+v", l)
			}
		}
		answered := w.life().State != Unknown
		w.lose, w.received = allLost, nil
		w.run(5 * time.Second)
		if l := w.life(); answered && l.State != Dead {
			rt.Fatalf("nothing is answered: %+v", l)
		}
		w.lose = nil
		w.run(10 * time.Second)
		if l := w.life(); l.State != Alive {
			rt.Fatalf("everything is answered: %+v", l)
		}
	})
}
