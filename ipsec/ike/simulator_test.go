package ike

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

var (
	simSeed  = flag.Uint64("sim.seed", 0, "run the simulator with this seed only and print the transcript")
	simCount = flag.Uint64("sim.count", 1500, "number of seeds of the simulator, and a sixth as many without loss; a tenth with -short")
)

// simulator runs two ends over a bad network in virtual time. What happens is
// decided by the seed alone, and carried out by commands of the stories, so that
// a run can be told again, shortened, and kept as a story. See shrink_test.go.
type simulator struct {
	*story
	trial *trial
	rng   *rand.Rand
	end   time.Time
	lines []string // the commands so far

	loss, duplicates, slow float64
	latency, workTime      time.Duration
	outage                 time.Time // nothing arrives until then
	mutates                bool
	rewrites               bool // somebody changes where packets come from
	roams                  bool // addresses come and go
	mtu                    int
	narrows                bool // what passes changes, in each direction

	arrivals map[int][]time.Time // by packet
	results  map[int]time.Time   // by pending work
	ordered  map[*node]time.Time // when the last packet in a connection arrives, by its sender
	second   time.Time           // when the next thing may go wrong
	mishap   func(*simulator)
}

// TestSimulator runs many seeds of a bad network, restarts, NAT changes, clocks
// that jump and a data plane that fails, then lets the network become good and
// wants everything in order again.
func TestSimulator(t *testing.T) { runSeeds(t, "TestSimulator", *simCount, badNetwork) }

// TestNoLoss reorders messages, but loses none, while both ends begin at once
// and rekey at once. From the moment when both ends can send, there is no moment
// when one of them cannot, and no packet that the other does not accept.
func TestNoLoss(t *testing.T) { runSeeds(t, "TestNoLoss", *simCount/6, goodNetwork) }

// TestNarrowPath is TestSimulator where what passes changes in each direction, and both
// ends find that out. The addresses stay.
func TestNarrowPath(t *testing.T) { runSeeds(t, "TestNarrowPath", *simCount/4, narrowNetwork) }

func narrowNetwork(s *simulator) {
	s.narrows = true
	badNetwork(s)
}

func runSeeds(t *testing.T, test string, count uint64, scenario func(*simulator)) {
	if *simSeed != 0 {
		s := simulate(*simSeed, scenario, nil)
		t.Logf("%s", s.transcript())
		if s.failure() != "" {
			t.Errorf("seed %d: %s\n%s", *simSeed, s.details(), s.shrunk(t, *simSeed))
		}
		return
	}
	if testing.Short() {
		count /= 10
	}
	failed := 0
	for seed := uint64(1); seed <= count && failed < 3; seed++ {
		if s := simulate(seed, scenario, nil); s.failure() != "" {
			failed++
			t.Errorf("seed %d: %s\nThe whole transcript: go test ./ipsec/ike -run %s -sim.seed %d -v\n%s", seed, s.details(), test, seed, s.shrunk(t, seed))
		}
	}
}

// simulate runs one seed. mutate, if not nil, spoils a node after each step.
func simulate(seed uint64, scenario func(*simulator), mutate func(*node)) *simulator {
	s := &simulator{
		story: &story{mute: true, mutate: mutate}, trial: &trial{}, rng: rand.New(rand.NewPCG(seed, 1)),
		arrivals: map[int][]time.Time{}, results: map[int]time.Time{}, ordered: map[*node]time.Time{},
	}
	s.t = s.trial
	s.trial.run(func() { scenario(s) })
	return s
}

// failure names what went wrong, or is empty.
func (s *simulator) failure() string { return failureOf(s.story, s.trial) }

// details are what went wrong with its circumstances.
func (s *simulator) details() string {
	if s.w != nil && s.w.broken != nil {
		return fmt.Sprint(s.w.broken)
	}
	return strings.Join(s.trial.failures, "\n")
}

// do tells a command and writes it down.
func (s *simulator) do(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	s.write(line)
	d := &datadriven.TestData{}
	var err error
	if d.Cmd, d.CmdArgs, err = datadriven.ParseLine(line); err != nil {
		s.t.Fatalf("%q: %v", line, err)
	}
	s.tellOne(d)
}

