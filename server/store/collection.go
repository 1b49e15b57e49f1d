package store

import (
	"context"
	"fmt"
	"strconv"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/swanherd/swanherd/server/model"
)

// AnyRevision as the expected revision of a write means that the resource has
// to exist, whatever its revision.
const AnyRevision int64 = -1

// pageSize is how many keys one read of a list asks for.
const pageSize = 1000

// A Collection holds the resources of one kind. Reads are linearizable and go
// to etcd; for reads on hot paths use Store.Snapshot.
type Collection[T proto.Message] struct {
	store  *Store
	layout layout
	empty  T
	table  func(*Snapshot) *model.Table[T]
	// aside: it holds what goes with resources of another one, under their names.
	aside bool
}

// ETag is the form in which the API shows a modification revision.
func ETag(revision int64) string { return strconv.FormatInt(revision, 10) }

// ParseETag returns the modification revision that an etag stands for;
// AnyRevision for the empty one.
func ParseETag(etag string) (int64, error) {
	if etag == "" {
		return AnyRevision, nil
	}
	revision, err := strconv.ParseInt(etag, 10, 64)
	if err != nil || revision <= 0 {
		return 0, fmt.Errorf("etag %q is not one that the server gave out; read the resource again", etag)
	}
	return revision, nil
}

// Key returns the etcd key of a resource; secrets are sealed for it.
func (c *Collection[T]) Key(name string) (string, error) { return c.layout.key(name) }

// Get reads one resource. The error is ErrNotFound when there is none.
func (c *Collection[T]) Get(ctx context.Context, name string) (model.Row[T], error) {
	key, err := c.layout.key(name)
	if err != nil {
		return model.Row[T]{}, err
	}
	resp, err := ask(ctx, func(ctx context.Context) (*clientv3.GetResponse, error) { return c.store.client.Get(ctx, key) })
	if err != nil {
		return model.Row[T]{}, fmt.Errorf("read %s: %w", name, err)
	}
	if len(resp.Kvs) == 0 {
		return model.Row[T]{}, fmt.Errorf("%s: %w", name, ErrNotFound)
	}
	return c.row(resp.Kvs[0])
}

// List reads the resources of a network, or with the zero NetworkName all of
// the collection, as of one revision, which it returns.
func (c *Collection[T]) List(ctx context.Context, network model.NetworkName) ([]model.Row[T], int64, error) {
	prefix := c.layout.prefix()
	if network.Network != "" {
		prefix = c.layout.networkPrefix(network.Network)
	}
	var rows []model.Row[T]
	revision, err := c.store.scan(ctx, prefix, 0, func(kv *mvccpb.KeyValue) error {
		row, err := c.row(kv)
		rows = append(rows, row)
		return err
	})
	return rows, revision, err
}

// Create stores a new resource and returns its revision. The error is
// ErrExists when the name is taken.
func (c *Collection[T]) Create(ctx context.Context, name string, value T) (int64, error) {
	t := c.store.Txn()
	c.CreateIn(t, name, value)
	return t.Commit(ctx)
}

// Update replaces the resource if it is still at the given revision, or exists
// for AnyRevision, and returns its new revision. The error is ErrConflict or
// ErrNotFound.
func (c *Collection[T]) Update(ctx context.Context, name string, value T, revision int64) (int64, error) {
	t := c.store.Txn()
	c.UpdateIn(t, name, value, revision)
	return t.Commit(ctx)
}

// Put stores the resource whether it exists or not, and returns its revision.
func (c *Collection[T]) Put(ctx context.Context, name string, value T) (int64, error) {
	t := c.store.Txn()
	c.PutIn(t, name, value)
	return t.Commit(ctx)
}

// Delete removes the resource if it is still at the given revision, or exists
// for AnyRevision. The error is ErrConflict or ErrNotFound.
func (c *Collection[T]) Delete(ctx context.Context, name string, revision int64) (int64, error) {
	t := c.store.Txn()
	c.DeleteIn(t, name, revision)
	return t.Commit(ctx)
}

// CreateIn is Create as a part of t.
func (c *Collection[T]) CreateIn(t *Txn, name string, value T) {
	c.require(t, name, 0)
	c.PutIn(t, name, value)
}

