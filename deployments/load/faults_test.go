package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// faults is a fleet of simulated edges at three controllers in processes of their own,
// between which there are links that can be cut.
type faults struct {
	*load
	t   *testing.T
	ctx context.Context
	// streams carry what replicas tell one another, members the traffic of their etcds.
	streams, members []*link
	writer           *writer
	// killed are those that were while authorities are replaced.
	killed map[*controller]bool
}

func newFaults(t *testing.T) *faults {
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	t.Cleanup(cancel)
	f := &faults{t: t, ctx: ctx, killed: map[*controller]bool{}, load: &load{options: options{edges: 12, hubs: 2, replicas: 3, crew: 100, json: true}, dir: t.TempDir()}}
	runtime.LockOSThread() // the processes end with this thread
	t.Cleanup(f.close)
	var err error
	if f.controllers, err = newControllers(ctx, f.dir, 3); err != nil {
		t.Fatal(err)
	}
	f.controller = f.controllers[0]
	f.lead()
	if err := startAll(ctx, f.controllers); err != nil {
		t.Fatal(err)
	}
	f.results.Edges = f.options.edges
	for _, step := range []func(context.Context) error{f.makeTopology, f.enrol, f.connect} {
		if err := step(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// lead makes the replicas reach one another by links.
func (f *faults) lead() {
	argument := func(c *controller, name string) *string {
		for i, a := range c.more {
			if a == name {
				return &c.more[i+1]
			}
		}
		f.t.Fatalf("a controller has no %s", name)
		return nil
	}
	cluster := *argument(f.controller, "--cluster")
	for i, c := range f.controllers {
		own := strings.TrimPrefix(strings.Split(cluster, ",")[i], fmt.Sprintf("m%d=", i))
		member, stream := newLink(f.t, strings.TrimPrefix(own, "http://")), newLink(f.t, *argument(c, "--replica-listen"))
		f.members, f.streams = append(f.members, member), append(f.streams, stream)
		c.more = append(c.more, "--cluster-listen", own, "--advertise-replica", stream.listen.Addr().String())
	}
	for i, name := range strings.Split(cluster, ",") {
		_, own, _ := strings.Cut(name, "=")
		for _, c := range f.controllers {
			to := argument(c, "--cluster")
			*to = strings.Replace(*to, own, "http://"+f.members[i].listen.Addr().String(), 1)
		}
	}
}

// until waits until every controller that runs satisfies ok by its metrics.
func (f *faults) until(what string, ok func(metric func(string) float64) bool) {
	f.t.Helper()
	for i, c := range f.controllers {
		for c.process != nil && !ok(func(name string) float64 { v, _ := c.metric(name); return v }) {
			if err := pause(f.ctx, 50*time.Millisecond); err != nil {
				f.t.Fatalf("controller %d, waiting for %s: %v\n%s", i, what, err, c.lastWords())
			}
		}
	}
}

// whole waits until every controller sees n replicas, the whole fleet in sync and every
// tunnel up.
func (f *faults) whole(n int) {
	f.t.Helper()
	f.until("the fleet to be whole", func(metric func(string) float64) bool {
		return int(metric("swanherd_replicas")) == n && int(metric("swanherd_edges_in_sync")) == f.options.edges &&
			int(metric(`swanherd_tunnels{network="networks/load",status="up"}`)) == 21
	})
}

func (f *faults) leader() *controller {
	f.t.Helper()
	for {
		for _, c := range f.controllers {
			if c.process == nil {
				continue
			}
			if v, _ := c.metric("swanherd_leader"); v == 1 {
				return c
			}
		}
		if err := pause(f.ctx, 50*time.Millisecond); err != nil {
			f.t.Fatal("nobody leads")
		}
	}
}

func (f *faults) octets() float64 {
	f.t.Helper()
	sum, err := f.sum("swanherd_intent_octets_total")
	if err != nil {
		f.t.Fatal(err)
	}
	return sum
}

// start starts a controller again.
func (f *faults) again(c *controller) {
	f.t.Helper()
	if _, err := c.start(f.ctx); err != nil {
		f.t.Fatal(err)
	}
}

// transitions are how many events of tunnels there are.
func (f *faults) transitions() (n int) {
	f.t.Helper()
	events, err := f.controller.fleet.ListEvents(f.ctx, &swanherdv1.ListEventsRequest{Parent: network, PageSize: 1000})
	if err != nil {
		f.t.Fatal(err)
	}
	for _, e := range events.GetEvents() {
		if strings.HasPrefix(e.GetAction(), "tunnel.") {
			n++
		}
	}
	return n
}

// writer changes something all the time, at whichever controller takes it.
type writer struct {
	f       *faults
	acked   atomic.Int64 // the last number that was acknowledged
	count   atomic.Int64 // how many writes were acknowledged
	refused atomic.Int64 // how many were not
	stop    context.CancelFunc
	done    sync.WaitGroup
}

// write writes rising numbers until stopped.
func (f *faults) write() *writer {
	ctx, stop := context.WithCancel(f.ctx)
	w := &writer{f: f, stop: stop}
	w.done.Go(func() {
		for n := int64(1); ctx.Err() == nil; n++ {
			c := f.controllers[int(n)%len(f.controllers)]
			call, cancel := context.WithTimeout(ctx, 8*time.Second)
			_, err := c.topology.UpdateSite(call, &swanherdv1.UpdateSiteRequest{
				Site:       &swanherdv1.Site{Name: siteName(0), DisplayName: fmt.Sprint(n)},
				UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name"}},
			})
			cancel()
			if err == nil {
				w.acked.Store(n)
				w.count.Add(1)
			} else {
				w.refused.Add(1)
			}
			_ = pause(ctx, 20*time.Millisecond)
		}
	})
	f.t.Cleanup(w.end)
	f.writer = w
	return w
}

func (w *writer) end() {
	w.stop()
	w.done.Wait()
}

// goesOn waits until writes are acknowledged again.
func (w *writer) goesOn() {
	w.f.t.Helper()
	for before := w.acked.Load(); w.acked.Load() < before+3; {
		if err := pause(w.f.ctx, 20*time.Millisecond); err != nil {
			w.f.t.Fatal("no write is acknowledged any longer")
		}
	}
}

// TestFaults loses what can be lost, one after the other, under simulated edges that keep
// their sessions, and under a writer: nothing that it was acknowledged is lost.
func TestFaults(t *testing.T) {
	if testing.Short() {
		return // it builds a controller without the race detector
	}
	f := newFaults(t)
	f.whole(3)
	w := f.write()
	w.goesOn()
	before := f.octets()
	step := func(name string, run func(*testing.T)) {
		f.t = t
		if !t.Run(name, func(t *testing.T) { f.t = t; run(t) }) {
			t.FailNow()
		}
		f.t = t
	}
	step("a replica is killed", func(t *testing.T) { f.loseReplica(f.controllers[2]) })
	step("the leader is killed", func(t *testing.T) { f.loseReplica(f.leader()) })
	step("a replica hangs", func(t *testing.T) { f.hang() })
	step("replicas do not reach one another", func(t *testing.T) { f.partition() })
	step("a replica is cut off from the others", func(t *testing.T) { f.cutOff(f.follower()) })
	step("the leader is cut off from the others", func(t *testing.T) { f.cutOff(f.leader()) })
	step("etcd has no quorum", func(t *testing.T) { f.loseQuorum() })
	step("all are killed", func(t *testing.T) { f.loseAll() })
	w.goesOn()
	w.end()
	sites, err := f.controller.topology.GetSite(f.ctx, &swanherdv1.GetSiteRequest{Name: siteName(0)})
	if err != nil {
		t.Fatal(err)
	}
	var have int64
	if _, err := fmt.Sscan(sites.GetDisplayName(), &have); err != nil || have < w.acked.Load() {
		t.Errorf("the site has %q, %d was acknowledged", sites.GetDisplayName(), w.acked.Load())
	}
	f.audited()
	t.Logf("%d writes acknowledged, %d refused or unanswered", w.count.Load(), w.refused.Load())
	if now := f.octets(); now != 0 && now > before {
		t.Errorf("%.0f octets of intents were sent to edges that had everything", now-before)
	}
	step("the leader is killed while authorities are replaced", func(t *testing.T) { f.replaceAuthorities() })
}

// audited waits until the audit log is sealed whole, over all the leaders that there were.
func (f *faults) audited() {
	f.t.Helper()
	for {
		audit, err := f.controller.fleet.VerifyAuditLog(f.ctx, &swanherdv1.VerifyAuditLogRequest{Parent: network})
		if err != nil || audit.GetProblem() != "" || audit.GetEvents() < f.writer.count.Load() {
			f.t.Fatalf("the audit log is %v, %v", audit, err)
		}
		if audit.GetUnsealed() == 0 {
			f.t.Logf("%d audit events are sealed", audit.GetEvents())
			return
		}
		if err := pause(f.ctx, 500*time.Millisecond); err != nil {
			f.t.Fatalf("%d audit events have no seal", audit.GetUnsealed())
		}
	}
}

// loseReplica kills one, and starts it again once the others are whole without it.
func (f *faults) loseReplica(c *controller) {
	c.kill()
	f.whole(2)
	f.leader()
	f.again(c)
	f.whole(3)
}

// follower is a replica that does not lead.
func (f *faults) follower() *controller {
	f.t.Helper()
	leader := f.leader()
	i := slices.Index(f.controllers, leader)
	return f.controllers[(i+1)%len(f.controllers)]
}

// cutOff cuts one off from the others, which go on; edges and operators reach all of them.
// It answers with what it knows, and says that it may be old; it takes no write; and its
// edges go to the others, so that these have the whole fleet.
func (f *faults) cutOff(c *controller) {
	before := f.transitions()
	at := slices.Index(f.controllers, c)
	pid := c.process.Process.Pid
	for _, links := range [][]*link{f.members, f.streams} {
		for i, l := range links {
			if i == at {
				l.set(everybody)
			} else {
				l.set(func(from int) bool { return from == pid })
			}
		}
	}
	alone := &faults{t: f.t, ctx: f.ctx, load: &load{controllers: []*controller{c}}}
	alone.until("the state to count as old", func(metric func(string) float64) bool { return metric("swanherd_store_stale_seconds") > 0 })
	f.old(c)
	others := &faults{t: f.t, ctx: f.ctx, load: &load{options: f.options}}
	for _, other := range f.controllers {
		if other != c {
			others.controllers = append(others.controllers, other)
		}
	}
	others.whole(2)
	if leader := others.leader(); leader == c {
		f.t.Error("the one that is cut off leads")
	}
	alone.until("it to lead no longer", func(metric func(string) float64) bool { return metric("swanherd_leader") == 0 })
	f.writer.goesOn()
	cutAll(f.members, nil)
	cutAll(f.streams, nil)
	f.whole(3)
	leaders, err := f.sum("swanherd_leader")
	if err != nil || leaders != 1 {
		f.t.Errorf("%.0f replicas lead, %v", leaders, err)
	}
	if after := f.transitions(); after != before {
		f.t.Errorf("%d transitions were recorded of tunnels that were up", after-before)
	}
}

// old checks that a controller says of what it answers that it may be old, and takes no
// write.
func (f *faults) old(c *controller) {
	f.t.Helper()
	var header metadata.MD
	if _, err := c.topology.GetSite(f.ctx, &swanherdv1.GetSiteRequest{Name: siteName(1)}, grpc.Header(&header)); err != nil || len(header.Get("swanherd-stale-since")) == 0 {
		f.t.Errorf("a read without a quorum: %v, header %v", err, header)
	}
	_, err := c.topology.UpdateSite(f.ctx, &swanherdv1.UpdateSiteRequest{
		Site: &swanherdv1.Site{Name: siteName(1), DisplayName: "x"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name"}},
	})
	if status.Code(err) != codes.Unavailable {
		f.t.Errorf("a write without a quorum: %v, want UNAVAILABLE", err)
	}
}

// hang stops one for longer than its lease lasts.
func (f *faults) hang() {
	hung := f.leader()
	if err := hung.process.Process.Signal(syscall.SIGSTOP); err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = hung.process.Process.Signal(syscall.SIGCONT) }()
	others := &faults{t: f.t, ctx: f.ctx, load: &load{}}
	for _, c := range f.controllers {
		if c != hung {
			others.controllers = append(others.controllers, c)
		}
	}
	others.until("the lease of the one that hangs to end", func(metric func(string) float64) bool { return metric("swanherd_replicas") == 2 })
	others.leader()
	if err := hung.process.Process.Signal(syscall.SIGCONT); err != nil {
		f.t.Fatal(err)
	}
	f.whole(3)
	leaders, err := f.sum("swanherd_leader")
	if err != nil || leaders != 1 {
		f.t.Errorf("%.0f replicas lead, %v", leaders, err)
	}
}

// partition cuts what replicas tell one another, but not their etcds.
func (f *faults) partition() {
	before := f.transitions()
	cutAll(f.streams, everybody)
	// One at least does not have the sessions of all: those that were lost went to others.
	var blind *controller
	for blind == nil {
		for _, c := range f.controllers {
			if n, _ := c.metric(`swanherd_tunnels{network="networks/load",status="stale"}`); n > 0 {
				blind = c
			}
		}
		if err := pause(f.ctx, 50*time.Millisecond); err != nil {
			f.t.Fatal("no replica misses another one")
		}
	}
	tunnels, err := blind.fleet.ListTunnels(f.ctx, &swanherdv1.ListTunnelsRequest{
		Parent: network, Statuses: []swanherdv1.TunnelStatus{swanherdv1.TunnelStatus_TUNNEL_STATUS_STALE},
	})
	if err != nil || len(tunnels.GetTunnels()) == 0 || !strings.Contains(tunnels.GetTunnels()[0].GetReason(), "a replica of the controller that cannot be reached") {
		f.t.Errorf("stale tunnels are %v, %v", tunnels, err)
	}
	cutAll(f.streams, nil)
	f.whole(3)
	if after := f.transitions(); after != before {
		f.t.Errorf("%d transitions were recorded of tunnels that were up", after-before)
	}
}

// loseQuorum cuts the etcds off from one another.
func (f *faults) loseQuorum() {
	sessions, err := f.sum("swanherd_sessions_ended_total")
	if err != nil {
		f.t.Fatal(err)
	}
	streams := f.staleStreams()
	cutAll(f.members, everybody)
	f.until("the state to count as old", func(metric func(string) float64) bool { return metric("swanherd_store_stale_seconds") > 0 })
	for _, s := range streams {
		s.says(f, "KIND_STALE since")
	}
	for _, c := range f.controllers {
		f.old(c)
	}
	cutAll(f.members, nil)
	f.until("the state to be current", func(metric func(string) float64) bool { return metric("swanherd_store_stale_seconds") == 0 })
	for _, s := range streams {
		s.says(f, "KIND_CURRENT")
	}
	f.whole(3)
	f.leader()
	if now, err := f.sum("swanherd_sessions_ended_total"); err != nil || now != sessions {
		f.t.Errorf("%.0f sessions ended for want of a quorum, %v", now-sessions, err)
	}
}

// loseAll kills every controller, and starts them again.
func (f *faults) loseAll() {
	for _, c := range f.controllers {
		c.kill()
	}
	for _, c := range f.controllers {
		if err := c.launch(); err != nil {
			f.t.Fatal(err)
		}
	}
	for _, c := range f.controllers {
		if err := c.ready(f.ctx); err != nil {
			f.t.Fatal(err)
		}
	}
	f.whole(3)
	if octets := f.octets(); octets != 0 {
		f.t.Errorf("%.0f octets of intents were sent to edges that had everything", octets)
	}
}
