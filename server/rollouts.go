package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/plan"
	"github.com/swanherd/swanherd/server/rollout"
	"github.com/swanherd/swanherd/server/store"
)

// stages are the rollouts that have not ended, as the composer wants them. What it
// takes to make one is made once: the order of the edges does not change.
type stages map[string]plan.Stage

// of returns the stages of a snapshot. Every replica makes the same of it.
func (s stages) of(snap *store.Snapshot) []plan.Stage {
	var out []plan.Stage
	kept := map[string]bool{}
	for row := range snap.RolloutPlans.All() {
		r, ok := snap.Rollouts.Get(row.Name)
		network, err := model.NetworkOf(row.Name)
		if !ok || err != nil || rollout.Ended(r.Value.GetRollout().GetState()) {
			continue
		}
		name := fmt.Sprint(row.Name, "@", row.Revision)
		stage, made := s[name]
		if !made {
			amendment := model.Amendment{Upserts: row.Value.GetUpserts(), Deleted: row.Value.GetDeleted()}
			stage = plan.Stage{Name: name, Network: network, Target: amendment.Apply, Order: map[string]int{}}
			for i, id := range row.Value.GetEdges() {
				stage.Order[model.EdgeName{Network: network.Network, Edge: id}.String()] = i
			}
			s[name] = stage
		}
		kept[name] = true
		stage.Admitted = int(r.Value.GetAdmitted())
		out = append(out, stage)
	}
	for name := range s {
		if !kept[name] {
			delete(s, name)
		}
	}
	return out
}

// planned is what this replica made of the store last.
type planned struct {
	snap *store.Snapshot
	plan *plan.Plan
	// began is the revision of its first plan.
	began int64
}

// publish keeps a plan for who asks how the fleet is; the follower calls it.
func (s *Server) publish(snap *store.Snapshot, p *plan.Plan) {
	next := &planned{snap: snap, plan: p, began: snap.Revision}
	if before := s.planned.Load(); before != nil {
		next.began = before.began
	}
	s.planned.Store(next)
}

// view is how a network is, as far as this replica sees; nil before its first plan.
func (s *Server) view(network model.NetworkName) *rollout.View {
	p := s.planned.Load()
	if p == nil {
		return nil
	}
	return &rollout.View{
		Network: network,
		Plan:    p.plan,
		Began:   p.began,
		Known:   time.Unix(0, s.leadsSince.Load()),
		Edges:   s.fleet.EdgeStatus,
		Sites:   func(edge string) string { return p.snap.Edges.Value(edge).GetSite() },
		Tunnels: s.fleet.TunnelStatuses(network.String()),
		OverSLA: s.fleet.TunnelsOverSLA(network.String()),
	}
}

var descRollouts = prometheus.NewDesc("swanherd_rollouts", "Rollouts that have not ended.", []string{"network", "state"}, nil)

// rolloutCollector counts the rollouts when it is scraped.
type rolloutCollector struct{ snapshot func() *store.Snapshot }

// Describe implements prometheus.Collector.
func (rolloutCollector) Describe(ch chan<- *prometheus.Desc) { ch <- descRollouts }

// Collect implements prometheus.Collector.
func (c rolloutCollector) Collect(ch chan<- prometheus.Metric) {
	for row := range c.snapshot().Rollouts.All() {
		state := row.Value.GetRollout().GetState()
		network, err := model.NetworkOf(row.Name)
		if err == nil && !rollout.Ended(state) { // at most one of a network
			word := strings.ToLower(strings.TrimPrefix(state.String(), "STATE_"))
			ch <- prometheus.MustNewConstMetric(descRollouts, prometheus.GaugeValue, 1, network.String(), word)
		}
	}
}

// Between two looks at the rollouts there is lookFactor times what one took, so that
// they cost little however large the fleet is. One that waited for etcd took its time, but
// cost nothing: there is never more than mostLook.
const (
	leastLook  = 100 * time.Millisecond
	mostLook   = 2 * time.Second
	lookFactor = 10
)

// driveRollouts takes every rollout on, step by step, until ctx ends. All that there is
// to know of one is in the store, so another leader goes on where this one was.
func (s *Server) driveRollouts(ctx context.Context, l *store.Leadership) {
	for {
		began := time.Now()
		s.stepRollouts(ctx, l, began)
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(max(leastLook, lookFactor*time.Since(began)), mostLook)):
		}
	}
}

func (s *Server) stepRollouts(ctx context.Context, l *store.Leadership, now time.Time) {
	p := s.planned.Load()
	if p == nil {
		return
	}
	for row := range p.snap.Rollouts.All() {
		if rollout.Ended(row.Value.GetRollout().GetState()) {
			continue
		}
		err := s.stepRollout(ctx, l, p, row, now)
		if err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrConflict) { // an operator was faster
			s.cfg.Log.Warn("cannot take a rollout on; trying again", "rollout", row.Name, "error", err)
		}
	}
}

func (s *Server) stepRollout(ctx context.Context, l *store.Leadership, p *planned, row model.Row[*storev1.Rollout], now time.Time) error {
	network, err := model.NetworkOf(row.Name)
	if err != nil {
		return err
	}
	v := s.view(network)
	if v.Plan != p.plan { // there is a newer one, and perhaps another state of the rollout
		return nil
	}
	brings, ok := p.snap.RolloutPlans.Get(row.Name)
	if !ok {
		return fmt.Errorf("%s has no plan: it was not written by a controller", row.Name)
	}
	result := rollout.Step(now, row.Value, brings.Value, v)
	if result.Complete {
		err := s.services.rollouts.Complete(ctx, row, result.Next, s.rolloutEvent(row.Name, result, now), l.FenceIn)
		if c := status.Code(err); c != codes.FailedPrecondition && c != codes.InvalidArgument {
			return err
		}
		result = rollout.Fail(now, row.Value, v, "cannot become the network: "+status.Convert(err).Message())
	}
	if result.Next == nil {
		return nil
	}
	t := s.store.Txn()
	l.FenceIn(t)
	s.store.Rollouts.UpdateIn(t, row.Name, result.Next, row.Revision)
	if rollout.Ended(result.Next.GetRollout().GetState()) {
		s.store.RolloutPlans.DropIn(t, row.Name)
	}
	if result.Action != "" {
		s.store.AppendEventIn(t, network, s.rolloutEvent(row.Name, result, now))
	}
	if _, err := t.Commit(ctx); err != nil {
		return fmt.Errorf("write %s: %w", row.Name, err)
	}
	return nil
}

func (s *Server) rolloutEvent(name string, r rollout.Result, now time.Time) *swanherdv1.Event {
	s.cfg.Log.Info("rollout", "rollout", name, "action", r.Action, "message", r.Message)
	return &swanherdv1.Event{
		Time: timestamppb.New(now), Kind: swanherdv1.Event_KIND_TRANSITION, Actor: "system", Resource: name, Action: r.Action, Message: r.Message,
	}
}
