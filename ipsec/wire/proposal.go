package wire

import "encoding/binary"

// ProtocolID is the protocol that a proposal, a Notify or a Delete is about.
type ProtocolID uint8

// Protocol identifiers (IANA IKEv2 Security Protocol Identifiers).
const (
	ProtocolNone ProtocolID = 0 // Notify payloads without an SPI
	ProtocolIKE  ProtocolID = 1
	ProtocolAH   ProtocolID = 2
	ProtocolESP  ProtocolID = 3
)

var protocolNames = map[ProtocolID]string{
	ProtocolNone: "none", ProtocolIKE: "IKE", ProtocolAH: "AH", ProtocolESP: "ESP",
}

func (p ProtocolID) String() string { return nameOf(protocolNames, p, "ProtocolID") }

// childSPILen is the length in octets of an AH or ESP SPI.
const childSPILen = 4

// Proposal is one alternative of an SA payload. Transforms of one type are
// alternatives, those of different types belong together (RFC 7296, Section
// 3.3.1).
type Proposal struct {
	Number     uint8
	Protocol   ProtocolID
	SPI        []byte // 4 octets for AH and ESP; for IKE 8 in a rekey, else none
	Transforms []Transform
}

const (
	proposalHeaderLen = 8
	moreProposals     = 2 // Last Substruc of all proposals but the last
)

// parseProposal reads one substructure and reports whether another follows.
func parseProposal(r *reader) (p Proposal, more bool) {
	s, more := parseSubstructure(r, moreProposals, proposalHeaderLen)
	p.Number = s.u8()
	p.Protocol = ProtocolID(s.u8())
	spiLen := int(s.u8())
	count := int(s.u8())
	if spiLen > 0 {
		p.SPI = s.bytes(spiLen)
	}
	if s.err == nil && count > 0 {
		// The octets at hand bound the allocation, not the claimed count.
		p.Transforms = make([]Transform, 0, min(count, len(s.b)/transformHeaderLen))
	}
	for i := range count {
		t, moreTransforms := parseTransform(&s)
		if s.err != nil {
			break
		}
		if moreTransforms != (i+1 < count) {
			s.fail("last-substructure mark of transform %d contradicts the count of %d", i+1, count)
			break
		}
		p.Transforms = append(p.Transforms, t)
	}
	s.end()
	r.take(&s)
	return p, more
}

// parseSubstructure reads the first four octets that proposals and transforms
// share and returns a reader over the rest of the substructure, which has
// headerLen octets at least.
func parseSubstructure(r *reader, moreMark uint8, headerLen int) (s reader, more bool) {
	last := r.u8()
	r.skip(1) // RESERVED
	length := int(r.u16())
	switch {
	case r.err != nil:
	case last != 0 && last != moreMark:
		r.fail("last-substructure mark is %d, want 0 or %d", last, moreMark)
	case length < headerLen:
		r.fail("substructure length %d is shorter than its header of %d", length, headerLen)
	}
	return r.sub(length - 4), last == moreMark
}

func (p *Proposal) check() error {
	switch n := len(p.SPI); p.Protocol {
	case ProtocolIKE:
		if n != 0 && n != len(SPI{}) {
			return invalidf("SPI of %d octets, want 0 or 8 for IKE", n)
		}
	case ProtocolAH, ProtocolESP:
		if n != childSPILen {
			return invalidf("SPI of %d octets, want 4 for %s", n, p.Protocol)
		}
	default:
		if n > 255 {
			return invalidf("SPI of %d octets, at most 255 fit", n)
		}
	}
	if n := len(p.Transforms); n == 0 || n > 255 {
		return invalidf("%d transforms, want 1 to 255", n)
	}
	for i := range p.Transforms {
		if err := p.Transforms[i].check(); err != nil {
			return invalidf("transform %d: %v", i+1, err)
		}
	}
	return nil
}

func (p *Proposal) size() int {
	n := proposalHeaderLen + len(p.SPI)
	for i := range p.Transforms {
		n += p.Transforms[i].size()
	}
	return n
}

func (p *Proposal) appendTo(b []byte, more bool) []byte {
	b = appendSubstructure(b, more, moreProposals, p.size())
	b = append(b, p.Number, uint8(p.Protocol), uint8(len(p.SPI)), uint8(len(p.Transforms)))
	b = append(b, p.SPI...)
	for i := range p.Transforms {
		b = p.Transforms[i].appendTo(b, i+1 < len(p.Transforms))
	}
	return b
}

func appendSubstructure(b []byte, more bool, moreMark uint8, size int) []byte {
	var mark uint8
	if more {
		mark = moreMark
	}
	b = append(b, mark, 0)
	return binary.BigEndian.AppendUint16(b, uint16(size))
}
