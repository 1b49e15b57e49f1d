package alert_test

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/alert"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/pki"
)

const (
	offline    = swanherdv1.AlertCondition_ALERT_CONDITION_EDGE_OFFLINE
	isolated   = swanherdv1.AlertCondition_ALERT_CONDITION_SITE_ISOLATED
	down       = swanherdv1.AlertCondition_ALERT_CONDITION_TUNNEL_DOWN
	degraded   = swanherdv1.AlertCondition_ALERT_CONDITION_TUNNEL_DEGRADED
	outOfSync  = swanherdv1.AlertCondition_ALERT_CONDITION_EDGE_OUT_OF_SYNC
	clockWrong = swanherdv1.AlertCondition_ALERT_CONDITION_EDGE_CLOCK_WRONG
	rejected   = swanherdv1.AlertCondition_ALERT_CONDITION_EDGE_REJECTED
	reverted   = swanherdv1.AlertCondition_ALERT_CONDITION_EDGE_REVERTED
	expiring   = swanherdv1.AlertCondition_ALERT_CONDITION_CERTIFICATE_EXPIRING
	authority  = swanherdv1.AlertCondition_ALERT_CONDITION_AUTHORITY_EXPIRING
	unsigned   = swanherdv1.AlertCondition_ALERT_CONDITION_AUTHORITY_UNSIGNED
	slow       = swanherdv1.AlertCondition_ALERT_CONDITION_TUNNEL_SLA_VIOLATED
	massLoss   = swanherdv1.AlertCondition_ALERT_CONDITION_MASS_LOSS
	fewer      = swanherdv1.AlertCondition_ALERT_CONDITION_REPLICA_LOST
)

// world is a fleet in virtual time, and the machine that looks at it.
type world struct {
	testing.TB
	now, began time.Time
	machine    *alert.Machine
	in         alert.Input
	revision   int64
	stored     map[string]*swanherdv1.Alert
}

func newWorld(t testing.TB, rules ...*swanherdv1.AlertRule) *world {
	start := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	w := &world{TB: t, now: start, began: start, machine: alert.NewMachine(nil), stored: map[string]*swanherdv1.Alert{}}
	w.in.Replicas = 1
	for _, r := range rules {
		w.rule(r)
	}
	for _, id := range []string{"berlin", "oslo"} {
		w.site(id, map[string]string{"region": "emea"})
	}
	w.site("lima", map[string]string{"region": "amer"})
	return w
}

func simple(c swanherdv1.AlertCondition) *swanherdv1.AlertRule {
	return &swanherdv1.AlertRule{
		Name: "networks/-/alertRules/r", Condition: c, Severity: swanherdv1.AlertSeverity_ALERT_SEVERITY_WARNING,
		PendingFor: durationpb.New(time.Minute), KeepFiringFor: durationpb.New(30 * time.Second),
	}
}

func (w *world) rule(r *swanherdv1.AlertRule) {
	w.revision++
	w.in.Rules = w.in.Rules.With(model.Row[*swanherdv1.AlertRule]{Name: r.GetName(), Value: r, Revision: w.revision})
}

func (w *world) site(id string, labels map[string]string) {
	w.revision++
	name := "networks/demo/sites/" + id
	w.in.Sites = w.in.Sites.With(model.Row[*swanherdv1.Site]{Name: name, Value: &swanherdv1.Site{Name: name, Labels: labels}, Revision: w.revision})
}

func (w *world) edge(id string, connected bool, state swanherdv1.IntentState) {
	site, _, _ := strings.Cut(id, "-")
	w.in.Fleet.Edges = append(w.in.Fleet.Edges, &swanherdv1.Edge{
		Name: "networks/demo/edges/" + id, Site: "networks/demo/sites/" + site,
		Status: &swanherdv1.EdgeStatus{Connected: connected, IntentState: state, LastSeenTime: timestamppb.New(w.now)},
	})
}

func (w *world) clock(edge string, offset time.Duration) {
	w.edge(edge, true, applied)
	w.in.Fleet.Edges[len(w.in.Fleet.Edges)-1].Status.ClockOffset = durationpb.New(offset)
}

