package ike

import "time"

// The controller assigns who begins a tunnel, so that the two ends do not cross
// each other. The end that is to wait does not wait for ever: when nothing has
// come for Timing.TakeOver it begins itself, if it knows where the peer is. Each
// attempt that fails costs it the same wait again, so that the peer's own
// attempt finds the way free, and the next time the tunnel is lost it is the
// peer's turn again. Should both begin, resolveDuplicates decides as always.

// mayTakeOver reports whether this end, which is to wait for the peer, begins
// itself after a while.
func (t *Tunnel) mayTakeOver() bool {
	// Who is to be given an address has to ask for it.
	return t.cfg.Role == RoleResponder && t.cfg.Remote.Addr().IsValid() && t.timing.TakeOver > 0 && t.cfg.InternalOffer == nil
}

// takeOverDelay is the wait for the peer, varied by a quarter: responders that
// lost a hub together do not take over together.
func (t *Tunnel) takeOverDelay() time.Duration {
	return t.timing.TakeOver + t.jitter(t.timing.TakeOver/4)
}

// attempt begins a connection at once if that is this end's part. A responder
// gives the peer the time that it has anyway.
func (t *Tunnel) attempt() {
	t.connectAt = time.Time{}
	if t.mayInitiate() {
		t.connectAt = t.now
	}
}

// attemptForTraffic is attempt where packets wait: a responder shortens its
// patience.
func (t *Tunnel) attemptForTraffic() {
	at := t.now
	if !t.mayInitiate() {
		at = at.Add(min(responderDelay, t.timing.TakeOver))
	}
	if t.connectAt.IsZero() || at.Before(t.connectAt) {
		t.connectAt = at
	}
}

// renew replaces an IKE SA that a new configuration has outdated when it is time for
// that: this end's part, or that of a peer that was to do so and did not.
func (t *Tunnel) renew(sa *ikeSA) {
	if !t.due(sa.renewAt) {
		return
	}
	sa.renewAt = time.Time{}
	switch {
	case sa != t.primary() || !t.wanted || t.isReplacing(sa):
	case t.mayInitiate() || t.mayTakeOver():
		t.initiate(sa)
	case sa.outdated:
		sa.wantTell, sa.askedAuth = true, true
	}
}
