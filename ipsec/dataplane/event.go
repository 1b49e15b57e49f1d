package dataplane

import (
	"net/netip"
	"time"
)

// EventKind says what happened.
type EventKind uint8

// The events of a data plane.
const (
	// Acquire: a packet matched a policy that has no outbound SA; it waits for
	// one, or was dropped. At most one a second for each policy. Names Tunnel and Child,
	// and the addresses of the packet.
	Acquire EventKind = iota + 1
	// SoftExpire: an SA passed its soft limit; time to rekey.
	SoftExpire
	// HardExpire: an SA passed its hard limit, or an outbound SA used its
	// last sequence number; it carries no more traffic (RFC 4303, Section
	// 3.3.3).
	HardExpire
	// FirstInbound: the first packet that passed authentication on an
	// inbound SA. It proves that the peer uses it (RFC 7296, Section 2.8).
	FirstInbound
	// MappingChanged: a packet that passed authentication and the replay
	// check on an inbound SA came from another address or port than the
	// SA's Remote (RFC 7296, Section 2.23), or in another way: by TCP instead
	// of UDP or the reverse. Remote and TCP are as observed. The
	// plane goes on sending to the old one until UpdateEndpoints says
	// otherwise. At most one a second for each SA.
	MappingChanged
	// UnknownSPI: an ESP packet came for an SPI that no inbound SA has (RFC
	// 7296, Section 1.5). It names no tunnel, only SPI, Local and Remote; none
	// of it is authenticated. At most one a second for the plane.
	UnknownSPI
)

var eventNames = [...]string{
	Acquire: "acquire", SoftExpire: "soft-expire", HardExpire: "hard-expire",
	FirstInbound: "first-inbound", MappingChanged: "mapping-changed",
	UnknownSPI: "unknown-spi",
}

func (k EventKind) String() string {
	if int(k) < len(eventNames) && k != 0 {
		return eventNames[k]
	}
	return "unknown"
}

// Event is something that the data plane saw. All events but UnknownSPI name
// Tunnel and Child; all but Acquire name the SA by SPI and Direction.
type Event struct {
	Kind      EventKind
	Tunnel    string
	Child     string
	SPI       uint32
	Direction Direction
	Remote    netip.AddrPort // MappingChanged and UnknownSPI only
	Local     netip.AddrPort // likewise: where the packet arrived
	TCP       bool           // likewise: it came by TCP (RFC 9329)

	Source, Destination netip.Addr // Acquire only, zero if not known
}

// Counters are the figures of one SA since it was installed.
type Counters struct {
	Tunnel    string
	Child     string
	SPI       uint32
	Direction Direction

	// Packets and Bytes count what was protected and sent, or received and
	// accepted; bytes are those of the inner packets.
	Packets, Bytes uint64
	// Dummies counts dummy packets sent or received (RFC 4303, Section 2.6).
	// They are not in Packets, but use up limits like others.
	Dummies uint64
	// ReplayDrops counts inbound packets that the replay window refused
	// (RFC 4303, Section 3.4.3), AuthFailures those whose integrity check
	// failed, SelectorDrops those whose inner packet does not fit the SA's
	// selectors (RFC 4301, Section 5.2).
	ReplayDrops, AuthFailures, SelectorDrops uint64
	// Missing counts the sequence numbers that the window moved past
	// without having seen them: the loss on the path, measured passively.
	Missing uint64
	// LastUsed is when a packet last passed, to about a second; zero if none
	// did.
	LastUsed time.Time
}
