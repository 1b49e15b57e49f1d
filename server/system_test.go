package server_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server"
)

func TestIntentDownHealthUp(t *testing.T) {
	c := startController(t)
	c.apply()
	berlin, oslo := c.enrolled("berlin"), c.enrolled("oslo")
	if berlin.name != "networks/demo/edges/berlin" {
		t.Errorf("enrolled as %s", berlin.name)
	}
	berlin.open()
	berlin.until("berlin--oslo")
	oslo.open()
	oslo.until("berlin--oslo")
	berlin.report(swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED)
	oslo.report(swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED)
	c.counted("the tunnel to be up", func(n *swanherdv1.FleetCounts) bool { return n.GetUp() == 1 && n.GetEdgesConnected() == 2 })

	if _, err := c.topology().DeleteSite(t.Context(), &swanherdv1.DeleteSiteRequest{Name: "networks/demo/sites/oslo"}); err != nil {
		t.Fatal(err)
	}
	berlin.until()
	oslo.until()
	tunnels, err := c.fleet().ListTunnels(t.Context(), &swanherdv1.ListTunnelsRequest{Parent: "networks/demo"})
	if err != nil || len(tunnels.GetTunnels()) != 0 {
		t.Errorf("tunnels are %v, %v", tunnels, err)
	}
}

func TestRestartKeepsStateAndCostsNoIntent(t *testing.T) {
	c := startController(t)
	c.apply()
	both := []*testEdge{c.enrolled("berlin"), c.enrolled("oslo")}
	for _, e := range both {
		e.open()
	}
	for _, e := range both {
		e.wait("the other end's address", func() bool {
			return len(e.applied["networks/demo/tunnels/berlin--oslo"].GetTunnel().GetRemoteEndpoints()) > 0
		})
		e.wait("its own uplink", func() bool {
			return e.applied["networks/demo/tunnels/berlin--oslo"].GetTunnel().GetUplink() == "wan1"
		})
	}
	inSync := func(n *swanherdv1.FleetCounts) bool { return n.GetEdgesInSync() == 2 }
	c.counted("both edges to be in sync", inSync)

	pin := c.s.Info().CAPin
	c.restart()
	if c.s.Info().AdminToken != "" || c.s.Info().CAPin != pin {
		t.Errorf("after the restart: %+v", c.s.Info())
	}
	sites, err := c.topology().ListSites(t.Context(), &swanherdv1.ListSitesRequest{Parent: "networks/demo"})
	if err != nil || len(sites.GetSites()) != 3 {
		t.Fatalf("sites after the restart: %v, %v", sites, err)
	}
	for _, e := range both {
		if err := <-e.ended; status.Code(err) != codes.Unavailable {
			t.Errorf("%s: the session ended with %v", e.name, err)
		}
		e.open()
	}
	c.counted("both edges to be in sync", inSync)
	for _, e := range both {
		e.wait("a bookmark", func() bool { return e.bookmarks == 1 })
		if e.updates != 0 {
			t.Errorf("%s got %d updates of an intent that it had", e.name, e.updates)
		}
	}
}

func TestEnrollment(t *testing.T) {
	c := startController(t)
	c.apply()
	token := c.tokenFor("berlin", 2)
	first := c.newEdge()
	for range 3 { // a repeat is the same edge, and no use
		resp, err := first.tryEnroll(token, "")
		if err != nil || resp.GetEdge() != "networks/demo/edges/berlin" {
			t.Fatalf("enrol: %v, %v", resp, err)
		}
	}
	second := c.newEdge()
	if _, err := second.tryEnroll(token, ""); status.Code(err) != codes.AlreadyExists {
		t.Errorf("a second edge of the same name: %v", err)
	}
	if _, err := second.tryEnroll(token, "berlin-2"); err != nil {
		t.Errorf("another edge of the same site: %v", err)
	}
	tokens, err := c.access().ListEnrollmentTokens(t.Context(), &swanherdv1.ListEnrollmentTokensRequest{Parent: "networks/demo"})
	if err != nil || tokens.GetEnrollmentTokens()[0].GetUses() != 2 || tokens.GetEnrollmentTokens()[0].GetSecret() != "" {
		t.Errorf("tokens are %v, %v", tokens, err)
	}

	// Whatever is wrong with a token, the answer is the same.
	unused := c.tokenFor("oslo", 1)
	third := c.newEdge()
	for what, presented := range map[string]string{
		"used up":   token,
		"no token":  "swe_nonsense",
		"altered":   altered(unused),
		"other":     "swa_" + unused,
		"malformed": "hello",
	} {
		_, err := third.tryEnroll(presented, "x")
		if status.Code(err) != codes.PermissionDenied || status.Convert(err).Message() != "enrollment token is not valid" {
			t.Errorf("token %s: %v", what, err)
		}
	}
	// With the right token, a bad request is told.
	conn := third.dial()
	_, err = swanherdv1.NewEnrollmentServiceClient(conn).Enroll(t.Context(), &swanherdv1.EnrollRequest{
		Token: unused, ControlCsr: []byte("x"), IkeCsr: third.csr(third.ike),
	})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "control_csr") {
		t.Errorf("bad request: %v", err)
	}
	// Guessing ends in a refusal to look.
	for range 20 {
		_, err = third.tryEnroll("swe_guess", "x")
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("after many wrong tokens: %v", err)
	}
	events, err := c.fleet().ListEvents(t.Context(), &swanherdv1.ListEventsRequest{Parent: "networks/-"})
	if err != nil || !slices.ContainsFunc(events.GetEvents(), func(e *swanherdv1.Event) bool { return e.GetAction() == "token.reject" }) {
		t.Errorf("rejected tokens are not in the audit log: %v, %v", events, err)
	}
}

