package store

import (
	"context"
	"fmt"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// A schemaFence keeps a store that was opened with one version of the schema from
// writing into a newer one: each write depends on the schema's record being the one that
// was there, which costs one more comparison in etcd's memory. Reads go on with what is
// known, and count as stale.
type schemaFence struct {
	version  int32
	revision int64 // of the schema's record

	once       sync.Once
	superseded chan struct{} // closed when the store has a newer one
}

func (f *schemaFence) isSuperseded() bool {
	select {
	case <-f.superseded:
		return true
	default:
		return false
	}
}

func (f *schemaFence) condition() condition {
	return condition{name: "the schema of the store", key: schemaKey, want: f.revision}
}

// changedBy says whether the event is that another replica writes another schema.
func (f *schemaFence) changedBy(e *clientv3.Event) bool {
	return string(e.Kv.Key) == schemaKey && e.Kv.ModRevision > f.revision
}

// migrate brings the store to this program's schema.
func (s *Store) migrate(ctx context.Context, cfg Config) error {
	m := &migrator{client: s.client, migrations: cfg.migrations, maxTxnOps: s.maxTxnOps, program: cfg.Program, log: s.log}
	if m.migrations == nil {
		m.migrations = migrations
	}
	s.schema.superseded = make(chan struct{})
	revision, err := m.run(ctx)
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	s.schema.version, s.schema.revision = m.version(), revision
	return nil
}

// supersede tells of a newer schema, in the log once, and returns the error of writes.
func (s *Store) supersede() error {
	err := fmt.Errorf("%w: another replica brought it beyond version %d, with which this one works; upgrade this replica", ErrSuperseded, s.schema.version)
	s.schema.once.Do(func() {
		s.log.Error("this replica writes no more, and goes on with what it knows", "error", err)
		close(s.schema.superseded)
	})
	return err
}

// remove deletes what is old, unless the store has a newer schema.
func (s *Store) remove(ctx context.Context, deletes ...clientv3.Op) error {
	resp, err := s.client.Txn(ctx).If(s.schema.condition().compare()).Then(deletes...).Commit()
	if err == nil && !resp.Succeeded {
		return s.supersede()
	}
	return err
}
