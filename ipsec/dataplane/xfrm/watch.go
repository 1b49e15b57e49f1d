package xfrm

import (
	"cmp"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

const (
	watchInterval = 100 * time.Millisecond
	// eventInterval is how often an event whose cause lasts is raised again.
	eventInterval = time.Second
	// askInterval is after how long a child that still waits for an SA asks again
	// if packets still come. The kernel itself would stay silent for 30 seconds, or
	// 165 where another IPsec daemon has set so (net.core.xfrm_acq_expires).
	askInterval = 3 * time.Second
	// An inbound SA is looked at for its first packet at once, and then after ever
	// longer waits: most are used soon, or not for long.
	firstLook, lastLook = watchInterval, 10 * time.Second
	// cpuInterval is how often the plane looks whether there are new CPUs.
	cpuInterval = 2 * time.Second
	// lookRound bounds how many are looked at in one round.
	lookRound = batchRequests
)

// watched is what the plane looks after because the kernel does not.
type watched struct {
	states   map[stateID]*association // all SAs, by what the kernel calls them
	unused   map[*association]*look   // inbound SAs that have received nothing yet
	expiring map[*association]*expiry // those that reached a limit
	asking   []asking                 // in the order of time
}

// look is when an SA is looked at next, and how long after that.
type look struct {
	due  time.Time
	wait time.Duration
}

// expiry is which limit was reached, and when that was last told.
type expiry struct {
	hard   bool
	toldAt time.Time
}

// asking is a child that has asked for an SA, and when it may again.
type asking struct {
	child *child
	again time.Time
}

func newWatched() watched {
	return watched{states: map[stateID]*association{}, unused: map[*association]*look{}, expiring: map[*association]*expiry{}}
}

func (p *Plane) watch(a *association) {
	p.states[a.stateID()] = a
	if a.Direction == dataplane.Inbound {
		p.unused[a] = &look{wait: firstLook}
	}
}

func (p *Plane) unwatch(a *association) {
	if id := a.stateID(); p.states[id] == a {
		delete(p.states, id)
	}
	delete(p.unused, a)
	delete(p.expiring, a)
}

// lookAfter runs until Close.
func (p *Plane) lookAfter() {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-p.done:
			return
		case now := <-tick.C:
			p.lookOnce(now)
		}
	}
}

func (p *Plane) lookOnce(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	if err := p.deleteRetired(func(r retired) bool { return now.Sub(r.since) > retireTime }); err != nil {
		p.logger.Warn("cannot remove an SA from the kernel", "error", err)
	}
	if !p.left.until.IsZero() && now.After(p.left.until) {
		p.endAdoption()
	}
	p.lookForUse(now)
	for a, e := range p.expiring {
		if now.Sub(e.toldAt) >= eventInterval {
			p.expired(a, e.hard, now)
		}
	}
	p.askAgain(now)
	p.dropKept(now)
	p.tellPathsAgain(now)
	p.audit(now)
	if now.Sub(p.cpusAt) >= cpuInterval {
		p.cpusAt = now
		p.lookForCPUs()
	}
	p.setTraps()
}

// due returns the SAs that are to be looked at now, those first that were looked at
// least, so that a new one does not wait for thousands that are idle.
func (w *watched) due(now time.Time) []*association {
	var out []*association
	for a, l := range w.unused {
		if !now.Before(l.due) {
			out = append(out, a)
		}
	}
	if len(out) > lookRound {
		slices.SortFunc(out, func(a, b *association) int {
			return cmp.Or(cmp.Compare(w.unused[a].wait, w.unused[b].wait), w.unused[a].due.Compare(w.unused[b].due))
		})
		out = out[:lookRound]
	}
	for _, a := range out {
		l := w.unused[a]
		l.due, l.wait = now.Add(l.wait), min(2*l.wait, lastLook)
	}
	return out
}

// lookForUse raises FirstInbound, which the kernel does not tell of.
func (p *Plane) lookForUse(now time.Time) {
	due := p.due(now)
	requests := make([]request, 0, len(due))
	for _, a := range due {
		requests = append(requests, a.stateID().ask(nl.XFRM_MSG_GETSA))
	}
	for i, answer := range p.kernel.send(requests...) {
		f, err := decodeState(answer.body)
		clear(answer.body) // it has the keys
		if answer.err == nil && err == nil && f.used.Packets > 0 && p.raise(due[i].event(dataplane.FirstInbound)) {
			delete(p.unused, due[i])
		}
	}
}

// expired raises what a limit asks for that was reached. The kernel tells it once;
// here it is raised again while the SA is there.
func (p *Plane) expired(a *association, hard bool, now time.Time) {
	e := p.expiring[a]
	if e == nil {
		e = &expiry{}
		p.expiring[a] = e
	}
	e.hard = e.hard || hard
	kind := dataplane.SoftExpire
	if e.hard {
		kind = dataplane.HardExpire
	}
	if p.raise(a.event(kind)) {
		e.toldAt = now
	}
}

// askAnew gives the policies of a child that waits for an SA another request ID. What
// the kernel keeps for the earlier one, so as not to ask again, is of no concern then.
func (p *Plane) askAnew(c *child) {
	delete(p.given, c.idle)
	c.idle, c.asked = p.newRequest(), false
}

// askAgain does so for the children whose time has come.
func (p *Plane) askAgain(now time.Time) {
	for len(p.asking) > 0 && !now.Before(p.asking[0].again) {
		c := p.asking[0].child
		p.asking = p.asking[1:]
		if !c.asked || c.trap != nil || p.children[c.childKey] != c {
			continue
		}
		p.askAnew(c)
		if err := p.program(c); err != nil {
			p.logger.Warn("a child cannot ask for an SA again", "tunnel", c.tunnel, "child", c.name, "error", err)
		}
	}
}
