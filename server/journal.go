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

// statuses writes what edges reported; those of edges that were deleted
// meanwhile are left out.
func (j journal) statuses(ctx context.Context, part []*storev1.EdgeStatus) error {
	for len(part) > 0 {
		t := j.store.Txn()
		for _, s := range part {
			j.store.Edges.RequireIn(t, s.GetEdge(), store.AnyRevision)
			j.store.EdgeStatuses.PutIn(t, s.GetEdge(), s)
		}
		_, err := t.Commit(ctx)
		var gone *store.ConditionError
		if !errors.As(err, &gone) {
			return err
		}
		part = slices.DeleteFunc(slices.Clone(part), func(s *storev1.EdgeStatus) bool { return s.GetEdge() == gone.Name })
	}
	return nil
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
