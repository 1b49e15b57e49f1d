package wire

import "fmt"

// ParseError says where and why a message is malformed. An IKE peer answers
// it, once the message is authenticated, with INVALID_SYNTAX (RFC 7296,
// Section 2.21).
type ParseError struct {
	Payload PayloadType // payload at fault; PayloadNone for the IKE header
	Offset  int         // octets from the start of the parsed input
	Reason  string      // what is wrong, in words
}

func (e *ParseError) Error() string {
	where := "IKE header"
	if e.Payload != PayloadNone {
		where = e.Payload.String() + " payload"
	}
	return fmt.Sprintf("parse %s at octet %d: %s", where, e.Offset, e.Reason)
}

// UnsupportedCriticalError reports a payload of a type that is unknown here
// and that the sender marked critical. The whole message is to be rejected
// with UNSUPPORTED_CRITICAL_PAYLOAD, whose data is the payload type in one
// octet (RFC 7296, Section 2.5).
type UnsupportedCriticalError struct {
	Payload PayloadType
}

func (e *UnsupportedCriticalError) Error() string {
	return fmt.Sprintf("payload type %d is marked critical and not supported", uint8(e.Payload))
}

// invalid is a broken rule on the content of a payload, without its place.
type invalid string

func (e invalid) Error() string { return string(e) }

func invalidf(format string, args ...any) error {
	return invalid(fmt.Sprintf(format, args...))
}
