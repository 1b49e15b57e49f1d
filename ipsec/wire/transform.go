package wire

import (
	"encoding/binary"
	"fmt"
)

// Transform is one algorithm of a proposal (RFC 7296, Section 3.3.2). It is
// comparable.
type Transform struct {
	Type      TransformType
	ID        uint16 // EncryptionID, PRFID, ... as Type says
	KeyLength uint16 // bits; 0 if the attribute is absent
	// Unsupported holds the encoded attributes that are not understood here.
	// A transform that has any must not be chosen (RFC 7296, Section 3.3.6).
	// It is a string to keep the type comparable.
	Unsupported string
}

const (
	transformHeaderLen = 8
	moreTransforms     = 3 // Last Substruc of all transforms but the last
	attributeFormatTV  = 0x8000
	attributeKeyLength = 14
	attributeLen       = 4 // of a TV attribute, and of the header of a TLV one
)

// parseTransform reads one substructure and reports whether another follows.
func parseTransform(r *reader) (t Transform, more bool) {
	s, more := parseSubstructure(r, moreTransforms, transformHeaderLen)
	t.Type = TransformType(s.u8())
	s.skip(1) // RESERVED
	t.ID = s.u16()
	t.parseAttributes(&s)
	r.take(&s)
	return t, more
}

// parseAttributes reads the attributes to the end (RFC 7296, Section 3.3.5).
func (t *Transform) parseAttributes(s *reader) {
	var unsupported []byte
	for s.err == nil && len(s.b) > 0 {
		start := s.b
		kind := s.u16()
		value := s.u16()
		if kind&attributeFormatTV == 0 {
			s.skip(int(value)) // TLV: the value is a length
		}
		switch {
		case s.err != nil:
		// Key Length in TLV format is not allowed, and one of zero bits would
		// look like none when kept as a number. Both are not understood.
		case kind != attributeFormatTV|attributeKeyLength || value == 0:
			unsupported = append(unsupported, start[:len(start)-len(s.b)]...)
		case t.KeyLength != 0:
			s.fail("two Key Length attributes in a transform")
		default:
			t.KeyLength = value
		}
	}
	t.Unsupported = string(unsupported)
}

func (t *Transform) check() error {
	if t.Unsupported == "" {
		return nil
	}
	s := reader{b: []byte(t.Unsupported)}
	var again Transform
	again.parseAttributes(&s)
	if s.err != nil || again.KeyLength != 0 {
		return invalid("malformed unsupported attributes")
	}
	if n := t.size(); n > maxPayloadLen {
		return invalidf("%d octets of attributes", n)
	}
	return nil
}

func (t *Transform) size() int {
	n := transformHeaderLen + len(t.Unsupported)
	if t.KeyLength != 0 {
		n += attributeLen
	}
	return n
}

func (t *Transform) appendTo(b []byte, more bool) []byte {
	b = appendSubstructure(b, more, moreTransforms, t.size())
	b = append(b, uint8(t.Type), 0)
	b = binary.BigEndian.AppendUint16(b, t.ID)
	if t.KeyLength != 0 {
		b = binary.BigEndian.AppendUint16(b, attributeFormatTV|attributeKeyLength)
		b = binary.BigEndian.AppendUint16(b, t.KeyLength)
	}
	return append(b, t.Unsupported...)
}

// String returns the registered name and the key length, as in
// "ENCR_AES_GCM_16/256".
func (t Transform) String() string {
	var name string
	switch {
	case t.Type == TransformEncryption:
		name = EncryptionID(t.ID).String()
	case t.Type == TransformPRF:
		name = PRFID(t.ID).String()
	case t.Type == TransformIntegrity:
		name = IntegrityID(t.ID).String()
	case t.Type == TransformKeyExchange || t.Type.IsAdditionalKE():
		name = KeyExchangeID(t.ID).String()
	case t.Type == TransformSequenceNumbers:
		name = SequenceNumbersID(t.ID).String()
	default:
		name = fmt.Sprintf("%s:%d", t.Type, t.ID)
	}
	if t.KeyLength != 0 {
		name += fmt.Sprintf("/%d", t.KeyLength)
	}
	return name
}
