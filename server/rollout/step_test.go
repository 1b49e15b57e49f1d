package rollout

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/plan"
)

var (
	demo  = model.NetworkName{Network: "demo"}
	start = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
)

// sim is a fleet and its controller: a hub and four spokes, planned by the planner, with
// edges that do what the test says. Time is the test's.
type sim struct {
	*testing.T
	topology model.Topology
	composer *plan.Composer
	plan     *plan.Plan
	now      time.Time
	known    time.Time
	began    int64
	r        *storev1.Rollout
	p        *storev1.RolloutPlan
	target   model.Amendment

	edges   map[string]*swanherdv1.EdgeStatus // by id
	refuse  map[string]swanherdv1.IntentState // what an edge answers instead
	lazy    map[string]bool                   // edges whose replica has not told them yet
	tunnels map[string]swanherdv1.TunnelStatus
	overSLA map[string]bool
	told    []string
}

var spokes = []string{"a", "b", "c", "d"}

func put[T any](t *model.Table[T], name string, revision int64, value T) {
	*t = t.With(model.Row[T]{Name: name, Value: value, Revision: revision})
}

func newSim(t *testing.T, policy *swanherdv1.RolloutPolicy, batches ...*swanherdv1.RolloutBatch) *sim {
	s := &sim{
		T: t, composer: plan.NewComposer(nil), now: start, known: start, edges: map[string]*swanherdv1.EdgeStatus{},
		refuse: map[string]swanherdv1.IntentState{}, lazy: map[string]bool{}, tunnels: map[string]swanherdv1.TunnelStatus{},
	}
	top := &s.topology
	put(&top.Networks, "networks/demo", 1, &swanherdv1.Network{Name: "networks/demo"})
	profile := &swanherdv1.Profile{Name: "networks/demo/profiles/default"}
	put(&top.Profiles, profile.GetName(), 1, profile)
	var candidates []Candidate
	for i, id := range append([]string{"hub"}, spokes...) {
		role := map[bool]string{true: "hub", false: "spoke"}[id == "hub"]
		put(&top.Sites, "networks/demo/sites/"+id, 1, &swanherdv1.Site{
			Name: "networks/demo/sites/" + id, Labels: map[string]string{"role": role}, Prefixes: []string{fmt.Sprintf("10.%d.0.0/16", i)},
		})
		name := "networks/demo/edges/" + id
		put(&top.Edges, name, 1, &swanherdv1.Edge{Name: name, Site: "networks/demo/sites/" + id})
		put(&top.EdgeStatuses, name, 1, &storev1.EdgeStatus{Edge: name, Uplinks: []*swanherdv1.Uplink{{Name: "wan", Addresses: []string{fmt.Sprintf("192.0.2.%d", i+1)}}}})
		s.edges[id] = &swanherdv1.EdgeStatus{Connected: true}
		candidates = append(candidates, Candidate{Name: name, Hub: id == "hub"})
	}
	put(&top.Meshes, "networks/demo/meshes/star", 1, &swanherdv1.Mesh{
		Name: "networks/demo/meshes/star", Profile: profile.GetName(), Topology: &swanherdv1.Mesh_HubAndSpoke{HubAndSpoke: &swanherdv1.HubAndSpoke{
			Hubs: labelled("hub"), Spokes: labelled("spoke"), Transit: true,
		}},
	})
	s.target = model.Amendment{Upserts: &swanherdv1.Manifest{Profiles: []*swanherdv1.Profile{{Name: profile.GetName(), ReplayWindow: 64}}}}
	order, ends := Order(candidates, batches)
	s.p = &storev1.RolloutPlan{Name: "networks/demo/rollouts/r", BatchEnds: ends, Assertions: []*swanherdv1.Assertion{{Source: "10.1.0.0/16", Destination: "10.2.0.0/16"}}}
	for _, name := range order {
		s.p.Edges = append(s.p.Edges, last(name))
	}
	s.write(nil)
	s.began = s.plan.Revision
	s.write(Start(&swanherdv1.Rollout{Name: "networks/demo/rollouts/r", Policy: policy}, ends))
	for _, id := range spokes {
		s.tunnels["networks/demo/tunnels/"+id+"--hub"] = swanherdv1.TunnelStatus_TUNNEL_STATUS_UP
	}
	return s
}

func labelled(role string) *swanherdv1.SiteSelector {
	return &swanherdv1.SiteSelector{MatchLabels: map[string]string{"role": role}}
}

