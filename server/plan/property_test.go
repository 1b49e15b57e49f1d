package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// Whatever changes in whatever order: planning the change gives what planning
// everything gives, the changes told are those that there are, and both ends of
// every tunnel agree.
func TestIncrementalPlanIsTheFullPlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBuilder()
		populate(t, b)
		planner := NewPlanner()
		before, planned := &Plan{}, &model.Topology{}
		t.Repeat(map[string]func(*rapid.T){
			"site":    func(t *rapid.T) { randomSite(t, b) },
			"edge":    func(t *rapid.T) { randomEdge(t, b) },
			"uplinks": func(t *rapid.T) { b.uplinks(drawID(t, "edge"), randomUplinks(t)...) },
			"mesh":    func(t *rapid.T) { randomMesh(t, b) },
			"pairing": func(t *rapid.T) { repair(t, b) },
			"segment": func(t *rapid.T) { randomSegment(t, b) },
			"remove":  func(t *rapid.T) { randomRemoval(t, b) },
			"gateway": func(t *rapid.T) { randomGateway(t, b) },
			"key":     func(t *rapid.T) { b.key("partner", rapid.StringMatching(`v[0-9]`).Draw(t, "version")) },
			"profile": func(t *rapid.T) {
				put(b, &b.Profiles, "networks/demo/profiles/default", &swanherdv1.Profile{
					Name: "networks/demo/profiles/default", ReplayWindow: rapid.SampledFrom([]uint32{0, 64, 2048}).Draw(t, "window"),
				})
			},
			"revocation": func(t *rapid.T) {
				name := "networks/demo/revocations/" + rapid.StringMatching(`[0-9a-f]{2}`).Draw(t, "serial")
				put(b, &b.Revocations, name, &storev1.Revocation{Name: name})
			},
			"network": func(t *rapid.T) {
				if rapid.Bool().Draw(t, "exists") {
					put(b, &b.Networks, "networks/demo", &swanherdv1.Network{Name: "networks/demo"})
				} else {
					drop(b, &b.Networks, "networks/demo")
				}
			},
			"": func(t *rapid.T) {
				top := b.snapshot()
				plan, changes := planner.Update(top)
				checkSame(t, plan, Make(top))
				checkChanges(t, before, plan, changes)
				checkEnds(t, plan)
				checkContinuity(t, before, plan)
				if names := slices.Sorted(maps.Keys(tunnelNames(top))); !slices.Equal(names, names2(plan)) {
					t.Fatalf("the topology has %v, the plan %v", names, names2(plan))
				}
				checkPreview(t, planned, top)
				before, planned = plan, top
			},
		})
	})
}

// populate makes an edge per site and a mesh, so that changes soon meet one
// another.
func populate(t *rapid.T, b *builder) {
	for i, id := range []string{"a", "b", "c", "d", "e--x", "f"} {
		b.site(id, map[string]string{"role": []string{"hub", "spoke"}[min(1, i/2)]}, fmt.Sprintf("10.%d.0.0/16", id[0]-'a'))
		b.edge(id, id, uplink("wan0", fmt.Sprintf("192.0.2.%d", i+1)))
	}
	b.mesh("one", hubAndSpoke(labelled("role", "hub"), labelled("role", "spoke"), true))
	if rapid.Bool().Draw(t, "second mesh") {
		randomMesh(t, b)
	}
}

// tunnelNames finds the names of the tunnels that there are to be in another way than
// the planner does.
func tunnelNames(t *model.Topology) map[string]bool {
	names := map[string]bool{}
	for row := range t.Networks.All() {
		name, err := model.ParseNetworkName(row.Name)
		if err != nil {
			continue // refused before it was stored
		}
		for _, segment := range segmentsOf(t, name, nil) {
			n := newNetwork(t, segment, &network{}, nil)
			for _, e := range n.edges {
				for row := range t.Gateways.InNetwork(name) {
					if segment.Segment == "" && e.enabled && wantsGateway(t, row.Value, e) {
						names[model.TunnelName{Network: name.Network, Tunnel: gatewayTunnelID(e.id.Edge, row.Name)}.String()] = true
					}
				}
				n.eachPeer(e, func(m *mesh, peer *edge) {
					if e.name > peer.name {
						return // seen from the other end
					}
					if a, b, ok := n.ends(m, e, peer); ok {
						for _, id := range pathIDs(t.Meshes.Value(m.name).GetPaths(), a.edge, b.edge, segment.Segment) {
							names[model.TunnelName{Network: name.Network, Tunnel: id}.String()] = true
						}
					}
				})
			}
		}
	}
	return names
}

