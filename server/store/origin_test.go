package store

import (
	"fmt"
	"testing"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// The audit of a change tells what was there before it, however far behind the watch
// cache is.
func TestAuditTellsWhatTheChangeDependsOn(t *testing.T) {
	s := openTemp(t)
	ctx := WithSource(within(t, time.Minute), &swanherdv1.EventSource{Address: "192.0.2.7", RequestId: "r"})
	demo := model.NetworkName{Network: "demo"}
	revision, err := s.Sites.Create(ctx, berlin, &swanherdv1.Site{Name: berlin, DisplayName: "0"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		txn := s.Txn()
		s.Sites.UpdateIn(txn, berlin, &swanherdv1.Site{Name: berlin, DisplayName: fmt.Sprint(i + 1)}, revision)
		s.EdgeStatuses.DropIn(txn, "networks/demo/edges/berlin") // is none of its business
		e := &swanherdv1.Event{Kind: swanherdv1.Event_KIND_AUDIT, Resource: berlin, Action: "site.update"}
		s.AppendEventIn(txn, demo, e)
		if revision, err = txn.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		have, err := s.Event(ctx, e.GetName(), true)
		if err != nil {
			t.Fatal(err)
		}
		if c := have.GetChanges(); len(c) != 1 || c[0].GetOldValue() != fmt.Sprintf("%q", fmt.Sprint(i)) || c[0].GetNewValue() != fmt.Sprintf("%q", fmt.Sprint(i+1)) ||
			have.GetSource().GetAddress() != "192.0.2.7" || have.GetRevision() != revision {
			t.Fatalf("change %d: %v", i, have)
		}
	}
	transition := &swanherdv1.Event{Kind: swanherdv1.Event_KIND_TRANSITION, Resource: berlin}
	if err := s.AppendEvent(ctx, demo, transition); err != nil {
		t.Fatal(err)
	}
	if have, err := s.Event(ctx, transition.GetName(), true); err != nil || have.GetSource() != nil {
		t.Errorf("a transition: %v, %v; nobody did it", have, err)
	}
}
