package wire

import "encoding/binary"

// EAP is the Extensible Authentication Protocol payload (RFC 7296, Section
// 3.16). Data is one whole EAP message.
type EAP struct {
	Data []byte
}

// EAP codes (RFC 3748, Section 4).
const (
	eapHeaderLen = 4
	eapRequest   = 1
	eapResponse  = 2
	eapSuccess   = 3
	eapFailure   = 4
)

// PayloadType implements Payload.
func (*EAP) PayloadType() PayloadType { return PayloadEAP }

func (p *EAP) check() error {
	if len(p.Data) < eapHeaderLen {
		return invalidf("EAP message of %d octets is shorter than its header", len(p.Data))
	}
	if n := int(binary.BigEndian.Uint16(p.Data[2:])); n != len(p.Data) {
		return invalidf("EAP length field says %d, the message has %d octets", n, len(p.Data))
	}
	switch code := p.Data[0]; code {
	case eapRequest, eapResponse:
		if len(p.Data) == eapHeaderLen {
			return invalid("EAP request or response without a type")
		}
	case eapSuccess, eapFailure:
		if len(p.Data) != eapHeaderLen {
			return invalid("EAP success or failure with data")
		}
	default:
		return invalidf("EAP code %d is not defined", code)
	}
	return nil
}

func (p *EAP) size() int { return len(p.Data) }

func (p *EAP) appendTo(b []byte) []byte { return append(b, p.Data...) }
