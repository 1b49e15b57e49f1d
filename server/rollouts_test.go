package server_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// star is a network with a hub and three spokes, one of which is for trying things.
func star() *swanherdv1.Manifest {
	m := manifest()
	m.Sites = append(m.Sites, &swanherdv1.Site{Name: "networks/demo/sites/madrid", Prefixes: []string{"10.4.0.0/16"}})
	for _, s := range m.GetSites() {
		s.Labels = map[string]string{"role": "spoke"}
	}
	m.Sites[0].Labels["role"], m.Sites[1].Labels["canary"] = "hub", "yes"
	labelled := func(role string) *swanherdv1.SiteSelector {
		return &swanherdv1.SiteSelector{MatchLabels: map[string]string{"role": role}}
	}
	m.Meshes[0].Topology = &swanherdv1.Mesh_HubAndSpoke{HubAndSpoke: &swanherdv1.HubAndSpoke{Hubs: labelled("hub"), Spokes: labelled("spoke"), Transit: true}}
	return m
}

// staged is a star of edges whose tunnels are up.
type staged struct {
	*controller
	berlin, oslo, rome, madrid *testEdge
}

func startStaged(t *testing.T, c *controller) *staged {
	t.Helper()
	if _, err := c.topology().Apply(t.Context(), &swanherdv1.ApplyRequest{Manifest: star()}); err != nil {
		t.Fatal(err)
	}
	s := &staged{c, c.enrolled("berlin"), c.enrolled("oslo"), c.enrolled("rome"), c.enrolled("madrid")}
	for _, e := range s.edges() {
		e.open()
	}
	s.berlin.until("berlin--madrid", "berlin--oslo", "berlin--rome")
	s.oslo.until("berlin--oslo")
	s.rome.until("berlin--rome")
	s.madrid.until("berlin--madrid")
	for _, e := range s.edges() {
		e.report(swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED)
	}
	c.counted("the star to be up", func(n *swanherdv1.FleetCounts) bool { return n.GetUp() == 3 && n.GetEdgesInSync() == 4 })
	return s
}

func (s *staged) edges() []*testEdge { return []*testEdge{s.berlin, s.oslo, s.rome, s.madrid} }

