package server_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const tills = "networks/demo/assertions/tills"

// assert makes the assertion that what is behind oslo reaches what is behind rome, which
// it does by way of berlin.
func (s *staged) assert() {
	s.t.Helper()
	_, err := s.topology().CreateAssertion(s.t.Context(), &swanherdv1.CreateAssertionRequest{
		Parent: "networks/demo", AssertionId: "tills", Assertion: &swanherdv1.Assertion{Source: "10.2.0.0/16", Destination: "10.3.0.0/16"},
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// asserted wants the assertion to be in a state for a reason.
func (s *staged) asserted(want swanherdv1.AssertionResult_State, reason string) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("an assertion in %v because of %q", want, reason), func() bool {
		got, err := s.topology().TestAssertions(s.t.Context(), &swanherdv1.TestAssertionsRequest{Parent: "networks/demo"})
		if err != nil {
			s.t.Fatal(err)
		}
		r := got.GetResults()
		return len(r) == 1 && r[0].GetAssertion() == tills && r[0].GetState() == want && strings.Contains(r[0].GetReason(), reason)
	})
}

// What holds by the plan is not broken by a change, unless that is said.
func TestAssertionsStand(t *testing.T) {
	s := startStaged(t, startController(t))
	ctx, topology := t.Context(), s.topology()
	s.assert()
	s.asserted(swanherdv1.AssertionResult_STATE_HOLDS, "")

	apart := star()
	apart.Meshes[0].GetHubAndSpoke().Transit = false
	oslo := star().Sites[1]
	oslo.Prefixes = []string{"10.20.0.0/16"}
	for what, change := range map[string]func() error{
		"no transit": func() error { return second(topology.Apply(ctx, &swanherdv1.ApplyRequest{Manifest: apart})) },
		"no transit, only asked": func() error {
			return second(topology.Apply(ctx, &swanherdv1.ApplyRequest{Manifest: apart, ValidateOnly: true}))
		},
		"another prefix": func() error { return second(topology.UpdateSite(ctx, &swanherdv1.UpdateSiteRequest{Site: oslo})) },
		"no mesh": func() error {
			return second(topology.DeleteMesh(ctx, &swanherdv1.DeleteMeshRequest{Name: "networks/demo/meshes/all"}))
		},
		"a change set": func() error {
			return second(s.rollouts().CreateChangeSet(ctx, &swanherdv1.CreateChangeSetRequest{Parent: "networks/demo", ChangeSet: &swanherdv1.ChangeSet{Manifest: apart}}))
		},
	} {
		err := change()
		if got := obstacles(err); status.Code(err) != codes.FailedPrecondition || len(got) != 1 || got[0] != tills || !strings.Contains(err.Error(), "10.2.0.0/16 does not reach 10.3.0.0/16") {
			t.Errorf("%s: %v about %v, want FAILED_PRECONDITION about the assertion", what, err, got)
		}
	}
	x := s.terminal()
	x.says(0, "", "get assertions", "tills", "10.2.0.0/16", "10.3.0.0/16")
	x.says(0, "", "assertion test", "tills", "holds")
	x.says(0, "", "assertion create voice 10.4.0.0/16 10.1.0.0/16 --description calls", "networks/demo/assertions/voice created")
	x.says(0, "", "delete assertion voice", "voice deleted")
	x.says(3, "", "assertion create voice 10.4.0.1/16 10.1.0.0/16", "assertion.source", "is not a prefix")
	x.says(3, "", "assertion create voice 10.4.0.0/16 10.1.0.0/16 --segment none", "assertion.segment", "does not exist")

	// What needs it goes with it, and what is said to be meant goes through.
	if _, err := topology.Apply(ctx, &swanherdv1.ApplyRequest{Manifest: star(), Prune: true}); err != nil {
		t.Errorf("a manifest without the assertion: %v", err)
	}
	s.assert()
	broken := metadata.AppendToOutgoingContext(ctx, "swanherd-break-glass", "oslo is sold")
	if _, err := topology.Apply(broken, &swanherdv1.ApplyRequest{Manifest: apart}); err != nil {
		t.Errorf("a change that says why: %v", err)
	}
	x.says(0, "", "audit list", "network.breakGlass")
	s.asserted(swanherdv1.AssertionResult_STATE_BROKEN, "10.2.0.0/16 does not reach 10.3.0.0/16")
	x.says(1, "", "assertion test", "broken")
	// What is broken is in nobody's way.
	if _, err := topology.UpdateSite(ctx, &swanherdv1.UpdateSiteRequest{Site: oslo}); err != nil {
		t.Errorf("a change of what is broken already: %v", err)
	}
}

// A tunnel that an assertion needs is down: it is told, and a rollout that did it is taken
// back though its change set asserts nothing.
func TestAssertionsOfTunnels(t *testing.T) {
	s := startStaged(t, startController(t))
	s.assert()
	for _, rule := range []string{"assertion-broken", "site-isolated"} {
		if _, err := s.alerts().UpdateAlertRule(t.Context(), &swanherdv1.UpdateAlertRuleRequest{AlertRule: &swanherdv1.AlertRule{
			Name: "networks/-/alertRules/" + rule, PendingFor: durationpb.New(0), Disabled: rule == "site-isolated",
		}}); err != nil {
			t.Fatal(err)
		}
	}
	policy := quick(never)
	policy.SettleTimeout = durationpb.New(time.Second)
	name := s.rollout(s.change("bare", 2048, func(c *swanherdv1.ChangeSet) { c.Assertions = nil }), policy)
	s.reach(name, "good in its first batch", at(0, 2))
	s.rome.report(swanherdv1.TunnelState_TUNNEL_STATE_FAILED)
	s.berlin.report(swanherdv1.TunnelState_TUNNEL_STATE_FAILED)
	r := s.reach(name, "reverted", in(swanherdv1.Rollout_STATE_REVERTED))
	if want := "10.2.0.0/16 does not reach 10.3.0.0/16"; !strings.Contains(r.GetReason(), want) {
		t.Errorf("the reason is %q, want %q", r.GetReason(), want)
	}
	s.asserted(swanherdv1.AssertionResult_STATE_DOWN, "does not reach")
	s.alerted("assertion-broken", tills)
	for _, e := range s.edges() {
		e.report(swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED)
	}
	s.asserted(swanherdv1.AssertionResult_STATE_HOLDS, "")
}

// alerted waits until an alert of a rule fires of a thing.
func (c *controller) alerted(rule, resource string) {
	c.t.Helper()
	c.eventually("an alert of "+rule+" about "+resource, func() bool {
		got, err := c.alerts().ListAlerts(c.t.Context(), &swanherdv1.ListAlertsRequest{Parent: "networks/-"})
		if err != nil {
			c.t.Fatal(err)
		}
		return slices.ContainsFunc(got.GetAlerts(), func(a *swanherdv1.Alert) bool {
			return a.GetRule() == "networks/-/alertRules/"+rule && a.GetResource() == resource && a.GetState() == swanherdv1.Alert_STATE_FIRING
		})
	})
}
