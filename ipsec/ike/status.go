package ike

import (
	"net/netip"
	"time"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// State says how a tunnel as a whole is.
type State uint8

// The states. Partial means that the IKE SA is established but a Child SA that
// is wanted is missing.
const (
	StateDown State = iota
	StateConnecting
	StatePartial
	StateUp
	StateClosing
)

var stateNames = [...]string{"down", "connecting", "partial", "up", "closing"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "unknown"
}

// Status is a copy of what a tunnel is at one moment, for people. SAs are in the
// order in which they were made.
type Status struct {
	Name     string
	State    State
	IKE      []IKEStatus
	Children []ChildStatus
	// LastError is the latest failure, nil after the next success.
	LastError *Error
	// NextAttempt is when a down tunnel is tried again, zero if it is not.
	NextAttempt time.Time
	Path        PathStatus
	Stats       Stats
}

// PathStatus says how long IP datagrams to the peer may be, in octets with the header,
// as far as was found out by probes (RFC 8899).
type PathStatus struct {
	// MTU is the longest that arrived, 0 if none has yet.
	MTU int
	// Limited is true if the host would send longer ones: Child SAs do not.
	Limited bool
	// Search is the phase of the search: "base", "searching", "complete" or "error";
	// "unsupported" if the peer does not take what it needs, empty if there is none.
	Search string
}

// IKEStatus describes one IKE SA.
type IKEStatus struct {
	LocalSPI, RemoteSPI wire.SPI
	// State is a word such as "established" or "rekeyed".
	State string
	// Initiator is true if this end is the original initiator (RFC 7296,
	// Section 2.2).
	Initiator         bool
	Local, Remote     netip.AddrPort
	LocalID, RemoteID ident.ID
	// RemoteAuth is how the peer proved its identity, see ident.VerifiedPeer.
	RemoteAuth string
	// PPK is the identifier of the post-quantum preshared key that the keys
	// depend on, empty if there is none.
	PPK string
	// Suite is what was negotiated, empty before that.
	Suite suite.IKESuite
	// LocalNAT and RemoteNAT say which end is behind a NAT; Encap, that ESP
	// goes in UDP.
	LocalNAT, RemoteNAT, Encap bool
	// TCP says that messages and ESP go in the TCP connection between Local and
	// Remote.
	TCP bool
	// MOBIKE is true if addresses can change while the SA lives (RFC 4555).
	MOBIKE bool
	// Internal is the internal configuration that one end gave the other, nil
	// for none. It is not to be changed.
	Internal *Internal
	// Suspect is true while the peer leaves requests unanswered that were
	// repeated more than once.
	Suspect     bool
	Resumed     bool // made by a ticket (RFC 5723), and not rekeyed yet
	Established time.Time
	// Rekey and Expire are when the SA will be replaced and must end, zero for
	// never.
	Rekey, Expire time.Time
	// Reauth is when this end will have the identities proved anew, or ends the
	// SA if they are not; zero for never.
	Reauth time.Time
}

// ChildStatus describes one Child SA.
type ChildStatus struct {
	// Name is that of the ChildConfig.
	Name string
	// State is a word such as "installed" or "deleting".
	State string
	// InboundSPI is ours, OutboundSPI the peer's. Outbound is true if outgoing
	// traffic takes this SA.
	InboundSPI, OutboundSPI uint32
	Outbound                bool
	IKE                     wire.SPI // our SPI of the IKE SA that controls it
	Suite                   suite.ESPSuite
	LocalTS, RemoteTS       []ts.Selector
	Installed               time.Time
	Rekey, Expire           time.Time
}

// Stats counts what a tunnel received and did since it was made.
type Stats struct {
	// Received and Sent count datagrams; Retransmitted those sent again.
	Received, Sent, Retransmitted uint64
	// Dropped counts datagrams that were not accepted, by reason.
	Malformed, UnknownSPI, WrongState, WrongMessageID, Unauthentic, QueueFull uint64
	// WrongFragment counts fragments that are repeated, contradict others or
	// were not negotiated (RFC 7383, Section 2.6).
	WrongFragment uint64
	// Hints counts unauthenticated notifications that led to no change.
	Hints uint64
}
