package ike

import (
	"net/netip"
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/ts"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// A Child SA that a packet has asked for is proposed with the addresses of that
// packet as the first selectors, so that a responder that can grant only a part
// knows which one matters (RFC 7296, Section 2.9). A responder that insists on a
// single pair of addresses gets just these.

// proposedTS returns the traffic selectors to propose for a Child SA, of which
// local and remote are allowed.
func (t *Tunnel) proposedTS(name string, local, remote []ts.Selector) (l, r []ts.Selector) {
	s := t.slot(name)
	if s == nil {
		return local, remote
	}
	here, there, ok := s.pair(local, remote)
	switch {
	case !ok:
		return local, remote
	case s.single:
		return []ts.Selector{here}, []ts.Selector{there}
	}
	return foremost(here, local), foremost(there, remote)
}

// pair returns the selectors of the two addresses that a Child SA is needed for:
// those of the packet that asked for it, or those that the configuration has
// first, if they are single addresses.
func (s *slot) pair(local, remote []ts.Selector) (l, r ts.Selector, ok bool) {
	source, destination := s.source, s.destination
	if !source.IsValid() && len(local) > 0 && len(remote) > 0 && local[0].First == local[0].Last && remote[0].First == remote[0].Last {
		source, destination = local[0].First, remote[0].First
	}
	l, here := part(local, source)
	r, there := part(remote, destination)
	return l, r, here && there
}

// part returns what a list of selectors has for one address.
func part(list []ts.Selector, a netip.Addr) (ts.Selector, bool) {
	for _, s := range list {
		if both, ok := s.Intersect(ts.FromRange(a, a)); ok {
			return both, true
		}
	}
	return ts.Selector{}, false
}

// foremost puts s, which the list covers, before the list.
func foremost(s ts.Selector, list []ts.Selector) []ts.Selector {
	rest := slices.DeleteFunc(slices.Clone(list), func(o ts.Selector) bool { return o == s })
	if len(rest) == ts.MaxSelectors {
		return list
	}
	return append([]ts.Selector{s}, rest...)
}

// wantsPair reports whether a Child SA was refused because the peer takes a single
// pair of addresses only, and has that tried at once.
func (t *Tunnel) wantsPair(name string, err *Error) bool {
	s, cfg := t.slot(name), t.cfg.child(name)
	if !err.Remote || err.Notify != wire.NotifySinglePairRequired || s == nil || cfg == nil || s.single {
		return false
	}
	if _, _, ok := s.pair(cfg.LocalTS, cfg.RemoteTS); !ok {
		return false
	}
	s.single, s.notBefore, s.yield = true, time.Time{}, t.now
	return true
}
