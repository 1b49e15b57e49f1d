package ts

import (
	"net/netip"
	"slices"
)

// Packet is what selectors look at in an IP packet. An ICMP message has its
// type and code, as one number, in both ports (RFC 4301, Section 4.4.1.3).
type Packet struct {
	Source, Destination         netip.Addr
	Protocol                    uint8 // the next layer's, after IPv6 extension headers
	SourcePort, DestinationPort uint16
	NoPorts                     bool // the ports are not known: later fragment, or a protocol without
}

// Reversed returns the packet with its sides exchanged.
func (p Packet) Reversed() Packet {
	p.Source, p.Destination = p.Destination, p.Source
	p.SourcePort, p.DestinationPort = p.DestinationPort, p.SourcePort
	return p
}

// Match reports whether the packet's source is in one list and its destination
// in the other (RFC 7296, Section 3.13). For an outbound packet source are the
// local selectors, for an inbound one the remote ones.
func Match(source, destination []Selector, p Packet) bool {
	return anyMatch(source, p.Protocol, p.Source, p.SourcePort, p.NoPorts) &&
		anyMatch(destination, p.Protocol, p.Destination, p.DestinationPort, p.NoPorts)
}

func anyMatch(set []Selector, protocol uint8, addr netip.Addr, port uint16, noPorts bool) bool {
	return slices.ContainsFunc(set, func(s Selector) bool { return s.match(protocol, addr, port, noPorts) })
}

// match reports whether one side of a packet is in s.
func (s Selector) match(protocol uint8, addr netip.Addr, port uint16, noPorts bool) bool {
	if s.Protocol != AnyProtocol && s.Protocol != protocol {
		return false
	}
	if addr.BitLen() != s.First.BitLen() || addr.Less(s.First) || s.Last.Less(addr) {
		return false
	}
	place := uint32(port)
	if noPorts {
		place = opaque
	}
	r := s.ports()
	return r.first <= place && place <= r.last
}
