package store

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
)

// migrations are the steps from one version of the schema to the next: the first one
// leads from version 1 to 2. What is here stays, for stores that are as old. A change of
// what is stored that is more than another field needs one; the golden files in testdata
// tell.
var migrations []migration

// A migration makes of the keys below a prefix what the next version of the schema has.
type migration struct {
	// does is what it does, for the log.
	does string
	// prefix is below root, `sites/`.
	prefix string
	// rewrite returns the writes that take the place of a key. It sees each key once, and
	// never one that a rewrite wrote.
	rewrite func(*mvccpb.KeyValue) ([]clientv3.Op, error)
}

const (
	schemaKey   = root + "meta/schema"
	progressKey = root + "meta/migration"
)

// A migrator brings a store to the version that this program writes, by transactions
// each of which says in the store how far it is. So it may be killed at any point and
// goes on from there, at whatever replica; and several at once do no harm: a transaction
// of one makes the others look again.
type migrator struct {
	client     *clientv3.Client
	migrations []migration
	maxTxnOps  int
	// program is this program's version, for who comes with an older one.
	program string
	log     *slog.Logger
}

func (m *migrator) version() int32 { return int32(len(m.migrations)) + 1 }

// maxMigrated bounds the octets of what one transaction rewrites.
const maxMigrated = 256 << 10

// schemaState is how far the store is, as of one revision.
type schemaState struct {
	schema   *storev1.Schema
	revision int64 // of the schema's record; 0: there is none
	progress *storev1.MigrationProgress
	at       int64 // revision of the progress
}

// run migrates, and returns the revision of the schema's record, which no one changes as
// long as this program's version is the newest.
func (m *migrator) run(ctx context.Context) (int64, error) {
	for {
		if revision, err := m.step(ctx); revision != 0 || err != nil {
			return revision, err
		}
	}
}

// step makes at most one transaction. The revision is 0 while there is more to do.
func (m *migrator) step(ctx context.Context) (int64, error) {
	state, err := m.read(ctx)
	if err != nil {
		return 0, err
	}
	version := state.schema.GetVersion()
	switch {
	case version > m.version():
		return 0, fmt.Errorf("the store has schema version %d, and this program (%s) knows versions up to %d: the store was written by version %s; run that one or a newer one, or go back to a backup from before the upgrade",
			version, m.program, m.version(), cmp.Or(state.schema.GetProgram(), "unknown"))
	case state.revision == 0: // the version before there were versions
		return 0, m.commit(ctx, state, 1, nil, "", true)
	case state.schema.GetMigrating():
		return 0, m.migrate(ctx, state)
	case version < m.version():
		m.log.Info("migrating the store", "from_schema", version, "to_schema", version+1, "does", m.migrations[version-1].does)
		return 0, m.begin(ctx, state)
	}
	return state.revision, nil
}

func (m *migrator) read(ctx context.Context) (schemaState, error) {
	state := schemaState{schema: &storev1.Schema{}, progress: &storev1.MigrationProgress{}}
	resp, err := m.client.Txn(ctx).Then(clientv3.OpGet(schemaKey), clientv3.OpGet(progressKey)).Commit()
	if err != nil {
		return state, fmt.Errorf("read the schema's version: %w", err)
	}
	for i, into := range []proto.Message{state.schema, state.progress} {
		for _, kv := range resp.Responses[i].GetResponseRange().GetKvs() {
			if err := proto.Unmarshal(kv.Value, into); err != nil {
				return state, fmt.Errorf("decode %s: %w", kv.Key, err)
			}
			if i == 0 {
				state.revision = kv.ModRevision
			} else {
				state.at = kv.ModRevision
			}
		}
	}
	return state, nil
}

// begin keeps every replica that knows the version before from writing.
func (m *migrator) begin(ctx context.Context, state schemaState) error {
	return m.commit(ctx, state, state.schema.GetVersion()+1, nil, "", false)
}

// migrate rewrites what comes next, or ends the migration.
func (m *migrator) migrate(ctx context.Context, state schemaState) error {
	step := m.migrations[state.schema.GetVersion()-2]
	prefix := root + step.prefix
	from := max(prefix, state.progress.GetAfter()+"\x00")
	resp, err := m.client.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithLimit(int64(max(1, m.maxTxnOps/4))))
	if err != nil {
		return fmt.Errorf("list %s: %w", prefix, err)
	}
	if len(resp.Kvs) == 0 {
		if err := m.commit(ctx, state, state.schema.GetVersion(), nil, "", true); err != nil {
			return err
		}
		m.log.Info("migrated the store", "schema", state.schema.GetVersion())
		return nil
	}
	var seen []*mvccpb.KeyValue
	var ops []clientv3.Op
	octets := 0
	for _, kv := range resp.Kvs {
		var some []clientv3.Op
		if kv.ModRevision <= state.revision { // else it was written by a rewrite
			if some, err = step.rewrite(kv); err != nil {
				return fmt.Errorf("migrate the store to schema %d: %s: %w; nothing of it was changed", state.schema.GetVersion(), kv.Key, err)
			}
		}
		octets += len(kv.Value)
		if len(seen) > 0 && (octets > maxMigrated || len(ops)+len(some) > m.maxTxnOps/2) {
			break
		}
		seen, ops = append(seen, kv), append(ops, some...)
	}
	return m.commit(ctx, state, state.schema.GetVersion(), ops, string(seen[len(seen)-1].Key), false, seen...)
}

// commit does the writes and says how far the store is then, if nobody else did anything
// meanwhile; else nothing.
func (m *migrator) commit(ctx context.Context, state schemaState, version int32, ops []clientv3.Op, after string, end bool, seen ...*mvccpb.KeyValue) error {
	conditions := []clientv3.Cmp{
		clientv3.Compare(clientv3.ModRevision(schemaKey), "=", state.revision),
		clientv3.Compare(clientv3.ModRevision(progressKey), "=", state.at),
	}
	for _, kv := range seen {
		conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(string(kv.Key)), "=", kv.ModRevision))
	}
	ops = slices.Clone(ops)
	if version != state.schema.GetVersion() || end {
		b, err := proto.Marshal(&storev1.Schema{Version: version, Migrating: !end, Program: m.program, Time: timestamppb.Now()})
		if err != nil {
			return fmt.Errorf("encode the schema's version: %w", err)
		}
		ops = append(ops, clientv3.OpPut(schemaKey, string(b)))
	}
	if end {
		ops = append(ops, clientv3.OpDelete(progressKey))
	} else {
		b, err := proto.Marshal(&storev1.MigrationProgress{After: after})
		if err != nil {
			return fmt.Errorf("encode how far the migration is: %w", err)
		}
		ops = append(ops, clientv3.OpPut(progressKey, string(b)))
	}
	if _, err := m.client.Txn(ctx).If(conditions...).Then(ops...).Commit(); err != nil {
		return fmt.Errorf("migrate the store: %w", err)
	}
	return nil
}