func (w *world) tunnel(a, b string, status swanherdv1.TunnelStatus) {
	w.in.Fleet.Tunnels = append(w.in.Fleet.Tunnels, &swanherdv1.Tunnel{
		Name: "networks/demo/tunnels/" + a + "--" + b, Status: status, StatusTime: timestamppb.New(w.now),
		A: &swanherdv1.TunnelEnd{Site: "networks/demo/sites/" + a}, B: &swanherdv1.TunnelEnd{Site: "networks/demo/sites/" + b},
	})
}

const established = swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED

// path is a tunnel that is degraded, with that state at both ends: if it is established,
// because of its path.
func (w *world) path(a, b string, state swanherdv1.TunnelState) {
	w.tunnel(a, b, swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED)
	t := w.in.Fleet.Tunnels[len(w.in.Fleet.Tunnels)-1]
	t.A.Report, t.B.Report = &swanherdv1.TunnelReport{State: state}, &swanherdv1.TunnelReport{State: state}
}

// step steps the machine and returns what came of it, `+berlin` for an alert about
// berlin that fires, `-berlin` for one that is resolved.
func (w *world) step() []string {
	w.in.Began = w.began
	transitions := w.machine.Step(w.now, w.in)
	w.in.Fleet, w.in.Expiries = fleet.Changes{}, nil
	var out []string
	for _, a := range transitions {
		sign := "+"
		if a.GetState() == swanherdv1.Alert_STATE_RESOLVED {
			sign = "-"
		}
		out = append(out, sign+path.Base(a.GetResource()))
		w.stored[a.GetName()] = a
	}
	slices.SortFunc(out, func(a, b string) int { return cmp.Compare(a[1:], b[1:]) })
	return out
}

// after lets time pass, a step a second, and checks what comes of it on the way.
func (w *world) after(d time.Duration, want ...string) {
	w.Helper()
	var got []string
	for range int(d / time.Second) {
		w.now = w.now.Add(time.Second)
		got = append(got, w.step()...)
	}
	if !slices.Equal(got, want) {
		w.Errorf("within %v: %q, want %q", d, got, want)
	}
}

// at checks what comes of what happened just now.
func (w *world) at(want ...string) {
	w.Helper()
	if got := w.step(); !slices.Equal(got, want) {
		w.Errorf("at once: %q, want %q", got, want)
	}
}

// newLeader has another replica take over, which has seen the fleet all along.
func (w *world) newLeader() {
	var all []*swanherdv1.Alert
	for _, a := range w.stored {
		all = append(all, a)
	}
	w.machine = alert.NewMachine(all)
}

const (
	applied = swanherdv1.IntentState_INTENT_STATE_CONFIRMED
	up      = swanherdv1.TunnelStatus_TUNNEL_STATUS_UP
	isDown  = swanherdv1.TunnelStatus_TUNNEL_STATUS_DOWN
	stale   = swanherdv1.TunnelStatus_TUNNEL_STATUS_STALE
)

func TestAnAlertFiresWhenItsConditionHeldForLongEnough(t *testing.T) {
	w := newWorld(t, simple(offline))
	w.edge("berlin", true, applied)
	w.after(2 * time.Minute)
	w.edge("berlin", false, applied)
	w.at()
	w.after(59 * time.Second)
	if p := w.machine.Pending(); len(p) != 1 || p[0].GetState() != swanherdv1.Alert_STATE_PENDING {
		t.Errorf("pending are %v, want one", p)
	}
	w.after(time.Second, "+berlin")
	w.after(time.Hour)
	w.edge("berlin", true, applied)
	w.after(29 * time.Second)
	w.after(2*time.Second, "-berlin")
	w.after(time.Hour)
}

func TestWhatComesAndGoesIsOneAlert(t *testing.T) {
	w := newWorld(t, simple(offline))
	w.edge("berlin", false, applied)
	w.after(61*time.Second, "+berlin")
	for range 10 { // up for 20 s is not up for 30 s
		w.edge("berlin", true, applied)
		w.after(20 * time.Second)
		w.edge("berlin", false, applied)
		w.after(20 * time.Second)
	}
	w.edge("berlin", true, applied)
	w.after(time.Minute, "-berlin")
	for range 10 { // and what never lasts never fires
		w.edge("berlin", false, applied)
		w.after(50 * time.Second)
		w.edge("berlin", true, applied)
		w.after(time.Second)
	}
}

