package probe

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

var (
	here  = netip.MustParseAddr("fd00::1")
	there = netip.MustParseAddr("fd00::2")
	start = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
)

// wan is a path in virtual time between a prober here and a reflector there.
type wan struct {
	t         *testing.T
	now       time.Time
	prober    *Prober
	reflector *Reflector
	random    *rand.Rand
	// delay is that of one way, and lose whether it takes a packet; nil: 10 ms, never.
	delay func(out bool) time.Duration
	lose  func(out bool, sequence uint32) bool
	// skew is how much the clock there is ahead, think how long it takes to answer.
	skew, think time.Duration
	flying      []flight
	sent        int
	// received are other packets that come in; turns is what became of the path, and when.
	received func() uint64
	deaf     float64 // share of the times when the prober has to wait for that
	turns    []turn
}

// turn is a change of a path's state.
type turn struct {
	at    time.Duration // since start
	state State
}

// flight is a packet that arrives at a time.
type flight struct {
	at      time.Time
	out     bool
	payload []byte
}

func newWAN(t *testing.T, sla *swanherdv1.PathSla) *wan {
	w := &wan{t: t, now: start, prober: NewProber([32]byte{1}), reflector: NewReflector(), random: rand.New(rand.NewPCG(1, 2))}
	w.prober.Set(w.now, []Path{{Tunnel: "a", Local: here, Remote: there, Interval: 100 * time.Millisecond, SLA: sla}})
	w.reflector.Set([]Path{{Tunnel: "a", Local: there, Remote: here, Interval: 100 * time.Millisecond}})
	w.up(true)
	return w
}

func (w *wan) up(up bool) { w.prober.Follow(w.now, func(string) bool { return up }) }

// fly puts a packet on its way.
func (w *wan) fly(out bool, sequence uint32, payload []byte) {
	delay := 10 * time.Millisecond
	if w.delay != nil {
		delay = w.delay(out)
	}
	if w.lose == nil || !w.lose(out, sequence) {
		w.flying = append(w.flying, flight{w.now.Add(delay), out, payload})
	}
}

// run lets time pass, from one thing that happens to the next.
func (w *wan) run(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); w.now = w.next(end) {
		for _, p := range w.prober.Due(w.now) {
			w.sent++
			t, err := parseTest(p.Payload)
			if err != nil || p.Local != here || p.Remote != there {
				w.t.Fatalf("sent %x from %s to %s: %v", p.Payload, p.Local, p.Remote, err)
			}
			w.fly(true, t.Sequence, p.Payload)
		}
		w.listen()
		rest := w.flying
		w.flying = nil
		for _, f := range rest {
			switch {
			case f.at.After(w.now):
				w.flying = append(w.flying, f)
			case f.out:
				w.answer(f.payload)
			default:
				w.prober.Take(w.now, here, there, f.payload)
			}
		}
		w.note()
		if w.now.Sub(start)%judgeInterval == 0 {
			w.prober.Judge(w.now)
		}
	}
}

// listen tells the prober what was received, as often as it asks.
func (w *wan) listen() {
	for range 2 {
		if w.prober.Asks() && w.random.Float64() >= w.deaf {
			received := map[string]uint64{}
			if w.received != nil {
				received["a"] = w.received()
			}
			w.prober.Hear(w.now, received)
		}
	}
	w.note()
}

func (w *wan) note() {
	s := w.prober.paths[ends{here, there}].life.state
	if w.prober.Turned() && (len(w.turns) == 0 || w.turns[len(w.turns)-1].state != s) {
		w.turns = append(w.turns, turn{w.now.Sub(start), s})
	}
}

// next is when the next thing happens, at most end.
func (w *wan) next(end time.Time) time.Time {
	next := start.Add(w.now.Sub(start).Truncate(judgeInterval) + judgeInterval)
	for _, f := range w.flying {
		if f.at.Before(next) {
			next = f.at
		}
	}
	if due := w.prober.Next(); !due.IsZero() && due.Before(next) {
		next = due
	}
	if next.After(end) {
		return end
	}
	return next
}

