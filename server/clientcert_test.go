package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server"
)

// operatorCA is an authority of client certificates.
type operatorCA struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newOperatorCA(t testing.TB) *operatorCA {
	a := &operatorCA{t: t}
	a.key, a.cert = a.make(&x509.Certificate{
		Subject: pkix.Name{CommonName: "operators"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, time.Hour)
	return a
}

// make makes a certificate that a signs, or that signs itself if a has none yet.
func (a *operatorCA) make(template *x509.Certificate, life time.Duration) (*ecdsa.PrivateKey, *x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(life)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return key, cert
}

// client is a certificate with those names.
func (a *operatorCA) client(uri, email, cn string) tls.Certificate {
	template := &x509.Certificate{Subject: pkix.Name{CommonName: cn}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if uri != "" {
		u, err := url.Parse(uri)
		if err != nil {
			a.t.Fatal(err)
		}
		template.URIs = []*url.URL{u}
	}
	if email != "" {
		template.EmailAddresses = []string{email}
	}
	key, cert := a.make(template, time.Hour)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

func (a *operatorCA) settings(cfg *server.Config) {
	cfg.OperatorCA = filepath.Join(a.t.TempDir(), "operators.pem")
	writeAuthorities(a.t, cfg.OperatorCA, a)
}

// writeAuthorities puts the certificates of authorities into a file, in one step.
func writeAuthorities(t testing.TB, file string, authorities ...*operatorCA) {
	t.Helper()
	var text []byte
	for _, a := range authorities {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})...)
	}
	if err := os.WriteFile(file+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// shows is a connection with the certificate and, unless it is empty, a token.
func (c *controller) shows(cert tls.Certificate, token string) *grpc.ClientConn {
	c.t.Helper()
	options := []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: c.roots, Certificates: []tls.Certificate{cert}}))}
	if token != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearer(token)))
	}
	conn, err := grpc.NewClient(c.s.Info().OperatorAddr.String(), options...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	return conn
}

func (c *controller) takenFor(conn *grpc.ClientConn) (string, error) {
	who, err := swanherdv1.NewAccessServiceClient(conn).WhoAmI(c.t.Context(), &swanherdv1.WhoAmIRequest{})
	return who.GetActor(), err
}

// Who shows a client certificate of the operators' authority has the roles that bindings
// give to any of its names, until it is unbound.
func TestOperatorsByCertificate(t *testing.T) {
	ca := newOperatorCA(t)
	c := startController(t, ca.settings)
	c.apply()
	robot, mail, plain := ca.client("spiffe://acme/ci", "", "ci"), ca.client("", "Carol@Example.net", ""), ca.client("", "", "dave")
	if _, err := c.takenFor(c.shows(robot, "")); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "cert-uri:spiffe://acme/ci has no role") {
		t.Errorf("without a binding: %v", err)
	}
	binding := c.bind("cert-uri:spiffe://acme/ci", operator, "networks/demo")
	c.bind("cert-email:carol@example.net", viewer)
	c.bind("cert-cn:dave", viewer)
	c.bind("email:dave", admin)      // of the identity provider, whose people these are not
	c.bind("subject:dave", admin)    // neither
	c.bind("cert-email:dave", admin) // nor another kind of name
	for want, cert := range map[string]tls.Certificate{"cert-uri:spiffe://acme/ci": robot, "cert-email:carol@example.net": mail, "cert-cn:dave": plain} {
		conn := c.shows(cert, "")
		if got, err := c.takenFor(conn); err != nil || got != want {
			t.Errorf("%s is taken for %s, %v", want, got, err)
		}
		if _, err := swanherdv1.NewRoleBindingServiceClient(conn).ListRoleBindings(t.Context(), &swanherdv1.ListRoleBindingsRequest{}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s as an administrator: %v", want, err)
		}
	}
	if got, err := c.takenFor(c.shows(robot, c.token)); err != nil || got != "token:admin" {
		t.Errorf("with a token it is taken for %s, %v", got, err)
	}
	if _, err := c.takenFor(c.shows(robot, "swa_wrong")); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a wrong token beside a certificate: %v", err)
	}
	if _, err := c.takenFor(c.shows(newOperatorCA(t).client("spiffe://acme/ci", "", ""), "")); status.Code(err) != codes.Unavailable {
		t.Errorf("of another authority: %v, want a refused connection", err)
	}
	watch, err := swanherdv1.NewTopologyServiceClient(c.shows(robot, "")).Watch(t.Context(), &swanherdv1.WatchRequest{Parent: "networks/demo"})
	if err == nil {
		_, err = watch.Recv() // it has begun
	}
	if err != nil {
		t.Fatal(err)
	}
	c.unbind(binding)
	for err == nil {
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("the stream of who is unbound ends with %v", err)
	}
	events, err := c.fleet().ListEvents(t.Context(), &swanherdv1.ListEventsRequest{Parent: "networks/-", Filter: `action:"signIn"`})
	if err != nil || len(events.GetEvents()) != 3 {
		t.Errorf("sign-ins in the audit log: %v, %v", events, err)
	}
}

