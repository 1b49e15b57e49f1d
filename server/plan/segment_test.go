package plan

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/swanherd/swanherd/server/model"
)

// segmented are three sites of which all have the same prefixes in two segments, and two
// of them in a third.
func segmented() *builder {
	b := hubAndSpokeOf(2, true)
	b.segments("corp", "iot")
	for _, s := range []struct{ site, prefix string }{{"hub", "172.16.0.0/16"}, {"spoke-00000", "10.0.0.0/24"}, {"spoke-00001", "10.0.1.0/24"}} {
		b.siteSegment(s.site, "corp", s.prefix)
		if s.site != "spoke-00001" {
			b.siteSegment(s.site, "iot", s.prefix)
		}
	}
	return b
}

// Each segment has the tunnels between the sites that are in it, and no Child SA of it
// bears another's name or prefixes.
func TestSegmentsHaveTunnelsOfTheirOwn(t *testing.T) {
	b := segmented()
	p := Make(b.snapshot())
	want := []string{
		"hub--spoke-00000", "hub--spoke-00000.corp", "hub--spoke-00000.iot", "hub--spoke-00001", "hub--spoke-00001.corp",
	}
	var got []string
	for row := range p.Tunnels.All() {
		got = append(got, short(row.Name))
		for _, edge := range []string{row.Value.GetA().GetEdge(), row.Value.GetB().GetEdge()} {
			intent := p.tunnelIntent(edge, row.Name)
			if intent.GetSegment() != model.SegmentID(row.Value.GetSegment()) {
				t.Errorf("%s of segment %q has the segment %q at %s", row.Name, row.Value.GetSegment(), intent.GetSegment(), edge)
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("tunnels are %v, want %v", got, want)
	}
	settings := resources(p.Intents.Value(edgeName("spoke-00001"))).Get("settings").GetSettings()
	if n := settings.GetSegments(); len(n) != 1 || n[0].GetSegment() != "corp" || !slices.Equal(n[0].GetLocalPrefixes(), []string{"10.0.1.0/24"}) {
		t.Errorf("the segments of spoke-00001 are %v", n)
	}
}

// A mesh carries the segments that it names.
func TestMeshCarriesSegments(t *testing.T) {
	for _, c := range []struct {
		segments []string
		want     int // tunnels
	}{{nil, 5}, {[]string{"default"}, 2}, {[]string{"iot"}, 1}, {[]string{"corp", "default"}, 4}} {
		b := segmented()
		m := b.Meshes.Value(meshName("spokes"))
		for _, id := range c.segments {
			m.Segments = append(m.Segments, "networks/demo/segments/"+id)
		}
		b.mesh("spokes", m)
		if n := Make(b.snapshot()).Tunnels.Len(); n != c.want {
			t.Errorf("with segments %v there are %d tunnels, want %d", c.segments, n, c.want)
		}
	}
}

// A segment that goes takes its tunnels with it, although sites still name it, and one
// that comes back has them again.
func TestSegmentsComeAndGo(t *testing.T) {
	b, p := segmented(), NewPlanner()
	p.Update(b.snapshot())
	iot := "networks/demo/segments/iot"
	was := b.Segments.Value(iot)
	for _, c := range []struct {
		what   string
		change func()
		want   int // tunnels
	}{
		{"iot goes", func() { drop(b, &b.Segments, iot) }, 4},
		{"iot comes", func() { put(b, &b.Segments, iot, was) }, 5},
	} {
		c.change()
		top := b.snapshot()
		plan, _ := p.Update(top)
		if n, whole := plan.Tunnels.Len(), Make(top).Tunnels.Len(); n != c.want || whole != c.want {
			t.Errorf("%s: %d tunnels, planned anew %d, want %d", c.what, n, whole, c.want)
		}
	}
}

// A network without segments is planned as if there were no such thing, also beside sites
// that got some: nothing of its tunnels changes.
func TestSegmentsLeaveOthersAlone(t *testing.T) {
	plain, with := Make(hubAndSpokeOf(2, true).snapshot()), Make(segmented().snapshot())
	for row := range plain.Intents.All() {
		now := resources(with.Intents.Value(row.Name))
		for r := range row.Value.Resources.All() {
			if r.GetTunnel() != nil && string(now.Get(r.GetName()).GetVersion()) != string(r.GetVersion()) {
				t.Errorf("%s of %s is another one with segments beside it", r.GetName(), row.Name)
			}
		}
	}
}

// Transit, explanations and assertions stay in the segment.
func TestWaysStayInTheSegment(t *testing.T) {
	b := segmented()
	top := b.snapshot()
	w := NewWays(Make(top), model.NetworkName{Network: "demo"})
	from, to := netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("10.0.1.0/24")
	for _, c := range []struct {
		segment string
		want    bool
	}{{"", true}, {"corp", true}, {"iot", false}, {"guest", false}} {
		var asked []string
		reason, ok := w.Reach(c.segment, from, to, func(tunnel string) bool { asked = append(asked, tunnel); return true })
		if ok != c.want {
			t.Errorf("in segment %q %s reaches %s: %v, %s", c.segment, from, to, ok, reason)
		}
		for _, tunnel := range asked {
			if inCorp := strings.HasSuffix(tunnel, ".corp"); inCorp != (c.segment == "corp") {
				t.Errorf("in segment %q the way is over %s", c.segment, tunnel)
			}
		}
		e := Explain(top, model.SegmentName{Network: "demo", Segment: c.segment}, from.Addr().Next(), to.Addr().Next())
		if e.GetReachable() != c.want {
			t.Errorf("in segment %q: %v, %s", c.segment, e.GetReachable(), e.GetReason())
		}
	}
}

// A preview tells what a site loses by segment.
func TestPreviewBySegment(t *testing.T) {
	b := segmented()
	before := b.snapshot()
	b.site("spoke-00000", map[string]string{"role": "spoke"}, "10.0.0.0/24")
	b.siteSegment("spoke-00000", "corp", "10.0.0.0/24")
	c := Preview(before, b.snapshot())
	if c.GetTunnelsRemoved() != 1 || c.GetSitesLosing() != 2 {
		t.Errorf("%d tunnels go and %d sites lose something, want 1 and 2", c.GetTunnelsRemoved(), c.GetSitesLosing())
	}
	for _, r := range c.GetReachability() {
		if r.GetSegment() != "networks/demo/segments/iot" {
			t.Errorf("%s loses %v in segment %q", r.GetSite(), r.GetLostPrefixes(), r.GetSegment())
		}
	}
}