func (w *wan) answer(payload []byte) {
	reply := w.reflector.Answer(w.now.Add(w.skew), w.now.Add(w.skew+w.think), there, here, 64, payload)
	if reply == nil {
		return
	}
	a, err := parseAnswer(reply)
	if err != nil {
		w.t.Fatal(err)
	}
	before := w.now
	w.now = w.now.Add(w.think)
	w.fly(false, a.Test.Sequence, a.append(nil))
	w.now = before
}

func (w *wan) quality() *swanherdv1.PathQuality { return w.prober.Quality(w.now, "a") }

// TestPackets holds the formats against figures 2 and 5 of RFC 8762.
func TestPackets(t *testing.T) {
	probe := test{Sequence: 0x01020304, Time: 0x1112131415161718, ErrorEstimate: 0x2122}
	want := "01020304" + "1112131415161718" + "2122" + strings.Repeat("00", 30)
	if got := hex.EncodeToString(probe.append(nil)); got != want {
		t.Errorf("a probe is %s, want %s", got, want)
	}
	reply := answer{Sequence: 0x31323334, Time: 0x4142434445464748, Received: 0x5152535455565758, Test: probe, HopLimit: 0x61}
	want = "31323334" + "4142434445464748" + "0001" + "0000" + "5152535455565758" + "01020304" + "1112131415161718" + "2122" + "0000" + "61" + "000000"
	if got := hex.EncodeToString(reply.append(nil)); got != want {
		t.Errorf("an answer is %s, want %s", got, want)
	}
	if got, err := parseTest(append(probe.append(nil), "extensions"...)); err != nil || got != probe {
		t.Errorf("parsed %+v, %v", got, err)
	}
	if got, err := parseAnswer(reply.append(nil)); err != nil || got != reply {
		t.Errorf("parsed %+v, %v", got, err)
	}
}

func TestTimestamps(t *testing.T) {
	// 2026-11-26 12:00:00.5 UTC is 4,004,683,200.5 s after 1900.
	if got := ntp(start.Add(time.Second / 2)); got != 4004683200<<32|1<<31 {
		t.Errorf("%d . %d", got>>32, uint32(got))
	}
	rapid.Check(t, func(t *rapid.T) {
		a := time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "a"), rapid.Int64Range(0, 999999999).Draw(t, "nanoseconds"))
		d := time.Duration(rapid.Int64Range(-int64(time.Hour), int64(time.Hour)).Draw(t, "d"))
		if got := between(ntp(a), ntp(a.Add(d))); (got - d).Abs() > 2 {
			t.Fatalf("%s apart, measured %s", d, got)
		}
	})
}

// Delays are those of the path: not what the peer thinks, nor what its clock says.
func TestDelays(t *testing.T) {
	w := newWAN(t, nil)
	w.skew, w.think = time.Hour, 5*time.Millisecond
	w.delay = func(out bool) time.Duration {
		if out {
			return 30 * time.Millisecond
		}
		return 10 * time.Millisecond
	}
	w.run(15 * time.Second)
	q := w.quality()
	if q.GetWindowProbes() != windowProbes || q.GetWindowLost() != 0 || q.GetProbes() < 140 || q.GetProbesLost() != 0 {
		t.Errorf("%v", q)
	}
	for what, rtt := range map[string]uint32{"min": q.GetRttMinUs(), "avg": q.GetRttAvgUs(), "p50": q.GetRttP50Us(), "p99": q.GetRttP99Us()} {
		if rtt < 39_990 || rtt > 40_010 {
			t.Errorf("%s round trip %d us, want 40 ms", what, rtt)
		}
	}
	if d := q.GetOneWayDifferenceUs(); d < 7_200_019_000 || d > 7_200_021_000 {
		t.Errorf("one way differs by %d us, want 20 ms and twice the clocks' hour", d)
	}
	if q.GetJitterOutUs() > 1 || q.GetJitterInUs() > 1 || q.GetJitterCount() == 0 {
		t.Errorf("jitter of a path that has none: %v", q)
	}
}

