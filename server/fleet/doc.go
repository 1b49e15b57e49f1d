// Package fleet owns the live state of the fleet: which edges hold a session,
// what each end last reported of each tunnel, and the status computed from
// both ends. It is the only place where a tunnel's status is decided; the API,
// the dashboard and the metrics show what this package says.
//
// It never talks to an edge, never plans, and keeps nothing durable: what is
// worth keeping leaves as records (events and condensed edge statuses) that a
// Recorder writes to the store. What ten thousand edges say at once, as when the
// controller's own network fails, is told one by one for the first fifty and in one event
// for the rest.
//
// Concurrency: a Fleet's methods may be called from any goroutine. Every
// message it hands out is immutable: a change replaces a row, it never writes
// into one. A reader that falls behind loses intermediate states of a row,
// never the last one, because it asks for what changed since the sequence
// number it has seen and gets each row once, in its present state.
package fleet
