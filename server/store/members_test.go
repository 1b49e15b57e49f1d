package store

import (
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// A member that is dead for good is exchanged for a new one, which counts once it has
// what the others have: then another one may die.
func TestMemberIsExchanged(t *testing.T) {
	members := cluster(t)
	ctx := within(t, 2*time.Minute)
	a, b := members[0], members[1]
	dead := members[2]
	t.Cleanup(func() { a.Close() })
	// etcd takes no change before its members have been connected for five seconds.
	var revision int64
	for i := range 200 {
		name := "networks/n" + string(rune('a'+i%26)) + string(rune('a'+i/26))
		r, err := a.Networks.Create(ctx, name, &swanherdv1.Network{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		revision = r
	}
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	deadID := dead.embedded.server.Server.MemberID().String()
	eventually := func(what string, do func() error) {
		t.Helper()
		for {
			err := do()
			if err == nil {
				return
			}
			select {
			case <-ctx.Done():
				t.Fatalf("%s: %v", what, err)
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
	eventually("remove the dead one", func() error { return a.RemoveMember(ctx, deadID) })
	if err := a.RemoveMember(ctx, deadID); !errors.Is(err, ErrNotFound) {
		t.Errorf("removed again: %v, want ErrNotFound", err)
	}

	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "http://" + lis.Addr().String()
	lis.Close()
	var added Member
	eventually("add a new one", func() (err error) {
		added, err = b.AddMember(ctx, address)
		return err
	})
	if !added.Learner || added.Name != "" {
		t.Errorf("added %+v", added)
	}
	if _, err := a.AddMember(ctx, address); !errors.Is(err, ErrExists) && !errors.Is(err, ErrMembership) {
		t.Errorf("added again: %v", err)
	}
	peers := map[string]string{"a": a.cluster.Peers["a"], "b": a.cluster.Peers["b"], "d": address}
	d, err := Open(ctx, Config{DataDir: t.TempDir(), Cluster: &Cluster{Member: "d", Peers: peers, Join: true}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	if snap, err := d.WaitRevision(ctx, revision); err != nil || snap.Networks.Len() != 200 {
		t.Fatalf("the new one has %d networks, %v", d.Snapshot().Networks.Len(), err)
	}
	eventually("the new one counts", func() error {
		if err := a.promote(ctx); err != nil {
			return err
		}
		all, err := d.Members(ctx)
		if err != nil {
			return err
		}
		for _, m := range all {
			if m.Learner {
				return errors.New("it is a learner")
			}
		}
		if len(all) != 3 {
			t.Fatalf("members are %+v", all)
		}
		return nil
	})
	if err := b.Close(); err != nil { // another one dies
		t.Fatal(err)
	}
	eventually("a write of two of three", func() error {
		_, err := d.Networks.Put(ctx, "networks/last", &swanherdv1.Network{Name: "networks/last"})
		return err
	})
	if err := a.RemoveMember(ctx, d.embedded.server.Server.MemberID().String()); !errors.Is(err, ErrMembership) {
		t.Errorf("a member without which nothing could be decided: %v, want ErrMembership", err)
	}
}

func TestMembersOfNoCluster(t *testing.T) {
	s := openTemp(t)
	if _, err := s.AddMember(t.Context(), "http://127.0.0.1:1"); !errors.Is(err, ErrNoCluster) {
		t.Errorf("added: %v", err)
	}
	if err := s.RemoveMember(t.Context(), "1"); !errors.Is(err, ErrNoCluster) {
		t.Errorf("removed: %v", err)
	}
	if all, err := s.Members(t.Context()); err != nil || len(all) != 1 || all[0].Name != "swanherd" {
		t.Errorf("members %+v, %v", all, err)
	}
	s.cluster = &Cluster{}
	if _, err := s.AddMember(t.Context(), "https://10.0.0.1:2380"); err == nil || !strings.Contains(err.Error(), "--cluster-cert") {
		t.Errorf("a member that cannot prove itself: %v", err)
	}
}
