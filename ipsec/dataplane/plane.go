package dataplane

import (
	"errors"
	"net"
	"net/netip"
	"time"
)

// ErrClosed is returned by every call on a plane after Close.
var ErrClosed = errors.New("data plane is closed")

// ErrTooLong is returned by SendProbe.
var ErrTooLong = errors.New("the datagram is too long for the interface that it leaves from")

// Plane moves packets. All implementations pass planetest.Run.
type Plane interface {
	// Name is what a person calls this implementation: "userspace",
	// "kernel" or "memory".
	Name() string

	// AllocateSPI reserves an SPI for an inbound SA: at least 256
	// (RFC 4303, Section 2.1), unpredictable, and unique among all inbound
	// SPIs of this plane, reserved or installed. Replaces is the SPI of the
	// inbound SA that the new one is to take over from, zero if there is none:
	// where several processors share the inbound SAs by SPI, both are the
	// same one's, so that a rekey leaves packets in order. The reservation
	// ends when an SA of that SPI is removed, also if it was never installed.
	// It does not block.
	AllocateSPI(replaces uint32) (uint32, error)

	// Apply carries out ops in order and returns one result for each, nil
	// for success. An op that fails changes nothing and does not stop those
	// after it. Every op is idempotent: installing what is installed,
	// removing what is absent and setting what is set succeed and change
	// nothing. Apply may block on the kernel.
	Apply(ops []Op) []error

	// Counters returns a snapshot for every installed SA, ordered by
	// tunnel, child, direction and SPI.
	Counters() []Counters

	// Listen makes the plane deliver the IKE datagrams that arrive on its
	// NAT traversal port (UDP 4500, RFC 3948, Section 2.2). It is called
	// once. Deliver runs on the plane's receiving goroutines, maybe several
	// at once, and must not block.
	Listen(deliver func(IKEDatagram)) (IKESender, error)

	// Events returns the one channel of events. A plane never waits for its
	// reader: an event that finds the channel full is dropped, and those
	// whose cause lasts (Acquire, SoftExpire, HardExpire, MappingChanged)
	// are raised again while it does. The channel is closed by Close.
	Events() <-chan Event

	// Close removes every SA and policy of this plane, closes its sockets
	// and devices and waits for its goroutines. Closing twice is no error.
	Close() error
}

// StreamPlane is a Plane that can send ESP in TCP connections (RFC 9329), which
// somebody else keeps.
type StreamPlane interface {
	Plane

	// JoinStreams ties the plane to the connections and is called once. From
	// then on it takes SAs with TCP, hands their packets to send, and takes
	// those that arrive by the function that it returns, which may be called
	// by several goroutines at once and after Close.
	JoinStreams(send StreamSend) (StreamReceive, error)
}

// StreamSend takes an ESP packet for the connection between two endpoints. It
// does not keep it and does not block: a packet that finds no connection, or no
// room in it, is lost as it may be in the network, and an error says so.
type StreamSend func(local, remote netip.AddrPort, packet []byte) error

// StreamReceive takes ESP packets that arrived on the connection between two
// endpoints, in their order, and returns for how many of them there is an inbound
// SA, and how many of these fail its integrity check. It may change them and does not
// keep them.
type StreamReceive func(local, remote netip.AddrPort, packets [][]byte) (known, forged int)

// StreamTaker is a Plane that takes over the TCP connections that ESP goes in (RFC 9329),
// instead of having its packets handed to somebody who keeps them. Which one an SA uses
// follows from its endpoints; while there is none its packets are dropped.
type StreamTaker interface {
	Plane

	// TakesStreams returns nil if the plane takes SAs with TCP, or why it does not.
	TakesStreams() error

	// TakeStream takes over a connection between two addresses of one family, of a socket
	// of that family. Its prefix (RFC 9329, Section 4) has been sent, or was read and
	// nothing behind it. From then on each Write is one IKE message behind its marker and
	// without a length, and so is each Read, which cuts what is longer than its buffer.
	// A message, or ESP packet, of which that time after its beginning not all is there ends
	// the connection: Read fails. The connection stays the caller's to close.
	TakeStream(conn net.Conn, message time.Duration) error
}

// IKEDatagram is an IKE message that arrived on the NAT traversal port, its
// non-ESP marker (RFC 3948, Section 2.2) taken off.
type IKEDatagram struct {
	Local, Remote netip.AddrPort
	// Data is valid only during the call that delivers it.
	Data []byte
}

// IKESender sends IKE messages from the NAT traversal port.
type IKESender interface {
	// SendIKE sends one message of at most 65,000 octets; the plane puts the
	// non-ESP marker before it. Where local is the zero AddrPort or has an
	// unspecified address, the host's routing chooses it. SendIKE does not
	// keep b, and does not block: a datagram that cannot be queued is lost,
	// as it may be in the network, and an error says so.
	SendIKE(local, remote netip.AddrPort, b []byte) error

	// SendProbe is SendIKE for a message whose arrival shows that datagrams of its
	// length pass (RFC 8899, Section 3, item 2): neither this host, whatever it has
	// learnt of the path, nor routers fragment it. The error is ErrTooLong if it is
	// too long for the interface that it would leave from.
	SendProbe(local, remote netip.AddrPort, b []byte) error

	// SendKeepAlive sends a NAT keepalive: one octet 0xFF, without a marker
	// (RFC 3948, Section 2.3). The receiving plane drops it unseen.
	SendKeepAlive(local, remote netip.AddrPort) error

	// LocalFor returns the address and port from which a message to remote
	// would leave, or an error if there is no route to it. It does not block.
	LocalFor(remote netip.Addr) (netip.AddrPort, error)

	// PathMTU returns the longest IP datagram in octets that the host would send to
	// remote whole: by the MTU of the interface, and what it has learnt by ICMP. It
	// does not block.
	PathMTU(remote netip.Addr) (int, error)
}