// write adds a command to the list; waits one after the other become one.
func (s *simulator) write(line string) {
	if rest, ok := strings.CutPrefix(line, "wait "); ok && len(s.lines) > 0 {
		if before, ok := strings.CutPrefix(s.lines[len(s.lines)-1], "wait "); ok {
			x, _ := time.ParseDuration(before)
			y, _ := time.ParseDuration(rest)
			s.lines[len(s.lines)-1] = "wait " + (x + y).String()
			return
		}
	}
	s.lines = append(s.lines, line)
}

// badNetwork is three minutes of trouble and two of calm.
func badNetwork(s *simulator) {
	s.do("%s", strings.Join(s.badConfig(), " "))
	s.mishap = (*simulator).fault
	if s.mtu > 0 {
		s.do("mtu %d", s.mtu)
	}
	if s.rng.IntN(3) == 0 {
		s.do("nat a 203.0.113.7:20000")
	}
	s.do("connect a")
	s.run(3 * time.Minute)
	s.mend("2m")
}

// mend has the network and the data planes work again, both ends wanted, and wants
// everything in order after that time of calm.
func (s *simulator) mend(calm string) {
	for _, n := range s.w.nodes() {
		if !n.t.wanted {
			s.do("connect %s", n.name)
		}
		s.do("fail %s n=0", n.name)
		if s.narrows && s.w.mtu[n] > 0 && s.w.mtu[n] < DefaultDatagram {
			s.do("mtu %d %s", DefaultDatagram, n.name) // IKE's own messages arrive
		}
	}
	s.do("unblock")
	s.do("tell a")
	s.do("tell b")
	s.do("calm %s", calm)
	s.do("check")
}

// badConfig chooses roles, intervals and the network's faults.
func (s *simulator) badConfig() []string {
	r := s.rng
	s.loss, s.duplicates, s.slow = 0.25*r.Float64(), 0.1*r.Float64(), 0.02*float64(r.IntN(2))
	s.latency = time.Duration(1+r.IntN(800)) * time.Millisecond
	s.mutates, s.rewrites = r.IntN(4) == 0, r.IntN(4) == 0
	line := []string{
		"pair", fmt.Sprintf("seed=%d", 1+r.IntN(1e6)),
		fmt.Sprintf("rekey-ike=%ds", 40+r.IntN(100)), fmt.Sprintf("rekey-child=%ds", 15+r.IntN(60)), "overtime=30s",
		fmt.Sprintf("jitter=%.1f", 0.2*float64(r.IntN(2))),
		"dpd=5s", "retransmit=500ms", "backoff=1.6", "reconnect-max=10s", "half-open=10s",
	}
	switch r.IntN(4) {
	case 0:
		line = append(line, "role=either")
	case 1:
		line = append(line, "a.role=either")
	}
	if r.IntN(2) == 0 {
		line = append(line, "children=second")
	}
	if r.IntN(4) == 0 && !slices.ContainsFunc(line, func(word string) bool { return strings.Contains(word, "role=") }) {
		line = append(line, "a.request=(0.0.0.0,10.9.0.3)", "a.local=(10.1.0.0/16,10.9.0.0/24)", "b.remote=(10.1.0.0/16,10.9.0.0/24)", "b.pool=10.9.0.0/29")
		if r.IntN(2) == 0 {
			line = append(line, "a.ask=required", "b.require=yes")
		}
	}
	if r.IntN(2) == 0 {
		line = append(line, "a.childless=prefer")
	}
	if word := []string{"", "prefer", "force", "never"}[r.IntN(4)]; word != "" {
		line = append(line, "b.childless="+word)
	}
	if r.IntN(4) > 0 {
		line = append(line, "esp="+[]string{"aes128gcm16", "aes128gcm16", "aes256gcm8-esn", "aes128-sha1-ecp256", "aes128ctr-aesxcbc"}[r.IntN(5)])
	}
	if r.IntN(8) == 0 {
		line = append(line, "ike="+[]string{"aes128-sha1-ecp256", "aes128ccm8-prfaesxcbc-ecp256", "aes256ctr-sha512-ecp384"}[r.IntN(3)])
	}
	if r.IntN(3) == 0 {
		line = append(line, "work=later")
		s.workTime = time.Duration(1+r.IntN(1000)) * time.Millisecond
	}
	if r.IntN(2) == 0 {
		line = append(line, "qcd=yes")
	}
	if r.IntN(2) == 0 {
		line = append(line, "resume=yes")
	}
	if takeover := r.IntN(3) - 1; takeover >= 0 {
		line = append(line, fmt.Sprintf("takeover=%ds", 10*takeover))
	}
	if who := []string{"", "", "a.", "b."}[r.IntN(4)]; r.IntN(2) == 0 {
		line = append(line, fmt.Sprintf("%sreauth=%ds", who, 40+r.IntN(60)))
	}
	if r.IntN(4) == 0 {
		line = append(line, "own=ed25519", "accept=cert")
	}
	if s.roams = r.IntN(2) == 0 && !s.narrows; s.roams {
		line = append(line, "a.remotes=198.51.100.2", "b.remotes=(192.0.2.2,192.0.2.3)", "patience=30s")
		for _, end := range []string{"a.mobike=yes", "b.mobike=yes", "trust=yes"} {
			if r.IntN(4) > 0 == (end != "trust=yes") {
				line = append(line, end)
			}
		}
	}
	if r.IntN(5) == 0 {
		// So many that messages are fragmented, on a path that may take smaller
		// fragments only.
		line = append(line, fmt.Sprintf("selectors=%d", 40+r.IntN(20)))
		s.mtu = []int{0, 600, 1000}[r.IntN(3)]
	}
	if r.IntN(4) == 0 {
		line = append(line, "ppk=(one,two)", "b.ppk=(two,three)")
	}
	if s.narrows {
		line = append(line, "pathmtu=20s")
	}
	if r.IntN(4) == 0 {
		line = append(line, fmt.Sprintf("a.queues=%d", 2+r.IntN(3)), fmt.Sprintf("b.queues=%d", 1+r.IntN(4)))
	}
	return append(line, s.several()...)
}

