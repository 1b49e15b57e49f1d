package probe

import (
	"container/heap"
	"math/rand/v2"
	"net/netip"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// maxRate bounds the probes that one end sends in a second, all tunnels together.
const maxRate = 1000

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
}

// path is what is known of one.
type path struct {
	Path
	next  time.Time
	index int // in the queue; -1: not in it
	// answered is when the last probe that was answered was sent; zero: none was.
	answered time.Time
	ring     *ring
	judge    judge
}

// NewProber returns a Prober without paths; seed makes its times unpredictable.
func NewProber(seed [32]byte) *Prober {
	return &Prober{random: rand.New(rand.NewChaCha8(seed)), paths: map[ends]*path{}, byName: map[string]*path{}, stretch: 1}
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
		have.Path = want
		paths[key], byName[want.Tunnel] = have, have
	}
	for key, old := range p.paths {
		if paths[key] != old {
			p.stop(old)
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
			p.stop(path)
			continue
		}
		rate += float64(time.Second) / float64(path.Interval)
		if path.index < 0 {
			begin = append(begin, path)
		}
	}
	p.stretch = max(1, rate/maxRate)
	for _, path := range begin {
		path.ring = &ring{}
		path.judge = newJudge(path.SLA)
		path.next = now.Add(time.Duration(p.random.Float64() * p.stretch * float64(path.Interval)))
		heap.Push(&p.due, path)
	}
}

func (p *Prober) stop(path *path) {
	if path.index >= 0 {
		heap.Remove(&p.due, path.index)
	}
	path.ring = nil
	path.judge = newJudge(path.SLA)
}

// Due returns the probes to be sent now. Their times vary by a quarter of the interval,
// so that they neither meet those of others nor follow what is regular on the path (RFC
// 2330, Section 11.1.1). The caller may hold them back for a moment to have several at once.
func (p *Prober) Due(now time.Time) []Packet {
	var out []Packet
	for len(p.due) > 0 && !p.due[0].next.After(now) {
		path := p.due[0]
		t := path.ring.send(now, p.random.Uint32())
		out = append(out, Packet{path.Local, path.Remote, t.append(make([]byte, 0, packetLen))})
		vary := 0.75 + p.random.Float64()/2
		path.next = now.Add(time.Duration(vary * p.stretch * float64(path.Interval)))
		heap.Fix(&p.due, 0)
	}
	return out
}

// Next is when the next probe is due; zero: none is.
func (p *Prober) Next() time.Time {
	if len(p.due) == 0 {
		return time.Time{}
	}
	return p.due[0].next
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
	if sent := path.ring.slot(a.Test.Sequence).at; sent.After(path.answered) {
		path.answered = sent
	}
	return true
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
		if path.ring != nil && len(path.judge.limits) > 0 {
			path.judge.look(now, path.ring.quality(now))
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
func (q queue) Less(i, j int) bool { return q[i].next.Before(q[j].next) }
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
