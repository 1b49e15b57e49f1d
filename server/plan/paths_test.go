package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

const (
	preferredPair = swanherdv1.MeshPaths_PAIRING_PREFERRED
	sameClass     = swanherdv1.MeshPaths_PAIRING_SAME_CLASS
	allPairs      = swanherdv1.MeshPaths_PAIRING_ALL

	broadband = swanherdv1.TransportClass_TRANSPORT_CLASS_BROADBAND
	lte       = swanherdv1.TransportClass_TRANSPORT_CLASS_LTE
	mpls      = swanherdv1.TransportClass_TRANSPORT_CLASS_MPLS
)

// wan describes an uplink in a few words: its name, class, cost and addresses.
func wan(name string, class swanherdv1.TransportClass, cost uint32, addresses ...string) *swanherdv1.Uplink {
	return &swanherdv1.Uplink{Name: name, TransportClass: class, Cost: cost, Addresses: addresses}
}

// twoSites have edges a and b with these uplinks.
func twoSites(pairing swanherdv1.MeshPaths_Pairing, most uint32, a, b []*swanherdv1.Uplink) *builder {
	t := newBuilder()
	for i, uplinks := range [][]*swanherdv1.Uplink{a, b} {
		id := string(rune('a' + i))
		t.site(id, nil, fmt.Sprintf("10.%d.0.0/16", i))
		t.edge(id, id, uplinks...)
	}
	t.pair(pairing, most)
	return t
}

// pair has the mesh connect the uplinks so.
func (b *builder) pair(pairing swanherdv1.MeshPaths_Pairing, most uint32) {
	m := fullMesh(allSites)
	m.Paths = &swanherdv1.MeshPaths{Pairing: pairing, MaxPaths: most}
	b.mesh("all", m)
}

func shortNames(p *Plan) (names []string) {
	for _, name := range names2(p) {
		names = append(names, short(name))
	}
	return names
}

