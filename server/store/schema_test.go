package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"pgregory.net/rapid"

	"github.com/swanherd/swanherd/server/model"
)

// twoSteps are migrations as there may be some day: one that renames keys within their
// prefix and leaves some alone, and one that moves each into two of another prefix.
func twoSteps() []migration {
	return []migration{
		{does: "renames sites", prefix: "sites/", rewrite: func(kv *mvccpb.KeyValue) ([]clientv3.Op, error) {
			if strings.HasSuffix(string(kv.Key), "0") {
				return nil, nil
			}
			// Behind what is still to come: a migration that went over it again would show.
			return []clientv3.Op{clientv3.OpDelete(string(kv.Key)), clientv3.OpPut(string(kv.Key)+"-z", "renamed "+string(kv.Value))}, nil
		}},
		{does: "splits sites", prefix: "sites/", rewrite: func(kv *mvccpb.KeyValue) ([]clientv3.Op, error) {
			rest := strings.TrimPrefix(string(kv.Key), root+"sites/")
			return []clientv3.Op{
				clientv3.OpDelete(string(kv.Key)),
				clientv3.OpPut(root+"places/"+rest, string(kv.Value)),
				clientv3.OpPut(root+"labels/"+rest, "of "+string(kv.Value)),
			}, nil
		}},
	}
}

func quietMigrator(client *clientv3.Client, migrations []migration) *migrator {
	return &migrator{client: client, migrations: migrations, maxTxnOps: 16, program: "test", log: slog.New(slog.DiscardHandler)}
}

// stored is what is in the store, but for how far it is.
func stored(ctx context.Context, t interface{ Fatal(...any) }, client *clientv3.Client) map[string]string {
	resp, err := client.Get(ctx, root, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, kv := range resp.Kvs {
		if !strings.HasPrefix(string(kv.Key), root+"meta/") {
			out[string(kv.Key)] = string(kv.Value)
		}
	}
	return out
}

// Whenever a migration is killed and whoever goes on with it, also several at once, the
// result is that of one that went through.
func TestMigrationsMayBeKilledAnywhere(t *testing.T) {
	e, err := startEmbedded(t.Context(), t.TempDir(), nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.close)
	client := e.client()
	rapid.Check(t, func(t *rapid.T) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := client.Delete(ctx, root, clientv3.WithPrefix()); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{}
		for i := range rapid.IntRange(0, 30).Draw(t, "sites") {
			key, value, rest := fmt.Sprintf("%ssites/demo/s%02d", root, i), fmt.Sprint("site ", i), fmt.Sprintf("demo/s%02d", i)
			if i%10 != 0 {
				rest, value = rest+"-z", "renamed "+value
			}
			want[root+"places/"+rest], want[root+"labels/"+rest] = value, "of "+value
			if _, err := client.Put(ctx, key, fmt.Sprint("site ", i)); err != nil {
				t.Fatal(err)
			}
		}
		// Each of these programs is killed after some transactions.
		for _, steps := range rapid.SliceOfN(rapid.IntRange(1, 5), 0, 4).Draw(t, "killed after") {
			for m := quietMigrator(client, twoSteps()[:rapid.IntRange(1, 2).Draw(t, "knows")]); steps > 0; steps-- {
				if _, err := m.step(ctx); err != nil {
					break // it knows the first step only
				}
			}
		}
		done := make(chan error, 3)
		racers := rapid.IntRange(1, 3).Draw(t, "at once")
		revisions := make(chan int64, racers)
		for range racers {
			go func() {
				revision, err := quietMigrator(client, twoSteps()).run(ctx)
				revisions <- revision
				done <- err
			}()
		}
		first := int64(0)
		for range racers {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if r := <-revisions; first == 0 {
				first = r
			} else if first != r {
				t.Fatalf("replicas depend on revisions %d and %d of the schema", first, r)
			}
		}
		if have := stored(ctx, t, client); !maps.Equal(have, want) {
			t.Fatalf("store has %v, want %v", have, want)
		}
	})
}

