package dataplane

// Direction says on which side of an SA this host is.
type Direction uint8

// The two directions.
const (
	Inbound Direction = iota + 1
	Outbound
)

func (d Direction) String() string {
	switch d {
	case Inbound:
		return "in"
	case Outbound:
		return "out"
	}
	return "unknown"
}

// Mode is the encapsulation mode of an SA (RFC 4301, Section 3.2).
type Mode uint8

// The two modes. The zero value is tunnel mode.
const (
	Tunnel Mode = iota
	Transport
)

func (m Mode) String() string {
	if m == Transport {
		return "transport"
	}
	return "tunnel"
}
