package ike

import (
	"cmp"
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	simSeed  = flag.Uint64("sim.seed", 0, "run the simulator with this seed only and print the transcript")
	simCount = flag.Uint64("sim.count", 200, "number of seeds of the simulator")
)

// simulator runs two ends over a bad network in virtual time. What happens is
// decided by the seed alone.
type simulator struct {
	*world
	t          testing.TB
	loss       float64
	duplicates float64
	maxLatency time.Duration
	lines      []string
	faults     bool
}

// TestSimulator runs many seeds of bad network, restarts and NAT changes, then
// lets the network become good and wants everything in order again.
func TestSimulator(t *testing.T) {
	if *simSeed != 0 {
		simulate(t, *simSeed, true)
		return
	}
	for seed := uint64(1); seed <= *simCount; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { simulate(t, seed, false) })
	}
}

func simulate(t *testing.T, seed uint64, print bool) {
	s := &simulator{t: t}
	s.world = pair(seed, nil)
	s.configure()
	s.log = func(f string, args ...any) {
		s.lines = append(s.lines, s.now.Sub(epoch).Round(time.Millisecond).String()+" "+fmt.Sprintf(f, args...))
		if len(s.lines) > 400 && !print {
			s.lines = s.lines[200:]
		}
	}
	defer func() {
		if r := recover(); r != nil {
			t.Errorf("panic: %v", r)
			defer panic(r)
		}
		if t.Failed() || print {
			t.Logf("seed %d; run it alone with: go test ./ipsec/ike -run TestSimulator -sim.seed %d -v\n%s", seed, seed, strings.Join(s.lines, ""))
		}
	}()
	s.latency = s.route
	s.faults = true
	s.b.step(Connect{})
	s.a.step(Connect{})
	s.run(5 * time.Minute)
	s.faults, s.loss, s.duplicates, s.maxLatency = false, 0, 0, 20*time.Millisecond
	s.log("   network is good now\n")
	s.run(3 * time.Minute)
	s.calm()
	s.check(t)
}

// configure chooses roles, intervals and the network's faults.
func (s *simulator) configure() {
	r := s.rng
	timing := Timing{
		RekeyIKE:       time.Duration(40+r.IntN(100)) * time.Second,
		RekeyChild:     time.Duration(15+r.IntN(60)) * time.Second,
		OverTime:       30 * time.Second,
		Jitter:         0.2 * float64(r.IntN(2)),
		DPD:            5 * time.Second,
		RetransmitBase: 500 * time.Millisecond, RetransmitBackoff: 1.6, RetransmitTries: 6,
		ReconnectMax: 10 * time.Second, HalfOpen: 10 * time.Second,
		TakeOver: time.Duration(r.IntN(3)-1) * 10 * time.Second,
	}
	s.loss = 0.25 * r.Float64()
	s.duplicates = 0.1 * r.Float64()
	s.maxLatency = time.Duration(1+r.IntN(800)) * time.Millisecond
	ca, cb := s.a.cfg, s.b.cfg
	ca.Timing, cb.Timing = timing, timing
	switch r.IntN(4) {
	case 0:
		ca.Role, cb.Role = RoleEither, RoleEither
	case 1:
		ca.Role, cb.Role = RoleEither, RoleResponder
	}
	if ca.Role == RoleInitiator && r.IntN(2) == 0 {
		s.nat[s.a] = netip.MustParseAddrPort("203.0.113.7:20000")
	}
	if r.IntN(2) == 0 {
		ca.Runtime.Tokens, cb.Runtime.Tokens = testTokens("a"), testTokens("b")
	}
	ca.Childless, cb.Childless = Childless(r.IntN(2)), Childless(r.IntN(4))
	if r.IntN(2) == 0 {
		second := ChildConfig{Name: "second", LocalTS: mustTS("10.3.0.0/16"), RemoteTS: mustTS("10.4.0.0/16")}
		ca.Children = append(ca.Children, second)
		second.LocalTS, second.RemoteTS = second.RemoteTS, second.LocalTS
		cb.Children = append(cb.Children, second)
	}
	if r.IntN(3) == 0 {
		s.lengthen(&ca, &cb)
	}
	s.a.cfg, s.b.cfg = ca, cb
	s.a.restart()
	s.b.restart()
}

// lengthen makes negotiations of Child SAs too long for one datagram, on a path
// that may take smaller ones only.
func (s *simulator) lengthen(ca, cb *Config) {
	for i := range 50 {
		net := mustTS(fmt.Sprintf("10.9.%d.0/24", 2*i))
		ca.Children[0].LocalTS = append(ca.Children[0].LocalTS, net...)
		cb.Children[0].RemoteTS = append(cb.Children[0].RemoteTS, net...)
	}
	s.mtu = []int{0, 600, 1000}[s.rng.IntN(3)]
}