// several has the ends make several key exchanges in some runs. In the last of
// the cases the responder decides differently at each end, so that exchanges of
// both kinds cross each other.
func (s *simulator) several() []string {
	all := func(key, base, end string, methods ...string) string {
		for i, m := range methods {
			methods[i] = base + m + end
		}
		return key + "=(" + strings.Join(methods, ",") + ")"
	}
	both := func(node string, methods ...string) []string {
		return []string{
			all(node+"ike", "aes128gcm16-prfsha256-x25519", "", slices.Clone(methods)...),
			all(node+"esp", "aes128gcm16-x25519", "-esn", slices.Clone(methods)...),
		}
	}
	switch s.rng.IntN(12) {
	case 0:
		return both("", "-ke1_ecp256", "")
	case 1:
		return both("", "-ke1_mlkem768", "")
	case 2:
		return both("", "-ke1_ecp256-ke2_mlkem768", "-ke1_ecp256")
	case 3:
		return append(both("a.", "-ke1_ecp256", ""), both("b.", "", "-ke1_ecp256")...)
	}
	return nil
}

// goodNetwork reorders and does not lose.
func goodNetwork(s *simulator) {
	s.latency = 400 * time.Millisecond
	line := []string{
		"pair", fmt.Sprintf("seed=%d", 1+s.rng.IntN(1e6)), "role=either", "lossless=yes",
		"rekey-ike=50s", "rekey-child=20s", "overtime=40s", "jitter=0.1", "retransmit=2s",
	}
	if s.rng.IntN(3) == 0 {
		line = append(line, "work=later")
		s.workTime = 100 * time.Millisecond
	}
	line = append(line, s.several()...)
	s.do("%s", strings.Join(line, " "))
	s.run(time.Duration(s.rng.IntN(1200)) * time.Millisecond)
	s.do("connect a")
	s.mishap = (*simulator).rekeyAtOnce
	s.run(2 * time.Minute)
	s.do("calm 1m")
	s.do("check")
}

