package health

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// planeDouble has dropped packets and observed latencies.
func planeDouble() PlaneSource {
	return PlaneSource{
		Drops: func() map[string]uint64 { return map[string]uint64{"no_policy": 3} },
		Latency: func(d dataplane.Direction) dataplane.LatencySnapshot {
			var l dataplane.Latency
			if d == dataplane.Outbound {
				l.Observe(3 * time.Microsecond)
				l.Observe(time.Millisecond)
				l.Observe(5 * time.Second)
			}
			return l.Snapshot()
		},
	}
}

func TestPlaneMetrics(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewPlaneMetrics(planeDouble()))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			switch label := m.GetLabel()[0].GetValue(); label {
			case "no_policy":
				found++
				if m.GetCounter().GetValue() != 3 {
					t.Errorf("%v drops, want 3", m.GetCounter().GetValue())
				}
			case "out":
				found++
				h := m.GetHistogram()
				if h.GetSampleCount() != 3 || h.GetSampleSum() < 5 {
					t.Errorf("%d observed, sum %v", h.GetSampleCount(), h.GetSampleSum())
				}
				for _, b := range h.GetBucket() {
					want := uint64(0)
					switch {
					case b.GetUpperBound() > 0.002:
						want = 2
					case b.GetUpperBound() > 0.000004:
						want = 1
					}
					if n := b.GetCumulativeCount(); n != want && b.GetUpperBound() != 1<<20/1e9 {
						t.Errorf("%d up to %v s, want %d", n, b.GetUpperBound(), want)
					}
				}
			}
		}
	}
	if found != 2 {
		t.Errorf("%d series found, want 2", found)
	}
}

// A plane that has no such figures has no such series.
func TestPlaneMetricsOfLittle(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewPlaneMetrics(PlaneSource{}))
	if families, err := registry.Gather(); err != nil || len(families) != 0 {
		t.Errorf("%v, %v", families, err)
	}
}