func TestPercentiles(t *testing.T) {
	var r ring
	for i := range windowProbes {
		now := start.Add(time.Duration(i) * time.Second)
		p := r.send(now, 0, false)
		rtt := time.Duration(i+1) * time.Millisecond
		if !r.take(now.Add(rtt), answer{Sequence: uint32(i), Time: p.Time, Received: p.Time, Test: p}) {
			t.Fatal("an answer was refused")
		}
	}
	q := r.quality(start.Add(time.Hour))
	if q.GetRttMinUs() != 1000 || q.GetRttAvgUs() != 50500 || q.GetRttP50Us() != 50000 || q.GetRttP99Us() != 99000 {
		t.Errorf("of 1 ms to 100 ms: %v", q)
	}
	if q.GetRttSumUs() != 5050000 {
		t.Errorf("sum %d", q.GetRttSumUs())
	}
}

// Delays that alternate between two are a jitter of their difference, in that direction.
func TestJitter(t *testing.T) {
	w := newWAN(t, nil)
	n := 0
	w.delay = func(out bool) time.Duration {
		if n++; out && n%4 < 2 {
			return 20 * time.Millisecond
		}
		return 10 * time.Millisecond
	}
	w.run(12 * time.Second)
	if q := w.quality(); q.GetJitterOutUs() < 9_500 || q.GetJitterOutUs() > 10_500 || q.GetJitterInUs() > 10 {
		t.Errorf("jitter out %d us, in %d us, want 10 ms and none", q.GetJitterOutUs(), q.GetJitterInUs())
	} else if mean := q.GetJitterSumUs() / q.GetJitterCount(); mean < 4_500 || mean > 5_500 {
		t.Errorf("mean of both directions %d us, want 5 ms", mean)
	}
}

// Loss is told by direction, and the totals go on when the window has moved.
func TestLoss(t *testing.T) {
	w := newWAN(t, nil)
	w.lose = func(out bool, sequence uint32) bool {
		return out && sequence%10 == 3 || !out && sequence%20 == 7
	}
	w.run(40 * time.Second)
	q := w.quality()
	// Of one at the edge of the window, with no answer before it, the direction is unknown.
	if q.GetWindowLost() != 15 || q.GetWindowLostOut() < 9 || q.GetWindowLostOut() > 10 || q.GetWindowLostIn() < 4 || q.GetWindowLostIn() > 5 {
		t.Errorf("of 100: %d lost, %d out, %d in; want 15, 10 and 5", q.GetWindowLost(), q.GetWindowLostOut(), q.GetWindowLostIn())
	}
	if share := float64(q.GetProbesLost()) / float64(q.GetProbes()); q.GetProbes() < 350 || share < 0.14 || share > 0.16 {
		t.Errorf("%d of %d in all", q.GetProbesLost(), q.GetProbes())
	}
	w.lose = func(bool, uint32) bool { return true }
	w.run(15 * time.Second)
	if q := w.quality(); q.GetWindowLost() != windowProbes || q.GetRttAvgUs() != 0 {
		t.Errorf("a path that is dead: %v", q)
	}
	w.lose = nil
	w.run(15 * time.Second)
	if q := w.quality(); q.GetWindowLost() != 0 {
		t.Errorf("a path that came back: %v", q)
	}
}

// A tunnel that is down is not probed, and begins anew.
func TestDown(t *testing.T) {
	w := newWAN(t, nil)
	w.run(5 * time.Second)
	w.up(false)
	before := w.sent
	w.run(5 * time.Second)
	if w.sent != before || !w.prober.Next().IsZero() {
		t.Errorf("%d probes into a tunnel that is down", w.sent-before)
	}
	if q := w.quality(); q != nil {
		t.Errorf("of a tunnel that is down: %v", q)
	}
	w.up(true)
	w.run(5 * time.Second)
	if q := w.quality(); q.GetProbes() > 60 || q.GetProbesLost() != 0 || q.GetWindowLostIn()+q.GetWindowLostOut() != 0 {
		t.Errorf("after it came back: %v", q)
	}
}

