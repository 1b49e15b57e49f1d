package plan

import (
	"fmt"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// A change that is admitted edge by edge, forth and back, while the rest of the
// topology changes too: both ends of each tunnel agree at every step, with nothing
// admitted the plan is the base's, with all it is the target's, the changes told are
// those that there are, and a composer that begins in the middle comes to the same.
func TestComposedPlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBuilder()
		populate(t, b)
		composer := NewComposer(nil)
		before := &Plan{}
		var stages []Stage
		check := func() {
			b.Revision++ // every step of a rollout is written
			top := b.snapshot()
			p, changes := composer.Update(top, stages)
			checkChanges(t, before, p, changes)
			checkEnds(t, p)
			switch {
			case len(stages) == 0 || stages[0].Admitted == 0:
				checkSame(t, p, Make(top))
			case stages[0].Admitted == len(stages[0].Order):
				checkSame(t, p, Make(stages[0].Target(top)))
			}
			anew, _ := NewComposer(nil).Update(top, stages)
			checkSame(t, p, anew)
			before = p
		}
		check()
		t.Repeat(map[string]func(*rapid.T){
			"begin": func(t *rapid.T) {
				if len(stages) == 0 {
					stages = []Stage{randomStage(t, b)}
				}
			},
			"admit": func(t *rapid.T) {
				if len(stages) > 0 {
					stages[0].Admitted = rapid.IntRange(0, len(stages[0].Order)).Draw(t, "admitted")
				}
			},
			"revert": func(*rapid.T) { stages = nil },
			"complete": func(*rapid.T) {
				if len(stages) > 0 {
					b.become(stages[0].Target(b.snapshot()))
					stages = nil
				}
			},
			"edge":    func(t *rapid.T) { randomEdge(t, b) },
			"uplinks": func(t *rapid.T) { b.uplinks(drawID(t, "edge"), randomUplinks(t)...) },
			"":        func(*rapid.T) { check() },
		})
	})
}

// randomStage is some changes of sites and meshes, for edges in some order.
func randomStage(t *rapid.T, b *builder) Stage {
	c := &builder{Topology: b.Topology}
	for range rapid.IntRange(1, 3).Draw(t, "changes") {
		switch rapid.IntRange(0, 3).Draw(t, "change") {
		case 0:
			randomSite(t, c)
		case 1:
			randomMesh(t, c)
		case 2:
			drop(c, &c.Sites, siteName(drawID(t, "gone")))
		default:
			put(c, &c.Profiles, "networks/demo/profiles/default", &swanherdv1.Profile{Name: "networks/demo/profiles/default", ReplayWindow: 128})
		}
	}
	change := model.AmendmentBetween(&b.Topology, &c.Topology)
	order := map[string]int{}
	for _, id := range rapid.Permutation([]string{"a", "b", "c", "d", "e--x", "f"}).Draw(t, "order") {
		order[edgeName(id)] = len(order)
	}
	return Stage{
		Name: fmt.Sprint("rollout-", b.Revision), Network: model.NetworkName{Network: "demo"}, Target: change.Apply, Order: order,
	}
}

// become is what the store does at the end of a rollout: what differs is written.
func (b *builder) become(t *model.Topology) {
	become(b, &b.Sites, t.Sites)
	become(b, &b.Meshes, t.Meshes)
	become(b, &b.Profiles, t.Profiles)
}

func become[T any](b *builder, t *model.Table[T], to model.Table[T]) {
	for c := range model.Diff(*t, to) {
		if c.New == nil {
			drop(b, t, c.Name)
		} else {
			put(b, t, c.Name, c.New.Value)
		}
	}
}

// What was taken back is newer than what it takes back, so that an edge that was away
// meanwhile takes it.
func TestRevertIsNewer(t *testing.T) {
	b := newBuilder()
	for i, id := range []string{"a", "b"} {
		b.site(id, nil, fmt.Sprintf("10.%d.0.0/16", i))
		b.edge(id, id, uplink("wan0", fmt.Sprintf("192.0.2.%d", i+1)))
	}
	b.mesh("all", fullMesh(allSites))
	c := NewComposer(nil)
	c.Update(b.snapshot(), nil)
	stage := Stage{
		Name: "r", Network: model.NetworkName{Network: "demo"}, Order: map[string]int{edgeName("a"): 0, edgeName("b"): 1}, Admitted: 2,
		Target: func(t *model.Topology) *model.Topology {
			next := *t
			next.Profiles = t.Profiles.With(model.Row[*swanherdv1.Profile]{
				Name: "networks/demo/profiles/default", Value: &swanherdv1.Profile{ReplayWindow: 64},
			})
			return &next
		},
	}
	var last int64
	for _, stages := range [][]Stage{{stage}, nil} {
		b.Revision++
		p, changes := c.Update(b.snapshot(), stages)
		row, _ := p.Intents.Get(edgeName("a"))
		if len(changes.Intents) != 2 || row.Revision != b.Revision || row.Revision <= last {
			t.Errorf("at %d: changes %v, the intent is of %d", b.Revision, changes.Intents, row.Revision)
		}
		last = row.Revision
	}
}

func TestWays(t *testing.T) {
	b := newBuilder()
	for i, id := range []string{"hub", "a", "b"} {
		b.site(id, map[string]string{"role": map[bool]string{true: "hub", false: "spoke"}[id == "hub"]}, fmt.Sprintf("10.%d.0.0/16", i))
		b.edge(id, id, uplink("wan0", fmt.Sprintf("192.0.2.%d", i+1)))
	}
	b.mesh("star", hubAndSpoke(labelled("role", "hub"), labelled("role", "spoke"), true))
	w := NewWays(Make(b.snapshot()), model.NetworkName{Network: "demo"})
	for _, c := range []struct {
		source, destination, down, reason string
	}{
		{source: "10.1.0.0/16", destination: "10.0.0.0/16"},
		{source: "10.1.7.0/24", destination: "10.2.0.0/17"},
		{source: "10.1.0.0/16", destination: "10.1.4.0/24"},
		{source: "10.1.0.0/16", destination: "10.2.0.0/16", down: "b--hub", reason: "tunnel b--hub is not up"},
		{source: "10.1.0.0/16", destination: "10.0.0.0/8", reason: "no tunnel at a takes 10.1.0.0/16 to 10.0.0.0/8"},
		{source: "10.1.0.0/16", destination: "10.9.0.0/16", reason: "no tunnel at a takes 10.1.0.0/16 to 10.9.0.0/16"},
		{source: "10.0.0.0/8", destination: "10.1.0.0/16", reason: "no site with a tunnel has 10.0.0.0/8"},
	} {
		reason, ok := w.Reach("", netip.MustParsePrefix(c.source), netip.MustParsePrefix(c.destination), func(tunnel string) bool {
			return short(tunnel) != c.down
		})
		if reason != c.reason || ok != (c.reason == "") {
			t.Errorf("%s to %s: %v, %q, want %q", c.source, c.destination, ok, reason, c.reason)
		}
	}
}