// altered is a token with another secret.
func altered(token string) string {
	b, _ := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token, "swe_"))
	var fields map[string]any
	_ = json.Unmarshal(b, &fields)
	fields["s"] = base64.RawURLEncoding.EncodeToString(make([]byte, 32))
	b, _ = json.Marshal(fields)
	return "swe_" + base64.RawURLEncoding.EncodeToString(b)
}

func TestDeletedEdgeIsCutAtOnce(t *testing.T) {
	c := startController(t)
	c.apply()
	e := c.enrolled("berlin")
	e.open()
	e.until()
	if _, err := c.topology().DeleteEdge(t.Context(), &swanherdv1.DeleteEdgeRequest{Name: e.name}); err != nil {
		t.Fatal(err)
	}
	if err := <-e.ended; status.Code(err) != codes.PermissionDenied {
		t.Errorf("session ended with %v", err)
	}
	conn := e.dial(tls.Certificate{Certificate: e.chain, PrivateKey: e.control})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := swanherdv1.NewEdgeControlServiceClient(conn).Session(ctx)
	if err == nil {
		_, err = stream.Recv()
	}
	if err == nil {
		t.Error("a revoked certificate opened a session")
	}
	// The name is free again.
	c.enrolled("berlin").open()
}

func TestSessionNeedsCertificate(t *testing.T) {
	c := startController(t)
	conn := c.newEdge().dial()
	stream, err := swanherdv1.NewEdgeControlServiceClient(conn).Session(t.Context())
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("session without a certificate: %v", err)
	}
	_, err = swanherdv1.NewEnrollmentServiceClient(conn).RenewCertificate(t.Context(), &swanherdv1.RenewCertificateRequest{
		ControlCsr: []byte("x"), IkeCsr: []byte("x"),
	})
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("renewal without a certificate: %v", err)
	}
}

