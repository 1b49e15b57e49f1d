package ts

import (
	"fmt"
	"math"
	"net/netip"
)

// MaxSelectors is how many selectors a Traffic Selector payload can carry
// (RFC 7296, Section 3.13).
const MaxSelectors = 255

// AnyProtocol is the protocol of a selector that is for all protocols.
const AnyProtocol uint8 = 0

// Protocols whose "port" is a message type and code (RFC 7296, Section
// 3.13.1).
const (
	protocolICMP     = 1
	protocolIPv6ICMP = 58
)

// Selector is a set of packets as seen from one side. It is comparable; the
// zero value is not valid.
type Selector struct {
	Protocol uint8 // IP protocol number; AnyProtocol for all
	// StartPort to EndPort are the ports of that side. 0 to 65535 is ANY,
	// 65535 to 0 is OPAQUE: only packets whose ports are not known. ICMP has
	// the message type in the upper eight bits and the code in the lower.
	StartPort, EndPort uint16
	First, Last        netip.Addr // inclusive, one family, no zone
}

// FromPrefix returns the selector for all packets of a prefix. Host bits of
// the prefix are ignored. An invalid prefix gives the zero Selector.
func FromPrefix(p netip.Prefix) Selector {
	if !p.IsValid() {
		return Selector{}
	}
	p = p.Masked()
	return Selector{EndPort: math.MaxUint16, First: p.Addr(), Last: lastAddr(p)}
}

// FromRange returns the selector for all packets from first to last, both
// included.
func FromRange(first, last netip.Addr) Selector {
	return Selector{EndPort: math.MaxUint16, First: first, Last: last}
}

// lastAddr returns the highest address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// AnyPort reports whether the ports are ANY.
func (s Selector) AnyPort() bool { return s.StartPort == 0 && s.EndPort == math.MaxUint16 }

// OpaquePort reports whether the ports are OPAQUE.
func (s Selector) OpaquePort() bool { return s.StartPort == math.MaxUint16 && s.EndPort == 0 }

// Validate says what is wrong with a selector that did not come from this
// package.
func (s Selector) Validate() error {
	switch {
	case !s.First.IsValid() || !s.Last.IsValid():
		return fmt.Errorf("traffic selector %s: an address is missing", s)
	case s.First.Zone() != "" || s.Last.Zone() != "":
		return fmt.Errorf("traffic selector %s: addresses with a zone cannot be negotiated, remove the zone", s)
	case s.First.BitLen() != s.Last.BitLen():
		return fmt.Errorf("traffic selector %s: first and last address are of different families", s)
	case s.Last.Less(s.First):
		return fmt.Errorf("traffic selector %s: the last address is below the first", s)
	case s.StartPort > s.EndPort && !s.OpaquePort():
		return fmt.Errorf("traffic selector %s: the last port is below the first", s)
	case s.Protocol == AnyProtocol && !s.AnyPort():
		// RFC 7296, Section 3.13.1: ports have no meaning for all protocols.
		return fmt.Errorf("traffic selector %s: ports need a protocol, as in [tcp/443]", s)
	}
	return nil
}

// Contains reports whether every packet of t is one of s.
func (s Selector) Contains(t Selector) bool {
	both, ok := s.Intersect(t)
	return ok && both == t
}

// Intersect returns the packets that are in both; ok is false if there are
// none. Its result is valid if both are.
func (s Selector) Intersect(t Selector) (both Selector, ok bool) {
	if s.First.BitLen() != t.First.BitLen() {
		return Selector{}, false
	}
	both = s
	if s.Protocol == AnyProtocol {
		both.Protocol = t.Protocol
	} else if t.Protocol != AnyProtocol && t.Protocol != s.Protocol {
		return Selector{}, false
	}
	if both.First.Less(t.First) {
		both.First = t.First
	}
	if t.Last.Less(both.Last) {
		both.Last = t.Last
	}
	ports, ok := s.ports().intersect(t.ports())
	if !ok || both.Last.Less(both.First) {
		return Selector{}, false
	}
	both.StartPort, both.EndPort = ports.bounds()
	return both, true
}

// opaque is the place of unknown ports in a portRange: beyond all ports.
const opaque = math.MaxUint16 + 1

// portRange is a range of ports, both ends included, in which unknown ports
// have a place of their own: ANY is 0 to opaque and OPAQUE is opaque alone.
type portRange struct{ first, last uint32 }

func (s Selector) ports() portRange {
	switch {
	case s.AnyPort():
		return portRange{0, opaque}
	case s.OpaquePort():
		return portRange{opaque, opaque}
	default:
		return portRange{uint32(s.StartPort), uint32(s.EndPort)}
	}
}

// bounds is the inverse of ports. Intersecting two ranges that ports made
// never gives one that it cannot make.
func (p portRange) bounds() (start, end uint16) {
	switch {
	case p.first == opaque:
		return math.MaxUint16, 0
	case p.last == opaque:
		return 0, math.MaxUint16
	default:
		return uint16(p.first), uint16(p.last)
	}
}

func (p portRange) intersect(q portRange) (portRange, bool) {
	both := portRange{max(p.first, q.first), min(p.last, q.last)}
	return both, both.first <= both.last
}
