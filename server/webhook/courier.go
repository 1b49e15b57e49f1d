package webhook

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/history"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

const (
	// maxQueue is how many messages wait for one sink; more are dropped, so that what
	// waits is the beginning of the trouble.
	maxQueue = 1000
	// giveUpAfter is for how long a message is tried.
	giveUpAfter = 24 * time.Hour
	// firstRetry doubles with each try that fails, up to lastRetry.
	firstRetry = time.Second
	lastRetry  = 5 * time.Minute
)

// Config configures a Courier.
type Config struct {
	Store  *store.Store
	Sealer *store.Sealer
	Sender *Sender
	// Source is the controller as events name it, a URI.
	Source string
	// Tried counts tries by result: history.Delivered, Failed, Dropped.
	Tried func(result string)
	Log   *slog.Logger
}

// Courier delivers what waits in the store.
type Courier struct{ Config }

// NewCourier returns a courier that delivers once it runs.
func NewCourier(cfg Config) *Courier { return &Courier{cfg} }

// EnqueueIn has the alert delivered, as a part of t, to every sink that wants it and has
// room. Called twice about the same transition it enqueues it once.
func (c *Courier) EnqueueIn(t *store.Txn, snap *store.Snapshot, a *swanherdv1.Alert, now time.Time) {
	for row := range snap.WebhookSinks.All() {
		sink := row.Value.GetSink()
		if !wants(sink, a) {
			continue
		}
		if waiting(snap, row.Name) >= maxQueue {
			c.Tried(history.Dropped)
			c.Log.Warn("too much waits for a webhook sink; an alert is not delivered to it", "sink", row.Name, "alert", a.GetName())
			continue
		}
		name := row.Name + "/deliveries/" + deliveryID(a)
		c.Store.WebhookDeliveries.PutIn(t, name, &storev1.WebhookDelivery{Name: name, Alert: a, CreateTime: timestamppb.New(now)})
	}
}

// wants says whether the sink is to get the alert.
func wants(sink *swanherdv1.WebhookSink, a *swanherdv1.Alert) bool {
	of, about := networkOf(sink.GetName()), networkOf(a.GetName())
	if sink.GetDisabled() || a.GetSeverity() < sink.GetMinSeverity() {
		return false
	}
	if of != "networks/-" {
		return of == about
	}
	if len(sink.GetNetworks()) == 0 {
		return true
	}
	for _, n := range sink.GetNetworks() {
		if n == about {
			return true
		}
	}
	return false
}

// networkOf is the first two segments of a name.
func networkOf(name string) string {
	first, rest, _ := strings.Cut(name, "/")
	second, _, _ := strings.Cut(rest, "/")
	return first + "/" + second
}

// deliveryID is made from what happened, so that it is the same whoever writes it, and
// begins with when, so that what waits is in order.
func deliveryID(a *swanherdv1.Alert) string {
	at, what := a.GetFireTime(), "firing"
	if a.GetState() == swanherdv1.Alert_STATE_RESOLVED {
		at, what = a.GetResolveTime(), "resolved"
	}
	return fmt.Sprintf("%016x-%s-%s", at.AsTime().UnixNano(), path.Base(a.GetName()), what)
}

func waiting(snap *store.Snapshot, sink string) (n int) {
	for range snap.WebhookDeliveries.WithPrefix(sink + "/deliveries/") {
		n++
	}
	return n
}

