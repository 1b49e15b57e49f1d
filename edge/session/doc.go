// Package session holds the edge's one conversation with its controller.
//
// It owns the edge's side of EdgeControlService, protocol version 1: Hello with
// what the edge runs, the assembly and the check of intent updates, Ack and
// Nack, Confirm, heartbeat, health reports, and coming back after a loss with backoff
// and full jitter. When the controller asks it to begin anew, or to go elsewhere, it is
// welcomed there before it leaves.
//
// It never decides whether an intent is good (that is who implements Intent)
// and never touches tunnels: with the controller gone the edge goes on as it is.
//
// # Concurrency
//
// One goroutine owns a session's stream for sending and all of its state; one
// more reads the stream; one applies an update while the stream is served. The
// methods of Client may be called from any goroutine. Reports are taken from
// their source when they are sent, so a slow controller gets the latest state
// and nothing piles up.
package session
