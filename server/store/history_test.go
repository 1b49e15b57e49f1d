package store

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/swanherd/swanherd/server/model"
)

// step is what a writer does next with one site.
type step struct {
	site   string
	action string // "create", "update", "delete", or "move" for two sites at once
	other  string
}

// written is a step that was stored.
type written struct {
	revision int64
	change   map[string]string // site to its prefix; empty: gone
}

// Whatever several writers do at once, what was acknowledged forms one history:
// each write has a revision of its own, the snapshots of the cache are its
// states, and the last one is what is stored.
func TestHistoryIsLinear(t *testing.T) {
	s := openTemp(t)
	ctx := within(t, 5*time.Minute)
	round := 0
	rapid.Check(t, func(t *rapid.T) {
		round++
		network := model.NetworkName{Network: fmt.Sprintf("n%d", round)}
		siteOf := rapid.Custom(func(t *rapid.T) string {
			return network.String() + "/sites/" + rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "site")
		})
		steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
			return step{siteOf.Draw(t, "site"), rapid.SampledFrom([]string{"create", "update", "delete", "move"}).Draw(t, "action"), siteOf.Draw(t, "other")}
		}), 1, 8)
		var mu sync.Mutex
		var history []written
		var writers sync.WaitGroup
		for w := range 3 {
			todo := steps.Draw(t, "steps")
			writers.Go(func() {
				for i, step := range todo {
					done, err := take(s, step, fmt.Sprintf("10.%d.%d.0/24", w, i))
					if err != nil {
						t.Errorf("%v: %v", step, err)
					}
					if done.revision > 0 {
						mu.Lock()
						history = append(history, done)
						mu.Unlock()
					}
				}
			})
		}
		stop := make(chan struct{})
		observed := make(chan []*Snapshot)
		go func() { observed <- observe(s, stop) }()
		writers.Wait()
		slices.SortFunc(history, func(a, b written) int { return cmp.Compare(a.revision, b.revision) })
		if len(history) > 0 {
			if _, err := s.WaitRevision(ctx, history[len(history)-1].revision); err != nil {
				t.Fatal(err)
			}
		}
		close(stop)
		for _, snap := range append(<-observed, s.Snapshot()) {
			if want, got := replay(t, history, snap.Revision), prefixesOf(snap, network); !maps.Equal(got, want) {
				t.Fatalf("snapshot at %d has %v, the history makes %v", snap.Revision, got, want)
			}
		}
	})
}

// take does one step as a writer does: read, change, compare. A step that does
// not apply, or loses to another writer, stores nothing.
func take(s *Store, step step, prefix string) (written, error) {
	ctx := s.client.Ctx()
	row, err := s.Sites.Get(ctx, step.site)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return written{}, err
	}
	txn := s.Txn()
	change := map[string]string{step.site: prefix}
	switch {
	case step.action == "create":
		s.Sites.CreateIn(txn, step.site, site(step.site, prefix))
	case row.Revision == 0:
		return written{}, nil
	case step.action == "update":
		s.Sites.UpdateIn(txn, step.site, site(step.site, prefix), row.Revision)
	case step.action == "delete" || step.other == step.site:
		s.Sites.DeleteIn(txn, step.site, row.Revision)
		change[step.site] = ""
	default:
		s.Sites.DeleteIn(txn, step.site, row.Revision)
		s.Sites.CreateIn(txn, step.other, site(step.other, row.Value.GetPrefixes()[0]))
		change = map[string]string{step.site: "", step.other: row.Value.GetPrefixes()[0]}
	}
	revision, err := txn.Commit(ctx)
	var violated *ConditionError
	if errors.As(err, &violated) {
		return written{}, nil
	}
	return written{revision, change}, err
}

func observe(s *Store, stop <-chan struct{}) []*Snapshot {
	sub := s.Subscribe()
	defer sub.Close()
	var seen []*Snapshot
	for {
		select {
		case <-sub.Changed():
			seen = append(seen, s.Snapshot())
		case <-stop:
			return seen
		}
	}
}

// replay returns the state that a history makes up to a revision.
func replay(t *rapid.T, history []written, revision int64) map[string]string {
	state := map[string]string{}
	for i, w := range history {
		if i > 0 && history[i-1].revision == w.revision {
			t.Fatalf("two writes have revision %d", w.revision)
		}
		if w.revision > revision {
			break
		}
		for name, prefix := range w.change {
			if prefix == "" {
				delete(state, name)
			} else {
				state[name] = prefix
			}
		}
	}
	return state
}

func prefixesOf(snap *Snapshot, network model.NetworkName) map[string]string {
	state := map[string]string{}
	for row := range snap.Sites.InNetwork(network) {
		state[row.Name] = row.Value.GetPrefixes()[0]
	}
	return state
}
