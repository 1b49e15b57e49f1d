package dashboard

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/emptypb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// access knows one login code, good once, and notes what is deleted.
type access struct {
	swanherdv1.UnimplementedAccessServiceServer
	used    bool
	deleted string
}

func (a *access) RedeemLoginLink(_ context.Context, r *swanherdv1.RedeemLoginLinkRequest) (*swanherdv1.ApiToken, error) {
	if r.GetCode() != "good" || a.used {
		return nil, status.Error(codes.PermissionDenied, "login code is not valid")
	}
	a.used = true
	return &swanherdv1.ApiToken{Secret: "swa_secret"}, nil
}

func (a *access) DeleteApiToken(ctx context.Context, r *swanherdv1.DeleteApiTokenRequest) (*emptypb.Empty, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	a.deleted = r.GetName() + " by " + strings.Join(md.Get("authorization"), ",")
	return &emptypb.Empty{}, nil
}

func newTestDashboard(t *testing.T) (*httptest.Server, *access) {
	t.Helper()
	lis := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	a := &access{}
	swanherdv1.RegisterAccessServiceServer(server, a)
	go server.Serve(lis)
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	h, err := New(conn, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	return s, a
}

func do(t *testing.T, s *httptest.Server, method, path, body string, header map[string]string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		r.Header.Set(k, v)
	}
	resp, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func TestSignInOnce(t *testing.T) {
	s, a := newTestDashboard(t)
	resp := do(t, s, "POST", "/auth/login", `{"code": "good"}`, nil)
	if resp.StatusCode != http.StatusNoContent {
		t.Fatalf("status is %d, want 204", resp.StatusCode)
	}
	cookies := resp.Cookies()
	if len(cookies) != 1 {
		t.Fatalf("got %d cookies, want 1", len(cookies))
	}
	c := cookies[0]
	if c.Value != "swa_secret" || !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" {
		t.Errorf("the session cookie is %v", c)
	}
	if again := do(t, s, "POST", "/auth/login", `{"code": "good"}`, nil); again.StatusCode != http.StatusForbidden || len(again.Cookies()) != 0 {
		t.Errorf("a used code gave status %d and %d cookies", again.StatusCode, len(again.Cookies()))
	}
	out := do(t, s, "POST", "/auth/logout", "", map[string]string{"Cookie": c.Name + "=" + c.Value})
	if got := out.Cookies(); len(got) != 1 || got[0].Value != "" {
		t.Errorf("sign-out left the cookie: %v", got)
	}
	if a.deleted != "apiTokens/self by Bearer swa_secret" {
		t.Errorf("sign-out deleted %q", a.deleted)
	}
}

func TestRefusesOtherOrigins(t *testing.T) {
	s, a := newTestDashboard(t)
	resp := do(t, s, "POST", "/auth/login", `{"code": "good"}`, map[string]string{"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"})
	if resp.StatusCode != http.StatusForbidden || a.used {
		t.Errorf("a page of another origin signed in: status %d", resp.StatusCode)
	}
}

func TestServesThePage(t *testing.T) {
	s, _ := newTestDashboard(t)
	for path, want := range map[string]int{
		"/": 200, "/tunnels": 200, "/tunnels/a--b": 200, "/missing.js": 404, "/assets/missing.js": 404, "/../dashboard.go": 404,
	} {
		resp := do(t, s, "GET", path, "", nil)
		if resp.StatusCode != want {
			t.Errorf("GET %s: status %d, want %d", path, resp.StatusCode, want)
		}
		if got := resp.Header.Get("Content-Security-Policy"); !strings.Contains(got, "default-src 'none'") || strings.Contains(got, "unsafe") {
			t.Errorf("GET %s: policy %q", path, got)
		}
	}
	page := do(t, s, "GET", "/", "", nil)
	if b, _ := io.ReadAll(page.Body); !strings.Contains(string(b), "<title>Swanherd") {
		t.Error("the page has no title")
	}
	if again := do(t, s, "GET", "/", "", map[string]string{"If-None-Match": page.Header.Get("ETag")}); again.StatusCode != http.StatusNotModified {
		t.Errorf("an unchanged page gave status %d, want 304", again.StatusCode)
	}
}

func TestBadLoginBodies(t *testing.T) {
	s, _ := newTestDashboard(t)
	for _, body := range []string{"", "{}", "[]", `{"code": 7}`, `{"code": "` + strings.Repeat("x", 5000) + `"}`} {
		if resp := do(t, s, "POST", "/auth/login", body, nil); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("body %.20q: status %d, want 400", body, resp.StatusCode)
		}
	}
}
