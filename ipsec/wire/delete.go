package wire

import "encoding/binary"

// Delete is the Delete payload. For the IKE SA itself it has no SPIs, for Child
// SAs the SPIs that the sender expected in inbound packets (RFC 7296, Section
// 3.11).
type Delete struct {
	Protocol ProtocolID
	SPIs     [][]byte
}

// PayloadType implements Payload.
func (*Delete) PayloadType() PayloadType { return PayloadDelete }

func parseDelete(r *reader) *Delete {
	p := &Delete{Protocol: ProtocolID(r.u8())}
	spiLen := int(r.u8())
	count := int(r.u16())
	switch {
	case r.err != nil:
		return p
	case count > MaxDeleteSPIs:
		r.fail("%d SPIs exceed the limit of %d", count, MaxDeleteSPIs)
		return p
	case spiLen*count != len(r.b):
		r.fail("%d SPIs of %d octets do not fill %d octets", count, spiLen, len(r.b))
		return p
	case spiLen == 0 && count > 0:
		r.fail("%d SPIs of no octets", count)
		return p
	case spiLen != p.spiLen() && count == 0:
		// Nothing to delete, but the size must be right all the same.
		r.fail("SPI size %d for %s, want %d", spiLen, p.Protocol, p.spiLen())
		return p
	}
	if count > 0 {
		p.SPIs = make([][]byte, count)
	}
	for i := range p.SPIs {
		p.SPIs[i] = r.bytes(spiLen)
	}
	return p
}

// spiLen is the SPI Size field.
func (p *Delete) spiLen() int {
	switch {
	case p.Protocol == ProtocolAH || p.Protocol == ProtocolESP:
		return childSPILen
	case p.Protocol == ProtocolIKE || len(p.SPIs) == 0:
		return 0
	default:
		return len(p.SPIs[0])
	}
}

func (p *Delete) check() error {
	n := p.spiLen()
	if len(p.SPIs) > MaxDeleteSPIs {
		return invalidf("%d SPIs exceed the limit of %d", len(p.SPIs), MaxDeleteSPIs)
	}
	if len(p.SPIs) > 0 && n == 0 {
		return invalidf("%d SPIs for %s, want none", len(p.SPIs), p.Protocol)
	}
	if n > 255 {
		return invalidf("SPIs of %d octets, at most 255 fit", n)
	}
	for _, spi := range p.SPIs {
		if len(spi) != n {
			return invalidf("SPI of %d octets for %s, want %d", len(spi), p.Protocol, n)
		}
	}
	return nil
}

func (p *Delete) size() int { return 4 + len(p.SPIs)*p.spiLen() }

func (p *Delete) appendTo(b []byte) []byte {
	b = append(b, uint8(p.Protocol), uint8(p.spiLen()))
	b = binary.BigEndian.AppendUint16(b, uint16(len(p.SPIs)))
	for _, spi := range p.SPIs {
		b = append(b, spi...)
	}
	return b
}
