package history

import (
	"context"
	"net/http"
	"time"

	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Counter counts a network, as fleet.Fleet does.
type Counter interface {
	Counts(network string) *swanherdv1.FleetCounts
}

// Metrics are the controller's metrics. Its methods may be called from any
// goroutine.
type Metrics struct {
	registry *prometheus.Registry
	// GRPC observes calls of the API.
	GRPC *grpcprom.ServerMetrics

	sessions     prometheus.Gauge
	sessionsOver *prometheus.CounterVec
	updates      *prometheus.CounterVec
	octets       *prometheus.CounterVec
	push         *prometheus.HistogramVec
	answer       *prometheus.HistogramVec
	plan         prometheus.Histogram
	store        prometheus.Histogram
	limited      prometheus.Counter
	webhooks     *prometheus.CounterVec
	stun         *prometheus.CounterVec
}

// New returns metrics of the fleet; networks lists the networks there are,
// `networks/{network}`.
func New(fleet Counter, networks func() []string) *Metrics {
	latency := prometheus.ExponentialBuckets(0.001, 2.5, 12) // 1 ms to 24 s
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		GRPC:     grpcprom.NewServerMetrics(grpcprom.WithServerHandlingTimeHistogram()),
		sessions: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "swanherd_sessions", Help: "Sessions of edges open at this replica.",
		}),
		sessionsOver: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "swanherd_sessions_ended_total", Help: "Sessions that ended, by gRPC code.",
		}, []string{"code"}),
		updates: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "swanherd_intent_updates_total", Help: "Intent updates sent.",
		}, []string{"kind"}),
		octets: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "swanherd_intent_octets_total", Help: "Octets of intent updates sent.",
		}, []string{"kind"}),
		push: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "swanherd_intent_push_seconds", Help: "From the first chunk of an update to the last one handed to the stream.", Buckets: latency,
		}, []string{"kind"}),
		answer: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "swanherd_intent_answer_seconds", Help: "From the first chunk of an update to the edge's answer.", Buckets: latency,
		}, []string{"result"}),
		plan: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "swanherd_plan_seconds", Help: "From a change of the topology to new intents posted.", Buckets: latency,
		}),
		store: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "swanherd_store_roundtrip_seconds", Help: "Linearizable read of etcd, probed.", Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 12),
		}),
	}
	m.webhooks = newWebhooks()
	m.stun = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "swanherd_stun_requests_total", Help: "Datagrams that asked where they come from, by result.",
	}, []string{"result"})
	m.limited = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "swanherd_calls_limited_total", Help: "Calls of the API that were refused as their principal calls too often.",
	})
	m.registry.MustRegister(m.GRPC, m.limited, m.sessions, m.sessionsOver, m.updates, m.octets, m.push, m.answer, m.plan, m.store, m.webhooks, m.stun,
		&fleetCollector{fleet: fleet, networks: networks},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// CallLimited counts a call that was refused as its principal calls too often.
func (m *Metrics) CallLimited() { m.limited.Inc() }

// STUNAsked counts a datagram that asked where it came from.
func (m *Metrics) STUNAsked(result string) { m.stun.WithLabelValues(result).Inc() }

// Collect adds what somebody else observes.
func (m *Metrics) Collect(c prometheus.Collector) { m.registry.MustRegister(c) }

// WatchReplica adds what there is to say of this replica among the others: whether it
// leads, how many hold a lease, and for how long the state may be old.
func (m *Metrics) WatchReplica(leads func() bool, live func() int, stale func() time.Duration) {
	gauge := func(name, help string, value func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	gauge("swanherd_leader", "1 at the replica that leads, 0 at others.", func() float64 {
		if leads() {
			return 1
		}
		return 0
	})
	gauge("swanherd_replicas", "Replicas that hold a lease, as this one sees it.", func() float64 { return float64(live()) })
	gauge("swanherd_store_stale_seconds", "For how long what this replica knows may be older than the store; 0 while it is not.",
		func() float64 { return stale().Seconds() })
}

// Handler serves the metrics in Prometheus' exposition formats.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

// SessionOpened implements session.Metrics, as the next three do.
func (m *Metrics) SessionOpened() { m.sessions.Inc() }

// SessionClosed counts a session that ended.
func (m *Metrics) SessionClosed(code codes.Code) {
	m.sessions.Dec()
	m.sessionsOver.WithLabelValues(code.String()).Inc()
}

// IntentSent observes an update that was sent whole.
func (m *Metrics) IntentSent(full bool, octets int, took time.Duration) {
	kind := "delta"
	if full {
		kind = "snapshot"
	}
	m.updates.WithLabelValues(kind).Inc()
	m.octets.WithLabelValues(kind).Add(float64(octets))
	m.push.WithLabelValues(kind).Observe(took.Seconds())
}

// IntentAnswered observes an edge's answer.
func (m *Metrics) IntentAnswered(result string, took time.Duration) {
	m.answer.WithLabelValues(result).Observe(took.Seconds())
}

// Planned observes how long a change of the topology took to become intents.
func (m *Metrics) Planned(took time.Duration) { m.plan.Observe(took.Seconds()) }

// ProbeStore observes what ping takes, every interval until ctx ends.
func (m *Metrics) ProbeStore(ctx context.Context, interval time.Duration, ping func(context.Context) error) {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		start := time.Now()
		probe, cancel := context.WithTimeout(ctx, interval)
		if ping(probe) == nil {
			m.store.Observe(time.Since(start).Seconds())
		}
		cancel()
	}
}

// fleetCollector counts the fleet when it is scraped.
type fleetCollector struct {
	fleet    Counter
	networks func() []string
}

func fleetDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("swanherd_"+name, help, append([]string{"network"}, labels...), nil)
}

var (
	descEdges     = fleetDesc("edges", "Edges enrolled.")
	descConnected = fleetDesc("edges_connected", "Edges with a session.")
	descInSync    = fleetDesc("edges_in_sync", "Edges that run their newest intent.")
	descSites     = fleetDesc("sites", "Sites.")
	descIsolated  = fleetDesc("sites_isolated", "Sites none of whose tunnels is up.")
	descOverSLA   = fleetDesc("tunnels_sla_violated", "Tunnels whose path is over a limit of its SLA.")
	descTunnels   = fleetDesc("tunnels", "Tunnels by status.", "status")
)

// Describe implements prometheus.Collector.
func (c *fleetCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descEdges, descConnected, descInSync, descSites, descIsolated, descOverSLA, descTunnels} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *fleetCollector) Collect(ch chan<- prometheus.Metric) {
	for _, network := range c.networks() {
		n := c.fleet.Counts(network)
		gauge := func(d *prometheus.Desc, v uint32, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), append([]string{network}, labels...)...)
		}
		gauge(descEdges, n.GetEdges())
		gauge(descConnected, n.GetEdgesConnected())
		gauge(descInSync, n.GetEdgesInSync())
		gauge(descSites, n.GetSites())
		gauge(descIsolated, n.GetSitesIsolated())
		gauge(descOverSLA, n.GetSlaViolated())
		gauge(descTunnels, n.GetUp(), "up")
		gauge(descTunnels, n.GetDegraded(), "degraded")
		gauge(descTunnels, n.GetDown(), "down")
		gauge(descTunnels, n.GetNegotiating(), "negotiating")
		gauge(descTunnels, n.GetStale(), "stale")
	}
}
