package plan

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// builder makes topologies for tests; every change is a revision.
type builder struct{ model.Topology }

func put[T any](b *builder, t *model.Table[T], name string, value T) {
	b.Revision++
	*t = t.With(model.Row[T]{Name: name, Value: value, Revision: b.Revision})
}

func drop[T any](b *builder, t *model.Table[T], name string) {
	b.Revision++
	*t = t.Without(name)
}

func (b *builder) snapshot() *model.Topology {
	t := b.Topology
	return &t
}

func newBuilder() *builder {
	b := &builder{}
	put(b, &b.Networks, "networks/demo", &swanherdv1.Network{Name: "networks/demo"})
	put(b, &b.Profiles, "networks/demo/profiles/default", &swanherdv1.Profile{Name: "networks/demo/profiles/default"})
	put(b, &b.Authorities, "certificateAuthorities/networks/demo", &storev1.CertificateAuthority{
		Name: "certificateAuthorities/networks/demo", Certificate: []byte("not a certificate, but planned as one"),
	})
	return b
}

func siteName(id string) string { return "networks/demo/sites/" + id }
func edgeName(id string) string { return "networks/demo/edges/" + id }
func meshName(id string) string { return "networks/demo/meshes/" + id }

func (b *builder) site(id string, labels map[string]string, prefixes ...string) {
	put(b, &b.Sites, siteName(id), &swanherdv1.Site{Name: siteName(id), Labels: labels, Prefixes: prefixes})
}

// siteSegment adds to a site what it has in a segment.
func (b *builder) siteSegment(id, segment string, prefixes ...string) {
	s := proto.CloneOf(b.Sites.Value(siteName(id)))
	s.Segments = append(s.Segments, &swanherdv1.SiteSegment{Segment: "networks/demo/segments/" + segment, Prefixes: prefixes})
	put(b, &b.Sites, siteName(id), s)
}

// segments are there.
func (b *builder) segments(ids ...string) {
	for _, id := range ids {
		name := "networks/demo/segments/" + id
		put(b, &b.Segments, name, &swanherdv1.Segment{Name: name})
	}
}

func (b *builder) edge(id, site string, uplinks ...*swanherdv1.Uplink) {
	put(b, &b.Edges, edgeName(id), &swanherdv1.Edge{Name: edgeName(id), Site: siteName(site)})
	b.uplinks(id, uplinks...)
}

func (b *builder) uplinks(id string, uplinks ...*swanherdv1.Uplink) {
	put(b, &b.EdgeStatuses, edgeName(id), &storev1.EdgeStatus{Edge: edgeName(id), Uplinks: uplinks})
}

func uplink(name string, addresses ...string) *swanherdv1.Uplink {
	return &swanherdv1.Uplink{Name: name, TransportClass: swanherdv1.TransportClass_TRANSPORT_CLASS_BROADBAND, Addresses: addresses}
}

func (b *builder) mesh(id string, m *swanherdv1.Mesh) {
	m.Name, m.Profile = meshName(id), "networks/demo/profiles/default"
	put(b, &b.Meshes, meshName(id), m)
}

func gatewayName(id string) string { return "networks/demo/gateways/" + id }
func keyName(id string) string     { return "networks/demo/preSharedKeys/" + id }

func (b *builder) gateway(id string, g *swanherdv1.Gateway) {
	g.Name, g.Profile = gatewayName(id), "networks/demo/profiles/default"
	put(b, &b.Gateways, g.Name, g)
}

func (b *builder) key(id, version string) {
	put(b, &b.PreSharedKeys, keyName(id), &storev1.PreSharedKey{Key: &swanherdv1.PreSharedKey{Name: keyName(id)}, Version: version})
}

func bySites(key, value string) *swanherdv1.GatewayAttachment {
	return &swanherdv1.GatewayAttachment{Who: &swanherdv1.GatewayAttachment_Sites{Sites: &swanherdv1.GatewaySites{MatchLabels: map[string]string{key: value}}}}
}

func fullMesh(s *swanherdv1.SiteSelector) *swanherdv1.Mesh {
	return &swanherdv1.Mesh{Topology: &swanherdv1.Mesh_FullMesh{FullMesh: &swanherdv1.FullMesh{Sites: s}}}
}

func hubAndSpoke(hubs, spokes *swanherdv1.SiteSelector, transit bool) *swanherdv1.Mesh {
	return &swanherdv1.Mesh{Topology: &swanherdv1.Mesh_HubAndSpoke{HubAndSpoke: &swanherdv1.HubAndSpoke{
		Hubs: hubs, Spokes: spokes, Transit: transit,
	}}}
}

func regional(label string, hubs, spokes *swanherdv1.SiteSelector, transit bool) *swanherdv1.Mesh {
	return &swanherdv1.Mesh{Topology: &swanherdv1.Mesh_Regional{Regional: &swanherdv1.Regional{
		RegionLabel: label, Hubs: hubs, Spokes: spokes, Transit: transit,
	}}}
}

