package lab_test

import (
	"fmt"
	"net/netip"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/swanherd/swanherd/deployments/lab"
	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/plan"
)

// TestEdgesOverSeveralUplinks runs two edges with two uplinks each and the tunnels that the
// planner makes for them: what is for the other LAN goes over whichever is up, and each
// tunnel keeps to its uplinks.
func TestEdgesOverSeveralUplinks(t *testing.T) {
	lab.Require(t, "ip")
	p := newEdgePair(t, "psk", "--uplink", "name=wan1,interface=wan1,class=broadband", "--uplink", "name=wan2,interface=wan2,class=lte")
	n := lab.New()
	t.Cleanup(func() { n.Close() })
	var ends [2]lab.End
	for i := range ends {
		address := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i + 1)}), 24)
		ends[i] = lab.End{Host: p.edges[i], Interface: "wan2", Addresses: []netip.Prefix{address}}
	}
	p.must(n.Link(ends[0], ends[1]))
	p.planned = overBoth(t, swanherdv1.MeshPaths_PAIRING_SAME_CLASS)

	p.link("wan1", "down")
	p.start(0)
	p.start(1)
	p.paths("over the second", map[string]bool{"a--b.wan2.wan2": true})
	p.awaitPing("the second path", p.agents[0], p.agents[1])
	p.ping("over the second")
	p.link("wan1", "up")
	p.paths("over both", map[string]bool{"a--b.wan1.wan1": true, "a--b.wan2.wan2": true})
	p.ping("over both")
	p.link("wan1", "down")
	for inRow := 0; inRow < 10; inRow++ {
		if _, err := p.oursLAN.Ping(p.ctx, p.oursHost, p.theirsHost, 1); err != nil {
			inRow = -1
		}
		if p.ctx.Err() != nil {
			t.Fatal("the path that is left does not carry the traffic")
		}
	}
}

// link sets a link of the first edge up or down.
func (p *edgePair) link(name, state string) {
	p.t.Helper()
	if out, err := p.edges[0].Run(p.ctx, "ip", "link", "set", name, state); err != nil {
		p.t.Fatalf("set %s %s: %v: %s", name, state, err, out)
	}
}

// paths waits until both edges have these tunnels established, and no others.
func (p *edgePair) paths(when string, want map[string]bool) {
	p.t.Helper()
	for i := range p.edges {
		for {
			up := map[string]bool{}
			for _, t := range p.tunnels(i) {
				if t.State == "TUNNEL_STATE_ESTABLISHED" {
					up[t.Tunnel] = true
				}
			}
			missing := len(up) != len(want)
			for name := range want {
				missing = missing || !up["networks/n/tunnels/"+name]
			}
			if !missing {
				break
			}
			if p.ctx.Err() != nil {
				p.t.Fatalf("%s: edge %d has %v, want %v", when, i, up, want)
			}
		}
	}
}

// overBoth are the intents of two edges that both have wan1 and wan2, from a plan. They have a
// pre-shared key in the place of certificates.
func overBoth(t *testing.T, pairing swanherdv1.MeshPaths_Pairing) (intents [2]string) {
	t.Helper()
	top := &model.Topology{Revision: 1}
	top.Networks = top.Networks.With(model.Row[*swanherdv1.Network]{Name: "networks/n", Value: &swanherdv1.Network{Name: "networks/n"}})
	profile := &swanherdv1.Profile{Name: "networks/n/profiles/p"}
	top.Profiles = top.Profiles.With(model.Row[*swanherdv1.Profile]{Name: profile.GetName(), Value: profile})
	edges := [2]string{"networks/n/edges/a", "networks/n/edges/b"}
	for i, edge := range edges {
		site := &swanherdv1.Site{Name: fmt.Sprintf("networks/n/sites/s%d", i), Prefixes: []string{fmt.Sprintf("10.%d.0.0/24", i+1)}}
		top.Sites = top.Sites.With(model.Row[*swanherdv1.Site]{Name: site.GetName(), Value: site})
		top.Edges = top.Edges.With(model.Row[*swanherdv1.Edge]{Name: edge, Value: &swanherdv1.Edge{Name: edge, Site: site.GetName()}})
		top.EdgeStatuses = top.EdgeStatuses.With(model.Row[*storev1.EdgeStatus]{Name: edge, Value: &storev1.EdgeStatus{Edge: edge, Uplinks: []*swanherdv1.Uplink{
			{Name: "wan1", TransportClass: swanherdv1.TransportClass_TRANSPORT_CLASS_BROADBAND, Addresses: []string{fmt.Sprintf("192.0.2.%d", i+1)}},
			{Name: "wan2", TransportClass: swanherdv1.TransportClass_TRANSPORT_CLASS_LTE, Addresses: []string{fmt.Sprintf("198.51.100.%d", i+1)}},
		}}})
	}
	mesh := &swanherdv1.Mesh{
		Name: "networks/n/meshes/m", Profile: profile.GetName(), Paths: &swanherdv1.MeshPaths{Pairing: pairing},
		Topology: &swanherdv1.Mesh_FullMesh{FullMesh: &swanherdv1.FullMesh{Sites: &swanherdv1.SiteSelector{All: true}}},
	}
	top.Meshes = top.Meshes.With(model.Row[*swanherdv1.Mesh]{Name: mesh.GetName(), Value: mesh})
	p := plan.Make(top)
	for i, edge := range edges {
		intent := &swanherdv1.EdgeIntent{}
		for r := range p.Intents.Value(edge).Resources.All() {
			if r.GetSettings() != nil {
				intent.Settings = r.GetSettings()
			} else if tunnel := r.GetTunnel(); tunnel != nil {
				tunnel.Authentication = &swanherdv1.Authentication{
					LocalId: edgeNames[i], RemoteId: edgeNames[1-i],
					Method: &swanherdv1.Authentication_Psk{Psk: &swanherdv1.PskAuthentication{File: "psk"}},
				}
				intent.Tunnels = append(intent.Tunnels, tunnel)
			}
		}
		text, err := protojson.Marshal(intent)
		if err != nil {
			t.Fatal(err)
		}
		intents[i] = string(text)
	}
	return intents
}
