package fleet_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/fleet"
)

// A thousand edges that lose their sessions at once are one thing that happened, and one
// edge of another network is another.
func TestMassLossIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		rec := fleet.NewRecorder(j, slog.New(slog.DiscardHandler))
		f := fleet.New(fleet.Config{Recorder: rec})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = rec.Run(ctx) })
		const many = 1000
		name := func(i int) string { return fmt.Sprintf("networks/demo/edges/e%d", i) }
		c := fleet.Change{Edges: []*swanherdv1.Edge{{Name: "networks/other/edges/alone"}}}
		for i := range many {
			c.Edges = append(c.Edges, &swanherdv1.Edge{Name: name(i)})
		}
		f.Apply(c)
		f.Connect("networks/other/edges/alone", fleet.SessionStart{ID: "1"})
		for i := range many {
			f.Connect(name(i), fleet.SessionStart{ID: "1"})
		}
		time.Sleep(time.Minute) // the burst of those that came is over
		for i := range many {
			f.Disconnect(name(i), "1", "the connection ended")
			time.Sleep(time.Millisecond)
		}
		f.Disconnect("networks/other/edges/alone", "1", "the connection ended")
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := strings.Count(j.actions(), "edge.disconnect"); n != 52 {
			t.Errorf("%d events of lost sessions, want 50, one of the rest, and one of the other network", n)
		}
		var rest *swanherdv1.Event
		for _, e := range j.record.Events {
			if e.GetResource() == "networks/demo" && e.GetAction() == "edge.disconnect" {
				rest = e
			}
		}
		if want := "the same of 950 more within 1s, such as e50, e51, e52"; rest.GetMessage() != want {
			t.Errorf("the rest is told as %q, want %q", rest.GetMessage(), want)
		}
		// Every edge's status is stored all the same.
		last := map[string]bool{}
		for _, s := range j.record.Statuses {
			last[s.GetEdge()] = s.GetStatus().GetConnected()
		}
		for i := range many {
			if connected, stored := last[name(i)]; connected || !stored {
				t.Fatalf("%s is stored as connected %v, %v", name(i), connected, stored)
			}
		}

		// One that goes on is told each minute, also when the controller ends meanwhile.
		for i := range 60 {
			f.Connect(name(i), fleet.SessionStart{ID: "2"})
		}
		cancel()
		running.Wait()
		if got := j.record.Events[len(j.record.Events)-1]; got.GetAction() != "edge.connect" || !strings.HasPrefix(got.GetMessage(), "the same of 10 more") {
			t.Errorf("the last event is %v", got)
		}
	})
}
