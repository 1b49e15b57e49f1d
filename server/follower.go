package server

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/history"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/plan"
	"github.com/swanherd/swanherd/server/session"
	"github.com/swanherd/swanherd/server/store"
)

// follower follows the store: it plans each new state and hands the plan to
// the fleet and to the sessions. One goroutine owns it.
type follower struct {
	store    *store.Store
	fleet    *fleet.Fleet
	board    *session.Board
	sessions *session.Server
	metrics  *history.Metrics
	log      *slog.Logger

	composer *plan.Composer
	stages   stages
	seen     *store.Snapshot
	// publish is told of each plan.
	publish func(*store.Snapshot, *plan.Plan)
}

func newFollower(s *Server) *follower {
	return &follower{
		store:    s.store,
		fleet:    s.fleet,
		board:    s.board,
		sessions: s.sessions,
		metrics:  s.metrics,
		log:      s.cfg.Log,
		composer: plan.NewComposer(s.openKey),
		stages:   stages{},
		seen:     &store.Snapshot{},
		publish:  s.publish,
	}
}

// openKey opens a pre-shared key; nil for one that does not open.
func (s *Server) openKey(name string, key *storev1.PreSharedKey) []byte {
	record, err := s.store.PreSharedKeys.Key(name)
	if err == nil {
		var secret []byte
		if secret, err = s.sealer.Open(record, key.GetSecret()); err == nil {
			return secret
		}
	}
	s.cfg.Log.Error("a pre-shared key cannot be opened: its gateways have no tunnels", "key", name, "error", err)
	return nil
}

// After each step there is a pause of pauseFactor times what it took: what changes
// meanwhile is one step, so that a fleet that comes all at once is planned in few, and
// planning leaves most of the processors to the sessions. A change that comes alone
// waits for nothing.
const (
	pauseFactor = 2
	mostPause   = time.Second
)

// run follows until ctx ends. The caller has called step once.
func (f *follower) run(ctx context.Context) {
	sub := f.store.Subscribe()
	defer sub.Close()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sub.Changed():
		}
		began := time.Now()
		f.step()
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(pauseFactor*time.Since(began), mostPause)):
		}
	}
}

// step takes in the newest state. The fleet learns of it before the sessions,
// so that an edge's reports about a tunnel find the tunnel.
func (f *follower) step() {
	start := time.Now()
	snap := f.store.Snapshot()
	if snap.Revision == f.seen.Revision {
		return
	}
	before := f.seen
	f.seen = snap
	p, changes := f.composer.Update(&snap.Topology, f.stages.of(snap))
	f.fleet.Apply(fleetChange(before, snap, p, changes))
	for _, name := range changes.Intents {
		f.post(p, name)
	}
	for d := range model.Diff(before.Edges, snap.Edges) {
		if d.Old != nil && d.New != nil && d.Old.Value.GetSupersededEpoch() != d.New.Value.GetSupersededEpoch() {
			f.post(p, d.Name)
		}
	}
	f.board.Advance(snap.Revision)
	f.publish(snap, p)
	for _, name := range changes.RemovedIntents {
		f.board.Post(name, nil)
	}
	if differ(before.Edges, snap.Edges) || differ(before.Revocations, snap.Revocations) || differ(before.Authorities, snap.Authorities) {
		f.sessions.Recheck()
	}
	if len(changes.Intents)+len(changes.RemovedIntents) > 0 {
		f.metrics.Planned(time.Since(start))
		f.log.Info("planned", "revision", snap.Revision, "edges_changed", len(changes.Intents)+len(changes.RemovedIntents),
			"tunnels_changed", len(changes.Tunnels), "tunnels_removed", len(changes.RemovedTunnels), "took", time.Since(start))
	}
}

// post puts the planned intent of an edge on the board.
func (f *follower) post(p *plan.Plan, edge string) {
	row, ok := p.Intents.Get(edge)
	if !ok {
		return
	}
	f.board.Post(edge, &session.Intent{
		Revision: row.Revision, Resources: row.Value.Resources,
		SupersededEpoch: f.seen.Edges.Value(edge).GetSupersededEpoch(),
	})
}

// fleetChange is what the fleet has to know of how two states and plans differ.
func fleetChange(before, after *store.Snapshot, p *plan.Plan, changes plan.Changes) fleet.Change {
	c := fleet.Change{RemovedTunnels: changes.RemovedTunnels}
	for d := range model.Diff(before.Sites, after.Sites) {
		switch {
		case d.New == nil:
			c.RemovedSites = append(c.RemovedSites, d.Name)
		case d.Old == nil:
			c.Sites = append(c.Sites, d.Name)
		}
	}
	for name := range changedEdges(before, after) {
		if row, ok := after.Edges.Get(name); ok {
			c.Edges = append(c.Edges, edgeView(after, row))
		} else {
			c.RemovedEdges = append(c.RemovedEdges, name)
		}
	}
	for _, name := range changes.Tunnels {
		row, _ := p.Tunnels.Get(name)
		t := proto.Clone(row.Value).(*swanherdv1.Tunnel)
		t.PlannedRevision = row.Revision
		c.Tunnels = append(c.Tunnels, t)
	}
	return c
}

// changedEdges are the edges of which the fleet shows something else. The rest of their
// statuses is left out: the fleet wrote it.
func changedEdges(before, after *store.Snapshot) map[string]bool {
	names := map[string]bool{}
	for d := range model.Diff(before.Edges, after.Edges) {
		names[d.Name] = true
	}
	for d := range model.Diff(before.EdgeIdentities, after.EdgeIdentities) {
		names[d.Name] = true
	}
	for d := range model.Diff(before.EdgeStatuses, after.EdgeStatuses) {
		if d.Old == nil || d.New == nil || !slices.EqualFunc(d.Old.Value.GetUplinks(), d.New.Value.GetUplinks(),
			func(x, y *swanherdv1.Uplink) bool { return proto.Equal(x, y) }) {
			names[d.Name] = true
		}
	}
	return names
}

// edgeView is an edge as the fleet wants it.
func edgeView(snap *store.Snapshot, row model.Row[*swanherdv1.Edge]) *swanherdv1.Edge {
	e := proto.Clone(row.Value).(*swanherdv1.Edge)
	reported := snap.EdgeStatuses.Value(row.Name)
	e.Etag = store.ETag(row.Revision)
	e.Uplinks = reported.GetUplinks()
	e.Status, _ = proto.Clone(reported.GetStatus()).(*swanherdv1.EdgeStatus)
	if e.Status == nil {
		e.Status = &swanherdv1.EdgeStatus{}
	}
	e.Status.CertificateExpireTime = nil
	for _, c := range snap.EdgeIdentities.Value(row.Name).GetCertificates() {
		if c.GetPurpose() == storev1.IssuedCertificate_PURPOSE_CONTROL {
			e.Status.CertificateExpireTime = c.GetExpireTime() // newest last
		}
	}
	return e
}

func differ[T any](a, b model.Table[T]) bool {
	for range model.Diff(a, b) {
		return true
	}
	return false
}
