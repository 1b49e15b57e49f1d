package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/alert"
	"github.com/swanherd/swanherd/server/api"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/pki"
	"github.com/swanherd/swanherd/server/store"
	"github.com/swanherd/swanherd/server/webhook"
)

const (
	alertInterval = time.Second
	// assertionInterval is how often assertions are tested.
	assertionInterval = 5 * time.Second
	// alertUpkeep is how often ends of certificates are looked up, and what was resolved
	// long ago is forgotten.
	alertUpkeep = time.Minute
	// resolvedFor is how long an alert is shown after it was resolved.
	resolvedFor = 24 * time.Hour
	// alertOps is how much of one transaction of etcd alerts use.
	alertOps = 100
)

// alerter looks at the fleet once a second, while this replica leads, and writes down
// and has delivered which alerts fire and which are resolved.
type alerter struct {
	server  *Server
	courier *webhook.Courier
	began   time.Time

	mu      sync.Mutex
	machine *alert.Machine // nil while this replica does not lead
}

// makeAlerts makes what alerts, and the service that shows it.
func (s *Server) makeAlerts() error {
	s.alerter = &alerter{server: s, began: time.Now(), courier: webhook.NewCourier(webhook.Config{
		Store: s.store, Sealer: s.sealer,
		Sender: &webhook.Sender{AllowLocal: s.cfg.WebhookAllowLocal}, Source: s.info.URL,
		Tried: s.metrics.WebhookTried, Log: s.cfg.Log,
	})}
	s.metrics.WatchAlerts(s.firing)
	var err error
	s.services.alerts, err = api.NewAlerts(api.AlertsConfig{
		Store: s.store, Sealer: s.sealer, Courier: s.alerter.courier, Pending: s.alerter.pending,
	})
	return err
}

// run alerts until ctx ends, which is when the leadership does.
func (a *alerter) run(ctx context.Context, l *store.Leadership) {
	stored, ok := a.begin(ctx)
	if !ok {
		return
	}
	a.set(alert.NewMachine(stored))
	defer a.set(nil)
	ticks := time.NewTicker(alertInterval)
	defer ticks.Stop()
	var seen uint64
	var upkeep, asserted time.Time
	for now := time.Now(); ; {
		in := a.look(seen)
		seen = in.Fleet.Seq
		if now.Sub(asserted) >= assertionInterval {
			asserted, in.Assertions = now, a.server.testAssertions()
		}
		if now.Sub(upkeep) >= alertUpkeep {
			upkeep, in.Expiries = now, pki.Expiries(a.server.store.Snapshot())
			a.forgetResolved(ctx, now)
		}
		if err := a.record(ctx, l, a.step(now, in), now); err != nil {
			return // the leadership or ctx has ended; who leads next finds the same
		}
		select {
		case <-ctx.Done():
			return
		case now = <-ticks.C:
		}
	}
}

func (a *alerter) set(m *alert.Machine) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.machine = m
}

func (a *alerter) step(now time.Time, in alert.Input) []*swanherdv1.Alert {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.machine.Step(now, in)
}

// pending are the alerts that do not fire yet; none where this replica does not lead.
func (a *alerter) pending() []*swanherdv1.Alert {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.machine == nil {
		return nil
	}
	return a.machine.Pending()
}

// begin makes the default rules where they were never made, and reads what fires.
func (a *alerter) begin(ctx context.Context) ([]*swanherdv1.Alert, bool) {
	for ctx.Err() == nil {
		err := makeDefaultRules(ctx, a.server.store, time.Now())
		if err == nil {
			var rows []model.Row[*swanherdv1.Alert]
			if rows, _, err = a.server.store.Alerts.List(ctx, model.NetworkName{}); err == nil {
				out := make([]*swanherdv1.Alert, len(rows))
				for i, row := range rows {
					out[i] = row.Value
				}
				return out, true
			}
		}
		a.complain(ctx, "cannot read alerts; trying again", err)
	}
	return nil, false
}

