package dataplane

import (
	"net/netip"
	"time"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// SA is one security association, in one direction. An inbound SA is
// identified by its SPI, which this host chose; an outbound one by its tunnel
// and SPI, as two peers may choose the same.
type SA struct {
	SPI       uint32
	Direction Direction
	Tunnel    string // the owner: the unique name of its tunnel
	Child     string // the child's name within the tunnel; stays over rekeys
	// Queue tells outbound SAs of one child apart that share its traffic (RFC
	// 9611): those of different queues are used side by side, by different
	// processors, and of each queue the one installed last.
	Queue int
	// PeerSPI is, on an outbound SA, the SPI of the inbound SA of the same
	// pair, and the other way about. 0 if there is none (yet).
	PeerSPI uint32

	Mode Mode
	// Local and Remote are the outer addresses. With ports, ESP is
	// encapsulated in UDP between them (RFC 3948); with port 0 it is sent
	// as IP protocol 50. A plane that can only do one says so by an error.
	Local, Remote netip.AddrPort
	// TCP has ESP go in the TCP connection between Local and Remote (RFC 9329)
	// instead. Only a StreamPlane and a StreamTaker can.
	TCP bool

	// PathMTU is the longest outer datagram, in octets with its IP header, that is
	// known to reach Remote where the host would send longer ones; 0: the host
	// knows the path. A plane that cannot use that does without.
	PathMTU int

	// Translated says that a NAT is on the way of an SA in transport mode: what
	// arrives has checksums of TCP and UDP for other addresses (RFC 3948, Section
	// 3.1.2), which the integrity check makes needless.
	Translated bool

	Suite suite.ESPSuite
	// Key is the key material of this direction as suite.DeriveChildKeys
	// gives it: the encryption key with its salt, then the integrity key.
	// The plane copies it; the caller may zero it after Apply.
	Key []byte

	// ReplayWindow is the size of the inbound window in packets, 0 for the
	// plane's own.
	ReplayWindow int

	// LocalTS and RemoteTS are what was negotiated: an inner packet outside
	// of them is neither sent nor accepted.
	LocalTS, RemoteTS []ts.Selector

	// Label tells apart traffic whose addresses may be the same (RFC 9478): what the SA
	// carries comes from where the plane has traffic of that label come from, and goes
	// there. A plane that has no such place refuses the SA. Empty: the plane's interface.
	Label string

	Limits Limits

	// Outer says how the outer header is made. It is of outbound SAs in tunnel
	// mode alone.
	Outer Outer

	// TFC hides lengths and silence. It is of outbound SAs in tunnel mode alone.
	TFC TFC
}

// Limits bound the use of an SA (RFC 4301, Section 4.4.2.1); 0 is no limit. At the
// soft one an event asks for a rekey, at the hard one the SA carries no more
// traffic.
type Limits struct {
	SoftBytes, HardBytes     uint64
	SoftPackets, HardPackets uint64
	// SoftTime and HardTime count from the installation. The IKE machine keeps
	// the time itself: these are for SAs that it is no longer there to remove.
	SoftTime, HardTime time.Duration
}

// Action is what a policy does with a packet (RFC 4301, Section 4.4.1).
type Action uint8

// The three actions. The zero value is Protect.
const (
	Protect Action = iota
	Bypass         // pass it on in clear
	Discard
)

func (a Action) String() string {
	switch a {
	case Protect:
		return "protect"
	case Bypass:
		return "bypass"
	case Discard:
		return "discard"
	}
	return "unknown"
}

// Policy says which traffic a child of a tunnel protects, or what else is done
// with it. It belongs to the tunnel and outlives every SA: while the child has no
// outbound SA, the first packets that match may wait for one, as a plane has room for
// them, and the others are dropped.
//
// Of several outbound SAs of one child, as they are during a rekey, the one
// installed last carries the traffic (RFC 7296, Section 2.8); when it is
// removed, the one installed before it does again. All inbound ones receive.
type Policy struct {
	Tunnel, Child string
	Action        Action
	// Mode is that of the SAs. In transport mode the selectors are between this
	// host and its peer themselves.
	Mode Mode
	// LocalTS and RemoteTS are matched with the source and destination of
	// outbound packets. Both must match.
	LocalTS, RemoteTS []ts.Selector
	// Label is that of the traffic, as in SA: no policy matches traffic of another. An SA
	// of another label than its policy's sends nothing.
	Label string
	// Priority decides between policies that match the same packet: a lower
	// value goes first. Among equals the longest remote prefix goes first, and of
	// equal prefixes one whose child has an outbound SA, so that of several tunnels to
	// the same place one that is up carries the traffic.
	Priority uint32
}

// InstallSA adds an SA. Installing the same SA again changes nothing; another
// SA under the same identity is refused, as its sequence numbers would begin
// anew under the same key.
type InstallSA struct{ SA SA }

// SetPolicy adds a policy, or replaces that of the same tunnel and child.
type SetPolicy struct{ Policy Policy }

// Owner implements Op.
func (o InstallSA) Owner() string { return o.SA.Tunnel }

// Owner implements Op.
func (o SetPolicy) Owner() string { return o.Policy.Tunnel }

func (InstallSA) op() {}
func (SetPolicy) op() {}
