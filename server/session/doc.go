// Package session is the controller's end of the edges' sessions: one
// bidirectional stream per edge, on which intent flows down and
// acknowledgements and health flow up.
//
// Its rules: a resource is named by its content, so an edge that has what it
// should have gets no intent octets; one update is in flight per edge and what
// changes meanwhile merges into the next one; an update is a snapshot or a
// delta against what the edge acknowledged; an edge is in sync only when it
// says so itself. There is no queue per edge that could overflow: a slow edge
// loses intermediate intents, never the last one, and slows nobody else. An update
// is on trial until the edge has said in a session that it runs it, and was told to
// keep it; what an edge took back it gets again when it is another one, and a few
// times later on.
//
// It never plans (see Board: the planner's results are put there), never
// decides a tunnel's status (package fleet does) and stores nothing.
//
// Concurrency: Board and Server may be used from any goroutine. A session is
// owned by the goroutine of its RPC; a receiver and a sender goroutine only
// move messages.
package session
