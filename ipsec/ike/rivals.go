package ike

import (
	"bytes"
	"time"
)

// rivalry is what decides between two IKE SAs of a tunnel when one is enough.
type rivalry struct {
	// lowestNonce is the lower one of the two nonces that made the SA: it
	// decides between two that were made at once (RFC 7296, Section 2.8.2).
	lowestNonce []byte
	// origin is the IKE SA that this one descends from by rekeying.
	origin origin
	// redundant SAs are not used for anything new: another one won, or it is not
	// decided yet. replaced ones end without an event.
	redundant, replaced bool
	yields              bool      // until another IKE SA has its Child SAs
	confirmed           bool      // the peer has used it since it was established
	yieldAt             time.Time // the peer should have deleted it by then
	lostTo              *ikeSA    // why it is redundant; nil while undecided
}

// inherit takes the place of another IKE SA, which yields to nobody any more.
func (r *rivalry) inherit(old *rivalry) {
	r.redundant, r.replaced = old.redundant, false
	r.yields, r.yieldAt, r.confirmed = old.yields, old.yieldAt, r.confirmed || old.confirmed
	old.yields, old.yieldAt = false, time.Time{}
}

// origin is how an IKE SA came into being that was negotiated by IKE_AUTH. Those
// that replace it by rekeying keep it: what is decided between two origins is
// decided between their heirs, at both ends, however far each has got.
type origin struct {
	initiator          bool
	begun, established time.Time
	lowestNonce        []byte
}

// resolveDuplicates decides which IKE SA stays when fresh is established beside
// others.
//
// The younger one stays, as its maker would not have made it if it had the
// other: the old one is left over from a restart or is being replaced on
// purpose. Only negotiations that crossed each other are decided by nonce, the
// lowest losing, because each end made one of them in good faith. The survivor's
// initiator deletes the other when the survivor has the same Child SAs, for it
// knows that they are up at both ends; the other end does so only if that does
// not happen in time.
func (t *Tunnel) resolveDuplicates(fresh *ikeSA) {
	for _, old := range t.sas {
		if old == fresh || old.state != stateEstablished || old.redundant || t.isRekeying(old, fresh) {
			continue
		}
		keep, drop := fresh, old
		// One that was given up already is only to know that it is not needed, nor
		// what an answer to its rekeying may still make.
		givenUp := old.wantDelete
		cross := !givenUp && crossed(old.origin, fresh.origin)
		if cross && bytes.Compare(fresh.origin.lowestNonce, old.origin.lowestNonce) < 0 {
			keep, drop = old, fresh
		}
		drop.redundant, drop.lostTo = true, keep
		if !givenUp {
			drop.reason, drop.endAt = ReasonRedundant, t.now.Add(redundantTime)
		}
		for _, c := range t.childrenOf(drop) {
			c.redundant = true
		}
		for _, c := range t.childrenOf(keep) {
			if keep.origin.initiator && c.state == childInstalled && c.ready {
				t.promote(c)
			}
		}
		if drop == fresh {
			break
		}
	}
	t.yieldAll()
}

// yieldAll has all superfluous IKE SAs end when the one that stays has their Child
// SAs: at once if this end made that one, otherwise only if the other end does not
// see to it.
func (t *Tunnel) yieldAll() {
	keep := t.primary()
	if keep == nil {
		return
	}
	for _, sa := range t.sas {
		switch {
		case !sa.alive() || !sa.redundant || sa.replaced:
		case keep.origin.initiator:
			sa.yields = true
		default:
			sa.yieldAt = t.now.Add(confirmTime)
		}
	}
}

// crossed reports whether the two were negotiated at the same time from both
// ends: each began before the other was done.
func crossed(a, b origin) bool {
	return a.initiator != b.initiator && !a.established.Before(b.begun) && !b.established.Before(a.begun)
}

func (t *Tunnel) isRekeying(old, fresh *ikeSA) bool {
	return old.rekey != nil && old.rekey.passive == fresh || fresh.rekey != nil && fresh.rekey.passive == old
}
