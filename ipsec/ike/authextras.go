package ike

import (
	"slices"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// authExtras are the notifications of an IKE_AUTH message that are about the IKE
// SA and not about a Child SA. request is what is answered, nil for an
// initiator.
func (sa *ikeSA) authExtras(request *message) []wire.Payload {
	extras := slices.Concat(sa.ownToken(), sa.supportsSync(request), sa.mobikeNotifies(request))
	if request == nil {
		return append(extras, sa.askForTicket()...)
	}
	extras = append(extras, sa.lifetimeNotify()...)
	return append(extras, sa.ticketAnswer(request)...)
}

// readAuthExtras reads those of the peer. Both ends have announced what counts
// from then on: a responder announces only what the initiator did.
func (sa *ikeSA) readAuthExtras(m *message) {
	sa.keepTokens(m)
	if sa.proved.IsZero() {
		sa.proved = sa.m.outside(sa.m.now)
	}
	sa.takeTicket(m)
	sa.readMobike(m)
	sa.syncs = m.notify(wire.NotifyIKEv2MessageIDSyncSupported) != nil
}

// inherit takes over from the IKE SA that is replaced what the ends agreed on about
// it.
func (sa *ikeSA) inherit(old *ikeSA) {
	sa.syncs, sa.client, sa.proved = old.syncs, old.client, old.proved
	sa.gateway, sa.redirectable = old.gateway, old.redirectable
}
