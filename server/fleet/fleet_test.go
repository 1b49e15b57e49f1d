package fleet_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/fleet"
)

const (
	berlin = "networks/demo/edges/berlin"
	oslo   = "networks/demo/edges/oslo"
	tunnel = "networks/demo/tunnels/berlin--oslo"
)

func topology() fleet.Change {
	return fleet.Change{
		Edges: []*swanherdv1.Edge{{Name: berlin, Site: "networks/demo/sites/berlin"}, {Name: oslo, Site: "networks/demo/sites/oslo"}},
		Sites: []string{"networks/demo/sites/berlin", "networks/demo/sites/oslo", "networks/demo/sites/rome"},
		Tunnels: []*swanherdv1.Tunnel{{
			Name: tunnel,
			Mesh: "networks/demo/meshes/core",
			A:    &swanherdv1.TunnelEnd{Edge: berlin, Site: "networks/demo/sites/berlin", Initiator: true},
			B:    &swanherdv1.TunnelEnd{Edge: oslo, Site: "networks/demo/sites/oslo"},
		}},
	}
}

// journal collects what a recorder writes.
type journal struct {
	mu     sync.Mutex
	fail   bool
	record fleet.Record
}

func (j *journal) Record(_ context.Context, r fleet.Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fail {
		return errors.New("no quorum")
	}
	j.record.Events = append(j.record.Events, r.Events...)
	j.record.Statuses = append(j.record.Statuses, r.Statuses...)
	return nil
}

func (j *journal) actions() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []string
	for _, e := range j.record.Events {
		out = append(out, e.GetAction())
	}
	return strings.Join(out, " ")
}

func report(state swanherdv1.TunnelState, lastError string) *swanherdv1.StatusReport {
	r := &swanherdv1.TunnelReport{Tunnel: tunnel, State: state}
	if lastError != "" {
		r.LastError = &swanherdv1.TunnelError{Code: lastError, Remote: true}
	}
	return &swanherdv1.StatusReport{Tunnels: []*swanherdv1.TunnelReport{r}}
}

const (
	up         = swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED
	connecting = swanherdv1.TunnelState_TUNNEL_STATE_CONNECTING
	failed     = swanherdv1.TunnelState_TUNNEL_STATE_FAILED
	partial    = swanherdv1.TunnelState_TUNNEL_STATE_PARTIAL
	idle       = swanherdv1.TunnelState_TUNNEL_STATE_IDLE
)

func TestStatusOfBothEnds(t *testing.T) {
	for _, c := range []struct {
		a, b   swanherdv1.TunnelState
		errorB string
		want   swanherdv1.TunnelStatus
		reason string
	}{
		{a: up, b: up, want: swanherdv1.TunnelStatus_TUNNEL_STATUS_UP},
		{a: up, b: partial, want: swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED, reason: "oslo lacks a Child SA"},
		{
			a: up, b: failed, errorB: "AUTHENTICATION_FAILED", want: swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED,
			reason: "berlin has an SA, oslo has none: peer reports AUTHENTICATION_FAILED",
		},
		{a: up, b: idle, want: swanherdv1.TunnelStatus_TUNNEL_STATUS_NEGOTIATING, reason: "berlin has an SA, oslo not yet"},
		{a: connecting, b: idle, want: swanherdv1.TunnelStatus_TUNNEL_STATUS_NEGOTIATING, reason: "berlin is negotiating"},
		{
			a: idle, b: failed, errorB: "NO_PROPOSAL_CHOSEN", want: swanherdv1.TunnelStatus_TUNNEL_STATUS_DOWN,
			reason: "oslo has no SA: peer reports NO_PROPOSAL_CHOSEN",
		},
		{a: idle, b: idle, want: swanherdv1.TunnelStatus_TUNNEL_STATUS_DOWN, reason: "both ends wait for the other one to initiate"},
	} {
		f := fleet.New(fleet.Config{})
		f.Apply(topology())
		f.Connect(berlin, fleet.SessionStart{ID: "1"})
		f.Connect(oslo, fleet.SessionStart{ID: "2"})
		f.Report(berlin, report(c.a, ""))
		f.Report(oslo, report(c.b, c.errorB))
		got, _ := f.Tunnel(tunnel)
		if got.GetStatus() != c.want || got.GetReason() != c.reason {
			t.Errorf("%v and %v: got %v %q, want %v %q", c.a, c.b, got.GetStatus(), got.GetReason(), c.want, c.reason)
		}
	}
}

func TestLifeOfATunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		rec := fleet.NewRecorder(j, slog.New(slog.DiscardHandler))
		f := fleet.New(fleet.Config{Recorder: rec})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { rec.Run(ctx) })
		wg.Go(func() { f.Run(ctx) })
		status := func() swanherdv1.TunnelStatus {
			v, _ := f.Tunnel(tunnel)
			return v.GetStatus()
		}

		f.Apply(topology())
		if got := status(); got != swanherdv1.TunnelStatus_TUNNEL_STATUS_STALE {
			t.Errorf("before any session the status is %v", got)
		}
		f.Connect(berlin, fleet.SessionStart{ID: "1"})
		f.Connect(oslo, fleet.SessionStart{ID: "2"})
		f.Report(berlin, report(connecting, ""))
		f.Report(berlin, report(up, ""))
		f.Report(oslo, report(up, ""))
		if c := f.Counts("networks/demo"); c.GetUp() != 1 || c.GetSites() != 3 || c.GetSitesIsolated() != 1 || c.GetEdgesConnected() != 2 {
			t.Errorf("counts are %v", c)
		}
		f.Disconnect(oslo, "2", "the connection ended")
		if got, _ := f.Tunnel(tunnel); got.GetStatus() != swanherdv1.TunnelStatus_TUNNEL_STATUS_UP || !got.GetB().GetStale() {
			t.Errorf("just after the session's end: %v", got)
		}
		time.Sleep(fleet.DefaultStaleAfter + 2*time.Second)
		if got, _ := f.Tunnel(tunnel); got.GetStatus() != swanherdv1.TunnelStatus_TUNNEL_STATUS_STALE ||
			got.GetReason() != "oslo has no session with the controller" || got.GetB().GetReport() == nil {
			t.Errorf("long after it: %v", got)
		}
		f.Report(berlin, report(failed, "PEER_SILENT"))
		if got := status(); got != swanherdv1.TunnelStatus_TUNNEL_STATUS_DOWN {
			t.Errorf("the end that is there says it is down, status is %v", got)
		}
		cancel()
		wg.Wait()
		want := "edge.connect edge.connect tunnel.up edge.disconnect tunnel.stale tunnel.down"
		if got := j.actions(); got != want {
			t.Errorf("recorded %s\nwant     %s", got, want)
		}
	})
}

func TestReadersFollowBySequence(t *testing.T) {
	f := fleet.New(fleet.Config{})
	f.Apply(topology())
	all := f.Since(0, fleet.AllNetworks)
	if len(all.Tunnels) != 1 || len(all.Edges) != 2 {
		t.Fatalf("first look: %+v", all)
	}
	for range 100 {
		f.Connect(berlin, fleet.SessionStart{ID: "1"})
		f.Report(berlin, report(connecting, ""))
		f.Report(berlin, report(up, ""))
	}
	d := f.Since(all.Seq, "networks/demo")
	if len(d.Tunnels) != 1 || len(d.Edges) != 1 || d.Tunnels[0].GetA().GetReport().GetState() != up {
		t.Errorf("second look: %+v", d)
	}
	if d := f.Since(all.Seq, "networks/other"); len(d.Tunnels)+len(d.Edges) != 0 {
		t.Errorf("another network's reader sees %+v", d)
	}
	f.Apply(fleet.Change{RemovedTunnels: []string{tunnel}, RemovedEdges: []string{oslo}})
	if d := f.Since(d.Seq, "networks/demo"); len(d.RemovedTunnels) != 1 || len(d.RemovedEdges) != 1 || d.RemovedEdges[0] != oslo {
		t.Errorf("third look: %+v", d)
	}
	if d := f.Since(0, "networks/demo"); len(d.RemovedTunnels) != 0 || len(d.Edges) != 1 {
		t.Errorf("a new reader: %+v", d)
	}
}

// A plan that leaves a tunnel as it is costs its readers nothing.
func TestUnchangedTopologyIsSilent(t *testing.T) {
	f := fleet.New(fleet.Config{})
	f.Apply(topology())
	seq := f.Since(0, fleet.AllNetworks).Seq
	top := topology()
	top.Tunnels[0].PlannedRevision = 2
	f.Apply(top)
	if d := f.Since(seq, fleet.AllNetworks); d.Seq != seq {
		t.Errorf("got %+v", d)
	}
}

// After a start of the controller, a tunnel that was up all along makes no
// event when its ends report.
func TestLearningIsNoTransition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		rec := fleet.NewRecorder(j, slog.New(slog.DiscardHandler))
		f := fleet.New(fleet.Config{Recorder: rec})
		f.Apply(topology())
		f.Connect(berlin, fleet.SessionStart{ID: "1"})
		f.Report(berlin, report(up, ""))
		f.Connect(oslo, fleet.SessionStart{ID: "2"})
		f.Report(oslo, report(up, ""))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		rec.Run(ctx)
		if got := j.actions(); got != "edge.connect edge.connect" {
			t.Errorf("recorded %q", got)
		}
	})
}

