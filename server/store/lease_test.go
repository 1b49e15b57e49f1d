package store

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// candidate is a replica that serves at a store.
type candidate struct {
	name  string
	leads chan *Leadership // gets each leadership that it wins
	lost  chan struct{}    // and one for each that it loses
	stop  context.CancelFunc
	done  sync.WaitGroup
}

func stand(t *testing.T, s *Store, name string) *candidate {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	c := &candidate{name: name, leads: make(chan *Leadership, 8), lost: make(chan struct{}, 8), stop: stop}
	c.done.Go(func() {
		s.Serve(ctx, Duties{
			Replica: &storev1.Replica{Name: name, Address: "127.0.0.1:1"},
			Lead: func(ctx context.Context, l *Leadership) {
				c.leads <- l
				<-ctx.Done()
				c.lost <- struct{}{}
			},
		})
	})
	t.Cleanup(c.leave)
	return c
}

func (c *candidate) leave() {
	c.stop()
	c.done.Wait()
}

func (c *candidate) wins(t *testing.T) *Leadership {
	t.Helper()
	select {
	case l := <-c.leads:
		return l
	case <-time.After(20 * time.Second):
		t.Fatalf("%s does not come to lead", c.name)
		return nil
	}
}

// replicasAre waits until the watch cache has exactly these.
func replicasAre(t *testing.T, s *Store, names ...string) {
	t.Helper()
	sub := s.Subscribe()
	defer sub.Close()
	timeout := time.After(20 * time.Second)
	for {
		var have []string
		for _, r := range s.Snapshot().LiveReplicas() {
			have = append(have, r.GetName())
		}
		if len(have) == len(names) {
			for i := range names {
				if have[i] != names[i] {
					t.Fatalf("replicas are %v, want %v", have, names)
				}
			}
			return
		}
		select {
		case <-sub.Changed():
		case <-timeout:
			t.Fatalf("replicas are %v, want %v", have, names)
		}
	}
}

func TestOneReplicaLeads(t *testing.T) {
	s := openTemp(t)
	ctx := within(t, 60*time.Second)
	a := stand(t, s, "replicas/a")
	first := a.wins(t)
	b := stand(t, s, "replicas/b")
	replicasAre(t, s, "replicas/a", "replicas/b")
	select {
	case <-b.leads:
		t.Fatal("two replicas lead")
	default:
	}

	// What the leader writes depends on its leadership.
	fenced := func(l *Leadership, name string) error {
		txn := s.Txn()
		l.FenceIn(txn)
		s.Networks.PutIn(txn, name, &swanherdv1.Network{Name: name})
		_, err := txn.Commit(ctx)
		return err
	}
	if err := fenced(first, "networks/one"); err != nil {
		t.Fatal(err)
	}
	a.leave() // gives its lease back: nobody waits for its end
	second := b.wins(t)
	replicasAre(t, s, "replicas/b")
	if err := fenced(first, "networks/two"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a write of who led before: %v, want ErrNotFound", err)
	}
	if err := fenced(second, "networks/two"); err != nil {
		t.Error(err)
	}
}

// A lease that is lost while the replica lives takes the leadership with it, and the
// replica takes another.
func TestLostLease(t *testing.T) {
	s := openTemp(t)
	ctx := within(t, 60*time.Second)
	a := stand(t, s, "replicas/a")
	first := a.wins(t)
	leases, err := s.client.Leases(ctx)
	if err != nil || len(leases.Leases) != 1 {
		t.Fatalf("leases %v, %v", leases, err)
	}
	if _, err := s.client.Revoke(ctx, leases.Leases[0].ID); err != nil {
		t.Fatal(err)
	}
	select {
	case <-a.lost:
	case <-ctx.Done():
		t.Fatal("the leader without a lease goes on")
	}
	if second := a.wins(t); second.key == first.key {
		t.Error("the second leadership is the first")
	}
	replicasAre(t, s, "replicas/a")
}

