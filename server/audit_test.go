package server_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// auditEvents are the audit events that a filter finds, newest first.
func (c *controller) auditEvents(filter string) []*swanherdv1.Event {
	c.t.Helper()
	resp, err := c.fleet().ListEvents(c.t.Context(), &swanherdv1.ListEventsRequest{Parent: "networks/-", Filter: "kind = AUDIT AND " + filter})
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.GetEvents()
}

func changesOf(e *swanherdv1.Event) string {
	var out []string
	for _, c := range e.GetChanges() {
		out = append(out, fmt.Sprintf("%s: %s -> %s", c.GetPath(), c.GetOldValue(), c.GetNewValue()))
	}
	return strings.Join(out, "; ")
}

// An audit event says who changed what from where, with which request, and what each
// field was and is.
func TestAuditSaysFromWhereAndWhat(t *testing.T) {
	c := startController(t)
	c.apply()
	updated, err := c.topology().UpdateSite(t.Context(), &swanherdv1.UpdateSiteRequest{
		Site:       &swanherdv1.Site{Name: "networks/demo/sites/oslo", DisplayName: "Oslo", Labels: map[string]string{"region": "emea"}},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name", "labels"}}, RequestId: requestA,
	})
	if err != nil {
		t.Fatal(err)
	}
	events := c.auditEvents(`resource = "networks/demo/sites/oslo" AND source.request_id = "` + requestA + `"`)
	if len(events) != 1 {
		t.Fatalf("events are %v", events)
	}
	e := events[0]
	if s := e.GetSource(); e.GetActor() != "token:admin" || s.GetCredential() != "token:admin" || s.GetAddress() != "127.0.0.1" ||
		!strings.HasPrefix(s.GetUserAgent(), "grpc-go/") || s.GetMethod() != swanherdv1.TopologyService_UpdateSite_FullMethodName {
		t.Errorf("from %v", s)
	}
	if got := changesOf(e); got != `display_name:  -> "Oslo"; labels.region:  -> "emea"` {
		t.Errorf("changed %s", got)
	}
	if fmt.Sprint(e.GetRevision()) != updated.GetEtag() {
		t.Errorf("revision %d, the site is at %s", e.GetRevision(), updated.GetEtag())
	}

	if _, err := c.topology().DeleteSite(t.Context(), &swanherdv1.DeleteSiteRequest{Name: "networks/demo/sites/oslo"}); err != nil {
		t.Fatal(err)
	}
	if got := changesOf(c.auditEvents(`action = "site.delete"`)[0]); got != `display_name: "Oslo" -> ; labels.region: "emea" -> ; prefixes: ["10.2.0.0/16"] -> ` {
		t.Errorf("deleted %s", got)
	}

	// By REST it is the client's address and user agent, not those of the gateway.
	resp, _ := c.restWith("PATCH", "/v1/networks/demo/sites/rome", `{"displayName": "Roma"}`, http.Header{
		"Authorization": {"Bearer " + c.token}, "User-Agent": {"cürl/8 " + strings.Repeat("x", 5000)},
	})
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	s := c.auditEvents(`resource:"sites/rome" AND action = "site.update"`)[0].GetSource()
	if s.GetAddress() != "127.0.0.1" || !strings.HasPrefix(s.GetUserAgent(), "crl/8 xx") || len(s.GetUserAgent()) > 200 {
		t.Errorf("by REST from %v", s)
	}
}

