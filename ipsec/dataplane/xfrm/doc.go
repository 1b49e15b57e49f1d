// Package xfrm is the data plane of the Linux kernel: its IPsec stack, XFRM, set
// up over netlink.
//
// It owns the states (SAs), the policies and the XFRM interfaces of one plane in
// one network namespace, and the UDP sockets of the NAT traversal port, which the
// kernel takes ESP from and leaves IKE to us. Packets never pass through this
// process. Routes into the interface are the caller's, as with package userspace.
//
// What is ours in the kernel is known by its interface IDs, and in transport mode,
// which needs no interface, by its request IDs.
//
// # Labels
//
// Traffic of a label ([dataplane.SA]) has an XFRM interface of its own, maybe in another
// network namespace, with an ID of its own ([dataplane.Label]). States and policies of that
// ID are matched with what comes from there and with nothing else.
//
// # What an earlier process left
//
// A process that ends without Close, such as one that was killed, leaves interface,
// policies and states, and they go on: what is protected stays so. Only what arrives
// in UDP has to wait for the next process, as its socket is what the kernel takes ESP
// from. That process takes all of it over. A child with the same selectors goes on
// with the outbound SA that is there until it has its own; what nothing took the place
// of is removed after Config.Adoption.
//
// # What the kernel does differently
//
// It tells neither of packets with an unknown SPI nor, for each SA, of those that
// its selectors refuse. That an inbound SA is used is found by looking. Limits take
// effect with the first packet after them. There are no dummy packets.
//
// Of several tunnels with equal selectors the kernel has the policy of one, which is that of
// the lowest rank ([dataplane.Ranking]) for traffic of no class; another takes its place by
// one call.
//
// It drops packets for which it has no SA. So that the first of them wait, policies
// without an SA lead to one whose peer is a socket of this process on loopback.
//
// The MTU of a path is that of the route to the peer. What IKE finds out about it is for
// the routes into the interface: [Plane.InnerMTUs] says what they are to have. Transport
// mode has no such routes: there the kernel is told by ICMP, as by a router.
//
// # ESP in TCP
//
// Where the kernel is built with it, it takes TCP connections over ([Plane.TakeStream]): ESP
// goes in and out by SAs with the addresses and ports of a connection, and the caller is
// left with IKE messages. A message that does not go on ends the connection after the time
// that the caller gives. Nobody tells of packets that fail their integrity check, by
// which one would know that a connection is corrupt. An SA for UDP takes nothing that comes
// by TCP, nor the reverse, so that it does not tell of such packets either. How long packets
// may be goes by the path, as in UDP. Transport mode is refused: its policies would take the
// connection itself.
//
// What it decrypts of merged segments is dropped by the interface that it is to be forwarded
// by, if it is not TCP: whole bursts of datagrams (seen with Linux 6.8). So it is for those
// who want the kernel's in spite of that.
//
// # What others do
//
// Whoever has the right to can change what is ours in the kernel. Policies that were
// removed, changed or added are put right, states that were moved are put back, and those
// that were removed are over; [Plane.Drifts] tells of all of it.
//
// # What depends on the kernel
//
// Addresses change by making states anew, with the sequence numbers that the kernel tells
// when it has removed them, and not by its XFRM_MSG_MIGRATE: that is not in every kernel,
// takes one of the states that a policy could use, and copies sequence numbers that may
// still be given out. XFRM_MSG_MIGRATE_STATE of Linux 7.2 is about one state, but wants the
// same policies that block meanwhile. What somebody else migrates of ours is put back.
//
// A network interface may do the cipher (XFRMA_OFFLOAD_DEV), if it is asked: see
// [Config.Offload]. The other kind of offload, of whole packets with their policies, is
// not there: the only device that the tests have, which is imitated, refuses it, and it
// takes no XFRM interface into account.
//
// What newer kernels can do is found when the plane begins, by an SA that is made with
// it and read back: older ones leave out what they do not know. Since Linux 6.10 an SA
// has a direction, and the kernel refuses it the other way. Since 6.13, and with updates of
// 6.12, an outbound SA can be one CPU's alone (RFC 9611): a child then has one for each CPU
// that is online, and one for all, which carries everything while a CPU has none of its
// own, such as one that has come. The CPU is that on which a packet comes to the interface.
//
// # Netlink
//
// Messages are built on package nl of github.com/vishvananda/netlink, in conn.go and
// netlink.go: its own states lack what a gateway needs (IPv6 within IPv4 on one SA,
// large replay windows without ESN, sequence numbers that go on, several requests in
// one call, events other than expiry).
//
// # Standards
//
// RFC 4301 (architecture), RFC 4302 (AH), RFC 4303 (ESP), RFC 3948 (UDP
// encapsulation), RFC 9329 (TCP encapsulation), RFC 9478 (labels), RFC 9611 (SAs for single CPUs).
package xfrm