func TestRenewal(t *testing.T) {
	c := startController(t)
	c.apply()
	e := c.enrolled("berlin")
	conn := e.dial(tls.Certificate{Certificate: e.chain, PrivateKey: e.control})
	expires := func() time.Time {
		edge, err := c.topology().GetEdge(t.Context(), &swanherdv1.GetEdgeRequest{Name: e.name})
		if err != nil {
			t.Fatal(err)
		}
		return edge.GetStatus().GetCertificateExpireTime().AsTime()
	}
	viewer, err := c.fleet().WatchFleet(t.Context(), &swanherdv1.WatchFleetRequest{Parent: "networks/demo"})
	if err != nil {
		t.Fatal(err)
	}
	// What is planned from a change follows it a moment later.
	deadline := time.Now().Add(10 * time.Second)
	for seen := 0; seen != 1; {
		frame, err := viewer.Recv()
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("viewers do not see the edge: %v, %v", frame, err)
		}
		seen += len(frame.GetEdges())
	}
	next := c.newEdge()
	var resp *swanherdv1.RenewCertificateResponse
	for first := expires(); expires().Equal(first); { // certificates count in seconds
		resp, err = swanherdv1.NewEnrollmentServiceClient(conn).RenewCertificate(t.Context(), &swanherdv1.RenewCertificateRequest{
			ControlCsr: e.csr(next.control), IkeCsr: e.csr(next.ike),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for seen := (time.Time{}); !seen.Equal(expires()); {
		frame, err := viewer.Recv()
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("viewers see a certificate until %v, it lasts until %v; %v", seen, expires(), err)
		}
		for _, edge := range frame.GetEdges() {
			seen = edge.GetStatus().GetCertificateExpireTime().AsTime()
		}
	}
	next.name, next.chain = e.name, resp.GetCertificates().GetControlChain()
	next.open()
	next.until()
}

func TestApplyIsAllOrNothing(t *testing.T) {
	c := startController(t)
	topology := c.topology()
	m := manifest()
	m.Sites[1].Prefixes = []string{"10.1.128.0/17"}
	m.Meshes[0].Profile = "networks/demo/profiles/none"
	m.Profiles[0].IkeProposals = []string{"aes7-md0"}
	_, err := topology.Apply(t.Context(), &swanherdv1.ApplyRequest{Manifest: m})
	var fields []string
	for _, d := range status.Convert(err).Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.GetFieldViolations() {
				fields = append(fields, v.GetField())
			}
		}
	}
	slices.Sort(fields)
	want := []string{"manifest.meshes[0].profile", "manifest.profiles[0].ike_proposals[0]", "manifest.sites[1].prefixes[0]"}
	if status.Code(err) != codes.InvalidArgument || !slices.Equal(fields, want) {
		t.Errorf("got %v about %v, want INVALID_ARGUMENT about %v", err, fields, want)
	}
	if n, err := topology.ListNetworks(t.Context(), &swanherdv1.ListNetworksRequest{}); err != nil || len(n.GetNetworks()) != 0 {
		t.Errorf("something was stored: %v, %v", n, err)
	}

	dry, err := topology.Apply(t.Context(), &swanherdv1.ApplyRequest{Manifest: manifest(), ValidateOnly: true})
	if err != nil || len(dry.GetChanges()) != 6 {
		t.Errorf("dry run: %v, %v", dry, err)
	}
	c.apply()
	again, err := topology.Apply(t.Context(), &swanherdv1.ApplyRequest{Manifest: manifest()})
	if err != nil || slices.ContainsFunc(again.GetChanges(), func(c *swanherdv1.ResourceChange) bool {
		return c.GetAction() != swanherdv1.ResourceChange_ACTION_UNCHANGED
	}) {
		t.Errorf("applying it again: %v, %v", again, err)
	}
	m = manifest()
	m.Sites = m.Sites[:2]
	pruned, err := topology.Apply(t.Context(), &swanherdv1.ApplyRequest{Manifest: m, Prune: true})
	if err != nil {
		t.Fatal(err)
	}
	last := pruned.GetChanges()[len(pruned.GetChanges())-1]
	if last.GetName() != "networks/demo/sites/rome" || last.GetAction() != swanherdv1.ResourceChange_ACTION_DELETED {
		t.Errorf("prune: %v", pruned.GetChanges())
	}
}

