// Package reconcile makes the edge run what its intent says.
//
// It has a pure part and one with effects. [NewPlan] turns an intent, the
// edge's own credentials and what the host looks like into configurations of
// tunnels and routes, or into errors that name the resource and the field; an
// intent with one error is refused as a whole. [Reconciler] brings the engine
// and the host to a plan, as often as it is asked to: what is right already is
// not touched, so that it is called after every change of anything, and at
// intervals, without a thought about which change it was.
//
// Domain names of peers it looks up by the way. A tunnel whose peer has no address yet
// waits as one for a peer that initiates: its policies stand, so that nothing leaves in clear.
//
// A tunnel whose intent names an uplink stays with it. While nothing can leave by that, the
// tunnel is told to be stranded and keeps its SAs and addresses; when something can again, the
// engine is told, with the addresses that there are then.
//
// What somebody else did to the interface or to its routes it mends, when the kernel
// tells of it and at intervals, and tells what it found.
//
// It never speaks IKE and never talks to the controller.
//
// # Order
//
// Tunnels first, so that their policies stand before traffic is led to them,
// then new routes, then the removal of old ones.
//
// # Concurrency
//
// A Reconciler serialises its methods itself.
package reconcile
