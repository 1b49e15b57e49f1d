package store

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// EventQuery says which events are wanted.
type EventQuery struct {
	Networks []model.NetworkName
	// Former wants those as well that are of another network, which was deleted before
	// one of that name was made. They are not for everybody who may see the present one.
	Former bool
	// Before is the id of an event: older ones are wanted. Empty: all.
	Before string
	// Limit is how many are wanted at most.
	Limit int
}

// ListEvents returns events, newest first. Event.revision is that of the write for audit
// events. The id of the last one continues the list.
func (s *Store) ListEvents(ctx context.Context, q EventQuery) ([]*swanherdv1.Event, error) {
	var events []*swanherdv1.Event
	for _, n := range q.Networks {
		since, err := s.eventsSince(ctx, n, q.Former)
		if err != nil {
			return nil, fmt.Errorf("list events of %s: %w", n, err)
		}
		for _, l := range []layout{eventLayout, auditLayout} {
			some, err := s.eventsBefore(ctx, l.networkPrefix(n.Network), q.Before, since, q.Limit)
			if err != nil {
				return nil, fmt.Errorf("list events of %s: %w", n, err)
			}
			events = append(events, some...)
		}
	}
	slices.SortFunc(events, func(a, b *swanherdv1.Event) int { return cmp.Compare(EventID(b), EventID(a)) })
	return events[:min(q.Limit, len(events))], nil
}

// Event reads an event; former: also one of a network that was deleted. The error is
// ErrNotFound when there is none.
func (s *Store) Event(ctx context.Context, name string, former bool) (*swanherdv1.Event, error) {
	network, err := eventNetwork(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, ErrNotFound)
	}
	since, err := s.eventsSince(ctx, network, former)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	for _, l := range []layout{auditLayout, eventLayout} {
		key, err := l.key(name)
		if err != nil {
			return nil, err
		}
		resp, err := ask(ctx, func(ctx context.Context) (*clientv3.GetResponse, error) { return s.client.Get(ctx, key) })
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		if len(resp.Kvs) > 0 && resp.Kvs[0].CreateRevision >= since {
			return decodeEvent(resp.Kvs[0])
		}
	}
	return nil, fmt.Errorf("%s: %w", name, ErrNotFound)
}

// eventsSince is the revision from which on events are those of the present network.
func (s *Store) eventsSince(ctx context.Context, network model.NetworkName, former bool) (int64, error) {
	if former || network == NoNetwork {
		return 0, nil
	}
	since, err := s.networkSince(ctx, network)
	if since == 0 {
		since = math.MaxInt64 // there is none
	}
	return since, err
}

// EventID is the last segment of the event's name.
func EventID(e *swanherdv1.Event) string {
	return e.GetName()[strings.LastIndexByte(e.GetName(), '/')+1:]
}

// networkSince is the revision at which the network was made, 0 when it is not there.
func (s *Store) networkSince(ctx context.Context, network model.NetworkName) (int64, error) {
	key, err := s.Networks.Key(network.String())
	if err != nil {
		return 0, err
	}
	resp, err := ask(ctx, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return s.client.Get(ctx, key, clientv3.WithKeysOnly())
	})
	if err != nil || len(resp.Kvs) == 0 {
		return 0, err
	}
	return resp.Kvs[0].CreateRevision, nil
}

// eventsBefore reads the newest events below a prefix that are older than the event
// before, and were written at the revision since or later.
func (s *Store) eventsBefore(ctx context.Context, prefix, before string, since int64, limit int) ([]*swanherdv1.Event, error) {
	end := clientv3.GetPrefixRangeEnd(prefix)
	if before != "" {
		end = prefix + before
	}
	start, err := s.newestOf(ctx, prefix, end, before, limit)
	if err != nil {
		return nil, err
	}
	resp, err := ask(ctx, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return s.client.Get(ctx, start, clientv3.WithRange(end))
	})
	if err != nil {
		return nil, err
	}
	kvs := slices.DeleteFunc(resp.Kvs, func(kv *mvccpb.KeyValue) bool { return kv.CreateRevision < since })
	kvs = kvs[max(0, len(kvs)-limit):]
	events := make([]*swanherdv1.Event, len(kvs))
	for i, kv := range kvs {
		if events[len(kvs)-1-i], err = decodeEvent(kv); err != nil {
			return nil, err
		}
	}
	return events, nil
}

// newestOf finds a key from which on there are at least limit events below end, and not
// many more; it is prefix when there are few. etcd itself would read and sort the whole
// log to answer with its end, while it counts keys from its index alone.
//
// Event ids begin with the time: it looks at ever longer spans of it before the event
// before, or before now, and halves what is between one too short and one too long.
func (s *Store) newestOf(ctx context.Context, prefix, end, before string, limit int) (string, error) {
	const (
		shortest = time.Minute
		growth   = 16
		most     = 4 // how many times limit may be read
		looks    = 20
	)
	n, err := s.countRange(ctx, prefix, end)
	if err != nil || n <= most*limit {
		return prefix, err
	}
	from := time.Now()
	if id, err := ulid.Parse(before); err == nil {
		from = ulid.Time(id.Time())
	}
	few, many := time.Duration(0), time.Duration(0) // spans with too few and too many, 0: none yet
	for span, look := shortest, 0; look < looks; look++ {
		start := spanStart(prefix, from, span)
		if n, err = s.countRange(ctx, start, end); err != nil {
			return "", err
		}
		switch {
		case n < limit:
			few = span
		case n > most*limit:
			many = span
		default:
			return start, nil
		}
		if span = few + (many-few)/2; many == 0 {
			span = few * growth
		}
	}
	return spanStart(prefix, from, many), nil
}

// spanStart is the first key of an event that is at most span older than from; the
// prefix when that is before all time.
func spanStart(prefix string, from time.Time, span time.Duration) string {
	if span > math.MaxInt64/32 { // the next is no time any more
		return prefix
	}
	var id ulid.ULID
	if err := id.SetTime(ulid.Timestamp(from.Add(-span))); err != nil {
		return prefix
	}
	return prefix + strings.ToLower(id.String())
}

func (s *Store) countRange(ctx context.Context, start, end string) (int, error) {
	resp, err := ask(ctx, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return s.client.Get(ctx, start, clientv3.WithRange(end), clientv3.WithCountOnly())
	})
	if err != nil {
		return 0, err
	}
	return int(resp.Count), nil
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
