package ike

import (
	"errors"
	"time"
)

// minStable is how long an IKE SA must have lived for its loss not to count as
// a failure that delays the next attempt.
const minStable = time.Minute

// attempts are what a tunnel does to have an IKE SA.
type attempts struct {
	wanted    bool // between Connect and Disconnect
	closing   bool // Disconnect is under way
	failures  int
	wasUp     bool
	pair      int       // of addresses that the next attempt is made between
	connectAt time.Time // of the next attempt, zero if none is planned
	doubtAt   time.Time // earliest next doubtPeer
	lastError *Error
}

func (t *Tunnel) connect() {
	if t.wanted && !t.closing {
		return
	}
	t.wanted, t.closing = true, false
	t.failures = 0
	t.setPolicies(t.cfg.Children)
	t.attempt()
}

func (t *Tunnel) report(err *Error) {
	t.complete(err, "")
	t.lastError = err
	t.emit(Failed{Err: err})
}

// recovered forgets the last failure when what it was about works again. One
// without a Child SA may have been about this one.
func (t *Tunnel) recovered(child string) {
	if e := t.lastError; e != nil && (e.Child == "" || e.Child == child) {
		t.lastError = nil
	}
}

// noteExpiry keeps the reason for the loss of an SA that nothing has replaced,
// unless the failure that led there is known.
func (t *Tunnel) noteExpiry(what, child string) {
	if t.lastError != nil {
		return
	}
	t.lastError = &Error{Op: what, Kind: KindExpired, Err: errNotReplaced}
	t.complete(t.lastError, child)
}

var errNotReplaced = errors.New("its lifetime ended before it was replaced")

func (t *Tunnel) mayInitiate() bool {
	return t.cfg.Role != RoleResponder && t.cfg.Remote.Addr().IsValid()
}

// planConnection begins an attempt if one is due, and plans one if the tunnel
// is without any IKE SA that lives or is being made.
func (t *Tunnel) planConnection() bool {
	if !t.wanted || t.closing || !t.mayInitiate() && !t.mayTakeOver() {
		t.connectAt = time.Time{}
		return false
	}
	for _, sa := range t.sas {
		if sa.alive() || sa.initiator && sa.state.in(stateInit|stateIntermediate|stateAuth) {
			t.connectAt = time.Time{}
			return false
		}
	}
	if t.connectAt.IsZero() {
		failures := t.failures
		if t.timing.Eager > 0 && !t.wasUp {
			failures = max(failures-1, 0)
		}
		delay := t.backoff(failures / len(t.pairs()))
		if !t.mayInitiate() {
			delay = t.takeOverDelay()
		}
		t.connectAt = t.now.Add(delay)
	}
	if t.now.Before(t.connectAt) {
		return false
	}
	t.connectAt = time.Time{}
	t.initiate(nil)
	return true
}

// backoff is a uniformly random time below a bound that doubles with each
// failure ("full jitter"), so that peers that lost a hub together do not come back
// together.
func (t *Tunnel) backoff(failures int) time.Duration {
	bound := t.timing.ReconnectMax
	if failures < 16 {
		bound = min(bound, t.timing.ReconnectBase<<failures)
	}
	return t.jitter(bound)
}

// disconnect deletes everything with the peer's knowledge.
func (t *Tunnel) disconnect() {
	t.wanted, t.closing = false, true
	t.deleteAll()
}

// deleteAll deletes all SAs with the peer's knowledge.
func (t *Tunnel) deleteAll() {
	t.dropTicket(true)
	t.connectAt = time.Time{}
	for _, sa := range t.sas {
		switch {
		case sa.state.in(stateLarval):
			sa.die()
		case sa.state.in(stateEstablished | stateRekeyed):
			sa.abandonOutstanding()
			sa.end(ReasonDeletedByUs)
		}
	}
}

// abandonOutstanding makes room for a last request. The answer to the one that
// is out is not waited for; its message ID is not used again.
func (sa *ikeSA) abandonOutstanding() {
	if sa.window.outstanding != nil && sa.window.outstanding.tries > 0 {
		// The peer may be gone. Do not make the end wait for it.
		sa.window.outstanding.tries = max(sa.window.outstanding.tries, sa.window.outstanding.pace.Tries-1)
	}
}

