package plan

import (
	"testing"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func BenchmarkMake(b *testing.B) {
	for _, c := range []struct {
		name string
		b    *builder
	}{
		{"full-mesh-200", fullMeshOf(200)},
		{"hub-and-spoke-10000", hubAndSpokeOf(10_000, false)},
		{"hub-and-spoke-10000-transit", hubAndSpokeOf(10_000, true)},
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

// BenchmarkUpdate is the cost of one edge's new address.
func BenchmarkUpdate(b *testing.B) {
	for _, c := range []struct {
		name, edge string
		b          *builder
	}{
		{"full-mesh-200", "site-00007", fullMeshOf(200)},
		{"hub-and-spoke-10000", "spoke-00007", hubAndSpokeOf(10_000, false)},
	} {
		b.Run(c.name, func(b *testing.B) {
			p := NewPlanner()
			p.Update(c.b.snapshot())
			addresses := [2]*swanherdv1.Uplink{uplink("wan1", "192.0.2.1"), uplink("wan1", "192.0.2.2")}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				c.b.uplinks(c.edge, addresses[i%2])
				p.Update(c.b.snapshot())
			}
		})
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
