// Package nat finds out how NATs show the port of IKE and ESP to the outside, and keeps
// them open for peers. It does no I/O and reads no clock: whoever runs it sends what it
// says, hands it what comes, and calls it again at its Deadline.
//
// A [Prober] asks the controller's STUN servers (RFC 8489) from each address of each uplink.
// What several of them see of the same socket says how the NAT maps it (RFC 4787, Section
// 4.1): each the same, and peers can be told that; or something else each, and they cannot.
//
// It asks every two minutes behind a NAT and seldom without one, at once when an address is
// new or a session with the controller began, as one that was lost may have been lost by
// a NAT that has forgotten everything. That does not keep a mapping alive, as a NAT may
// forget after two minutes (RFC 4787, REQ-5), nor does it have to: a tunnel that is up keeps
// its own (RFC 3948, Section 4), and one that is down is tried, or waited for by an [Opener].
//
// What a NAT, or who forges answers, makes of it cannot make an edge oscillate: a mapping that is
// another one each time is reported as one that depends on the destination, which peers do
// not go by, until it was the same for a while.
package nat
