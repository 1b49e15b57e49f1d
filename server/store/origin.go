package store

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

type sourceKey struct{}

// WithSource returns a context of a call from there: audit events that are committed with
// it say so.
func WithSource(ctx context.Context, source *swanherdv1.EventSource) context.Context {
	return context.WithValue(ctx, sourceKey{}, source)
}

// appended is an event that Commit writes.
type appended struct {
	key   string
	event *swanherdv1.Event
}

// rewritten is a resource of a collection that is written.
type rewritten struct {
	key   string
	value proto.Message // nil: deleted
	// before is what there is in a snapshot; nil: nothing.
	before func(*Snapshot) proto.Message
}

// eventOps are the writes of the transaction's events. Each audit event says where the
// change came from, and what it changes in the resource that it is about.
func (t *Txn) eventOps(ctx context.Context) ([]clientv3.Op, error) {
	var ops []clientv3.Op
	for _, a := range t.events {
		if a.event.GetKind() == swanherdv1.Event_KIND_AUDIT {
			a.event.Source, _ = ctx.Value(sourceKey{}).(*swanherdv1.EventSource)
			if err := t.tellChanges(ctx, a.event); err != nil {
				return nil, err
			}
		}
		b, err := proto.Marshal(a.event)
		if err != nil {
			return nil, fmt.Errorf("encode event: %w", err)
		}
		ops = append(ops, clientv3.OpPut(a.key, string(b)))
	}
	return ops, nil
}

// tellChanges sets what the transaction changes in the event's resource. What it was
// before comes from the watch cache, once that has the revision on which the change
// depends; if it is another one by then, nothing of this is stored.
func (t *Txn) tellChanges(ctx context.Context, e *swanherdv1.Event) error {
	r, ok := t.resources[e.GetResource()]
	if !ok {
		return nil
	}
	snap := t.store.Snapshot()
	for _, c := range t.conditions {
		if c.key != r.key || c.want <= snap.Revision {
			continue
		}
		var err error
		snap, err = ask(ctx, func(ctx context.Context) (*Snapshot, error) { return t.store.WaitRevision(ctx, c.want) })
		if err != nil {
			return fmt.Errorf("learn what %s is: %w", e.GetResource(), err)
		}
	}
	before := r.before(snap)
	if before == nil && r.value == nil {
		return nil
	}
	changes, more := model.FieldChanges(before, r.value)
	e.Changes, e.ChangesOmitted = changes, int32(min(more, 1<<30))
	return nil
}