// Which pairs of uplinks have a tunnel.
func TestPairing(t *testing.T) {
	type uplinks = []*swanherdv1.Uplink
	two := func(n int) uplinks {
		return uplinks{wan("inet", broadband, 0, fmt.Sprintf("192.0.2.%d", n)), wan("cell", lte, 10, fmt.Sprintf("198.51.100.%d", n))}
	}
	three := func(n int) uplinks {
		return append(two(n), wan("spare", broadband, 20, fmt.Sprintf("203.0.113.%d", n)))
	}
	for _, c := range []struct {
		name    string
		pairing swanherdv1.MeshPaths_Pairing
		most    uint32
		a, b    uplinks
		want    string
	}{
		{"preferred", preferredPair, 0, two(1), two(2), "a--b"},
		{"same class", sameClass, 0, two(1), two(2), "a--b.cell.cell a--b.inet.inet"},
		{"all", allPairs, 0, two(1), two(2), "a--b.cell.cell a--b.cell.inet a--b.inet.cell a--b.inet.inet"},
		{"those that share no uplink first", sameClass, 3, three(1), three(2), "a--b.cell.cell a--b.inet.inet a--b.spare.spare"},
		{"of these the cheaper ones", allPairs, 2, three(1), three(2), "a--b.cell.cell a--b.inet.inet"},
		{"of the same class before others", allPairs, 3, three(1), three(2), "a--b.cell.cell a--b.inet.inet a--b.spare.spare"},
		{"more than the default", sameClass, 8, three(1), three(2), "a--b.cell.cell a--b.inet.inet a--b.inet.spare a--b.spare.inet a--b.spare.spare"},
		{"one uplink at an end", allPairs, 0, two(1), two(2)[:1], "a--b.cell.inet a--b.inet.inet"},
		{"one uplink at each", allPairs, 0, two(1)[:1], two(2)[:1], "a--b.inet.inet"},
		{"no class in common", sameClass, 0, two(1)[:1], two(2)[1:], "a--b.inet.cell"},
		{"no family in common", allPairs, 0, uplinks{wan("inet", broadband, 0, "192.0.2.1")}, uplinks{wan("inet", broadband, 0, "2001:db8::2")}, "a--b.inet.inet"},
		{
			"a family in common somewhere", allPairs, 0,
			uplinks{wan("four", broadband, 0, "192.0.2.1"), wan("six", broadband, 0, "2001:db8::1")}, uplinks{wan("six", broadband, 0, "2001:db8::2")}, "a--b.six.six",
		},
		{"an address of one end", allPairs, 0, uplinks{wan("inet", broadband, 0)}, two(2), "a--b.inet.cell a--b.inet.inet"},
		{"nothing known of one end", allPairs, 0, nil, two(2), "a--b"},
		{"nothing known", allPairs, 0, nil, nil, "a--b"},
	} {
		b := twoSites(c.pairing, c.most, c.a, c.b)
		p := Make(b.snapshot())
		if got := strings.Join(shortNames(p), " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		slices.Reverse(c.a)
		slices.Reverse(c.b)
		b.uplinks("a", c.a...)
		b.uplinks("b", c.b...)
		if again := Make(b.snapshot()); !slices.Equal(names2(again), names2(p)) {
			t.Errorf("%s: reported in another order: %v, were %v", c.name, names2(again), names2(p))
		}
	}
}

// Both ends of each path are told its cost and class, and what group it is of; a tunnel
// without alternatives is of none.
func TestPathsSayWhatTheyAre(t *testing.T) {
	metered := wan("cell", lte, 10, "198.51.100.1")
	metered.Metered = true
	b := twoSites(allPairs, 0,
		[]*swanherdv1.Uplink{wan("inet", broadband, 1, "192.0.2.1"), metered},
		[]*swanherdv1.Uplink{wan("inet", broadband, 2, "192.0.2.2"), wan("mpls", mpls, 4_294_967_295, "192.0.2.3")})
	p := Make(b.snapshot())
	for tunnel, want := range map[string]*swanherdv1.TunnelPath{
		"a--b.inet.inet": {Cost: 3, Class: broadband},
		"a--b.cell.inet": {Cost: 12, Class: lte, Metered: true},
		"a--b.inet.mpls": {Cost: 4_294_967_296, Class: broadband},
		"a--b.cell.mpls": {Cost: 4_294_967_305, Class: lte, Metered: true},
	} {
		want.Group = "networks/demo/tunnels/a--b"
		for _, edge := range []string{"a", "b"} {
			if got := p.tunnelIntent(edgeName(edge), "networks/demo/tunnels/"+tunnel).GetPath(); !proto.Equal(got, want) {
				t.Errorf("%s at %s: %v, want %v", tunnel, edge, got, want)
			}
		}
	}
	b.uplinks("a", metered)
	b.uplinks("b", wan("inet", broadband, 2, "192.0.2.2"))
	for row := range Make(b.snapshot()).Tunnels.All() {
		if row.Value.GetPath() != nil {
			t.Errorf("%s alone is of a group: %v", row.Name, row.Value.GetPath())
		}
	}
}

// When uplinks come and go, change their cost or get another name, the tunnels of the
// others stay what they are to the octet, but for whether there are others.
func TestPathsDoNotDisturbOneAnother(t *testing.T) {
	inet, cell, spare := wan("inet", broadband, 0, "192.0.2.1"), wan("cell", lte, 10, "198.51.100.1"), wan("spare", broadband, 5, "203.0.113.1")
	dear := wan("inet", broadband, 90, "192.0.2.1")
	renamed := wan("fibre", broadband, 0, "192.0.2.1")
	for _, c := range []struct {
		name       string
		from, to   []*swanherdv1.Uplink
		unaffected string
	}{
		{"one comes", []*swanherdv1.Uplink{inet}, []*swanherdv1.Uplink{inet, cell}, "inet"},
		{"the preferred one goes", []*swanherdv1.Uplink{inet, cell}, []*swanherdv1.Uplink{cell}, "cell"},
		{"the preferred one is not any more", []*swanherdv1.Uplink{inet, cell}, []*swanherdv1.Uplink{dear, cell}, "cell"},
		{"one is renamed", []*swanherdv1.Uplink{inet, cell}, []*swanherdv1.Uplink{renamed, cell}, "cell"},
		{"a better one comes", []*swanherdv1.Uplink{inet, cell}, []*swanherdv1.Uplink{inet, cell, spare}, "inet"},
	} {
		b := twoSites(allPairs, 8, c.from, []*swanherdv1.Uplink{wan("wan", broadband, 0, "192.0.2.2")})
		before := Make(b.snapshot())
		b.uplinks("a", c.to...)
		after := Make(b.snapshot())
		name := "networks/demo/tunnels/a--b." + c.unaffected + ".wan"
		for _, edge := range []string{"a", "b"} {
			was, is := before.tunnelIntent(edgeName(edge), name), after.tunnelIntent(edgeName(edge), name)
			effect, reasons := compareIntents(was, is)
			if was == nil || is == nil || effect != swanherdv1.TunnelChange_EFFECT_UPDATED || len(reasons) > 1 || len(reasons) == 1 && reasons[0] != "path" {
				t.Errorf("%s: %s at %s: %v for %v", c.name, name, edge, effect, reasons)
			}
		}
	}
}

// A rollout of another pairing: whoever has it, both ends of a tunnel agree and no two edges
// are without one.
func TestPairingByAndBy(t *testing.T) {
	b := hubsAndSpokesOf(3, true)
	pairs := map[[2]string]bool{}
	for row := range Make(b.snapshot()).Tunnels.All() {
		pairs[pairKey(row.Value.GetA().GetEdge(), row.Value.GetB().GetEdge())] = true
	}
	for _, to := range []swanherdv1.MeshPaths_Pairing{allPairs, preferredPair, sameClass} {
		target := *b
		m := proto.CloneOf(b.Meshes.Value(meshName("spokes")))
		m.Paths = &swanherdv1.MeshPaths{Pairing: to}
		put(&target, &target.Meshes, m.GetName(), m)
		stage := Stage{Name: "pairing", Network: model.NetworkName{Network: "demo"}, Target: func(*model.Topology) *model.Topology { return target.snapshot() }, Order: map[string]int{}}
		for row := range b.Edges.All() {
			stage.Order[row.Name] = len(stage.Order)
		}
		c := NewComposer(nil)
		c.Update(b.snapshot(), nil)
		for stage.Admitted = range len(stage.Order) + 1 {
			p, _ := c.Update(b.snapshot(), []Stage{stage})
			have := map[[2]string]bool{}
			for row := range p.Tunnels.All() {
				a, z := row.Value.GetA().GetEdge(), row.Value.GetB().GetEdge()
				have[pairKey(a, z)] = true
				if x, y := p.tunnelIntent(a, row.Name), p.tunnelIntent(z, row.Name); x == nil || y == nil || !pathsAgree(row.Value.GetPath(), x.GetPath(), y.GetPath()) {
					t.Fatalf("%v, %d have it: the ends of %s are %v and %v", to, stage.Admitted, row.Name, x, y)
				}
			}
			if len(have) != len(pairs) {
				t.Fatalf("%v, %d have it: %d pairs of edges are connected, want %d", to, stage.Admitted, len(have), len(pairs))
			}
		}
		b = &target
	}
}

// The addresses of probes tell the tunnels between two edges apart even if their names have
// the same hash.
func TestProbeIDs(t *testing.T) {
	var taken []uint32
	for _, n := range []uint32{0, 7, 7, 0, 1, 4_294_967_295, 4_294_967_295} {
		id := probeID(n, taken)
		if id == 0 || slices.Contains(taken, id) {
			t.Fatalf("%d for %d, %v are taken", id, n, taken)
		}
		taken = append(taken, id)
	}
	if taken[0] != 1 || taken[1] != 7 {
		t.Errorf("ids that are free are %v", taken)
	}
}

// What edges call their uplinks never says that a tunnel is between others, or in another
// segment: no two names are the same, and each tells the ends.
func TestUplinksDoNotHideTheEnds(t *testing.T) {
	b := newBuilder()
	b.segments("corp", "gw", "segment", "wan")
	ids := []string{"a", "a--b", "b--c", "c"}
	hash := "a" + model.EndsHash("a", "b--c")[1:] // names begin with a letter
	for i, id := range ids {
		b.site(id, nil, fmt.Sprintf("10.%d.0.0/16", i))
		for _, segment := range []string{"corp", "gw", "segment", "wan"} {
			b.siteSegment(id, segment, fmt.Sprintf("10.%d.0.0/16", i))
		}
		var uplinks []*swanherdv1.Uplink
		for j, name := range []string{"gw", "segment", "wan", "default", hash} {
			uplinks = append(uplinks, uplink(name, fmt.Sprintf("192.0.2.%d", 10*i+j+1)))
		}
		b.edge(id, id, uplinks...)
	}
	m := fullMesh(allSites)
	m.Paths = &swanherdv1.MeshPaths{Pairing: allPairs, MaxPaths: 8}
	b.mesh("all", m)
	p := Make(b.snapshot())
	if want := 6 * 5 * 8; p.Tunnels.Len() != want {
		t.Fatalf("%d tunnels, want %d", p.Tunnels.Len(), want)
	}
	for row := range p.Tunnels.All() {
		n, err := model.ParseTunnelName(row.Name)
		if err != nil {
			t.Fatal(err)
		}
		if x, y, gateway := n.Ends(); x.String() != row.Value.GetA().GetEdge() || y.String() != row.Value.GetB().GetEdge() || gateway != (model.GatewayName{}) {
			t.Errorf("%s is between %s and %s, its name says %s, %s and %s", row.Name, row.Value.GetA().GetEdge(), row.Value.GetB().GetEdge(), x, y, gateway)
		}
	}
	seen := map[string]string{}
	for _, segment := range []string{"", "corp", "gw", "segment", "wan"} {
		for _, x := range []string{"", "gw", "segment", "corp", "wan", hash} {
			for _, y := range []string{"gw", "segment", "corp", "wan"} {
				id := model.TunnelID("a", "c", segment)
				if x != "" {
					id = model.PathID("a", "c", segment, x, y)
				} else if y != "gw" {
					continue
				}
				what := segment + "/" + x + "/" + y
				if other, twice := seen[id]; twice {
					t.Errorf("%s and %s are both %s", what, other, id)
				}
				seen[id] = what
			}
		}
	}
	// The longest that there can be is a name, too.
	long := func(n int) string { return strings.Repeat("x", n) }
	if id := model.PathID(long(63), "y--"+long(60), long(63), long(32), long(32)); len(id) > 320 {
		t.Errorf("%d octets", len(id))
	} else if n, err := model.ParseTunnelName("networks/" + long(63) + "/tunnels/" + id); err != nil {
		t.Error(err)
	} else if x, y, _ := n.Ends(); x.Edge != long(63) || y.Edge != "y--"+long(60) {
		t.Errorf("its ends are %s and %s", x, y)
	}
}

// Explain says which pairs of uplinks have a tunnel and why others have none, as seen from
// who sends; one path of two is enough to reach the other.
func TestExplainPaths(t *testing.T) {
	b := twoSites(sameClass, 2,
		[]*swanherdv1.Uplink{wan("inet", broadband, 0, "192.0.2.1"), wan("cell", lte, 10, "198.51.100.1"), wan("six", broadband, 5, "2001:db8::1")},
		[]*swanherdv1.Uplink{wan("wan", broadband, 0, "192.0.2.2"), wan("lte", lte, 10, "198.51.100.2"), wan("spare", broadband, 50, "203.0.113.2")})
	got := func(from, to string) (lines []string) {
		e := explained(b, from, to)
		if !e.GetReachable() || len(e.GetHops()) != 1 || short(e.GetHops()[0].GetTunnel()) != "a--b.inet.wan" {
			t.Fatalf("%v", e)
		}
		for _, p := range e.GetHops()[0].GetPaths() {
			lines = append(lines, fmt.Sprintf("%s > %s: %d %s%s", p.GetFromUplink(), p.GetToUplink(), p.GetCost(), short(p.GetTunnel()), p.GetReason()))
		}
		return lines
	}
	class, family := "the two are of different transport classes, and the mesh pairs those of the same", "the two have no address family in common"
	want := []string{
		"inet > wan: 0 a--b.inet.wan", "cell > lte: 20 a--b.cell.lte", "inet > spare: 50 others go first, and the mesh has max_paths 2",
		"inet > lte: 10 " + class, "cell > wan: 10 " + class, "cell > spare: 60 " + class, "six > wan: 5 " + family, "six > spare: 55 " + family, "six > lte: 15 " + family,
	}
	if lines := got("a", "b"); !slices.Equal(lines, want) {
		t.Errorf("a to b:\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
	if back := got("b", "a"); len(back) != len(want) || back[0] != "wan > inet: 0 a--b.inet.wan" || back[3] != "lte > inet: 10 "+class {
		t.Errorf("b to a:\n%s", strings.Join(back, "\n"))
	}
	ways := NewWays(Make(b.snapshot()), model.NetworkName{Network: "demo"})
	for down, want := range map[string]bool{"a--b.inet.wan": true, "a--b.cell.lte": true, "a--b": false} {
		reason, ok := ways.Reach("", netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("10.1.0.0/16"), func(tunnel string) bool { return !strings.HasPrefix(short(tunnel), down) })
		if ok != want {
			t.Errorf("without %s it is reached: %v: %s", down, ok, reason)
		}
	}
}

// A preview tells of tunnels that come and go for others' sake, and of no loss by that.
func TestPreviewOfPaths(t *testing.T) {
	two := func(n int) []*swanherdv1.Uplink {
		return []*swanherdv1.Uplink{wan("inet", broadband, 0, fmt.Sprintf("192.0.2.%d", n)), wan("cell", lte, 10, fmt.Sprintf("198.51.100.%d", n))}
	}
	b := twoSites(preferredPair, 0, two(1), two(2))
	before := b.snapshot()
	b.pair(sameClass, 0)
	after := b.snapshot()
	for _, c := range []struct {
		from, to *model.Topology
		want     string
	}{
		{before, after, "REMOVED a--b path, ADDED a--b.cell.cell path, ADDED a--b.inet.inet path"},
		{after, before, "REMOVED a--b.cell.cell path, REMOVED a--b.inet.inet path, ADDED a--b path"},
	} {
		var got []string
		plan := Preview(c.from, c.to)
		for _, x := range plan.GetTunnels() {
			got = append(got, strings.TrimPrefix(x.GetEffect().String(), "EFFECT_")+" "+short(x.GetTunnel())+" "+strings.Join(x.GetReasons(), " "))
		}
		if text := strings.Join(got, ", "); text != c.want || len(plan.GetReachability()) > 0 {
			t.Errorf("%s; %v, want %s", text, plan.GetReachability(), c.want)
		}
	}
}
