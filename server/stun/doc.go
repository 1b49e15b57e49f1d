// Package stun tells edges what their UDP port of IKE and ESP looks like from outside:
// it answers Binding requests of STUN (RFC 8489) on two ports.
//
// An edge asks from UDP port 4500, which its data plane has, and the kernel's takes
// whatever comes there for ESP unless it begins with the non-ESP marker (RFC 3948, Section
// 2.2). So a request may come with one, and its answer has one too.
//
// # What strangers can do
//
// Anybody may ask, under anybody's address: a NAT is between, and there is nothing to know
// but where the question came from. Therefore an answer is never longer than its request
// (an edge sends a SOFTWARE attribute that makes room for it), only requests are answered,
// each source has a rate, nothing is kept of a request, and one that is longer than
// any edge's is dropped unread. [Answer] is pure; a [Server] has the sockets and one
// goroutine for each of them.
package stun