func links(pairs ...[2]string) *swanherdv1.Mesh {
	l := &swanherdv1.ExplicitLinks{}
	for _, p := range pairs {
		l.Links = append(l.Links, &swanherdv1.Link{SiteA: siteName(p[0]), SiteB: siteName(p[1])})
	}
	return &swanherdv1.Mesh{Topology: &swanherdv1.Mesh_ExplicitLinks{ExplicitLinks: l}}
}

var allSites = &swanherdv1.SiteSelector{All: true}

func labelled(key, value string) *swanherdv1.SiteSelector {
	return &swanherdv1.SiteSelector{MatchLabels: map[string]string{key: value}}
}

// fullMeshOf makes n sites, each with a /24 and an edge.
func fullMeshOf(n int) *builder {
	b := newBuilder()
	for i := range n {
		id := fmt.Sprintf("site-%05d", i)
		b.site(id, nil, fmt.Sprintf("10.%d.%d.0/24", i/250, i%250))
		b.edge(id, id, uplink("wan1", fmt.Sprintf("198.18.%d.%d", i/250, i%250+1)))
	}
	b.mesh("all", fullMesh(allSites))
	return b
}

func hubAndSpokeOf(n int, transit bool) *builder {
	b := newBuilder()
	b.site("hub", map[string]string{"role": "hub"}, "172.16.0.0/16")
	b.edge("hub", "hub", uplink("wan1", "203.0.113.1"))
	for i := range n {
		id := fmt.Sprintf("spoke-%05d", i)
		b.site(id, map[string]string{"role": "spoke"}, fmt.Sprintf("10.%d.%d.0/24", i/250, i%250))
		b.edge(id, id, uplink("wan1", fmt.Sprintf("198.18.%d.%d", i/250, i%250+1)))
	}
	b.mesh("spokes", hubAndSpoke(labelled("role", "hub"), labelled("role", "spoke"), transit))
	return b
}

// hubsAndSpokesOf makes n spokes at each of four hubs, all with two uplinks. A pair of
// sites has one tunnel, over the pair of their uplinks that suits best.
func hubsAndSpokesOf(n int, transit bool) *builder {
	const hubs = 4
	b := newBuilder()
	lte := func(address string) *swanherdv1.Uplink {
		return &swanherdv1.Uplink{Name: "lte1", TransportClass: swanherdv1.TransportClass_TRANSPORT_CLASS_LTE, Cost: 10, Addresses: []string{address}}
	}
	for i := range hubs {
		id := fmt.Sprintf("hub-%d", i)
		b.site(id, map[string]string{"role": "hub"}, fmt.Sprintf("172.%d.0.0/16", 16+i))
		b.edge(id, id, uplink("wan1", fmt.Sprintf("203.0.113.%d", i+1)), lte(fmt.Sprintf("192.0.2.%d", i+101)))
	}
	for i := range n {
		id := fmt.Sprintf("spoke-%05d", i)
		b.site(id, map[string]string{"role": "spoke"}, fmt.Sprintf("10.%d.%d.0/24", i/250, i%250))
		b.edge(id, id, uplink("wan1", fmt.Sprintf("198.18.%d.%d", i/250, i%250+1)), lte(fmt.Sprintf("198.19.%d.%d", i/250, i%250+1)))
	}
	b.mesh("spokes", hubAndSpoke(labelled("role", "hub"), labelled("role", "spoke"), transit))
	return b
}

// A tunnel is the same one over whichever uplinks it goes: what is closed under one name
// and begun under another is an interruption.
func TestTunnelOutlivesItsUplinks(t *testing.T) {
	b := fullMeshOf(2)
	first := Make(b.snapshot())
	lte := uplink("lte", "198.51.100.1")
	for name, uplinks := range map[string][]*swanherdv1.Uplink{
		"a second one":     {uplink("wan1", "198.18.0.1"), lte},
		"a cheaper one":    {{Name: "wan1", Cost: 10, TransportClass: lte.GetTransportClass(), Addresses: []string{"198.18.0.1"}}, lte},
		"another one":      {lte},
		"none as it seems": nil,
	} {
		b.uplinks("site-00000", uplinks...)
		now := Make(b.snapshot())
		if got, want := names2(now), names2(first); len(got) != 1 || got[0] != want[0] {
			t.Errorf("%s: the tunnels are %v, were %v", name, got, want)
		}
	}
}

func TestSizes(t *testing.T) {
	for _, c := range []struct {
		name    string
		b       *builder
		tunnels int
	}{
		{"full mesh of 4", fullMeshOf(4), 6},
		{"hub and 5 spokes", hubAndSpokeOf(5, false), 5},
		{"hub and 5 spokes with transit", hubAndSpokeOf(5, true), 5},
		{"4 hubs and 5 spokes, all with two uplinks", hubsAndSpokesOf(5, false), 4*5 + 4*3/2},
	} {
		p := Make(c.b.snapshot())
		if p.Tunnels.Len() != c.tunnels {
			t.Errorf("%s: %d tunnels, want %d", c.name, p.Tunnels.Len(), c.tunnels)
		}
		if names := tunnelNames(c.b.snapshot()); len(names) != c.tunnels {
			t.Errorf("%s: the topology has %d, want %d", c.name, len(names), c.tunnels)
		}
	}
}