func TestNewerStoreIsRefused(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{DataDir: dir, Logger: slog.New(slog.DiscardHandler), Program: "v9.9", migrations: twoSteps()}
	newer, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := newer.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.Program, cfg.migrations = "v1.0", twoSteps()[:1]
	_, err = Open(t.Context(), cfg)
	for _, want := range []string{"schema version 3", "(v1.0) knows versions up to 2", "written by version v9.9", "backup"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("an older program: %v, want %q in it", err, want)
		}
	}
	cfg.migrations = twoSteps()
	again, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("after the refusal: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

func TestMigrationThatFailsNamesTheKey(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if _, err := s.Sites.Create(t.Context(), berlin, site(berlin, "10.1.0.0/16")); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	broken := []migration{{does: "fails", prefix: "sites/", rewrite: func(*mvccpb.KeyValue) ([]clientv3.Op, error) {
		return nil, errors.New("it has two heads")
	}}}
	_, err := Open(t.Context(), Config{DataDir: dir, Logger: slog.New(slog.DiscardHandler), migrations: broken})
	if err == nil || !strings.Contains(err.Error(), "schema 2: /swanherd/v1/sites/demo/berlin: it has two heads") {
		t.Errorf("Open: %v", err)
	}
}

// A replica that knows an older schema neither writes nor believes what it reads from
// the moment at which another one migrates, and leads no more.
func TestReplicaOfAnOlderSchemaStandsStill(t *testing.T) {
	endpoint, tlsConfig := startCluster(t)
	ctx := within(t, 60*time.Second)
	openAt := func(migrations []migration) *Store {
		s, err := Open(ctx, Config{Endpoints: []string{endpoint}, TLS: tlsConfig, Logger: slog.New(slog.DiscardHandler), migrations: migrations})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	old := openAt([]migration{})
	revision, err := old.Sites.Create(ctx, berlin, site(berlin, "10.1.0.0/16"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.WaitRevision(ctx, revision); err != nil {
		t.Fatal(err)
	}
	a := stand(t, old, "replicas/old")
	a.wins(t)
	newer := openAt(twoSteps())
	if _, err := old.Sites.Create(ctx, "networks/demo/sites/oslo", site("networks/demo/sites/oslo", "10.2.0.0/16")); !errors.Is(err, ErrSuperseded) {
		t.Errorf("a write of the older program: %v, want ErrSuperseded", err)
	}
	if err := old.TrimRevisions(ctx, model.NetworkName{Network: "demo"}); err != nil {
		t.Errorf("nothing to remove: %v", err)
	}
	if err := old.remove(ctx, clientv3.OpDelete(root+"places/", clientv3.WithPrefix())); !errors.Is(err, ErrSuperseded) {
		t.Errorf("a deletion of the older program: %v, want ErrSuperseded", err)
	}
	select {
	case <-a.lost:
	case <-ctx.Done():
		t.Fatal("the older program goes on to lead")
	}
	b := stand(t, newer, "replicas/newer")
	b.wins(t)
	replicasAre(t, newer, "replicas/newer", "replicas/old") // whose edges it still has
	if _, ok := old.CatchUp(ctx).Sites.Get(berlin); !ok {
		t.Error("the older program lost what it knew")
	}
	for {
		if _, stale := old.StaleSince(); stale {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatal("what the older program knows does not count as stale")
		case <-time.After(100 * time.Millisecond):
		}
	}
	if _, err := newer.Sites.Create(ctx, berlin, site(berlin, "10.1.0.0/16")); err != nil {
		t.Errorf("a write of the newer program: %v", err)
	}
	if _, err := newer.SnapshotAt(ctx, revision); !errors.Is(err, ErrPast) {
		t.Errorf("the state before the migration: %v, want ErrPast", err)
	}
}
