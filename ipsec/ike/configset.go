package ike

import (
	"slices"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// A Configuration payload in an INFORMATIONAL exchange asks for something without
// a Child SA, or says that something has changed (RFC 7296, Section 3.15.1).
// CFG_SET has no use that an RFC defines; here it tells a peer that was given an
// internal configuration which name servers and networks there are now. It gives
// and takes no address.

// internalState is the internal configuration that either end of an IKE SA gave the
// other.
type internalState struct {
	internal *Internal
	wantSet  bool // the peer is to hear that it has changed
}

// configure answers the Configuration payload of an INFORMATIONAL request.
func (sa *ikeSA) configure(m *message) []wire.Payload {
	cp := find[*wire.CP](m)
	switch {
	case cp == nil || sa.state != stateEstablished:
	case cp.Kind == wire.CPRequest && sa.t.cfg.InternalOffer != nil:
		return sa.assignOrRefuse(cp, m.Exchange)
	case cp.Kind == wire.CPSet:
		return []wire.Payload{sa.acceptSet(cp)}
	}
	return nil
}

// acceptSet takes what this end asked for in the first place, and answers with
// the attributes that it took, empty.
func (sa *ikeSA) acceptSet(cp *wire.CP) *wire.CP {
	ack := &wire.CP{Kind: wire.CPAck}
	r := sa.t.cfg.InternalRequest
	if r == nil || sa.internal == nil || sa.internal.Given {
		return ack
	}
	next, said := *sa.internal, readInternal(cp)
	if r.DNS && len(said.DNS) > 0 {
		next.DNS = said.DNS
	}
	if r.Subnets && len(said.Subnets) > 0 {
		next.Subnets = said.Subnets
	}
	for _, a := range cp.Attributes {
		if r.DNS && slices.Contains(next.DNS, readAddress(a)) && a.Kind == dnsKind(readAddress(a).Is6()) ||
			r.Subnets && slices.Contains(next.Subnets, readSubnet(a)) {
			ack.Attributes = append(ack.Attributes, wire.CPAttribute{Kind: a.Kind})
		}
	}
	if !slices.Equal(next.DNS, sa.internal.DNS) || !slices.Equal(next.Subnets, sa.internal.Subnets) {
		sa.setInternal(&next)
	}
	return ack
}

// setTask tells the peer of name servers and networks that have changed.
type setTask struct{ sa *ikeSA }

func (s *setTask) start() {
	sa := s.sa
	sa.wantSet = false
	cp := &wire.CP{Kind: wire.CPSet}
	for _, a := range sa.internal.DNS {
		cp.Attributes = append(cp.Attributes, wire.CPAttribute{Kind: dnsKind(a.Is6()), Value: a.AsSlice()})
	}
	for _, n := range sa.internal.Subnets {
		cp.Attributes = append(cp.Attributes, subnetAttribute(n))
	}
	sa.ask(wire.ExchangeInformational, []wire.Payload{cp}, func(*message) { sa.finish() })
}

func (s *setTask) abandon() {}

// reconfigureInternal tells the peer what has changed in what it was given. A new
// pool or request counts from the next time on.
func (t *Tunnel) reconfigureInternal(old, fresh *Config) {
	offer := fresh.InternalOffer
	if offer == nil || old.InternalOffer == nil ||
		slices.Equal(offer.DNS, old.InternalOffer.DNS) && slices.Equal(offer.Subnets, old.InternalOffer.Subnets) {
		return
	}
	for _, sa := range t.sas {
		if sa.alive() && sa.internal != nil && sa.internal.Given {
			sa.setInternal(&Internal{Given: true, Addresses: sa.internal.Addresses, DNS: offer.DNS, Subnets: offer.Subnets})
			sa.wantSet = len(offer.DNS)+len(offer.Subnets) > 0
		}
	}
}