// An edge that is deleted and enrols anew under its name starts without the
// reports of its predecessor.
func TestReplacedEdgeStartsAnew(t *testing.T) {
	f := fleet.New(fleet.Config{})
	f.Apply(topology())
	f.Connect(oslo, fleet.SessionStart{ID: "1"})
	f.Report(oslo, report(up, ""))
	anew := topology().Edges[1:]
	anew[0].Uid = "another"
	f.Apply(fleet.Change{Edges: anew})
	if got, _ := f.Tunnel(tunnel); got.GetB().GetReport() != nil {
		t.Errorf("report of the former edge is still there: %v", got)
	}
	f.Connect(oslo, fleet.SessionStart{ID: "2"})
	f.Report(oslo, report(up, ""))
	if got, _ := f.Tunnel(tunnel); got.GetB().GetReport() == nil {
		t.Error("report of the new edge did not arrive")
	}
}

// What reports have in common is in memory once, however often edges send it.
func TestReportsShareWords(t *testing.T) {
	f := fleet.New(fleet.Config{})
	f.Apply(topology())
	var words [][]string
	for _, edge := range []string{berlin, oslo} {
		f.Connect(edge, fleet.SessionStart{ID: edge})
		r := report(up, "")
		sa := r.GetTunnels()[0]
		sa.Tunnel = strings.Clone(tunnel)
		sa.IkeSa = &swanherdv1.IkeSa{Suite: strings.Clone("aes256gcm16")}
		sa.ChildSas = []*swanherdv1.ChildSa{{
			Name: strings.Clone("lan"), Suite: strings.Clone("aes128gcm16"), Mode: strings.Clone("tunnel"),
			LocalTs: []string{strings.Clone("10.1.0.0/16")}, RemoteTs: []string{strings.Clone("10.2.0.0/16")},
		}}
		f.Report(edge, r)
		c := sa.GetChildSas()[0]
		words = append(words, []string{sa.GetTunnel(), sa.GetIkeSa().GetSuite(), c.GetName(), c.GetSuite(), c.GetMode(), c.GetLocalTs()[0], c.GetRemoteTs()[0]})
	}
	for i, word := range words[0] {
		if other := words[1][i]; other != word || unsafe.StringData(other) != unsafe.StringData(word) {
			t.Errorf("%q and %q: want one string", word, other)
		}
	}
}

func TestCountersReachTheRow(t *testing.T) {
	f := fleet.New(fleet.Config{})
	f.Apply(topology())
	f.Connect(berlin, fleet.SessionStart{ID: "1"})
	r := report(up, "")
	r.Tunnels[0].ChildSas = []*swanherdv1.ChildSa{{Name: "net", SpiIn: "c0ffee01"}}
	f.Report(berlin, r)
	before, _ := f.Tunnel(tunnel)
	f.Count(berlin, &swanherdv1.CounterReport{Tunnels: []*swanherdv1.TunnelCounters{{Tunnel: tunnel, Children: []*swanherdv1.ChildCounters{
		{SpiIn: "c0ffee01", Counters: &swanherdv1.SaCounters{PacketsIn: 5}}, {SpiIn: "00000000"},
	}}}})
	after, _ := f.Tunnel(tunnel)
	if after.GetA().GetReport().GetChildSas()[0].GetCounters().GetPacketsIn() != 5 {
		t.Errorf("counters did not arrive: %v", after)
	}
	if before.GetA().GetReport().GetChildSas()[0].GetCounters() != nil {
		t.Error("a row that was handed out changed")
	}
}

func TestRecorderKeepsWhatTheStoreDidNotTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{fail: true}
		rec := fleet.NewRecorder(j, slog.New(slog.DiscardHandler))
		f := fleet.New(fleet.Config{Recorder: rec})
		f.Apply(topology())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); rec.Run(ctx) }()
		f.Connect(berlin, fleet.SessionStart{ID: "1"})
		time.Sleep(5 * time.Second)
		f.Disconnect(berlin, "1", "test")
		j.mu.Lock()
		j.fail = false
		j.mu.Unlock()
		time.Sleep(5 * time.Second)
		cancel()
		<-done
		if got := j.actions(); got != "edge.connect edge.disconnect" {
			t.Errorf("recorded %q", got)
		}
		if n := len(j.record.Statuses); n != 1 || j.record.Statuses[0].GetStatus().GetConnected() {
			t.Errorf("recorded %d statuses, want the last one only", n)
		}
	})
}

