package main

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/cli"
)

// TestHubLostNetns has two hubs carry what is between two spokes. The one that goes first is
// killed in the midst of traffic, which goes over the other one soon, and back without loss
// when it is there again.
func TestHubLostNetns(t *testing.T) {
	if testing.Short() {
		return // the programs are built without the race detector
	}
	f := newTest(t, options{}, 3*time.Minute)
	manifest, err := cli.LoadManifest([]string{"-"}, strings.NewReader(fleetYAML))
	if err != nil {
		t.Fatal(err)
	}
	sites := func(ids ...string) *swanherdv1.SiteSelector {
		s := &swanherdv1.SiteSelector{}
		for _, id := range ids {
			s.Sites = append(s.Sites, network+"/sites/"+id)
		}
		return s
	}
	manifest.GetSites()[0].Labels["priority"], manifest.GetSites()[1].Labels["priority"] = "20", "10" // oslo first
	manifest.GetMeshes()[0].Topology = &swanherdv1.Mesh_HubAndSpoke{HubAndSpoke: &swanherdv1.HubAndSpoke{
		Hubs: sites("berlin", "oslo"), Spokes: sites("lima", "tokyo"), Transit: true, PriorityLabel: "priority",
	}}
	if f.world, err = newWorld(manifest.GetSites(), ""); err != nil {
		t.Fatal(err)
	}
	if err := f.startController(f.ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := f.topology.Apply(f.ctx, &swanherdv1.ApplyRequest{Manifest: manifest.Manifest}); err != nil {
		t.Fatal(err)
	}
	for _, s := range f.world.sites {
		if err := f.startEdge(f.ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.awaitTunnels(f.ctx, 5); err != nil {
		t.Fatal(err)
	}
	f.sends("at first", "oslo")

	oslo := f.site("oslo")
	lost, gone := f.between("lima", "tokyo", func() {
		oslo.agent.Kill()
		oslo.agent = nil
	})
	t.Logf("the first hub is killed: %d pings lost, within %v", lost, gone)
	if lost == 0 || gone > mostGone {
		t.Errorf("without the first hub %d pings are lost, within %v; want some, within %v", lost, gone, mostGone)
	}
	f.sends("without the first hub", "berlin")

	lost, gone = f.between("lima", "tokyo", func() {
		if err := f.runEdge(oslo); err != nil {
			t.Fatal(err)
		}
		f.sends("when the first hub is back", "oslo")
	})
	if lost != 0 {
		t.Errorf("when the first hub is back %d pings are lost, within %v", lost, gone)
	}
}

// sends waits until both spokes send by the tunnel to a hub alone.
func (f *fleetTest) sends(when, hub string) {
	f.Helper()
	err := f.poll(f.ctx, time.Minute, "the spokes to send by "+hub+" "+when, func() (bool, error) {
		tunnels, err := f.listTunnels(f.ctx)
		n := 0
		for _, t := range tunnels {
			for _, end := range []*swanherdv1.TunnelEnd{t.GetA(), t.GetB()} {
				if !end.GetReport().GetUse().GetInUse() {
					continue
				}
				if strings.Contains(t.GetName(), hub) {
					n++
				} else {
					n = -4
				}
			}
		}
		return n == 2, err
	})
	if err != nil {
		f.Fatal(err)
	}
}

// between pings from one site's LAN to another's, has something happen when some were
// answered, and ends when many more were. It returns how many were lost, and for how long in
// a row.
func (f *fleetTest) between(from, to string, happens func()) (lost int, gone time.Duration) {
	f.Helper()
	var pings sync.WaitGroup
	var result lab.PingResult
	var answers atomic.Int64
	var err error
	over := make(chan struct{})
	pings.Go(func() {
		result, gone, err = f.site(from).lan.PingUntil(f.ctx, f.site(from).lanAddr4, f.site(to).lanAddr4, pingEvery, over, func() { answers.Add(1) })
	})
	more := func(n int64) {
		f.Helper()
		n += answers.Load()
		f.await("more answers", func() bool { return answers.Load() >= n })
	}
	more(50)
	happens()
	more(100)
	close(over)
	pings.Wait()
	if err != nil {
		f.Fatal(err)
	}
	return result.Sent - result.Received, gone
}
