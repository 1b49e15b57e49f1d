package engine

import (
	"net/netip"
	"sync"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ike"
)

// activityAge is how old what the data plane counted may be when a machine asks
// whether packets passed.
const activityAge = time.Second

// activity tells machines when packets last passed on the SAs of their tunnel.
// One snapshot of the plane's counters serves all who ask within activityAge, so
// the cost does not grow with how often they ask. It is a goroutine of its own,
// for a plane may have to ask the kernel.
type activity struct {
	plane dataplane.Plane

	mu     sync.Mutex
	wake   sync.Cond
	queue  []question // one for each tunnel at most, as machines wait for the answer
	closed bool

	// Of the goroutine.
	taken time.Time
	last  map[string]ike.Activity
}

// question is by whom something is asked, and to whom it is answered.
type question struct {
	tunnel string
	answer func(ike.Activity)
}

func newActivity(p dataplane.Plane) *activity {
	a := &activity{plane: p}
	a.wake.L = &a.mu
	return a
}

// ask queues a question without blocking.
func (a *activity) ask(q question) {
	a.mu.Lock()
	a.queue = append(a.queue, q)
	a.mu.Unlock()
	a.wake.Signal()
}

func (a *activity) close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.wake.Signal()
}

func (a *activity) run() {
	for {
		a.mu.Lock()
		for len(a.queue) == 0 && !a.closed {
			a.wake.Wait()
		}
		queue := a.queue
		a.queue = nil
		closed := a.closed
		a.mu.Unlock()
		if closed {
			return
		}
		a.look(time.Now())
		for _, q := range queue {
			q.answer(a.last[q.tunnel])
		}
	}
}

// look takes another snapshot if the last one is too old.
func (a *activity) look(now time.Time) {
	if a.last != nil && now.Sub(a.taken) < activityAge {
		return
	}
	if a.last == nil {
		a.last = map[string]ike.Activity{}
	}
	a.taken = now
	clear(a.last)
	for _, c := range a.plane.Counters() {
		x := a.last[c.Tunnel]
		switch {
		case c.Direction == dataplane.Inbound && c.LastUsed.After(x.Inbound):
			x.Inbound = c.LastUsed
		case c.Direction == dataplane.Outbound && c.LastUsed.After(x.Outbound):
			x.Outbound = c.LastUsed
		default:
			continue
		}
		a.last[c.Tunnel] = x
	}
}

// pathMTU is what the host knows of the path to remote, 0 if nothing.
func (e *Engine) pathMTU(remote netip.Addr) int {
	mtu, err := e.sender.PathMTU(remote)
	if err != nil {
		e.config.Logger.Debug("path MTU is not known", "remote", remote, "error", err)
		return 0
	}
	return mtu
}

// askActivity answers a machine when the plane has been asked.
func (t *tunnel) askActivity(eff ike.AskActivity) {
	m, s := t.machine, t.shard
	s.engine.activity.ask(question{t.name, func(a ike.Activity) {
		a.Token, a.PathMTU = eff.Token, s.engine.pathMTU(eff.Remote)
		s.post(func() {
			if t.machine == m {
				t.step(time.Now(), a)
			}
		})
	}})
}
