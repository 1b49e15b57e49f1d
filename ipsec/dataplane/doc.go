// Package dataplane is the seam between the part of IPsec that negotiates
// (package ike, driven by package engine) and the part that moves packets.
//
// It owns the vocabulary of that seam: what a security association and a
// policy are to a data plane ([SA], [Policy]), the operations that change them
// ([Op]), what a data plane reports back ([Event], [Counters]), and the
// [Plane] interface itself. The implementations live below it: one on the
// kernel, one in user space on TUN and UDP, and package memory, an in-memory
// double for tests. Package planetest is the conformance suite that all of
// them pass.
//
// It never negotiates, keeps no timers of the protocol and decides nothing:
// every choice (when to rekey, which address to follow, when to remove) is
// made by the IKE machine and arrives here as an operation.
//
// # Ownership
//
// A policy belongs to its tunnel and not to an SA, so that traffic which is to
// be protected is never sent in clear while an SA is missing: an [Acquire] event
// asks for an SA (RFC 4301, Section 4.4.1 and 5.1). A few packets of each policy may wait
// for it, for a bounded time; they then go through the policies as they are when it
// comes. All others are dropped.
//
// # Several ways to one place
//
// Tunnels that lead to the same place by different uplinks have policies that match the
// same packets. A [Ranking] says which goes first, for each class of traffic, and shares
// the flows between those of equal rank; [RankingPlane] has the rules. Who measures the
// ways and makes the ranking is above, and it is only about what is sent: no ranking takes
// a packet out of protection, and none keeps one from being received.
//
// # Concurrency
//
// Apply is called by one goroutine at a time, in the order in which the caller
// wants the operations to take effect. All other methods of a Plane may be
// called from any goroutine, at any time, also during Apply.
//
// # Standards
//
// RFC 4301 (architecture), RFC 4303 (ESP), RFC 3948 (UDP encapsulation),
// RFC 7296, Sections 2.8 (rekeying) and 2.23 (NAT traversal).
package dataplane
