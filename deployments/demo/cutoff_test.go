package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// TestTwoUplinksNetns runs the demonstration with two uplinks at each site: when the first
// line of one goes dark its traffic takes the second within a second, and the controller
// shows that and says why.
func TestTwoUplinksNetns(t *testing.T) {
	if testing.Short() {
		return // the programs are built without the race detector
	}
	f := newTest(t, options{uplinks: 2, line: "berlin"}, 2*time.Minute)
	d, ctx := f.demo, f.ctx
	r, err := d.show(ctx)
	if err == nil {
		err = r.verdict()
	}
	if err != nil {
		t.Fatal(err)
	}
	err = d.poll(ctx, 20*time.Second, "the event that traffic went another way", func() (bool, error) {
		events, err := d.fleet.ListEvents(ctx, &swanherdv1.ListEventsRequest{Parent: network, Filter: `action = "tunnel.path"`, PageSize: 100})
		for _, e := range events.GetEvents() {
			if strings.HasPrefix(e.GetMessage(), "berlin sends what is of no class by berlin--oslo.wan2.wan2 now: ") {
				t.Log(e.GetMessage())
				return true, nil
			}
		}
		return false, err
	})
	if err != nil {
		t.Fatal(err)
	}
	cli := func(argv ...string) string {
		t.Helper()
		out, err := d.world.controller.Run(ctx, append([]string{filepath.Join(d.dir, "swanherd"), "--config", filepath.Join(d.dir, "contexts")}, argv...)...)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return out
	}
	cli("login", operatorAddress, "--credential", filepath.Join(d.dir, "controller", "admin-credential"), "--network", "demo")
	out := cli("tunnel", "paths")
	if !strings.Contains(out, "berlin--oslo.wan2.wan2") || !strings.Contains(out, "cost 20") || !strings.Contains(out, "nothing") {
		t.Errorf("tunnel paths:\n%s", out)
	}
	t.Logf("\n%s", out)
}