// write stores the rollout, has it planned, and the edges answer what they get.
func (s *sim) write(r *storev1.Rollout) {
	s.topology.Revision++
	top := s.topology
	var stages []plan.Stage
	if s.r = r; r != nil {
		order := map[string]int{}
		for i, id := range s.p.GetEdges() {
			order["networks/demo/edges/"+id] = i
		}
		stages = []plan.Stage{{Name: "r", Network: demo, Target: s.target.Apply, Order: order, Admitted: int(r.GetAdmitted())}}
	}
	s.plan, _ = s.composer.Update(&top, stages)
	for id := range s.edges {
		if !s.lazy[id] {
			s.answer(id)
		}
	}
}

// answer is an edge that takes or refuses what is planned for it.
func (s *sim) answer(id string) {
	row, _ := s.plan.Intents.Get("networks/demo/edges/" + id)
	e := s.edges[id]
	if !e.GetConnected() || e.GetPlannedRevision() == row.Revision {
		return
	}
	e.PlannedRevision, e.IntentState = row.Revision, swanherdv1.IntentState_INTENT_STATE_CONFIRMED
	if state, ok := s.refuse[id]; ok && s.changed(id) {
		e.IntentState = state
	}
}

// changed says whether an edge is to run any of the change.
func (s *sim) changed(id string) bool {
	row, _ := s.plan.Intents.Get("networks/demo/edges/" + id)
	for r := range row.Value.Resources.All() {
		for _, c := range r.GetTunnel().GetChildren() {
			if c.GetReplayWindow() == 64 {
				return true
			}
		}
	}
	return false
}

func (s *sim) view() *View {
	return &View{
		Network: demo, Plan: s.plan, Began: s.began, Known: s.known, Tunnels: s.tunnels, OverSLA: s.overSLA,
		Edges: func(edge string) *swanherdv1.EdgeStatus { return s.edges[last(edge)] },
		Sites: func(edge string) string { return "networks/demo/sites/" + last(edge) },
	}
}

func (s *sim) progress() *swanherdv1.Rollout_Progress {
	return s.view().Progress(s.topology.Revision, s.r, s.p)
}

// pass lets time pass, a step each second.
func (s *sim) pass(d time.Duration) {
	s.Helper()
	for end := s.now.Add(d); s.now.Before(end); s.now = s.now.Add(time.Second) {
		before := proto.CloneOf(s.r)
		result := Step(s.now, s.r, s.p, s.view())
		if !proto.Equal(before, s.r) {
			s.Fatal("a step changed what it was given")
		}
		if result.Action != "" {
			s.told = append(s.told, strings.TrimPrefix(result.Action, "rollout."))
		}
		if result.Complete != (result.Next != nil && result.Next.GetRollout().GetState() == completed) {
			s.Fatalf("complete is %v of %v", result.Complete, result.Next)
		}
		if result.Next != nil {
			s.write(result.Next)
		}
	}
}

// is checks the state, how many edges have the change, and the reason.
func (s *sim) is(state swanherdv1.Rollout_State, batch, admitted uint32, reason string) {
	s.Helper()
	r := s.r.GetRollout()
	if r.GetState() != state || r.GetBatch() != batch || s.r.GetAdmitted() != admitted || !strings.Contains(r.GetReason(), reason) || reason == "" && r.GetReason() != "" {
		s.Fatalf("after %s: %s in batch %d, %d admitted, %q; want %s, %d, %d, %q\n%v", s.now.Sub(start), r.GetState(), r.GetBatch(),
			s.r.GetAdmitted(), r.GetReason(), state, batch, admitted, reason, s.progress())
	}
}

// path says whether that of a spoke to the hub is over its SLA.
func (s *sim) path(spoke string, over bool) {
	if s.overSLA == nil {
		s.overSLA = map[string]bool{}
	}
	name := "networks/demo/tunnels/" + spoke + "--hub"
	s.overSLA[name] = over
	if s.tunnels[name] = up; over {
		s.tunnels[name] = swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED
	} else {
		delete(s.overSLA, name)
	}
}

func (s *sim) tunnel(spoke string, status swanherdv1.TunnelStatus) {
	s.tunnels["networks/demo/tunnels/"+spoke+"--hub"] = status
}

const (
	up   = swanherdv1.TunnelStatus_TUNNEL_STATUS_UP
	down = swanherdv1.TunnelStatus_TUNNEL_STATUS_DOWN
)

func bakes(d time.Duration) *swanherdv1.RolloutPolicy {
	return &swanherdv1.RolloutPolicy{BakeTime: durationpb.New(d), SettleTimeout: durationpb.New(30 * time.Second)}
}

var one = &swanherdv1.RolloutBatch{MaxEdges: 1}