// The audit of tokens shows no secret, and that of what is refused says from where too.
func TestAuditOfTokens(t *testing.T) {
	c := startController(t)
	c.apply()
	made, err := c.access().CreateApiToken(t.Context(), &swanherdv1.CreateApiTokenRequest{ApiToken: &swanherdv1.ApiToken{Role: swanherdv1.Role_ROLE_VIEWER}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.access().RotateApiToken(t.Context(), &swanherdv1.RotateApiTokenRequest{Name: made.GetName()}); err != nil {
		t.Fatal(err)
	}
	rotated := c.auditEvents(`action = "apiToken.rotate"`)[0]
	if got := changesOf(rotated); !strings.Contains(got, "secret_sha256: (secret) -> (secret)") || strings.Contains(got, "swa_") {
		t.Errorf("rotated %s", got)
	}
	edge := c.enrolled("berlin")
	enrolled := c.auditEvents(`action = "edge.enroll"`)[0]
	if !strings.HasPrefix(enrolled.GetActor(), "enrollmentToken:") || enrolled.GetSource().GetAddress() != "127.0.0.1" ||
		enrolled.GetResource() != edge.name || changesOf(enrolled) != `site:  -> "networks/demo/sites/berlin"` {
		t.Errorf("enrolled %v", enrolled)
	}
	_, err = swanherdv1.NewAccessServiceClient(c.dial(made.GetSecret())).WhoAmI(t.Context(), &swanherdv1.WhoAmIRequest{})
	if status.Code(err) != codes.Unauthenticated {
		t.Fatal(err)
	}
	refused := c.auditEvents(`action = "token.reject"`)[0]
	if refused.GetSource().GetAddress() != "127.0.0.1" || refused.GetSource().GetCredential() != "" || refused.GetSource().GetMethod() != swanherdv1.AccessService_WhoAmI_FullMethodName {
		t.Errorf("refused %v", refused)
	}
	verified, err := c.fleet().VerifyAuditLog(t.Context(), &swanherdv1.VerifyAuditLogRequest{Parent: "networks/-"})
	if err != nil || verified.GetProblem() != "" {
		t.Errorf("verified: %v, %v", verified, err)
	}
	tenant, err := c.access().CreateApiToken(t.Context(), &swanherdv1.CreateApiTokenRequest{
		ApiToken: &swanherdv1.ApiToken{Role: swanherdv1.Role_ROLE_ADMIN, Networks: []string{"networks/demo"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = swanherdv1.NewFleetServiceClient(c.dial(tenant.GetSecret())).GetEvent(t.Context(), &swanherdv1.GetEventRequest{Name: refused.GetName()})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("a tenant gets what belongs to no network: %v", err)
	}
}

// A caller says what it likes of itself, and no more than that.
func TestAuditTakesNoAddressFromHeaders(t *testing.T) {
	c := startController(t)
	c.apply()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "swanherd-source", "192.0.2.66:1")
	if _, err := c.topology().UpdateSite(ctx, &swanherdv1.UpdateSiteRequest{
		Site: &swanherdv1.Site{Name: "networks/demo/sites/oslo", DisplayName: "Oslo"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name"}},
	}); err != nil {
		t.Fatal(err)
	}
	if got := c.auditEvents(`action = "site.update"`)[0].GetSource().GetAddress(); got != "127.0.0.1" {
		t.Errorf("from %s", got)
	}
}

func TestAuditOnTheCommandLine(t *testing.T) {
	c := startController(t)
	c.apply()
	c.setSite("oslo", "Oslo")
	x := c.terminal()
	x.says(0, "", "audit list --action site.update --resource */sites/oslo --from 127.0.0.1", "token:admin", "display_name", "networks/demo/sites/oslo", "!site.create")
	x.says(0, "", "audit list --actor token:nobody", "!site")
	x.says(0, "", "audit list --global", "apiToken.create", "!site.create")
	e := c.auditEvents(`action = "site.update"`)[0]
	id := e.GetName()[strings.LastIndexByte(e.GetName(), '/')+1:]
	x.says(0, "", "audit show "+id, "display_name", `+ "Oslo"`, "127.0.0.1", "UpdateSite", "token:admin")
	x.says(4, "", "audit show nothing", "does not exist")
	if !slices.ContainsFunc(c.auditEvents(`name = "networks/-/events/*"`), func(e *swanherdv1.Event) bool { return e.GetAction() == "apiToken.create" }) {
		t.Error("the administrator's token was made without an event")
	}
}

// A network that is made under the name of a deleted one does not show what that one was;
// who is bound to none finds it.
func TestAuditOfADeletedNetwork(t *testing.T) {
	c := startController(t)
	create := func() {
		t.Helper()
		if _, err := c.topology().CreateNetwork(t.Context(), &swanherdv1.CreateNetworkRequest{NetworkId: "alpha", Network: &swanherdv1.Network{}}); err != nil {
			t.Fatal(err)
		}
	}
	create()
	if _, err := c.topology().DeleteNetwork(t.Context(), &swanherdv1.DeleteNetworkRequest{Name: "networks/alpha"}); err != nil {
		t.Fatal(err)
	}
	old := c.auditEvents(`resource = "networks/alpha" AND action = "network.create"`)
	if len(old) != 1 {
		t.Fatalf("the administrator finds %v", old)
	}
	if _, err := c.fleet().VerifyAuditLog(t.Context(), &swanherdv1.VerifyAuditLogRequest{Parent: "networks/alpha"}); err != nil {
		t.Errorf("the log of a deleted network: %v", err)
	}
	_, err := c.fleet().VerifyAuditLog(t.Context(), &swanherdv1.VerifyAuditLogRequest{Parent: "networks/never"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("the log of a network that never was: %v", err)
	}
	create()
	token, err := c.access().CreateApiToken(t.Context(), &swanherdv1.CreateApiTokenRequest{ApiToken: &swanherdv1.ApiToken{
		Role: swanherdv1.Role_ROLE_ADMIN, Networks: []string{"networks/alpha"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	tenant := swanherdv1.NewFleetServiceClient(c.dial(token.GetSecret()))
	for _, parent := range []string{"networks/alpha", "networks/-"} {
		resp, err := tenant.ListEvents(t.Context(), &swanherdv1.ListEventsRequest{Parent: parent, Filter: "kind = AUDIT"})
		if err != nil {
			t.Fatal(err)
		}
		if e := resp.GetEvents(); len(e) != 1 || e[0].GetAction() != "network.create" || e[0].GetName() == old[0].GetName() {
			t.Errorf("in %s the tenant sees %v", parent, e)
		}
	}
	if _, err := tenant.GetEvent(t.Context(), &swanherdv1.GetEventRequest{Name: old[0].GetName()}); status.Code(err) != codes.NotFound {
		t.Errorf("the tenant reads an event of the former network: %v", err)
	}
	x := c.terminal()
	x.says(0, "", "audit list --network alpha", "network.create", "!network.delete")
	x.says(0, "", "audit list --all-networks --resource networks/alpha", "network.create", "network.delete")
	x.says(0, "", `audit export --all-networks --filter time>"2026-01-01T00:00:00Z"`, `"network.delete"`, `"apiToken.create"`)
}
