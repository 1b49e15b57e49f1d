package history_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/history"
)

// counted is a fleet that never changes.
type counted map[string]*swanherdv1.FleetCounts

func (c counted) Counts(network string) *swanherdv1.FleetCounts { return c[network] }

func scrape(t *testing.T, m *history.Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	b, err := io.ReadAll(w.Result().Body)
	if err != nil || w.Code != 200 {
		t.Fatalf("scrape: %d, %v", w.Code, err)
	}
	return string(b)
}

func used() *history.Metrics {
	m := history.New(counted{
		"networks/a": {Up: 1, Degraded: 2, Down: 3, Negotiating: 4, Stale: 5, Edges: 6, EdgesConnected: 7, EdgesInSync: 8, Sites: 9, SitesIsolated: 10},
		"networks/b": {},
	}, func() []string { return []string{"networks/a", "networks/b"} })
	m.SessionOpened()
	m.SessionOpened()
	m.SessionClosed(codes.Unavailable)
	m.IntentSent(true, 1000, time.Second)
	m.IntentSent(false, 10, time.Second)
	m.IntentSent(false, 20, time.Second)
	m.IntentAnswered("ack", time.Second)
	m.Planned(time.Second)
	m.WatchReplica(func() bool { return true }, func() int { return 3 }, func() time.Duration { return 1500 * time.Millisecond })
	m.WatchAlerts(func() map[string]int { return map[string]int{"warning": 3} })
	m.WebhookTried(history.Failed)
	m.STUNAsked("limited")
	// The server collects it, and has the test of what it says.
	m.Collect(prometheus.NewGauge(prometheus.GaugeOpts{Name: "swanherd_rollouts", Help: "Rollouts."}))
	return m
}

func TestMetrics(t *testing.T) {
	text := scrape(t, used())
	for _, want := range []string{
		`swanherd_sessions 1`,
		`swanherd_sessions_ended_total{code="Unavailable"} 1`,
		`swanherd_intent_updates_total{kind="snapshot"} 1`,
		`swanherd_intent_updates_total{kind="delta"} 2`,
		`swanherd_intent_octets_total{kind="delta"} 30`,
		`swanherd_intent_push_seconds_count{kind="snapshot"} 1`,
		`swanherd_intent_answer_seconds_sum{result="ack"} 1`,
		`swanherd_plan_seconds_count 1`,
		`swanherd_tunnels{network="networks/a",status="up"} 1`,
		`swanherd_tunnels{network="networks/a",status="degraded"} 2`,
		`swanherd_tunnels{network="networks/a",status="down"} 3`,
		`swanherd_tunnels{network="networks/a",status="negotiating"} 4`,
		`swanherd_tunnels{network="networks/a",status="stale"} 5`,
		`swanherd_edges{network="networks/a"} 6`,
		`swanherd_edges_connected{network="networks/a"} 7`,
		`swanherd_edges_in_sync{network="networks/a"} 8`,
		`swanherd_sites{network="networks/a"} 9`,
		`swanherd_sites_isolated{network="networks/a"} 10`,
		`swanherd_tunnels{network="networks/b",status="down"} 0`,
		`swanherd_leader 1`,
		`swanherd_replicas 3`,
		`swanherd_store_stale_seconds 1.5`,
		`swanherd_alerts_firing{severity="warning"} 3`,
		`swanherd_alerts_firing{severity="critical"} 0`,
		`swanherd_webhook_deliveries_total{result="delivered"} 0`,
		`swanherd_webhook_deliveries_total{result="failed"} 1`,
		`swanherd_stun_requests_total{result="limited"} 1`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %s in the metrics", want)
		}
	}
}

// Dashboards and alarms are made from the package's documentation.
func TestEveryMetricIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (swanherd_\w+)`).FindAllStringSubmatch(scrape(t, used()), -1) {
		names = append(names, m[1])
	}
	if len(names) < 17 {
		t.Fatalf("only %v", names)
	}
	for _, name := range names {
		if !strings.Contains(string(doc), name) {
			t.Errorf("doc.go does not tell of %s", name)
		}
	}
	for _, name := range regexp.MustCompile(`swanherd_\w+`).FindAllString(string(doc), -1) {
		if !slices.Contains(names, name) {
			t.Errorf("doc.go tells of %s, which is not there", name)
		}
	}
}

func TestProbeCountsAnswersOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := used()
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		go m.ProbeStore(ctx, time.Second, func(context.Context) error {
			if calls++; calls == 2 {
				return errors.New("no leader")
			}
			return nil
		})
		time.Sleep(3500 * time.Millisecond)
		cancel()
		synctest.Wait()
		want := fmt.Sprintf("swanherd_store_roundtrip_seconds_count %d\n", calls-1)
		if text := scrape(t, m); calls != 3 || !strings.Contains(text, want) {
			t.Errorf("%d calls, no %s", calls, want)
		}
	})
}
