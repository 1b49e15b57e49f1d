package plan

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// regionsOf makes regions with two hubs and two spokes each; site h1 of region a is
// ha1.
func regionsOf(transit bool, regions ...string) *builder {
	b := newBuilder()
	for i, r := range regions {
		for j, role := range []string{"hub", "hub", "spoke", "spoke"} {
			id := fmt.Sprintf("%c%s%d", role[0], r, j)
			b.site(id, map[string]string{"region": r, "role": role}, fmt.Sprintf("10.%d.%d.0/24", i, j))
			b.edge(id, id, uplink("wan1", fmt.Sprintf("192.0.2.%d", 10*i+j+1)))
		}
	}
	b.mesh("world", regional("", labelled("role", "hub"), labelled("role", "spoke"), transit))
	return b
}

func explained(b *builder, from, to string) *swanherdv1.ExplainResponse {
	host := func(id string) netip.Addr {
		row, _ := b.Sites.Get(siteName(id))
		return netip.MustParsePrefix(row.Value.GetPrefixes()[0]).Addr().Next()
	}
	return Explain(b.snapshot(), model.SegmentName{Network: "demo"}, host(from), host(to))
}

// path is an explanation in a few words.
func path(e *swanherdv1.ExplainResponse) string {
	out := ""
	for _, h := range e.GetHops() {
		out += short(h.GetFromSite()) + " > " + short(h.GetToSite()) + ", "
	}
	return strings.TrimSuffix(out, ", ")
}

// With transit everybody reaches everybody, both ways, over the first hubs of the
// regions; without it, hubs only.
func TestRegionalReachesEverything(t *testing.T) {
	b := regionsOf(true, "a", "b", "c")
	var ids []string
	for row := range b.Sites.All() {
		ids = append(ids, short(row.Name))
	}
	for _, from := range ids {
		for _, to := range ids {
			if e := explained(b, from, to); !e.GetReachable() || len(e.GetHops()) > 3 {
				t.Errorf("%s to %s: %s: %s", from, to, e.GetReason(), path(e))
			}
		}
	}
	for pair, want := range map[[2]string]string{
		{"sa2", "sa3"}: "sa2 > ha0, ha0 > sa3", {"sa2", "sb3"}: "sa2 > ha0, ha0 > hb0, hb0 > sb3",
		{"sa2", "hb1"}: "sa2 > ha0, ha0 > hb1", {"hb1", "sa2"}: "hb1 > ha0, ha0 > sa2", {"ha1", "hb1"}: "ha1 > hb1", {"sa2", "ha1"}: "sa2 > ha1",
	} {
		if got := path(explained(b, pair[0], pair[1])); got != want {
			t.Errorf("%v: %s, want %s", pair, got, want)
		}
	}
	if p := Make(b.snapshot()); p.Tunnels.Len() != 3*(1+4)+12 {
		t.Errorf("%d tunnels", p.Tunnels.Len())
	}
	// The first hub of a region goes: the second takes its place.
	b.edge("ha0", "ha0")
	put(b, &b.Edges, edgeName("ha0"), &swanherdv1.Edge{Name: edgeName("ha0"), Site: siteName("ha0"), Disabled: true})
	if got := path(explained(b, "sa2", "sb3")); got != "sa2 > ha1, ha1 > hb0, hb0 > sb3" {
		t.Errorf("without the first hub: %s", got)
	}
	without := regionsOf(false, "a", "b")
	for pair, want := range map[[2]string]bool{{"sa2", "sa3"}: false, {"sa2", "sb2"}: false, {"sa2", "ha1"}: true, {"ha1", "hb0"}: true, {"sa2", "hb0"}: false} {
		if e := explained(without, pair[0], pair[1]); e.GetReachable() != want {
			t.Errorf("without transit, %v: %v", pair, e)
		}
	}
}

// A direct link is taken instead of the hubs, and no two tunnels of an edge take the
// same addresses.
func TestRegionalWithADirectLink(t *testing.T) {
	b := regionsOf(true, "a", "b")
	b.mesh("direct", links([2]string{"sa2", "sb2"}))
	if got := path(explained(b, "sa2", "sb2")); got != "sa2 > sb2" {
		t.Errorf("over %s", got)
	}
	p := Make(b.snapshot())
	for row := range p.Intents.All() {
		var taken []netip.Prefix
		for r := range row.Value.Resources.All() {
			for _, c := range r.GetTunnel().GetChildren() {
				for _, prefix := range parsePrefixes(c.GetRemoteTs()) {
					for _, other := range taken {
						if prefix.Overlaps(other) {
							t.Errorf("%s has two tunnels to %s", row.Name, prefix)
						}
					}
					taken = append(taken, prefix)
				}
			}
		}
	}
}

func TestWhyNot(t *testing.T) {
	for _, c := range []struct {
		name   string
		b      *builder
		change func(*builder)
		want   string
	}{
		{"no transit", hubAndSpokeOf(2, false), func(*builder) {}, "in mesh spokes they are connected over hubs only, which carry no transit"},
		{"no hub", hubAndSpokeOf(2, true), func(b *builder) { drop(b, &b.Edges, edgeName("hub")) }, "in mesh spokes no hub between them has an enabled edge"},
		{"no edge", hubAndSpokeOf(2, true), func(b *builder) { drop(b, &b.Edges, edgeName("spoke-00001")) }, "site spoke-00001 has no edge; enrol one"},
		{"disabled", hubAndSpokeOf(2, true), func(b *builder) {
			put(b, &b.Edges, edgeName("spoke-00001"), &swanherdv1.Edge{Name: edgeName("spoke-00001"), Site: siteName("spoke-00001"), Disabled: true})
		}, "every edge of site spoke-00001 is disabled"},
		{"no link", hubAndSpokeOf(2, false), func(b *builder) {
			b.mesh("spokes", links([2]string{"hub", "spoke-00000"}, [2]string{"hub", "spoke-00001"}))
		}, "mesh spokes has no link between the two"},
		{"another mesh", hubAndSpokeOf(2, false), func(b *builder) { b.mesh("spokes", links([2]string{"hub", "spoke-00000"})) }, "mesh spokes has spoke-00000 but not spoke-00001"},
		{"no mesh", hubAndSpokeOf(2, false), func(b *builder) { drop(b, &b.Meshes, meshName("spokes")) }, "no mesh has either of the two sites"},
		{"transit", hubAndSpokeOf(2, true), func(*builder) {}, "over 2 tunnels, by transit"},
	} {
		c.change(c.b)
		if e := explained(c.b, "spoke-00000", "spoke-00001"); e.GetReason() != c.want {
			t.Errorf("%s: %q, want %q", c.name, e.GetReason(), c.want)
		}
	}
	e := Explain(hubAndSpokeOf(2, true).snapshot(), model.SegmentName{Network: "demo"}, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("192.168.1.1"))
	if e.GetReachable() || e.GetReason() != "no site or gateway of networks/demo has a prefix with 192.168.1.1" {
		t.Errorf("an address of nobody: %v", e)
	}
}