func TestConditions(t *testing.T) {
	for name, c := range map[string]struct {
		condition swanherdv1.AlertCondition
		bad, good func(*world)
		want      string
	}{
		"an edge is out of sync": {outOfSync,
			func(w *world) { w.edge("berlin", true, swanherdv1.IntentState_INTENT_STATE_SENT) }, func(w *world) { w.edge("berlin", true, applied) }, "berlin"},
		"an edge refused": {rejected,
			func(w *world) { w.edge("berlin", true, swanherdv1.IntentState_INTENT_STATE_REJECTED) }, func(w *world) { w.edge("berlin", true, applied) }, "berlin"},
		"an edge reverted": {reverted,
			func(w *world) { w.edge("berlin", true, swanherdv1.IntentState_INTENT_STATE_REVERTED) }, func(w *world) { w.edge("berlin", true, applied) }, "berlin"},
		"a clock is ahead": {clockWrong,
			func(w *world) { w.clock("berlin", 31*time.Second) }, func(w *world) { w.clock("berlin", 20*time.Second) }, "berlin"},
		"a clock is behind": {clockWrong,
			func(w *world) { w.clock("berlin", -time.Hour) }, func(w *world) { w.clock("berlin", -29*time.Second) }, "berlin"},
		"a tunnel is down": {down,
			func(w *world) { w.tunnel("berlin", "oslo", isDown) }, func(w *world) { w.tunnel("berlin", "oslo", up) }, "berlin--oslo"},
		"a tunnel is degraded": {degraded,
			func(w *world) { w.tunnel("berlin", "oslo", swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED) }, func(w *world) { w.tunnel("berlin", "oslo", up) }, "berlin--oslo"},
		"a path is over its SLA": {slow,
			func(w *world) { w.path("berlin", "oslo", established) }, func(w *world) { w.tunnel("berlin", "oslo", up) }, "berlin--oslo"},
		"a path is over its SLA, of a tunnel that was degraded before": {slow,
			func(w *world) { w.path("berlin", "oslo", established) },
			func(w *world) { w.path("berlin", "oslo", swanherdv1.TunnelState_TUNNEL_STATE_PARTIAL) }, "berlin--oslo"},
		"a site is isolated": {isolated,
			func(w *world) { w.tunnel("berlin", "oslo", isDown); w.tunnel("lima", "oslo", up) }, func(w *world) { w.tunnel("berlin", "oslo", up) }, "berlin"},
		"replicas are missing": {fewer,
			func(w *world) { w.in.Replicas = 2 }, func(w *world) { w.in.Replicas = 3 }, "-"},
		"many edges are lost": {massLoss, func(w *world) {
			for i := range 10 {
				w.edge(fmt.Sprintf("berlin-%d", i), i > 2, applied)
			}
		}, func(w *world) { w.edge("berlin-0", true, applied) }, "demo"},
	} {
		t.Run(name, func(t *testing.T) {
			r := simple(c.condition)
			if c.condition == fewer {
				r.MinReplicas = 3
			}
			w := newWorld(t, r)
			c.good(w)
			w.after(5 * time.Second)
			c.bad(w)
			if c.condition == fewer { // looked at in each step, so from the start
				w.after(66*time.Second, "+"+c.want)
			} else {
				w.at()
				w.after(60*time.Second, "+"+c.want)
			}
			c.good(w)
			w.after(time.Minute, "-"+c.want)
		})
	}
}

// What cannot be known begins nothing and ends nothing.
func TestUnknownChangesNothing(t *testing.T) {
	w := newWorld(t, simple(down))
	w.tunnel("berlin", "oslo", stale)
	w.after(time.Hour)
	w.tunnel("berlin", "oslo", isDown)
	w.at()
	for range 5 { // tried again and again
		w.after(10 * time.Second)
		w.tunnel("berlin", "oslo", swanherdv1.TunnelStatus_TUNNEL_STATUS_NEGOTIATING)
		w.after(time.Second)
		w.tunnel("berlin", "oslo", isDown)
	}
	w.after(10*time.Second, "+berlin--oslo")
	w.tunnel("berlin", "oslo", stale)
	w.after(time.Hour)
	w.in.Fleet.RemovedTunnels = []string{"networks/demo/tunnels/berlin--oslo"}
	w.at("-berlin--oslo")
}