func TestBatchesBake(t *testing.T) {
	s := newSim(t, bakes(time.Minute), one)
	s.pass(time.Minute)
	s.is(running, 0, 2, "")
	s.pass(2 * time.Second)
	s.is(running, 1, 5, "")
	s.pass(time.Minute)
	s.is(running, 1, 5, "")
	s.pass(3 * time.Second)
	s.is(completed, 2, 5, "")
	if got := strings.Join(s.told, " "); got != "batch batch complete" {
		t.Errorf("told %q", got)
	}
}

func TestGates(t *testing.T) {
	for _, c := range []struct {
		name string
		// break what is to be judged, when the first batch is good.
		breaks func(*sim)
		policy func(*swanherdv1.RolloutPolicy)
		after  time.Duration
		state  swanherdv1.Rollout_State
		reason string
	}{
		{name: "nothing", breaks: func(*sim) {}, after: 40 * time.Second, state: running},
		{
			name: "an edge refuses", breaks: func(s *sim) { s.edges["a"].IntentState = swanherdv1.IntentState_INTENT_STATE_REJECTED },
			after: 2 * time.Second, state: reverted, reason: "batch 1: a refused the change",
		},
		{
			name: "an edge took it back", breaks: func(s *sim) { s.edges["a"].IntentState = swanherdv1.IntentState_INTENT_STATE_REVERTED },
			after: 2 * time.Second, state: reverted, reason: "batch 1: a took the change back",
		},
		{
			name: "one may refuse", breaks: func(s *sim) { s.edges["a"].IntentState = swanherdv1.IntentState_INTENT_STATE_REJECTED },
			policy: func(p *swanherdv1.RolloutPolicy) { p.MaxNacks = 1 }, after: 40 * time.Second, state: running,
		},
		{name: "a tunnel is down for a moment", breaks: func(s *sim) { s.tunnel("d", down) }, after: 29 * time.Second, state: running},
		{name: "a tunnel stays down", breaks: func(s *sim) { s.tunnel("d", down) }, after: 33 * time.Second, state: reverted, reason: "batch 1: 1 tunnels are not up: d--hub"},
		{
			name: "a tunnel may be down", breaks: func(s *sim) { s.tunnel("d", down) },
			policy: func(p *swanherdv1.RolloutPolicy) { p.MaxTunnelsDown = 1 }, after: 40 * time.Second, state: running,
		},
		{name: "a path is over its SLA for a moment", breaks: func(s *sim) { s.path("d", true) }, after: 29 * time.Second, state: running},
		{
			name: "a path stays over its SLA", breaks: func(s *sim) { s.path("d", true) },
			after: 33 * time.Second, state: reverted, reason: "batch 1: 1 tunnels are over their SLA: d--hub",
		},
		{
			name: "a path may be over its SLA", breaks: func(s *sim) { s.path("d", true) },
			policy: func(p *swanherdv1.RolloutPolicy) { p.MaxSlaViolations = 1 }, after: 40 * time.Second, state: running,
		},
		{
			name: "what is asserted holds no more", breaks: func(s *sim) { s.tunnel("b", down) },
			policy: func(p *swanherdv1.RolloutPolicy) { p.MaxTunnelsDown = 1 }, after: 33 * time.Second,
			state: reverted, reason: "10.1.0.0/16 does not reach 10.2.0.0/16: tunnel b--hub is not up",
		},
		{
			name: "an edge is lost", breaks: func(s *sim) { s.edges["a"].Connected = false },
			after: 33 * time.Second, state: reverted, reason: "batch 1: 1 of 2 edges confirmed, not yet a",
		},
		{
			name: "half is enough", breaks: func(s *sim) { s.edges["a"].Connected = false },
			policy: func(p *swanherdv1.RolloutPolicy) { p.SuccessPercent = 50 }, after: 40 * time.Second, state: running,
		},
		{
			name: "a person decides", breaks: func(s *sim) { s.tunnel("d", down) }, policy: func(p *swanherdv1.RolloutPolicy) {
				p.OnFailure = swanherdv1.RolloutPolicy_ON_FAILURE_HALT
			}, after: time.Hour, state: halted, reason: "d--hub",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			policy := bakes(time.Hour)
			if c.policy != nil {
				c.policy(policy)
			}
			s := newSim(t, policy, one)
			s.pass(5 * time.Second)
			s.is(running, 0, 2, "")
			c.breaks(s)
			s.pass(c.after)
			admitted := uint32(2)
			if c.state == reverted {
				admitted = 0
			}
			s.is(c.state, 0, admitted, c.reason)
			if c.state == reverted && s.changed("hub") {
				t.Error("the change is still planned")
			}
		})
	}
}