func TestStandardMethods(t *testing.T) {
	c := startController(t)
	c.apply()
	topology, ctx := c.topology(), t.Context()
	site, err := topology.CreateSite(ctx, &swanherdv1.CreateSiteRequest{
		Parent: "networks/demo", SiteId: "wien",
		Site: &swanherdv1.Site{Prefixes: []string{"10.9.0.0/16"}},
	})
	if err != nil || site.GetUid() == "" || site.GetEtag() == "" || site.GetCreateTime() == nil {
		t.Fatalf("create: %v, %v", site, err)
	}
	_, err = topology.CreateSite(ctx, &swanherdv1.CreateSiteRequest{Parent: "networks/demo", SiteId: "wien"})
	if status.Code(err) != codes.AlreadyExists {
		t.Errorf("create twice: %v", err)
	}
	site.DisplayName, site.Prefixes = "Wien", nil
	updated, err := topology.UpdateSite(ctx, &swanherdv1.UpdateSiteRequest{Site: site})
	if err != nil || updated.GetDisplayName() != "Wien" || len(updated.GetPrefixes()) != 1 || updated.GetUid() != site.GetUid() {
		t.Errorf("update of what is set: %v, %v", updated, err)
	}
	_, err = topology.UpdateSite(ctx, &swanherdv1.UpdateSiteRequest{Site: site})
	if status.Code(err) != codes.Aborted {
		t.Errorf("update with an old etag: %v", err)
	}
	_, err = topology.DeleteSite(ctx, &swanherdv1.DeleteSiteRequest{Name: site.GetName(), Etag: site.GetEtag()})
	if status.Code(err) != codes.Aborted {
		t.Errorf("delete with an old etag: %v", err)
	}
	_, err = topology.DeleteProfile(ctx, &swanherdv1.DeleteProfileRequest{Name: "networks/demo/profiles/default"})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "networks/demo/meshes/all") {
		t.Errorf("delete a profile in use: %v", err)
	}
	_, err = topology.DeleteNetwork(ctx, &swanherdv1.DeleteNetworkRequest{Name: "networks/demo"})
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("delete a network with sites: %v", err)
	}
	_, err = topology.CreateSite(ctx, &swanherdv1.CreateSiteRequest{
		Parent: "networks/demo", SiteId: "graz",
		Site: &swanherdv1.Site{Prefixes: []string{"10.9.128.0/17"}},
	})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "site.prefixes[0]") {
		t.Errorf("create with an overlapping prefix: %v", err)
	}

	// Pages stay put while others create and delete.
	var names []string
	for token := ""; ; {
		page, err := topology.ListSites(ctx, &swanherdv1.ListSitesRequest{Parent: "networks/demo", PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range page.GetSites() {
			names = append(names, s.GetName()[len("networks/demo/sites/"):])
		}
		if token == "" {
			if _, err := topology.DeleteSite(ctx, &swanherdv1.DeleteSiteRequest{Name: page.GetSites()[0].GetName()}); err != nil {
				t.Fatal(err)
			}
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	if want := []string{"berlin", "oslo", "rome", "wien"}; !slices.Equal(names, want) {
		t.Errorf("pages hold %v, want %v", names, want)
	}
}

func TestRolesAndNetworks(t *testing.T) {
	c := startController(t)
	c.apply()
	ctx := t.Context()
	made, err := c.access().CreateApiToken(ctx, &swanherdv1.CreateApiTokenRequest{ApiToken: &swanherdv1.ApiToken{
		Role: swanherdv1.Role_ROLE_VIEWER, Networks: []string{"networks/other"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	conn := c.dial(made.GetSecret())
	topology := swanherdv1.NewTopologyServiceClient(conn)
	if _, err := topology.GetSite(ctx, &swanherdv1.GetSiteRequest{Name: "networks/demo/sites/oslo"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("read of another network: %v", err)
	}
	all, err := topology.ListSites(ctx, &swanherdv1.ListSitesRequest{Parent: "networks/-"})
	if err != nil || len(all.GetSites()) != 0 {
		t.Errorf("list of all networks shows %v, %v", all, err)
	}
	if _, err := topology.DeleteSite(ctx, &swanherdv1.DeleteSiteRequest{Name: "networks/other/sites/x"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a viewer deletes: %v", err)
	}
	access := swanherdv1.NewAccessServiceClient(conn)
	if _, err := access.CreateLoginLink(ctx, &swanherdv1.CreateLoginLinkRequest{Role: swanherdv1.Role_ROLE_ADMIN}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a viewer makes an administrator's link: %v", err)
	}
	if _, err := access.DeleteApiToken(ctx, &swanherdv1.DeleteApiTokenRequest{Name: "apiTokens/admin"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a viewer deletes the administrator's token: %v", err)
	}
	if _, err := access.DeleteApiToken(ctx, &swanherdv1.DeleteApiTokenRequest{Name: "apiTokens/self"}); err != nil {
		t.Errorf("a viewer signs out: %v", err)
	}
	if _, err := access.WhoAmI(ctx, &swanherdv1.WhoAmIRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a token that was deleted: %v", err)
	}
}

func TestLoginLinkWorksOnce(t *testing.T) {
	c := startController(t)
	link, err := c.access().CreateLoginLink(t.Context(), &swanherdv1.CreateLoginLinkRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, code, ok := strings.Cut(link.GetUrl(), "/#login=")
	if !ok {
		t.Fatalf("link is %s", link.GetUrl())
	}
	anyone := swanherdv1.NewAccessServiceClient(c.dial(""))
	token, err := anyone.RedeemLoginLink(t.Context(), &swanherdv1.RedeemLoginLinkRequest{Code: code})
	if err != nil || token.GetRole() != swanherdv1.Role_ROLE_VIEWER {
		t.Fatalf("redeem: %v, %v", token, err)
	}
	who, err := swanherdv1.NewAccessServiceClient(c.dial(token.GetSecret())).WhoAmI(t.Context(), &swanherdv1.WhoAmIRequest{})
	if err != nil || who.GetServerVersion() != "test" {
		t.Errorf("who: %v, %v", who, err)
	}
	if _, err := anyone.RedeemLoginLink(t.Context(), &swanherdv1.RedeemLoginLinkRequest{Code: code}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("redeem twice: %v", err)
	}
}

func TestREST(t *testing.T) {
	c := startController(t)
	c.apply()
	for _, x := range []struct {
		method, path, token, body string
		status                    int
		contains                  string
	}{
		{"GET", "/v1/networks/demo/sites/oslo", c.token, "", 200, `"prefixes":["10.2.0.0/16"]`},
		{"GET", "/v1/networks/demo/sites/nowhere", c.token, "", 404, `"code":"NOT_FOUND"`},
		{"GET", "/v1/networks/demo/sites", "", "", 401, `"code":"UNAUTHENTICATED"`},
		{"GET", "/v1/networks/demo/sites?pageSize=-1", c.token, "", 400, `"field":"pageSize"`},
		{"GET", "/v1/networks/demo/sites?filtre=x", c.token, "", 400, `"field":"filtre"`},
		{"POST", "/v1/networks/demo/sites?siteId=bad", c.token, `{"display_nam":"x"}`, 400, `"field":"display_nam"`},
		{"POST", "/v1/networks/demo/sites?siteId=bad", c.token, `{"displayName":5}`, 400, `"field":"displayName"`},
		{"POST", "/v1/networks/demo/sites?siteId=bad", c.token, `{`, 400, `"field":"body"`},
		{"POST", "/v1/networks/demo/sites?siteId=bad", c.token, `{"prefixes":["10.77.0.0/33"]}`, 400, `"field":"site.prefixes[0]"`},
		{"POST", "/v1/networks/demo/sites?siteId=wien", c.token, `{"prefixes":["10.77.0.0/16"]}`, 200, `"name":"networks/demo/sites/wien"`},
		{"POST", "/v1/networks/demo/sites?siteId=wien", c.token, `{}`, 409, `"code":"ALREADY_EXISTS"`},
		{"PATCH", "/v1/networks/demo/sites/wien", c.token, `{"displayName":"Wien"}`, 200, `"displayName":"Wien"`},
		{"DELETE", "/v1/networks/demo/profiles/default", c.token, "", 409, `"code":"FAILED_PRECONDITION"`},
		{"GET", "/v1/nothing", c.token, "", 404, "openapi.json"},
		{"GET", "/openapi.json", "", "", 200, "/v1/{parent}/sites"},
	} {
		resp, body := c.rest(x.method, x.path, x.token, x.body)
		if resp.StatusCode != x.status || !strings.Contains(body, x.contains) {
			t.Errorf("%s %s: %d %s\nwant %d with %s", x.method, x.path, resp.StatusCode, body[:min(400, len(body))], x.status, x.contains)
		}
		if want := "application/problem+json"; x.status >= 400 && resp.Header.Get("Content-Type") != want {
			t.Errorf("%s %s: content type %s, want %s", x.method, x.path, resp.Header.Get("Content-Type"), want)
		}
	}
}

func TestCredentialAndMetrics(t *testing.T) {
	c := startController(t)
	info := c.s.Info()
	b, err := os.ReadFile(info.CredentialFile)
	if err != nil {
		t.Fatal(err)
	}
	var cred struct{ Server, CA_Pin, Token string }
	if err := json.Unmarshal(b, &cred); err != nil || cred.Token != info.AdminToken || cred.Server != info.OperatorAddr.String() || cred.CA_Pin != "sha256:"+info.CAPin {
		t.Errorf("credential is %s, %v", b, err)
	}
	st, err := os.Stat(info.CredentialFile)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("credential has mode %v, %v", st.Mode(), err)
	}
	c.apply()
	for path, want := range map[string]string{
		"/metrics": `swanherd_tunnels{network="networks/demo",status="up"} 0`,
		"/readyz":  "ok",
		"/healthz": "ok",
	} {
		resp, err := http.Get("http://" + info.MetricsAddr.String() + path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: %v, lacks %s", path, err, want)
		}
	}
}

func TestStartThatFailsLeavesNothing(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := server.Config{
		DataDir: t.TempDir(), Listen: "127.0.0.1:0", EdgeListen: taken.Addr().String(), MetricsListen: "127.0.0.1:0",
		Log: slog.New(slog.DiscardHandler),
	}
	if _, err := server.Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "--edge-listen") {
		t.Fatalf("start on a taken address: %v", err)
	}
	cfg.EdgeListen = "127.0.0.1:0"
	s, err := server.Start(t.Context(), cfg) // the store is free
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
