package store

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// ErrPast: the revision is older than what the store keeps, or none of its.
var ErrPast = errors.New("revision is not among those that the store keeps")

// maxKept is how many snapshots are kept for who reads on in them. They share what
// did not change in between, so that each costs little.
const maxKept = 64

// pastSnapshots are those that somebody reads on in.
type pastSnapshots struct {
	mu    sync.Mutex
	byRev map[int64]*Snapshot
	order []int64 // oldest use first
	load  sync.Mutex
}

func (p *pastSnapshots) keep(snap *Snapshot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byRev == nil {
		p.byRev = map[int64]*Snapshot{}
	}
	if _, ok := p.byRev[snap.Revision]; ok {
		return
	}
	p.byRev[snap.Revision] = snap
	p.order = append(p.order, snap.Revision)
	if len(p.order) > maxKept {
		delete(p.byRev, p.order[0])
		p.order = p.order[1:]
	}
}

func (p *pastSnapshots) get(revision int64) *Snapshot {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.byRev[revision]
}

// Keep has SnapshotAt find the snapshot at once, as far as there are not too many.
func (s *Store) Keep(snap *Snapshot) { s.past.keep(snap) }

// SnapshotAt returns the state as of a revision, for a list that goes on where it
// began, at whatever replica. It is read from etcd when it was not kept; the error is
// ErrPast when etcd has forgotten it too.
func (s *Store) SnapshotAt(ctx context.Context, revision int64) (*Snapshot, error) {
	if snap := s.past.get(revision); snap != nil {
		return snap, nil
	}
	if revision < s.schema.revision { // what was stored then may be of another schema
		return nil, ErrPast
	}
	present := s.Snapshot()
	if present.Revision < revision { // another replica is ahead
		present = s.CatchUp(ctx)
	}
	switch {
	case present.Revision == revision:
		return present, nil
	case present.Revision < revision || revision <= 0:
		return nil, ErrPast
	}
	s.past.load.Lock() // one at a time: whoever may read could ask for many
	defer s.past.load.Unlock()
	if snap := s.past.get(revision); snap != nil {
		return snap, nil
	}
	snap, err := ask(ctx, func(ctx context.Context) (*Snapshot, error) { return s.load(ctx, revision) })
	if errors.Is(err, rpctypes.ErrCompacted) || errors.Is(err, rpctypes.ErrFutureRev) {
		return nil, fmt.Errorf("%w: %d", ErrPast, revision)
	}
	if err != nil {
		return nil, err
	}
	s.Keep(snap)
	return snap, nil
}

// load reads everything as of one revision.
func (s *Store) load(ctx context.Context, revision int64) (*Snapshot, error) {
	snap := &Snapshot{}
	snap.Revision = revision
	for _, c := range s.cached {
		var kvs []*mvccpb.KeyValue
		if _, err := s.scan(ctx, c.prefix(), revision, func(kv *mvccpb.KeyValue) error {
			kvs = append(kvs, kv)
			return nil
		}); err != nil {
			return nil, err
		}
		if err := c.load(snap, kvs); err != nil {
			return nil, err
		}
	}
	return snap, nil
}
