package plan

import (
	"fmt"
	"slices"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// openness is how well an end is reached by who begins.
type openness uint8

const (
	unknownPlace openness = iota // it has no address that the other end could use
	shut                         // its NAT has another port for each peer, which nobody can tell
	punched                      // its NAT lets a peer in that the end itself has sent to
	open                         // there is no NAT that is known of, or both ends are behind it
)

// behindNAT says what is known of a NAT before an endpoint; nil: that there is none. What an
// edge says that no peer could go by is not known.
func (u *uplinkInfo) behindNAT(e *swanherdv1.PeerEndpoint) *swanherdv1.UplinkNat {
	for _, n := range u.GetNats() {
		if n.GetAddress() != e.GetAddress() || n.GetMapping() == swanherdv1.NatMapping_NAT_MAPPING_NONE {
			continue
		}
		own, _ := outer(e.GetAddress())
		if mapped, ok := outer(n.GetMappedAddress()); ok && mapped.Is4() == own.Is4() && !mapped.IsLoopback() {
			return n
		}
	}
	return nil
}

// reached returns where an uplink is reached from another one, how well, and whether a NAT
// is before it there. Behind one it is reached where the outside sees it; before that at its
// own address if both ends are behind the same one, which may not send back what it gets
// from inside ("hairpin"), or in MPLS, which has no NAT but towards the controller. Own
// addresses of others come last: private networks are routed too.
func reached(u, from *uplinkInfo) (at []*swanherdv1.PeerEndpoint, how openness, nat bool) {
	inside := endpoints(u, from)
	if len(inside) == 0 {
		return nil, unknownPlace, false
	}
	if len(u.GetNats()) == 0 {
		return inside, open, false
	}
	best := shut
	var opened, seen, behind []*swanherdv1.PeerEndpoint
	for _, e := range inside {
		n := u.behindNAT(e)
		switch {
		case n == nil:
			opened, best = append(opened, e), open
			continue
		case together(u, from, n):
			opened, best = append(opened, e), open
		default:
			behind = append(behind, e)
		}
		addr, _ := outer(n.GetMappedAddress())
		mapped := &swanherdv1.PeerEndpoint{Address: addr.String(), Port: n.GetMappedPort()}
		if mapped.GetPort() != 0 {
			best = max(best, punched)
		} else {
			mapped.Port = defaultPort // what is sent there opens this end's NAT for the address
		}
		if !slices.ContainsFunc(seen, func(s *swanherdv1.PeerEndpoint) bool {
			return s.GetAddress() == mapped.GetAddress() && s.GetPort() == mapped.GetPort()
		}) {
			seen = append(seen, mapped)
		}
	}
	return slices.Concat(opened, seen, behind), best, len(seen) > 0
}

// together says whether two uplinks reach each other without the Internet between them.
func together(u, from *uplinkInfo, nat *swanherdv1.UplinkNat) bool {
	const mpls = swanherdv1.TransportClass_TRANSPORT_CLASS_MPLS
	return u.GetTransportClass() == mpls && from != nil && from.GetTransportClass() == mpls ||
		from != nil && slices.ContainsFunc(from.GetNats(), func(n *swanherdv1.UplinkNat) bool {
			return n.GetMapping() != swanherdv1.NatMapping_NAT_MAPPING_NONE && n.GetMappedAddress() == nat.GetMappedAddress()
		})
}

// assign says which of two ends initiates: towards the one that is reached better, and from
// the first to the second if they are alike. Who initiates has to know where to; while
// neither does, both wait for an edge to report its uplinks. An end that waits behind a NAT
// opens it.
func assign(a, b *end) {
	a.initiator = b.open > unknownPlace && b.open >= a.open
	b.initiator = !a.initiator && a.open > unknownPlace
	a.opens = !a.initiator && b.initiator && a.nat
	b.opens = !b.initiator && a.initiator && b.nat
}

// obstacle says why two ends may not reach each other, as far as their NATs are known.
func obstacle(a, b *end) string {
	waits, begins := a, b
	if a.initiator {
		waits, begins = b, a
	}
	const over = "connect them over a hub that is not behind such a NAT"
	switch {
	case !begins.initiator:
	case begins.open == shut && waits.open == shut:
		return fmt.Sprintf("%s and %s are both behind NATs that have another port for each destination, so that neither can be told where the other is; %s",
			short(begins.edge.name), short(waits.edge.name), over)
	case begins.open == shut && waits.open == punched:
		return fmt.Sprintf("the NAT of %s has another port for each destination, and the NAT of %s lets it in only if it goes by the address and not by the port; where it does not, %s",
			short(begins.edge.name), short(waits.edge.name), over)
	}
	return ""
}
