package plan

import (
	"fmt"
	"testing"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// The name of a tunnel says what it is between, whatever the ids are and in which segment.
func TestEndsOfTunnelsAreInTheirNames(t *testing.T) {
	b := newBuilder()
	b.segments("corp", "gw")
	ids := []string{"a", "a--b", "b--c", "c", "b--c--d"}
	for i, id := range ids {
		b.site(id, nil, fmt.Sprintf("10.%d.0.0/16", i))
		b.siteSegment(id, "corp", fmt.Sprintf("10.1%d.0.0/16", i))
		b.siteSegment(id, "gw", fmt.Sprintf("10.3%d.0.0/16", i)) // as names of gateways' tunnels end
		b.edge(id, id, uplink("wan", fmt.Sprintf("192.0.2.%d", i+1)))
	}
	mesh := fullMesh(allSites)
	mesh.Segments = []string{"networks/demo/segments/default", "networks/demo/segments/corp", "networks/demo/segments/gw"}
	b.mesh("all", mesh)
	b.key("k", "1")
	for i, id := range ids {
		g := &swanherdv1.Gateway{
			Address: fmt.Sprintf("203.0.113.%d", i+1), Prefixes: []string{fmt.Sprintf("10.2%d.0.0/16", i)},
			Authentication: &swanherdv1.Gateway_PreSharedKey{PreSharedKey: &swanherdv1.GatewayPreSharedKey{Key: keyName("k")}},
		}
		for _, edge := range ids {
			g.Attachments = append(g.Attachments, &swanherdv1.GatewayAttachment{Who: &swanherdv1.GatewayAttachment_Edge{Edge: edgeName(edge)}})
		}
		b.gateway(id, g)
	}
	p, kinds := Make(b.snapshot()), map[string]int{}
	for row := range p.Tunnels.All() {
		n, err := model.ParseTunnelName(row.Name)
		if err != nil {
			t.Error(err)
		}
		x, y, gateway := n.Ends()
		a, z := row.Value.GetA(), row.Value.GetB()
		switch {
		case z.GetGateway() != "":
			kinds["gateway"]++
			if x.String() != a.GetEdge() || gateway.String() != z.GetGateway() || y != (model.EdgeName{}) {
				t.Errorf("%s is between %s and %s, its name says %s and %s", row.Name, a.GetEdge(), z.GetGateway(), x, gateway)
			}
		default:
			kinds["edge in "+row.Value.GetSegment()]++
			if x.String() != a.GetEdge() || y.String() != z.GetEdge() || gateway != (model.GatewayName{}) {
				t.Errorf("%s is between %s and %s, its name says %s and %s", row.Name, a.GetEdge(), z.GetEdge(), x, y)
			}
		}
	}
	if kinds["gateway"] != 25 || kinds["edge in "] != 10 || kinds["edge in networks/demo/segments/corp"] != 10 || kinds["edge in networks/demo/segments/gw"] != 10 {
		t.Errorf("the plan has %v", kinds)
	}
	for _, id := range []string{"a", "a-b", "a--", "--b", "a--b--c", "a--b--c.0000000000000000", "1--2"} {
		if x, y, gateway := (model.TunnelName{Network: "demo", Tunnel: id}).Ends(); x.Edge+y.Edge+gateway.Gateway != "" {
			t.Errorf("%s is between %s, %s and %s", id, x, y, gateway)
		}
	}
}
