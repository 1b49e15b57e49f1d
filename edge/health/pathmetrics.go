package health

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/swanherd/swanherd/edge/path"
	"github.com/swanherd/swanherd/edge/probe"
)

// PathSource is what is known of tunnels that have alternatives.
type PathSource struct {
	// Choices are which of them have the traffic, and Switches how often that changed, by
	// cause.
	Choices  func() []path.Choice
	Switches func() map[string]uint64
	// Lives is whether they are alive, by tunnel.
	Lives func() map[string]probe.Life
}

// PathMetrics are those of the choice of paths, for Prometheus.
type PathMetrics struct{ source PathSource }

// NewPathMetrics returns the metrics of a choice of paths.
func NewPathMetrics(s PathSource) *PathMetrics { return &PathMetrics{s} }

var (
	descPathInUse    = describe("path_in_use", "1 while the tunnel has, or shares, the traffic of the class.", "group", "class", "tunnel")
	descPathSwitches = describe("path_switches_total", "How often traffic of a class went another way.", "cause")
	descPathState    = describe("path_state", "1 for the state of the path of a tunnel that has alternatives.", "tunnel", "state")
)

// Describe implements prometheus.Collector.
func (m *PathMetrics) Describe(c chan<- *prometheus.Desc) {
	c <- descPathInUse
	c <- descPathSwitches
	c <- descPathState
}

// Collect implements prometheus.Collector.
func (m *PathMetrics) Collect(c chan<- prometheus.Metric) {
	for _, choice := range m.source.Choices() {
		for _, tunnel := range choice.InUse() {
			c <- prometheus.MustNewConstMetric(descPathInUse, prometheus.GaugeValue, 1, choice.Group, choice.Class, tunnel)
		}
	}
	for cause, n := range m.source.Switches() {
		c <- prometheus.MustNewConstMetric(descPathSwitches, prometheus.CounterValue, float64(n), cause)
	}
	for tunnel, life := range m.source.Lives() {
		c <- prometheus.MustNewConstMetric(descPathState, prometheus.GaugeValue, 1, tunnel, life.State.String())
	}
}
