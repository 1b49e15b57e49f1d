package server_test

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/server"
	"github.com/swanherd/swanherd/server/store"
)

// eventually runs a command until it succeeds, and returns what it said.
func (x *terminal) eventually(args ...string) string {
	x.c.t.Helper()
	timeout := time.After(60 * time.Second)
	for {
		out, errs, code := x.run("", args...)
		if code == 0 {
			return out
		}
		select {
		case <-timeout:
			x.c.t.Fatalf("swanherd %s: %s", strings.Join(args, " "), errs)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// An operator exchanges a controller that is gone for good for another one, which serves
// edges, and with which the cluster outlives the loss of one more.
func TestReplicaIsExchanged(t *testing.T) {
	replicas := startReplicas(t)
	a, b, gone := replicas[0], replicas[1], replicas[2]
	a.apply()
	if err := gone.s.Close(); err != nil {
		t.Fatal(err)
	}
	x := a.terminal()
	x.eventually("replica", "remove", "m2")
	x.says(64, "", "replica remove m2", "no member")
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "http://" + lis.Addr().String()
	lis.Close()
	said := strings.Fields(x.eventually("replica", "add", "m3", address))
	x.says(0, "", "replica list", "m0", "m1", "!m2", "not started", address)
	if len(said) != 5 || said[0] != "--cluster" || said[3] != "m3" || said[4] != "--cluster-join" {
		t.Fatalf("start it with %q", said)
	}
	peers, err := store.ParsePeers(strings.Split(said[1], ","))
	if err != nil || len(peers) != 3 || peers["m3"] != address {
		t.Fatalf("peers are %v, %v", peers, err)
	}
	d := &controller{t: t, cfg: a.cfg, token: a.token}
	d.cfg.DataDir = filepath.Join(t.TempDir(), "controller")
	d.cfg.Cluster = &store.Cluster{Member: "m3", Peers: peers, Join: true}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if d.s, err = server.Start(ctx, d.cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.s.Close() })
	d.roots = pinnedRoots(t, d.s.Info().OperatorAddr.String(), d.s.Info().CAPin)
	for out := ""; strings.Count(out, "counts") != 3; {
		if out = x.eventually("replica", "list"); ctx.Err() != nil {
			t.Fatalf("the new one does not count:\n%s", out)
		}
	}
	if err := b.s.Close(); err != nil {
		t.Fatal(err)
	}
	y := d.terminal()
	y.eventually("token", "create", "--site", "berlin") // the election of another leader takes its time
	d.enrolled("berlin")
	if events := d.auditEvents(`action:"clusterMember"`); len(events) < 2 {
		t.Errorf("audited %v", events)
	}
}

func TestMemberOfNoClusterIsNotExchanged(t *testing.T) {
	c := startController(t)
	x := c.terminal()
	x.says(0, "", "replica list", "swanherd", "counts")
	x.says(3, "", "replica add m1 https://192.0.2.1:2380", "etcdctl")
}
