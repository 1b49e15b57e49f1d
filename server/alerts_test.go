package server_test

import (
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	standard "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// receiver is somebody who gets webhooks, and proves that they are the controller's.
type receiver struct {
	t        testing.TB
	server   *httptest.Server
	verifier *standard.Webhook

	mu     sync.Mutex
	refuse int // how many to answer 503 first
	tries  map[string]int
	got    chan event
}

type event struct {
	ID, Type, Subject string
	Data              struct{ Name, State, Rule, Severity, Summary string }
}

const testSecret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

func newReceiver(t testing.TB, refuse int) *receiver {
	t.Helper()
	verifier, err := standard.NewWebhook(testSecret)
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{t: t, verifier: verifier, refuse: refuse, tries: map[string]int{}, got: make(chan event, 100)}
	r.server = httptest.NewTLSServer(r)
	t.Cleanup(r.server.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the controller ended
	}
	if err := r.verifier.Verify(body, req.Header); err != nil {
		r.t.Errorf("the signature is wrong: %v", err)
	}
	var e event
	if err := json.Unmarshal(body, &e); err != nil {
		r.t.Error(err)
	}
	if e.ID != req.Header.Get("webhook-id") {
		r.t.Errorf("the event is %s, the webhook %s", e.ID, req.Header.Get("webhook-id"))
	}
	r.mu.Lock()
	r.tries[e.ID]++
	r.refuse--
	refused := r.refuse >= 0
	r.mu.Unlock()
	if refused {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	r.got <- e
}

func (r *receiver) sink() *swanherdv1.WebhookSink {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.server.Certificate().Raw})
	return &swanherdv1.WebhookSink{Url: r.server.URL + "/alerts", Secret: testSecret, CaCertificates: string(ca)}
}

// next waits for the next event that was taken.
func (r *receiver) next(what string) event {
	r.t.Helper()
	select {
	case e := <-r.got:
		return e
	case <-time.After(30 * time.Second):
		r.t.Fatalf("no webhook about %s", what)
		return event{}
	}
}

func alertingController(t testing.TB) *controller {
	c := startController(t)
	c.cfg.WebhookAllowLocal = true
	c.restart()
	c.apply()
	return c
}

func (c *controller) sink(network string, sink *swanherdv1.WebhookSink) *swanherdv1.WebhookSink {
	c.t.Helper()
	made, err := c.alerts().CreateWebhookSink(c.t.Context(), &swanherdv1.CreateWebhookSinkRequest{Parent: network, WebhookSinkId: "noc", WebhookSink: sink})
	if err != nil {
		c.t.Fatal(err)
	}
	return made
}

func offlineRule() *swanherdv1.AlertRule {
	return &swanherdv1.AlertRule{
		Condition: swanherdv1.AlertCondition_ALERT_CONDITION_EDGE_OFFLINE, Severity: swanherdv1.AlertSeverity_ALERT_SEVERITY_CRITICAL,
		PendingFor: durationpb.New(time.Second), KeepFiringFor: durationpb.New(time.Second),
	}
}

func (c *controller) alertRule(network, id string, r *swanherdv1.AlertRule) {
	c.t.Helper()
	if _, err := c.alerts().CreateAlertRule(c.t.Context(), &swanherdv1.CreateAlertRuleRequest{Parent: network, AlertRuleId: id, AlertRule: r}); err != nil {
		c.t.Fatal(err)
	}
}

