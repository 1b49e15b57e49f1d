package plan

import (
	"fmt"
	"testing"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func BenchmarkMake(b *testing.B) {
	several := hubsAndSpokesOf(10_000, false)
	m := several.Meshes.Value(meshName("spokes"))
	m.Paths = &swanherdv1.MeshPaths{Pairing: allPairs}
	several.mesh("spokes", m)
	for _, c := range []struct {
		name string
		b    *builder
	}{
		{"full-mesh-200", fullMeshOf(200)},
		{"4-hubs-10000-spokes", hubsAndSpokesOf(10_000, false)},
		{"4-hubs-10000-spokes-transit", hubsAndSpokesOf(10_000, true)},
		{"4-hubs-10000-spokes-all-pairs-of-2-uplinks", several},
	} {
		t := c.b.snapshot()
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Make(t)
			}
		})
	}
}

// BenchmarkUpdate is the cost of one change: of an edge's address, or of a site's prefixes.
func BenchmarkUpdate(b *testing.B) {
	for _, c := range []struct {
		name, id string
		b        *builder
	}{
		{"full-mesh-200", "site-00007", fullMeshOf(200)},
		{"4-hubs-10000-spokes", "spoke-00007", hubsAndSpokesOf(10_000, false)},
	} {
		labels := c.b.Sites.Value(siteName(c.id)).GetLabels()
		second := c.b.EdgeStatuses.Value(edgeName(c.id)).GetUplinks()[1:]
		for what, change := range map[string]func(i int){
			"address": func(i int) {
				c.b.uplinks(c.id, append([]*swanherdv1.Uplink{uplink("wan1", fmt.Sprintf("192.0.2.%d", 1+i%2))}, second...)...)
			},
			"prefix": func(i int) { c.b.site(c.id, labels, fmt.Sprintf("10.250.%d.0/24", i%2)) },
		} {
			b.Run(c.name+"/"+what, func(b *testing.B) {
				p := NewPlanner()
				p.Update(c.b.snapshot())
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					change(i)
					p.Update(c.b.snapshot())
				}
			})
		}
	}
}

// BenchmarkPreview is what Apply costs to tell of one changed prefix.
func BenchmarkPreview(b *testing.B) {
	t := hubAndSpokeOf(10000, false)
	from := t.snapshot()
	t.site("spoke-00007", map[string]string{"role": "spoke"}, "10.250.0.0/24")
	to := t.snapshot()
	for b.Loop() {
		Preview(from, to)
	}
}