// The file of authorities counts as it is now: who is of a new one comes in, and of one that
// is gone nobody stays, not even in a stream. A file with a mistake changes nothing.
func TestOperatorAuthoritiesChange(t *testing.T) {
	before, after := newOperatorCA(t), newOperatorCA(t)
	var file string
	c := startController(t, before.settings, func(cfg *server.Config) { file = cfg.OperatorCA })
	c.apply()
	c.bind("cert-cn:dave", viewer)
	old, fresh := before.client("", "", "dave"), after.client("", "", "dave")
	enters := func(what string, cert tls.Certificate, want bool) {
		t.Helper()
		if who, err := c.takenFor(c.shows(cert, "")); (err == nil) != want {
			t.Errorf("%s: %s, %v", what, who, err)
		}
	}
	enters("a certificate of an authority to come", fresh, false)
	writeAuthorities(t, file, before, after)
	enters("of the new authority", fresh, true)
	enters("of the old one", old, true)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	watch := func(conn *grpc.ClientConn) grpc.ServerStreamingClient[swanherdv1.WatchResponse] {
		stream, err := swanherdv1.NewTopologyServiceClient(conn).Watch(ctx, &swanherdv1.WatchRequest{Parent: "networks/demo"})
		if err != nil {
			t.Fatal(err)
		}
		for synced := false; !synced; {
			m, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			synced = m.GetKind() == swanherdv1.WatchResponse_KIND_SYNCED
		}
		return stream
	}
	stays, goes := watch(c.shows(fresh, "")), watch(c.shows(old, ""))
	if err := os.WriteFile(file, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	enters("with a mistake in the file", old, true)
	writeAuthorities(t, file, after)
	if _, err := goes.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream of who has no authority any more ends with %v", err)
	}
	enters("of an authority that is gone", old, false)
	if _, err := c.topology().CreateSite(t.Context(), &swanherdv1.CreateSiteRequest{Parent: "networks/demo", SiteId: "graz"}); err != nil {
		t.Fatal(err)
	}
	if _, err := stays.Recv(); err != nil {
		t.Errorf("the stream of who has an authority: %v", err)
	}
}

// REST takes the certificate too, but not for what another site's page makes a browser
// ask for, and nobody says that it has one.
func TestRESTByCertificate(t *testing.T) {
	ca := newOperatorCA(t)
	c := startController(t, ca.settings)
	c.apply()
	cert := ca.client("", "", "Dave Miller")
	c.bind("cert-cn:Dave Miller", operator)
	ask := func(certificates []tls.Certificate, header http.Header) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+c.s.Info().OperatorAddr.String()+"/v1/networks?networkId=made", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = header
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.roots, Certificates: certificates}}
		defer transport.CloseIdleConnections()
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	own := []tls.Certificate{cert}
	claimed := base64.StdEncoding.EncodeToString(cert.Certificate[0])
	for _, x := range []struct {
		what         string
		certificates []tls.Certificate
		header       http.Header
		want         int
	}{
		{"nothing", nil, http.Header{}, http.StatusUnauthorized},
		{"a header", nil, http.Header{"Swanherd-Client-Certificate": {claimed}, "Grpc-Metadata-Swanherd-Client-Certificate": {claimed}}, http.StatusUnauthorized},
		{"from another site", own, http.Header{"Sec-Fetch-Site": {"cross-site"}}, http.StatusUnauthorized},
		{"from another origin", own, http.Header{"Origin": {"https://evil.example"}}, http.StatusUnauthorized},
		{"a certificate", own, http.Header{}, http.StatusOK},
	} {
		if got := ask(x.certificates, x.header); got != x.want {
			t.Errorf("%s: status %d, want %d", x.what, got, x.want)
		}
	}
}

// The command line signs in with a certificate and goes on with it.
func TestCommandLineByCertificate(t *testing.T) {
	ca := newOperatorCA(t)
	c := startController(t, ca.settings)
	c.bind("cert-cn:dave", viewer)
	cert := ca.client("", "", "dave")
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files := map[string]*pem.Block{"me.pem": {Type: "CERTIFICATE", Bytes: cert.Certificate[0]}, "me.key": {Type: "PRIVATE KEY", Bytes: key}}
	for name, block := range files {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	x := &terminal{c: c, config: filepath.Join(dir, "config.yaml")}
	login := "login " + c.s.Info().OperatorAddr.String() + " --ca-pin sha256:" + c.s.Info().CAPin
	x.says(64, "", login+" --certificate "+filepath.Join(dir, "me.pem"), "go together")
	x.says(0, "", login+" --certificate "+filepath.Join(dir, "me.pem")+" --key "+filepath.Join(dir, "me.key"), "cert-cn:dave")
	x.says(0, "", "whoami", "cert-cn:dave", "VIEWER")
}
