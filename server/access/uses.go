package access

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/store"
)

// useInterval is how often it is written which tokens were used: at most one write of
// each token in that time, however often it is used.
const useInterval = 5 * time.Minute

// tokenUses remembers when tokens were used, until it is written.
type tokenUses struct {
	mu   sync.Mutex
	last map[string]time.Time // by the token's name
}

func newTokenUses() *tokenUses { return &tokenUses{last: map[string]time.Time{}} }

func (u *tokenUses) note(token string, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.last[token] = now
}

func (u *tokenUses) get(token string) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last[token]
}

// take returns at most limit of what was noted, and forgets it.
func (u *tokenUses) take(limit int) map[string]time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	taken := map[string]time.Time{}
	for token, at := range u.last {
		if len(taken) == limit {
			break
		}
		taken[token] = at
		delete(u.last, token)
	}
	return taken
}

// RunUses writes when tokens were used at this replica, until ctx ends.
func (k *Keeper) RunUses(ctx context.Context) {
	t := time.NewTicker(useInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if err := k.writeUses(ctx); err != nil && ctx.Err() == nil {
				k.cfg.Log.Warn("cannot write when tokens were used", "error", err)
			}
		}
	}
}

// writeUses writes what was noted, if no replica has written something newer.
func (k *Keeper) writeUses(ctx context.Context) error {
	for {
		uses := k.uses.take(maxRemovals)
		if len(uses) == 0 {
			return nil
		}
		snap, t := k.store.Snapshot(), k.store.Txn()
		for token, at := range uses {
			_, exists := snap.APITokens.Get(token)
			if exists && snap.TokenUses.Value(token).GetLastUsedTime().AsTime().Before(at) {
				k.store.APITokens.RequireIn(t, token, store.AnyRevision)
				k.store.TokenUses.PutIn(t, token, &storev1.TokenUse{Name: token, LastUsedTime: timestamppb.New(at)})
			}
		}
		if t.Empty() {
			continue
		}
		if _, err := t.Commit(ctx); err != nil {
			return err // of a use, a later one tells as well
		}
	}
}

// WithUse returns a token with when it was used last, as far as this replica knows.
func (k *Keeper) WithUse(token *swanherdv1.ApiToken) *swanherdv1.ApiToken {
	last := k.store.Snapshot().TokenUses.Value(token.GetName()).GetLastUsedTime()
	if at := k.uses.get(token.GetName()); !at.IsZero() && (last == nil || at.After(last.AsTime())) {
		last = timestamppb.New(at)
	}
	if last == nil {
		return token
	}
	out := proto.CloneOf(token)
	out.LastUsedTime = last
	return out
}
