package main

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/swanherd/swanherd/dashboard"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server"
	"github.com/swanherd/swanherd/server/providertest"
)

// startDashboard starts a controller with its dashboard and a provider, and binds a group.
func startDashboard(t *testing.T) (string, *x509.CertPool, *providertest.Provider) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := lis.Addr().String()
	lis.Close() // the provider has to know it before the controller listens
	p := providertest.Start(t, 5*time.Second, "https://"+address+"/auth/oidc/callback",
		providertest.Person{Name: "alice", Email: "alice@example.net", Verified: true, Groups: []string{"noc"}},
		providertest.Person{Name: "bob"})
	s, err := server.Start(t.Context(), server.Config{
		DataDir: filepath.Join(t.TempDir(), "controller"), Listen: address, EdgeListen: "127.0.0.1:0", MetricsListen: "127.0.0.1:0",
		OIDC: p.Settings(), Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Dashboard: func(conn grpc.ClientConnInterface) (http.Handler, error) { return dashboard.New(conn, p.Roots()) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	roots := p.Roots()
	own := trust(t, address, s.Info().CAPin)
	roots.AddCert(own)
	pool := x509.NewCertPool()
	pool.AddCert(own)
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+s.Info().AdminToken)
	if _, err := swanherdv1.NewRoleBindingServiceClient(conn).CreateRoleBinding(ctx, &swanherdv1.CreateRoleBindingRequest{
		RoleBinding: &swanherdv1.RoleBinding{Member: "group:noc", Role: swanherdv1.Role_ROLE_VIEWER},
	}); err != nil {
		t.Fatal(err)
	}
	return "https://" + address, roots, p
}

// trust is the controller's authority, by its pin.
func trust(t *testing.T, address, pin string) *x509.Certificate {
	t.Helper()
	conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	chain := conn.ConnectionState().PeerCertificates
	root := chain[len(chain)-1]
	if sum := sha256.Sum256(root.RawSubjectPublicKeyInfo); hex.EncodeToString(sum[:]) != pin {
		t.Fatal("the controller's authority has another key")
	}
	return root
}

// whoAmI is what the bridge answers the browser: the status in the trailer, and the body.
func whoAmI(t *testing.T, b *http.Client, site string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, site+"/rpc"+swanherdv1.AccessService_WhoAmI_FullMethodName, strings.NewReader("\x00\x00\x00\x00\x00"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc-web+proto")
	resp, err := b.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.Header.Get("Grpc-Status") + string(text)
}

// A browser signs in with the identity provider, and its session is of nobody else, hidden
// from scripts, and over when the token is.
func TestBrowserSignsInWithTheProvider(t *testing.T) {
	site, roots, p := startDashboard(t)
	b := p.Browser(roots)
	var session *http.Cookie
	b.CheckRedirect = func(req *http.Request, _ []*http.Request) error {
		for _, c := range req.Response.Cookies() {
			if c.Value != "" {
				session = c
			}
		}
		return nil
	}
	if !strings.Contains(p.Visit(b, site+"/auth/oidc", "alice"), "<title>") {
		t.Error("it does not end at the dashboard")
	}
	if session == nil || session.Name != "__Host-swanherd" || !session.HttpOnly || !session.Secure || session.SameSite != http.SameSiteStrictMode ||
		time.Until(session.Expires) > 10*time.Second {
		t.Fatalf("the session's cookie is %v", session)
	}
	if who := whoAmI(t, b, site); !strings.Contains(who, "email:alice@example.net") {
		t.Errorf("the bridge takes the browser for %q", who)
	}
	for end := time.Now().Add(20 * time.Second); strings.Contains(whoAmI(t, b, site), "alice"); {
		if time.Now().After(end) {
			t.Fatal("the session does not end")
		}
	}
}

// What is no answer to a sign-in that this browser began makes no session.
func TestBrowserIsNotSignedInByOthers(t *testing.T) {
	site, roots, p := startDashboard(t)
	// Somebody's own code, brought to another one's browser.
	attacker := p.Browser(roots)
	var answer *url.URL
	attacker.CheckRedirect = func(req *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(req.URL.String(), site+"/auth/oidc/callback") {
			answer = req.URL
			return http.ErrUseLastResponse
		}
		return nil
	}
	p.VisitAny(attacker, site+"/auth/oidc", "alice")
	if answer == nil || answer.Query().Get("code") == "" {
		t.Fatalf("the provider answers with %v", answer)
	}
	victim := p.Browser(roots)
	refused(t, victim, answer.String(), "began none")
	began := p.Browser(roots)
	began.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if resp, err := began.Get(site + "/auth/oidc"); err != nil || resp.StatusCode != http.StatusSeeOther {
		t.Fatalf("begin: %v, %v", resp, err)
	}
	refused(t, began, answer.String(), "the answer to another one")
	refused(t, began, answer.String(), "began none") // an attempt is for one answer
	if who := whoAmI(t, began, site); strings.Contains(who, "alice") {
		t.Error("the browser has somebody else's session")
	}
	// Who has no role is told so, and has no session.
	if text := p.VisitAny(p.Browser(roots), site+"/auth/oidc", "bob"); !strings.Contains(text, "subject:bob has no role") {
		t.Errorf("who has no role: %s", text)
	}
}

func refused(t *testing.T, b *http.Client, address, why string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := b.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusForbidden || !strings.Contains(string(text), why) {
		t.Errorf("%s: %s: %s, want %q", address, resp.Status, text, why)
	}
	for _, c := range resp.Cookies() {
		if c.Value != "" {
			t.Errorf("a refusal sets %v", c)
		}
	}
}
