package path

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/swanherd/swanherd/edge/probe"
)

const (
	// beat is the step of a simulation: how long package probe holds packets back.
	beat = 20 * time.Millisecond
	// packetInterval is between two packets of the traffic.
	packetInterval = beat / 2
)

// world is an edge with two tunnels to a peer, in virtual time: probes, their answers, what
// is made of them, and the traffic that follows.
type world struct {
	t         *testing.T
	now       time.Time
	random    *rand.Rand
	prober    *probe.Prober
	reflector *probe.Reflector
	chooser   *Chooser
	links     map[string]*link
	flying    []flying
	switches  []Switch
	everDead  map[string]bool
	// sent and lost are the packets of the traffic.
	sent, lost int
}

// link is what carries a tunnel.
type link struct {
	tunnel       string
	here, there  netip.Addr
	delay        time.Duration // one way
	out, in      float64       // loss of both directions, share
	probes       float64       // and of probes alone
	received     uint64        // packets of the tunnel's SAs
	silent, down bool          // the peer sends no traffic; IKE has taken the tunnel down
}

type flying struct {
	at      time.Time
	link    *link
	out     bool
	payload []byte
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{
		t: t, now: start, random: rand.New(rand.NewPCG(seed, 4)), prober: probe.NewProber([32]byte{byte(seed)}),
		reflector: probe.NewReflector(), chooser: NewChooser(), links: map[string]*link{}, everDead: map[string]bool{},
	}
	var ours, theirs []probe.Path
	for i, tunnel := range []string{"a", "b"} {
		l := &link{
			tunnel: tunnel, here: netip.AddrFrom16([16]byte{0xfd, 14: 1, 15: byte(i)}), there: netip.AddrFrom16([16]byte{0xfd, 14: 2, 15: byte(i)}),
			delay: time.Duration(10+20*i) * time.Millisecond,
		}
		w.links[tunnel] = l
		ours = append(ours, probe.Path{Tunnel: tunnel, Local: l.here, Remote: l.there, Interval: time.Second / 2, Fast: probe.FastInterval})
		theirs = append(theirs, probe.Path{Tunnel: tunnel, Local: l.there, Remote: l.here, Interval: time.Second / 2, Fast: probe.FastInterval})
	}
	w.prober.Set(w.now, ours)
	w.reflector.Set(theirs)
	w.chooser.Set([]Group{{Name: "g", Members: []Member{{Tunnel: "a", Cost: 10}, {Tunnel: "b", Cost: 20}}}})
	w.run(20 * time.Second)
	return w
}

// run lets time pass.
func (w *world) run(span time.Duration) {
	for end := w.now.Add(span); w.now.Before(end); w.now = w.now.Add(beat) {
		if w.now.Sub(start)%time.Second == 0 {
			w.prober.Follow(w.now, func(tunnel string) bool { return !w.links[tunnel].down })
			w.prober.Judge(w.now)
		}
		w.probe()
		w.deliver()
		w.traffic()
		if w.prober.Asks() {
			received := map[string]uint64{}
			for tunnel, l := range w.links {
				received[tunnel] = l.received
			}
			w.prober.Hear(w.now, received)
		}
		if w.prober.Turned() || w.now.Sub(start)%lookInterval == 0 {
			w.look()
		}
	}
}

func (w *world) look() {
	seen := map[string]Observation{}
	for tunnel, life := range w.prober.Lives(w.now) {
		seen[tunnel] = Observation{Up: !w.links[tunnel].down, Life: life}
		w.everDead[tunnel] = w.everDead[tunnel] || life.State == probe.Dead
	}
	w.switches = append(w.switches, w.chooser.Step(w.now, seen)...)
}

// probe sends what is due.
func (w *world) probe() {
	for _, p := range w.prober.Due(w.now) {
		for _, tunnel := range []string{"a", "b"} {
			if l := w.links[tunnel]; l.here == p.Local && !w.loses(l.out) && !w.loses(l.probes) {
				w.flying = append(w.flying, flying{w.now.Add(l.delay), l, true, p.Payload})
			}
		}
	}
}

func (w *world) loses(share float64) bool { return w.random.Float64() < share }

// deliver has the probes arrive whose time has come, and their answers.
func (w *world) deliver() {
	arrived := func(f flying) bool { return !f.at.After(w.now) }
	for _, f := range slices.DeleteFunc(slices.Clone(w.flying), func(f flying) bool { return !arrived(f) }) {
		if !f.out {
			w.prober.Take(f.at, f.link.here, f.link.there, f.payload)
			f.link.received++
			continue
		}
		reply := w.reflector.Answer(f.at, w.now, f.link.there, f.link.here, 64, f.payload)
		if reply != nil && !w.loses(f.link.in) {
			w.flying = append(w.flying, flying{w.now.Add(f.link.delay), f.link, false, reply})
		}
	}
	w.flying = slices.DeleteFunc(w.flying, arrived)
}

// traffic sends packets along the paths in use, and the peer on all of them.
func (w *world) traffic() {
	inUse := w.chooser.groups[0].uses[0].choice.InUse()
	if len(inUse) == 0 {
		return
	}
	for i := range int(beat / packetInterval) {
		if w.sent++; w.loses(w.links[inUse[i%len(inUse)]].out) {
			w.lost++
		}
	}
	for _, l := range w.links {
		if !l.silent && !w.loses(l.in) {
			l.received++
		}
	}
}

// left is how long after a time the path was left; -1: it was not.
func (w *world) left(after time.Time, tunnel string) time.Duration {
	for _, s := range w.switches {
		if !s.Time.Before(after) && slices.Contains(s.From, tunnel) && !slices.Contains(s.To, tunnel) {
			return s.Time.Sub(after)
		}
	}
	return -1
}

