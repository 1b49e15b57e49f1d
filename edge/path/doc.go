// Package path chooses which of several tunnels that carry the same prefixes by different
// uplinks has the traffic, for each class of it.
//
// It owns the choice and nothing else: package probe tells whether a path is alive and how
// good it is, and a [Consumer], the data plane, has packets go where they are to. Nothing
// here brings a tunnel up or takes it down.
//
// [Chooser] does no I/O and reads no clock; what it says depends on what it was told and when
// alone. [Service] feeds it, in one goroutine.
//
// # Rules
//
// In this order: a path that is dead is not used while one lives; one within the SLA of the
// class comes before one that is not; then the one of the first hub, if they lead to several; then the one of a transport that the class wants; then the one of less cost; then one that is not metered.
// Paths between which there is nothing to choose share the load. If all are dead the last
// ones stay: their policies stand, so nothing leaves in clear (RFC 4301, Section 5.1).
//
// Between being within its SLA and being dead a path may be browning out, which is losing a
// tenth of its probes, or a third, or nearly all; or on trial, which is having come back from
// the dead, or being suppressed. Each is worse than the one before, and nearly all lost is
// worse than on trial.
//
// A path of which nothing is known yet, as its peer has answered no probe, is as good as IKE
// says. If the peer answers on another path of the group it has to answer on this one: a way
// that takes IKE and no ESP shows so.
//
// # Why it does not oscillate
//
// Each path has a level for each class, and it is by levels that paths are compared. A level
// becomes worse at once, so that a path that fails is left at once; it becomes better only when
// the path was better for 10 s. The thresholds themselves have a margin: a path is clear of loss
// below half of where it began, of an SLA's limit at nine tenths. Each time that a path gets
// worse is a flap, and one that flaps again and again is suppressed until it was quiet for
// minutes, as RFC 2439 does with routes. So with one path that is good the others can make
// traffic move a few dozen times in an hour at most, whatever they do or say; a test holds that.
//
// # Times
//
// With the probes at their defaults a path that goes dark is left in about 650 ms, if the round
// trip is less than 100 ms; in less than a second up to 200 ms. A path that loses a third is left
// within 5 s. One that takes packets of one direction alone is left within 2.5 s if it is the
// outbound one, and as one that went dark if it is the inbound one: the peer's packets are what
// tells loss from death.
//
// # Concurrency
//
// A Chooser is for one goroutine at a time, a Service for any.
package path
