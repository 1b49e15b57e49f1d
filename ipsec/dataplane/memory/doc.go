// Package memory is the in-memory double of a data plane, for tests of the
// packages above it. A [Switch] joins two or more planes as a network would
// and can lose, delay, repeat and rewrite what passes; it carries IKE messages
// and protected packets alike, so whole engines talk to each other without a
// socket, also in the virtual time of testing/synctest.
//
// It keeps every rule of dataplane.Plane that planetest checks, with one
// difference: packets are not encrypted. A packet carries the key it was
// "sealed" with, and the receiver compares that with its own, so wrong keys,
// wrong SPIs and a wrong order of operations show as they would on the wire.
//
// # Concurrency
//
// Everything may be called from any goroutine. Deliveries without a delay run
// on the sender's goroutine.
package memory
