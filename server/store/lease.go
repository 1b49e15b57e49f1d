package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"google.golang.org/protobuf/proto"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
)

// leaseTTL is how long in seconds etcd keeps the word of a replica that says nothing
// more: after that its leadership and its presence are gone.
const leaseTTL = 10

const electionPrefix = root + "leader"

// A Leadership is this replica's turn to do what only one replica does. What it writes
// depends on it still being its turn.
type Leadership struct {
	key      string
	revision int64
}

// FenceIn makes t depend on the leadership: Commit answers ErrNotFound or ErrConflict
// when it has passed to another replica.
func (l *Leadership) FenceIn(t *Txn) { t.require("the leadership of this replica", l.key, l.revision) }

// Duties are what a replica does besides serving.
type Duties struct {
	// Replica is what others learn of it. They do so as long as it lives.
	Replica *storev1.Replica
	// Lead is called whenever this replica is the leader, with a context that ends with
	// the leadership.
	Lead func(context.Context, *Leadership)
}

// Serve announces the replica and campaigns for the leadership, both under one lease,
// until ctx ends; both are given up at once then. A lease that was lost, as when etcd
// did not answer for longer than it lasts, is taken anew.
func (s *Store) Serve(ctx context.Context, d Duties) {
	for ctx.Err() == nil {
		if err := s.serveLease(ctx, d); err != nil && ctx.Err() == nil {
			s.log.Warn("this replica's lease at the store ended; taking another", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(retryDelay):
			}
		}
	}
}

func (s *Store) serveLease(ctx context.Context, d Duties) error {
	session, err := concurrency.NewSession(s.client, concurrency.WithTTL(leaseTTL), concurrency.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("take a lease: %w", err)
	}
	defer s.giveUp(session)
	key, err := s.Replicas.Key(d.Replica.GetName())
	if err != nil {
		return err
	}
	b, err := proto.Marshal(d.Replica)
	if err != nil {
		return fmt.Errorf("encode %s: %w", d.Replica.GetName(), err)
	}
	if _, err := s.client.Put(ctx, key, string(b), clientv3.WithLease(session.Lease())); err != nil {
		return fmt.Errorf("announce %s: %w", d.Replica.GetName(), err)
	}
	if err := s.lead(ctx, session, d); err != nil && !s.schema.isSuperseded() {
		return err
	}
	select { // of a replica that may not lead any more the lease goes on
	case <-ctx.Done():
	case <-session.Done():
	}
	return errors.New("lease ended")
}

// lead waits for the leadership, and leads until the lease or ctx ends, or the store has
// a schema that this program does not know.
func (s *Store) lead(ctx context.Context, session *concurrency.Session, d Duties) error {
	turn, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-session.Done():
		case <-s.schema.superseded:
		case <-turn.Done():
		}
		cancel()
	}()
	election := concurrency.NewElection(session, electionPrefix)
	if err := election.Campaign(turn, d.Replica.GetName()); err != nil {
		return fmt.Errorf("campaign for the leadership: %w", err)
	}
	d.Lead(turn, &Leadership{key: election.Key(), revision: election.Rev()})
	<-turn.Done()
	if s.schema.isSuperseded() {
		return election.Resign(ctx)
	}
	return nil
}

// giveUp gives the lease back, so that others need not wait for its end.
func (s *Store) giveUp(session *concurrency.Session) {
	session.Orphan()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := s.client.Revoke(ctx, session.Lease()); err != nil {
		s.log.Debug("give a lease back", "error", err)
	}
}

// LiveReplicas returns the replicas of the controller that hold a lease, by name.
func (n *Snapshot) LiveReplicas() []*storev1.Replica {
	var out []*storev1.Replica
	for row := range n.Replicas.All() {
		out = append(out, row.Value)
	}
	slices.SortFunc(out, func(a, b *storev1.Replica) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return out
}
