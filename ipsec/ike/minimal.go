package ike

import (
	"time"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// What cannot be rekeyed is replaced by a new IKE SA with all that is in it, in the
// way of reauthentication: a minimal peer makes the Child SA of IKE_AUTH and no
// other (RFC 7296, Sections 1.3 and 4), and a peer that refuses for another reason,
// such as a key exchange that it does not want, may grant in IKE_AUTH what it does
// not in CREATE_CHILD_SA (Section 2.8).

// lastResortTime is how long before the end of a Child SA that the peer does not
// rekey a new IKE SA is begun.
const lastResortTime = 30 * time.Second

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

// lastResort has the IKE SA replaced if the peer refuses to rekey c and c is about
// to end, or has ended.
func (c *childSA) lastResort(ended bool) {
	ending := !c.expireAt.IsZero() && !c.t.now.Before(c.expireAt.Add(-lastResortTime))
	if c.refused && (ended || ending) && c.ike == c.t.primary() {
		c.ike.wantReauth = true
	}
}