// route gives a new packet its fate.
func (s *simulator) route(p *packet) {
	copies := 1
	switch x := s.rng.Float64(); {
	case x < s.loss:
		copies = 0
	case x < s.loss+s.duplicates:
		copies = 2
	}
	s.flight = slices.DeleteFunc(s.flight, func(o *packet) bool { return o == p })
	for range copies {
		c := *p
		c.at = s.now.Add(time.Duration(s.rng.Int64N(int64(s.maxLatency))))
		s.flight = append(s.flight, &c)
	}
}

// run moves the time on by d.
func (s *simulator) run(d time.Duration) {
	end := s.now.Add(d)
	nextSecond := s.now.Add(time.Second)
	for range 1000000 {
		at := nextSecond
		if e, ok := s.nextDeadline(); ok && e.Before(at) {
			at = e
		}
		i := s.nextPacket()
		if i >= 0 && !s.flight[i].at.After(at) && !s.flight[i].at.After(end) {
			p := s.flight[i]
			s.flight = slices.Delete(s.flight, i, i+1)
			s.moveTo(p.at)
			s.log("%s arrives\n", p)
			s.deliver(p)
			continue
		}
		if at.After(end) {
			s.now = end
			return
		}
		s.moveTo(at)
		s.a.tick()
		s.b.tick()
		if at.Equal(nextSecond) {
			nextSecond = nextSecond.Add(time.Second)
			s.everySecond()
		}
	}
	s.t.Fatalf("the simulation does not move on: %s", s.spinning())
}

func (s *simulator) moveTo(at time.Time) {
	if at.After(s.now) {
		s.now = at
	}
}

func (s *simulator) nextPacket() int {
	if len(s.flight) == 0 {
		return -1
	}
	first := slices.MinFunc(s.flight, func(x, y *packet) int {
		return cmp.Or(x.at.Compare(y.at), x.id-y.id)
	})
	return slices.Index(s.flight, first)
}

func (s *simulator) everySecond() {
	s.bounded()
	for _, n := range []*node{s.a, s.b} {
		if s.rng.IntN(3) > 0 {
			n.traffic()
		}
		if s.faults {
			s.fault(n)
		}
	}
}

// fault makes something unusual happen now and then.
func (s *simulator) fault(n *node) {
	switch x := s.rng.IntN(1000); {
	case x < 4:
		s.log("   %s restarts\n", n.name)
		n.restart()
		n.step(Connect{})
	case x < 10:
		n.step(RekeyChild{})
		n.peer().step(RekeyChild{})
	case x < 15:
		n.step(RekeyIKE{})
		n.peer().step(RekeyIKE{})
	case x < 17:
		n.step(RekeyChild{})
		n.peer().step(RekeyIKE{})
	case x < 20:
		n.step(RekeyChild{})
	case x < 25:
		n.step(RekeyIKE{})
	case x < 28:
		n.failPlane = 1 + s.rng.IntN(2)
	case x < 31:
		s.log("   %s disconnects and connects\n", n.name)
		n.step(Disconnect{})
		n.step(Connect{})
	case x < 45:
		if nat, ok := s.nat[n]; ok {
			s.nat[n] = netip.AddrPortFrom(nat.Addr(), 20000+uint16(s.rng.IntN(20000)))
			s.log("   NAT moves %s to %s\n", n.name, s.nat[n])
		}
	}
}

// bounded holds what must always be true: memory is bounded, and no Child SA
// outlives its hard lifetime.
func (s *simulator) bounded() {
	for _, n := range []*node{s.a, s.b} {
		if len(n.t.sas) > 40 || len(n.t.children) > 60 || len(n.halves) > 60 || len(n.t.waits) > 20 {
			s.t.Fatalf("%s grows: %d IKE SAs, %d Child SAs, %d half-open, %d waits\n%s",
				n.name, len(n.t.sas), len(n.t.children), len(n.halves), len(n.t.waits), n.state())
		}
		life := n.t.timing.RekeyChild + n.t.timing.OverTime
		for _, c := range n.t.children {
			if c.installed.IsZero() || c.state == childLingering {
				continue
			}
			_, in := n.in[c.inbound]
			_, out := n.out[c.outbound]
			if age := s.now.Sub(c.installed); age > life && (in || out) {
				s.t.Fatalf("%s: Child SA %x is %s old, at most %s is allowed\n%s", n.name, c.inbound, age, life, n.state())
			}
		}
		s.known(n)
		s.onePrimary(n)
	}
}