// An edge that loses its session becomes an alert, and the alert a webhook, though the
// receiver refuses it at first and the controller starts anew in between; and so does
// its end.
func TestAnAlertIsDelivered(t *testing.T) {
	c := alertingController(t)
	r := newReceiver(t, 2)
	c.sink("networks/demo", r.sink())
	c.alertRule("networks/-", "gone", offlineRule())
	e := c.enrolled("berlin")
	e.open()
	c.counted("a session", func(n *swanherdv1.FleetCounts) bool { return n.GetEdgesConnected() == 1 })
	if err := e.hangUp(); err != nil {
		t.Fatal(err)
	}
	fired := r.next("the loss of an edge")
	if fired.Type != "dev.swanherd.alert.firing" || fired.Subject != e.name || fired.Data.Rule != "networks/-/alertRules/gone" || fired.Data.Severity != "ALERT_SEVERITY_CRITICAL" {
		t.Errorf("the webhook says %+v", fired)
	}
	r.mu.Lock()
	if r.tries[fired.ID] != 3 || len(r.tries) != 1 {
		t.Errorf("tries were %v, want 3 under one id", r.tries)
	}
	r.mu.Unlock()
	alerts, err := c.alerts().ListAlerts(t.Context(), &swanherdv1.ListAlertsRequest{Parent: "networks/demo", Filter: "state = STATE_FIRING"})
	if err != nil || len(alerts.GetAlerts()) != 1 || alerts.GetAlerts()[0].GetResource() != e.name {
		t.Errorf("alerts that fire are %v, %v", alerts, err)
	}
	c.restart()
	again := &testEdge{t: t, c: c, control: e.control, name: e.name, chain: e.chain, changed: make(chan struct{}, 1)}
	again.open()
	over := r.next("its return")
	if over.Type != "dev.swanherd.alert.resolved" || over.Data.Name != fired.Data.Name {
		t.Errorf("the webhook says %+v after %+v", over, fired)
	}
	events, err := c.fleet().ListEvents(t.Context(), &swanherdv1.ListEventsRequest{Parent: "networks/demo", Filter: "action:alert"})
	if err != nil {
		t.Fatal(err)
	}
	var actions []string
	for _, e := range events.GetEvents() {
		if e.GetKind() == swanherdv1.Event_KIND_TRANSITION {
			actions = append(actions, e.GetAction())
		}
	}
	if !slices.Equal(actions, []string{"alert.resolved", "alert.firing"}) {
		t.Errorf("events are %q", actions)
	}
}

// A network's receiver gets that network's alerts; one of the fleet those that it wants.
func TestReceiversGetWhatIsTheirs(t *testing.T) {
	c := alertingController(t)
	other := manifest()
	other.Networks[0].Name, other.Profiles, other.Meshes, other.Sites = "networks/other", nil, nil, nil
	if _, err := c.topology().Apply(t.Context(), &swanherdv1.ApplyRequest{Manifest: other}); err != nil {
		t.Fatal(err)
	}
	theirs, all, urgent := newReceiver(t, 0), newReceiver(t, 0), newReceiver(t, 0)
	c.sink("networks/other", theirs.sink())
	c.sink("networks/-", all.sink())
	sink := urgent.sink()
	sink.MinSeverity = swanherdv1.AlertSeverity_ALERT_SEVERITY_CRITICAL
	c.sink("networks/demo", sink)
	mild := offlineRule()
	mild.Severity = swanherdv1.AlertSeverity_ALERT_SEVERITY_INFO
	c.alertRule("networks/demo", "gone", mild)
	e := c.enrolled("berlin")
	e.open()
	c.counted("a session", func(n *swanherdv1.FleetCounts) bool { return n.GetEdgesConnected() == 1 })
	if err := e.hangUp(); err != nil {
		t.Fatal(err)
	}
	if got := all.next("the loss of an edge"); got.Subject != e.name {
		t.Errorf("the receiver of all got %+v", got)
	}
	if len(theirs.got)+len(urgent.got) != 0 {
		t.Error("a receiver got what it is not to get")
	}
}