// TestTimeToSwitch is what a path that fails costs: how long until it is left, and how many
// of 100 packets a second are lost, at most of many tries.
func TestTimeToSwitch(t *testing.T) {
	for _, test := range []struct {
		name  string
		fail  func(l *link)
		most  time.Duration
		cause Cause
	}{
		{"blackout", func(l *link) { l.out, l.in = 1, 1 }, time.Second, Died},
		{"blackout of an idle path", func(l *link) { l.silent, l.out, l.in = true, 1, 1 }, time.Second, Died},
		{"blackout inbound", func(l *link) { l.in = 1 }, time.Second, Died},
		{"blackout outbound", func(l *link) { l.out = 1 }, 2500 * time.Millisecond, BrownOut},
		{"half is lost", func(l *link) { l.out = 0.5 }, 4 * time.Second, BrownOut},
		{"a third is lost, of both ways together", func(l *link) { l.out, l.in = 0.18, 0.18 }, 5 * time.Second, BrownOut},
		{"a quarter is lost", func(l *link) { l.out = 0.25 }, 6 * time.Second, BrownOut},
	} {
		t.Run(test.name, func(t *testing.T) {
			worst, lost, sum := time.Duration(0), 0, time.Duration(0)
			const tries = 60
			for i := range uint64(tries) {
				w := newWorld(t, i)
				w.run(time.Duration(i) * beat)
				failed, before := w.now, w.lost
				test.fail(w.links["a"])
				w.run(10 * time.Second)
				took := w.left(failed, "a")
				if last := w.switches[len(w.switches)-1]; took < 0 || took > test.most || last.Cause != test.cause {
					t.Errorf("try %d: left after %v, want at most %v; %v: %s", i, took, test.most, last.Cause, last.Reason)
				}
				worst, lost, sum = max(worst, took), max(lost, w.lost-before), sum+took
			}
			t.Logf("left after %v, %v at most, %d packets of 100 a second lost", sum/tries, worst, lost)
		})
	}
}

// What is lost of probes alone, as by a queue that is full of them, kills no path over which
// the peer's packets come.
func TestProbeStorm(t *testing.T) {
	w := newWorld(t, 1)
	w.links["a"].probes = 1
	w.run(time.Minute)
	if w.everDead["a"] {
		t.Error("the path is taken for dead")
	}
	w.links["a"].probes = 0
	w.run(30 * time.Second)
	if n := len(w.switches); n != 3 || w.switches[1].Cause != BrownOut || w.switches[2].Cause != Better {
		t.Errorf("%+v", w.switches)
	}
	if w.lost > 0 {
		t.Errorf("%d packets lost", w.lost)
	}
}

// A path that lives again is used again after a while, and a short silence is no death.
func TestComesBack(t *testing.T) {
	w := newWorld(t, 2)
	a := w.links["a"]
	for range 10 {
		a.out, a.in = 1, 1
		w.run(200 * time.Millisecond)
		a.out, a.in = 0, 0
		w.run(20 * time.Second)
	}
	if len(w.switches) != 1 {
		t.Errorf("200 ms of silence: %+v", w.switches)
	}
	a.out, a.in = 1, 1
	w.run(5 * time.Second)
	a.out, a.in = 0, 0
	back := w.now
	w.run(30 * time.Second)
	if took := w.left(back, "b"); took < holdTime || took > holdTime+4*time.Second {
		t.Errorf("used again after %v", took)
	}
	// IKE notices what probes may not: its word counts at once.
	a.down = true
	down := w.now
	w.run(5 * time.Second)
	if took := w.left(down, "a"); took < 0 || took > time.Second {
		t.Errorf("a tunnel that is down is left after %v", took)
	}
}

// However an uplink flaps, the other one has the traffic soon, and for good.
func TestFlappingUplink(t *testing.T) {
	for _, test := range []struct {
		name    string
		on, off time.Duration
		most    int // switches in an hour
	}{
		{"each second", time.Second, time.Second, 4},
		{"3 s on, 1 s off", 3 * time.Second, time.Second, 4},
		{"8 s on, 8 s off", 8 * time.Second, 8 * time.Second, 4},
		{"20 s on, 2 s off", 20 * time.Second, 2 * time.Second, 10},
		{"a minute on, 10 s off", time.Minute, 10 * time.Second, 10},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, 3)
			a := w.links["a"]
			for end := w.now.Add(time.Hour); w.now.Before(end); {
				a.out, a.in = 1, 1
				w.run(test.off)
				a.out, a.in = 0, 0
				w.run(test.on)
			}
			if n := len(w.switches); n > test.most {
				t.Errorf("%d switches, want %d at most", n, test.most)
			}
			if share := float64(w.lost) / float64(w.sent); share > 0.005 {
				t.Errorf("%.2f %% of the packets lost", 100*share)
			}
			t.Logf("%d switches in an hour, %d of %d packets lost", len(w.switches), w.lost, w.sent)
		})
	}
}

// With both paths dead the last one goes on, and the first that lives again is used.
func TestAllDead(t *testing.T) {
	w := newWorld(t, 5)
	for _, l := range w.links {
		l.out, l.in = 1, 1
	}
	w.run(10 * time.Second)
	n := len(w.switches)
	w.links["b"].out, w.links["b"].in = 0, 0
	alive := w.now
	w.run(10 * time.Second)
	if took := w.left(alive, "a"); w.chooser.Choices()[0].InUse()[0] != "b" || n > 2 && took > 4*time.Second {
		t.Errorf("after %v: %+v", took, w.switches)
	}
}