// A break makes the batch bake anew.
func TestBakeHasNoBreak(t *testing.T) {
	s := newSim(t, bakes(time.Minute), one)
	s.pass(50 * time.Second)
	s.tunnel("a", down)
	s.pass(5 * time.Second)
	s.tunnel("a", up)
	s.pass(time.Minute)
	s.is(running, 0, 2, "")
	s.pass(3 * time.Second)
	s.is(running, 1, 5, "")
}

// What was not well before is held against nobody; what comes back is asked for.
func TestBaseline(t *testing.T) {
	s := newSim(t, bakes(5*time.Second))
	s.p.Assertions = nil
	s.edges["a"].Connected = false
	s.tunnel("a", down)
	s.pass(10 * time.Second)
	s.is(completed, 1, 5, "")

	s = newSim(t, bakes(5*time.Second))
	s.p.Assertions = nil
	s.edges["a"].Connected = false
	s.refuse["a"] = swanherdv1.IntentState_INTENT_STATE_REJECTED
	s.pass(3 * time.Second)
	s.edges["a"].Connected = true
	s.answer("a")
	s.pass(2 * time.Second)
	s.is(reverted, 0, 0, "a refused")
}

// What was not well and has become so is asked for from then on.
func TestBaselineShrinks(t *testing.T) {
	for _, breaks := range map[string]func(*sim){
		"tunnel": func(s *sim) { s.tunnel("a", down) },
		"edge":   func(s *sim) { s.edges["a"].Connected = false },
	} {
		s := newSim(t, bakes(time.Hour))
		s.p.Assertions = nil
		s.edges["a"].Connected = false
		s.tunnel("a", down)
		s.pass(2 * time.Second)
		s.edges["a"].Connected = true
		s.answer("a")
		s.tunnel("a", up)
		s.pass(time.Minute)
		s.is(running, 0, 5, "")
		breaks(s)
		s.pass(33 * time.Second)
		s.is(reverted, 0, 0, "batch 1: ")
	}
}

// A leader that has just begun waits for edges that were there a moment ago, and not for
// those that are gone for long.
func TestLeaderWaitsForEdgesBeforeItBegins(t *testing.T) {
	s := newSim(t, bakes(time.Hour))
	s.p.Assertions = nil
	s.edges["a"] = &swanherdv1.EdgeStatus{LastSeenTime: timestamppb.New(start.Add(-time.Hour))}
	s.edges["b"] = &swanherdv1.EdgeStatus{LastSeenTime: timestamppb.New(start.Add(-time.Minute))}
	s.pass(10 * time.Second)
	s.is(running, 0, 0, "")
	s.edges["b"].Connected = true
	s.pass(2 * time.Second)
	s.is(running, 0, 5, "")
	if got := fmt.Sprint(s.r.GetOffline()); got != "[a]" {
		t.Errorf("offline are %s", got)
	}
	s = newSim(t, bakes(time.Hour))
	s.edges["b"] = &swanherdv1.EdgeStatus{LastSeenTime: timestamppb.New(start.Add(-time.Minute))}
	s.pass(32 * time.Second) // it does not come
	s.is(running, 0, 5, "")
}

// What an edge said before its replica knew of the change says nothing.
func TestOldWordsDoNotCount(t *testing.T) {
	s := newSim(t, bakes(2*time.Second), one)
	s.lazy["a"] = true
	s.pass(20 * time.Second)
	s.is(running, 0, 2, "")
	s.lazy["a"] = false
	s.answer("a")
	s.pass(5 * time.Second)
	s.is(running, 1, 5, "")
}

// The budget is how many sites are at risk at once.
func TestDisruptionBudget(t *testing.T) {
	policy := bakes(10 * time.Second)
	policy.DisruptionBudget = 2
	s := newSim(t, policy)
	for _, id := range spokes {
		s.lazy[id] = true
	}
	s.pass(time.Second)
	s.is(running, 0, 2, "") // the hub, and a spoke
	s.pass(5 * time.Second)
	s.is(running, 0, 3, "") // the hub is through, two spokes are not
	s.lazy["a"] = false
	s.answer("a")
	s.pass(2 * time.Second)
	s.is(running, 0, 4, "")
	s.tunnel("a", down) // so that its site has none
	s.answer("b")
	s.pass(2 * time.Second)
	s.is(running, 0, 4, "")
	s.tunnel("a", up)
	s.answer("c")
	s.pass(2 * time.Second)
	s.is(running, 0, 5, "")
	s.answer("d")
	s.pass(13 * time.Second)
	s.is(completed, 1, 5, "")
}