func TestAnEdgeWithAReplicaThatCannotBeReachedIsNotOffline(t *testing.T) {
	w := newWorld(t, simple(offline), func() *swanherdv1.AlertRule {
		r := simple(massLoss)
		r.Name += "2"
		return r
	}())
	for _, id := range []string{"berlin", "oslo", "lima"} {
		w.edge(id, false, applied)
	}
	w.in.Fleet.Unreachable = map[string]struct{}{}
	for _, e := range w.in.Fleet.Edges {
		w.in.Fleet.Unreachable[e.GetName()] = struct{}{}
	}
	w.after(time.Hour)
}

// A mass that is lost is told once, and each edge of it that is lost yet when the mass is
// back.
func TestAMassOfEdgesIsOneAlert(t *testing.T) {
	all := simple(massLoss)
	all.Name += "2"
	w := newWorld(t, simple(offline), all)
	edges := func(lost int) {
		for i := range 10 {
			w.edge(fmt.Sprintf("berlin-%d", i), i >= lost, applied)
		}
	}
	edges(1)
	w.after(time.Minute, "+berlin-0") // alone
	edges(10)
	w.at()
	w.after(time.Minute, "+demo")
	w.after(time.Hour)
	edges(2)
	w.at("+berlin-1")
	w.after(30*time.Second, "-demo")
	edges(0)
	w.at()
	w.after(30*time.Second, "-berlin-0", "-berlin-1")
}

func TestAnotherLeaderGoesOn(t *testing.T) {
	w := newWorld(t, simple(offline))
	w.edge("berlin", false, applied)
	w.edge("oslo", true, applied)
	w.after(61*time.Second, "+berlin")
	w.edge("oslo", false, applied)
	lost := w.now
	w.after(40 * time.Second)
	w.newLeader()
	w.edge("berlin", false, applied)
	w.in.Fleet.Edges[0].Status.LastSeenTime = timestamppb.New(w.began)
	w.edge("oslo", false, applied)
	w.in.Fleet.Edges[1].Status.LastSeenTime = timestamppb.New(lost) // as every replica knows
	w.after(19 * time.Second)
	w.after(time.Second, "+oslo")
	w.newLeader()
	w.edge("berlin", true, applied)
	w.in.Fleet.RemovedEdges = []string{"networks/demo/edges/oslo"} // between the two
	w.at("-oslo")
	w.after(30*time.Second, "-berlin")
}

// A controller that was off does not count that as time for which edges were lost.
func TestWhatWasBeforeTheStartDoesNotCount(t *testing.T) {
	w := newWorld(t, simple(offline))
	w.edge("berlin", false, applied)
	w.in.Fleet.Edges[0].Status.LastSeenTime = timestamppb.New(w.began.Add(-24 * time.Hour))
	w.after(59 * time.Second)
	w.after(time.Second, "+berlin")
	if since := w.machine.Pending(); len(since) != 0 {
		t.Errorf("pending is still %v", since)
	}
}

func TestRulesAreAboutWhatTheySelect(t *testing.T) {
	emea := simple(offline)
	emea.MatchLabels = map[string]string{"region": "emea"}
	other := simple(offline)
	other.Name = "networks/other/alertRules/r"
	w := newWorld(t, emea, other)
	w.edge("berlin", false, applied)
	w.edge("lima", false, applied)
	w.after(61*time.Second, "+berlin")
	w.site("lima", map[string]string{"region": "emea"})
	w.site("berlin", nil)
	w.at("-berlin", "+lima") // which has been offline for long enough
	off := simple(offline)
	off.Disabled = true
	w.rule(off)
	w.at("-lima")
	w.rule(simple(offline))
	w.at("+berlin", "+lima")
	w.in.Rules = w.in.Rules.Without("networks/-/alertRules/r")
	w.at("-berlin", "-lima")
}

