package server

import (
	"context"
	"errors"
	"slices"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// maxRecord stays below what one transaction of etcd takes.
const maxRecord = 60

// journal writes the fleet's records to the store.
type journal struct{ store *store.Store }

// Record implements fleet.Journal. Transactions that were made before one
// failed are made again with the next try: statuses are idempotent, and events
// rather come twice than not at all.
func (j journal) Record(ctx context.Context, r fleet.Record) error {
	for part := range slices.Chunk(r.Statuses, maxRecord) {
		if err := j.statuses(ctx, part); err != nil {
			return err
		}
	}
	for part := range slices.Chunk(r.Events, maxRecord) {
		if err := j.events(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

// statuses writes what edges reported. Those of edges that were deleted meanwhile are left
// out, and those of edges that have had a later session with another replica, whose end here
// may be written down after that began.
func (j journal) statuses(ctx context.Context, part []*storev1.EdgeStatus) error {
	for {
		snap := j.store.Snapshot()
		part = slices.DeleteFunc(slices.Clone(part), func(s *storev1.EdgeStatus) bool { return overtaken(snap, s) })
		if len(part) == 0 {
			return nil
		}
		t := j.store.Txn()
		for _, s := range part {
			j.store.Edges.RequireIn(t, s.GetEdge(), store.AnyRevision)
			if row, ok := snap.EdgeStatuses.Get(s.GetEdge()); ok {
				j.store.EdgeStatuses.UpdateIn(t, s.GetEdge(), s, row.Revision)
			} else {
				j.store.EdgeStatuses.CreateIn(t, s.GetEdge(), s)
			}
		}
		revision, err := t.Commit(ctx)
		var other *store.ConditionError
		switch {
		case err == nil: // what is written next is held to this
			_, err = j.store.WaitRevision(ctx, revision)
			return err
		case !errors.As(err, &other) || other.Have == 0 && other.Want != store.AnyRevision:
			return err
		case other.Want == store.AnyRevision:
			part = slices.DeleteFunc(part, func(s *storev1.EdgeStatus) bool { return s.GetEdge() == other.Name })
		default: // somebody wrote, which is not here yet
			if _, err := j.store.WaitRevision(ctx, other.Have); err != nil {
				return err
			}
		}
	}
}

// overtaken says whether what is stored of the edge is of a later session.
func overtaken(snap *store.Snapshot, s *storev1.EdgeStatus) bool {
	stored := snap.EdgeStatuses.Value(s.GetEdge()).GetSessionStartTime()
	return stored != nil && s.GetSessionStartTime() != nil && s.GetSessionStartTime().AsTime().Before(stored.AsTime())
}

func (j journal) events(ctx context.Context, part []*swanherdv1.Event) error {
	t := j.store.Txn()
	for _, e := range part {
		network, err := model.NetworkOf(e.GetResource())
		if err != nil {
			network = store.NoNetwork
		}
		j.store.AppendEventIn(t, network, e)
	}
	_, err := t.Commit(ctx)
	return err
}
