package path

import (
	"fmt"
	"testing"

	"github.com/swanherd/swanherd/edge/probe"
)

// BenchmarkStep is one look at 1,000 tunnels in 500 groups, for the default class and two
// others, of which nothing changes. There are two in a second.
func BenchmarkStep(b *testing.B) {
	var groups []Group
	seen := map[string]Observation{}
	for i := range 500 {
		g := Group{Name: fmt.Sprint("group ", i), Classes: []Class{{Name: "bulk"}, {Name: "voice"}}}
		for _, uplink := range []string{"a", "b"} {
			tunnel := fmt.Sprint(g.Name, uplink)
			g.Members = append(g.Members, Member{Tunnel: tunnel, Cost: uint64(len(g.Members))})
			seen[tunnel] = Observation{Up: true, Life: probe.Life{State: probe.Alive, Probes: 13}}
		}
		groups = append(groups, g)
	}
	c := NewChooser()
	c.Set(groups)
	now := start
	b.ReportAllocs()
	for b.Loop() {
		c.Step(now, seen)
		now = now.Add(lookInterval)
	}
}