// run moves the time on by d.
func (s *simulator) run(d time.Duration) {
	s.end = s.w.now.Add(d)
	for range 1000000 {
		s.plan()
		at, event := s.next()
		if at.After(s.end) {
			at, event = s.end, nil
		}
		if deadline, ok := s.w.nextDeadline(); ok && deadline.Before(at) {
			at, event = deadline, nil
			if !at.After(s.w.now) {
				s.do("wait 0s")
				continue
			}
		}
		if at.After(s.w.now) {
			s.do("wait %s", at.Sub(s.w.now))
		}
		switch {
		case event != nil:
			event()
		case !s.w.now.Before(s.end):
			return
		}
	}
	s.t.Fatalf("the simulation does not move on: %s", s.w.spinning())
}

// plan gives new packets and new work their fate.
func (s *simulator) plan() {
	for i := 0; i < len(s.w.flight); i++ {
		p := s.w.flight[i]
		if s.arrivals[p.id] != nil {
			continue
		}
		if p.tcp {
			s.planStream(p)
			continue
		}
		times := []time.Time{s.arrival(p)}
		switch x := s.rng.Float64(); {
		case x < s.loss || s.w.now.Before(s.outage):
			s.do("drop %s", s.position(p))
			i--
			continue
		case x < s.loss+s.duplicates:
			times = append(times, s.arrival(p))
			slices.SortFunc(times, time.Time.Compare)
		}
		s.arrivals[p.id] = times
	}
	for _, n := range s.w.nodes() {
		for _, work := range n.pending {
			if _, ok := s.results[work.id]; !ok {
				s.results[work.id] = work.since.Add(s.upTo(s.workTime))
			}
		}
	}
}

func (s *simulator) arrival(p *packet) time.Time {
	d := s.upTo(s.latency)
	if s.rng.Float64() < s.slow {
		d *= 10
	}
	return p.sent.Add(d)
}

// upTo returns a random time below d, in whole milliseconds to be readable.
func (s *simulator) upTo(d time.Duration) time.Duration {
	return time.Duration(s.rng.Int64N(max(1, d.Milliseconds()))) * time.Millisecond
}

// position names a packet in flight by how many go before it.
func (s *simulator) position(p *packet) string {
	before := 0
	for _, o := range s.w.flight {
		if o == p {
			break
		}
		if o.from == p.from {
			before++
		}
	}
	dir := p.from.name + ">" + p.to.name
	if before == 0 {
		return dir
	}
	return fmt.Sprintf("%s at=%d", dir, before)
}

// next returns what happens next and when: a packet or a result arrives, or a
// second is over.
func (s *simulator) next() (time.Time, func()) {
	at, event := s.second, s.everySecond
	if s.second.IsZero() {
		at = s.w.now
	}
	for _, p := range s.w.flight {
		if first := s.arrivals[p.id][0]; first.Before(at) {
			at, event = first, func() { s.arrive(p) }
		}
	}
	for _, n := range s.w.nodes() {
		for i, work := range n.pending {
			if then := s.results[work.id]; then.Before(at) {
				at, event = then, func() { s.do("work %s at=%d", n.name, i) }
			}
		}
	}
	return at, event
}

func (s *simulator) arrive(p *packet) {
	if s.mutates && !p.tcp && p.esp == 0 && s.rng.IntN(20) == 0 {
		s.do("mutate %s off=%d xor=%02x", s.position(p), s.rng.IntN(len(p.data)), 1+s.rng.IntN(255))
	}
	if s.rewrites && p.movable() && s.rng.IntN(20) == 0 {
		s.do("readdress %s %s:%d", s.position(p), stranger, p.src.Port())
		return
	}
	if times := s.arrivals[p.id]; len(times) > 1 {
		s.arrivals[p.id] = times[1:]
		s.do("dup %s", s.position(p))
		return
	}
	s.do("deliver %s", s.position(p))
}

// everySecond lets traffic flow and something unusual happen now and then.
func (s *simulator) everySecond() {
	s.second = s.w.now.Add(time.Second)
	for _, n := range s.w.nodes() {
		if s.rng.IntN(3) > 0 {
			s.do("send %s", n.name)
		}
	}
	if s.mishap != nil {
		s.mishap(s)
	}
}

