package store

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{DataDir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openTemp(t *testing.T) *Store {
	t.Helper()
	s := open(t, t.TempDir())
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func site(name, prefix string) *swanherdv1.Site {
	return &swanherdv1.Site{Name: name, Prefixes: []string{prefix}}
}

const berlin = "networks/demo/sites/berlin"

func TestCreateGetUpdateDelete(t *testing.T) {
	s := openTemp(t)
	ctx := within(t, 30*time.Second)

	created, err := s.Sites.Create(ctx, berlin, site(berlin, "10.1.0.0/16"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sites.Create(ctx, berlin, site(berlin, "10.9.0.0/16")); !errors.Is(err, ErrExists) {
		t.Errorf("second Create: %v, want ErrExists", err)
	}
	updated, err := s.Sites.Update(ctx, berlin, site(berlin, "10.2.0.0/16"), created)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sites.Update(ctx, berlin, site(berlin, "10.3.0.0/16"), created); !errors.Is(err, ErrConflict) {
		t.Errorf("Update at an old revision: %v, want ErrConflict", err)
	}
	row, err := s.Sites.Get(ctx, berlin)
	if err != nil || row.Revision != updated || row.Value.GetPrefixes()[0] != "10.2.0.0/16" {
		t.Errorf("Get = %v, %v; want the first update at revision %d", row, err, updated)
	}
	if _, err := s.Sites.Delete(ctx, berlin, AnyRevision); err != nil {
		t.Errorf("Delete: %v", err)
	}
	if _, err := s.Sites.Delete(ctx, berlin, AnyRevision); !errors.Is(err, ErrNotFound) {
		t.Errorf("second Delete: %v, want ErrNotFound", err)
	}
	if _, err := s.Sites.Get(ctx, berlin); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get after Delete: %v, want ErrNotFound", err)
	}
}

func TestNameOfAnotherKindIsRefused(t *testing.T) {
	s := openTemp(t)
	if _, err := s.Sites.Create(t.Context(), "networks/demo/edges/berlin", site(berlin, "10.1.0.0/16")); err == nil {
		t.Error("an edge's name was taken for a site")
	}
}

func TestTxnIsAllOrNothing(t *testing.T) {
	s := openTemp(t)
	ctx := within(t, 30*time.Second)
	demo := "networks/demo"
	if _, err := s.Networks.Create(ctx, demo, &swanherdv1.Network{Name: demo}); err != nil {
		t.Fatal(err)
	}

	good := s.Txn()
	s.Sites.CreateIn(good, berlin, site(berlin, "10.1.0.0/16"))
	if err := good.Check(ctx); err != nil {
		t.Errorf("Check of what could be stored: %v", err)
	}
	txn := s.Txn()
	s.Sites.CreateIn(txn, berlin, site(berlin, "10.1.0.0/16"))
	s.Networks.CreateIn(txn, demo, &swanherdv1.Network{Name: demo})
	if err := txn.Check(ctx); !errors.Is(err, ErrExists) {
		t.Errorf("Check: %v, want ErrExists", err)
	}
	_, err := txn.Commit(ctx)
	var violated *ConditionError
	if !errors.As(err, &violated) || violated.Name != demo || !errors.Is(err, ErrExists) {
		t.Errorf("Commit: %v, want ErrExists about %s", err, demo)
	}
	if _, err := s.Sites.Get(ctx, berlin); !errors.Is(err, ErrNotFound) {
		t.Errorf("part of a refused transaction is stored: %v", err)
	}

	txn = s.Txn()
	s.Networks.RequireIn(txn, demo, AnyRevision)
	s.Sites.CreateIn(txn, berlin, site(berlin, "10.1.0.0/16"))
	s.AppendEventIn(txn, model.NetworkName{Network: "demo"}, &swanherdv1.Event{
		Kind: swanherdv1.Event_KIND_AUDIT, Actor: "token:test", Action: "site.create", Resource: berlin,
	})
	revision, err := txn.Commit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	snap, err := s.WaitRevision(ctx, revision)
	if err != nil {
		t.Fatal(err)
	}
	if row, ok := snap.Sites.Get(berlin); !ok || row.Revision != revision {
		t.Errorf("snapshot has %v, %v; want revision %d", row, ok, revision)
	}
	events, err := s.ListEvents(ctx, EventQuery{Networks: []model.NetworkName{{Network: "demo"}}, Former: true, Limit: 10})
	if err != nil || len(events) != 1 || events[0].GetRevision() != revision {
		t.Errorf("ListEvents = %v, %v; want the one of revision %d", events, err, revision)
	}
}
