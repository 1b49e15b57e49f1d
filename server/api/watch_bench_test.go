package api

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// sink takes what a stream sends.
type sink struct {
	swanherdv1.TopologyService_WatchServer

	sent int
}

func (s *sink) Send(*swanherdv1.WatchResponse) error {
	s.sent++
	return nil
}

const benchedRows = 10000

func rowsNamed[T proto.Message](form string, value func(name string) T) (t model.Table[T], next model.Row[T]) {
	rows := make([]model.Row[T], benchedRows)
	for i := range rows {
		name := fmt.Sprintf(form, i)
		rows[i] = model.Row[T]{Name: name, Value: value(name), Revision: 1}
	}
	next = rows[benchedRows/2]
	next.Revision = 2
	return model.NewTable(rows), next
}

// changes are a fleet of 10,000 sites, edges, alerts, jobs and rollouts, and what it is after
// one change of each kind.
func changes() (before *store.Snapshot, after map[string]*store.Snapshot) {
	before, after = &store.Snapshot{}, map[string]*store.Snapshot{}
	sites, site := rowsNamed("networks/demo/sites/s%05d", func(name string) *swanherdv1.Site {
		return &swanherdv1.Site{Name: name, Labels: map[string]string{"region": "emea"}}
	})
	edges, edge := rowsNamed("networks/demo/edges/s%05d", func(name string) *swanherdv1.Edge {
		return &swanherdv1.Edge{Name: name, Site: "networks/demo/sites/" + lastSegment(name)}
	})
	alerts, alert := rowsNamed("networks/demo/alerts/a%05d", func(name string) *swanherdv1.Alert {
		return &swanherdv1.Alert{Name: name, Resource: "networks/demo/edges/s" + lastSegment(name)[1:], State: swanherdv1.Alert_STATE_FIRING}
	})
	jobs, job := rowsNamed("networks/demo/jobs/j%05d", func(name string) *swanherdv1.Job {
		return &swanherdv1.Job{Name: name, Edge: "networks/demo/edges/s" + lastSegment(name)[1:]}
	})
	rollouts, rollout := rowsNamed("networks/demo/rollouts/r%05d", func(name string) *storev1.Rollout {
		return &storev1.Rollout{Rollout: &swanherdv1.Rollout{Name: name}}
	})
	statuses, status := rowsNamed("networks/demo/edges/s%05d", func(name string) *storev1.EdgeStatus { return &storev1.EdgeStatus{Edge: name} })
	before.Revision = 1
	before.Sites, before.Edges, before.Alerts, before.Jobs, before.Rollouts, before.EdgeStatuses = sites, edges, alerts, jobs, rollouts, statuses
	one := func(what string, f func(*store.Snapshot)) {
		s := *before
		s.Revision = 2
		f(&s)
		after[what] = &s
	}
	one("a site", func(s *store.Snapshot) { s.Sites = s.Sites.With(site) })
	one("an edge", func(s *store.Snapshot) { s.Edges = s.Edges.With(edge) })
	one("an alert", func(s *store.Snapshot) { s.Alerts = s.Alerts.With(alert) })
	one("a job", func(s *store.Snapshot) { s.Jobs = s.Jobs.With(job) })
	one("a rollout", func(s *store.Snapshot) { s.Rollouts = s.Rollouts.With(rollout) })
	one("what nobody watches", func(s *store.Snapshot) { s.EdgeStatuses = s.EdgeStatuses.With(status) })
	return before, after
}

// BenchmarkWatch is what one change of a fleet of 10,000 costs one stream of all kinds: of an
// administrator, and of who is limited to what carries a label.
func BenchmarkWatch(b *testing.B) {
	s, err := store.Open(b.Context(), store.Config{DataDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	before, after := changes()
	svc := &Topology{store: s, fleet: fleet.New(fleet.Config{})}
	for who, grant := range map[string]access.Grant{
		"all of it": {Role: swanherdv1.Role_ROLE_ADMIN},
		"a region":  {Role: swanherdv1.Role_ROLE_ADMIN, Labels: map[string]string{"region": "emea"}},
	} {
		p := access.Principal{Actor: "token:bench", Grants: []access.Grant{grant}}
		kinds, err := followedKinds(p, &swanherdv1.WatchRequest{Parent: fleet.AllNetworks})
		if err != nil {
			b.Fatal(err)
		}
		for what, now := range after {
			b.Run(who+"/"+what, func(b *testing.B) {
				out := &sink{}
				for b.Loop() {
					w := &topologyWatch{svc: svc, parent: fleet.AllNetworks, who: p, kinds: kinds, stream: out, seen: before}
					if err := w.advance(now, swanherdv1.WatchResponse_KIND_UNSPECIFIED); err != nil {
						b.Fatal(err)
					}
				}
				if hidden := what == "what nobody watches" || who == "a region" && what == "a rollout"; hidden != (out.sent == 0) || out.sent > b.N {
					b.Errorf("%d messages of %d changes", out.sent, b.N)
				}
			})
		}
	}
}
