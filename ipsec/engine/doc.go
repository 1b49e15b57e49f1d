// Package engine runs IKE: it gives the machines of package ike their
// sockets, their time, their processors and their data plane.
//
// It owns the tunnels of a host ([Engine.Apply] takes the whole desired state),
// the loops that run them, the half-open responders before their tunnel is
// known, the admission of strangers, and what a person sees of all that
// ([Engine.Status], [Engine.Subscribe], [Engine.Counters]). It never takes part
// in the protocol: what is sent, when, and with which keys is decided by the
// machines. It does not own the data plane, which its caller makes and closes.
//
// # How a datagram goes
//
// A receiving goroutine looks at the header ([DropReason] lists what it
// refuses), finds the loop by our SPI, and puts a copy into the loop's bounded
// mailbox; an SPI that is not ours, and what does not fit, is dropped and counted. IKE_SA_INIT requests go to
// the front loop, after their source's rate and, under load, a cookie (RFC
// 7296, Section 2.6) have been checked. Until then a stranger costs no memory.
// In the front, a handshake is followed up to the peer's identity, which
// chooses the tunnel by (IDi, IDr, local address, remote address); the
// half-open IKE SA is then handed to the loop of that tunnel.
//
// # Tunnels that take the place of others
//
// A tunnel that is not wanted any more and is up goes when one that is wanted, between the same
// identities and for some of the same packets, is up too, or after a minute. Until then
// peers that begin are given to the others, and it begins nothing itself.
//
// # TCP
//
// Where UDP does not pass, IKE and ESP share TCP connections, which the engine opens,
// accepts and closes. It cuts them into messages and hands ESP packets to and fro, or, if
// the data plane takes connections over (dataplane.StreamTaker), passes IKE messages alone.
//
// # Concurrency
//
// Each tunnel belongs to one loop, a goroutine with one heap of deadlines.
// Nothing in a loop blocks: key exchanges and signatures run in a pool, in
// which established tunnels go before handshakes; one writer changes the data
// plane, in the order in which a tunnel asked for it; both answer by message.
// A machine that panics takes its own tunnel down and nothing else.
//
// All exported methods may be called from any goroutine. Status, Counters and
// Subscribe read what was published and never wait for a loop.
//
// # Standards
//
// RFC 7296, Sections 1.5 and 2.21.4 (messages outside of IKE SAs), 2.1 to 2.3 and
// 2.6 (SPIs, cookies), 2.23 (ports 500 and 4500); RFC 3948 (the plane's socket);
// RFC 5723 and RFC 6290 (what is kept for the next start); RFC 9329 (TCP
// connections).
package engine
