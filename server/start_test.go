package server_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server"
	"github.com/swanherd/swanherd/server/store"
)

// fill stores a hub-and-spoke network of n sites, each with an edge that has enrolled
// and reported its uplink.
func fill(ctx context.Context, s *store.Store, n, hubs int) error {
	role := func(r string) *swanherdv1.SiteSelector {
		return &swanherdv1.SiteSelector{MatchLabels: map[string]string{"role": r}}
	}
	t := s.Txn()
	s.Networks.PutIn(t, "networks/big", &swanherdv1.Network{Name: "networks/big"})
	s.Profiles.PutIn(t, "networks/big/profiles/default", &swanherdv1.Profile{Name: "networks/big/profiles/default"})
	s.Meshes.PutIn(t, "networks/big/meshes/all", &swanherdv1.Mesh{
		Name: "networks/big/meshes/all", Profile: "networks/big/profiles/default",
		Topology: &swanherdv1.Mesh_HubAndSpoke{HubAndSpoke: &swanherdv1.HubAndSpoke{Hubs: role("hub"), Spokes: role("spoke")}},
	})
	for i := range n {
		id := fmt.Sprintf("%05d", i)
		site, edge, labels := "networks/big/sites/s"+id, "networks/big/edges/e"+id, map[string]string{"role": "spoke"}
		if i < hubs {
			labels["role"] = "hub"
		}
		s.Sites.PutIn(t, site, &swanherdv1.Site{Name: site, Labels: labels, Prefixes: []string{fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255)}})
		s.Edges.PutIn(t, edge, &swanherdv1.Edge{Name: edge, Site: site, Uid: id})
		s.EdgeStatuses.PutIn(t, edge, &storev1.EdgeStatus{Edge: edge, BootId: id, Status: &swanherdv1.EdgeStatus{AgentVersion: "bench"}, Uplinks: []*swanherdv1.Uplink{{
			Name: "wan1", Interface: "eth0", Port: 4500, Addresses: []string{fmt.Sprintf("198.18.%d.%d", i>>8&255, i&255)},
		}}})
		s.EdgeIdentities.PutIn(t, edge, &storev1.EdgeIdentity{Edge: edge, Certificates: []*storev1.IssuedCertificate{
			{Serial: id, Purpose: storev1.IssuedCertificate_PURPOSE_CONTROL, ExpireTime: timestamppb.New(time.Now().Add(time.Hour))},
		}})
		if i%1000 == 999 || i == n-1 {
			if _, err := t.Commit(ctx); err != nil {
				return err
			}
			t = s.Txn()
		}
	}
	return nil
}

// BenchmarkColdStart is how long a controller that finds a fleet in its store takes
// until it serves.
func BenchmarkColdStart(b *testing.B) {
	cfg := server.Config{
		DataDir: filepath.Join(b.TempDir(), "controller"), Listen: "127.0.0.1:0", EdgeListen: "127.0.0.1:0", MetricsListen: "127.0.0.1:0",
		Log: slog.New(slog.DiscardHandler),
	}
	first, err := server.Start(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	if err := first.Close(); err != nil {
		b.Fatal(err)
	}
	s, err := store.Open(b.Context(), store.Config{DataDir: cfg.DataDir, Logger: cfg.Log})
	if err != nil {
		b.Fatal(err)
	}
	if err := fill(b.Context(), s, 10_000, 4); err != nil {
		b.Fatal(err)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s, err := server.Start(b.Context(), cfg)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