func TestOfManyMostAreOneAlert(t *testing.T) {
	w := newWorld(t, simple(offline))
	for i := range 1000 {
		w.edge(fmt.Sprintf("berlin-%d", i), false, applied)
	}
	w.now = w.now.Add(time.Second)
	w.step()
	w.now = w.now.Add(time.Minute)
	fired := w.step()
	if len(fired) != 51 || !slices.Contains(fired, "+demo") {
		t.Fatalf("%d alerts fire, want 50 and one for the rest", len(fired))
	}
	for _, a := range w.stored {
		if a.GetResource() == "networks/demo" && !strings.HasPrefix(a.GetSummary(), "the same of 950 more, such as berlin-") {
			t.Errorf("the rest is told as %q", a.GetSummary())
		}
	}
	w.after(10 * time.Second)
	w.newLeader()
	for i := range 1000 {
		w.edge(fmt.Sprintf("berlin-%d", i), i >= 40, applied)
		w.in.Fleet.Edges[i].Status.LastSeenTime = timestamppb.New(w.began)
	}
	w.after(29 * time.Second)
	w.now = w.now.Add(10 * time.Second)
	if got := w.step(); !slices.Contains(got, "-demo") {
		t.Errorf("the rest is over, and not resolved: %q", got)
	}
	firing := 0
	for _, a := range w.stored {
		if a.GetState() == swanherdv1.Alert_STATE_FIRING {
			firing++
		}
	}
	if w.now = w.now.Add(time.Minute); firing > 50 {
		t.Errorf("%d alerts fire of 40 edges", firing)
	}
}

func TestCertificatesThatEnd(t *testing.T) {
	r := simple(expiring)
	r.PendingFor, r.KeepFiringFor = nil, nil
	r.ExpiresWithin = durationpb.New(14 * 24 * time.Hour)
	a := simple(authority)
	a.Name, a.PendingFor, a.KeepFiringFor = "networks/-/alertRules/a", nil, nil
	w := newWorld(t, r, a)
	w.edge("berlin", true, applied)
	w.edge("oslo", true, applied)
	day := 24 * time.Hour
	w.in.Expiries = []pki.Expiry{
		{Resource: "networks/demo/edges/berlin", What: "ike", Expires: w.now.Add(14*day + time.Minute)},
		{Resource: "networks/demo/certificateAuthority", What: "authority", Expires: w.now.Add(14*day + time.Minute)},
		{Resource: "networks/demo/edges/berlin", What: "control", Expires: w.now.Add(20 * day)},
		{Resource: "networks/demo/edges/oslo", What: "ike", Expires: w.now.Add(60 * day)},
	}
	w.after(59 * time.Second)
	w.now = w.now.Add(time.Second)
	if got := w.step(); len(got) != 2 || !slices.Contains(got, "+berlin") || !slices.Contains(got, "+certificateAuthority") {
		t.Errorf("what ends within two weeks: %q", got)
	}
	w.in.Expiries = []pki.Expiry{
		{Resource: "networks/demo/certificateAuthority", What: "authority", Expires: w.now.Add(14 * day)},
		{Resource: "networks/demo/edges/berlin", What: "ike", Expires: w.now.Add(90 * day)},
	}
	w.at("-berlin")
	long := simple(expiring)
	long.PendingFor, long.KeepFiringFor, long.ExpiresWithin = nil, nil, durationpb.New(60*day)
	w.rule(long)
	w.in.Expiries = []pki.Expiry{
		{Resource: "certificateAuthorities/controller", What: "authority", Expires: w.now.Add(13 * day)},
		{Resource: "networks/demo/edges/berlin", What: "control", Expires: w.now.Add(29 * day)},
	}
	w.at("-certificateAuthority", "+controller")
	w.in.Expiries = []pki.Expiry{{Resource: "networks/demo/edges/berlin", What: "control", Expires: w.now.Add(29 * day)}}
	w.at("-controller") // gone; and a certificate that never lasts for 60 days is no news
}

// An external authority that does not sign is an alert of the network's authority, from when it
// was first asked in vain until it signs or is asked no more.
func TestUnsignedAuthority(t *testing.T) {
	r := simple(unsigned)
	w := newWorld(t, r)
	store := func(network string, failure *storev1.SigningFailure) {
		w.revision++
		name := model.NetworkAuthorities + network
		w.in.Authorities = w.in.Authorities.With(model.Row[*storev1.CertificateAuthority]{Name: name, Revision: w.revision, Value: &storev1.CertificateAuthority{
			Name: name, Rotation: &storev1.AuthorityRotation{ExternalAuthority: "corp", SigningFailure: failure},
		}})
	}
	store("demo", nil)
	w.after(2 * time.Minute)
	store("demo", &storev1.SigningFailure{SinceTime: timestamppb.New(w.now), Reason: "connection refused"})
	w.after(59 * time.Second)
	store("demo", &storev1.SigningFailure{SinceTime: timestamppb.New(w.now.Add(-59 * time.Second)), Reason: "403"})
	w.after(2*time.Second, "+certificateAuthority")
	for _, a := range w.stored {
		if a.GetResource() != "networks/demo/certificateAuthority" || a.GetSummary() != "corp does not sign the new authority: 403" {
			t.Errorf("fired %v", a)
		}
	}
	w.newLeader()
	w.after(2 * time.Minute)
	store("demo", nil)
	w.after(29 * time.Second)
	w.after(2*time.Second, "-certificateAuthority")
	store("demo", &storev1.SigningFailure{SinceTime: timestamppb.New(w.now), Reason: "403"})
	w.after(61*time.Second, "+certificateAuthority")
	w.in.Authorities = model.Table[*storev1.CertificateAuthority]{} // the network is deleted
	w.after(31*time.Second, "-certificateAuthority")
}

