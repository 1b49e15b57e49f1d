package edge

import (
	"reflect"
	"testing"

	"github.com/swanherd/swanherd/edge/path"
	"github.com/swanherd/swanherd/edge/reconcile"
	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// A choice for a class is one for each of its matches, and what there is none for goes as
// what is of no class.
func TestRankingOfChoices(t *testing.T) {
	voice := []dataplane.TrafficClass{{DSCP: []uint8{46}}, {DSCP: []uint8{34}}}
	classes := []reconcile.TrafficClass{{ID: "voice", Matches: voice}, {ID: "bulk", Matches: []dataplane.TrafficClass{{DSCP: []uint8{8}}}}}
	ranked := func(names ...string) (out []path.Ranked) {
		for rank, name := range names {
			out = append(out, path.Ranked{Tunnel: name, Rank: rank, Weight: 1})
		}
		return out
	}
	got := rankingOf([]path.Choice{
		{Group: "b", Class: "", Paths: []path.Ranked{{Tunnel: "b1"}, {Tunnel: "b2"}}},
		{Group: "a", Class: "", Paths: ranked("a1", "a2")},
		{Group: "a", Class: "gone", Paths: ranked("a2", "a1")},
		{Group: "a", Class: "voice", Paths: ranked("a2", "a1")},
		{Group: "c", Class: "bulk", Paths: ranked("c1")},
	}, classes)
	want := dataplane.Ranking{
		Classes: []dataplane.TrafficClass{voice[0], voice[1], {DSCP: []uint8{8}}},
		Ranks: map[string][]uint8{
			"a1": {1, 1, 0, 0}, "a2": {0, 0, 1, 1}, "b1": {0, 0, 0, 0}, "b2": {0, 0, 0, 0}, "c1": {0, 0, 0, 0},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if err := got.Validate(); err != nil {
		t.Error(err)
	}
}
