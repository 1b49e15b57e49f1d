package ike

import (
	"fmt"
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// task is one concern that needs an exchange of ours. It asks the window to
// send its request and gets the response; it has no access to sockets and
// timers. An IKE SA has at most one active task, because the window is one
// (RFC 7296, Section 2.3).
type task interface {
	// start builds and sends the request. If there is nothing to do after all,
	// it calls finish.
	start()
	// abandon is called when the IKE SA ends or is replaced first.
	abandon()
}

// Tasks are not queued. What is to be done is noted where it belongs, on the
// IKE SA or the Child SA, and the next task is chosen from those notes when the
// window is free: so no task is stale by the time it starts. The order below
// is their priority.

// startTask begins the next task of sa, if it has one and is free.
func (t *Tunnel) startTask(sa *ikeSA) bool {
	if sa.busy > 0 || sa.active != nil || sa.window.outstanding != nil || len(sa.inbox) > 0 {
		t.hurry(sa)
		return false
	}
	next := t.nextTask(sa)
	if next == nil {
		return false
	}
	sa.active = next
	next.start()
	return true
}

func (t *Tunnel) nextTask(sa *ikeSA) task {
	switch {
	case !sa.state.in(stateEstablished | stateRekeyed):
		return nil
	}
	if sa.yields && t.mayYield(sa) {
		sa.yields = false
		sa.end(ReasonRedundant)
	}
	sa.expel() // one that was still in the making when its peer was found out
	switch {
	case sa.wantDelete:
		return &deleteIKETask{sa}
	case sa.state == stateRekeyed:
		return nil
	}
	if next := t.pathTask(sa); next != nil {
		return next
	}
	held := sa.peerRekeysIKE()
	if doomed := t.doomedChildren(sa); !held && (len(doomed) > 0 || len(sa.orphans) > 0) {
		return &deleteChildTask{sa: sa, children: doomed}
	}
	if sa.wantToken {
		return &tokenTask{sa}
	}
	if sa.wantSet {
		return &setTask{sa}
	}
	if sa.wantRedirect {
		return &redirectTask{sa}
	}
	if sa.wantTicket && sa == t.primary() {
		return &ticketTask{sa}
	}
	if !held && sa == t.primary() {
		if next := t.primaryTask(sa); next != nil {
			return next
		}
	}
	if sa.wantProbe {
		return &probeTask{sa}
	}
	if sa.strange != 0 {
		return &tellTask{sa}
	}
	// Where something else waits for what the peer is doing, a probe would be hurried at
	// once, and so would the next.
	if t.pathMTU.want && t.searches(sa) && !t.hasOtherTask(sa) {
		return t.searchTask(sa)
	}
	return nil
}

// primaryTask chooses among the tasks that only the IKE SA in charge may start.
func (t *Tunnel) primaryTask(sa *ikeSA) task {
	if cfg := t.missingChild(sa); cfg != nil {
		return &createChildTask{sa: sa, cfg: cfg}
	}
	for _, c := range t.children {
		if c.ike == sa && c.wantRekey && c.state == childInstalled && c.live() && c.passive == nil {
			c.wantRekey = false
			if cfg := t.cfg.child(c.name); cfg != nil {
				return newRekeyChildTask(sa, c, cfg)
			}
		}
	}
	if sa.wantTell {
		return &lifetimeTask{sa}
	}
	if sa.wantRekey {
		sa.wantRekey = false
		if t.leaveTCP(sa) {
			return nil
		}
		return &rekeyIKETask{old: sa}
	}
	return nil
}

func (t *Tunnel) doomedChildren(sa *ikeSA) []*childSA {
	var doomed []*childSA
	for _, c := range t.children {
		if c.ike == sa && c.wantDelete && (c.state == childInstalled || c.state == childReplaced) {
			doomed = append(doomed, c)
		}
	}
	return doomed
}

// missingChild returns a configured Child SA that should exist and does not.
func (t *Tunnel) missingChild(sa *ikeSA) *ChildConfig {
	if !t.wanted || t.closing || sa.awaitsRequest() {
		return nil
	}
	for i := range t.slots {
		s, cfg := &t.slots[i], &t.cfg.Children[i]
		if t.hasLive(s.name) || sa.peerMakesChild(s.name) {
			continue
		}
		if cfg.queue > 0 && !sa.wantsFurther(cfg) || cfg.queue == 0 && cfg.Start == StartOnTraffic && !s.acquired {
			continue
		}
		at := s.notBefore
		if !sa.initiator && at.IsZero() && !s.acquired {
			if s.yield.IsZero() {
				s.yield = t.now.Add(responderDelay)
			}
			at = s.yield
		}
		if !t.now.Before(at) {
			return cfg
		}
	}
	return nil
}

// finish ends the active task; the next one starts when the step is over.
func (sa *ikeSA) finish() { sa.active = nil }

// abandonTask ends the active task because the IKE SA cannot go on with it.
func (sa *ikeSA) abandonTask() {
	if a := sa.active; a != nil {
		sa.active = nil
		a.abandon()
	}
}

// ask sends a request of the active task.
func (sa *ikeSA) ask(exchange wire.ExchangeType, payloads []wire.Payload, handle func(*message)) {
	sa.askOver(route{}, exchange, payloads, handle)
}

// askOver is ask for a request that tests a path, or sa.path if test is zero.
func (sa *ikeSA) askOver(test route, exchange wire.ExchangeType, payloads []wire.Payload, handle func(*message)) {
	if err := sa.requestOver(test, exchange, payloads, handle); err != nil {
		sa.fail(&Error{Op: "encode " + exchange.String(), Kind: KindInternal, Exchange: exchange, Err: err})
	}
}

// deleteIKETask deletes an IKE SA and with it its Child SAs (RFC 7296, Section
// 1.4.1).
type deleteIKETask struct{ sa *ikeSA }

func (d *deleteIKETask) start() {
	sa := d.sa
	sa.wantDelete = false
	sa.dropSeries()
	sa.replaced = sa.replaced || sa.state == stateRekeyed
	sa.t.beforeDelete(sa)
	var payloads []wire.Payload
	if sa.farewell != 0 {
		payloads = append(payloads, &wire.Notify{Kind: sa.farewell})
	}
	payloads = append(payloads, &wire.Delete{Protocol: wire.ProtocolIKE})
	sa.ask(wire.ExchangeInformational, payloads, func(*message) {
		sa.finish()
		sa.t.ikeDown(sa, sa.reason)
	})
	if sa.state != stateDead {
		sa.state = stateDeleting
	}
}

func (d *deleteIKETask) abandon() {}

// deleteChildTask deletes Child SAs.
type deleteChildTask struct {
	sa       *ikeSA
	children []*childSA
	orphans  []childSPI // see ikeSA.orphans
}

func (d *deleteChildTask) start() {
	d.orphans, d.sa.orphans = d.sa.orphans, nil
	spis := slices.Clone(d.orphans)
	for _, c := range d.children {
		c.state, c.wantDelete = childDeleting, false
		spis = append(spis, childSPI{c.suite.Protocol(), c.inbound})
		if next := c.t.successor(c); next != nil {
			c.t.promote(next)
		}
	}
	d.sa.ask(wire.ExchangeInformational, deletes(spis), d.answered)
}

// answered ends the Child SAs, whatever the peer says: a Delete payload in the
// answer names the other direction, and is missing if both ends deleted at the
// same time (RFC 7296, Section 1.4.1).
func (d *deleteChildTask) answered(*message) {
	d.sa.finish()
	for _, c := range d.children {
		if c.state == childDeleting {
			c.t.lingerOrRemove(c, c.reason)
		}
	}
}

func (d *deleteChildTask) abandon() {
	for _, c := range d.children {
		if c.state == childDeleting {
			c.state, c.wantDelete = childInstalled, true
		}
	}
}

// orphan makes the peer delete a Child SA that it has and we do not.
func (sa *ikeSA) orphan(protocol wire.ProtocolID, inbound uint32) {
	if len(sa.orphans) < 16 {
		sa.orphans = append(sa.orphans, childSPI{protocol, inbound})
	}
}

// lingerOrRemove ends a Child SA: one that is replaced accepts late packets for a
// while, others stop at once (RFC 7296, Section 1.4.1).
func (t *Tunnel) lingerOrRemove(c *childSA, why Reason) {
	if c.replacedBy != nil || c.rekey != nil || t.hasOther(c) {
		t.lingerChild(c, why)
		return
	}
	t.removeChild(c, why)
}

// hasOther reports whether another Child SA of the name of c lives.
func (t *Tunnel) hasOther(c *childSA) bool {
	return slices.ContainsFunc(t.children, func(o *childSA) bool { return o != c && o.name == c.name && o.live() })
}

// unanswered gives up an IKE SA whose request got no response.
func (t *Tunnel) unanswered(sa *ikeSA) {
	o := sa.window.outstanding
	if o.probe {
		t.pathMTU.unanswered(t)
	}
	err := &Error{Exchange: o.exchange, Err: fmt.Errorf("%w from %s after %d tries", ErrNoAnswer, sa.remote, o.tries+1)}
	if sa.tcp {
		err = &Error{Exchange: o.exchange, Err: fmt.Errorf("%w from %s by TCP", ErrNoAnswer, sa.remote), Remedy: remedyTCP}
	}
	if sa.init != nil && sa.init.hint != nil {
		err = sa.init.hint
	}
	switch {
	case sa.state.in(stateRekeyed|stateDeleting) || sa.redundant:
		t.ikeDown(sa, sa.reason)
	case sa.rekey != nil && sa.rekey.passive != nil && sa.rekey.passive.alive():
		// The peer's own rekeying went through meanwhile.
		t.replaceIKE(sa, sa.rekey.passive)
		t.ikeDown(sa, ReasonPeerDead)
	default:
		t.ikeFailed(sa, ReasonPeerDead, err)
	}
}

// refusals are the answers TEMPORARY_FAILURE to requests of ours, one after the
// other.
type refusals struct{ first, last time.Time }

const (
	// outOfSyncTime is how long TEMPORARY_FAILURE is believed to be temporary
	// (RFC 7296, Section 2.25: several minutes).
	outOfSyncTime = 3 * time.Minute
	// refusalGap between two refusals says that they have nothing to do with
	// each other: one tries again sooner.
	refusalGap = time.Minute
)

// refusedForNow notes TEMPORARY_FAILURE. If the peer has said nothing else for
// minutes, the ends are out of step, and the IKE SA is closed (RFC 7296, Section
// 2.25).
func (sa *ikeSA) refusedForNow(err *Error) {
	now, r := sa.m.now, &sa.refused
	if now.Sub(r.last) > refusalGap {
		r.first = now
	}
	r.last = now
	if now.Sub(r.first) >= outOfSyncTime {
		sa.t.report(err)
		sa.end(ReasonOutOfSync)
	}
}

// retryDelay is how long to wait after TEMPORARY_FAILURE (RFC 7296, Section 2.25):
// 5 to 15 seconds.
func (m *machine) retryDelay() time.Duration { return 5*time.Second + m.jitter(10*time.Second) }