// Run delivers until ctx ends.
func (c *Courier) Run(ctx context.Context) {
	changes := c.Store.Subscribe()
	defer changes.Close()
	var workers sync.WaitGroup
	defer workers.Wait()
	busy, done := map[string]bool{}, make(chan string)
	for {
		for _, sink := range queues(c.Store.Snapshot()) {
			if busy[sink] {
				continue
			}
			busy[sink] = true
			workers.Go(func() {
				c.serve(ctx, sink)
				select {
				case done <- sink:
				case <-ctx.Done():
				}
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-changes.Changed():
		case sink := <-done:
			delete(busy, sink)
		}
	}
}

// queues are the sinks for which something waits and that may get it.
func queues(snap *store.Snapshot) []string {
	var out []string
	last := ""
	for row := range snap.WebhookDeliveries.All() {
		sink := sinkOf(row.Name)
		if sink != last && !snap.WebhookSinks.Value(sink).GetSink().GetDisabled() {
			out = append(out, sink)
		}
		last = sink
	}
	return out
}

func sinkOf(delivery string) string { return path.Dir(path.Dir(delivery)) }

// serve delivers what waits for a sink, one after the other, until nothing does.
func (c *Courier) serve(ctx context.Context, sink string) {
	wait := firstRetry
	for ctx.Err() == nil {
		snap := c.Store.Snapshot()
		next, ok := first(snap, sink)
		to := snap.WebhookSinks.Value(sink)
		if !ok || to.GetSink().GetDisabled() {
			return
		}
		if to == nil || time.Since(next.Value.GetCreateTime().AsTime()) > giveUpAfter {
			c.Tried(history.Dropped)
			c.Log.Warn("a webhook is given up", "sink", sink, "alert", next.Value.GetAlert().GetName())
		} else if err := c.deliver(ctx, to, next); err != nil {
			c.Tried(history.Failed)
			c.Log.Warn("a webhook was not delivered; trying again", "sink", sink, "after", wait, "error", err)
			pause(ctx, wait)
			wait = min(2*wait, lastRetry)
			continue
		} else {
			c.Tried(history.Delivered)
			wait = firstRetry
		}
		c.forget(ctx, next.Name)
	}
}

// pause waits between half of the time and all of it, so that receivers which serve
// several controllers get them one by one.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d/2 + rand.N(d/2)):
	}
}

func first(snap *store.Snapshot, sink string) (model.Row[*storev1.WebhookDelivery], bool) {
	for row := range snap.WebhookDeliveries.WithPrefix(sink + "/deliveries/") {
		return row, true
	}
	return model.Row[*storev1.WebhookDelivery]{}, false
}

func (c *Courier) deliver(ctx context.Context, to *storev1.WebhookSink, d model.Row[*storev1.WebhookDelivery]) error {
	_, err := c.send(ctx, to, messageOf(path.Base(d.Name), c.Source, d.Value.GetAlert()))
	return err
}

func (c *Courier) send(ctx context.Context, to *storev1.WebhookSink, m Message) (int, error) {
	record, err := c.Store.WebhookSinks.Key(to.GetSink().GetName())
	if err != nil {
		return 0, err
	}
	key, err := c.Sealer.Open(record, to.GetSecret())
	if err != nil {
		return 0, err
	}
	defer clear(key)
	return c.Sender.Send(ctx, to.GetSink(), key, m)
}

// Test sends the sink a message that is about nothing, once.
func (c *Courier) Test(ctx context.Context, to *storev1.WebhookSink, id string, now time.Time) (int, error) {
	return c.send(ctx, to, Message{
		ID: id, Type: TypeTest, Source: c.Source, Time: now, Alert: &swanherdv1.Alert{
			Severity: cmp.Or(to.GetSink().GetMinSeverity(), swanherdv1.AlertSeverity_ALERT_SEVERITY_INFO),
			Resource: to.GetSink().GetName(), Summary: "this is a test",
		},
	})
}

// forget removes what was delivered; until it has, it would be delivered again.
func (c *Courier) forget(ctx context.Context, name string) {
	for wait := firstRetry; ctx.Err() == nil; wait = min(2*wait, lastRetry) {
		t := c.Store.Txn()
		c.Store.WebhookDeliveries.DropIn(t, name)
		revision, err := t.Commit(ctx)
		if err == nil {
			_, _ = c.Store.WaitRevision(ctx, revision) // ends with ctx only
			return
		}
		c.Log.Warn("cannot note that a webhook was delivered; trying again", "sink", sinkOf(name), "error", err)
		pause(ctx, wait)
	}
}