func (t *Tunnel) onlyLingering() bool {
	for _, sa := range t.sas {
		if sa.state != stateLingering {
			return false
		}
	}
	return true
}

func (t *Tunnel) finishClosing() {
	t.closing = false
	for _, sa := range t.sas {
		sa.die()
	}
	for _, c := range t.children {
		if c.state != childDead {
			t.dropChild(c)
		}
	}
	t.reap()
	t.removePolicies(t.cfg.Children)
	t.emit(Closed{})
}

// established makes sa carry the tunnel.
func (t *Tunnel) establish(sa *ikeSA) {
	sa.state = stateEstablished
	sa.notePPK()
	sa.wantRekey = !t.agreedOn(sa) && !sa.redundant
	sa.established = t.now
	sa.hears(t.now)
	sa.origin = origin{sa.initiator, sa.begun, sa.established, sa.lowestNonce}
	sa.firstPlace()
	t.pair = 0
	sa.endAt = time.Time{}
	sa.link.originator = sa.initiator
	if p, ok := sa.preferred(true); ok && p != sa.route {
		sa.testAt = t.now.Add(homeInterval)
	}
	t.setIKELifetime(sa)
	sa.refreshSoon()
	t.setAuthLifetime(sa)
	t.connectAt, t.wasUp = time.Time{}, true
	t.lastError = nil
	t.pathMTU.soon(t)
	t.emit(IKEUp{sa.status()})
}

// beforeDelete takes the Child SAs of an IKE SA that is about to be deleted out
// of use. If another IKE SA carries on, they still accept what is under way.
func (t *Tunnel) beforeDelete(sa *ikeSA) {
	for _, c := range t.childrenOf(sa) {
		t.lingerOrRemove(c, sa.reason)
	}
}

func (t *Tunnel) childrenOf(sa *ikeSA) []*childSA {
	var out []*childSA
	for _, c := range t.children {
		if c.ike == sa && c.known() {
			out = append(out, c)
		}
	}
	return out
}

// ikeDown ends an IKE SA that was established, and its Child SAs.
func (t *Tunnel) ikeDown(sa *ikeSA, why Reason) {
	t.endIKE(sa, why)
	sa.die()
}

// endIKE does what is due when an established IKE SA ends, whether it dies or
// lingers.
func (t *Tunnel) endIKE(sa *ikeSA, why Reason) {
	if why == 0 {
		why = ReasonDeletedByUs
	}
	was := sa.status()
	replaced := sa.state == stateRekeyed || sa.replaced
	sa.endTickets(why)
	sa.abandonTask()
	for _, c := range t.childrenOf(sa) {
		if t.hasLiveElsewhere(c) {
			t.lingerChild(c, why)
		} else {
			t.removeChild(c, ReasonIKEClosed)
		}
	}
	t.forgetPassive(sa)
	if replaced {
		return
	}
	if t.now.Sub(sa.established) >= minStable {
		t.failures = 0
	} else {
		t.failures++
	}
	t.emit(IKEDown{was, why})
}

// hasLiveElsewhere reports whether a Child SA of the same name lives under
// another IKE SA.
func (t *Tunnel) hasLiveElsewhere(c *childSA) bool {
	for _, o := range t.children {
		if o.name == c.name && o.ike != c.ike && o.live() {
			return true
		}
	}
	return false
}

// ikeFailed reports why an IKE SA cannot go on, and ends it.
func (t *Tunnel) ikeFailed(sa *ikeSA, why Reason, err *Error) {
	if sa.state == stateDead {
		return
	}
	larval := sa.state.in(stateLarval)
	if larval && t.rivals(sa) {
		sa.die() // not the peer's response, as far as one can tell
		return
	}
	if larval && sa.initiator && sa.init != nil && sa.init.resume != nil {
		t.resumeFailed(sa, why)
		return
	}
	t.report(err)
	if !larval {
		t.ikeDown(sa, why)
		return
	}
	if sa.initiator {
		t.failures++
	}
	t.retryReauth(sa)
	t.emitChildlessEnd(sa)
	sa.die()
}

// emitChildlessEnd takes away Child SAs of an IKE SA that never came up.
func (t *Tunnel) emitChildlessEnd(sa *ikeSA) {
	for _, c := range t.childrenOf(sa) {
		t.dropChild(c)
	}
}