// pathIDs finds the ids of the tunnels between two edges in another way than the planner
// does. Where there are more pairs of uplinks than the mesh wants, it takes the planner's
// choice, which has a test of its own.
func pathIDs(want *swanherdv1.MeshPaths, a, b *edge, segment string) []string {
	only := []string{model.TunnelID(a.id.Edge, b.id.Edge, segment)}
	if want.GetPairing() < swanherdv1.MeshPaths_PAIRING_SAME_CLASS || len(a.uplinks) == 0 || len(b.uplinks) == 0 {
		return only
	}
	var ids []string
	for _, x := range a.uplinks {
		for _, y := range b.uplinks {
			meet := len(x.only4) > 0 && len(y.only4) > 0 || len(x.only6) > 0 && len(y.only6) > 0 || (len(x.all) == 0) != (len(y.all) == 0)
			if meet && (want.GetPairing() == swanherdv1.MeshPaths_PAIRING_ALL || x.GetTransportClass() == y.GetTransportClass()) {
				ids = append(ids, model.PathID(a.id.Edge, b.id.Edge, segment, x.GetName(), y.GetName()))
			}
		}
	}
	most := int(want.GetMaxPaths())
	if most == 0 {
		most = 4
	}
	if len(ids) > 0 && len(ids) <= most {
		return ids
	}
	ids = nil
	paths := pairingOf(&swanherdv1.Mesh{Paths: want}).pairs(nil, a.uplinks, b.uplinks)
	for _, p := range paths[:min(len(paths), most)] {
		ids = append(ids, model.PathID(a.id.Edge, b.id.Edge, segment, p.a.GetName(), p.b.GetName()))
	}
	return ids
}

// wantsGateway says in another way than the planner does whether there is a tunnel.
func wantsGateway(t *model.Topology, g *swanherdv1.Gateway, e *edge) bool {
	if _, ok := t.Profiles.Get(g.GetProfile()); !ok || e.site == nil {
		return false
	}
	if psk := g.GetPreSharedKey(); psk != nil {
		if _, ok := t.PreSharedKeys.Get(psk.GetKey()); !ok {
			return false
		}
	}
	a := g.GetAttachments()[0]
	attached := a.GetEdge() == e.name || a.GetSites() != nil && t.Sites.Value(e.site.name).GetLabels()["role"] == a.GetSites().GetMatchLabels()["role"]
	protects := slices.ContainsFunc(t.Sites.Value(e.site.name).GetPrefixes(), func(p string) bool {
		return slices.ContainsFunc(g.GetPrefixes(), func(q string) bool { return strings.Contains(p, ":") == strings.Contains(q, ":") })
	})
	return attached && protects
}

// gatewayTunnelID is the id of a tunnel; of the edges one has an ambiguous id.
func gatewayTunnelID(edge, gateway string) string {
	id := edge + "--" + short(gateway) + ".gw"
	if strings.Contains(edge, "--") {
		sum := sha256.Sum256([]byte(edge + "/" + short(gateway)))
		id += "." + hex.EncodeToString(sum[:8])
	}
	return id
}

func names2(p *Plan) []string {
	var names []string
	for row := range p.Tunnels.All() {
		names = append(names, row.Name)
	}
	return names
}

func drawID(t *rapid.T, kind string) string {
	return rapid.SampledFrom([]string{"a", "b", "c", "d", "e--x", "f"}).Draw(t, kind)
}

func randomSite(t *rapid.T, b *builder) {
	id := drawID(t, "site")
	n := int(id[0] - 'a')
	all := []string{fmt.Sprintf("10.%d.0.0/16", n), fmt.Sprintf("172.16.%d.0/24", n), fmt.Sprintf("2001:db8:%d::/48", n)}
	var prefixes []string
	for _, p := range all {
		if rapid.Bool().Draw(t, "has "+p) {
			prefixes = append(prefixes, p)
		}
	}
	role := rapid.SampledFrom([]string{"hub", "spoke", "other"}).Draw(t, "role")
	b.site(id, map[string]string{"role": role}, prefixes...)
	for _, segment := range []string{"corp", "iot"} {
		if rapid.Bool().Draw(t, "in "+segment) { // with the same prefixes in each
			b.siteSegment(id, segment, all[:1+rapid.IntRange(0, 2).Draw(t, "prefixes")]...)
		}
	}
}

// randomSegment makes a segment be there or not, or a mesh carry it or not.
func randomSegment(t *rapid.T, b *builder) {
	name := "networks/demo/segments/" + rapid.SampledFrom([]string{"corp", "iot"}).Draw(t, "segment")
	switch rapid.IntRange(0, 2).Draw(t, "kind") {
	case 0:
		drop(b, &b.Segments, name)
	case 1:
		put(b, &b.Segments, name, &swanherdv1.Segment{Name: name})
	default:
		mesh := meshName(rapid.SampledFrom([]string{"one", "two", "three"}).Draw(t, "mesh"))
		if row, ok := b.Meshes.Get(mesh); ok {
			m := proto.CloneOf(row.Value)
			m.Segments = rapid.SampledFrom([][]string{nil, {name}, {name, "networks/demo/segments/default"}}).Draw(t, "segments")
			put(b, &b.Meshes, mesh, m)
		}
	}
}

