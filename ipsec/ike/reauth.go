package ike

import (
	"encoding/binary"
	"time"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// Reauthentication makes a new IKE SA from scratch beside the one that is there,
// and deletes that one when the new one carries the same Child SAs (RFC 7296,
// Section 2.8.3): make before break. resolveDuplicates and handedOver do the
// second half; here is what begins it.
//
// Either end may begin. By time it is the original initiator, because of its
// own configuration or because the responder told it how long its proof is good
// for (RFC 4478); if it does not, the responder does so if it may begin at all,
// and in the end deletes the IKE SA.

// minReauth is the least time between a proof of identity and the next that a peer
// can demand. RFC 4478, Section 3, finds less than 300 s unreasonable.
const minReauth = 30 * time.Second

// proofState is what is still to be done about the identities of an IKE SA. The one
// that replaces it goes on with that.
type proofState struct {
	wantVerify bool // the peer's certificates, again
	verifying  bool // a job does so
	wantReauth bool
	wantTell   bool // AUTH_LIFETIME to the peer
	askedAuth  bool // the peer, to authenticate at once
}

// inherit takes over what was to be done on another IKE SA.
func (p *proofState) inherit(old *proofState) {
	p.wantVerify = old.wantVerify || old.verifying
	p.wantReauth, p.wantTell, p.askedAuth = old.wantReauth, old.wantTell, old.askedAuth
}

// setAuthLifetime begins the time that the proof of the peer is good for.
func (t *Tunnel) setAuthLifetime(sa *ikeSA) {
	e := sa.evidence
	if e == nil {
		return
	}
	e.reauthAt, e.endAt = time.Time{}, time.Time{}
	life := t.timing.Reauth
	if life <= 0 {
		return
	}
	soft, hard := t.lifetime(life, sa.origin.initiator)
	passed := sa.sinceProof()
	e.reauthAt, e.endAt = soft.Add(-passed), hard.Add(-passed)
}

// sinceProof is how long ago the two ends proved their identities to each other: a
// resumed IKE SA goes on with the proof of the session.
func (sa *ikeSA) sinceProof() time.Duration {
	if sa.proved.IsZero() {
		return 0
	}
	return max(sa.m.outside(sa.m.now).Sub(sa.proved), 0)
}

// changeAuthLifetime does what is due when the configured time is another.
func (t *Tunnel) changeAuthLifetime() {
	sa := t.primary()
	if sa == nil {
		return
	}
	t.setAuthLifetime(sa)
	sa.wantTell = !sa.origin.initiator && t.timing.Reauth > 0
}

// lifetimeNotify tells an initiator by when it has to authenticate again (RFC
// 4478, Section 3), if that is configured.
func (sa *ikeSA) lifetimeNotify() []wire.Payload {
	if sa.m.timing.Reauth <= 0 {
		return nil
	}
	return []wire.Payload{authLifetime(sa.m.timing.Reauth - sa.sinceProof())}
}

// authLifetime is the AUTH_LIFETIME notification.
func authLifetime(left time.Duration) *wire.Notify {
	seconds := min(max(left/time.Second, 0), 1<<32-1)
	return &wire.Notify{Kind: wire.NotifyAuthLifetime, Data: binary.BigEndian.AppendUint32(nil, uint32(seconds))}
}

// obeyLifetime plans to authenticate again before the time ends that the
// responder gives. A tenth is kept for that, and a random part more, so that
// the peers of one responder do not all come at once. Only the original
// initiator has to (RFC 4478, Section 2).
func (sa *ikeSA) obeyLifetime(m *message) {
	n, e := m.notify(wire.NotifyAuthLifetime), sa.evidence
	if n == nil || len(n.Data) != 4 || e == nil || !sa.origin.initiator {
		return
	}
	left := time.Duration(be32(n.Data)) * time.Second
	at := sa.m.now.Add(left - left/10 - sa.m.jitter(left/10))
	if least := sa.origin.established.Add(minReauth); at.Before(least) {
		at = least
	}
	e.askedAt = at
}

// mayReplaceAt is when a new IKE SA may be begun in place of sa: when the other
// end has surely established it, too. Otherwise that end would take the new one for
// one that crossed the old one, and this end would not.
func (sa *ikeSA) mayReplaceAt() time.Time { return sa.origin.established.Add(confirmTime) }

// authAt is when an authentication is next due, or its end; zero for never.
func (sa *ikeSA) authAt() time.Time {
	if sa.evidence == nil || !sa.alive() || sa.redundant {
		return time.Time{}
	}
	var e earliest
	if at := sa.mayReplaceAt(); sa.wantReauth && at.After(sa.m.now) {
		e.add(at)
	}
	e.add(sa.evidence.reauthAt)
	e.add(sa.evidence.askedAt)
	e.add(sa.evidence.endAt)
	return e.at
}

// tickAuth turns the moments that have come into wishes.
func (t *Tunnel) tickAuth(sa *ikeSA) {
	if !t.due(sa.authAt()) {
		return
	}
	e := sa.evidence
	if t.due(e.reauthAt) || t.due(e.askedAt) {
		e.reauthAt, e.askedAt = time.Time{}, time.Time{}
		sa.wantReauth = true
	}
	if t.due(e.endAt) {
		e.endAt = time.Time{}
		t.noteExpiry("authentication", "")
		sa.end(ReasonExpired)
	}
}

// reauthenticate is the wish of somebody here for a new proof now.
func (t *Tunnel) reauthenticate() {
	if sa := t.primary(); sa != nil {
		sa.wantReauth = true
	}
}

// planReauth begins a new IKE SA in place of the one in charge, if that is wished
// and not under way. A responder asks its peer to.
func (t *Tunnel) planReauth() bool {
	sa := t.primary()
	if sa == nil || !sa.wantReauth || !t.wanted || t.closing || t.isReplacing(sa) || t.now.Before(sa.mayReplaceAt()) {
		return false
	}
	sa.wantReauth = false
	switch {
	case !sa.mayBeginAgain():
		if !sa.askedAuth {
			t.askForAuth(sa)
		}
	case t.mayInitiate() || sa.origin.initiator && t.cfg.Remote.Addr().IsValid():
		t.begin(sa.again())
	case sa.askedAuth && t.mayTakeOver():
		t.begin(sa.again())
	case !sa.askedAuth:
		t.askForAuth(sa)
	}
	return true
}

// again is how an IKE SA is begun in place of sa: where that was begun, unless one of
// the ends has moved since, it was the other one that began, or the peer is behind a
// NAT, which lets only the mapping through that is in use (RFC 7296, Section 2.23).
func (sa *ikeSA) again() beginning {
	b := beginning{route: sa.route, replaces: sa}
	if at := sa.t.cfg.Local; at.Addr() == sa.local.Addr() && sa.gateway.Addr() == sa.remote.Addr() && !sa.remoteNAT {
		b.local, b.remote = at, sa.gateway
	}
	return b
}

// askForAuth has the peer authenticate again at once. It gets a reasonable time
// for it (RFC 4478, Section 2).
func (t *Tunnel) askForAuth(sa *ikeSA) {
	sa.wantTell, sa.askedAuth = true, true
	if e := sa.evidence; e != nil {
		e.reauthAt = t.now.Add(redundantTime)
		if end := t.now.Add(2 * redundantTime); e.endAt.IsZero() || end.Before(e.endAt) {
			e.endAt = end
		}
	}
}

// isReplacing reports whether an IKE SA in place of old is being made.
func (t *Tunnel) isReplacing(old *ikeSA) bool {
	for _, sa := range t.sas {
		if sa.state.in(stateLarval) && sa.init != nil && sa.init.replaces == old {
			return true
		}
	}
	return false
}

// retryReauth plans the next attempt to replace an IKE SA that is still there. Not
// one that was to go to another gateway: what becomes of that, redirection decides.
func (t *Tunnel) retryReauth(failed *ikeSA) {
	i := failed.init
	if i == nil || i.replaces == nil || !i.replaces.alive() || i.redirectedFrom.IsValid() {
		return
	}
	at := t.now.Add(t.backoff(t.failures))
	if i.replaces.outdated {
		i.replaces.renewAt = at
		return
	}
	if e := i.replaces.evidence; e != nil {
		e.reauthAt = at
	}
}

// lifetimeTask tells the original initiator how long its proof is good for (RFC 4478,
// Section 2).
type lifetimeTask struct{ sa *ikeSA }

func (l *lifetimeTask) start() {
	sa := l.sa
	sa.wantTell = false
	left := time.Duration(0)
	if !sa.askedAuth {
		left = sa.m.timing.Reauth - sa.sinceProof()
	}
	sa.ask(wire.ExchangeInformational, []wire.Payload{authLifetime(left)}, func(*message) { sa.finish() })
}

func (l *lifetimeTask) abandon() { l.sa.wantTell = true }

// yieldUnasked has an IKE SA end that the peer was to delete. What the peer has
// surely established by then it shows by an answer.
func (t *Tunnel) yieldUnasked(sa *ikeSA) {
	sa.yieldAt, sa.yields = time.Time{}, true
	if keep := t.primary(); keep != nil && !keep.confirmed {
		keep.wantProbe = true
	}
}

// mayYield reports whether an IKE SA that is to go is no longer needed.
func (t *Tunnel) mayYield(sa *ikeSA) bool {
	keep := t.primary()
	return keep != nil && (keep.origin.initiator || keep.confirmed) && t.handedOver(sa)
}

// handedOver reports whether each Child SA of an IKE SA that is to go, as far as it
// is still wanted, has one in its place elsewhere.
func (t *Tunnel) handedOver(old *ikeSA) bool {
	for _, c := range t.childrenOf(old) {
		if t.cfg.child(c.name) != nil && !c.wantDelete && !t.isReplaced(c) {
			return false
		}
	}
	return true
}

func (t *Tunnel) isReplaced(c *childSA) bool {
	for _, o := range t.children {
		if o.name == c.name && o.ike != c.ike && o.state == childInstalled && o.live() {
			return true
		}
	}
	return false
}