func (s *simulator) anyNode() *node { return s.w.nodes()[s.rng.IntN(2)] }

// fault makes something unusual happen now and then.
func (s *simulator) fault() {
	n := s.anyNode()
	name, peer := n.name, n.peer().name
	if !n.t.wanted && s.rng.IntN(3) == 0 {
		s.do("connect %s", name)
		return
	}
	child := n.t.cfg.Children[s.rng.IntN(len(n.t.cfg.Children))].Name
	switch x := s.rng.IntN(500); {
	case x < 4:
		s.do("restart %s", name)
	case x < 10:
		s.do("rekey %s", name)
		s.do("rekey %s", peer)
	case x < 15:
		s.do("rekey-ike %s", name)
		s.do("rekey-ike %s", peer)
	case x < 17:
		s.do("rekey %s", name)
		s.do("rekey-ike %s", peer)
	case x < 20:
		s.do("rekey %s child=%s", name, child)
	case x < 25:
		s.do("rekey-ike %s", name)
	case x < 28:
		s.do("fail %s n=%d policies=%d moves=%d", name, 1+s.rng.IntN(3), s.rng.IntN(2), s.rng.IntN(6))
	case x < 31:
		s.do("disconnect %s", name)
	case x < 35:
		s.do("delete %s child=%s", name, child)
		if x == 31 {
			s.do("delete %s child=%s", peer, child)
		}
	case x < 39:
		s.do("event %s soft-expire child=%s", name, child)
	case x < 41:
		s.do("event %s hard-expire child=%s", name, child)
	case x < 44:
		s.do("jump %s %ds", name, s.rng.IntN(300)-100)
	case x < 47:
		s.outage = s.w.now.Add(time.Duration(1+s.rng.IntN(40)) * time.Second)
	case s.roams && x < 75:
		s.roam(n)
	case x < 61:
		if _, ok := s.w.nat[n]; ok {
			s.do("nat %s 203.0.113.7:%d", name, 20000+s.rng.IntN(20000))
		}
	case x < 66:
		s.do("reauth %s", name)
		if x == 61 {
			s.do("reauth %s", peer)
		}
	case x < 68:
		s.do("revalidate %s", name)
	case x < 76 && s.narrows:
		s.do("mtu %d %s", []int{0, 600, 1280, 1300, 1400, 1476, 1492}[s.rng.IntN(7)], name)
	}
}

// roam changes the addresses of a host, or what passes between two of them.
func (s *simulator) roam(n *node) {
	ours := []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"}
	theirs := []string{"198.51.100.1", "198.51.100.2"}
	switch s.rng.IntN(4) {
	case 0:
		if nat, ok := s.w.nat[s.w.a]; ok {
			s.do("nat a %s:%d", nat.Addr(), 20000+s.rng.IntN(20000))
			return
		}
		fallthrough
	case 1:
		all := ours
		if n == s.w.b {
			all = theirs
		}
		s.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		quiet := []string{"", " quiet"}[s.rng.IntN(8)/7]
		s.do("address %s %s%s", n.name, strings.Join(all[:1+s.rng.IntN(len(all))], " "), quiet)
	case 2:
		s.do("block %s %s", ours[s.rng.IntN(3)], theirs[s.rng.IntN(2)])
	case 3:
		s.do("unblock")
	}
}

// rekeyAtOnce has both ends rekey now and then.
func (s *simulator) rekeyAtOnce() {
	n := s.anyNode()
	switch s.rng.IntN(14) {
	case 12:
		s.do("reauth %s", n.name)
	case 13:
		s.do("reauth %s", n.name)
		s.do("reauth %s", n.peer().name)
	case 0:
		s.do("rekey %s", n.name)
		s.do("rekey %s", n.peer().name)
	case 1:
		s.do("rekey-ike %s", n.name)
		s.do("rekey-ike %s", n.peer().name)
	case 2:
		s.do("rekey %s", n.name)
		s.do("rekey-ike %s", n.peer().name)
	case 3:
		s.do("event %s soft-expire child=net", n.name)
	}
}
