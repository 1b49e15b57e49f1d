package ike

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// The response to IKE_SA_INIT is not authenticated, so the first that comes need
// not be the peer's. Each response that accepts gets an IKE SA of its own in the
// making, with the same SPI, nonce and private value of ours, and goes on by
// itself; the one that sent the request stays and listens for more. When one of
// them is established, the others are forgotten without a word: as RFC 7296,
// Section 2.4, says how the poisoning of an attempt is to be avoided.

// maxCandidates bounds the responses to one request that are believed for the
// time being.
const maxCandidates = 4

// sharedValue is a private value that several key exchanges use at a time. It is
// destroyed when the last of them is done.
type sharedValue struct {
	*suite.KeyExchange
	users atomic.Int32
}

func (v *sharedValue) use() *sharedValue {
	v.users.Add(1)
	return v
}

func (v *sharedValue) release() {
	if v.users.Add(-1) == 0 {
		v.Destroy()
	}
}

// share makes the private value of IKE_SA_INIT one that several can use.
func (i *initState) share() *sharedValue {
	if i.ke == nil {
		return nil // a resumption has none
	}
	if i.shared == nil {
		i.shared = (&sharedValue{KeyExchange: i.ke}).use()
	}
	return i.shared.use()
}

// fork returns the IKE SA in the making for the response of one responder, and
// has sa listen for others. It returns nil for a responder that was heard
// already, and for one too many.
func (sa *ikeSA) fork(responder wire.SPI) *ikeSA {
	i := sa.init
	if slices.Contains(i.responders, responder) || len(i.responders) >= maxCandidates {
		sa.m.stats.Hints++
		return nil
	}
	i.responders = append(i.responders, responder)
	sa.state, sa.endAt = stateListening, time.Time{}
	sa.window.outstanding.at = time.Time{} // not repeated any more
	fresh := &ikeSA{
		state: stateAuth, initiator: true, localSPI: sa.localSPI, remoteSPI: responder,
		path: path{route: sa.route}, natState: sa.natState, redirection: redirection{gateway: sa.gateway},
		parties: parties{localID: sa.localID}, lifetime: lifetime{begun: sa.begun},
		init: &initState{
			request: i.request, ni: i.ni, shared: i.share(), replaces: i.replaces, resume: i.resume, redirectedFrom: i.redirectedFrom, heard: i.heard,
		},
		messaging: messaging{window: window{nextSend: 1}},
	}
	sa.t.add(fresh)
	return fresh
}

// ofAttempt are the IKE SAs in the making that belong to the same attempt as sa.
func (t *Tunnel) ofAttempt(sa *ikeSA, states saState) []*ikeSA {
	var out []*ikeSA
	for _, o := range t.sas {
		if o != sa && o.initiator && o.localSPI == sa.localSPI && o.state.in(states) {
			out = append(out, o)
		}
	}
	return out
}

// rivals reports whether the attempt goes on without sa.
func (t *Tunnel) rivals(sa *ikeSA) bool {
	return sa.initiator && len(t.ofAttempt(sa, stateLarval&^stateListening)) > 0
}

// decided forgets what an attempt has begun beside sa, which is established.
func (t *Tunnel) decided(sa *ikeSA) {
	for _, o := range t.ofAttempt(sa, stateLarval) {
		o.die()
	}
}

// listenOn is called when an IKE SA in the making came to nothing. If it was the
// last of its attempt, another response may still come: it was sent when that of
// an attacker was on its way already.
func (t *Tunnel) listenOn(sa *ikeSA) {
	if t.rivals(sa) {
		return
	}
	for _, o := range t.ofAttempt(sa, stateListening) {
		o.endAt = t.now.Add(t.timing.RetransmitBase)
	}
}

// find returns the IKE SA that a message with our SPI is for. Those of one attempt
// are told apart by the SPI of the responder, which a response to IKE_SA_INIT
// brings along.
func (t *Tunnel) find(h wire.Header, ours wire.SPI) *ikeSA {
	var found *ikeSA
	for _, sa := range t.sas {
		if sa.localSPI != ours || sa.state == stateDead {
			continue
		}
		if found == nil || sa.initiator && !isFirst(h.Exchange) && sa.remoteSPI == h.ResponderSPI {
			found = sa
		}
	}
	return found
}