func randomEdge(t *rapid.T, b *builder) {
	id := drawID(t, "edge")
	put(b, &b.Edges, edgeName(id), &swanherdv1.Edge{
		Name: edgeName(id), Site: siteName(drawID(t, "site")), Disabled: rapid.IntRange(0, 3).Draw(t, "disabled") == 0,
	})
}

func randomUplinks(t *rapid.T) []*swanherdv1.Uplink {
	var uplinks []*swanherdv1.Uplink
	for i := range rapid.IntRange(0, 3).Draw(t, "uplinks") {
		u := uplink(fmt.Sprintf("%s%d", rapid.SampledFrom([]string{"wan", "lte"}).Draw(t, "named"), i))
		u.TransportClass = swanherdv1.TransportClass(rapid.IntRange(1, 3).Draw(t, "class"))
		u.Cost = uint32(rapid.IntRange(0, 2).Draw(t, "cost"))
		if rapid.Bool().Draw(t, "v4") {
			u.Addresses = append(u.Addresses, fmt.Sprintf("192.0.2.%d", rapid.IntRange(1, 9).Draw(t, "host")))
		}
		if rapid.Bool().Draw(t, "v6") {
			u.Addresses = append(u.Addresses, "fe80::1", fmt.Sprintf("2001:db8::%d", rapid.IntRange(1, 9).Draw(t, "host")))
		}
		for _, a := range u.GetAddresses() {
			if rapid.IntRange(0, 2).Draw(t, "asked") == 0 {
				n := &swanherdv1.UplinkNat{Address: a, Mapping: swanherdv1.NatMapping(rapid.IntRange(0, 3).Draw(t, "mapping")), MappedAddress: a}
				if n.GetMapping() != swanherdv1.NatMapping_NAT_MAPPING_NONE {
					n.MappedAddress = fmt.Sprintf("203.0.113.%d", rapid.IntRange(1, 3).Draw(t, "mapped"))
					n.MappedPort = uint32(rapid.IntRange(0, 1).Draw(t, "port")) * 31022
				}
				u.Nats = append(u.Nats, n)
			}
		}
		uplinks = append(uplinks, u)
	}
	return uplinks
}

func randomSelector(t *rapid.T, name string) *swanherdv1.SiteSelector {
	switch rapid.IntRange(0, 2).Draw(t, name) {
	case 0:
		return allSites
	case 1:
		return labelled("role", rapid.SampledFrom([]string{"hub", "spoke"}).Draw(t, "label"))
	default:
		return &swanherdv1.SiteSelector{Sites: []string{siteName(drawID(t, "selected")), siteName(drawID(t, "selected"))}}
	}
}

func randomMesh(t *rapid.T, b *builder) {
	id := rapid.SampledFrom([]string{"one", "two", "three"}).Draw(t, "mesh")
	var m *swanherdv1.Mesh
	switch rapid.IntRange(0, 3).Draw(t, "kind") {
	case 3:
		m = regional("role", randomSelector(t, "hubs"), randomSelector(t, "spokes"), rapid.Bool().Draw(t, "transit"))
	case 0:
		m = fullMesh(randomSelector(t, "sites"))
	case 1:
		m = hubAndSpoke(randomSelector(t, "hubs"), randomSelector(t, "spokes"), rapid.Bool().Draw(t, "transit"))
	default:
		m = links([2]string{drawID(t, "a"), drawID(t, "b")}, [2]string{drawID(t, "a"), drawID(t, "b")})
	}
	m.Critical = rapid.Bool().Draw(t, "critical")
	m.Paths = randomPaths(t)
	b.mesh(id, m)
}

func randomPaths(t *rapid.T) *swanherdv1.MeshPaths {
	if rapid.IntRange(0, 2).Draw(t, "paths") == 0 {
		return nil
	}
	return &swanherdv1.MeshPaths{
		Pairing:  swanherdv1.MeshPaths_Pairing(rapid.IntRange(1, 3).Draw(t, "pairing")),
		MaxPaths: rapid.SampledFrom([]uint32{0, 2, 3, 8}).Draw(t, "max paths"),
	}
}

// repair has a mesh pair uplinks otherwise, and changes nothing else.
func repair(t *rapid.T, b *builder) {
	name := meshName(rapid.SampledFrom([]string{"one", "two", "three"}).Draw(t, "mesh"))
	if row, ok := b.Meshes.Get(name); ok {
		m := proto.CloneOf(row.Value)
		m.Paths = randomPaths(t)
		put(b, &b.Meshes, name, m)
	}
}