// complain logs and lets a second pass.
func (a *alerter) complain(ctx context.Context, what string, err error) {
	if ctx.Err() == nil {
		a.server.cfg.Log.Warn(what, "error", err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(alertInterval):
	}
}

// makeDefaultRules makes the rules that there are by default, each once: those that
// somebody deletes stay away, and those that are new in a release come with it.
func makeDefaultRules(ctx context.Context, s *store.Store, now time.Time) error {
	made, _, err := s.AlertDefaults.List(ctx, model.NetworkName{})
	if err != nil {
		return fmt.Errorf("read which default alert rules were made: %w", err)
	}
	t := s.Txn()
	for _, r := range alert.Defaults() {
		_, id, _ := strings.Cut(r.GetName(), "/alertRules/")
		was := func(row model.Row[*storev1.AlertDefaults]) bool {
			return row.Name == "alertDefaults/"+id || row.Name == "alertDefaults/first" && slices.Contains(madeAtOnce, id)
		}
		if slices.ContainsFunc(made, was) {
			continue
		}
		s.AlertDefaults.CreateIn(t, "alertDefaults/"+id, &storev1.AlertDefaults{CreateTime: timestamppb.New(now)})
		r.CreateTime, r.UpdateTime = timestamppb.New(now), timestamppb.New(now)
		s.AlertRules.PutIn(t, r.GetName(), r)
	}
	if t.Empty() {
		return nil
	}
	revision, err := t.Commit(ctx)
	if err == nil {
		_, err = s.WaitRevision(ctx, revision)
	}
	if err != nil {
		return fmt.Errorf("make the default alert rules: %w", err)
	}
	return nil
}

// madeAtOnce are the rules whose making is told by one entry, "first".
var madeAtOnce = []string{"edge-offline", "site-isolated", "mass-loss", "assertion-broken", "edge-clock", "certificate-expiring", "authority-expiring"}

func (a *alerter) look(seen uint64) alert.Input {
	snap := a.server.store.Snapshot()
	in := alert.Input{
		Began: a.began, Rules: snap.AlertRules, Sites: snap.Sites, Replicas: snap.Replicas.Len(),
		Fleet: a.server.fleet.Changes(seen), Authorities: snap.Authorities,
	}
	if seen == 0 {
		in.Fleet.Reset = true
	}
	return in
}

// testAssertions says of all assertions whether they hold; nil: nothing is planned yet.
func (s *Server) testAssertions() []*swanherdv1.AssertionResult {
	topology := &s.store.Snapshot().Topology
	networks := map[model.NetworkName]bool{}
	for row := range topology.Assertions.All() {
		if network, err := model.NetworkOf(row.Name); err == nil {
			networks[network] = true
		}
	}
	out := []*swanherdv1.AssertionResult{}
	for network := range networks {
		view := s.view(network)
		if view == nil {
			return nil
		}
		out = append(out, view.Test(topology)...)
	}
	return out
}

// record stores transitions until that has succeeded or this replica leads no more.
func (a *alerter) record(ctx context.Context, l *store.Leadership, all []*swanherdv1.Alert, now time.Time) error {
	per := max(1, alertOps/(2+a.server.store.Snapshot().WebhookSinks.Len()))
	for part := range slices.Chunk(all, per) {
		for {
			err := a.recordOnce(ctx, l, part, now)
			if err == nil {
				break
			}
			var passed *store.ConditionError
			if errors.As(err, &passed) && passed.Want != store.AnyRevision || ctx.Err() != nil {
				return err // unless it is a network that has just been deleted
			}
			a.complain(ctx, "cannot store alerts; trying again", err)
		}
	}
	return nil
}

// recordOnce stores some transitions; of a network that was deleted meanwhile none, as its
// alerts went with it.
func (a *alerter) recordOnce(ctx context.Context, l *store.Leadership, part []*swanherdv1.Alert, now time.Time) error {
	s := a.server.store
	t, snap := s.Txn(), s.Snapshot()
	l.FenceIn(t)
	required := map[model.NetworkName]bool{}
	for _, one := range part {
		network, err := model.NetworkOf(one.GetName())
		if err != nil {
			network = store.NoNetwork
		}
		if _, there := snap.Networks.Get(network.String()); !there && network != store.NoNetwork {
			continue
		}
		if network != store.NoNetwork && !required[network] {
			s.Networks.RequireIn(t, network.String(), store.AnyRevision)
			required[network] = true
		}
		s.Alerts.PutIn(t, one.GetName(), one)
		s.AppendEventIn(t, network, alertEvent(one, now))
		a.courier.EnqueueIn(t, snap, one, now)
	}
	if t.Empty() {
		return nil
	}
	_, err := t.Commit(ctx)
	return err
}

func alertEvent(a *swanherdv1.Alert, now time.Time) *swanherdv1.Event {
	action, since := "alert.firing", a.GetFireTime()
	message := a.GetSummary()
	if a.GetState() == swanherdv1.Alert_STATE_RESOLVED {
		action = "alert.resolved"
		message = fmt.Sprintf("over after %s: %s", a.GetResolveTime().AsTime().Sub(since.AsTime()).Round(time.Second), a.GetSummary())
	}
	return &swanherdv1.Event{
		Time: timestamppb.New(now), Kind: swanherdv1.Event_KIND_TRANSITION, Actor: "system",
		Resource: a.GetResource(), Action: action, Message: message + " (" + a.GetRule() + ")",
	}
}

// forgetResolved removes some of the alerts that were resolved long ago.
func (a *alerter) forgetResolved(ctx context.Context, now time.Time) {
	s := a.server.store
	t, n := s.Txn(), 0
	for row := range s.Snapshot().Alerts.All() {
		resolved := row.Value.GetState() == swanherdv1.Alert_STATE_RESOLVED
		if resolved && now.Sub(row.Value.GetResolveTime().AsTime()) > resolvedFor && n < alertOps {
			s.Alerts.DropIn(t, row.Name)
			n++
		}
	}
	if t.Empty() {
		return
	}
	if _, err := t.Commit(ctx); err != nil && ctx.Err() == nil {
		a.server.cfg.Log.Warn("cannot forget resolved alerts", "error", err)
	}
}

// firing counts the alerts that fire, by severity.
func (s *Server) firing() map[string]int {
	counts := map[string]int{}
	for row := range s.store.Snapshot().Alerts.All() {
		if row.Value.GetState() == swanherdv1.Alert_STATE_FIRING {
			counts[strings.ToLower(strings.TrimPrefix(row.Value.GetSeverity().String(), "ALERT_SEVERITY_"))]++
		}
	}
	return counts
}
