package plan

import (
	"github.com/swanherd/swanherd/proto/digest"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// A Plan is what every edge is to run, as of one revision of the topology.
type Plan struct {
	// Revision of the topology that the plan is made from.
	Revision int64
	// Intents by the edge's name, `networks/{network}/edges/{edge}`. A row's
	// revision is that of the plan in which the intent last changed.
	Intents model.Table[*Intent]
	// Tunnels by name, with mesh, and per end edge, site, uplink, endpoint,
	// prefixes and initiator set, and planned_revision, which is the row's: that
	// of the plan in which the tunnel last changed. The rest is for the fleet's
	// state to fill in.
	Tunnels model.Table[*swanherdv1.Tunnel]
}

// An Intent is what one edge is to run, as content-addressed resources.
type Intent struct {
	// Edge is `networks/{network}/edges/{edge}`.
	Edge string
	// Resources: "settings", "trust" and one per tunnel, under its name.
	Resources *digest.Set
}

// Changes is how a plan differs from the one before. Names are sorted.
type Changes struct {
	// Intents are the edges whose set digest changed, or that are new.
	Intents []string
	// RemovedIntents are the edges that are gone.
	RemovedIntents []string
	// Tunnels are those that are new or changed.
	Tunnels []string
	// RemovedTunnels are those that are gone.
	RemovedTunnels []string
}

// Make plans the whole topology.
func Make(t *model.Topology) *Plan {
	p, _ := NewPlanner().Update(t)
	return p
}
