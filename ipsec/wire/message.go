package wire

import (
	"fmt"
	"slices"
)

// Message is an IKE message: the header and the payloads outside of any
// encryption.
type Message struct {
	Header
	Payloads []Payload
	// Raw is the received message, which Parse sets to its input: what the
	// AUTH calculation signs and what the Encrypted payload authenticates.
	// Append ignores it.
	Raw []byte
}

// Parse reads one IKE message, which must fill b exactly. It fails with a
// *ParseError or an *UnsupportedCriticalError; ParseHeader tells then what the
// message was about. The result aliases b.
func Parse(b []byte) (*Message, error) {
	if len(b) > MaxMessageLen {
		return nil, &ParseError{Reason: fmt.Sprintf("%d octets exceed the limit of %d", len(b), MaxMessageLen)}
	}
	h, err := ParseHeader(b)
	if err != nil {
		return nil, err
	}
	if err := h.check(); err != nil {
		return nil, &ParseError{Reason: err.Error()}
	}
	if uint64(h.Length) != uint64(len(b)) {
		return nil, &ParseError{Offset: 24, Reason: fmt.Sprintf("length field says %d, the message has %d octets", h.Length, len(b))}
	}
	r := reader{b: b[HeaderLen:], off: HeaderLen}
	payloads, err := parseChain(&r, h.NextPayload, true)
	if err != nil {
		return nil, err
	}
	return &Message{Header: h, Payloads: payloads, Raw: b}, nil
}

// Append appends the message to b. Next Payload and Length are computed, the
// fields of the same name in the header are ignored; flag bits that must not
// be sent are cleared. It fails if the header or a payload breaks a rule of its
// format or a limit of this package.
func (m *Message) Append(b []byte) ([]byte, error) {
	if err := m.Header.check(); err != nil {
		return nil, fmt.Errorf("append IKE header: %w", err)
	}
	if err := checkChain(m.Payloads, true); err != nil {
		return nil, err
	}
	n := m.size()
	if n > MaxMessageLen {
		return nil, fmt.Errorf("append message: %d octets exceed the limit of %d", n, MaxMessageLen)
	}
	h := m.Header
	h.NextPayload = firstType(m.Payloads)
	h.Length = uint32(n)
	b = slices.Grow(b, n)
	b = h.appendTo(b)
	return appendChain(b, m.Payloads), nil
}

func (m *Message) size() int { return HeaderLen + chainSize(m.Payloads) }

// Protected returns the octets that the Encrypted or Encrypted Fragment
// payload of a parsed message authenticates beside its body, and that body: for
// authenticated encryption the associated data of RFC 5282, Section 5.1, which
// is everything from the IKE header to the payload's own header. ok is false if
// the message has no such payload. Both alias Raw.
func (m *Message) Protected() (associated, body []byte, ok bool) {
	if len(m.Payloads) == 0 {
		return nil, nil, false
	}
	switch p := m.Payloads[len(m.Payloads)-1].(type) {
	case *Encrypted:
		body = p.Body
	case *EncryptedFragment:
		body = p.Body
	default:
		return nil, nil, false
	}
	if len(body) > len(m.Raw) {
		return nil, nil, false
	}
	n := len(m.Raw) - len(body)
	return m.Raw[:n:n], body, true
}