// window is the replay window of the edge's tunnels, that is whether it has the change.
func (e *testEdge) window() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []string
	for name, r := range e.applied {
		for _, child := range r.GetTunnel().GetChildren() {
			out = append(out, fmt.Sprint(name[strings.LastIndexByte(name, '/')+1:], " ", child.GetReplayWindow()))
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// saw says whether the edge ever got a tunnel with that window, taken or not.
func (e *testEdge) saw(window uint32) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.ContainsFunc(e.got, func(r *swanherdv1.IntentResource) bool {
		return slices.ContainsFunc(r.GetTunnel().GetChildren(), func(c *swanherdv1.ChildIntent) bool { return c.GetReplayWindow() == window })
	})
}

func (s *staged) windows(what string, want ...string) {
	s.t.Helper()
	for i, e := range s.edges() {
		if got := e.window(); got != want[i] {
			s.t.Errorf("%s: %s runs %q, want %q", what, e.name, got, want[i])
		}
	}
}

// change stores a change of the star's profile.
func (s *staged) change(id string, window uint32, more ...func(*swanherdv1.ChangeSet)) string {
	s.t.Helper()
	want := &swanherdv1.ChangeSet{
		Manifest:   &swanherdv1.Manifest{Profiles: []*swanherdv1.Profile{{Name: "networks/demo/profiles/default", ReplayWindow: window}}},
		Assertions: []*swanherdv1.Assertion{{Source: "10.2.0.0/16", Destination: "10.3.0.0/16"}},
	}
	for _, f := range more {
		f(want)
	}
	c, err := s.rollouts().CreateChangeSet(s.t.Context(), &swanherdv1.CreateChangeSetRequest{Parent: "networks/demo", ChangeSetId: id, ChangeSet: want})
	if err != nil {
		s.t.Fatal(err)
	}
	return c.GetName()
}

// rollout begins a rollout of three batches: the canary, another one, the rest.
func (s *staged) rollout(changeSet string, policy *swanherdv1.RolloutPolicy) string {
	s.t.Helper()
	r, err := s.rollouts().CreateRollout(s.t.Context(), &swanherdv1.CreateRolloutRequest{Parent: "networks/demo", Rollout: &swanherdv1.Rollout{
		ChangeSet: changeSet, Policy: policy,
		Batches: []*swanherdv1.RolloutBatch{{MatchLabels: map[string]string{"canary": "yes"}}, {MaxEdges: 1}},
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	if len(r.GetBatchStates()) != 3 || r.GetBatchStates()[0].GetEdges() != 2 {
		s.t.Fatalf("batches are %v, want the hub with the canary, and two of one edge", r.GetBatchStates())
	}
	return r.GetName()
}

// reach waits until a rollout is as ok wants it.
func (c *controller) reach(name, what string, ok func(*swanherdv1.Rollout) bool) *swanherdv1.Rollout {
	c.t.Helper()
	rollouts := c.rollouts()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		r, err := rollouts.GetRollout(c.t.Context(), &swanherdv1.GetRolloutRequest{Name: name})
		if err == nil && ok(r) {
			return r
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s does not become %s: %v, %v", name, what, r, err)
		}
	}
}

func in(state swanherdv1.Rollout_State) func(*swanherdv1.Rollout) bool {
	return func(r *swanherdv1.Rollout) bool { return r.GetState() == state }
}

// at says that a rollout waits in a batch, all of which has the change.
func at(batch uint32, admitted uint32) func(*swanherdv1.Rollout) bool {
	return func(r *swanherdv1.Rollout) bool {
		return r.GetBatch() == batch && r.GetProgress().GetConfirmed() == admitted && len(r.GetProgress().GetWaiting()) == 0
	}
}

func quick(bake time.Duration) *swanherdv1.RolloutPolicy {
	return &swanherdv1.RolloutPolicy{BakeTime: durationpb.New(bake), SettleTimeout: durationpb.New(20 * time.Second)}
}

const (
	oldWindow, newWindow = "1024", "2048"
	never                = time.Hour
)

func star3(oslo, rome, madrid string) []string {
	return []string{
		"berlin--madrid " + madrid + ", berlin--oslo " + oslo + ", berlin--rome " + rome,
		"berlin--oslo " + oslo, "berlin--rome " + rome, "berlin--madrid " + madrid,
	}
}

// A good change goes through its batches, is the network then, and nothing else changes
// the network meanwhile.
func TestRolloutCompletes(t *testing.T) {
	s := startStaged(t, startController(t))
	name := s.rollout(s.change("bigger", 2048), quick(never))
	s.reach(name, "good in its first batch", at(0, 2))
	s.windows("after the canary", star3(newWindow, oldWindow, oldWindow)...)
	_, err := s.topology().CreateSite(t.Context(), &swanherdv1.CreateSiteRequest{
		Parent: "networks/demo", SiteId: "late", Site: &swanherdv1.Site{Prefixes: []string{"10.200.0.0/16"}},
	})
	if status.Code(err) != codes.FailedPrecondition || !slices.Equal(obstacles(err), []string{name}) {
		t.Errorf("another change meanwhile: %v about %v, want FAILED_PRECONDITION about %s", err, obstacles(err), name)
	}
	if _, err := s.rollouts().AbortRollout(t.Context(), &swanherdv1.AbortRolloutRequest{Name: name}); err != nil {
		t.Fatal(err)
	}
	s.reach(name, "reverted", in(swanherdv1.Rollout_STATE_REVERTED))
	s.windows("after the abort", star3(oldWindow, oldWindow, oldWindow)...)

	// The network was never changed, but for the edges' sake its revision went on.
	if _, err := s.rollouts().PlanChangeSet(t.Context(), &swanherdv1.PlanChangeSetRequest{Name: "networks/demo/changeSets/bigger"}); err != nil {
		t.Fatal(err)
	}
	name = s.rollout("networks/demo/changeSets/bigger", quick(200*time.Millisecond))
	s.reach(name, "completed", in(swanherdv1.Rollout_STATE_COMPLETED))
	s.windows("at the end", star3(newWindow, newWindow, newWindow)...)
	if last := s.revisions()[0]; !strings.HasPrefix(last.GetSummary(), name+": profile.update ") {
		t.Errorf("the last revision is %v, want one of the rollout", last)
	}
	p, err := s.topology().GetProfile(t.Context(), &swanherdv1.GetProfileRequest{Name: "networks/demo/profiles/default"})
	if err != nil || p.GetReplayWindow() != 2048 {
		t.Errorf("the profile is %v, %v", p, err)
	}
	c, err := s.rollouts().GetChangeSet(t.Context(), &swanherdv1.GetChangeSetRequest{Name: "networks/demo/changeSets/bigger"})
	if err != nil || c.GetState() != swanherdv1.ChangeSet_STATE_COMPLETED {
		t.Errorf("the change set is %v, %v", c.GetState(), err)
	}
	for _, action := range []string{"rollout.batch", "rollout.complete", "rollout.reverted"} {
		if !strings.Contains(s.actions(), action) {
			t.Errorf("no event tells of %s: %s", action, s.actions())
		}
	}
	s.apply() // the network is free again
}

// The canary refuses the change: it is taken back, and the others never saw it.
func TestRolloutRevertsByItself(t *testing.T) {
	s := startStaged(t, startController(t))
	s.oslo.mu.Lock()
	s.oslo.nacks = "no such window"
	s.oslo.mu.Unlock()
	name := s.rollout(s.change("bad", 2048), quick(200*time.Millisecond))
	r := s.reach(name, "reverted", in(swanherdv1.Rollout_STATE_REVERTED))
	if !strings.Contains(r.GetReason(), "oslo refused the change") || r.GetBatch() != 0 {
		t.Errorf("the reason is %q in batch %d", r.GetReason(), r.GetBatch())
	}
	s.windows("at the end", star3(oldWindow, oldWindow, oldWindow)...)
	for _, e := range s.edges() {
		first := e == s.berlin || e == s.oslo
		if saw := e.saw(2048); saw != first {
			t.Errorf("%s ever saw the change: %v", e.name, saw)
		}
	}
	p, err := s.topology().GetProfile(t.Context(), &swanherdv1.GetProfileRequest{Name: "networks/demo/profiles/default"})
	if err != nil || p.GetReplayWindow() != 0 {
		t.Errorf("the profile is %v, %v", p, err)
	}
}

// A path that goes over its SLA while the change bakes takes the change back; one that
// was over it before does not.
func TestRolloutRevertsOverSLA(t *testing.T) {
	s := startStaged(t, startController(t))
	over := &swanherdv1.SlaViolation{Metric: swanherdv1.SlaMetric_SLA_METRIC_LOSS, Measured: 7, Limit: 1}
	const established = swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED
	s.madrid.report(established, over)
	s.counted("a path to be over its SLA", func(n *swanherdv1.FleetCounts) bool { return n.GetSlaViolated() == 1 && n.GetDegraded() == 1 })
	policy := quick(never)
	policy.SettleTimeout = durationpb.New(time.Second)
	name := s.rollout(s.change("lossy", 2048), policy)
	s.reach(name, "good in its first batch", at(0, 2))
	s.oslo.report(established, over)
	r := s.reach(name, "reverted", in(swanherdv1.Rollout_STATE_REVERTED))
	if want := "1 tunnels are over their SLA: berlin--oslo"; !strings.Contains(r.GetReason(), want) {
		t.Errorf("the reason is %q, want %q", r.GetReason(), want)
	}
	s.windows("at the end", star3(oldWindow, oldWindow, oldWindow)...)
}

// A tunnel that does not come up again halts the rollout if the policy says so; a
// person lets it go on.
func TestRolloutHaltsPausesAndResumes(t *testing.T) {
	s := startStaged(t, startController(t))
	policy := quick(never)
	policy.OnFailure, policy.SettleTimeout = swanherdv1.RolloutPolicy_ON_FAILURE_HALT, durationpb.New(4*time.Second)
	name := s.rollout(s.change("bigger", 2048), policy)
	s.reach(name, "good", at(0, 2))
	s.oslo.report(swanherdv1.TunnelState_TUNNEL_STATE_FAILED)
	s.berlin.report(swanherdv1.TunnelState_TUNNEL_STATE_FAILED)
	r := s.reach(name, "halted", in(swanherdv1.Rollout_STATE_HALTED))
	if !strings.Contains(r.GetReason(), "1 tunnels are not up: berlin--oslo") ||
		!strings.Contains(r.GetReason(), "10.2.0.0/16 does not reach 10.3.0.0/16: tunnel berlin--oslo is not up") {
		t.Errorf("the reason is %q", r.GetReason())
	}
	if want := `swanherd_rollouts{network="networks/demo",state="halted"} 1`; !strings.Contains(s.metrics(), want) {
		t.Errorf("the metrics lack %s", want)
	}
	s.windows("while halted", star3(newWindow, oldWindow, oldWindow)...)
	s.oslo.report(swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED)
	s.berlin.report(swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED)
	s.counted("the star to be up", func(n *swanherdv1.FleetCounts) bool { return n.GetUp() == 3 })
	ctx, rollouts := t.Context(), s.rollouts()
	if _, err := rollouts.PauseRollout(ctx, &swanherdv1.PauseRolloutRequest{Name: name}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("pausing what is halted: %v, want FAILED_PRECONDITION", err)
	}
	if _, err := rollouts.ResumeRollout(ctx, &swanherdv1.ResumeRolloutRequest{Name: name}); err != nil {
		t.Fatal(err)
	}
	s.reach(name, "running and good", func(r *swanherdv1.Rollout) bool { return in(swanherdv1.Rollout_STATE_RUNNING)(r) && at(0, 2)(r) })
	if _, err := rollouts.PauseRollout(ctx, &swanherdv1.PauseRolloutRequest{Name: name}); err != nil {
		t.Fatal(err)
	}
	s.windows("while paused", star3(newWindow, oldWindow, oldWindow)...)
	if _, err := rollouts.AbortRollout(ctx, &swanherdv1.AbortRolloutRequest{Name: name}); err != nil {
		t.Fatal(err)
	}
	s.reach(name, "reverted", in(swanherdv1.Rollout_STATE_REVERTED))
	s.windows("after the abort", star3(oldWindow, oldWindow, oldWindow)...)
}

// What is not to begin does not: unapproved, approved by its own author, planned on
// another network, asserting what does not hold.
func TestRolloutMayNotBegin(t *testing.T) {
	s := startStaged(t, startController(t))
	ctx, rollouts := t.Context(), s.rollouts()
	begin := func(changeSet string) error {
		_, err := rollouts.CreateRollout(ctx, &swanherdv1.CreateRolloutRequest{Parent: "networks/demo", Rollout: &swanherdv1.Rollout{ChangeSet: changeSet}})
		return err
	}
	refused := func(err error, words string) {
		t.Helper()
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), words) {
			t.Errorf("%v, want FAILED_PRECONDITION with %q", err, words)
		}
	}
	reviewed := s.change("reviewed", 2048, func(c *swanherdv1.ChangeSet) { c.ApprovalRequired = true })
	refused(begin(reviewed), "is not approved")
	_, err := rollouts.ApproveChangeSet(ctx, &swanherdv1.ApproveChangeSetRequest{Name: reviewed})
	refused(err, "somebody else has to approve")
	other, err := s.access().CreateApiToken(ctx, &swanherdv1.CreateApiTokenRequest{ApiToken: &swanherdv1.ApiToken{Role: swanherdv1.Role_ROLE_OPERATOR}})
	if err != nil {
		t.Fatal(err)
	}
	colleague := swanherdv1.NewRolloutServiceClient(s.dial(other.GetSecret()))
	approved, err := colleague.ApproveChangeSet(ctx, &swanherdv1.ApproveChangeSetRequest{Name: reviewed})
	if err != nil || approved.GetState() != swanherdv1.ChangeSet_STATE_APPROVED {
		t.Fatalf("approval: %v, %v", approved, err)
	}
	s.setSite("oslo", "Oslo")
	refused(begin(reviewed), "plan it again")
	again, err := rollouts.PlanChangeSet(ctx, &swanherdv1.PlanChangeSetRequest{Name: reviewed})
	if err != nil || again.GetState() != swanherdv1.ChangeSet_STATE_PLANNED || again.GetApprover() != "" {
		t.Errorf("planned again: %v, %v", again.GetState(), err)
	}

	_, err = rollouts.CreateChangeSet(ctx, &swanherdv1.CreateChangeSetRequest{Parent: "networks/demo", ChangeSet: &swanherdv1.ChangeSet{
		Manifest:   &swanherdv1.Manifest{Meshes: []*swanherdv1.Mesh{{Name: "networks/demo/meshes/all", Profile: "networks/demo/profiles/default", Topology: &swanherdv1.Mesh_FullMesh{FullMesh: &swanherdv1.FullMesh{Sites: &swanherdv1.SiteSelector{Sites: []string{"networks/demo/sites/berlin", "networks/demo/sites/rome"}}}}}}},
		Assertions: []*swanherdv1.Assertion{{Source: "10.2.0.0/16", Destination: "10.3.0.0/16"}},
	}})
	refused(err, "after the change 10.2.0.0/16 does not reach 10.3.0.0/16")
	late := s.change("late", 512)
	s.oslo.report(swanherdv1.TunnelState_TUNNEL_STATE_FAILED)
	s.berlin.report(swanherdv1.TunnelState_TUNNEL_STATE_FAILED)
	s.counted("the tunnels to be not up", func(n *swanherdv1.FleetCounts) bool { return n.GetUp() == 0 && n.GetDown() == 1 })
	refused(begin(late), "asserts what does not hold now: 10.2.0.0/16 does not reach 10.3.0.0/16: tunnel berlin--oslo is not up")
}

// The leader goes in the middle of a batch: another replica goes on. Edges that were with
// the one that went come to others and keep what they have.
func TestRolloutSurvivesItsLeader(t *testing.T) {
	for name, here := range map[string]bool{"edges with the leader": true, "edges elsewhere": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			replicas := startReplicas(t)
			leader := (*controller)(nil)
			replicas[0].eventually("a leader", func() bool {
				i := slices.IndexFunc(replicas, (*controller).leads)
				if i >= 0 {
					leader = replicas[i]
				}
				return i >= 0
			})
			left := slices.DeleteFunc(replicas, func(c *controller) bool { return c == leader })
			rolloutWithoutLeader(t, leader, left, here)
		})
	}
}

