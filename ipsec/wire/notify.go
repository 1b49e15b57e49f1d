package wire

import "encoding/binary"

// Notify is the Notify payload: an error, a status or a capability (RFC 7296,
// Section 3.10).
type Notify struct {
	Protocol ProtocolID // of the SA that SPI names; ProtocolNone without an SPI
	SPI      []byte
	Kind     NotifyType
	Data     []byte
}

// PayloadType implements Payload.
func (*Notify) PayloadType() PayloadType { return PayloadNotify }

func parseNotify(r *reader) *Notify {
	p := &Notify{Protocol: ProtocolID(r.u8())}
	spiLen := int(r.u8())
	p.Kind = NotifyType(r.u16())
	if spiLen > 0 {
		p.SPI = r.bytes(spiLen)
	} else {
		// Without an SPI the field is to be ignored (RFC 7296, Section 3.10).
		p.Protocol = ProtocolNone
	}
	p.Data = r.rest()
	return p
}

func (p *Notify) check() error {
	n := len(p.SPI)
	if n == 0 && p.Protocol != ProtocolNone {
		return invalidf("protocol %s without an SPI, want none", p.Protocol)
	}
	switch {
	case n > 255:
		return invalidf("SPI of %d octets, at most 255 fit", n)
	case (p.Protocol == ProtocolAH || p.Protocol == ProtocolESP) && n != childSPILen:
		return invalidf("SPI of %d octets, want 4 for %s", n, p.Protocol)
	case p.Protocol == ProtocolIKE && n != len(SPI{}):
		// Contrary to RFC 7296, Section 3.10, which wants none, an IKE SPI of
		// the right size is let through: it does no harm.
		return invalidf("SPI of %d octets, want none or 8 for IKE", n)
	}
	return nil
}

func (p *Notify) size() int { return 4 + len(p.SPI) + len(p.Data) }

func (p *Notify) appendTo(b []byte) []byte {
	b = append(b, uint8(p.Protocol), uint8(len(p.SPI)))
	b = binary.BigEndian.AppendUint16(b, uint16(p.Kind))
	b = append(b, p.SPI...)
	return append(b, p.Data...)
}
