package server_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server"
	"github.com/swanherd/swanherd/server/store"
)

// startReplicas starts three controllers whose embedded etcds form a cluster.
func startReplicas(t *testing.T, edit ...func(member int, cfg *server.Config)) []*controller {
	t.Helper()
	peers := map[string]string{}
	for i, address := range freeAddresses(t, 3) {
		peers[fmt.Sprint("m", i)] = "http://" + address
	}
	shared := t.TempDir()
	replicas := make([]*controller, 3)
	var starting sync.WaitGroup
	for i := range replicas {
		c := &controller{t: t, cfg: server.Config{
			DataDir:       filepath.Join(t.TempDir(), "controller"),
			KeyFile:       filepath.Join(shared, "secret.key"),
			Cluster:       &store.Cluster{Member: fmt.Sprint("m", i), Peers: peers},
			Listen:        "127.0.0.1:0",
			EdgeListen:    "127.0.0.1:0",
			MetricsListen: "127.0.0.1:0",
			ReplicaListen: "127.0.0.1:0",
			Version:       "test",
			Log:           slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError})).With("member", i),

			WebhookAllowLocal: true,
		}}
		for _, e := range edit {
			e(i, &c.cfg)
		}
		replicas[i] = c
		starting.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			s, err := server.Start(ctx, c.cfg)
			if err != nil {
				t.Error(err)
				return
			}
			c.s = s
		})
	}
	starting.Wait()
	token := ""
	for _, c := range replicas {
		if c.s == nil {
			continue
		}
		t.Cleanup(func() { _ = c.s.Close() }) // those that lost their cluster have nothing to say
		c.roots = pinnedRoots(t, c.s.Info().OperatorAddr.String(), c.s.Info().CAPin)
		if made := c.s.Info().AdminToken; made != "" {
			if token != "" {
				t.Error("two replicas made an administrator's token")
			}
			token = made
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	for _, c := range replicas {
		c.token = token
	}
	return replicas
}

// freeAddresses are some at which nobody listens.
func freeAddresses(t *testing.T, n int) []string {
	t.Helper()
	var out []string
	for range n {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer lis.Close()
		out = append(out, lis.Addr().String())
	}
	return out
}

// at opens the edge's session with another replica.
func (e *testEdge) at(c *controller) {
	e.t.Helper()
	e.c = c
	e.open()
}

func (c *controller) actions() string {
	c.t.Helper()
	events, err := c.fleet().ListEvents(c.t.Context(), &swanherdv1.ListEventsRequest{Parent: "networks/demo"})
	if err != nil {
		c.t.Fatal(err)
	}
	var out []string
	for _, e := range events.GetEvents() {
		if e.GetKind() == swanherdv1.Event_KIND_TRANSITION {
			out = append(out, e.GetResource()[strings.LastIndexByte(e.GetResource(), '/')+1:]+" "+e.GetAction())
		}
	}
	return strings.Join(out, ", ")
}

func TestReplicasActAsOne(t *testing.T) {
	replicas := startReplicas(t)
	a, b, c := replicas[0], replicas[1], replicas[2]
	a.apply()
	berlin, oslo := b.enrolled("berlin"), c.enrolled("oslo")
	berlin.at(a)
	berlin.until("berlin--oslo")
	oslo.at(b)
	oslo.until("berlin--oslo")
	berlin.report(swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED)
	oslo.report(swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED)
	allUp := func(n *swanherdv1.FleetCounts) bool { return n.GetUp() == 1 && n.GetEdgesInSync() == 2 }
	for _, r := range replicas {
		r.counted("the tunnel to be up", allUp)
	}

	a.commands(berlin)
	c.commands(berlin) // by way of a
	c.runsJob(t.Context(), berlin)

	// The edge comes to another replica while its session here still stands.
	before := oslo.ended
	oslo.at(c)
	select {
	case err := <-before:
		if status.Code(err) != codes.Aborted {
			t.Errorf("the session that was left ended with %v, want Aborted", err)
		}
	case <-time.After(15 * time.Second):
		t.Error("the session that was left goes on")
	}
	oslo.wait("a bookmark", func() bool { return oslo.bookmarks == 1 })
	if oslo.updates != 0 {
		t.Errorf("the other replica sent %d updates to an edge that has everything", oslo.updates)
	}
	oslo.report(swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED)

	// A replica leaves: what it held goes on elsewhere, and nobody tells of tunnels that
	// never were down.
	if err := a.s.Close(); err != nil {
		t.Error(err)
	}
	<-berlin.ended
	berlin.at(b)
	berlin.wait("a bookmark", func() bool { return berlin.bookmarks == 1 })
	berlin.report(swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED)
	for _, r := range replicas[1:] {
		r.counted("the tunnel to be up", func(n *swanherdv1.FleetCounts) bool { return allUp(n) && n.GetEdgesConnected() == 2 })
	}
	if got := b.actions(); strings.Contains(got, "tunnel.") {
		t.Errorf("transitions of a tunnel that was up all along: %s", got)
	}

	// Its end is told once, whichever replica saw it.
	oslo.report(swanherdv1.TunnelState_TUNNEL_STATE_FAILED)
	for _, r := range replicas[1:] {
		r.counted("the tunnel to be degraded", func(n *swanherdv1.FleetCounts) bool { return n.GetDegraded() == 1 })
	}
	deadline := time.Now().Add(15 * time.Second)
	for strings.Count(c.actions(), "tunnel.degraded") == 0 && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond)
	}
	if got := c.actions(); strings.Count(got, "tunnel.degraded") != 1 {
		t.Errorf("transitions are %s", got)
	}
}

