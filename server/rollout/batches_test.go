package rollout

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func TestOrder(t *testing.T) {
	edges := []Candidate{
		{Name: "f"}, {Name: "e"}, {Name: "d", Labels: map[string]string{"canary": "yes"}}, {Name: "c"}, {Name: "b", Labels: map[string]string{"canary": "yes", "region": "emea"}},
		{Name: "a"}, {Name: "z-hub", Hub: true},
	}
	canary := map[string]string{"canary": "yes"}
	for _, c := range []struct {
		name    string
		edges   []Candidate
		batches []*swanherdv1.RolloutBatch
		order   []string
		ends    []uint32
	}{
		{name: "no edges", batches: []*swanherdv1.RolloutBatch{{}}},
		{name: "no batches: hubs first, one batch", edges: edges, order: []string{"z-hub", "a", "b", "c", "d", "e", "f"}, ends: []uint32{7}},
		{
			name: "canary, a share, the rest", edges: edges, batches: []*swanherdv1.RolloutBatch{{MatchLabels: canary}, {Percent: 20}},
			order: []string{"z-hub", "b", "d", "a", "c", "e", "f"}, ends: []uint32{3, 5, 7}, // 20 % of six, rounded up
		},
		{
			name: "bounds meet, and a batch that finds nobody is none", edges: edges,
			batches: []*swanherdv1.RolloutBatch{{MatchLabels: canary, MaxEdges: 1}, {MatchLabels: map[string]string{"region": "emea"}}, {Percent: 50, MaxEdges: 1}},
			order:   []string{"z-hub", "b", "a", "c", "d", "e", "f"}, ends: []uint32{2, 3, 7},
		},
		{name: "hubs alone", edges: edges[6:], batches: []*swanherdv1.RolloutBatch{{MatchLabels: canary}}, order: []string{"z-hub"}, ends: []uint32{1}},
	} {
		order, ends := Order(c.edges, c.batches)
		if !slices.Equal(order, c.order) || !slices.Equal(ends, c.ends) {
			t.Errorf("%s: %v %v, want %v %v", c.name, order, ends, c.order, c.ends)
		}
	}
}

// Whatever the batches: every edge is in one of them, none is empty.
func TestOrderHasEveryEdgeOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var edges []Candidate
		var want []string
		for _, name := range rapid.SliceOfDistinct(rapid.StringMatching(`[a-z]{1,3}`), rapid.ID).Draw(t, "edges") {
			edges = append(edges, Candidate{
				Name: name, Hub: rapid.Bool().Draw(t, "hub"), Labels: map[string]string{"l": rapid.SampledFrom([]string{"x", "y"}).Draw(t, "label")},
			})
			want = append(want, name)
		}
		var batches []*swanherdv1.RolloutBatch
		for range rapid.IntRange(0, 4).Draw(t, "batches") {
			batches = append(batches, &swanherdv1.RolloutBatch{
				MatchLabels: map[string]string{"l": rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "wanted")},
				Percent:     rapid.Uint32Range(0, 100).Draw(t, "percent"), MaxEdges: rapid.Uint32Range(0, 3).Draw(t, "most"),
			})
		}
		order, ends := Order(edges, batches)
		before := uint32(0)
		for _, end := range ends {
			if end <= before {
				t.Fatalf("ends %v", ends)
			}
			before = end
		}
		slices.Sort(want)
		if got := slices.Sorted(slices.Values(order)); !slices.Equal(got, want) || int(before) != len(want) {
			t.Fatalf("order %v, ends %v of %v", order, ends, want)
		}
	})
}
