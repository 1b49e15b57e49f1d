package probe

import (
	"container/heap"
	"math/rand/v2"
	"net/netip"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// maxRate bounds the probes that one end sends in a second, all tunnels together.
	maxRate = 1000
	// extraRate and extraBurst bound, beside it, those that are sent when something is
	// wrong, which may be with all tunnels at once: the former in a second, the latter at
	// once. What is left of less than half of the burst is for quick ones.
	extraRate  = 500
	extraBurst = 4000
	// extraRetry is when one is tried again for which there was no room.
	extraRetry = 50 * time.Millisecond
)

// Path is a tunnel to be measured.
type Path struct {
	// Tunnel is its name.
	Tunnel string
	// Local and Remote are the addresses of probes at both ends.
	Local, Remote netip.Addr
	// Interval is the mean time between two probes.
	Interval time.Duration
	// SLA has the limits to judge by; nil: none.
	SLA *swanherdv1.PathSla
	// Fast is the mean time between two probes where there are other tunnels for the same
	// traffic, so that it is told within a second whether this one is alive; zero: there
	// are none. A Metered path is probed so while it is in use alone.
	Fast    time.Duration
	Metered bool
	// Classes are those of traffic for which the path is judged besides.
	Classes []Class
}

// Class is traffic that has an SLA of its own.
type Class struct {
	Name string
	SLA  *swanherdv1.PathSla
}

// ends are the addresses of a path: they name it in a packet.
type ends struct{ local, remote netip.Addr }

// Packet is a probe that is to be sent from and to these addresses.
type Packet struct {
	Local, Remote netip.Addr
	Payload       []byte
}

// Prober is the Session-Sender of all paths of an edge. It does no I/O and reads no
// clock; it is for one goroutine at a time.
type Prober struct {
	random *rand.Rand
	paths  map[ends]*path
	byName map[string]*path
	due    queue
	// stretch is how much longer than wanted intervals are, for maxRate.
	stretch float64
	// room is for how many extra probes there is some since filled.
	room   float64
	filled time.Time
	// asking are the paths for which the counters are to be read.
	asking map[*path]bool
	turned bool
}

// path is what is known of one.
type path struct {
	Path
	inUse bool
	next  time.Time // when the next regular probe is due
	wake  time.Time // when anything is
	index int       // in the queue; -1: not in it
	// answered is when the last probe that was answered was sent; zero: none was.
	answered time.Time
	ring     *ring
	life     liveness
	judge    judge
	classes  []classJudge
}

// every is the mean time between two probes.
func (p *path) every() time.Duration {
	if p.Fast == 0 || p.Metered && !p.inUse {
		return p.Interval
	}
	return min(p.Interval, p.Fast)
}

// NewProber returns a Prober without paths; seed makes its times unpredictable.
func NewProber(seed [32]byte) *Prober {
	return &Prober{random: rand.New(rand.NewChaCha8(seed)), paths: map[ends]*path{}, byName: map[string]*path{}, stretch: 1, room: extraBurst, asking: map[*path]bool{}}
}

// Set makes list the paths. What is known of one whose addresses are the same stays.
func (p *Prober) Set(now time.Time, list []Path) {
	paths, byName := make(map[ends]*path, len(list)), make(map[string]*path, len(list))
	for _, want := range list {
		key := ends{want.Local, want.Remote}
		have := p.paths[key]
		if have == nil || have.Tunnel != want.Tunnel {
			have = &path{index: -1}
		}
		if !sameLimits(have.SLA, want.SLA) {
			have.judge = newJudge(want.SLA)
		}
		have.classes = newClassJudges(want.Classes, have.classes)
		if have.ring != nil && have.Fast == 0 && want.Fast != 0 {
			have.life = liveness{since: now, decided: have.ring.next}
		}
		have.Path = want
		paths[key], byName[want.Tunnel] = have, have
	}
	for key, old := range p.paths {
		if paths[key] != old {
			p.stop(now, old)
		}
	}
	p.paths, p.byName = paths, byName
}

func sameLimits(a, b *swanherdv1.PathSla) bool {
	return (a == nil) == (b == nil) && (a == nil ||
		(a.MaxLossPercent == nil) == (b.MaxLossPercent == nil) && a.GetMaxLossPercent() == b.GetMaxLossPercent() &&
			a.GetMaxLatency().AsDuration() == b.GetMaxLatency().AsDuration() && a.GetMaxJitter().AsDuration() == b.GetMaxJitter().AsDuration())
}

