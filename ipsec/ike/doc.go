// Package ike is IKEv2 (RFC 7296) without input and output: one state machine
// per tunnel, that is per pair of peers, and not per IKE SA. Crossing
// initiations, rekeying, the inheritance of Child SAs and the ownership of
// policy all reach across IKE SAs, so one owner decides them.
//
// [Tunnel.Step] takes one [Input] at a given time and never blocks;
// [Tunnel.Next] hands out the [Effect]s that it caused, in the order in which
// they must be carried out; [Tunnel.Deadline] says when the tunnel wants its
// next [Tick]. A responder starts as a [HalfOpen], before it is known which
// tunnel the peer is, and is handed over with [Tunnel.Adopt].
//
// The package starts no goroutine, reads no clock and no socket, takes
// randomness only from [Config], and iterates over no map to make output:
// the same inputs give the same effects.
//
// # Inside
//
// Three layers. The window of an IKE SA (window.go) owns message IDs,
// retransmission and the cached response. The exchange table (exchange.go) says
// which payloads an exchange may and must have in which state, and is checked
// before any handler. The tasks (task_*.go) each are one concern, such as
// rekeying a Child SA; they build requests and handle responses, and have no
// access to sockets or timers.
//
// Each IKE SA handles one message at a time. While a job or a data-plane
// operation that belongs to a message is under way, later messages wait in a
// short queue, so no handler ever sees half of another one's work.
//
// # Addresses
//
// An IKE SA knows two pairs of addresses: that of its messages, and that of its
// Child SAs (path.go). The second follows the first when the peer was proved to be
// there, as one operation of the data plane for all SAs of the tunnel. What moves
// the first is MOBIKE (mobike.go, task_mobike.go), a NAT (nat.go) or TCP (tcp.go). How long
// datagrams on the path may be is found out by probes (pathmtu.go, search.go).
//
// # What never changes state
//
// A message that is not authenticated: it is counted and dropped, or at the
// most causes a liveness check (RFC 7296, Sections 2.4 and 2.21.4). Message
// IDs are checked before any cryptography.
//
// # Concurrency
//
// A Tunnel and a HalfOpen belong to one goroutine. The functions in [StartJob]
// are pure and may run anywhere.
//
// # Standards
//
// RFC 7296 (IKEv2), RFC 3948 (UDP encapsulation), RFC 4478 (authentication
// lifetime), RFC 4555 (MOBIKE), RFC 5685 (redirection), RFC 5723 (session
// resumption), RFC 6023 (childless initiation), RFC 6290 (quick crash detection),
// RFC 6311 (message IDs of clusters), RFC 7427 and RFC 8420 (signatures), RFC 9593
// (announcing authentication methods), RFC 7383 (fragmentation), RFC 9242 and RFC 9370
// (additional key exchanges), RFC 8784 and RFC 9867 (post-quantum preshared keys),
// RFC 8899 (path MTU discovery), RFC 9329 (TCP encapsulation), RFC 9478 (labels),
// RFC 9611 (several Child SAs for the same selectors).
// Section by section: ../RFC.md.
package ike