func TestNamesAreTheSameEachTime(t *testing.T) {
	w := newWorld(t, simple(offline))
	for range 2 {
		w.edge("berlin", false, applied)
		w.after(61*time.Second, "+berlin")
		w.edge("berlin", true, applied)
		w.after(31*time.Second, "-berlin")
	}
	if len(w.stored) != 1 {
		t.Errorf("one rule about one edge has %d names", len(w.stored))
	}
	for name := range w.stored {
		if !strings.HasPrefix(name, "networks/demo/alerts/a") {
			t.Errorf("the alert's name is %s, not one in the network of the edge", name)
		}
	}
}

func TestTheDefaultRulesAreGoodOnes(t *testing.T) {
	for _, r := range alert.Defaults() {
		if wrong := alert.Mistakes(r); len(wrong) > 0 {
			t.Errorf("%s: %v", r.GetName(), wrong)
		}
	}
}

func TestMistakesOfRules(t *testing.T) {
	for name, c := range map[string]struct {
		rule *swanherdv1.AlertRule
		want string
	}{
		"labels of a network":       {&swanherdv1.AlertRule{Condition: massLoss, MatchLabels: map[string]string{"a": "b"}}, "match_labels"},
		"the end of an edge":        {&swanherdv1.AlertRule{Condition: offline, ExpiresWithin: durationpb.New(time.Hour)}, "expires_within"},
		"a share of a tunnel":       {&swanherdv1.AlertRule{Condition: down, MinPercent: 3}, "min_percent"},
		"replicas without a number": {&swanherdv1.AlertRule{Name: "networks/-/alertRules/r", Condition: fewer}, "min_replicas"},
		"replicas of a network":     {&swanherdv1.AlertRule{Name: "networks/demo/alertRules/r", Condition: fewer, MinReplicas: 3}, "condition"},
		"replicas of an edge":       {&swanherdv1.AlertRule{Condition: offline, MinReplicas: 3}, "min_replicas"},
	} {
		if got := alert.Mistakes(c.rule); got[c.want] == "" || len(got) != 1 {
			t.Errorf("%s: %v, want %s", name, got, c.want)
		}
	}
}

// An alert about one of several paths says how many there are left.
func TestATunnelWithAlternatives(t *testing.T) {
	w := newWorld(t, simple(down))
	path := func(uplink string, status swanherdv1.TunnelStatus) {
		w.tunnel("berlin", "oslo", status)
		n := w.in.Fleet.Tunnels[len(w.in.Fleet.Tunnels)-1]
		n.Path = &swanherdv1.TunnelPath{Group: n.GetName()}
		n.Name += "." + uplink + ".wan"
	}
	for _, uplink := range []string{"dsl", "lte", "mpls"} {
		path(uplink, up)
	}
	w.after(time.Second)
	path("lte", isDown)
	w.after(62*time.Second, "+berlin--oslo.lte.wan")
	path("dsl", isDown)
	w.after(62*time.Second, "+berlin--oslo.dsl.wan")
	for tunnel, want := range map[string]string{"lte": "2 of the 3 tunnels that carry the same are up", "dsl": "1 of the 3 tunnels that carry the same are up"} {
		for _, a := range w.stored {
			if strings.HasSuffix(a.GetResource(), "."+tunnel+".wan") && !strings.HasSuffix(a.GetSummary(), want) {
				t.Errorf("%s: %q, want %q", a.GetResource(), a.GetSummary(), want)
			}
		}
	}
	if len(w.stored) != 2 {
		t.Errorf("alerts are %v", w.stored)
	}
}
