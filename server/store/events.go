package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

const (
	// DefaultEventRetention is how many transitions are kept per network, and
	// DefaultAuditRetention how many audit events: however much happens in a fleet, what
	// people did stays.
	DefaultEventRetention = 20_000
	DefaultAuditRetention = 100_000
	// DefaultDeletedAuditRetention is how long after its newest event the audit log of a
	// network that was deleted is kept: a year, and time to look at it.
	DefaultDeletedAuditRetention = 400 * 24 * time.Hour
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

// TrimEvents keeps transitions within the retention until ctx ends, and removes the logs
// of networks that were deleted: transitions at once, audit events when the newest is
// older than the retention for these. It is the leader's to call.
func (s *Store) TrimEvents(ctx context.Context, l *Leadership) {
	ticker := time.NewTicker(trimInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := s.trimOnce(ctx, l, time.Now()); err != nil && ctx.Err() == nil {
			s.log.Warn("trim events", "error", err)
		}
	}
}

func (s *Store) trimOnce(ctx context.Context, l *Leadership, now time.Time) error {
	networks, err := s.EventNetworks(ctx)
	if err != nil {
		return err
	}
	for _, n := range networks {
		since, err := s.networkSince(ctx, n)
		if err != nil {
			return err
		}
		if n == NoNetwork || since > 0 {
			err = s.trimNetwork(ctx, n)
		} else {
			err = s.trimDeleted(ctx, l, n, now)
		}
		var refused *ConditionError // it was made anew, or another replica leads
		if err != nil && !errors.As(err, &refused) {
			return err
		}
	}
	return nil
}

// EventNetworks are the networks that have events, also those that were deleted, by
// name.
func (s *Store) EventNetworks(ctx context.Context) ([]model.NetworkName, error) {
	found := map[string]bool{}
	for _, l := range []layout{eventLayout, auditLayout, sealLayout} {
		end := clientv3.GetPrefixRangeEnd(l.prefix())
		for key := l.prefix(); ; {
			resp, err := ask(ctx, func(ctx context.Context) (*clientv3.GetResponse, error) {
				return s.client.Get(ctx, key, clientv3.WithRange(end), clientv3.WithLimit(1), clientv3.WithKeysOnly())
			})
			if err != nil {
				return nil, fmt.Errorf("list networks with events: %w", err)
			}
			if len(resp.Kvs) == 0 {
				break
			}
			network, _, _ := strings.Cut(strings.TrimPrefix(string(resp.Kvs[0].Key), l.prefix()), "/")
			found[network] = true
			key = clientv3.GetPrefixRangeEnd(l.networkPrefix(network)) // the next network
		}
	}
	var networks []model.NetworkName
	for _, name := range slices.Sorted(maps.Keys(found)) {
		networks = append(networks, model.NetworkName{Network: name})
	}
	return networks, nil
}

// trimDeleted removes what is due of the logs of a network that was deleted.
func (s *Store) trimDeleted(ctx context.Context, l *Leadership, network model.NetworkName, now time.Time) error {
	newest, err := s.eventsBefore(ctx, auditLayout.networkPrefix(network.Network), "", 0, 1)
	if err != nil {
		return fmt.Errorf("read the newest audit event of %s: %w", network, err)
	}
	layouts := []layout{eventLayout}
	if len(newest) == 0 || now.Sub(newest[0].GetTime().AsTime()) > s.deletedRetention {
		layouts = append(layouts, auditLayout, sealLayout)
	}
	t := s.Txn()
	l.FenceIn(t)
	s.Networks.RequireAbsentIn(t, network.String())
	var events int64
	for _, layout := range layouts {
		prefix := layout.networkPrefix(network.Network)
		n, err := s.countRange(ctx, prefix, clientv3.GetPrefixRangeEnd(prefix))
		if err != nil {
			return fmt.Errorf("count events of %s: %w", network, err)
		}
		events += int64(n)
		t.write("the log of "+network.String(), prefix, clientv3.OpDelete(prefix, clientv3.WithPrefix()))
	}
	if events == 0 {
		return nil
	}
	if len(newest) > 0 && len(layouts) > 1 {
		last, err := s.lastSeal(ctx, network)
		if err != nil {
			return err
		}
		s.AppendEventIn(t, NoNetwork, &swanherdv1.Event{
			Kind: swanherdv1.Event_KIND_AUDIT, Actor: "system", Action: "auditLog.delete", Resource: network.String(),
			Message: fmt.Sprintf("the audit log of the deleted network, whose newest event is of %s, was removed: %d events, last seal %x",
				newest[0].GetTime().AsTime().Format(time.DateOnly), last.GetEvents(), last.GetHash()),
		})
	}
	_, err = t.Commit(ctx)
	return err
}

func (s *Store) trimNetwork(ctx context.Context, network model.NetworkName) error {
	prefix := eventLayout.networkPrefix(network.Network)
	count, err := s.countRange(ctx, prefix, clientv3.GetPrefixRangeEnd(prefix))
	if err != nil {
		return fmt.Errorf("count events of %s: %w", network, err)
	}
	excess := int64(count - s.eventRetention)
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
