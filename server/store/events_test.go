package store

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// made is a log of events at the given times before now, in minutes, and what they say.
func (a *audited) made(minutes ...int) {
	a.t.Helper()
	for _, m := range minutes {
		at := timestamppb.New(time.Now().Add(-time.Duration(m) * time.Minute))
		if err := a.AppendEvent(a.ctx, a.network, &swanherdv1.Event{Time: at, Message: fmt.Sprint(m)}); err != nil {
			a.t.Fatal(err)
		}
	}
}

func (a *audited) list(q EventQuery) string {
	a.t.Helper()
	events, err := a.ListEvents(a.ctx, q)
	if err != nil {
		a.t.Fatal(err)
	}
	var said []string
	for _, e := range events {
		said = append(said, e.GetMessage())
	}
	return strings.Join(said, " ")
}

// Pages are found whatever the events' distances in time: none, years, and many at one
// moment. A clock may have been ahead.
func TestPagesOfEvents(t *testing.T) {
	a := newAudited(t)
	var minutes []int
	for _, c := range []struct{ ago, events int }{{-90, 1}, {0, 1}, {1, 40}, {2, 1}, {500, 1}, {1000, 1}, {1_000_000, 1}, {20_000_000, 100}} {
		minutes = append(minutes, slices.Repeat([]int{c.ago}, c.events)...)
	}
	oldestFirst := slices.Clone(minutes)
	slices.Reverse(oldestFirst)
	a.made(oldestFirst...)
	want := strings.Trim(fmt.Sprint(minutes), "[]")
	for _, limit := range []int{1, 3, 7, 100, 1000} {
		q := EventQuery{Networks: []model.NetworkName{a.network}, Former: true, Limit: limit}
		var got []string
		for {
			events, err := a.ListEvents(a.ctx, q)
			if err != nil {
				t.Fatal(err)
			}
			if len(events) == 0 {
				break
			}
			got = append(got, a.list(q))
			q.Before = EventID(events[len(events)-1])
		}
		if got := strings.Join(got, " "); got != want {
			t.Errorf("pages of %d: %s\nwant %s", limit, got, want)
		}
	}
	for _, before := range []string{"0", "00000000000000000000000000", "zzzzzzzzzzzzzzzzzzzzzzzzzz", "no id"} {
		a.list(EventQuery{Networks: []model.NetworkName{a.network}, Former: true, Limit: 3, Before: before})
	}
}

