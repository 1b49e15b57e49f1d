package wire

import (
	"encoding/binary"
	"net/netip"
)

// TSType is the kind of a traffic selector.
type TSType uint8

// Traffic selector types (IANA IKEv2 Traffic Selector Types).
const (
	TSIPv4Range     TSType = 7
	TSIPv6Range     TSType = 8
	TSFCAddrRange   TSType = 9
	TSSecurityLabel TSType = 10 // RFC 9478
)

var tsTypeNames = map[TSType]string{
	TSIPv4Range: "TS_IPV4_ADDR_RANGE", TSIPv6Range: "TS_IPV6_ADDR_RANGE",
	TSFCAddrRange: "TS_FC_ADDR_RANGE", TSSecurityLabel: "TS_SECLABEL",
}

func (t TSType) String() string { return nameOf(tsTypeNames, t, "TSType") }

// TS is the Traffic Selector payload of the initiator's side, TSi, or the
// responder's, TSr (RFC 7296, Section 3.13).
type TS struct {
	Initiator bool
	Selectors []TrafficSelector
}

// TrafficSelector is one selector (RFC 7296, Section 3.13.1). It is
// comparable.
type TrafficSelector struct {
	Kind       TSType
	IPProtocol uint8 // 0: any
	// StartPort and EndPort bound the ports; for ICMP type and code. 0 to
	// 65535 is ANY, 65535 to 0 is OPAQUE.
	StartPort, EndPort uint16
	First, Last        netip.Addr // without zone, of the family of Kind
	// Opaque holds what follows the selector's first four octets if Kind is
	// neither of the address ranges. Such a selector is not to be accepted
	// (RFC 7296, Section 2.9). It is a string to keep the type comparable.
	Opaque string
}

const tsHeaderLen = 4

// PayloadType implements Payload.
func (p *TS) PayloadType() PayloadType {
	if p.Initiator {
		return PayloadTSi
	}
	return PayloadTSr
}

func parseTS(r *reader, initiator bool) *TS {
	p := &TS{Initiator: initiator}
	count := int(r.u8())
	r.skip(3) // RESERVED
	if r.err != nil {
		return p
	}
	// The octets at hand bound the allocation, not the claimed count.
	p.Selectors = make([]TrafficSelector, 0, min(count, len(r.b)/tsHeaderLen))
	for range count {
		s := parseTrafficSelector(r)
		if r.err != nil {
			break
		}
		p.Selectors = append(p.Selectors, s)
	}
	return p
}

func parseTrafficSelector(r *reader) TrafficSelector {
	s := TrafficSelector{Kind: TSType(r.u8()), IPProtocol: r.u8()}
	length := int(r.u16())
	if r.err == nil && length < tsHeaderLen {
		r.fail("selector length %d is shorter than its header", length)
	}
	body := r.sub(length - tsHeaderLen)
	if n := s.addrLen(); n > 0 {
		s.StartPort, s.EndPort = body.u16(), body.u16()
		s.First, _ = netip.AddrFromSlice(body.bytes(n))
		s.Last, _ = netip.AddrFromSlice(body.bytes(n))
		body.end()
	} else {
		s.Opaque = string(body.rest())
	}
	r.take(&body)
	return s
}

// addrLen is the length of an address in octets; 0 for unknown types.
func (s *TrafficSelector) addrLen() int {
	switch s.Kind {
	case TSIPv4Range:
		return 4
	case TSIPv6Range:
		return 16
	default:
		return 0
	}
}

func (p *TS) check() error {
	if n := len(p.Selectors); n == 0 || n > 255 {
		return invalidf("%d selectors, want 1 to 255", n)
	}
	for i := range p.Selectors {
		if err := p.Selectors[i].check(); err != nil {
			return invalidf("selector %d: %v", i+1, err)
		}
	}
	return nil
}

func (s *TrafficSelector) check() error {
	n := s.addrLen()
	if n == 0 {
		if s.size() > maxPayloadLen {
			return invalidf("%d octets do not fit", s.size())
		}
		return nil
	}
	for _, a := range []netip.Addr{s.First, s.Last} {
		if a.BitLen() != 8*n || a.Zone() != "" {
			return invalidf("address %s does not fit %s", a, s.Kind)
		}
	}
	if s.Last.Less(s.First) {
		return invalidf("address range %s to %s is inverted", s.First, s.Last)
	}
	opaque := s.StartPort == 65535 && s.EndPort == 0
	if s.StartPort > s.EndPort && !opaque {
		return invalidf("port range %d to %d is inverted", s.StartPort, s.EndPort)
	}
	return nil
}

func (p *TS) size() int {
	n := 4
	for i := range p.Selectors {
		n += p.Selectors[i].size()
	}
	return n
}

func (s *TrafficSelector) size() int {
	if n := s.addrLen(); n > 0 {
		return tsHeaderLen + 4 + 2*n
	}
	return tsHeaderLen + len(s.Opaque)
}

func (p *TS) appendTo(b []byte) []byte {
	b = append(b, uint8(len(p.Selectors)), 0, 0, 0)
	for i := range p.Selectors {
		b = p.Selectors[i].appendTo(b)
	}
	return b
}

func (s *TrafficSelector) appendTo(b []byte) []byte {
	b = append(b, uint8(s.Kind), s.IPProtocol)
	b = binary.BigEndian.AppendUint16(b, uint16(s.size()))
	if s.addrLen() == 0 {
		return append(b, s.Opaque...)
	}
	b = binary.BigEndian.AppendUint16(b, s.StartPort)
	b = binary.BigEndian.AppendUint16(b, s.EndPort)
	b = append(b, s.First.AsSlice()...)
	return append(b, s.Last.AsSlice()...)
}