// cluster starts a store of three embedded members.
func cluster(t *testing.T) []*Store {
	t.Helper()
	peers := map[string]string{}
	var held []net.Listener
	for _, name := range []string{"a", "b", "c"} {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, lis)
		peers[name] = "http://" + lis.Addr().String()
	}
	for _, lis := range held { // not sooner, so that each has an address of its own
		lis.Close()
	}
	members := make([]*Store, 3)
	var starting sync.WaitGroup
	for i, name := range []string{"a", "b", "c"} {
		dir := t.TempDir()
		starting.Go(func() {
			s, err := Open(within(t, 60*time.Second), Config{
				DataDir: dir, Cluster: &Cluster{Member: name, Peers: peers},
				Logger: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Error(err)
				return
			}
			members[i] = s
		})
	}
	starting.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return members
}

func TestClusterOfEmbeddedMembers(t *testing.T) {
	members := cluster(t)
	closeMember := func(i int) {
		if members[i] != nil {
			if err := members[i].Close(); err != nil {
				t.Error(err)
			}
			members[i] = nil
		}
	}
	t.Cleanup(func() {
		for i := range members {
			closeMember(i)
		}
	})
	ctx := within(t, 90*time.Second)
	a, b, c := members[0], members[1], members[2]
	if a.Epoch() != b.Epoch() || b.Epoch() != c.Epoch() {
		t.Errorf("members have epochs %s, %s and %s", a.Epoch(), b.Epoch(), c.Epoch())
	}
	sees := func(s *Store, revision int64, name string) {
		t.Helper()
		snap, err := s.WaitRevision(ctx, revision)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := snap.Networks.Get(name); !ok {
			t.Errorf("a member does not see %s", name)
		}
	}
	revision, err := a.Networks.Create(ctx, "networks/one", &swanherdv1.Network{Name: "networks/one"})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range members {
		sees(s, revision, "networks/one")
	}

	// Without one of three the others go on: the election of another leader takes its time.
	closeMember(2)
	for revision = 0; revision == 0; {
		switch r, err := a.Networks.Put(ctx, "networks/two", &swanherdv1.Network{Name: "networks/two"}); {
		case err == nil:
			revision = r
		case !errors.Is(err, ErrUnavailable):
			t.Fatal(err)
		}
	}
	sees(b, revision, "networks/two")

	// Without two nothing is written, and what is read is known to be old.
	closeMember(1)
	if _, err := a.Networks.Put(ctx, "networks/three", &swanherdv1.Network{Name: "networks/three"}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a write without a quorum: %v, want ErrUnavailable", err)
	}
	if _, ok := a.Snapshot().Networks.Get("networks/two"); !ok {
		t.Error("the snapshot is gone with the quorum")
	}
	for {
		if _, stale := a.StaleSince(); stale {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatal("the snapshot never counts as stale")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func TestClusterNamesWhatIsWrong(t *testing.T) {
	for name, c := range map[string]*Cluster{
		"not among them":  {Member: "d", Peers: map[string]string{"a": "http://127.0.0.1:1"}},
		"without TLS":     {Member: "a", Peers: map[string]string{"a": "http://10.0.0.1:2380"}},
		"no certificates": {Member: "a", Peers: map[string]string{"a": "https://10.0.0.1:2380"}},
		"no port":         {Member: "a", Peers: map[string]string{"a": "http://127.0.0.1"}},
		"other one wrong": {Member: "a", Peers: map[string]string{"a": "http://127.0.0.1:1", "b": "ftp://x"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(t.Context(), Config{DataDir: t.TempDir(), Cluster: c, Logger: slog.New(slog.DiscardHandler)})
			if err == nil {
				s.Close()
				t.Fatal("it was opened")
			}
			t.Log(err)
		})
	}
	if _, err := ParsePeers([]string{"a=http://127.0.0.1:1", "a=http://127.0.0.1:2"}); err == nil {
		t.Error("a member was named twice")
	}
}
