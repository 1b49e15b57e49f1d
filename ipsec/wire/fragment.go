package wire

import (
	"encoding/binary"
	"fmt"
)

// EncryptedFragment is the Encrypted Fragment payload, SKF, which is the last
// one of its message (RFC 7383, Section 2.5).
type EncryptedFragment struct {
	FirstInner    PayloadType // first payload of the whole; PayloadNone unless Number is 1
	Number, Total uint16      // 1 <= Number <= Total
	Body          []byte      // initialization vector to integrity check value
}

const fragmentHeaderLen = 4

// PayloadType implements Payload.
func (*EncryptedFragment) PayloadType() PayloadType { return PayloadSKF }

func parseEncryptedFragment(r *reader, next PayloadType) *EncryptedFragment {
	p := &EncryptedFragment{FirstInner: next, Number: r.u16(), Total: r.u16(), Body: r.rest()}
	if p.Number != 1 {
		p.FirstInner = PayloadNone // zero when sent; nothing else would have a meaning
	}
	return p
}

func (p *EncryptedFragment) check() error {
	if p.Number == 0 || p.Number > p.Total {
		return invalidf("fragment number %d of %d", p.Number, p.Total)
	}
	if p.Number != 1 && p.FirstInner != PayloadNone {
		return invalidf("next payload %s in fragment %d, want none", p.FirstInner, p.Number)
	}
	return checkFirstInner(p.FirstInner)
}

func (p *EncryptedFragment) size() int { return fragmentHeaderLen + len(p.Body) }

func (p *EncryptedFragment) appendTo(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, p.Number)
	b = binary.BigEndian.AppendUint16(b, p.Total)
	return append(b, p.Body...)
}

// AppendEncryptedFragment is AppendEncrypted for an Encrypted Fragment payload
// with a body of n octets. firstInner counts for the first fragment only.
func (h Header) AppendEncryptedFragment(b []byte, firstInner PayloadType, number, total uint16, n int) ([]byte, error) {
	h.NextPayload = PayloadSKF
	p := EncryptedFragment{Number: number, Total: total}
	if number == 1 {
		p.FirstInner = firstInner
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("append SKF payload: %w", err)
	}
	b, err := h.appendProtected(b, genericHeaderLen+fragmentHeaderLen+n)
	if err != nil {
		return nil, err
	}
	b = appendGenericHeader(b, p.FirstInner, false, fragmentHeaderLen+n)
	return p.appendTo(b), nil
}
