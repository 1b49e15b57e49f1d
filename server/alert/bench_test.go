package alert_test

import (
	"fmt"
	"testing"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/alert"
)

// BenchmarkStep is one step about 10,000 edges and 40,000 tunnels under the default
// rules and one about tunnels: when nothing happens, when 1000 tunnels count, and when
// every edge is lost.
func BenchmarkStep(b *testing.B) {
	big := func(b *testing.B) *world {
		w := newWorld(b, append(alert.Defaults(), simple(down))...)
		for i := range 10_000 {
			w.site(fmt.Sprintf("s%d", i), nil)
			w.edge(fmt.Sprintf("s%d", i), true, applied)
			for hub := range 4 {
				w.tunnel(fmt.Sprintf("s%d", i), fmt.Sprintf("s%d", hub), up)
			}
		}
		w.step()
		return w
	}
	tick := func(w *world) { w.now = w.now.Add(time.Second); w.step() }
	b.Run("idle", func(b *testing.B) {
		w := big(b)
		for b.Loop() {
			tick(w)
		}
	})
	b.Run("1000-count", func(b *testing.B) {
		w := big(b)
		counted := make([]*swanherdv1.Tunnel, 1000)
		for i := range counted {
			w.tunnel(fmt.Sprintf("s%d", i+10), "s0", up)
		}
		copy(counted, w.in.Fleet.Tunnels)
		for b.Loop() {
			w.in.Fleet.Tunnels = counted
			tick(w)
		}
	})
	b.Run("all-lost", func(b *testing.B) {
		w := big(b)
		for i := range 10_000 {
			w.edge(fmt.Sprintf("s%d", i), false, applied)
		}
		for range 200 {
			tick(w)
		}
		for b.Loop() {
			tick(w)
		}
	})
}
