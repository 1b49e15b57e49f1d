package health

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/engine"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Metrics are the agent's, for Prometheus; all begin with swanherd_edge_.
type Metrics struct {
	tracker   *Tracker
	engine    func() engine.Counters
	connected func() bool

	mu sync.Mutex
	// last are the counters of each SA at the scrape before, totals their sum
	// over all SAs that ever were, so that a rekey resets nothing. What an SA
	// counts between the last scrape and its end is not in them.
	last   map[saKey]dataplane.Counters
	totals map[childKey]*childTotals
}

type childKey struct {
	tunnel, child string
	direction     dataplane.Direction
}

type childTotals struct{ packets, bytes, replay, auth, selector, missing uint64 }

// NewMetrics returns the metrics of a tracker's tunnels, an engine, and the
// session, of which connected tells whether it stands.
func NewMetrics(t *Tracker, engine func() engine.Counters, connected func() bool) *Metrics {
	return &Metrics{
		tracker: t, engine: engine, connected: connected,
		last: map[saKey]dataplane.Counters{}, totals: map[childKey]*childTotals{},
	}
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("swanherd_edge_"+name, help, labels, nil)
}

var (
	descTunnels    = describe("tunnels", "Tunnels by state.", "state")
	descTunnelUp   = describe("tunnel_up", "1 if the tunnel is established with every Child SA.", "tunnel")
	descFailure    = describe("tunnel_failure", "1 while the last failure of the tunnel is of that kind.", "tunnel", "kind")
	descPathMTU    = describe("tunnel_path_mtu_octets", "The longest IP datagram that is known to reach the peer.", "tunnel")
	descPathHole   = describe("tunnel_path_limited", "1 while the path to the peer drops datagrams that the host would send.", "tunnel")
	descRTT        = describe("tunnel_probe_rtt_seconds", "Round trips of the last 100 probes through the tunnel, by quantile.", "tunnel", "quantile")
	descJitter     = describe("tunnel_probe_jitter_seconds", "Mean difference between the delays of successive probes.", "tunnel", "direction")
	descProbes     = describe("tunnel_probes_total", "Probes of which it is known whether they were answered.", "tunnel")
	descProbesLost = describe("tunnel_probes_lost_total", "Probes that were not answered.", "tunnel")
	descOverSLA    = describe("tunnel_sla_violated", "1 while the path is over that limit of its SLA.", "tunnel", "metric")
	descSession    = describe("session_connected", "1 if the edge has a session with the controller.")
	descPackets    = describe("child_packets_total", "Packets through the Child SAs of this name.", "tunnel", "child", "direction")
	descBytes      = describe("child_bytes_total", "Octets of inner packets through the Child SAs of this name.", "tunnel", "child", "direction")
	descDrops      = describe("child_dropped_packets_total", "Packets dropped by the Child SAs of this name.", "tunnel", "child", "reason")
	descMissing    = describe("child_missing_packets_total", "Sequence numbers that never arrived: loss on the path.", "tunnel", "child")
	descReceived   = describe("ike_received_datagrams_total", "IKE datagrams received.")
	descSent       = describe("ike_sent_datagrams_total", "IKE datagrams sent.")
	descSendErrors = describe("ike_send_errors_total", "IKE datagrams that the host refused to send.")
	descIKEDrops   = describe("ike_dropped_datagrams_total", "IKE datagrams dropped before any IKE SA saw them.", "reason")
	descUnknown    = describe("ike_unknown_answered_total", "Peers told that their SA is not here.")
	descHandshakes = describe("ike_handshakes_total", "Handshakes begun by peers.")
	descShed       = describe("ike_handshakes_shed_total", "Handshakes given up because the workers had too many.")
	descHalfOpen   = describe("ike_half_open", "Half-open IKE SAs.")
	descStreams    = describe("tcp_connections", "TCP connections of IKE and ESP.")
	descRefused    = describe("tcp_connections_refused_total", "TCP connections that peers opened in vain.")
	descTCPDrops   = describe("tcp_dropped_packets_total", "ESP packets that found no TCP connection or no room in it.")
	descPlane      = describe("plane_errors_total", "Operations that the data plane refused.")
	descPlaneLost  = describe("plane_events_lost_total", "Events of the data plane for a tunnel that is gone.")
	descPanics     = describe("tunnel_panics_total", "Tunnels stopped by a defect of the agent.")
)

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descTunnels, descTunnelUp, descFailure, descPathMTU, descPathHole, descRTT, descJitter, descProbes, descProbesLost, descOverSLA, descSession, descPackets, descBytes, descDrops, descMissing,
		descReceived, descSent, descSendErrors, descIKEDrops, descUnknown, descHandshakes, descShed, descHalfOpen,
		descStreams, descRefused, descTCPDrops, descPlane, descPlaneLost, descPanics,
	} {
		c <- d
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(c chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	m.collectTunnels(gauge, count)
	gauge(descSession, number(m.connected()))
	m.collectChildren(count)
	e := m.engine()
	count(descReceived, e.Received)
	count(descSent, e.Sent)
	for reason, n := range e.Drops {
		count(descIKEDrops, n, engine.DropReason(reason).String())
	}
	count(descSendErrors, e.SendErrors)
	count(descUnknown, e.UnknownAnswered)
	count(descHandshakes, e.Handshakes)
	count(descShed, e.JobsRefused)
	gauge(descStreams, float64(e.Streams))
	count(descRefused, e.StreamsRefused)
	count(descTCPDrops, e.StreamDrops)
	count(descPlane, e.PlaneErrors)
	count(descPlaneLost, e.PlaneEventsLost)
	gauge(descHalfOpen, float64(e.HalfOpen))
	count(descPanics, e.Panics)
}

func (m *Metrics) collectTunnels(gauge func(*prometheus.Desc, float64, ...string), count func(*prometheus.Desc, uint64, ...string)) {
	states := map[swanherdv1.TunnelState]int{}
	for _, r := range m.tracker.Reports() {
		states[r.GetState()]++
		if kind := r.GetLastError().GetKind(); kind != swanherdv1.TunnelErrorKind_TUNNEL_ERROR_KIND_UNSPECIFIED {
			gauge(descFailure, 1, r.GetTunnel(), KindWord(kind))
		}
		if path := r.GetPathMtu(); path.GetOctets() != 0 {
			gauge(descPathMTU, float64(path.GetOctets()), r.GetTunnel())
			gauge(descPathHole, number(path.GetLimited()), r.GetTunnel())
		}
		collectPath(r, gauge, count)
		gauge(descTunnelUp, number(r.GetState() == swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED), r.GetTunnel())
	}
	for value := range swanherdv1.TunnelState_name {
		if s := swanherdv1.TunnelState(value); s != swanherdv1.TunnelState_TUNNEL_STATE_UNSPECIFIED {
			gauge(descTunnels, float64(states[s]), StateWord(s))
		}
	}
}

// collectPath is what probes show of a tunnel.
func collectPath(r *swanherdv1.TunnelReport, gauge func(*prometheus.Desc, float64, ...string), count func(*prometheus.Desc, uint64, ...string)) {
	for _, v := range r.GetSlaViolations() {
		gauge(descOverSLA, 1, r.GetTunnel(), metricWord(v.GetMetric()))
	}
	q := r.GetQuality()
	if q == nil {
		return
	}
	count(descProbes, q.GetProbes(), r.GetTunnel())
	count(descProbesLost, q.GetProbesLost(), r.GetTunnel())
	if q.GetWindowProbes() == q.GetWindowLost() {
		return
	}
	const micro = 1e-6
	gauge(descRTT, micro*float64(q.GetRttP50Us()), r.GetTunnel(), "0.5")
	gauge(descRTT, micro*float64(q.GetRttP99Us()), r.GetTunnel(), "0.99")
	gauge(descJitter, micro*float64(q.GetJitterOutUs()), r.GetTunnel(), "out")
	gauge(descJitter, micro*float64(q.GetJitterInUs()), r.GetTunnel(), "in")
}

func (m *Metrics) collectChildren(count func(*prometheus.Desc, uint64, ...string)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.accumulate()
	for key, t := range m.totals {
		count(descPackets, t.packets, key.tunnel, key.child, key.direction.String())
		count(descBytes, t.bytes, key.tunnel, key.child, key.direction.String())
		if key.direction == dataplane.Inbound {
			count(descDrops, t.replay, key.tunnel, key.child, "replay")
			count(descDrops, t.auth, key.tunnel, key.child, "integrity")
			count(descDrops, t.selector, key.tunnel, key.child, "selector")
			count(descMissing, t.missing, key.tunnel, key.child)
		}
	}
}

// accumulate adds what the SAs counted since the scrape before, and forgets
// tunnels that are gone.
func (m *Metrics) accumulate() {
	known := map[string]bool{}
	for _, r := range m.tracker.Reports() {
		known[r.GetTunnel()] = true
	}
	now := m.tracker.countersBySPI()
	for key, c := range now {
		before := m.last[key]
		child := childKey{c.Tunnel, c.Child, c.Direction}
		t := m.totals[child]
		if t == nil {
			t = &childTotals{}
			m.totals[child] = t
		}
		t.packets += c.Packets - before.Packets
		t.bytes += c.Bytes - before.Bytes
		t.replay += c.ReplayDrops - before.ReplayDrops
		t.auth += c.AuthFailures - before.AuthFailures
		t.selector += c.SelectorDrops - before.SelectorDrops
		// Late packets take some back: only a new high is more loss.
		c.Missing = max(c.Missing, before.Missing)
		t.missing += c.Missing - before.Missing
		now[key] = c
	}
	m.last = now
	for key := range m.totals {
		if !known[key.tunnel] {
			delete(m.totals, key)
		}
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
