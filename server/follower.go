package server

import (
	"context"
	"log/slog"
	"maps"
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

	planner *plan.Planner
	seen    *store.Snapshot
	tunnels map[string]*swanherdv1.Tunnel
}

func newFollower(s *Server) *follower {
	return &follower{
		store:    s.store,
		fleet:    s.fleet,
		board:    s.board,
		sessions: s.sessions,
		metrics:  s.metrics,
		log:      s.cfg.Log,
		planner:  plan.NewPlanner(),
		seen:     &store.Snapshot{},
		tunnels:  map[string]*swanherdv1.Tunnel{},
	}
}

// run follows until ctx ends. The caller has called step once.
func (f *follower) run(ctx context.Context) {
	sub := f.store.Subscribe()
	defer sub.Close()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sub.Changed():
			f.step()
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
	p, changes := f.planner.Update(&snap.Topology)
	for _, name := range changes.RemovedTunnels {
		delete(f.tunnels, name)
	}
	for _, name := range changes.Tunnels {
		row, _ := p.Tunnels.Get(name)
		t := proto.Clone(row.Value).(*swanherdv1.Tunnel)
		t.PlannedRevision = row.Revision
		f.tunnels[name] = t
	}
	planned := len(changes.Tunnels)+len(changes.RemovedTunnels) > 0
	if planned || differ(before.Sites, snap.Sites) || differ(before.Edges, snap.Edges) ||
		differ(before.EdgeIdentities, snap.EdgeIdentities) || uplinksDiffer(before, snap) {
		f.fleet.SetTopology(f.topology(snap))
	}
	for _, name := range changes.Intents {
		row, _ := p.Intents.Get(name)
		f.board.Post(name, &session.Intent{Revision: row.Revision, Resources: row.Value.List(), Digest: row.Value.Digest})
	}
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

// topology is what the fleet should consist of.
func (f *follower) topology(snap *store.Snapshot) fleet.Topology {
	t := fleet.Topology{Revision: snap.Revision, Tunnels: slices.Collect(maps.Values(f.tunnels))}
	for row := range snap.Sites.All() {
		t.Sites = append(t.Sites, row.Name)
	}
	for row := range snap.Edges.All() {
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
		t.Edges = append(t.Edges, e)
	}
	return t
}

func differ[T any](a, b model.Table[T]) bool {
	for range model.Diff(a, b) {
		return true
	}
	return false
}

// uplinksDiffer leaves out the rest of the statuses: the fleet wrote them.
func uplinksDiffer(a, b *store.Snapshot) bool {
	for c := range model.Diff(a.EdgeStatuses, b.EdgeStatuses) {
		if c.Old == nil || c.New == nil {
			return true
		}
		if !slices.EqualFunc(c.Old.Value.GetUplinks(), c.New.Value.GetUplinks(),
			func(x, y *swanherdv1.Uplink) bool { return proto.Equal(x, y) }) {
			return true
		}
	}
	return false
}
