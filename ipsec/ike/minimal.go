package ike

import "github.com/swanherd/swanherd/ipsec/wire"

// A minimal peer makes the Child SA of IKE_AUTH and no other, and answers every
// CREATE_CHILD_SA request with NO_ADDITIONAL_SAS. Nothing of its IKE SA can be
// rekeyed: a new IKE SA has to replace it with all that is in it (RFC 7296,
// Sections 1.3 and 4), in the way of reauthentication.

// outgrown reports whether err says that the peer makes no more SAs in sa, and has
// sa replaced then.
func (t *Tunnel) outgrown(sa *ikeSA, err *Error) bool {
	if !err.Remote || err.Notify != wire.NotifyNoAdditionalSAs {
		return false
	}
	t.report(err)
	sa.wantReauth = true
	return true
}
