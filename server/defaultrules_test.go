package server

import (
	"slices"
	"testing"
	"time"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// What an earlier release made is not made again where somebody deleted it, and what is new
// is made, once.
func TestNewDefaultRulesComeWithARelease(t *testing.T) {
	s, err := store.Open(t.Context(), store.Config{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if _, err := s.AlertDefaults.Create(t.Context(), "alertDefaults/first", &storev1.AlertDefaults{}); err != nil {
		t.Fatal(err)
	}
	rules := func() (names []string) {
		t.Helper()
		if err := makeDefaultRules(t.Context(), s, time.Now()); err != nil {
			t.Fatal(err)
		}
		rows, _, err := s.AlertRules.List(t.Context(), model.NetworkName{})
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			names = append(names, row.Name)
		}
		return names
	}
	const fresh = "networks/-/alertRules/authority-unsigned"
	if got := rules(); !slices.Equal(got, []string{fresh}) {
		t.Errorf("after an update there are %q, want what is new", got)
	}
	txn := s.Txn()
	s.AlertRules.DropIn(txn, fresh)
	if _, err := txn.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := rules(); len(got) != 0 {
		t.Errorf("%q were made once more", got)
	}
}