// UpdateIn is Update as a part of t.
func (c *Collection[T]) UpdateIn(t *Txn, name string, value T, revision int64) {
	c.RequireIn(t, name, revision)
	c.PutIn(t, name, value)
}

// PutIn is Put as a part of t.
func (c *Collection[T]) PutIn(t *Txn, name string, value T) {
	key, err := c.layout.key(name)
	if err != nil {
		t.fail(err)
		return
	}
	b, err := proto.Marshal(value)
	if err != nil {
		t.fail(fmt.Errorf("encode %s: %w", name, err))
		return
	}
	t.write(name, key, clientv3.OpPut(key, string(b)))
	c.tell(t, name, key, value)
}

// tell has the audit of t know what becomes of the resource; a nil value: it goes.
func (c *Collection[T]) tell(t *Txn, name, key string, value proto.Message) {
	if c.aside {
		return
	}
	t.resources[name] = rewritten{key, value, func(snap *Snapshot) proto.Message {
		if row, ok := c.table(snap).Get(name); ok {
			return row.Value
		}
		return nil
	}}
}

// DeleteIn is Delete as a part of t.
func (c *Collection[T]) DeleteIn(t *Txn, name string, revision int64) {
	c.RequireIn(t, name, revision)
	c.DropIn(t, name)
}

// DropIn removes the resource as a part of t, if it exists.
func (c *Collection[T]) DropIn(t *Txn, name string) {
	key, err := c.layout.key(name)
	if err != nil {
		t.fail(err)
		return
	}
	t.write(name, key, clientv3.OpDelete(key))
	c.tell(t, name, key, nil)
}

// DropNetworkIn removes, as a part of t, what the collection has in a network.
func (c *Collection[T]) DropNetworkIn(t *Txn, network model.NetworkName) {
	prefix := c.layout.networkPrefix(network.Network)
	t.write("what is in "+network.String(), prefix, clientv3.OpDelete(prefix, clientv3.WithPrefix()))
}

// RequireIn makes t depend on the resource being at the given revision, or on
// its existence for AnyRevision, without writing it.
func (c *Collection[T]) RequireIn(t *Txn, name string, revision int64) {
	if revision == 0 {
		t.fail(fmt.Errorf("condition on %s: revision 0; use RequireAbsentIn for a resource that must not exist", name))
		return
	}
	c.require(t, name, revision)
}

// RequireAbsentIn makes t depend on there being no such resource.
func (c *Collection[T]) RequireAbsentIn(t *Txn, name string) { c.require(t, name, 0) }

func (c *Collection[T]) require(t *Txn, name string, revision int64) {
	key, err := c.layout.key(name)
	if err != nil {
		t.fail(err)
		return
	}
	t.require(name, key, revision)
}

func (c *Collection[T]) row(kv *mvccpb.KeyValue) (model.Row[T], error) {
	name, err := c.layout.name(string(kv.Key))
	if err != nil {
		return model.Row[T]{}, err
	}
	value := c.empty.ProtoReflect().New().Interface().(T)
	if err := proto.Unmarshal(kv.Value, value); err != nil {
		return model.Row[T]{}, fmt.Errorf("decode %s: %w", name, err)
	}
	return model.Row[T]{Name: name, Value: value, Revision: kv.ModRevision}, nil
}

// prefix, load and apply make the collection a part of the watch cache.

func (c *Collection[T]) prefix() string { return c.layout.prefix() }

// message is an empty one of the collection's.
func (c *Collection[T]) message() proto.Message { return c.empty.ProtoReflect().New().Interface() }

func (c *Collection[T]) load(snap *Snapshot, kvs []*mvccpb.KeyValue) error {
	rows := make([]model.Row[T], len(kvs))
	for i, kv := range kvs {
		row, err := c.row(kv)
		if err != nil {
			return err
		}
		rows[i] = row
	}
	*c.table(snap) = model.NewTable(rows)
	return nil
}

func (c *Collection[T]) apply(snap *Snapshot, event *clientv3.Event) error {
	table := c.table(snap)
	if event.Type == clientv3.EventTypeDelete {
		name, err := c.layout.name(string(event.Kv.Key))
		if err != nil {
			return err
		}
		*table = table.Without(name)
		return nil
	}
	row, err := c.row(event.Kv)
	if err != nil {
		return err
	}
	*table = table.With(row)
	return nil
}
