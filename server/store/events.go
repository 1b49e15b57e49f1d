package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

const (
	// defaultEventRetention is how many transitions are kept per network, and
	// defaultAuditRetention how many audit events: however much happens in a fleet, what
	// people did stays.
	defaultEventRetention = 20_000
	defaultAuditRetention = 100_000
)

// trimInterval is how often events beyond the retention are removed.
const trimInterval = time.Minute

// Both sorts of events have the same names; ids tell them apart, as they tell any two.
var (
	eventLayout = newLayout("events", "networks/*/events/*")
	auditLayout = newLayout("audit", "networks/*/events/*")
)

func layoutOf(e *swanherdv1.Event) layout {
	if e.GetKind() == swanherdv1.Event_KIND_AUDIT {
		return auditLayout
	}
	return eventLayout
}

// NoNetwork is the network of events that belong to none, such as changes of
// API tokens.
var NoNetwork = model.NoNetwork

// eventIDs makes ULIDs that rise also within one millisecond.
type eventIDs struct {
	mu      sync.Mutex
	entropy *ulid.MonotonicEntropy // guarded by mu
}

func newEventIDs() *eventIDs { return &eventIDs{entropy: ulid.Monotonic(rand.Reader, 0)} }

func (e *eventIDs) next(now time.Time) (ulid.ULID, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return ulid.New(ulid.Timestamp(now), e.entropy)
}

// AppendEventIn writes an event of the network as a part of t, so that a change
// and its audit are one. It sets the event's name and, when unset, its time; Commit sets
// the source of an audit event, and what t changes in its resource.
func (s *Store) AppendEventIn(t *Txn, network model.NetworkName, event *swanherdv1.Event) {
	if event.GetTime() == nil {
		event.Time = timestamppb.Now()
	}
	id, err := s.ids.next(event.GetTime().AsTime())
	if err != nil {
		t.fail(fmt.Errorf("make an event id: %w", err))
		return
	}
	event.Name = network.String() + "/events/" + strings.ToLower(id.String())
	key, err := layoutOf(event).key(event.GetName())
	if err != nil {
		t.fail(err)
		return
	}
	t.events = append(t.events, appended{key, event})
}

// AppendEvent writes an event by itself.
func (s *Store) AppendEvent(ctx context.Context, network model.NetworkName, event *swanherdv1.Event) error {
	t := s.Txn()
	s.AppendEventIn(t, network, event)
	_, err := t.Commit(ctx)
	return err
}

// ListEvents returns at most limit events of the networks, newest first, that
// are older than the event with the id before; all, when before is empty.
// Event.revision is that of the write for audit events. The id of the last
// one continues the list.
func (s *Store) ListEvents(ctx context.Context, networks []model.NetworkName, before string, limit int) ([]*swanherdv1.Event, error) {
	var events []*swanherdv1.Event
	for _, n := range networks {
		for _, l := range []layout{eventLayout, auditLayout} {
			some, err := s.eventsBefore(ctx, l.networkPrefix(n.Network), before, limit)
			if err != nil {
				return nil, fmt.Errorf("list events of %s: %w", n, err)
			}
			events = append(events, some...)
		}
	}
	slices.SortFunc(events, func(a, b *swanherdv1.Event) int { return cmp.Compare(EventID(b), EventID(a)) })
	return events[:min(limit, len(events))], nil
}

// EventID is the last segment of the event's name.
func EventID(e *swanherdv1.Event) string {
	return e.GetName()[strings.LastIndexByte(e.GetName(), '/')+1:]
}

func (s *Store) eventsBefore(ctx context.Context, prefix, before string, limit int) ([]*swanherdv1.Event, error) {
	end := clientv3.GetPrefixRangeEnd(prefix)
	if before != "" {
		end = prefix + before
	}
	resp, err := ask(ctx, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return s.client.Get(ctx, prefix, clientv3.WithRange(end), clientv3.WithLimit(int64(limit)),
			clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
	})
	if err != nil {
		return nil, err
	}
	events := make([]*swanherdv1.Event, len(resp.Kvs))
	for i, kv := range resp.Kvs {
		if events[i], err = decodeEvent(kv); err != nil {
			return nil, err
		}
	}
	return events, nil
}

// Event reads an event. The error is ErrNotFound when there is none.
func (s *Store) Event(ctx context.Context, name string) (*swanherdv1.Event, error) {
	for _, l := range []layout{auditLayout, eventLayout} {
		key, err := l.key(name)
		if err != nil {
			return nil, err
		}
		resp, err := ask(ctx, func(ctx context.Context) (*clientv3.GetResponse, error) { return s.client.Get(ctx, key) })
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		if len(resp.Kvs) > 0 {
			return decodeEvent(resp.Kvs[0])
		}
	}
	return nil, fmt.Errorf("%s: %w", name, ErrNotFound)
}

func decodeEvent(kv *mvccpb.KeyValue) (*swanherdv1.Event, error) {
	event := &swanherdv1.Event{}
	if err := proto.Unmarshal(kv.Value, event); err != nil {
		return nil, fmt.Errorf("decode event %s: %w", kv.Key, err)
	}
	if event.GetKind() == swanherdv1.Event_KIND_AUDIT {
		event.Revision = kv.ModRevision
	}
	return event, nil
}

// TrimEvents keeps transitions within the retention until ctx ends. It is the leader's to
// call; two at once do no harm.
func (s *Store) TrimEvents(ctx context.Context) {
	ticker := time.NewTicker(trimInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := s.trimOnce(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("trim events", "error", err)
		}
	}
}

func (s *Store) trimOnce(ctx context.Context) error {
	for _, n := range s.eventNetworks() {
		if err := s.trimNetwork(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// eventNetworks are the networks that have events.
func (s *Store) eventNetworks() []model.NetworkName {
	networks := []model.NetworkName{NoNetwork}
	for row := range s.Snapshot().Networks.All() {
		if n, err := model.ParseNetworkName(row.Name); err == nil {
			networks = append(networks, n)
		}
	}
	return networks
}

func (s *Store) trimNetwork(ctx context.Context, network model.NetworkName) error {
	prefix := eventLayout.networkPrefix(network.Network)
	count, err := s.client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return fmt.Errorf("count events of %s: %w", network, err)
	}
	excess := count.Count - int64(s.eventRetention)
	if excess <= 0 {
		return nil
	}
	oldest, err := s.client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithLimit(excess))
	if err != nil {
		return fmt.Errorf("list the oldest events of %s: %w", network, err)
	}
	if len(oldest.Kvs) == 0 { // another replica was faster
		return nil
	}
	last := string(oldest.Kvs[len(oldest.Kvs)-1].Key)
	if err := s.remove(ctx, clientv3.OpDelete(prefix, clientv3.WithRange(last+"\x00"))); err != nil {
		return fmt.Errorf("remove the oldest events of %s: %w", network, err)
	}
	return nil
}
