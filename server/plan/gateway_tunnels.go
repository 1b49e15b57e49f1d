package plan

import (
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// A GatewayTunnel is a tunnel of a gateway with what its edge has for it.
type GatewayTunnel struct {
	Tunnel *swanherdv1.Tunnel
	// Priority of the edge, lower goes first.
	Priority uint32
	// Intent is without the pre-shared key.
	Intent *swanherdv1.TunnelIntent
}

// GatewayTunnels are the tunnels that the topology plans with a gateway, by the edge's
// name.
func GatewayTunnels(t *model.Topology, name model.GatewayName) []GatewayTunnel {
	n := newNetwork(t, model.SegmentName{Network: name.Network}, &network{}, nil)
	var out []GatewayTunnel
	for row := range t.Edges.InNetwork(model.NetworkName{Network: name.Network}) {
		n.eachGateway(n.edges[row.Name], func(g *gateway) {
			if g.id != name {
				return
			}
			if l := n.newGatewayLink(g, n.edges[row.Name]); l != nil {
				priority, _ := model.Attaches(g.spec, row.Name, n.edges[row.Name].site.labels)
				out = append(out, GatewayTunnel{Tunnel: l.tunnel, Priority: priority, Intent: l.a})
			}
		})
	}
	return out
}
