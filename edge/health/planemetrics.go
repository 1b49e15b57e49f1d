package health

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// PlaneSource is what a data plane tells of itself beside its SAs. A function is
// nil where it has no such figures.
type PlaneSource struct {
	// Drops are packets dropped outside of SAs, by reason.
	Drops func() map[string]uint64
	// Latency is as in dataplane.Measured.
	Latency func(dataplane.Direction) dataplane.LatencySnapshot
}

// PlaneMetrics are those of the data plane, for Prometheus.
type PlaneMetrics struct{ source PlaneSource }

// NewPlaneMetrics returns the metrics of a data plane.
func NewPlaneMetrics(s PlaneSource) *PlaneMetrics { return &PlaneMetrics{s} }

var (
	descPlaneDrops   = describe("plane_dropped_packets_total", "Packets that the data plane dropped outside of SAs.", "reason")
	descPlaneLatency = describe("plane_latency_seconds", "How long a batch of packets took from the first read to the last write.", "direction")
)

// The bounds of the histogram of latencies are powers of two of nanoseconds, about 1
// microsecond to 1 second.
const (
	leastLatencyBound = 1 << 10
	mostLatencyBound  = 1 << 30
)

// Describe implements prometheus.Collector.
func (m *PlaneMetrics) Describe(c chan<- *prometheus.Desc) {
	c <- descPlaneDrops
	c <- descPlaneLatency
}

// Collect implements prometheus.Collector.
func (m *PlaneMetrics) Collect(c chan<- prometheus.Metric) {
	if m.source.Drops != nil {
		for reason, n := range m.source.Drops() {
			c <- prometheus.MustNewConstMetric(descPlaneDrops, prometheus.CounterValue, float64(n), reason)
		}
	}
	if m.source.Latency == nil {
		return
	}
	for _, d := range []dataplane.Direction{dataplane.Inbound, dataplane.Outbound} {
		s := m.source.Latency(d)
		buckets := map[float64]uint64{}
		for bound := time.Duration(leastLatencyBound); bound <= mostLatencyBound; bound *= 2 {
			buckets[bound.Seconds()] = s.Below(bound)
		}
		c <- prometheus.MustNewConstHistogram(descPlaneLatency, s.Count, s.Sum.Seconds(), buckets, d.String())
	}
}