// Follow has the paths probed whose tunnels are up, and no others: a probe must not be
// why a tunnel is brought up. What was measured before a tunnel went down says nothing
// of it afterwards.
func (p *Prober) Follow(now time.Time, up func(tunnel string) bool) {
	rate := 0.0
	var begin []*path
	for _, path := range p.paths {
		if !up(path.Tunnel) {
			p.stop(now, path)
			continue
		}
		rate += float64(time.Second) / float64(path.every())
		if path.index < 0 {
			begin = append(begin, path)
		}
	}
	p.stretch = max(1, rate/maxRate)
	if p.stretch == 1 {
		for _, path := range p.paths {
			path.life.silent = time.Time{}
		}
	}
	for _, path := range begin {
		path.ring = &ring{}
		path.judge, path.classes = newJudge(path.SLA), newClassJudges(path.Classes, nil)
		path.life = liveness{since: now}
		path.next = now.Add(time.Duration(p.random.Float64() * p.stretch * float64(path.every())))
		path.wake = path.next
		heap.Push(&p.due, path)
	}
}

func (p *Prober) stop(now time.Time, path *path) {
	if path.index >= 0 {
		heap.Remove(&p.due, path.index)
		path.life = liveness{since: now}
		p.turned = true
	}
	path.ring = nil
	path.judge, path.classes = newJudge(path.SLA), newClassJudges(path.Classes, nil)
	delete(p.asking, path)
}

// Use says which tunnels carry traffic of those that have alternatives.
func (p *Prober) Use(now time.Time, inUse func(tunnel string) bool) {
	for _, path := range p.paths {
		if use := inUse(path.Tunnel); use != path.inUse {
			path.inUse = use
			if soon := now.Add(path.every()); path.index >= 0 && path.next.After(soon) {
				path.next = soon
				p.schedule(path)
			}
		}
	}
}

// Due returns the probes to be sent now. Their times vary by a quarter of the interval,
// so that they neither meet those of others nor follow what is regular on the path (RFC
// 2330, Section 11.1.1). The caller may hold them back for a moment to have several at once.
// Afterwards Asks may be true.
func (p *Prober) Due(now time.Time) []Packet {
	var out []Packet
	for len(p.due) > 0 && !p.due[0].wake.After(now) {
		path := p.due[0]
		if path.Fast != 0 {
			out = p.watch(now, path, out)
		}
		if !path.next.After(now) {
			out = append(out, p.send(now, path, false))
			vary := 0.75 + p.random.Float64()/2
			if path.Fast != 0 {
				vary = 1 - fastVary + 2*fastVary*p.random.Float64()
			}
			path.next = now.Add(time.Duration(vary * p.stretch * float64(path.every())))
		}
		p.schedule(path)
	}
	return out
}

func (p *Prober) send(now time.Time, path *path, extra bool) Packet {
	t := path.ring.send(now, p.random.Uint32(), extra)
	return Packet{path.Local, path.Remote, t.append(make([]byte, 0, packetLen))}
}

// watch does what is due for the liveness of a path.
func (p *Prober) watch(now time.Time, path *path, out []Packet) []Packet {
	l := &path.life
	known := !path.answered.IsZero()
	p.turn(path, l.decide(now, path.ring, known))
	if path.Metered {
		l.doubt = time.Time{}
	}
	if !l.silent.IsZero() && !l.silent.After(now) {
		l.silences++
		if l.listen(now); known && l.state == Alive {
			p.turn(path, l.suspect(now))
		}
	}
	if l.extra.IsZero() || l.extra.After(now) {
		return out
	}
	if !p.admit(now, l.quick > 0) {
		l.extra = now.Add(extraRetry)
		return out
	}
	if l.quick > 0 || now.Before(l.doubt) {
		out = append(out, p.send(now, path, true))
	}
	l.sentExtra(now, path.ring.next-1)
	return out
}

// admit says whether there is room for an extra probe.
func (p *Prober) admit(now time.Time, quick bool) bool {
	if elapsed := now.Sub(p.filled); elapsed > 0 {
		p.room, p.filled = min(extraBurst, p.room+extraRate*elapsed.Seconds()), now
	}
	if p.room < 1 || !quick && p.room < extraBurst/2 {
		return false
	}
	p.room--
	return true
}

// turn notes that a path may have turned, or asks something.
func (p *Prober) turn(path *path, turned bool) {
	p.turned = p.turned || turned
	if path.life.asks != noQuestion {
		p.asking[path] = true
	} else {
		delete(p.asking, path)
	}
}