// Who may see a network sees nothing of one that had its name before.
func TestEventsOfFormerNetworks(t *testing.T) {
	a := newAudited(t)
	name := a.network.String()
	present := EventQuery{Networks: []model.NetworkName{a.network}, Limit: 10}
	former := present
	former.Former = true
	for life := range 2 {
		txn := a.Txn()
		a.Networks.CreateIn(txn, name, &swanherdv1.Network{Name: name})
		event := &swanherdv1.Event{Kind: swanherdv1.Event_KIND_AUDIT, Message: fmt.Sprint("made ", life)}
		a.AppendEventIn(txn, a.network, event)
		made, err := txn.Commit(a.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := a.list(present), fmt.Sprint("made ", life); got != want {
			t.Errorf("life %d: %q are listed, want %q", life, got, want)
		}
		if _, err := a.Networks.Delete(a.ctx, name, made); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Event(a.ctx, event.GetName(), false); !errors.Is(err, ErrNotFound) {
			t.Errorf("life %d: an event of the deleted network: %v", life, err)
		}
		if e, err := a.Event(a.ctx, event.GetName(), true); err != nil || e.GetMessage() != event.GetMessage() {
			t.Errorf("life %d: an event of the deleted network, for who may: %v, %v", life, e, err)
		}
	}
	if got := a.list(present); got != "" {
		t.Errorf("of a network that is not there %q are listed", got)
	}
	if got, want := a.list(former), "made 1 made 0"; got != want {
		t.Errorf("of the former ones %q are listed, want %q", got, want)
	}
	if networks, err := a.EventNetworks(a.ctx); err != nil || !slices.Equal(networks, []model.NetworkName{a.network}) {
		t.Errorf("networks with events are %v, %v", networks, err)
	}
}

// Of a deleted network transitions go at once, what people did when it is old; that it
// went stands in the log of what belongs to no network.
func TestLogsOfDeletedNetworksAreTrimmed(t *testing.T) {
	a := newAudited(t)
	a.write(3)
	a.seal()
	a.made(5, 2)
	q := EventQuery{Networks: []model.NetworkName{a.network}, Former: true, Limit: 10}
	for _, c := range []struct {
		after time.Duration
		want  string
	}{{0, "2 1 0"}, {DefaultDeletedAuditRetention - time.Hour, "2 1 0"}, {DefaultDeletedAuditRetention + time.Hour, ""}} {
		if err := a.trimOnce(a.ctx, a.leader, time.Now().Add(c.after)); err != nil {
			t.Fatal(err)
		}
		if got := a.list(q); got != c.want {
			t.Errorf("after %s %q is left, want %q", c.after, got, c.want)
		}
	}
	events, err := a.ListEvents(a.ctx, EventQuery{Networks: []model.NetworkName{NoNetwork}, Limit: 10})
	if err != nil || len(events) != 1 || events[0].GetAction() != "auditLog.delete" || events[0].GetResource() != a.network.String() ||
		!strings.Contains(events[0].GetMessage(), "3 events, last seal ") {
		t.Errorf("told %v, %v", events, err)
	}
	if networks, err := a.EventNetworks(a.ctx); err != nil || !slices.Equal(networks, []model.NetworkName{NoNetwork}) {
		t.Errorf("networks with events are %v, %v", networks, err)
	}
}

// BenchmarkListEvents reads the newest page, and one in the middle, of a log as long
// as it may be.
func BenchmarkListEvents(b *testing.B) {
	s := open(b, b.TempDir())
	defer func() { _ = s.Close() }()
	ctx := b.Context()
	demo := model.NetworkName{Network: "demo"}
	if _, err := s.Networks.Create(ctx, demo.String(), &swanherdv1.Network{Name: demo.String()}); err != nil {
		b.Fatal(err)
	}
	var ops []clientv3.Op
	var middle string
	began := time.Now().Add(-DefaultAuditRetention * time.Minute)
	for i := range DefaultAuditRetention {
		at := began.Add(time.Duration(i) * time.Minute)
		id, err := s.ids.next(at)
		if err != nil {
			b.Fatal(err)
		}
		e := &swanherdv1.Event{
			Name: demo.String() + "/events/" + strings.ToLower(id.String()), Kind: swanherdv1.Event_KIND_AUDIT, Time: timestamppb.New(at),
			Actor: "token:ops", Action: "site.update", Resource: berlin, Message: fmt.Sprint(i),
			Changes: []*swanherdv1.FieldChange{{Path: "prefixes", OldValue: "10.1.0.0/16", NewValue: "10.2.0.0/16"}},
		}
		if i == DefaultAuditRetention/2 {
			middle = EventID(e)
		}
		value, err := proto.Marshal(e)
		if err != nil {
			b.Fatal(err)
		}
		key, err := auditLayout.key(e.GetName())
		if err != nil {
			b.Fatal(err)
		}
		if ops = append(ops, clientv3.OpPut(key, string(value))); len(ops) == 100 {
			if _, err := s.client.Txn(ctx).Then(ops...).Commit(); err != nil {
				b.Fatal(err)
			}
			ops = nil
		}
	}
	for name, before := range map[string]string{"newest": "", "middle": middle} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				page, err := s.ListEvents(ctx, EventQuery{Networks: []model.NetworkName{demo}, Before: before, Limit: 100})
				if err != nil || len(page) != 100 {
					b.Fatalf("%d events: %v", len(page), err)
				}
			}
		})
	}
}
