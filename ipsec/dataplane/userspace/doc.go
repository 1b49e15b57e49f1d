// Package userspace is the data plane in user space: ESP in UDP (RFC 3948)
// between a TUN interface and one UDP port, and ESP and AH without UDP.
//
// It owns the interface, the sockets of the NAT traversal port, raw sockets, the security
// policy database and the state of every SA. It never negotiates, sets no
// address and no route, and sends nothing in clear: what reaches the interface
// leaves under an SA or not at all (RFC 4301, Section 5.1).
//
// # How a packet moves
//
// A worker is two goroutines that run to completion, with no channel on their path and
// one lock for each batch.
//
// The transmitter reads a packet from the interface, or a TCP or UDP super-packet
// of up to 64 KB, finds its policy and SA, and seals segment after segment
// straight into a buffer that leaves as one segmented send (UDP_SEGMENT). It
// sends when a buffer is full or the interface is empty. A buffer is for one peer, not
// one SA, and buffers for several peers leave in one call: packets whose SAs take turns
// leave nearly as fast as those of one.
//
// The receiver takes slabs of merged datagrams (UDP_GRO), or up to 64 datagrams that were
// not merged, for want of a checksum, at a time. It opens each packet in place, checks it
// against the selectors of its SA, and writes adjacent packets of a flow to the interface
// as one super-packet, gathered from where they lie.
// A payload is thus read, encrypted or decrypted, and written, never copied.
//
// Datagrams carry a UDP checksum, although RFC 3948, Section 2.1 recommends
// zero: kernels segment and merge only those that have one.
//
// Which of several tunnels to one place a packet takes, by [dataplane.Ranking], is decided
// with its policy and remembered with it for the flow, so packets of a known flow pay
// nothing. Fragments after the first have no ports and may go by another tunnel than the
// first one does.
//
// What a policy protects while there is no SA is asked for (RFC 4301, Section 5.1). The first
// 16 packets of each child wait for the SA, at most ten seconds: they are those that
// open connections. What waits is bounded for all children together, too.
//
// To send, there is a socket for each source address: what waits for a slow uplink
// fills its own and holds up no other SA. They are not in the runtime's poller, which
// each packet that leaves would wake, as it wakes who waits for room.
//
// # Several workers
//
// By default there is a worker for every two processors. Each has eight queues of the
// interface, from which the kernel gives it whole flows, and eight sockets, to which a
// filter gives it the SPIs of one remainder, by their source. Whoever moves packets of an SA holds it
// until they have left, so that they keep their order, on the wire and behind it: one
// SA is the work of one processor at a time, different SAs are of as many as there are.
// A child may have an SA for each worker ([dataplane.SA.Queue]).
//
// ESP without UDP, and AH, have raw sockets, one for each family and protocol, and a
// goroutine that reads each. The kernel neither segments nor merges there: a system
// call a packet, so that UDP is the faster way without a NAT too.
//
// # Fairness
//
// A transmitter serves its queues in turn, at most 64 packets or some 256 KiB of each.
// What comes faster than it can leave fills its queue, and the kernel drops there what
// finds no room: of other flows those alone whose hash shares that queue, as in stochastic
// fairness queueing. What goes to the host is written to a queue of the same worker, by
// which the kernel has the other side of the flow come then. With one worker it is a
// detached queue, which tells the kernel of no flow: one that changes queues could
// overtake itself.
//
// A receiver serves its sockets likewise, at most a batch of each. What a peer sends faster
// than it can be decrypted, or somebody forges, takes the room of those alone whose
// address and port share that socket, and none of IKE.
//
// # Labels
//
// Traffic of a label ([dataplane.SA]) has an interface of its own, maybe in another network
// namespace, with transmitters and a policy database of its own ([dataplane.Label]). The socket is the
// same for all: what arrives is told apart by its SA.
//
// # Transport mode
//
// A rule of the host leads what it says to its peer into the interface, but for what
// bears [Config.Mark]. The IP header is taken off and made anew at the other end from
// the outer one: DSCP, ECN and addresses stay, the hop limit begins at 64, and DF is
// set. What the host has cut into fragments is put together first, and the kernel cuts
// what carries it (RFC 4303, Section 3.3.4); not on a path on which IKE has found out
// that less arrives, as the kernel would cut for what it believes: such packets are
// dropped. With AH the host's own header goes on the wire, and the plane cuts the packet
// itself.
//
// Options of IPv4 and headers that are read on the way, hop-by-hop options and routing,
// stay before ESP and AH (RFC 4303 and 4302, Section 3.1.1). Packets with them go out with
// the host's own IP header, by the raw socket of AH: a header that the kernel writes would
// record this host as one more on the way. Fragments of such packets, too, are made here. At
// the other end the kernel tells of such headers, and they come before what was protected;
// with AH they are checked, with ESP they are as they came.
//
// What transport mode has no place for is dropped and counted (unfit): fragments whose
// others have not come (RFC 4303, Section 3.3.4: it protects whole packets alone); options
// that are malformed; source routes and routing headers that are not over, as then the
// packet's destination, which the peer's SA is for, is a stop on the way to somebody else;
// and headers for the way where nobody can write them, in a TCP connection or for a process
// without raw sockets.
//
// # Path MTU
//
// The kernel learns the MTU of outer paths from its interfaces and from ICMP; the
// plane asks it every few seconds for the paths in use. TCP connections are made to
// fit it when they open (MSS clamping), in both directions. Inner senders whose
// packets are too long are told by ICMP; what may be fragmented is, by the kernel
// behind the encryption. Outer fragments are put together by the kernel.
//
// Where IKE has found out that less arrives ([dataplane.SetPathMTU]), that holds, and what
// may be fragmented is before it is encrypted: behind that, nobody knows to what size.
//
// Inner fragments are not put together: after the first they have no ports, and an
// SA whose selectors name ports discards them (RFC 4301, Section 7). Such SAs need
// senders that keep to the path MTU; selectors of any port take fragments.
//
// # Traffic flow confidentiality
//
// An SA may pad its packets and fill its silence with dummy packets
// ([dataplane.TFC]). A padded packet is copied. With such SAs the transmitter wakes
// by time as well; it sends no dummy packet more often than once a millisecond.
//
// # Concurrency
//
// The cryptographic state, the replay window and the running counters of an SA belong
// to the transmitter or receiver that holds it. A transmitter that has to wait for an
// SA first sends all that it has, and a receiver holds one at a time.
// Apply publishes changes to them by atomic pointers: a persistent trie of
// policies, a table of SPIs, the SAs that carry each child, the endpoint of each
// SA. Everything else is guarded by the plane's lock, which neither of them takes.
//
// # Standards
//
// RFC 4301, Sections 4.4 and 5 (processing) and 8 (path MTU), RFC 4303 (ESP), RFC 4302 (AH),
// RFC 3948 (UDP encapsulation), RFC 9329 (TCP encapsulation), RFC 6040 (ECN), RFC 9478 (labels),
// RFC 7296, Sections 2.8 and 2.23 (rekeying, address changes).
package userspace
