// Package rollout decides how a change goes through a fleet: which edges get it when,
// whether they are well with it, and when it is taken back. It is pure: Step is given
// the time and a view of the fleet, and says what the rollout is next.
//
// A rollout holds an order of edges and how many of them have the change (package plan
// composes what each edge is to run from that). A batch is a part of the order. It ends
// when it was good for its bake time without a break:
//
//   - all of it is admitted, and enough of its edges confirmed what they run;
//   - the tunnels that were up when it began are, and so are those that it added;
//   - what is asserted holds, by the plan and over tunnels that are up.
//
// A batch that is not good for longer than the settle timeout fails, and one of whose
// edges more refuse the change or take it back than may fails at once. Then the change
// is taken back, or an operator decides, as the policy says.
package rollout
