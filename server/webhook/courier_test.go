package webhook

import (
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/history"
	"github.com/swanherd/swanherd/server/store"
)

// office is a courier over a real store, and what became of its tries.
type office struct {
	*Courier
	t                          *testing.T
	delivered, failed, dropped atomic.Int64
}

func newOffice(t *testing.T) *office {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := store.Open(t.Context(), store.Config{DataDir: t.TempDir(), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	sealer, err := store.LoadSealer(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	o := &office{t: t}
	counts := map[string]*atomic.Int64{history.Delivered: &o.delivered, history.Failed: &o.failed, history.Dropped: &o.dropped}
	o.Courier = NewCourier(Config{
		Store: s, Sealer: sealer, Sender: &Sender{AllowLocal: true}, Source: "https://swanherd.example", Log: log,
		Tried: func(result string) { counts[result].Add(1) },
	})
	return o
}

func (o *office) sink(id string, sink *swanherdv1.WebhookSink) {
	o.t.Helper()
	sink.Name = "networks/demo/webhookSinks/" + id
	record, err := o.Store.WebhookSinks.Key(sink.GetName())
	if err != nil {
		o.t.Fatal(err)
	}
	o.see(o.Store.WebhookSinks.Put(o.t.Context(), sink.GetName(), &storev1.WebhookSink{Sink: sink, Secret: o.Sealer.Seal(record, testKey)}))
}

// see waits until the snapshot has what was written.
func (o *office) see(revision int64, err error) {
	o.t.Helper()
	if err == nil {
		_, err = o.Store.WaitRevision(o.t.Context(), revision)
	}
	if err != nil {
		o.t.Fatal(err)
	}
}

func (o *office) enqueue(alerts ...*swanherdv1.Alert) {
	o.t.Helper()
	t := o.Store.Txn()
	for _, a := range alerts {
		o.EnqueueIn(t, o.Store.Snapshot(), a, time.Now())
	}
	if !t.Empty() {
		o.see(t.Commit(o.t.Context()))
	}
}

func nth(n int) *swanherdv1.Alert {
	return &swanherdv1.Alert{
		Name: fmt.Sprintf("networks/demo/alerts/a%d", n), State: swanherdv1.Alert_STATE_FIRING,
		FireTime: timestamppb.New(time.Unix(1_700_000_000+int64(n), 0)),
	}
}

func (o *office) until(what string, ok func() bool) {
	o.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			o.t.Fatalf("no %s", what)
		}
	}
}

// One receiver that says nothing holds up no other, and each gets what is for it in
// order, and nothing twice under two ids.
func TestASlowReceiverHoldsUpNoOther(t *testing.T) {
	o := newOffice(t)
	got := make(chan string, 100)
	fast := receiver(t, func(_ http.ResponseWriter, r *http.Request) { got <- r.Header.Get("webhook-id") })
	release := make(chan struct{})
	slow := receiver(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	o.sink("fast", fast)
	o.sink("slow", slow)
	go o.Run(t.Context())
	for n := range 10 {
		o.enqueue(nth(n))
		o.enqueue(nth(n)) // as by a leader that did not see that the other had
	}
	last := ""
	for range 10 {
		select {
		case id := <-got:
			if id < last {
				t.Errorf("%s came after %s", id, last)
			}
			last = id
		case <-time.After(20 * time.Second):
			t.Fatal("the fast receiver waits")
		}
	}
	if o.delivered.Load() > 10 {
		t.Errorf("%d were delivered", o.delivered.Load())
	}
}

func TestAQueueIsBounded(t *testing.T) {
	o := newOffice(t)
	o.sink("gone", &swanherdv1.WebhookSink{Url: "https://receiver.invalid/"})
	all := make([]*swanherdv1.Alert, maxQueue)
	for n := range all {
		all[n] = nth(n)
	}
	o.enqueue(all...)
	o.enqueue(nth(maxQueue), nth(maxQueue+1))
	if n := waiting(o.Store.Snapshot(), "networks/demo/webhookSinks/gone"); n != maxQueue || o.dropped.Load() != 2 {
		t.Errorf("%d wait and %d were dropped, want %d and 2", n, o.dropped.Load(), maxQueue)
	}
}

// What is for a sink that is gone, or is a day old, is given up.
func TestWhatCannotBeDeliveredIsGivenUp(t *testing.T) {
	o := newOffice(t)
	o.sink("gone", &swanherdv1.WebhookSink{Url: "https://receiver.invalid/"})
	o.sink("old", &swanherdv1.WebhookSink{Url: "https://receiver.invalid/"})
	o.enqueue(nth(1))
	o.see(o.Store.WebhookSinks.Delete(t.Context(), "networks/demo/webhookSinks/gone", store.AnyRevision))
	for row := range o.Store.Snapshot().WebhookDeliveries.WithPrefix("networks/demo/webhookSinks/old/") {
		row.Value.CreateTime = timestamppb.New(time.Now().Add(-25 * time.Hour))
		o.see(o.Store.WebhookDeliveries.Put(t.Context(), row.Name, row.Value))
	}
	go o.Run(t.Context())
	o.until("empty store", func() bool { return o.Store.Snapshot().WebhookDeliveries.Len() == 0 })
	if o.dropped.Load() != 2 || o.failed.Load() != 0 {
		t.Errorf("%d were dropped, %d failed; want 2 and 0", o.dropped.Load(), o.failed.Load())
	}
}

func TestWhoWantsWhat(t *testing.T) {
	critical, warning := swanherdv1.AlertSeverity_ALERT_SEVERITY_CRITICAL, swanherdv1.AlertSeverity_ALERT_SEVERITY_WARNING
	for name, c := range map[string]struct {
		sink *swanherdv1.WebhookSink
		want bool
	}{
		"of the network":          {&swanherdv1.WebhookSink{Name: "networks/demo/webhookSinks/s"}, true},
		"of another":              {&swanherdv1.WebhookSink{Name: "networks/demo2/webhookSinks/s"}, false},
		"of all":                  {&swanherdv1.WebhookSink{Name: "networks/-/webhookSinks/s"}, true},
		"of all, for this one":    {&swanherdv1.WebhookSink{Name: "networks/-/webhookSinks/s", Networks: []string{"networks/demo"}}, true},
		"of all, for another one": {&swanherdv1.WebhookSink{Name: "networks/-/webhookSinks/s", Networks: []string{"networks/other"}}, false},
		"for what is as severe":   {&swanherdv1.WebhookSink{Name: "networks/demo/webhookSinks/s", MinSeverity: warning}, true},
		"for what is more severe": {&swanherdv1.WebhookSink{Name: "networks/demo/webhookSinks/s", MinSeverity: critical}, false},
		"that is disabled":        {&swanherdv1.WebhookSink{Name: "networks/demo/webhookSinks/s", Disabled: true}, false},
	} {
		if got := wants(c.sink, &swanherdv1.Alert{Name: "networks/demo/alerts/a1", Severity: warning}); got != c.want {
			t.Errorf("a sink %s: %v", name, got)
		}
	}
}