// What is set anew keeps what is known, unless it is about other addresses.
func TestSet(t *testing.T) {
	w := newWAN(t, nil)
	w.run(5 * time.Second)
	set := func(remote netip.Addr) {
		w.prober.Set(w.now, []Path{{Tunnel: "a", Local: here, Remote: remote, Interval: time.Second}})
		w.up(true)
	}
	set(there)
	if q := w.quality(); q.GetProbes() < 40 {
		t.Errorf("another interval: %v", q)
	}
	set(netip.MustParseAddr("fd00::3"))
	if q := w.quality(); q != nil {
		t.Errorf("another peer: %v", q)
	}
	w.prober.Set(w.now, nil)
	if w.prober.Due(w.now.Add(time.Hour)) != nil || w.prober.Take(w.now, here, there, make([]byte, packetLen)) {
		t.Error("a prober without paths does something")
	}
}

// Very many tunnels are probed less often each, and never all at once.
func TestManyPaths(t *testing.T) {
	p := NewProber([32]byte{1})
	var paths []Path
	for i := range 5000 {
		remote := netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)})
		paths = append(paths, Path{Tunnel: fmt.Sprint(i), Local: here, Remote: remote, Interval: time.Second})
	}
	p.Set(start, paths)
	p.Follow(start, func(string) bool { return true })
	for now := start; now.Before(start.Add(30 * time.Second)); now = now.Add(time.Second) {
		n := 0
		for i := range time.Duration(50) {
			n += len(p.Due(now.Add(i * 20 * time.Millisecond)))
		}
		if now.Sub(start) >= 5*time.Second && (n < maxRate*6/10 || n > maxRate*15/10) {
			t.Errorf("%d probes in a second after %s, want about %d", n, now.Sub(start), maxRate)
		}
	}
}

// The reflector answers those it has to, not too often, and with no more than it got.
func TestReflector(t *testing.T) {
	r := NewReflector()
	probe := test{Sequence: 9, Time: ntp(start)}.append(nil)
	if r.Answer(start, start, there, here, 64, probe) != nil {
		t.Error("a stranger was answered")
	}
	r.Set([]Path{{Local: there, Remote: here, Interval: time.Second}})
	for name, packet := range map[string][]byte{"short": probe[:packetLen-1], "empty": nil} {
		if r.Answer(start, start, there, here, 64, packet) != nil {
			t.Errorf("%s was answered", name)
		}
	}
	if r.Answer(start, start, here, there, 64, probe) != nil {
		t.Error("the wrong way about was answered")
	}
	for i := range uint32(reflectBurst + 5) {
		reply := r.Answer(start, start, there, here, 61, append(bytes.Clone(probe), make([]byte, 50)...))
		switch {
		case i >= reflectBurst && reply != nil:
			t.Errorf("answer %d at once", i)
		case i < reflectBurst:
			a, err := parseAnswer(reply)
			if err != nil || a.Sequence != i || a.Test.Sequence != 9 || a.HopLimit != 61 || len(reply) != packetLen {
				t.Errorf("answer %d: %+v, %v, %d octets", i, a, err, len(reply))
			}
		}
	}
	answers := 0
	for i := range time.Duration(1000) {
		if r.Answer(start.Add(i*10*time.Millisecond), start.Add(i*10*time.Millisecond), there, here, 64, probe) != nil {
			answers++
		}
	}
	if answers < 380 || answers > 420 {
		t.Errorf("%d answers in 10 s to one that floods, want 40 a second", answers)
	}
	// A new session is numbered from zero.
	first := test{Sequence: 0}.append(nil)
	if a, err := parseAnswer(r.Answer(start.Add(time.Hour), start.Add(time.Hour), there, here, 64, first)); err != nil || a.Sequence != 0 {
		t.Errorf("first answer of a session: %+v, %v", a, err)
	}
}

