package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// Snapshot is the whole state, save events, as of Topology.Revision. It is
// immutable; what it holds must not be changed.
type Snapshot struct {
	model.Topology

	EdgeIdentities   model.Table[*storev1.EdgeIdentity]
	EnrollmentTokens model.Table[*storev1.EnrollmentToken]
	APITokens        model.Table[*storev1.ApiToken]
	LoginLinks       model.Table[*storev1.LoginLink]
	Replicas         model.Table[*storev1.Replica]

	EnrollmentRequests model.Table[*storev1.EnrollmentRequest]
	Devices            model.Table[*swanherdv1.Device]
	DeviceSerials      model.Table[*storev1.DeviceSerial]
	TokenUses          model.Table[*storev1.TokenUse]
	ExpiryChecks       model.Table[*storev1.ExpiryCheck]

	ChangeSets   model.Table[*swanherdv1.ChangeSet]
	Rollouts     model.Table[*storev1.Rollout]
	RolloutPlans model.Table[*storev1.RolloutPlan]
	Jobs         model.Table[*swanherdv1.Job]

	AlertRules        model.Table[*swanherdv1.AlertRule]
	Alerts            model.Table[*swanherdv1.Alert]
	AlertDefaults     model.Table[*storev1.AlertDefaults]
	WebhookSinks      model.Table[*storev1.WebhookSink]
	WebhookDeliveries model.Table[*storev1.WebhookDelivery]
	DataKeys          model.Table[*storev1.DataKeys]
	RoleBindings      model.Table[*swanherdv1.RoleBinding]
	Users             model.Table[*swanherdv1.User]
}

// cachedCollection is a collection as the watch cache sees it.
type cachedCollection interface {
	prefix() string
	load(*Snapshot, []*mvccpb.KeyValue) error
	apply(*Snapshot, *clientv3.Event) error
	message() proto.Message
}

// Snapshot returns the newest state that the watch cache has. It may be
// somewhat behind etcd: to read what was just written, use WaitRevision.
func (s *Store) Snapshot() *Snapshot { return s.snapshot.Load() }

// WaitRevision returns a snapshot of at least the given revision, such as one
// that a write returned.
func (s *Store) WaitRevision(ctx context.Context, revision int64) (*Snapshot, error) {
	for {
		s.mu.Lock()
		advanced := s.advanced
		s.mu.Unlock()
		if snap := s.Snapshot(); snap.Revision >= revision {
			return snap, nil
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for revision %d, have %d: %w", revision, s.Snapshot().Revision, ctx.Err())
		}
	}
}

// A Subscription tells that there is a newer snapshot. However many there were
// since it was last looked at, it tells once.
type Subscription struct {
	store   *Store
	changed chan struct{}
}

// Subscribe tells of every snapshot from now on; and at once of the present one.
func (s *Store) Subscribe() *Subscription {
	sub := &Subscription{store: s, changed: make(chan struct{}, 1)}
	sub.changed <- struct{}{}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subscriptions[sub] = struct{}{}
	return sub
}

// Changed receives when Store.Snapshot has something newer.
func (sub *Subscription) Changed() <-chan struct{} { return sub.changed }

// Close ends the subscription; Changed receives no more.
func (sub *Subscription) Close() {
	sub.store.mu.Lock()
	defer sub.store.mu.Unlock()
	delete(sub.store.subscriptions, sub)
}

// publish makes snap the newest snapshot. Only the follower and Open call it.
func (s *Store) publish(snap *Snapshot) {
	s.snapshot.Store(snap)
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.advanced)
	s.advanced = make(chan struct{})
	for sub := range s.subscriptions {
		select {
		case sub.changed <- struct{}{}:
		default: // told already
		}
	}
}

// loadSnapshot makes the newest state the snapshot.
func (s *Store) loadSnapshot(ctx context.Context) error {
	resp, err := s.client.Get(ctx, schemaKey)
	if err != nil {
		return fmt.Errorf("read the store's revision: %w", err)
	}
	if len(resp.Kvs) == 0 || resp.Kvs[0].ModRevision != s.schema.revision {
		return s.supersede()
	}
	snap, err := s.load(ctx, resp.Header.Revision)
	if err != nil {
		return err
	}
	s.publish(snap)
	return nil
}

// retryDelay is how long the follower waits after an error of etcd.
const retryDelay = 200 * time.Millisecond

// errCompacted: the revision to watch from is gone.
var errCompacted = errors.New("watched revision was compacted")

// follow keeps the snapshot current until ctx ends.
func (s *Store) follow(ctx context.Context) {
	for {
		err := s.watch(ctx)
		if ctx.Err() != nil || s.schema.isSuperseded() {
			return
		}
		s.log.Warn("watch of the store ended; watching again", "revision", s.Snapshot().Revision, "error", err)
		if errors.Is(err, errCompacted) {
			if err := s.loadSnapshot(ctx); err == nil {
				continue
			} else if ctx.Err() == nil {
				s.log.Warn("list the store", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryDelay):
		}
	}
}

// watch applies changes to the snapshot from its revision on, until the watch
// breaks.
func (s *Store) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	responses := s.client.Watch(ctx, root, clientv3.WithPrefix(), clientv3.WithRev(s.Snapshot().Revision+1),
		clientv3.WithFragment(), clientv3.WithProgressNotify())
	for resp := range responses {
		if resp.CompactRevision != 0 {
			return errCompacted
		}
		if err := resp.Err(); err != nil {
			return err
		}
		if !s.advance(&resp) {
			return s.supersede()
		}
	}
	return errors.New("watch channel was closed")
}

// advance publishes the snapshot that resp makes of the present one. A value
// that cannot be decoded is left out and reported: it must not stop the rest. It is
// false, and the snapshot stays, when another replica brought the store to a newer
// schema: what comes from there on may not be what it seems.
func (s *Store) advance(resp *clientv3.WatchResponse) bool {
	if slices.ContainsFunc(resp.Events, s.schema.changedBy) {
		return false
	}
	revision := int64(0)
	switch {
	case len(resp.Events) > 0:
		// Not the header's: that may be ahead of the events while etcd catches up.
		revision = resp.Events[len(resp.Events)-1].Kv.ModRevision
	case resp.IsProgressNotify():
		revision = resp.Header.Revision
	}
	old := s.Snapshot()
	if revision <= old.Revision {
		return true
	}
	next := *old
	next.Revision = revision
	for _, event := range resp.Events {
		key := string(event.Kv.Key)
		for _, c := range s.cached {
			if !strings.HasPrefix(key, c.prefix()) {
				continue
			}
			if err := c.apply(&next, event); err != nil {
				s.log.Error("value in the store is unreadable and was left out", "key", key, "error", err)
			}
		}
	}
	s.publish(&next)
	return true
}
