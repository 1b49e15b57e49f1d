// Package alert decides which alerts there are: a state machine that is told what
// changed in the fleet, and says which alerts begin to fire and which are resolved.
//
// It is pure: Step(now, input) has the transitions as its result, does no I/O and reads
// no clock. A step costs what changed and what is wrong, not what there is. What it
// returns is to be stored and told by the caller; a machine that is made from the alerts
// that are stored as firing goes on where another one ended, with another replica.
//
// A condition is answered yes, no, or unknown: of what cannot be known right now, as how
// a tunnel is neither end of which has reported since the controller started, nothing
// begins and nothing ends.
//
// A Machine is for one goroutine.
package alert