// A path that is over its SLA degrades the tunnel, with the measured in the reason, and
// what is told of a transition leaves the counters.
func TestPathOverSLA(t *testing.T) {
	f := fleet.New(fleet.Config{})
	f.Apply(topology())
	f.Connect(berlin, fleet.SessionStart{ID: "1"})
	f.Connect(oslo, fleet.SessionStart{ID: "2"})
	r := report(up, "")
	r.Tunnels[0].ChildSas = []*swanherdv1.ChildSa{{Name: "net", SpiIn: "1"}}
	f.Report(berlin, r)
	f.Report(oslo, report(up, ""))
	f.Count(berlin, &swanherdv1.CounterReport{Tunnels: []*swanherdv1.TunnelCounters{{
		Tunnel: tunnel, Quality: &swanherdv1.PathQuality{Probes: 7},
		Children: []*swanherdv1.ChildCounters{{SpiIn: "1", Counters: &swanherdv1.SaCounters{PacketsIn: 5}}},
	}}})
	over := report(up, "")
	over.Full = false
	over.Tunnels[0].ChildSas = []*swanherdv1.ChildSa{{Name: "net", SpiIn: "1"}}
	over.Tunnels[0].SlaViolations = []*swanherdv1.SlaViolation{{Metric: swanherdv1.SlaMetric_SLA_METRIC_LOSS, Measured: 3.25, Limit: 1}}
	f.Report(berlin, over)
	got, _ := f.Tunnel(tunnel)
	want := "berlin measured a loss of 3.25 %, over the 1 % of its SLA"
	if got.GetStatus() != swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED || got.GetReason() != want || !fleet.OverSLA(got) {
		t.Errorf("%s, %q, want %q", got.GetStatus(), got.GetReason(), want)
	}
	a := got.GetA().GetReport()
	if a.GetQuality().GetProbes() != 7 || a.GetChildSas()[0].GetCounters().GetPacketsIn() != 5 {
		t.Errorf("a transition cost the counters: %v", a)
	}
	if c := f.Counts("networks/demo"); c.GetSlaViolated() != 1 || c.GetDegraded() != 1 || !f.TunnelsOverSLA("networks/demo")[tunnel] {
		t.Errorf("%v", c)
	}
	good := report(up, "")
	good.Full = false
	f.Report(berlin, good)
	if got, _ := f.Tunnel(tunnel); got.GetStatus() != swanherdv1.TunnelStatus_TUNNEL_STATUS_UP || fleet.OverSLA(got) {
		t.Errorf("%s, %q", got.GetStatus(), got.GetReason())
	}
	lacking := report(swanherdv1.TunnelState_TUNNEL_STATE_PARTIAL, "")
	f.Report(berlin, lacking)
	if got, _ := f.Tunnel(tunnel); got.GetStatus() != swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED || fleet.OverSLA(got) {
		t.Errorf("a tunnel that lacks an SA: %s, over its SLA %v", got.GetStatus(), fleet.OverSLA(got))
	}
}

// What an edge says at length is short where others tell it.
func TestReasonsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		r := fleet.NewRecorder(j, slog.New(slog.DiscardHandler))
		f := fleet.New(fleet.Config{Recorder: r})
		ctx, stop := context.WithCancel(t.Context())
		go r.Run(ctx)
		f.Apply(topology())
		f.Connect(berlin, fleet.SessionStart{ID: "1"})
		f.Connect(oslo, fleet.SessionStart{ID: "2"})
		f.Report(berlin, report(up, ""))
		f.Report(oslo, report(up, ""))
		long := report(failed, "X")
		for range 16 {
			e := long.GetTunnels()[0].GetLastError()
			e.Ours, e.Theirs = append(e.Ours, strings.Repeat("é", 500)), append(e.Theirs, strings.Repeat("x", 1000))
		}
		f.Report(berlin, long)
		synctest.Wait()
		stop()
		synctest.Wait()
		row, _ := f.Tunnel(tunnel)
		if n := len(row.GetReason()); n < 2000 || n > 2100 {
			t.Errorf("the reason has %d octets", n)
		}
		events := j.record.Events
		if n := len(events[len(events)-1].GetMessage()); n < 2000 || n > 2100 {
			t.Errorf("the event has %d octets", n)
		}
	})
}

// What a plan knows to be in the way is told with what the ends say, and only while there is
// something to be told.
func TestObstacles(t *testing.T) {
	for state, want := range map[swanherdv1.TunnelState]string{
		up: "", idle: "both ends wait for the other one to initiate; both are behind NATs",
	} {
		f := fleet.New(fleet.Config{})
		planned := topology()
		planned.Tunnels[0].Obstacle = "both are behind NATs"
		f.Apply(planned)
		for _, edge := range []string{berlin, oslo} {
			f.Connect(edge, fleet.SessionStart{ID: edge})
			f.Report(edge, report(state, ""))
		}
		if got, _ := f.Tunnel(tunnel); got.GetReason() != want || got.GetObstacle() != "both are behind NATs" {
			t.Errorf("with both %v: %q, obstacle %q", state, got.GetReason(), got.GetObstacle())
		}
	}
}