func randomGateway(t *rapid.T, b *builder) {
	g := &swanherdv1.Gateway{
		Address:  rapid.SampledFrom([]string{"203.0.113.9", "2001:db8:f::9", "vpn.example.com", "any"}).Draw(t, "address"),
		Identity: "partner.example", Routing: swanherdv1.GatewayRouting(rapid.IntRange(0, 2).Draw(t, "routing")), Critical: rapid.Bool().Draw(t, "critical"),
		Prefixes: rapid.SampledFrom([][]string{{"192.168.0.0/24"}, {"192.168.0.0/24", "192.168.2.0/24"}, {"2001:db8:ff::/48"}}).Draw(t, "behind"),
	}
	if rapid.Bool().Draw(t, "psk") {
		g.Authentication = &swanherdv1.Gateway_PreSharedKey{PreSharedKey: &swanherdv1.GatewayPreSharedKey{Key: keyName("partner")}}
	} else {
		g.Authentication = &swanherdv1.Gateway_Certificate{Certificate: &swanherdv1.GatewayCertificate{TrustAnchors: []string{"an anchor"}}}
	}
	if rapid.Bool().Draw(t, "by name") {
		g.Attachments = []*swanherdv1.GatewayAttachment{{Who: &swanherdv1.GatewayAttachment_Edge{Edge: edgeName(drawID(t, "holder"))}}}
	} else {
		g.Attachments = []*swanherdv1.GatewayAttachment{bySites("role", rapid.SampledFrom([]string{"hub", "spoke"}).Draw(t, "holders"))}
	}
	b.gateway(rapid.SampledFrom([]string{"x", "y"}).Draw(t, "gateway"), g)
}

func randomRemoval(t *rapid.T, b *builder) {
	id := drawID(t, "removed")
	switch rapid.IntRange(0, 6).Draw(t, "kind") {
	case 5:
		drop(b, &b.Gateways, gatewayName(rapid.SampledFrom([]string{"x", "y"}).Draw(t, "gateway")))
	case 6:
		drop(b, &b.PreSharedKeys, keyName("partner"))
	case 0:
		drop(b, &b.Sites, siteName(id))
	case 1:
		drop(b, &b.Edges, edgeName(id))
	case 2:
		drop(b, &b.EdgeStatuses, edgeName(id))
	case 3:
		drop(b, &b.Meshes, meshName(rapid.SampledFrom([]string{"one", "two", "three"}).Draw(t, "mesh")))
	default:
		drop(b, &b.Profiles, "networks/demo/profiles/default")
	}
}

func TestPrefixSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) []netip.Prefix {
			var list []netip.Prefix
			for range rapid.IntRange(0, 8).Draw(t, name) {
				// A small space, so that overlaps and neighbours are frequent.
				addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 255).Draw(t, "addr"))})
				list = append(list, netip.PrefixFrom(addr, rapid.IntRange(24, 32).Draw(t, "bits")).Masked())
			}
			return list
		}
		a, b := draw("a"), draw("b")
		union := newPrefixSet(slices.Clone(a))
		rest := union.without(b)
		for _, set := range []prefixSet{union, rest} {
			for i := 1; i < len(set); i++ {
				if set[i-1].Compare(set[i]) >= 0 || set[i-1].Overlaps(set[i]) {
					t.Fatalf("%v is not ascending and disjoint", set)
				}
			}
		}
		if again := newPrefixSet(slices.Clone([]netip.Prefix(union))); !slices.Equal(again, union) {
			t.Fatalf("%v is not the shortest form, %v is", union, again)
		}
		in := func(set []netip.Prefix, addr netip.Addr) bool {
			return slices.ContainsFunc(set, func(p netip.Prefix) bool { return p.Contains(addr) })
		}
		for i := range 256 {
			addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
			if in(union, addr) != in(a, addr) || in(rest, addr) != (in(a, addr) && !in(b, addr)) {
				t.Fatalf("%s: union of %v is %v, less %v is %v", addr, a, union, b, rest)
			}
		}
	})
}

func TestTunnelNamesDoNotCollide(t *testing.T) {
	b := newBuilder()
	for i, id := range []string{"a", "a--b", "b--c", "c"} {
		b.site(id, nil, fmt.Sprintf("10.%d.0.0/16", i))
		b.edge(id, id)
	}
	b.mesh("all", fullMesh(allSites))
	p := Make(b.snapshot())
	if p.Tunnels.Len() != 6 {
		t.Errorf("%d tunnels, want 6", p.Tunnels.Len())
	}
	for row := range p.Tunnels.All() {
		if _, err := model.ParseTunnelName(row.Name); err != nil || strings.Count(row.Name, "/") != 3 {
			t.Errorf("tunnel name: %v", err)
		}
	}
}