// Nothing but the answer that a probe waits for changes anything.
func TestUnexpectedAnswers(t *testing.T) {
	w := newWAN(t, nil)
	w.run(5 * time.Second)
	w.lose = func(out bool, _ uint32) bool { return out }
	w.run(time.Second)
	w.prober.Quality(w.now, "a")
	waits := w.prober.paths[ends{here, there}].ring.slots
	before := w.quality()
	forge := func(change func(*answer)) []byte {
		var a answer
		for _, s := range waits {
			if s.outcome == waiting {
				a = answer{Sequence: 60, Time: s.stamp, Received: s.stamp, Test: test{Sequence: s.sequence, Time: s.stamp}}
			}
		}
		change(&a)
		return a.append(nil)
	}
	good := forge(func(*answer) {})
	for name, f := range map[string]func() bool{
		"another timestamp": func() bool {
			return w.prober.Take(w.now, here, there, forge(func(a *answer) { a.Test.Time++ }))
		},
		"from the future": func() bool {
			return w.prober.Take(w.now, here, there, forge(func(a *answer) { a.Test.Sequence += 1000 }))
		},
		"of another lap": func() bool {
			return w.prober.Take(w.now, here, there, forge(func(a *answer) { a.Test.Sequence += ringSize }))
		},
		"short":             func() bool { return w.prober.Take(w.now, here, there, good[:40]) },
		"from another peer": func() bool { return w.prober.Take(w.now, here, here, good) },
		"to another end":    func() bool { return w.prober.Take(w.now, there, there, good) },
		"answered before": func() bool {
			for _, s := range waits {
				if s.outcome == answered && w.prober.Take(w.now, here, there, answer{Test: test{Sequence: s.sequence, Time: s.stamp}}.append(nil)) {
					return true
				}
			}
			return false
		},
	} {
		if f() {
			t.Errorf("%s counted", name)
		}
		if after := w.quality(); !proto.Equal(before, after) {
			t.Errorf("%s: %v became %v", name, before, after)
		}
	}
	if !w.prober.Take(w.now, here, there, good) || w.prober.Take(w.now, here, there, good) {
		t.Error("the answer that is waited for does not count once")
	}
	late := newWAN(t, nil)
	late.delay = func(bool) time.Duration { return lostAfter }
	late.run(10 * time.Second)
	if q := late.quality(); q.GetProbesLost() != q.GetProbes() || q.GetRttSumUs() != 0 {
		t.Errorf("answers that come too late: %v", q)
	}
}

// Whatever comes, figures stay within what was sent.
func FuzzPackets(f *testing.F) {
	f.Add([]byte{}, uint8(3))
	f.Add(test{Sequence: 1, Time: ntp(start)}.append(nil), uint8(0))
	f.Add(answer{Sequence: 7, Time: ntp(start), Received: 1 << 63, Test: test{Sequence: 2, Time: ntp(start)}}.append(nil), uint8(200))
	f.Fuzz(func(t *testing.T, packet []byte, waits uint8) {
		w := newWAN(t, nil)
		w.lose = func(out bool, _ uint32) bool { return out }
		w.run(time.Duration(waits) * 10 * time.Millisecond)
		ring := w.prober.paths[ends{here, there}].ring
		took := w.prober.Take(w.now, here, there, packet)
		if took != (ring.totals.answers == 1) || ring.totals.answers > uint64(w.sent) {
			t.Errorf("%d answers to %d probes", ring.totals.answers, w.sent)
		}
		if reply := w.reflector.Answer(w.now, w.now, there, here, 64, packet); len(reply) > len(packet) {
			t.Errorf("%d octets answered by %d", len(packet), len(reply))
		}
		w.run(3 * time.Second)
		if q := w.quality(); q.GetProbesLost() > q.GetProbes() || q.GetWindowLost() > q.GetWindowProbes() {
			t.Errorf("figures that cannot be: %v", q)
		}
	})
}

