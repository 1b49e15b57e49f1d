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
// is on trial until the edge has said in a session that it runs it and awaits no critical
// tunnel, and was told to keep it; what an edge took back it gets again when it is another one, and a few
// times later on.
//
// An edge that runs what comes from a history of the store that this controller does
// not share, as after a restore from a backup, is paused until an operator gives that
// up. An edge hears at least each minute that it has all there is. A session begins
// anew every hour or two, the new one before the old one goes, so that edges spread
// over the replicas that there are. Of a fleet that comes back all at once some wait,
// and some are told when to come. A loaded server asks for counters seldom, or not at
// all, and takes every transition. An edge that says too much waits itself; one that
// takes nothing, or answers what it was never sent, is let go. Every field of what an edge
// says has a bound, in bounds.go: words and lists are cut, and what has no meaning when it is
// cut ends the session. A defect that a message leads to ends the session of its edge, and
// none of the others.
//
// It never plans (see Board: the planner's results are put there), never
// decides a tunnel's status (package fleet does) and stores nothing.
//
// Concurrency: Board and Server may be used from any goroutine. A session's state is
// guarded by its mutex. One goroutine at a time reads its stream, and one writes while there is
// something to write: the receiver waits for nothing that the edge has to do. What is
// due by the clock Server.Run does, once a second for all of them.
package session
