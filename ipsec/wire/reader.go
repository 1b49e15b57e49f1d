package wire

import (
	"encoding/binary"
	"fmt"
)

// reader is a bounded cursor that remembers its first error, so that a parser
// reads like the figure in the RFC and looks at the error once. After an error
// every read returns zero values.
type reader struct {
	b       []byte // unread octets
	off     int    // offset of b[0] in the whole input
	payload PayloadType
	err     error
}

// fail records the first error at the present offset.
func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = &ParseError{Payload: r.payload, Offset: r.off, Reason: fmt.Sprintf(format, args...)}
	}
	r.b = nil
}

// bytes returns the next n octets, aliasing the input.
func (r *reader) bytes(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > len(r.b) {
		r.fail("%d octets needed, %d left", n, len(r.b))
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	r.off += n
	return out
}

func (r *reader) skip(n int) { r.bytes(n) }

func (r *reader) u8() uint8 {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// rest returns all unread octets; nil if there are none.
func (r *reader) rest() []byte {
	if len(r.b) == 0 {
		return nil
	}
	return r.bytes(len(r.b))
}

// sub returns a reader over the next n octets and moves past them. A failed
// read here leaves an empty reader that carries the error.
func (r *reader) sub(n int) reader {
	s := reader{off: r.off, payload: r.payload}
	s.b = r.bytes(n)
	s.err = r.err
	return s
}

// end fails if octets are left.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.fail("%d trailing octets", len(r.b))
	}
	return r.err
}

// take carries the error of a sub-reader over.
func (r *reader) take(s *reader) bool {
	if s.err != nil && r.err == nil {
		r.err = s.err
		r.b = nil
	}
	return r.err == nil
}
