package access

import (
	"log/slog"
	"sync"
	"testing"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/store"
)

// However often a token is used, its last use is one write, and none when there was
// no use since.
func TestUsesOfATokenAreOneWrite(t *testing.T) {
	s, err := store.Open(t.Context(), store.Config{DataDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	k := NewKeeper(Config{Store: s, Log: slog.New(slog.DiscardHandler)})
	secret, err := k.Bootstrap(t.Context(), func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	written := func() int64 {
		t.Helper()
		row, err := s.TokenUses.Get(t.Context(), bootstrapToken)
		if err != nil {
			t.Fatal(err)
		}
		return row.Revision
	}
	token := &swanherdv1.ApiToken{Name: bootstrapToken}
	if k.WithUse(token).GetLastUsedTime() != nil {
		t.Error("a token that nobody used was used")
	}
	var users sync.WaitGroup
	for range 8 {
		users.Go(func() {
			for range 50 {
				if _, err := k.Authenticate(t.Context(), secret); err != nil {
					t.Error(err)
				}
			}
		})
	}
	users.Wait()
	if k.WithUse(token).GetLastUsedTime() == nil {
		t.Error("its use does not show before it is written")
	}
	if _, err := s.TokenUses.Get(t.Context(), bootstrapToken); err == nil {
		t.Error("a use is written at once")
	}
	if err := k.writeUses(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := written()
	if err := k.writeUses(t.Context()); err != nil || written() != first {
		t.Errorf("written again without a use: %v", err)
	}
	if _, err := s.WaitRevision(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if k.WithUse(token).GetLastUsedTime() == nil {
		t.Error("its use does not show after it was written")
	}
	// What is deleted meanwhile does not come back.
	if _, err := k.Authenticate(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	another := &swanherdv1.ApiToken{Role: swanherdv1.Role_ROLE_ADMIN}
	if _, err := k.CreateAPIToken(t.Context(), another, func(*store.Txn, *swanherdv1.ApiToken) error { return nil }); err != nil {
		t.Fatal(err)
	}
	drop, err := k.DropAPIToken(t.Context(), bootstrapToken)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.commit(t.Context(), drop); err != nil {
		t.Fatal(err)
	}
	if err := k.writeUses(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := s.TokenUses.Get(t.Context(), bootstrapToken); err == nil {
		t.Error("the use of a deleted token was written")
	}
}
