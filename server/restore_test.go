package server_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// stateOf waits until an edge has that state, and returns its status.
func (c *controller) stateOf(edge string, want swanherdv1.IntentState) *swanherdv1.EdgeStatus {
	c.t.Helper()
	var last *swanherdv1.EdgeStatus
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		e, err := c.topology().GetEdge(c.t.Context(), &swanherdv1.GetEdgeRequest{Name: edge})
		if err != nil {
			c.t.Fatal(err)
		}
		if last = e.GetStatus(); last.GetConnected() && last.GetIntentState() == want {
			return last
		}
	}
	c.t.Fatalf("%s is not %v but %v", edge, want, last)
	return nil
}

// A store that is restored from a backup does not bring edges back into the past: who runs
// something newer keeps it until an operator gives that up.
func TestRestoreFromBackup(t *testing.T) {
	c := startController(t)
	c.apply()
	oslo, rome := c.enrolled("oslo"), c.enrolled("rome")
	oslo.open()
	rome.open()
	for _, e := range []*testEdge{oslo, rome} { // nothing is under way any more
		e.wait("where its peer is", func() bool {
			return len(e.applied["networks/demo/tunnels/oslo--rome"].GetTunnel().GetRemoteEndpoints()) > 0
		})
	}
	if err := c.s.Close(); err != nil {
		t.Fatal(err)
	}
	backup := t.TempDir()
	if err := os.CopyFS(backup, os.DirFS(c.cfg.DataDir)); err != nil {
		t.Fatal(err)
	}

	c.restart()
	oslo.open()
	for range 20 { // so that the restored store, at first, has not so many revisions
		c.tokenFor("berlin", 1)
	}
	site := &swanherdv1.Site{Name: "networks/demo/sites/oslo", Prefixes: []string{"10.2.0.0/16", "10.20.0.0/16"}}
	if _, err := c.topology().UpdateSite(t.Context(), &swanherdv1.UpdateSiteRequest{Site: site}); err != nil {
		t.Fatal(err)
	}
	oslo.wait("the change", func() bool { return oslo.updates == 1 })
	future := oslo.running

	if err := c.s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(c.cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(c.cfg.DataDir, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	c.cfg.Restored = true
	c.restart()
	c.cfg.Restored = false
	oslo.open()
	rome.open()
	c.stateOf(rome.name, swanherdv1.IntentState_INTENT_STATE_CONFIRMED) // of the past that both share
	for i := range 2 {                                                  // also of a later start, and of changes
		s := c.stateOf(oslo.name, swanherdv1.IntentState_INTENT_STATE_CONFLICT_PAUSED)
		if s.GetConflictEpoch() != future.GetEpoch() || !strings.Contains(s.GetIntentError(), "swanherd resume") {
			t.Errorf("status is %v", s)
		}
		c.restart()
		oslo.open()
		rome.open()
		site.Prefixes = append(site.Prefixes, fmt.Sprintf("10.4%d.0.0/16", i))
		if _, err := c.topology().UpdateSite(t.Context(), &swanherdv1.UpdateSiteRequest{Site: site}); err != nil {
			t.Fatal(err)
		}
		rome.wait("the change", func() bool { return rome.updates == 1 })
	}
	if oslo.updates != 0 {
		t.Fatalf("a paused edge got %d updates", oslo.updates)
	}

	resume := func(names ...string) ([]string, error) {
		resp, err := c.topology().ResumeEdges(t.Context(), &swanherdv1.ResumeEdgesRequest{Parent: "networks/demo", Names: names})
		return resp.GetNames(), err
	}
	if _, err := resume(rome.name); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("resume of an edge that is not paused: %v", err)
	}
	if _, err := resume("networks/other/edges/oslo"); status.Code(err) != codes.InvalidArgument {
		t.Errorf("resume of another network's edge: %v", err)
	}
	if names, err := resume(); err != nil || !slices.Equal(names, []string{oslo.name}) {
		t.Fatalf("resumed %v, %v", names, err)
	}
	oslo.wait("what the store plans", func() bool { return oslo.updates == 1 })
	c.stateOf(oslo.name, swanherdv1.IntentState_INTENT_STATE_CONFIRMED)
	events, err := c.fleet().ListEvents(t.Context(), &swanherdv1.ListEventsRequest{Parent: "networks/demo", PageSize: 1000})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, e := range events.GetEvents() {
		if e.GetResource() == oslo.name {
			seen[e.GetAction()+" "+e.GetKind().String()] = true
		}
	}
	for _, want := range []string{"edge.conflict KIND_TRANSITION", "edge.update KIND_AUDIT"} {
		if !seen[want] {
			t.Errorf("no event %s of the edge: %v", want, seen)
		}
	}
}
