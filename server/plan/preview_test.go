package plan

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// said is a preview in a few words.
func said(p *swanherdv1.ChangePlan) string {
	short := func(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }
	var out []string
	for _, c := range p.GetTunnels() {
		effect := strings.ToLower(strings.TrimPrefix(c.GetEffect().String(), "EFFECT_"))
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s", short(c.GetTunnel()), effect, strings.Join(c.GetReasons(), ","))))
	}
	for _, c := range p.GetReachability() {
		for _, prefix := range c.GetLostPrefixes() {
			out = append(out, short(c.GetSite())+" -"+prefix)
		}
		for _, prefix := range c.GetGainedPrefixes() {
			out = append(out, short(c.GetSite())+" +"+prefix)
		}
	}
	return strings.Join(out, "; ")
}

func TestPreview(t *testing.T) {
	profile := "networks/demo/profiles/default"
	for _, c := range []struct {
		name   string
		start  *builder
		change func(*builder)
		edges  uint32
		want   string
	}{
		{"nothing", fullMeshOf(3), func(*builder) {}, 0, ""},
		{"a name for people", fullMeshOf(3), func(b *builder) {
			put(b, &b.Sites, siteName("site-00000"), &swanherdv1.Site{Name: siteName("site-00000"), DisplayName: "x", Prefixes: []string{"10.0.0.0/24"}})
		}, 0, ""},
		{"a site goes", fullMeshOf(3), func(b *builder) { drop(b, &b.Sites, siteName("site-00002")) }, 3,
			"site-00000--site-00002 removed; site-00001--site-00002 removed; site-00000 -10.0.2.0/24; site-00001 -10.0.2.0/24"},
		{"a site comes", fullMeshOf(2), func(b *builder) {
			b.site("new", nil, "10.9.0.0/16")
			b.edge("new", "new", uplink("wan1", "198.18.9.9"))
		}, 3, "new--site-00000 added; new--site-00001 added; new +10.0.0.0/23; site-00000 +10.9.0.0/16; site-00001 +10.9.0.0/16"},
		{"a prefix changes", fullMeshOf(2), func(b *builder) { b.site("site-00001", nil, "10.0.1.0/25") }, 2,
			"site-00000--site-00001 rekeyed children.local_ts,children.remote_ts; site-00000 -10.0.1.128/25"},
		{"proposals", fullMeshOf(2), func(b *builder) {
			put(b, &b.Profiles, profile, &swanherdv1.Profile{Name: profile, IkeProposals: []string{"aes256gcm16-prfsha384-x25519"}})
		}, 2, "site-00000--site-00001 rekeyed ike_proposals"},
		{"lifetimes", fullMeshOf(2), func(b *builder) {
			put(b, &b.Profiles, profile, &swanherdv1.Profile{Name: profile, IkeRekeyTime: durationpb.New(1e12)})
		}, 2, "site-00000--site-00001 updated ike_rekey_time"},
		{"another address", fullMeshOf(2), func(b *builder) { b.uplinks("site-00001", uplink("wan1", "192.0.2.1")) }, 1,
			"site-00000--site-00001 interrupted remote_endpoints"},
		{"an address becomes known", func() *builder {
			b := fullMeshOf(2)
			b.uplinks("site-00001", uplink("wan1"))
			return b
		}(), func(b *builder) { b.uplinks("site-00001", uplink("wan1", "192.0.2.1")) }, 2,
			"site-00000--site-00001 updated remote_endpoints,role"},
		{"an edge is disabled", hubAndSpokeOf(2, true), func(b *builder) {
			put(b, &b.Edges, edgeName("spoke-00001"), &swanherdv1.Edge{Name: edgeName("spoke-00001"), Site: siteName("spoke-00001"), Disabled: true})
		}, 2, "hub--spoke-00001 removed; hub -10.0.1.0/24; spoke-00001 -10.0.0.0/24; spoke-00001 -172.16.0.0/16"},
		{"the mesh goes", hubAndSpokeOf(1, false), func(b *builder) { drop(b, &b.Meshes, meshName("spokes")) }, 2,
			"hub--spoke-00000 removed; hub -10.0.0.0/24; spoke-00000 -172.16.0.0/16"},
		{"tunnels to hubs become critical", hubAndSpokeOf(2, false), func(b *builder) {
			m := hubAndSpoke(labelled("role", "hub"), labelled("role", "spoke"), false)
			m.Critical = true
			b.mesh("spokes", m)
		}, 2, "hub--spoke-00000 updated critical; hub--spoke-00001 updated critical"},
		{"transit begins", hubAndSpokeOf(2, false), func(b *builder) {
			b.mesh("spokes", hubAndSpoke(labelled("role", "hub"), labelled("role", "spoke"), true))
		}, 3, "hub--spoke-00000 rekeyed children.local_ts,children.remote_ts; hub--spoke-00001 rekeyed children.local_ts,children.remote_ts; " +
			"spoke-00000 +10.0.1.0/24; spoke-00001 +10.0.0.0/24"},
	} {
		t.Run(c.name, func(t *testing.T) {
			from := c.start.snapshot()
			c.change(c.start)
			p := Preview(from, c.start.snapshot())
			if got := said(p); got != c.want {
				t.Errorf("preview is\n%s\nwant\n%s", got, c.want)
			}
			if p.GetEdgesTouched() != c.edges || len(p.GetEdges()) != int(c.edges) {
				t.Errorf("%d edges are touched, want %d: %v", p.GetEdgesTouched(), c.edges, p.GetEdges())
			}
		})
	}
}

