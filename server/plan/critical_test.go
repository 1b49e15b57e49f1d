package plan

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// The tunnels of a critical mesh are critical at both ends, but for a hub those with its
// spokes.
func TestCritical(t *testing.T) {
	hubs := hubAndSpokeOf(2, false)
	hubs.site("hub2", map[string]string{"role": "hub"}, "172.17.0.0/16")
	hubs.edge("hub2", "hub2", uplink("wan1", "203.0.113.2"))
	explicit := fullMeshOf(3)
	explicit.mesh("all", links([2]string{"site-00000", "site-00002"}))
	for _, c := range []struct {
		name string
		b    *builder
		mesh string
		want []string // edges, with the critical peer of each
	}{
		{"full mesh", fullMeshOf(2), "all", []string{"site-00000 site-00001", "site-00001 site-00000"}},
		{"links", explicit, "all", []string{"site-00000 site-00002", "site-00002 site-00000"}},
		{"hub and spoke", hubs, "spokes", []string{
			"hub hub2", "hub2 hub", "spoke-00000 hub", "spoke-00000 hub2", "spoke-00001 hub", "spoke-00001 hub2",
		}},
		{"regional", regionsOf(false, "a", "b"), "world", []string{
			"ha0 ha1", "ha0 hb0", "ha0 hb1", "ha1 ha0", "ha1 hb0", "ha1 hb1", "hb0 ha0", "hb0 ha1", "hb0 hb1", "hb1 ha0", "hb1 ha1", "hb1 hb0",
			"sa2 ha0", "sa2 ha1", "sa3 ha0", "sa3 ha1", "sb2 hb0", "sb2 hb1", "sb3 hb0", "sb3 hb1",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := critical(Make(c.b.snapshot())); got != nil {
				t.Errorf("without asking for it: %v", got)
			}
			m := proto.CloneOf(c.b.Meshes.Value(meshName(c.mesh)))
			m.Critical = true
			c.b.mesh(c.mesh, m)
			if got := critical(Make(c.b.snapshot())); !slices.Equal(got, c.want) {
				t.Errorf("critical are\n%v\nwant\n%v", got, c.want)
			}
		})
	}
}

// The tunnels of a critical gateway are critical at the edges that are attached to it.
func TestCriticalGateway(t *testing.T) {
	b := hubAndSpokeOf(2, false)
	b.key("partner", "1")
	partner := &swanherdv1.Gateway{
		Address: "203.0.113.9", Identity: "partner.example", Prefixes: []string{"192.168.0.0/24"},
		Authentication: &swanherdv1.Gateway_PreSharedKey{PreSharedKey: &swanherdv1.GatewayPreSharedKey{Key: keyName("partner")}},
		Attachments:    []*swanherdv1.GatewayAttachment{bySites("role", "spoke")},
	}
	b.gateway("partner", partner)
	before := Make(b.snapshot())
	if got := critical(before); got != nil {
		t.Errorf("without asking for it: %v", got)
	}
	changed := proto.CloneOf(partner)
	changed.Critical = true
	b.gateway("partner", changed)
	var got []string
	for row := range Make(b.snapshot()).Intents.All() {
		for _, r := range row.Value.Resources.Sorted() {
			if r.GetTunnel().GetCritical() {
				got = append(got, short(row.Name)+" "+short(r.GetName()))
			}
		}
	}
	if want := []string{"spoke-00000 spoke-00000--partner.gw", "spoke-00001 spoke-00001--partner.gw"}; !slices.Equal(got, want) {
		t.Errorf("critical are %v, want %v", got, want)
	}
}

func critical(p *Plan) (out []string) {
	for row := range p.Intents.All() {
		for _, r := range row.Value.Resources.Sorted() {
			if t := r.GetTunnel(); t.GetCritical() {
				out = append(out, short(row.Name)+" "+short(t.GetPeerEdge()))
			}
		}
	}
	slices.Sort(out)
	return out
}
