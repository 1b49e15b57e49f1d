// Package plan turns a topology into what every edge is to run: a pure,
// deterministic function.
//
// Both ends of a tunnel come out of one computation, so that they cannot
// disagree. A Planner remembers what it planned, and recomputes only what a
// change of the topology touches; the result is the same as that of Make.
//
// While a rollout brings a change to the edges by and by, a Composer makes the plan of
// what there is and of what is to be.
//
// The package does no I/O, reads no clock, and leaves no goroutine behind: the versions of
// many links all processors compute. A Planner is for one goroutine; a Plan is immutable
// and may be read from any.
//
// The rules of a plan:
//
//   - Two sites are connected when a mesh connects them; when several do, the
//     first by name says how. Every enabled edge of one is connected with every
//     enabled edge of the other, over the preferred pair of their uplinks, or each pair that
//     the mesh wants. These are a group: they carry the same, and the edges choose. Each has
//     its uplinks in its name and so is the same one whichever others there are.
//   - A tunnel needs something to protect on both ends: sites without prefixes
//     get none.
//   - Segments other than the default one are planned each by itself, as if there were no
//     other: with the prefixes that the sites have in it, the meshes that carry it, and
//     tunnels of its own, which alone bear its label.
//   - The edge with the lower id initiates, unless only its own address is
//     known.
//   - With transit, the hubs that have an enabled edge carry the traffic between spokes,
//     except between those that are connected directly. A spoke's tunnels to several of them
//     are a group, in which the first hub goes first, by its label or its name.
//   - A regional mesh is a hub-and-spoke mesh for each region and a full one of all
//     hubs. With transit, a region's first hub carries for its spokes what is in the
//     other regions, and for the other regions' hubs what its spokes have.
//   - A gateway has a tunnel with each enabled edge that is attached to it. Only the edge has
//     an intent of it; the gateway's end is told by package gatewayconfig. What the profile
//     leaves open is what others know.
//   - A Child SA has at most maxSelectors traffic selectors per side, since a
//     payload cannot hold more than 255 (RFC 7296, Section 3.13) and has to
//     reach the peer in few packets; more prefixes make more Child SAs.
package plan
