package history

import "github.com/prometheus/client_golang/prometheus"

// Results of tries to deliver a webhook.
const (
	Delivered = "delivered"
	// Failed is tried again.
	Failed = "failed"
	// Dropped is not: too much waited, or it was tried for too long.
	Dropped = "dropped"
)

func newWebhooks() *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "swanherd_webhook_deliveries_total", Help: "Tries to deliver a webhook, by result.",
	}, []string{"result"})
	for _, r := range []string{Delivered, Failed, Dropped} {
		v.WithLabelValues(r)
	}
	return v
}

// WebhookTried counts a try to deliver a webhook.
func (m *Metrics) WebhookTried(result string) { m.webhooks.WithLabelValues(result).Inc() }

// WatchAlerts adds how many alerts fire; firing counts them by severity: `info`,
// `warning` and `critical`.
func (m *Metrics) WatchAlerts(firing func() map[string]int) {
	m.registry.MustRegister(alertCollector(firing))
}

// alertCollector counts alerts when it is scraped.
type alertCollector func() map[string]int

var descAlerts = prometheus.NewDesc("swanherd_alerts_firing", "Alerts that fire, by severity.", []string{"severity"}, nil)

// Describe implements prometheus.Collector.
func (c alertCollector) Describe(out chan<- *prometheus.Desc) { out <- descAlerts }

// Collect implements prometheus.Collector.
func (c alertCollector) Collect(out chan<- prometheus.Metric) {
	counts := c()
	for _, severity := range []string{"info", "warning", "critical"} {
		out <- prometheus.MustNewConstMetric(descAlerts, prometheus.GaugeValue, float64(counts[severity]), severity)
	}
}
