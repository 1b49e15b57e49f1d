package store

import (
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// startCluster starts an etcd with etcd's own defaults on a loopback port, and
// returns its endpoint: what --etcd-endpoints names.
func startCluster(t *testing.T) string {
	t.Helper()
	cfg := embeddedConfig(t.TempDir(), slog.New(slog.DiscardHandler))
	cfg.MaxTxnOps, cfg.MaxRequestBytes = embed.DefaultMaxTxnOps, embed.DefaultMaxRequestBytes
	cfg.ListenClientUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	<-server.Server.ReadyNotify()
	return "http://" + server.Clients[0].Addr().String()
}

func TestExternalCluster(t *testing.T) {
	endpoint := startCluster(t)
	ctx := within(t, 60*time.Second)
	openReplica := func() *Store {
		s, err := Open(ctx, Config{Endpoints: []string{endpoint}, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
		return s
	}
	// Two replicas share the store: the epoch, and what either writes.
	one, two := openReplica(), openReplica()
	if one.Epoch() != two.Epoch() {
		t.Errorf("replicas have epochs %s and %s", one.Epoch(), two.Epoch())
	}
	revision, err := one.Sites.Create(ctx, berlin, site(berlin, "10.1.0.0/16"))
	if err != nil {
		t.Fatal(err)
	}
	snap, err := two.WaitRevision(ctx, revision)
	if err != nil {
		t.Fatal(err)
	}
	if row, ok := snap.Sites.Get(berlin); !ok || row.Revision != revision {
		t.Errorf("the other replica has %v, %v", row, ok)
	}
	if one.maxTxnOps != externalMaxTxnOps {
		t.Errorf("transactions of %d operations, an external cluster takes %d", one.maxTxnOps, externalMaxTxnOps)
	}
}

func TestConfigNamesWhatIsWrong(t *testing.T) {
	for want, cfg := range map[string]Config{
		"neither a data directory nor": {},
		"both a data directory and":    {DataDir: t.TempDir(), Endpoints: []string{"http://127.0.0.1:1"}},
	} {
		if s, err := Open(t.Context(), cfg); err == nil {
			s.Close()
			t.Errorf("%s: opened", want)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
}
