package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// When the revision to watch from was compacted meanwhile, the cache lists
// anew and goes on from there.
func TestWatchResumesAfterCompaction(t *testing.T) {
	s := openTemp(t)
	ctx := within(t, 30*time.Second)
	if _, err := s.Sites.Create(ctx, berlin, site(berlin, "10.1.0.0/16")); err != nil {
		t.Fatal(err)
	}
	s.stopFollowingForTest()

	oslo := "networks/demo/sites/oslo"
	if _, err := s.Sites.Delete(ctx, berlin, AnyRevision); err != nil {
		t.Fatal(err)
	}
	revision, err := s.Sites.Create(ctx, oslo, site(oslo, "10.2.0.0/16"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Compact(ctx, revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	if err := s.watch(ctx); !errors.Is(err, errCompacted) {
		t.Fatalf("watch from a compacted revision: %v, want errCompacted", err)
	}

	s.startFollowingForTest()
	snap, err := s.WaitRevision(ctx, revision)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := snap.Sites.Get(berlin); ok || snap.Sites.Len() != 1 {
		t.Errorf("snapshot has %d sites, %s among them: %v", snap.Sites.Len(), berlin, ok)
	}
	later, err := s.Sites.Create(ctx, berlin, site(berlin, "10.1.0.0/16"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.WaitRevision(ctx, later); err != nil {
		t.Errorf("the watch does not go on: %v", err)
	}
}

func (s *Store) stopFollowingForTest() {
	s.stop()
	s.done.Wait()
}

func (s *Store) startFollowingForTest() {
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.done.Go(func() { s.follow(ctx) })
}

func TestSubscription(t *testing.T) {
	s := openTemp(t)
	ctx := within(t, 30*time.Second)
	sub := s.Subscribe()
	defer sub.Close()
	wait := func() {
		t.Helper()
		select {
		case <-sub.Changed():
		case <-ctx.Done():
			t.Fatal("not told of a change")
		}
	}
	wait() // of the present snapshot
	var last int64
	for i := range 20 {
		name := fmt.Sprintf("networks/n%d", i)
		revision, err := s.Networks.Create(ctx, name, &swanherdv1.Network{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		last = revision
	}
	if _, err := s.WaitRevision(ctx, last); err != nil {
		t.Fatal(err)
	}
	wait() // once, for all of them
	if n := s.Snapshot().Networks.Len(); n != 20 {
		t.Errorf("%d networks, want 20", n)
	}
}

func TestRestartKeepsEverything(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	ctx := within(t, 60*time.Second)
	epoch := s.Epoch()
	want := map[string]int64{}
	for i := range 50 {
		name := fmt.Sprintf("networks/demo/sites/s%d", i)
		revision, err := s.Sites.Create(ctx, name, site(name, "10.1.0.0/16"))
		if err != nil {
			t.Fatal(err)
		}
		want[name] = revision
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	defer s.Close()
	if s.Epoch() != epoch {
		t.Errorf("epoch is %s after a restart, was %s", s.Epoch(), epoch)
	}
	got := map[string]int64{}
	for row := range s.Snapshot().Sites.All() {
		got[row.Name] = row.Revision
	}
	if !maps.Equal(got, want) {
		t.Errorf("after a restart the snapshot has %d of %d sites, or other revisions", len(got), len(want))
	}
}

func TestDataDirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	defer s.Close()
	if second, err := Open(t.Context(), Config{DataDir: dir}); err == nil {
		second.Close()
		t.Error("two stores opened the same directory")
	}
}

func TestUnreadableValueIsLeftOut(t *testing.T) {
	s := openTemp(t)
	ctx := within(t, 30*time.Second)
	key, err := s.Sites.Key(berlin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Put(ctx, key, "\xff\xff not a site"); err != nil {
		t.Fatal(err)
	}
	revision, err := s.Networks.Create(ctx, "networks/demo", &swanherdv1.Network{Name: "networks/demo"})
	if err != nil {
		t.Fatal(err)
	}
	snap, err := s.WaitRevision(ctx, revision)
	if err != nil {
		t.Fatal(err)
	}
	if snap.Sites.Len() != 0 || snap.Networks.Len() != 1 {
		t.Errorf("%d sites and %d networks, want 0 and 1", snap.Sites.Len(), snap.Networks.Len())
	}
}

// Concurrent writers that read, change and compare lose no update, and every
// reader of the cache sees counters only rise.
func TestConcurrentWritersLoseNothing(t *testing.T) {
	s := openTemp(t)
	ctx := within(t, 60*time.Second)
	const writers, each = 8, 20
	demo := "networks/demo"
	if _, err := s.Networks.Create(ctx, demo, &swanherdv1.Network{Name: demo}); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var readers, writing sync.WaitGroup
	readers.Go(func() {
		sub := s.Subscribe()
		defer sub.Close()
		last, revision := 0, int64(0)
		for {
			select {
			case <-sub.Changed():
				snap := s.Snapshot()
				n := len(snap.Networks.Value(demo).GetDescription())
				if n < last || snap.Revision < revision {
					t.Errorf("reader saw %d at revision %d after %d at %d", n, snap.Revision, last, revision)
				}
				last, revision = n, snap.Revision
			case <-stop:
				return
			}
		}
	})
	for range writers {
		writing.Go(func() {
			for done := 0; done < each; {
				row, err := s.Networks.Get(ctx, demo)
				if err != nil {
					t.Error(err)
					return
				}
				row.Value.Description += "+"
				switch _, err := s.Networks.Update(ctx, demo, row.Value, row.Revision); {
				case err == nil:
					done++
				case !errors.Is(err, ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	writing.Wait()
	close(stop)
	readers.Wait()
	row, err := s.Networks.Get(ctx, demo)
	if err != nil || len(row.Value.GetDescription()) != writers*each {
		t.Errorf("%d updates are in the store, want %d (%v)", len(row.Value.GetDescription()), writers*each, err)
	}
}

// Two changes of a network's topology that were both validated against the same
// snapshot are not both stored, also when they write different resources.
func TestTopologyChangesAreSerial(t *testing.T) {
	s := openTemp(t)
	ctx := within(t, 30*time.Second)
	demo := "networks/demo"
	empty := s.Snapshot()
	next := empty.Topology
	next.Networks = next.Networks.With(model.Row[*swanherdv1.Network]{Name: demo, Value: &swanherdv1.Network{Name: demo}})
	txn := s.Txn()
	s.ChangeTopologyIn(txn, &empty.Topology, &next)
	revision, err := txn.Commit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	base, err := s.WaitRevision(ctx, revision)
	if err != nil {
		t.Fatal(err)
	}
	add := func(from *Snapshot, name string) error {
		to := from.Topology
		to.Sites = to.Sites.With(model.Row[*swanherdv1.Site]{Name: name, Value: site(name, "10.1.0.0/16")})
		txn := s.Txn()
		s.ChangeTopologyIn(txn, &from.Topology, &to)
		_, err := txn.Commit(ctx)
		return err
	}
	if err := add(base, berlin); err != nil {
		t.Fatal(err)
	}
	if err := add(base, "networks/demo/sites/oslo"); !errors.Is(err, ErrConflict) {
		t.Errorf("second change of the same snapshot: %v, want ErrConflict", err)
	}

	// An update and a deletion, on a newer snapshot.
	current, err := s.WaitRevision(ctx, revision+1)
	if err != nil {
		t.Fatal(err)
	}
	to := current.Topology
	to.Sites = to.Sites.Without(berlin)
	to.Networks = to.Networks.With(model.Row[*swanherdv1.Network]{Name: demo, Value: &swanherdv1.Network{Name: demo, Description: "x"}})
	txn = s.Txn()
	s.ChangeTopologyIn(txn, &current.Topology, &to)
	if revision, err = txn.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	after, err := s.WaitRevision(ctx, revision)
	if err != nil {
		t.Fatal(err)
	}
	if after.Sites.Len() != 0 || after.Networks.Value(demo).GetDescription() != "x" {
		t.Errorf("%d sites, network %v", after.Sites.Len(), after.Networks.Value(demo))
	}

	// What only guards the topology, as the begin of a rollout, is a change to others.
	network := model.NetworkName{Network: "demo"}
	if at, err := s.TopologyRevisionOf(ctx, network); err != nil || at != revision {
		t.Errorf("the topology changed at %d, %v, want %d", at, err, revision)
	}
	for _, c := range []struct {
		at   int64
		want error
	}{{revision - 1, ErrConflict}, {revision, nil}, {revision, ErrConflict}} {
		txn := s.Txn()
		s.GuardTopologyIn(txn, network, c.at)
		if _, err := txn.Commit(ctx); !errors.Is(err, c.want) {
			t.Errorf("guarded at %d: %v, want %v", c.at, err, c.want)
		}
	}
	if err := add(after, berlin); !errors.Is(err, ErrConflict) {
		t.Errorf("a change of what was guarded since: %v, want ErrConflict", err)
	}
}

func TestLargeTransactions(t *testing.T) {
	s := openTemp(t)
	ctx := within(t, 60*time.Second)
	fill := func(n int) *Txn {
		txn := s.Txn()
		for i := range n {
			name := fmt.Sprintf("networks/demo/sites/s%d", i)
			s.Sites.CreateIn(txn, name, site(name, "10.1.0.0/16"))
		}
		return txn
	}
	if _, err := fill(embeddedMaxTxnOps).Commit(ctx); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%d operations and the schema's: %v, want ErrTooLarge", embeddedMaxTxnOps, err)
	}
	const most = embeddedMaxTxnOps - 1
	revision, err := fill(most).Commit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	snap, err := s.WaitRevision(ctx, revision)
	if err != nil {
		t.Fatal(err)
	}
	if snap.Sites.Len() != most || snap.Revision != revision {
		t.Errorf("%d sites at revision %d, want %d at %d", snap.Sites.Len(), snap.Revision, most, revision)
	}
	rows, _, err := s.Sites.List(ctx, model.NetworkName{Network: "demo"})
	if err != nil || len(rows) != most {
		t.Errorf("List has %d sites, %v", len(rows), err)
	}
	if other, _, err := s.Sites.List(ctx, model.NetworkName{Network: "dem"}); err != nil || len(other) != 0 {
		t.Errorf("List of another network has %d sites, %v", len(other), err)
	}

	huge := s.Txn()
	s.Networks.CreateIn(huge, "networks/huge", &swanherdv1.Network{Description: string(make([]byte, embeddedMaxRequest+1))})
	if _, err := huge.Commit(ctx); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a value of %d octets: %v, want ErrTooLarge", embeddedMaxRequest+1, err)
	}
}

func TestTxnRefusesWhatItCannotDo(t *testing.T) {
	s := openTemp(t)
	txn := s.Txn()
	s.Sites.PutIn(txn, berlin, site(berlin, "10.1.0.0/16"))
	s.Sites.DropIn(txn, berlin)
	if _, err := txn.Commit(t.Context()); err == nil {
		t.Error("one resource was written twice in a transaction")
	}
	txn = s.Txn()
	s.Sites.UpdateIn(txn, berlin, site(berlin, "10.1.0.0/16"), 0)
	if _, err := txn.Commit(t.Context()); err == nil {
		t.Error("an update at revision 0 was taken")
	}
}

func TestEventsAreListedNewestFirstAndTrimmed(t *testing.T) {
	s := openTemp(t)
	s.eventRetention = 5
	ctx := within(t, 30*time.Second)
	demo, other := model.NetworkName{Network: "demo"}, model.NetworkName{Network: "other"}
	made, err := s.Networks.Create(ctx, demo.String(), &swanherdv1.Network{Name: demo.String()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.WaitRevision(ctx, made); err != nil { // those of the cache are trimmed
		t.Fatal(err)
	}
	var want []string
	for i := range 12 {
		network := []model.NetworkName{demo, other, NoNetwork}[i%3]
		e := &swanherdv1.Event{Kind: swanherdv1.Event_KIND_TRANSITION, Message: fmt.Sprint(i)}
		if err := s.AppendEvent(ctx, network, e); err != nil {
			t.Fatal(err)
		}
		want = append(want, e.GetMessage())
	}
	slices.Reverse(want)
	var got []string
	for before := ""; ; {
		page, err := s.ListEvents(ctx, EventQuery{Networks: []model.NetworkName{demo, other, NoNetwork}, Former: true, Before: before, Limit: 5})
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			got = append(got, e.GetMessage())
		}
		before = EventID(page[len(page)-1])
	}
	if !slices.Equal(got, want) {
		t.Errorf("pages are %v, want %v", got, want)
	}

	for range 10 {
		if err := s.AppendEvent(ctx, demo, &swanherdv1.Event{}); err != nil {
			t.Fatal(err)
		}
	}
	newest, err := s.ListEvents(ctx, EventQuery{Networks: []model.NetworkName{demo}, Limit: 5})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.trimOnce(ctx, stand(t, s, "replicas/a").wins(t), time.Now()); err != nil {
		t.Fatal(err)
	}
	left, err := s.ListEvents(ctx, EventQuery{Networks: []model.NetworkName{demo}, Limit: 100})
	if err != nil || !slices.EqualFunc(left, newest, func(a, b *swanherdv1.Event) bool { return proto.Equal(a, b) }) {
		t.Errorf("%d events are left (%v), want the newest 5", len(left), err)
	}
}
