package ike

import (
	"bytes"
	"time"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// rekeyChildTask replaces a Child SA (RFC 7296, Section 2.8). Until the answer
// is there the peer may rekey the same SA; its new one is then the passive one of
// old, and the nonces decide (Section 2.8.1).
type rekeyChildTask struct {
	sa  *ikeSA
	old *childSA
	x   *childExchange
}

func newRekeyChildTask(sa *ikeSA, old *childSA, cfg *ChildConfig) *rekeyChildTask {
	r := &rekeyChildTask{sa: sa, old: old}
	r.x = &childExchange{
		sa: sa, cfg: cfg, old: old, offer: sa.t.childOffer(cfg), localTS: old.localTS, remoteTS: old.remoteTS,
		lost: r.lost, failed: r.failed, succeeded: r.succeeded,
	}
	return r
}

func (r *rekeyChildTask) start() {
	r.old.rekey = r
	r.x.begin(r.groupToBegin())
}

// groupToBegin is the key exchange method that the peer agreed to last time, if
// it is still configured. A Child SA of IKE_AUTH had none of its own.
func (r *rekeyChildTask) groupToBegin() wire.KeyExchangeID {
	group, proposals := r.old.suite.KeyExchange, r.x.cfg.Proposals
	if group != wire.KeyExchangeNone && offersGroup(proposals, group) {
		return group
	}
	return preferredGroup(proposals)
}

func (r *rekeyChildTask) abandon() {
	r.old.rekey = nil
	r.x.abandon()
}

func (r *rekeyChildTask) deletedEarly(spi uint32) { r.x.noteEarly(spi) }

func (r *rekeyChildTask) finish() {
	r.old.rekey = nil
	r.sa.finish()
}

// failed decides what becomes of the old SA when the exchange made no new one.
func (r *rekeyChildTask) failed(err *Error) {
	old, t := r.old, r.sa.t
	r.finish()
	if p := old.passive; p != nil && p.series != nil {
		old.rekeyAt = t.afterSeries() // the peer is replacing it
		return
	}
	if p := old.passive; p != nil {
		// The peer has replaced it already, so our failure does not matter; it
		// deletes the old one (RFC 7296, Section 2.8.1).
		old.passive = nil
		if p.child != nil {
			if old.known() {
				old.replaceWith(p.child)
			}
			return
		}
	}
	if !old.known() {
		return
	}
	switch {
	case err.Remote && err.Notify == wire.NotifyTemporaryFailure:
		// RFC 7296, Section 2.25: later. The peer may be deleting it.
		old.rekeyAt = t.now.Add(t.retryDelay())
		r.sa.refusedForNow(err)
	case err.Remote && err.Notify == wire.NotifyChildSANotFound:
		// RFC 7296, Section 2.25: delete it silently and begin anew.
		t.removeChild(old, ReasonDeletedByPeer)
	case t.outgrown(r.sa, err):
		old.rekeyAt = t.now.Add(t.retryDelay())
	default:
		t.childFailed(old.name, err)
		old.rekeyAt = t.now.Add(t.retryDelay())
		old.refused = err.Remote && err.Exchange == wire.ExchangeCreateChildSA
		old.lastResort(false)
	}
}

// lost decides between our key exchanges and the peer's for the same SA, when
// several are to come. Ours has the lowest of the four nonces: it just ends, as
// there is nothing yet to be deleted. Otherwise the peer does not go on with its
// own (RFC 9370, Section 2.2.4).
func (r *rekeyChildTask) lost(nonce []byte) bool {
	p := r.old.passive
	if p == nil || p.child == nil && p.series == nil {
		return false
	}
	if bytes.Compare(nonce, p.nonce) > 0 {
		if p.series != nil {
			p.series.drop()
		}
		return false
	}
	r.x.abandon()
	r.finish()
	if p.child == nil {
		r.old.rekeyAt = r.sa.m.afterSeries()
		return true
	}
	r.old.passive = nil
	if r.old.known() {
		r.old.replaceWith(p.child)
	}
	return true
}

// succeeded puts the new Child SA in charge, or deletes it again if the peer's
// one won.
func (r *rekeyChildTask) succeeded(fresh *childSA) {
	old, t := r.old, r.sa.t
	r.finish()
	r.sa.refused = refusals{}
	passive := old.passive
	if passive != nil && passive.series != nil {
		if bytes.Compare(fresh.lowestNonce, passive.nonce) < 0 {
			// The peer's has won and is still to be made.
			fresh.redundant, fresh.replaces = true, nil
			fresh.end(ReasonRedundant)
			old.rekeyAt = r.sa.m.afterSeries()
			return
		}
		passive.series.drop()
	}
	old.passive = nil
	if passive != nil && passive.child != nil && bytes.Compare(fresh.lowestNonce, passive.nonce) < 0 {
		// Ours has the lowest of the four nonces: the end that made it deletes
		// it. The peer deletes the old one.
		fresh.redundant, fresh.replacedBy, fresh.replaces = true, passive.child, nil
		fresh.end(ReasonRedundant)
		if old.known() {
			old.replaceWith(passive.child)
		}
		return
	}
	if passive != nil && passive.child != nil {
		loser := passive.child
		loser.redundant, loser.replacedBy, loser.replaces = true, fresh, nil
		loser.endAt = t.now.Add(redundantTime)
	}
	t.takeTraffic(fresh)
	if !old.known() {
		t.childUp(fresh)
		return
	}
	old.replaceWith(fresh)
	old.end(ReasonReplaced)
}

// replaceWith notes that fresh has taken over from c. The end that made fresh
// deletes c; if it does not, this one does in time.
func (c *childSA) replaceWith(fresh *childSA) {
	before := c.status()
	c.state, c.wantRekey = childReplaced, false
	c.replacedBy, fresh.replaces = fresh, c
	c.reason = ReasonReplaced
	c.rekeyAt = time.Time{}
	if !fresh.initiator {
		c.endAt = c.t.now.Add(redundantTime)
	}
	c.t.resetSlot(c.name)
	c.t.emit(ChildRekeyed{Old: before, New: fresh.status()})
}

// childUp announces a Child SA that replaces none.
func (t *Tunnel) childUp(c *childSA) {
	t.resetSlot(c.name)
	t.emit(ChildUp{c.status()})
}

func (t *Tunnel) resetSlot(name string) {
	if s := t.slot(name); s != nil {
		*s = slot{name: name, former: s.former}
	}
	t.recovered(name)
}

// requestChildRekey is the operator's wish.
func (t *Tunnel) requestChildRekey(name string) {
	for _, c := range t.children {
		if (name == "" || c.name == name) && c.live() {
			c.wantRekey = true
		}
	}
}
