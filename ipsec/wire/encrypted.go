package wire

import "fmt"

// Encrypted is the Encrypted payload, SK, which is the last one of its message
// (RFC 7296, Section 3.14). What Body is made of depends on the algorithms of
// the IKE SA.
type Encrypted struct {
	FirstInner PayloadType // first payload inside; PayloadNone if there is none
	Body       []byte      // initialization vector to integrity check value
}

// PayloadType implements Payload.
func (*Encrypted) PayloadType() PayloadType { return PayloadSK }

func (p *Encrypted) check() error { return checkFirstInner(p.FirstInner) }

// checkFirstInner rejects encryption inside encryption (RFC 7296, Section 3.1).
func checkFirstInner(t PayloadType) error {
	if t == PayloadSK || t == PayloadSKF {
		return invalid("an encrypted payload inside an encrypted payload")
	}
	return nil
}

func (p *Encrypted) size() int { return len(p.Body) }

func (p *Encrypted) appendTo(b []byte) []byte { return append(b, p.Body...) }

// AppendEncrypted appends the start of a message whose only payload is an
// Encrypted payload with a body of n octets: the IKE header and the generic
// header, all lengths final. That is the associated data of authenticated
// encryption (RFC 5282, Section 5.1); the body follows it.
func (h Header) AppendEncrypted(b []byte, firstInner PayloadType, n int) ([]byte, error) {
	h.NextPayload = PayloadSK
	if err := checkFirstInner(firstInner); err != nil {
		return nil, fmt.Errorf("append SK payload: %w", err)
	}
	b, err := h.appendProtected(b, genericHeaderLen+n)
	if err != nil {
		return nil, err
	}
	return appendGenericHeader(b, firstInner, false, n), nil
}

// appendProtected writes the header of a message with one payload of n octets.
func (h Header) appendProtected(b []byte, n int) ([]byte, error) {
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("append IKE header: %w", err)
	}
	if n < genericHeaderLen || HeaderLen+n > MaxMessageLen {
		return nil, fmt.Errorf("append message: %s payload of %d octets exceeds the limit of %d", h.NextPayload, n, MaxMessageLen-HeaderLen)
	}
	h.Length = uint32(HeaderLen + n)
	return h.appendTo(b), nil
}