// commands has an edge's tunnel rekeyed, wherever the edge has its session.
func (c *controller) commands(e *testEdge) {
	c.t.Helper()
	had := len(e.commands)
	req := &swanherdv1.RekeyTunnelRequest{Name: "networks/demo/tunnels/berlin--oslo", Reauthenticate: true}
	resp, err := c.fleet().RekeyTunnel(c.t.Context(), req)
	if err != nil || resp.GetEdge() != e.name {
		c.t.Fatalf("RekeyTunnel: %v, %v", resp, err)
	}
	e.mu.Lock()
	if len(e.commands) != had+1 || e.commands[had].GetRekeyTunnel().GetTunnel() != req.GetName() || !e.commands[had].GetRekeyTunnel().GetReauthenticate() {
		c.t.Errorf("the edge got %v", e.commands[had:])
	}
	e.refuses = "it has no SA"
	e.mu.Unlock()
	if _, err := c.fleet().RestartTunnel(c.t.Context(), &swanherdv1.RestartTunnelRequest{Name: req.GetName()}); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "it has no SA") {
		c.t.Errorf("a restart that the edge does not do: %v", err)
	}
	if _, err := c.fleet().RekeyTunnel(c.t.Context(), req); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "it has no SA") {
		c.t.Errorf("what the edge does not do: %v", err)
	}
	e.mu.Lock()
	e.refuses = ""
	e.mu.Unlock()
}

// Without a quorum edges keep their sessions, reads go on and say how old they are, and
// writes are refused in time.
func TestStoreIsLost(t *testing.T) {
	replicas := startReplicas(t)
	a := replicas[0]
	a.apply()
	berlin := a.enrolled("berlin")
	berlin.open()
	berlin.until()
	before := a.watch(t, "")
	before.next()
	token := before.token
	streams := a.staleStreams()
	for _, r := range replicas[1:] {
		if err := r.s.Close(); err != nil {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	_, err := a.topology().CreateSite(ctx, &swanherdv1.CreateSiteRequest{
		Parent: "networks/demo", SiteId: "late", Site: &swanherdv1.Site{Prefixes: []string{"10.200.0.0/16"}},
	})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("a write without a quorum: %v, want UNAVAILABLE", err)
	}
	for stale := ""; stale == ""; {
		var header metadata.MD
		site, err := a.topology().GetSite(ctx, &swanherdv1.GetSiteRequest{Name: "networks/demo/sites/berlin"}, grpc.Header(&header))
		if err != nil || len(site.GetPrefixes()) != 1 {
			t.Fatalf("a read without a quorum: %v, %v", site, err)
		}
		stale = strings.Join(header.Get("swanherd-stale-since"), "")
	}
	resp, _ := a.rest("GET", "/v1/networks/demo/sites/berlin", a.token, "")
	if resp.StatusCode != 200 || resp.Header.Get("Swanherd-Stale-Since") == "" {
		t.Errorf("REST answers %s, headers %v", resp.Status, resp.Header)
	}
	for _, s := range streams {
		s.says(ctx, "KIND_STALE")
	}
	a.streamsAreStale(ctx, token)
	select {
	case err := <-berlin.ended:
		t.Errorf("the edge's session ended: %v", err)
	default:
	}

	// One of the others comes back, and with it the quorum.
	s, err := server.Start(ctx, replicas[1].cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, s := range streams {
		s.says(ctx, "KIND_CURRENT")
	}
}