// onePrimary holds that duplicates are decided the moment they are there.
func (s *simulator) onePrimary(n *node) {
	primaries := 0
	for _, sa := range n.t.sas {
		if sa.alive() && !sa.redundant {
			primaries++
		}
	}
	if primaries > 1 {
		s.t.Fatalf("%s has %d IKE SAs in charge\n%s", n.name, primaries, n.state())
	}
}

// known holds that the data plane has exactly the SAs that the tunnel knows of.
func (s *simulator) known(n *node) {
	in, out := 0, 0
	for _, c := range n.t.children {
		if _, ok := n.in[c.inbound]; ok {
			in++
		}
		if _, ok := n.out[c.outbound]; ok && c.sending {
			out++
		}
	}
	if in != len(n.in) || out != len(n.out) {
		s.t.Fatalf("%s: data plane has %d inbound and %d outbound SAs, the tunnel %d and %d\n%s",
			n.name, len(n.in), len(n.out), in, out, n.state())
	}
}

// calm waits until no exchange is under way.
func (s *simulator) calm() {
	for range 1000 {
		quiet := len(s.flight) == 0
		for _, n := range []*node{s.a, s.b} {
			for _, sa := range n.t.sas {
				if sa.window.outstanding != nil || sa.active != nil {
					quiet = false
				}
			}
		}
		if quiet {
			return
		}
		s.run(10 * time.Millisecond)
	}
	s.t.Errorf("exchanges go on for ever")
}

// TestNoLoss reorders messages, but loses none, while both ends begin at once
// and rekey at once. From the moment when both ends can send, there is no moment
// when one of them cannot, or sends what the other does not accept.
func TestNoLoss(t *testing.T) {
	for seed := uint64(1); seed <= *simCount; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { simulateNoLoss(t, seed) })
	}
}

func simulateNoLoss(t *testing.T, seed uint64) {
	s := &simulator{t: t, maxLatency: 400 * time.Millisecond}
	s.world = pair(seed, func(a, b *Config) {
		a.Role, b.Role = RoleEither, RoleEither
		timing := Timing{RekeyIKE: 50 * time.Second, RekeyChild: 20 * time.Second, OverTime: 10 * time.Second, Jitter: 0.1, RetransmitBase: 2 * time.Second}
		a.Timing, b.Timing = timing, timing
	})
	s.log = func(f string, args ...any) {
		s.lines = append(s.lines, s.now.Sub(epoch).Round(time.Millisecond).String()+" "+fmt.Sprintf(f, args...))
	}
	defer func() {
		if t.Failed() {
			t.Logf("seed %d\n%s", seed, strings.Join(s.lines, ""))
		}
	}()
	s.latency = s.route
	s.a.step(Connect{})
	s.run(time.Duration(s.rng.IntN(1200)) * time.Millisecond)
	s.b.step(Connect{})
	wasUp := false
	for range 600 {
		s.run(time.Duration(1+s.rng.IntN(400)) * time.Millisecond)
		s.bounded()
		wasUp = wasUp || s.passes(s.a) == "" && s.passes(s.b) == ""
		if wasUp {
			for _, n := range []*node{s.a, s.b} {
				if problem := s.passes(n); problem != "" {
					t.Errorf("%s %s %s\n%s%s", s.now.Sub(epoch), n.name, problem, s.a.state(), s.b.state())
				}
			}
		}
		if t.Failed() {
			return
		}
		switch s.rng.IntN(60) {
		case 0:
			s.a.step(RekeyChild{})
			s.b.step(RekeyChild{})
		case 1:
			s.a.step(RekeyIKE{})
			s.b.step(RekeyIKE{})
		case 2:
			s.a.step(RekeyChild{})
			s.b.step(RekeyIKE{})
		}
		if s.rng.IntN(4) == 0 {
			s.a.traffic()
			s.b.traffic()
		}
	}
	s.run(time.Minute)
	s.calm()
	s.check(t)
}

// passes returns why what n sends now would be lost, or nothing.
func (s *simulator) passes(n *node) string {
	if len(n.out) != 1 {
		return fmt.Sprintf("has %d outbound SAs, want 1", len(n.out))
	}
	for spi := range n.out {
		if _, ok := n.peer().in[spi]; !ok {
			return fmt.Sprintf("sends on %x, which the peer does not have", spi)
		}
	}
	return ""
}