// A path that goes over a limit is told of after a while, one at a limit does not flap, and
// one that became good is told of later still.
func TestSLA(t *testing.T) {
	sla := &swanherdv1.PathSla{MaxLossPercent: proto.Float64(5), MaxLatency: durationpb.New(100 * time.Millisecond), MaxJitter: durationpb.New(20 * time.Millisecond)}
	type step struct {
		delay, vary time.Duration // one way
		loss        uint32        // in percent
		last        time.Duration
		want        string
	}
	for name, steps := range map[string][]step{
		"latency": {
			{delay: 10 * time.Millisecond, last: 20 * time.Second},
			{delay: 90 * time.Millisecond, last: 3 * time.Second},
			{delay: 90 * time.Millisecond, last: 12 * time.Second, want: "LATENCY"},
			{delay: 10 * time.Millisecond, last: 10 * time.Second, want: "LATENCY"},
			{delay: 10 * time.Millisecond, last: 12 * time.Second},
		},
		"jitter": {
			{delay: 10 * time.Millisecond, last: 15 * time.Second},
			{delay: 10 * time.Millisecond, vary: 70 * time.Millisecond, last: 20 * time.Second, want: "JITTER"},
		},
		"loss": {
			{loss: 2, last: 30 * time.Second},
			{loss: 20, last: 15 * time.Second, want: "LOSS"},
			{last: 30 * time.Second},
		},
		"all answers lost": {
			{last: 10 * time.Second},
			{loss: 100, last: 15 * time.Second, want: "LOSS"},
		},
		"never answered": {{loss: 100, last: 60 * time.Second}},
	} {
		w := newWAN(t, sla)
		for i, s := range steps {
			w.delay = func(bool) time.Duration { return s.delay + time.Duration(w.random.Float64()*float64(s.vary)) }
			w.lose = func(out bool, sequence uint32) bool { return out && sequence*37%100 < s.loss }
			w.run(s.last)
			var got []string
			for _, v := range w.prober.Violations("a") {
				got = append(got, strings.TrimPrefix(v.GetMetric().String(), "SLA_METRIC_"))
				if v.GetMeasured() <= v.GetLimit() || v.GetStartTime() == nil {
					t.Errorf("%s: %v", name, v)
				}
			}
			if strings.Join(got, " ") != s.want {
				t.Errorf("%s, step %d: violates %q, want %q; %v", name, i, got, s.want, w.quality())
			}
		}
	}
}

// A path that hovers about its limit turns at most once.
func TestSLADoesNotFlap(t *testing.T) {
	w := newWAN(t, &swanherdv1.PathSla{MaxLatency: durationpb.New(100 * time.Millisecond)})
	turns, violated := 0, false
	for range 300 {
		middle := 47 + 6*w.random.Float64()
		w.delay = func(bool) time.Duration { return time.Duration(middle * float64(time.Millisecond)) }
		w.run(time.Second)
		if now := len(w.prober.Violations("a")) > 0; now != violated {
			violated = now
			turns++
		}
	}
	if turns > 1 {
		t.Errorf("turned %d times", turns)
	}
}

// Answered tells when the last probe was sent that was answered, and how often one is.
func TestAnswered(t *testing.T) {
	w := newWAN(t, nil)
	if last, every := w.prober.Answered("a"); !last.IsZero() || every != 100*time.Millisecond {
		t.Errorf("before the first: %v, every %v", last, every)
	}
	w.run(time.Second)
	before, _ := w.prober.Answered("a")
	if ago := w.now.Sub(before); ago > 300*time.Millisecond {
		t.Errorf("the last one that was answered is %v old", ago)
	}
	w.lose = func(bool, uint32) bool { return true }
	w.run(5 * time.Second)
	if last, _ := w.prober.Answered("a"); last.Sub(before) > 200*time.Millisecond {
		t.Errorf("one is answered though all are lost: %v", last)
	}
	w.lose = nil
	w.run(time.Second)
	if last, _ := w.prober.Answered("a"); w.now.Sub(last) > 300*time.Millisecond {
		t.Errorf("the path is good again, and the last one that was answered is of %v", last)
	}
	if _, every := w.prober.Answered("b"); every != 0 {
		t.Error("what is not probed is")
	}
}
