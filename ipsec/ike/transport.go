package ike

import (
	"net/netip"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// The selectors of transport mode are the addresses of the two ends. Where a NAT has
// changed these on the way, each end puts into the selectors that it receives what it
// sees itself, before it compares them with anything (RFC 7296, Section 2.23.1).

// seen gives selectors that the peer sent for transport mode the addresses that this
// end knows.
func (sa *ikeSA) seen(local, remote []ts.Selector) (l, r []ts.Selector) {
	return readdressed(local, sa.localNAT, sa.local.Addr()), readdressed(remote, sa.remoteNAT, sa.remote.Addr())
}

// readdressed has one address instead of another, if a NAT is at that end and the list
// is of no more than one: what else there is cannot be of transport mode.
func readdressed(list []ts.Selector, nat bool, by netip.Addr) []ts.Selector {
	if !nat || len(list) == 0 {
		return list
	}
	by = by.Unmap()
	out := make([]ts.Selector, len(list))
	for i, s := range list {
		if s.First != s.Last || s.First != list[0].First || s.First.Is4() != by.Is4() {
			return list
		}
		s.First, s.Last = by, by
		out[i] = s
	}
	return out
}

// seenFor is seen for what is to become a Child SA of cfg. A peer that asks for
// transport mode may get tunnel mode, with the selectors as it sent them.
func (sa *ikeSA) seenFor(cfg *ChildConfig, local, remote []ts.Selector) (l, r []ts.Selector) {
	if cfg.Mode != dataplane.Transport {
		return local, remote
	}
	return sa.seen(local, remote)
}