func rolloutWithoutLeader(t *testing.T, leader *controller, left []*controller, edgesHere bool) {
	home := left[0]
	if edgesHere {
		home = leader
	}
	s := startStaged(t, home)
	policy := quick(6 * time.Second)
	policy.SettleTimeout = durationpb.New(2 * time.Minute) // another leader may take its time
	name := s.rollout(s.change("bigger", 2048), policy)
	s.reach(name, "good in its first batch", at(0, 2))
	if err := leader.s.Close(); err != nil {
		t.Error(err)
	}
	s.controller = left[0]
	for i, e := range s.edges() {
		if edgesHere {
			<-e.ended
			e.at(left[i%2])
			e.report(swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED)
		}
	}
	s.windows("with another leader", star3(newWindow, oldWindow, oldWindow)...)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for r := (*swanherdv1.Rollout)(nil); r.GetState() != swanherdv1.Rollout_STATE_COMPLETED; {
		var err error
		if r, err = s.rollouts().GetRollout(ctx, &swanherdv1.GetRolloutRequest{Name: name}); err != nil {
			t.Fatal(err)
		}
		if st := r.GetState(); st != swanherdv1.Rollout_STATE_RUNNING && st != swanherdv1.Rollout_STATE_COMPLETED {
			t.Fatalf("the rollout is %v", r)
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.windows("at the end", star3(newWindow, newWindow, newWindow)...)
}

// A change that takes something away: what goes is gone at the end and not before, from
// the store as from the edges.
func TestRolloutDeletes(t *testing.T) {
	s := startStaged(t, startController(t))
	m := star()
	m.Sites = m.GetSites()[:3]
	m.Sites[2].Prefixes = append(m.Sites[2].Prefixes, "10.33.0.0/16")
	c, err := s.rollouts().CreateChangeSet(t.Context(), &swanherdv1.CreateChangeSetRequest{Parent: "networks/demo", ChangeSet: &swanherdv1.ChangeSet{
		Manifest: m, Prune: true, Assertions: []*swanherdv1.Assertion{
			{Source: "10.2.0.0/16", Destination: "10.1.0.0/16"}, {Source: "10.2.0.0/16", Destination: "10.33.0.0/16", AfterOnly: true},
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if p := c.GetPlan(); p.GetTunnelsRemoved() != 1 || p.GetEdgesTouched() != 4 {
		t.Errorf("the plan is %v", p)
	}
	r, err := s.rollouts().CreateRollout(t.Context(), &swanherdv1.CreateRolloutRequest{Parent: "networks/demo", Rollout: &swanherdv1.Rollout{
		ChangeSet: c.GetName(), Policy: quick(500 * time.Millisecond), Batches: []*swanherdv1.RolloutBatch{{MatchLabels: map[string]string{"canary": "yes"}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	s.reach(r.GetName(), "good in its first batch", at(0, 2))
	s.madrid.until("berlin--madrid")
	if _, err := s.topology().GetSite(t.Context(), &swanherdv1.GetSiteRequest{Name: "networks/demo/sites/madrid"}); err != nil {
		t.Errorf("the site, before the end: %v", err)
	}
	s.reach(r.GetName(), "completed", in(swanherdv1.Rollout_STATE_COMPLETED))
	s.madrid.until()
	s.berlin.until("berlin--oslo", "berlin--rome")
	if _, err := s.topology().GetSite(t.Context(), &swanherdv1.GetSiteRequest{Name: "networks/demo/sites/madrid"}); status.Code(err) != codes.NotFound {
		t.Errorf("the site, at the end: %v, want NOT_FOUND", err)
	}
	rome, err := s.topology().GetSite(t.Context(), &swanherdv1.GetSiteRequest{Name: "networks/demo/sites/rome"})
	if err != nil || len(rome.GetPrefixes()) != 2 {
		t.Errorf("the site that changed: %v, %v", rome, err)
	}
	if got := s.revisions()[0].GetSummary(); got != r.GetName()+": site.update 1, site.delete 1" {
		t.Errorf("the revision is %q", got)
	}
}

// Whatever a manifest may leave out goes at the end of a rollout.
func TestRolloutDeletesOfEachKind(t *testing.T) {
	s := startStaged(t, startController(t))
	ctx, topology := t.Context(), s.topology()
	s.gateway("networks/demo", s.berlin.name)
	_, err := topology.Apply(ctx, &swanherdv1.ApplyRequest{Manifest: &swanherdv1.Manifest{
		Segments: []*swanherdv1.Segment{{Name: "networks/demo/segments/spare"}},
		Profiles: []*swanherdv1.Profile{{Name: "networks/demo/profiles/spare"}},
		Sites:    []*swanherdv1.Site{{Name: "networks/demo/sites/spare"}},
		Meshes: []*swanherdv1.Mesh{{
			Name: "networks/demo/meshes/spare", Profile: "networks/demo/profiles/spare",
			Topology: &swanherdv1.Mesh_FullMesh{FullMesh: &swanherdv1.FullMesh{Sites: &swanherdv1.SiteSelector{MatchLabels: map[string]string{"canary": "yes"}}}},
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	s.berlin.until("berlin--madrid", "berlin--oslo", "berlin--partner.gw", "berlin--rome")
	c, err := s.rollouts().CreateChangeSet(ctx, &swanherdv1.CreateChangeSetRequest{Parent: "networks/demo", ChangeSet: &swanherdv1.ChangeSet{Manifest: star(), Prune: true}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.rollouts().CreateRollout(ctx, &swanherdv1.CreateRolloutRequest{Parent: "networks/demo", Rollout: &swanherdv1.Rollout{ChangeSet: c.GetName(), Policy: quick(100 * time.Millisecond)}})
	if err != nil {
		t.Fatal(err)
	}
	s.reach(r.GetName(), "completed", in(swanherdv1.Rollout_STATE_COMPLETED))
	s.berlin.until("berlin--madrid", "berlin--oslo", "berlin--rome")
	for kind, err := range map[string]error{
		"gateway": second(topology.GetGateway(ctx, &swanherdv1.GetGatewayRequest{Name: "networks/demo/gateways/partner"})),
		"segment": second(topology.GetSegment(ctx, &swanherdv1.GetSegmentRequest{Name: "networks/demo/segments/spare"})),
		"profile": second(topology.GetProfile(ctx, &swanherdv1.GetProfileRequest{Name: "networks/demo/profiles/spare"})),
		"site":    second(topology.GetSite(ctx, &swanherdv1.GetSiteRequest{Name: "networks/demo/sites/spare"})),
		"mesh":    second(topology.GetMesh(ctx, &swanherdv1.GetMeshRequest{Name: "networks/demo/meshes/spare"})),
	} {
		if status.Code(err) != codes.NotFound {
			t.Errorf("the %s at the end: %v, want NOT_FOUND", kind, err)
		}
	}
}

// The only controller is started anew in the middle of a batch: the edges that have the
// change keep it, and get nothing for it.
func TestRolloutSurvivesARestart(t *testing.T) {
	s := startStaged(t, startController(t))
	policy := quick(200 * time.Millisecond)
	policy.SettleTimeout = durationpb.New(never)
	s.oslo.mu.Lock() // it answers nothing, so the first batch does not end before the restart
	name := s.rollout(s.change("bigger", 2048), policy)
	s.reach(name, "at half of its first batch", func(r *swanherdv1.Rollout) bool { return r.GetBatch() == 0 && r.GetProgress().GetConfirmed() == 1 })
	s.restart()
	s.oslo.mu.Unlock()
	for _, e := range []*testEdge{s.berlin, s.rome, s.madrid, s.oslo} { // who holds it up comes last
		<-e.ended
		e.open()
		e.wait("a bookmark or an update", func() bool { return e.bookmarks+e.updates > 0 })
		if e != s.oslo && e.updates != 0 {
			t.Errorf("%s got %d updates when it came back", e.name, e.updates)
		}
		e.report(swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED)
	}
	s.reach(name, "completed", in(swanherdv1.Rollout_STATE_COMPLETED))
	s.windows("at the end", star3(newWindow, newWindow, newWindow)...)
}

// leads says whether the replica is the leader, by its metrics.
func (c *controller) leads() bool { return strings.Contains(c.metrics(), "\nswanherd_leader 1\n") }

func (c *controller) metrics() string {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, "http://"+c.s.Info().MetricsAddr.String()+"/metrics", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}

// rolledOut makes a change set that waits for an approval, and a rollout that has ended,
// and returns their ids.
func (c *controller) rolledOut(network string) (changeSet, rollout string) {
	c.t.Helper()
	rollouts := c.rollouts()
	create := func(id, description string, approval bool) string {
		set, err := rollouts.CreateChangeSet(c.t.Context(), &swanherdv1.CreateChangeSetRequest{Parent: network, ChangeSetId: id, ChangeSet: &swanherdv1.ChangeSet{
			Manifest: &swanherdv1.Manifest{Networks: []*swanherdv1.Network{{Name: network, DisplayName: description}}}, ApprovalRequired: approval,
		}})
		if err != nil {
			c.t.Fatal(err)
		}
		return set.GetName()
	}
	r, err := rollouts.CreateRollout(c.t.Context(), &swanherdv1.CreateRolloutRequest{
		Parent: network, RolloutId: "ended", Rollout: &swanherdv1.Rollout{ChangeSet: create("done", "Renamed", false)},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.reach(r.GetName(), "completed", in(swanherdv1.Rollout_STATE_COMPLETED)) // it touches no edge
	create("waiting", "Renamed again", true)
	return "waiting", "ended"
}

// A change from a file to the fleet, on the command line.
func TestCommandLineRollsOut(t *testing.T) {
	s := startStaged(t, startController(t))
	x := s.terminal()
	file := `{"profiles":[{"name":"networks/demo/profiles/default","replayWindow":2048}]}`
	const batches = " --batch canary=yes --batch 10% --batch 7 --bake 200ms --assert 10.2.0.0/16,10.3.0.0/16"
	x.says(64, "", "rollout start"+batches, "give the files with -f, or a change set")
	x.says(64, file, "rollout start -f - --batch some", `"some" is neither a label`)
	x.says(64, file, "rollout start -f - --batch 101%", `"101%" is neither a label`)
	x.says(64, file, "rollout start -f - --on-failure explode", "neither revert nor halt")
	x.says(64, file, "changeset create x -f - --assert 10.2.0.0/16", "want two prefixes")
	x.says(3, file, "changeset create x -f - --assert 10.2.0.0/16,10.9.0.0/16", "after the change 10.2.0.0/16 does not reach 10.9.0.0/16")
	nowhere := `{"meshes":[{"name":"networks/demo/meshes/all","profile":"networks/demo/profiles/none","fullMesh":{"sites":{"all":true}}}]}`
	x.says(3, nowhere, "changeset create x -f -", "standard input:1: meshes[0].profile")
	x.says(0, file, "changeset create bigger -f - --description bigger --require-approval", "bigger planned, to be approved by somebody else than token:admin",
		"berlin--oslo", "children.replay_window", "edges: 4 touched")
	x.says(0, "", "changeset list", "bigger", "planned", "token:admin")
	x.says(3, "", "rollout start --change-set bigger", "is not approved")
	x.says(3, "", "changeset approve bigger", "somebody else has to approve")
	x.says(0, "", "changeset plan bigger", "planned")
	x.says(0, "", "changeset delete bigger", "deleted")
	x.says(4, "", "changeset show bigger", "does not exist")
	x.says(0, file, "rollout start -f - --name first --follow"+batches, "first running, batch 1/3", "first completed", "batch 3: 1 edges, done after")
	s.windows("at the end", star3(newWindow, newWindow, newWindow)...)
	x.says(0, "", "rollout list", "first", "completed", "3/3")
	x.says(3, "", "rollout abort first", "it is completed; only one that has not ended can be aborted")
	x.says(3, file, "rollout start -f -", "changes nothing of networks/demo")
	x.says(0, strings.Replace(file, "2048", "4096", 1), "rollout start -f - --name second --bake 1h --on-failure halt --budget 1", "second running, batch 1/1")
	x.says(0, "", "rollout pause second", "second paused", "paused by token:admin")
	x.says(1, "", "rollout status second --follow", "the rollout is paused")
	x.says(0, "", "rollout resume second", "running")
	x.says(0, "", "rollout abort second", "second reverting")
	x.says(1, "", "rollout status second --follow", "the rollout is reverted", "aborted by token:admin")
	x.says(0, "", "events", "rollout.batch", "rollout.complete", "rollout.abort", "rollout.reverted")
	resp, body := s.rest("GET", "/v1/networks/demo/rollouts/second", s.token, "")
	if resp.StatusCode != 200 || !strings.Contains(body, `"state":"STATE_REVERTED"`) {
		t.Errorf("by REST: %d %s", resp.StatusCode, body)
	}
}