// The lists of a preview are bounded, what it counts is not.
func TestPreviewOfMuch(t *testing.T) {
	b := hubAndSpokeOf(1500, false)
	from := b.snapshot()
	drop(b, &b.Meshes, meshName("spokes"))
	p := Preview(from, b.snapshot())
	if p.GetTunnelsRemoved() != 1500 || len(p.GetTunnels()) != maxPreviewed || p.GetEdgesTouched() != 1501 || p.GetSitesLosing() != 1501 || len(p.GetReachability()) != maxPreviewed {
		t.Errorf("%d tunnels removed, %d listed; %d edges; %d sites, %d listed", p.GetTunnelsRemoved(), len(p.GetTunnels()), p.GetEdgesTouched(), p.GetSitesLosing(), len(p.GetReachability()))
	}
}

// checkPreview holds a preview to two plans that were made from nothing.
func checkPreview(t *rapid.T, from, to *model.Topology) {
	before, after, p := Make(from), Make(to), Preview(from, to)
	var touched, added, removed uint32
	for row := range after.Intents.All() {
		if old := before.Intents.Value(row.Name); old == nil || !bytes.Equal(old.Resources.Digest(), row.Value.Resources.Digest()) {
			touched++
		}
	}
	for row := range before.Intents.All() {
		if after.Intents.Value(row.Name) == nil {
			touched++
		}
	}
	for row := range after.Tunnels.All() {
		if before.Tunnels.Value(row.Name) == nil {
			added++
		}
	}
	for row := range before.Tunnels.All() {
		if after.Tunnels.Value(row.Name) == nil {
			removed++
		}
	}
	if p.GetEdgesTouched() != touched || p.GetTunnelsAdded() != added || p.GetTunnelsRemoved() != removed {
		t.Fatalf("preview says %d edges, +%d -%d tunnels; the plans differ in %d edges, +%d -%d tunnels",
			p.GetEdgesTouched(), p.GetTunnelsAdded(), p.GetTunnelsRemoved(), touched, added, removed)
	}
	for _, segment := range []string{"", "corp", "iot"} {
		checkLosses(t, from, to, before, after, p, segment)
	}
}

// checkLosses holds what a preview says that sites lose in a segment to the plans.
func checkLosses(t *rapid.T, from, to *model.Topology, before, after *Plan, p *swanherdv1.ChangePlan, segment string) {
	lost := map[string][]string{}
	for _, c := range p.GetReachability() {
		if model.SegmentID(c.GetSegment()) == segment {
			lost[c.GetSite()] = c.GetLostPrefixes()
		}
	}
	for s := range to.Sites.All() {
		for other := range from.Sites.All() {
			texts, _ := model.PrefixesIn(other.Value, segment)
			for _, prefix := range parsePrefixes(texts) {
				loses := reaches(from, before, segment, s.Name, prefix.Addr()) && !reaches(to, after, segment, s.Name, prefix.Addr())
				if said := holds(lost[s.Name], prefix.Addr()); said != loses {
					t.Fatalf("in segment %q %s loses %s: %v, the preview says %v: %v", segment, s.Name, prefix, loses, said, lost[s.Name])
				}
			}
		}
	}
}

// reaches says whether an edge of the site has a tunnel to the address in the segment.
func reaches(t *model.Topology, p *Plan, segment, site string, addr netip.Addr) bool {
	for row := range t.Edges.All() {
		intent := p.Intents.Value(row.Name)
		if row.Value.GetSite() != site || intent == nil {
			continue
		}
		for r := range intent.Resources.All() {
			for _, child := range r.GetTunnel().GetChildren() {
				if _, remote := protected(child); r.GetTunnel().GetSegment() == segment && holds(remote, addr) {
					return true
				}
			}
		}
	}
	return false
}

func holds(prefixes []string, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(s string) bool { return netip.MustParsePrefix(s).Contains(addr) })
}