func TestTheRulesByDefault(t *testing.T) {
	c := startController(t)
	list := func() (ids []string) {
		rules, err := c.alerts().ListAlertRules(t.Context(), &swanherdv1.ListAlertRulesRequest{Parent: "networks/-"})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rules.GetAlertRules() {
			ids = append(ids, strings.TrimPrefix(r.GetName(), "networks/-/alertRules/"))
		}
		return ids
	}
	deadline := time.Now().Add(15 * time.Second)
	for len(list()) == 0 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond) // the leader makes them
	}
	if got := list(); !slices.Equal(got, []string{"assertion-broken", "authority-expiring", "authority-unsigned", "certificate-expiring", "edge-clock", "edge-offline", "mass-loss", "site-isolated"}) {
		t.Fatalf("rules are %q", got)
	}
	ctx, name := t.Context(), "networks/-/alertRules/edge-offline"
	changed, err := c.alerts().UpdateAlertRule(ctx, &swanherdv1.UpdateAlertRuleRequest{AlertRule: &swanherdv1.AlertRule{Name: name, PendingFor: durationpb.New(time.Hour)}})
	if err != nil || changed.GetPendingFor().GetSeconds() != 3600 || changed.GetKeepFiringFor().GetSeconds() != 60 {
		t.Fatalf("%v, %v", changed, err)
	}
	if _, err := c.alerts().UpdateAlertRule(ctx, &swanherdv1.UpdateAlertRuleRequest{AlertRule: &swanherdv1.AlertRule{Name: name, Etag: "1", Disabled: true}}); status.Code(err) != codes.Aborted {
		t.Errorf("an update at an old etag: %v", err)
	}
	if _, err := c.alerts().DeleteAlertRule(ctx, &swanherdv1.DeleteAlertRuleRequest{Name: "networks/-/alertRules/mass-loss", Etag: ""}); err != nil {
		t.Fatal(err)
	}
	c.restart()
	if got := list(); !slices.Equal(got, []string{"assertion-broken", "authority-expiring", "authority-unsigned", "certificate-expiring", "edge-clock", "edge-offline", "site-isolated"}) {
		t.Errorf("after a restart rules are %q", got)
	}
}

