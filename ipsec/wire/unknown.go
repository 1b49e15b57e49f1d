package wire

// Unknown is a payload of a type that is not understood here. Parsed messages
// hold only those that are not marked critical, which are to be ignored
// (RFC 7296, Section 2.5).
type Unknown struct {
	Kind     PayloadType
	Critical bool
	Data     []byte
}

// PayloadType implements Payload.
func (p *Unknown) PayloadType() PayloadType { return p.Kind }

func (p *Unknown) check() error {
	if p.Kind == PayloadNone || p.Kind >= PayloadSA && p.Kind <= PayloadEAP || p.Kind == PayloadSKF {
		return invalidf("payload type %d is not unknown", uint8(p.Kind))
	}
	return nil
}

func (p *Unknown) size() int { return len(p.Data) }

func (p *Unknown) appendTo(b []byte) []byte { return append(b, p.Data...) }
