package fleet_test

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/fleet"
)

// That an edge sends its traffic by another tunnel than before is an event of that tunnel,
// with the edge's reason; what it does at first, and what it no longer does, is none.
func TestTakingAPathIsAnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		rec := fleet.NewRecorder(j, slog.New(slog.DiscardHandler))
		f := fleet.New(fleet.Config{Recorder: rec})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { rec.Run(ctx) })
		planned := topology()
		planned.Tunnels[0].Path = &swanherdv1.TunnelPath{Group: "g", Cost: 7}
		f.Apply(planned)
		f.Connect(berlin, fleet.SessionStart{ID: "1"})
		for _, use := range []*swanherdv1.PathUse{
			nil,
			{InUse: true, Reason: "at first"},
			{Classes: []string{"voice"}},
			{Classes: []string{"voice"}},
			{InUse: true, Classes: []string{"voice", "erp"}, Reason: "wan1 is dead"},
			{InUse: true, Classes: []string{"erp"}, Reason: "wan1 is dead"},
			{},
		} {
			r := report(up, "")
			r.Tunnels[0].Use = use
			f.Report(berlin, r)
		}
		if v, _ := f.Tunnel(tunnel); v.GetPath().GetCost() != 7 {
			t.Errorf("the path is shown as %v", v.GetPath())
		}
		cancel()
		wg.Wait()
		var got []string
		for _, e := range j.record.Events {
			if e.GetAction() == "tunnel.path" && e.GetResource() == tunnel && e.GetActor() == "edge:"+berlin {
				got = append(got, e.GetMessage())
			}
		}
		want := []string{
			"berlin sends voice by berlin--oslo now",
			"berlin sends what is of no class and erp by berlin--oslo now: wan1 is dead",
		}
		if !slices.Equal(got, want) {
			t.Errorf("told %q\nwant %q", got, want)
		}
	})
}