// A new leader gives edges the time that they have, and goes on with what is stored.
func TestNewLeader(t *testing.T) {
	s := newSim(t, bakes(time.Minute), one)
	s.pass(40 * time.Second)
	s.now = s.now.Add(10 * time.Minute) // nobody led
	s.composer, s.known = plan.NewComposer(nil), s.now
	s.topology.Revision += 100
	for _, e := range s.edges {
		e.Connected = false
	}
	s.write(s.r)
	s.began = s.plan.Revision
	s.pass(20 * time.Second)
	s.is(running, 0, 2, "")
	for id, e := range s.edges {
		e.Connected = true
		s.answer(id)
	}
	s.pass(59 * time.Second)
	s.is(running, 0, 2, "")
	s.pass(5 * time.Second)
	s.is(running, 1, 5, "")
}

// A replica that starts does not know how old what it plans first is. An edge whose own
// replica knows it for longer is not waited for.
func TestYoungReplica(t *testing.T) {
	s := newSim(t, bakes(time.Minute), one)
	s.pass(10 * time.Second)
	for id := range s.edges {
		s.lazy[id] = true
	}
	s.composer, s.known = plan.NewComposer(nil), s.now
	s.topology.Revision += 100
	s.write(s.r)
	s.began = s.plan.Revision
	if p := s.progress(); p.GetConfirmed() != 2 {
		t.Errorf("progress is %v, want both edges confirmed", p)
	}
}

// Nobody is told that edges confirmed a change that this replica has not planned yet.
func TestProgressIsNotAhead(t *testing.T) {
	s := newSim(t, bakes(time.Minute), one)
	before := s.view()
	s.pass(10 * time.Second)
	if p := before.Progress(s.topology.Revision, s.r, s.p); p != nil {
		t.Errorf("before the plan progress is %v", p)
	}
	if p := s.progress(); p.GetConfirmed() != 2 {
		t.Errorf("after the plan progress is %v, want both edges confirmed", p)
	}
}

func TestOperators(t *testing.T) {
	for _, c := range []struct {
		state                swanherdv1.Rollout_State
		pause, resume, abort swanherdv1.Rollout_State // 0: refused
	}{
		{running, paused, 0, reverting},
		{paused, 0, running, reverting},
		{halted, 0, running, reverting},
		{reverting, 0, 0, 0},
		{reverted, 0, 0, 0},
		{completed, 0, 0, 0},
	} {
		for what, try := range map[string]struct {
			f    func(*storev1.Rollout) error
			want swanherdv1.Rollout_State
		}{
			"pause":  {func(r *storev1.Rollout) error { return Pause(r, "token:x") }, c.pause},
			"resume": {Resume, c.resume},
			"abort":  {func(r *storev1.Rollout) error { return Abort(r, "token:x", 9, start) }, c.abort},
		} {
			r := &storev1.Rollout{Rollout: &swanherdv1.Rollout{State: c.state}, Admitted: 3}
			err := try.f(r)
			if want := try.want; want == 0 && (err == nil || r.GetRollout().GetState() != c.state) || want != 0 && (err != nil || r.GetRollout().GetState() != want) {
				t.Errorf("%s of %s: %s, %v", what, c.state, r.GetRollout().GetState(), err)
			}
		}
	}
	s := newSim(t, bakes(time.Minute), one)
	s.p.Assertions = nil
	s.pass(5 * time.Second)
	if err := Pause(s.r, "token:x"); err != nil {
		t.Fatal(err)
	}
	s.tunnel("a", down)
	s.pass(time.Hour)
	s.is(paused, 0, 2, "paused by token:x")
	if err := Resume(s.r); err != nil {
		t.Fatal(err)
	}
	s.pass(59 * time.Second)
	s.is(running, 0, 2, "") // what was down when it went on is not held against it
	if s.r.GetDown()[0] != "a--hub" {
		t.Errorf("the baseline is %v", s.r.GetDown())
	}
}

// A rollout has ended when the edges run what they ran before, as far as they can be
// reached.
func TestRevertWaitsForEdges(t *testing.T) {
	s := newSim(t, bakes(time.Hour), one)
	s.pass(5 * time.Second)
	s.lazy["hub"] = true
	if err := Abort(s.r, "token:x", s.topology.Revision, s.now); err != nil {
		t.Fatal(err)
	}
	s.write(s.r)
	s.pass(20 * time.Second)
	s.is(reverting, 0, 0, "aborted by token:x")
	s.lazy["hub"] = false
	s.answer("hub")
	s.pass(2 * time.Second)
	s.is(reverted, 0, 0, "aborted by token:x")
	if got := s.told[len(s.told)-1]; got != "reverted" {
		t.Errorf("told %v", s.told)
	}
}
