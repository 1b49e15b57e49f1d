package server_test

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/swanherd/swanherd/server"
)

// startEtcd starts an etcd of its own, in place of the controller's.
func startEtcd(t *testing.T) (*clientv3.Client, string) {
	t.Helper()
	addresses := freeAddresses(t, 2)
	client, peer := url.URL{Scheme: "http", Host: addresses[0]}, url.URL{Scheme: "http", Host: addresses[1]}
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel, cfg.LogOutputs = t.TempDir(), "fatal", []string{"/dev/null"}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(etcd.Close)
	select {
	case <-etcd.Server.ReadyNotify():
	case err := <-etcd.Err():
		t.Fatal(err)
	}
	return v3client.New(etcd.Server), client.Host
}

// What the store has forgotten no stream goes on from: it says so by the documented status,
// and one without a token has everything.
func TestWatchFromWhatIsForgotten(t *testing.T) {
	etcd, endpoint := startEtcd(t)
	defer etcd.Close()
	c := startController(t, func(cfg *server.Config) {
		cfg.EtcdEndpoints, cfg.ReplicaListen = []string{endpoint}, "127.0.0.1:0"
	})
	c.apply()
	w := c.watch(t, "")
	w.next()
	token := w.token
	c.setSite("oslo", "Oslo")
	w.gets("UPSERTED oslo")
	c.watch(t, token).gets("UPSERTED oslo", "SYNCED") // until then it is known

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	now, err := etcd.Get(ctx, "none")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	c.restart() // what a replica remembers by itself goes
	_, err = c.watch(t, token).stream.Recv()
	if status.Code(err) != codes.OutOfRange || !strings.Contains(err.Error(), "watch without one") {
		t.Errorf("a resume_token of what is forgotten: %v, want OUT_OF_RANGE", err)
	}
	resp, body := c.rest("GET", "/v1/networks/demo:watch?kinds=sites&kinds=meshes&resumeToken="+token, c.token, "")
	if resp.StatusCode != 400 || !strings.Contains(body, "watch without one") {
		t.Errorf("by REST: %s %s", resp.Status, body)
	}
	c.watch(t, "").gets("UPSERTED berlin", "UPSERTED oslo", "UPSERTED rome", "UPSERTED all", "SYNCED")
}