// A secret is never shown, whatever is asked for, and not in the store in clear.
func TestSecretsOfSinksAreNotShown(t *testing.T) {
	c := alertingController(t)
	r := newReceiver(t, 0)
	made := c.sink("networks/demo", r.sink())
	read, err := c.alerts().GetWebhookSink(t.Context(), &swanherdv1.GetWebhookSinkRequest{Name: made.GetName()})
	if err != nil {
		t.Fatal(err)
	}
	list, err := c.alerts().ListWebhookSinks(t.Context(), &swanherdv1.ListWebhookSinksRequest{Parent: "networks/-"})
	if err != nil {
		t.Fatal(err)
	}
	changed, err := c.alerts().UpdateWebhookSink(t.Context(), &swanherdv1.UpdateWebhookSinkRequest{WebhookSink: &swanherdv1.WebhookSink{Name: made.GetName(), DisplayName: "NOC"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, sink := range append(list.GetWebhookSinks(), made, read, changed) {
		if sink.GetSecret() != "" || sink.GetEtag() == "" || sink.GetUrl() == "" {
			t.Errorf("shown is %v", sink)
		}
	}
	test, err := c.alerts().TestWebhookSink(t.Context(), &swanherdv1.TestWebhookSinkRequest{Name: made.GetName()})
	if err != nil || !test.GetDelivered() || test.GetStatusCode() != 200 {
		t.Errorf("a test of it: %v, %v", test, err)
	}
	if got := r.next("a test"); got.Type != "dev.swanherd.alert.test" {
		t.Errorf("the test is %+v", got)
	}
	_, body := c.rest("GET", "/v1/networks/demo/events", c.token, "")
	if strings.Contains(body, testSecret[6:]) {
		t.Error("the audit log holds the secret")
	}
	r.server.Close()
	test, err = c.alerts().TestWebhookSink(t.Context(), &swanherdv1.TestWebhookSinkRequest{Name: made.GetName()})
	if err != nil || test.GetDelivered() || test.GetError() == "" {
		t.Errorf("a test of a receiver that is gone: %v, %v", test, err)
	}
}

func TestReceiversOnThisHostNeedTheFlag(t *testing.T) {
	c := startController(t)
	c.apply()
	for _, url := range []string{"https://127.0.0.1:9/", "https://169.254.169.254/latest/meta-data", "http://noc.example.net/"} {
		sink := newReceiver(t, 0).sink()
		sink.Url = url
		_, err := c.alerts().CreateWebhookSink(t.Context(), &swanherdv1.CreateWebhookSinkRequest{Parent: "networks/demo", WebhookSinkId: "noc", WebhookSink: sink})
		if status.Code(err) != codes.InvalidArgument || !slices.Equal(violated(err), []string{"webhook_sink.url"}) {
			t.Errorf("%s: %v", url, err)
		}
	}
	sink := newReceiver(t, 0).sink()
	sink.Url = strings.Replace(sink.GetUrl(), "127.0.0.1", "localhost", 1) // nobody can tell before it is dialled
	made := c.sink("networks/demo", sink)
	test, err := c.alerts().TestWebhookSink(t.Context(), &swanherdv1.TestWebhookSinkRequest{Name: made.GetName()})
	if err != nil || test.GetDelivered() || !strings.Contains(test.GetError(), "--webhook-allow-local") {
		t.Errorf("%v, %v", test, err)
	}
}

// Who is bound to a network has no say in what is of the whole fleet.
func TestTenantsHaveNoFleetWideRules(t *testing.T) {
	c := startController(t)
	c.apply()
	token, err := c.access().CreateApiToken(t.Context(), &swanherdv1.CreateApiTokenRequest{ApiToken: &swanherdv1.ApiToken{
		Role: swanherdv1.Role_ROLE_ADMIN, Networks: []string{"networks/demo"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	tenant := swanherdv1.NewAlertServiceClient(c.dial(token.GetSecret()))
	ctx, name := t.Context(), "networks/-/alertRules/edge-offline"
	_, get := tenant.GetAlertRule(ctx, &swanherdv1.GetAlertRuleRequest{Name: name})
	_, update := tenant.UpdateAlertRule(ctx, &swanherdv1.UpdateAlertRuleRequest{AlertRule: &swanherdv1.AlertRule{Name: name, Disabled: true}})
	_, remove := tenant.DeleteAlertRule(ctx, &swanherdv1.DeleteAlertRuleRequest{Name: name})
	_, create := tenant.CreateAlertRule(ctx, &swanherdv1.CreateAlertRuleRequest{Parent: "networks/-", AlertRuleId: "x", AlertRule: offlineRule()})
	_, sink := tenant.CreateWebhookSink(ctx, &swanherdv1.CreateWebhookSinkRequest{Parent: "networks/-", WebhookSinkId: "x", WebhookSink: newReceiver(t, 0).sink()})
	_, test := tenant.TestWebhookSink(ctx, &swanherdv1.TestWebhookSinkRequest{Name: "networks/-/webhookSinks/noc"})
	for what, err := range map[string]error{"get": get, "update": update, "delete": remove, "create": create, "create a sink": sink, "test": test} {
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v, want PERMISSION_DENIED", what, err)
		}
	}
	list, err := tenant.ListAlertRules(ctx, &swanherdv1.ListAlertRulesRequest{Parent: "networks/-"})
	if err != nil || len(list.GetAlertRules()) != 0 {
		t.Errorf("a tenant sees %v, %v", list, err)
	}
}

func TestCommandLineAlerts(t *testing.T) {
	c := alertingController(t)
	x, r := c.terminal(), newReceiver(t, 0)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	secret := filepath.Join(t.TempDir(), "secret")
	for file, text := range map[string]string{ca: r.sink().GetCaCertificates(), secret: testSecret + "\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	x.says(0, "", "webhook create noc --url "+r.server.URL+" --ca "+ca+" --secret-file "+secret, "networks/demo/webhookSinks/noc created", "!whsec_")
	x.says(0, "", "webhook test noc", "took it: status 200")
	x.says(0, "", "webhook create other --url https://noc.example.net/ --min-severity critical", "secret, which is not shown again: whsec_")
	x.says(0, "", "get webhooks", "noc", "https://noc.example.net/", "CRITICAL")
	x.says(3, "", "webhook create third --url http://noc.example.net/", "webhook_sink.url: is not of the form https://host/path")
	x.says(64, "", "webhook create third --url https://noc.example.net/ --min-severity loud", "not one of info, warning, critical")
	x.says(0, "name: networks/demo/alertRules/down\ncondition: ALERT_CONDITION_TUNNEL_DOWN\nseverity: ALERT_SEVERITY_CRITICAL\npendingFor: 30s\n", "alert apply -f -", "networks/demo/alertRules/down applied")
	x.says(0, "", "get alertrules", "down", "TUNNEL_DOWN", "30s")
	x.says(0, "", "get alertrules -n - edge-offline -o yaml", "pendingFor: 120s", "networks/-/alertRules/edge-offline")
	x.says(3, "name: networks/demo/alertRules/down\ncondition: ALERT_CONDITION_TUNNEL_DOWN\nseverity: ALERT_SEVERITY_CRITICAL\nminPercent: 3\n", "alert apply -f -", "alert_rule.min_percent: is for MASS_LOSS")
	x.says(64, "nonsense: 1\n", "alert apply -f -", "nonsense")
	x.says(0, "", "alert list --filter state=FIRING", "STATE")
	x.says(0, "", "delete alertrule down", "networks/demo/alertRules/down")
	x.says(4, "", "get alertrule down", "does not exist")
}

// An alert that fires goes on firing when another replica leads, and is resolved by that
// one under the same name.
func TestAnAlertOutlivesTheLeader(t *testing.T) {
	replicas := startReplicas(t)
	lead := -1
	for deadline := time.Now().Add(30 * time.Second); lead < 0 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		lead = slices.IndexFunc(replicas, func(c *controller) bool { return strings.Contains(c.metrics(), "swanherd_leader 1") })
	}
	if lead < 0 {
		t.Fatal("nobody leads")
	}
	leader, other := replicas[lead], replicas[(lead+1)%3]
	leader.apply()
	r := newReceiver(t, 0)
	leader.sink("networks/demo", r.sink())
	leader.alertRule("networks/demo", "gone", offlineRule())
	e := leader.enrolled("berlin")
	e.at(other)
	other.counted("a session", func(n *swanherdv1.FleetCounts) bool { return n.GetEdgesConnected() == 1 })
	if err := e.hangUp(); err != nil {
		t.Fatal(err)
	}
	fired := r.next("the loss of an edge")
	if err := leader.s.Close(); err != nil {
		t.Fatal(err)
	}
	e.at(other)
	over := r.next("its return")
	if over.ID == fired.ID { // the leader ended before it had noted the delivery: a receiver knows it by its ID
		over = r.next("its return")
	}
	if fired.Type != "dev.swanherd.alert.firing" || over.Type != "dev.swanherd.alert.resolved" || over.Data.Name != fired.Data.Name {
		t.Errorf("the webhooks were %+v and %+v", fired, over)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.tries) != 2 {
		t.Errorf("there were %d messages, want 2: %v", len(r.tries), r.tries)
	}
}

// The alerts of a network go with it: one that takes its name later has none of them.
func TestAlertsGoWithTheirNetwork(t *testing.T) {
	c := startController(t)
	gone, stays := c.populated("networks/alpha"), c.populated("networks/beta")
	gone.alert(t)
	stays.alert(t)
	topology, ctx := c.topology(), t.Context()
	if _, err := topology.DeleteGateway(ctx, &swanherdv1.DeleteGatewayRequest{Name: gone.network + "/gateways/partner"}); err != nil {
		t.Fatal(err)
	}
	for _, edge := range []string{"berlin", "oslo"} {
		if _, err := topology.DeleteEdge(ctx, &swanherdv1.DeleteEdgeRequest{Name: gone.network + "/edges/" + edge}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := topology.Apply(ctx, &swanherdv1.ApplyRequest{Manifest: &swanherdv1.Manifest{Networks: []*swanherdv1.Network{{Name: gone.network}}}, Prune: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := topology.DeleteNetwork(ctx, &swanherdv1.DeleteNetworkRequest{Name: gone.network}); err != nil {
		t.Fatal(err)
	}
	c.resolves(stays.network) // with what the leader makes of all that, or after it
	if _, err := topology.CreateNetwork(ctx, &swanherdv1.CreateNetworkRequest{NetworkId: "alpha"}); err != nil {
		t.Fatal(err)
	}
	list, err := c.alerts().ListAlerts(ctx, &swanherdv1.ListAlertsRequest{Parent: gone.network, Filter: "state != PENDING"})
	if err != nil || len(list.GetAlerts()) > 0 {
		t.Errorf("a new network has the alerts of the old one: %v, %v", list.GetAlerts(), err)
	}
}

// resolves takes away the rule that an alert is by.
func (c *controller) resolves(network string) {
	c.t.Helper()
	if _, err := c.alerts().DeleteAlertRule(c.t.Context(), &swanherdv1.DeleteAlertRuleRequest{Name: network + "/alertRules/offline"}); err != nil {
		c.t.Fatal(err)
	}
	c.eventually("the alert is resolved", func() bool {
		list, err := c.alerts().ListAlerts(c.t.Context(), &swanherdv1.ListAlertsRequest{Parent: network, Filter: "state = RESOLVED"})
		return err == nil && len(list.GetAlerts()) > 0
	})
}