// schedule puts a path to its place in the queue.
func (p *Prober) schedule(path *path) {
	path.wake = path.next
	if path.Fast != 0 {
		if at := path.life.wake(path.ring); !at.IsZero() && at.Before(path.wake) {
			path.wake = at
		}
	}
	heap.Fix(&p.due, path.index)
}

// Next is when Due has something to do; zero: never.
func (p *Prober) Next() time.Time {
	if len(p.due) == 0 {
		return time.Time{}
	}
	return p.due[0].wake
}

// Take takes in what came from remote to local. It is false, and nothing changed, if that
// answers no probe.
func (p *Prober) Take(now time.Time, local, remote netip.Addr, payload []byte) bool {
	a, err := parseAnswer(payload)
	if err != nil {
		return false
	}
	path := p.paths[ends{local, remote}]
	if path == nil || path.ring == nil || !path.ring.take(now, a) {
		return false
	}
	sent := path.ring.slot(a.Test.Sequence).at
	if sent.After(path.answered) {
		path.answered = sent
	}
	if path.Fast != 0 {
		p.turn(path, path.life.answer(now, sent))
	}
	return true
}

// Heard takes in that a probe of the peer came from remote to local.
func (p *Prober) Heard(now time.Time, local, remote netip.Addr) {
	if p.stretch == 1 {
		return
	}
	if path := p.paths[ends{local, remote}]; path != nil && path.Fast != 0 && path.index >= 0 {
		path.life.heardProbe(now)
		p.schedule(path)
	}
}

// Asks says whether Hear is to be called, soon and with counters that are read for it.
func (p *Prober) Asks() bool { return len(p.asking) > 0 }

// Hear takes in how many packets were received by each tunnel's SAs: one whose probes are
// lost while others arrive is not dead. Of tunnels that are not in received nothing is
// known, and their probes alone count.
func (p *Prober) Hear(now time.Time, received map[string]uint64) {
	for path := range p.asking {
		p.turn(path, path.life.hear(now, received[path.Tunnel]))
		p.schedule(path)
	}
}

// Turned says whether the state of any path changed since it was called last.
func (p *Prober) Turned() bool {
	turned := p.turned
	p.turned = false
	return turned
}

// Lives is what is known of the paths with alternatives, by tunnel.
func (p *Prober) Lives(now time.Time) map[string]Life {
	out := map[string]Life{}
	for _, path := range p.paths {
		if path.Fast == 0 {
			continue
		}
		l := Life{State: path.life.state, Since: path.life.since, RTT: path.life.rtt}
		if path.ring != nil {
			l.Probes, l.Lost = path.life.recent(now, path.ring)
		}
		l.Outside = path.outside()
		out[path.Tunnel] = l
	}
	return out
}

// Answered is when the last probe of a tunnel that was answered was sent, zero if none was,
// and how often one is sent; zero: the tunnel is not probed.
func (p *Prober) Answered(tunnel string) (last time.Time, every time.Duration) {
	path := p.byName[tunnel]
	if path == nil {
		return time.Time{}, 0
	}
	return path.answered, time.Duration(p.stretch * float64(path.Interval))
}

// Judge holds the paths against their limits.
func (p *Prober) Judge(now time.Time) {
	for _, path := range p.paths {
		if path.ring == nil || len(path.judge.limits) == 0 && len(path.classes) == 0 {
			continue
		}
		q := path.ring.quality(now)
		path.judge.look(now, q)
		for i := range path.classes {
			path.classes[i].look(now, q)
		}
	}
}

// Quality is what is known of a tunnel; nil: nothing.
func (p *Prober) Quality(now time.Time, tunnel string) *swanherdv1.PathQuality {
	path := p.byName[tunnel]
	if path == nil || path.ring == nil {
		return nil
	}
	return path.ring.quality(now)
}

// Violations are the limits that the path of a tunnel is over.
func (p *Prober) Violations(tunnel string) []*swanherdv1.SlaViolation {
	path := p.byName[tunnel]
	if path == nil {
		return nil
	}
	return path.judge.violations()
}

// queue is a heap of paths by when they are due.
type queue []*path

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].wake.Before(q[j].wake) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push implements heap.Interface, as Pop does.
func (q *queue) Push(x any) {
	path := x.(*path)
	path.index = len(*q)
	*q = append(*q, path)
}

// Pop takes the last.
func (q *queue) Pop() any {
	last := len(*q) - 1
	path := (*q)[last]
	(*q)[last] = nil
	*q, path.index = (*q)[:last], -1
	return path
}
