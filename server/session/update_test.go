package session

import (
	"fmt"
	"testing"

	"github.com/swanherd/swanherd/proto/digest"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// BenchmarkHubUpdate is what it costs to make the update of one tunnel of a hub.
func BenchmarkHubUpdate(b *testing.B) {
	var resources []*swanherdv1.IntentResource
	for i := range 10_000 {
		resources = append(resources, digest.Resource(&swanherdv1.TunnelIntent{Name: fmt.Sprintf("networks/demo/tunnels/hub--site-%d", i)}))
	}
	before := &Intent{Revision: 1, Resources: digest.NewSet(resources)}
	changed := digest.Resource(&swanherdv1.TunnelIntent{Name: resources[0].GetName(), ForceUdpEncapsulation: true})
	after := &Intent{Revision: 2, Resources: before.Resources.With([]*swanherdv1.IntentResource{changed}, nil)}
	b.ReportAllocs()
	for b.Loop() {
		if u := newUpdate(1, Config{}, before, after); len(u.chunks[0].Upserts) != 1 {
			b.Fatal("the update is another one")
		}
	}
}
