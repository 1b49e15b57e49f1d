package enroll

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/swanherd/swanherd/edge/state"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// authority issues the test's certificates.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{key, cert}
}

func (a *authority) issue(public crypto.PublicKey) ([]byte, error) {
	return x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, public, a.key)
}

// controller is a real TLS server with a scripted EnrollmentService.
type controller struct {
	swanherdv1.UnimplementedEnrollmentServiceServer
	*authority
	addr string
	// network signs what edges get; the controller's own authority unless a
	// test says otherwise.
	network *authority

	mu       sync.Mutex
	enrolls  []*swanherdv1.EnrollRequest
	renewals [][]byte // control key in use and control key asked for
	lose     int      // answers to lose after issuing
	// approve is how often the edge has to ask before it is admitted, below 0: it is
	// denied; polls are its questions.
	approve int
	polls   []*swanherdv1.PollEnrollmentRequest
}

// same says whether two identities have the same control key.
func same(a, b *state.Identity) bool {
	return a.Control.Public().(*ecdsa.PublicKey).Equal(b.Control.Public())
}

func startController(t *testing.T) *controller {
	t.Helper()
	a := newAuthority(t)
	c := &controller{authority: a, network: a}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := a.issue(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AddCert(a.cert)
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{leaf, a.cert.Raw}, PrivateKey: key}},
		ClientAuth:   tls.VerifyClientCertIfGiven, ClientCAs: clients,
	})))
	swanherdv1.RegisterEnrollmentServiceServer(s, c)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.addr = l.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() { s.Stop(); wg.Wait() })
	return c
}

func (c *controller) certificates(control, ike []byte) (*swanherdv1.EdgeCertificates, error) {
	certs := &swanherdv1.EdgeCertificates{
		ControllerRoots: [][]byte{c.cert.Raw}, NetworkRoots: [][]byte{c.cert.Raw},
		RenewTime: timestamppb.New(time.Now().Add(time.Minute)),
	}
	for _, x := range []struct {
		csr []byte
		to  *[][]byte
		by  *authority
	}{{control, &certs.ControlChain, c.authority}, {ike, &certs.IkeChain, c.network}} {
		req, err := x509.ParseCertificateRequest(x.csr)
		if err != nil {
			return nil, err
		}
		if err := req.CheckSignature(); err != nil {
			return nil, err
		}
		der, err := x.by.issue(req.PublicKey)
		if err != nil {
			return nil, err
		}
		*x.to = [][]byte{der}
	}
	return certs, nil
}

func (c *controller) Enroll(_ context.Context, r *swanherdv1.EnrollRequest) (*swanherdv1.EnrollResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.enrolls = append(c.enrolls, r)
	if r.GetToken() != c.token("good") {
		return nil, status.Error(codes.PermissionDenied, "enrollment token is not valid")
	}
	if c.approve != 0 {
		return &swanherdv1.EnrollResponse{Pending: &swanherdv1.PendingEnrollment{EnrollmentRequest: "networks/n/enrollmentRequests/k1", KeyFingerprint: "f00"}}, nil
	}
	return c.admit(r.GetControlCsr(), r.GetIkeCsr())
}

func (c *controller) PollEnrollment(_ context.Context, r *swanherdv1.PollEnrollmentRequest) (*swanherdv1.EnrollResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.polls = append(c.polls, r)
	switch {
	case c.approve < 0:
		return nil, status.Error(codes.PermissionDenied, "denied")
	case len(c.polls) < c.approve:
		return &swanherdv1.EnrollResponse{Pending: &swanherdv1.PendingEnrollment{EnrollmentRequest: r.GetEnrollmentRequest()}}, nil
	}
	return c.admit(r.GetControlCsr(), r.GetIkeCsr())
}

// admit answers with certificates. The caller holds mu.
func (c *controller) admit(control, ike []byte) (*swanherdv1.EnrollResponse, error) {
	certs, err := c.certificates(control, ike)
	if err != nil {
		return nil, err
	}
	if c.lose > 0 {
		c.lose--
		return nil, status.Error(codes.Unavailable, "answer lost")
	}
	return &swanherdv1.EnrollResponse{Edge: "networks/n/edges/a", Certificates: certs, SessionEndpoints: []string{c.addr}}, nil
}

func (c *controller) RenewCertificate(ctx context.Context, r *swanherdv1.RenewCertificateRequest) (*swanherdv1.RenewCertificateResponse, error) {
	p, _ := peer.FromContext(ctx)
	chains := p.AuthInfo.(credentials.TLSInfo).State.VerifiedChains
	if len(chains) == 0 {
		return nil, status.Error(codes.Unauthenticated, "no client certificate")
	}
	certs, err := c.certificates(r.GetControlCsr(), r.GetIkeCsr())
	if err != nil {
		return nil, err
	}
	certs.RenewTime = timestamppb.New(time.Now().Add(time.Hour))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.renewals = append(c.renewals, chains[0][0].RawSubjectPublicKeyInfo)
	return &swanherdv1.RenewCertificateResponse{Certificates: certs}, nil
}

// token makes an enrollment token with the given secret.
func (c *controller) token(secret string) string {
	pin := sha256.Sum256(c.cert.RawSubjectPublicKeyInfo)
	return makeToken(map[string]any{
		"e": []string{c.addr}, "p": hex.EncodeToString(pin[:]),
		"i": "networks/n/enrollmentTokens/t1", "s": secret,
	})
}

func makeToken(fields map[string]any) string {
	b, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

func testConfig(t *testing.T, token string, log *bytes.Buffer) Config {
	t.Helper()
	d, err := state.Open(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	tok, err := ParseToken(token)
	if err != nil {
		t.Fatal(err)
	}
	return Config{Dir: d, Token: tok, AgentVersion: "test", Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
}

// An answer that is lost and asked for again is the same request, and gives an
// identity that loads.
func TestEnrollRetryIsIdempotent(t *testing.T) {
	c := startController(t)
	c.lose = 1
	var log bytes.Buffer
	cfg := testConfig(t, c.token("good"), &log)
	if _, err := Enroll(t.Context(), cfg); err == nil || errors.Is(err, ErrRefused) {
		t.Fatalf("first Enroll = %v, want an error that allows another try", err)
	}
	id, err := Enroll(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := cfg.Dir.LoadIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if stored.Edge != "networks/n/edges/a" || !same(stored, id) {
		t.Errorf("stored identity = %+v", stored)
	}
	keys := make([]any, 2)
	for i, r := range c.enrolls {
		req, err := x509.ParseCertificateRequest(r.GetControlCsr())
		if err != nil {
			t.Fatal(err)
		}
		keys[i] = req.PublicKey
	}
	if !keys[0].(*ecdsa.PublicKey).Equal(keys[1]) {
		t.Error("the second try was for another key")
	}
	if strings.Contains(log.String(), tokenPrefix) {
		t.Errorf("the token is in the log:\n%s", log.String())
	}
}

func TestEnrollRefused(t *testing.T) {
	c := startController(t)
	var log bytes.Buffer
	bad := c.token("used-up")
	_, err := Enroll(t.Context(), testConfig(t, bad, &log))
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "swanherd token create") {
		t.Errorf("Enroll = %v, want a refusal with the remedy", err)
	}
	if strings.Contains(err.Error(), bad) {
		t.Error("the token is in the error")
	}
}

// A controller with another authority never sees the token.
func TestEnrollRefusesWrongPin(t *testing.T) {
	honest, impostor := startController(t), startController(t)
	pin := sha256.Sum256(honest.cert.RawSubjectPublicKeyInfo)
	token := makeToken(map[string]any{"e": []string{impostor.addr}, "p": hex.EncodeToString(pin[:]), "i": "t", "s": "x"})
	var log bytes.Buffer
	_, err := Enroll(t.Context(), testConfig(t, token, &log))
	if err == nil || !strings.Contains(err.Error(), "not the one that the enrollment token pins") {
		t.Errorf("Enroll = %v", err)
	}
	if len(impostor.enrolls) != 0 {
		t.Error("the impostor got the token")
	}
}

// Certificates that no peer would accept are not put to use.
func TestEnrollChecksCertificates(t *testing.T) {
	c := startController(t)
	c.network = newAuthority(t)
	var log bytes.Buffer
	cfg := testConfig(t, c.token("good"), &log)
	if _, err := Enroll(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "verify IKE certificate") {
		t.Errorf("Enroll = %v", err)
	}
	if _, err := cfg.Dir.LoadIdentity(); !errors.Is(err, state.ErrNotEnrolled) {
		t.Errorf("LoadIdentity = %v", err)
	}
}

func TestRenew(t *testing.T) {
	c := startController(t)
	var log bytes.Buffer
	cfg := testConfig(t, c.token("good"), &log)
	old, err := Enroll(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	old.RenewTime = time.Now().Add(-time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	renewed := make(chan *state.Identity, 1)
	done := make(chan struct{})
	r := NewRenewer(cfg.Dir, cfg.Logger, func(id *state.Identity) { renewed <- id })
	go func() { defer close(done); r.Run(ctx, old) }()
	next := <-renewed
	cancel()
	<-done
	if same(next, old) || next.Edge != old.Edge {
		t.Error("the new identity has the old key or another name")
	}
	if !bytes.Equal(c.renewals[0], old.ControlChain[0].RawSubjectPublicKeyInfo) {
		t.Error("the renewal was not asked for with the old certificate")
	}
	if stored, err := cfg.Dir.LoadIdentity(); err != nil || !same(stored, next) {
		t.Errorf("stored identity is not the new one: %v", err)
	}
}

// An edge that an operator has to approve asks until it was decided, with the key that
// it asked with first.
func TestEnrollWaitsForApproval(t *testing.T) {
	c := startController(t)
	c.approve, c.lose = 2, 1
	var log bytes.Buffer
	cfg := testConfig(t, c.token("good"), &log)
	id, err := Enroll(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.enrolls) != 1 || len(c.polls) != 3 || id.Edge != "networks/n/edges/a" {
		t.Errorf("%d requests and %d questions, enrolled as %s", len(c.enrolls), len(c.polls), id.Edge)
	}
	for _, p := range c.polls {
		if !bytes.Equal(p.GetControlCsr(), c.enrolls[0].GetControlCsr()) || p.GetEnrollmentRequest() != "networks/n/enrollmentRequests/k1" {
			t.Errorf("asked for %s with another key", p.GetEnrollmentRequest())
		}
	}
	if !strings.Contains(log.String(), "key_fingerprint=f00") {
		t.Errorf("the log does not show what the operator is to compare:\n%s", log.String())
	}

	c = startController(t)
	c.approve = -1
	if _, err := Enroll(t.Context(), testConfig(t, c.token("good"), &log)); !errors.Is(err, ErrRefused) {
		t.Errorf("after it was denied: %v", err)
	}
}

// When the controller wants certificates of another authority, the edge renews without
// waiting for its time, and once it has them no more.
func TestRenewForAnotherAuthority(t *testing.T) {
	c := startController(t)
	var log bytes.Buffer
	cfg := testConfig(t, c.token("good"), &log)
	old, err := Enroll(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	old.RenewTime = time.Now().Add(24 * time.Hour)
	pin := func(a *authority) string {
		sum := sha256.Sum256(a.cert.RawSubjectPublicKeyInfo)
		return hex.EncodeToString(sum[:])
	}
	if !old.IssuedBy(pin(c.authority)) || old.IssuedBy(pin(newAuthority(t))) {
		t.Error("the identity does not know who issued it")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	renewed := make(chan *state.Identity, 8)
	done := make(chan struct{})
	r := NewRenewer(cfg.Dir, cfg.Logger, func(id *state.Identity) { renewed <- id })
	go func() { defer close(done); r.Run(ctx, old) }()
	r.Trust(&swanherdv1.TrustBundle{IssuerPin: pin(c.authority)}) // it has those
	r.Trust(&swanherdv1.TrustBundle{IssuerPin: pin(newAuthority(t)), RenewWithin: durationpb.New(time.Millisecond)})
	if next := <-renewed; same(next, old) {
		t.Error("the new identity has the old key")
	}
	cancel()
	<-done
}

func TestControllers(t *testing.T) {
	pin := strings.Repeat("ab", 32)
	tok, err := Controllers([]string{"c:7444"}, "sha256:"+pin)
	if err != nil || tok.String() != "the device's serial number" {
		t.Errorf("%v, %v", tok, err)
	}
	for name, bad := range map[string]struct {
		endpoints []string
		pin       string
	}{"no port": {[]string{"c"}, pin}, "none": {nil, pin}, "no pin": {[]string{"c:1"}, ""}, "cut pin": {[]string{"c:1"}, pin[2:]}} {
		if _, err := Controllers(bad.endpoints, bad.pin); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestParseToken(t *testing.T) {
	pin := strings.Repeat("ab", 32)
	good := makeToken(map[string]any{"e": []string{"c:7444"}, "p": pin, "i": "networks/n/enrollmentTokens/t1", "s": "hush"})
	tok, err := ParseToken(" " + good + "\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(verb, tok); strings.Contains(s, "hush") || strings.Contains(s, good) {
			t.Errorf("%s shows the secret: %s", verb, s)
		}
	}
	for name, s := range map[string]string{
		"empty": "", "api token": "swa_x_y", "not base64": "swe_!!", "cut": good[:len(good)-9],
		"no endpoint":    makeToken(map[string]any{"p": pin, "s": "hush"}),
		"bad endpoint":   makeToken(map[string]any{"e": []string{"c"}, "p": pin, "s": "hush"}),
		"no pin":         makeToken(map[string]any{"e": []string{"c:1"}, "s": "hush"}),
		"too long a pin": makeToken(map[string]any{"e": []string{"c:1"}, "p": pin + "00", "s": "hush"}),
		"too long":       tokenPrefix + strings.Repeat("A", maxTokenSize),
	} {
		if _, err := ParseToken(s); err == nil {
			t.Errorf("%s: no error", name)
		} else if strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: the secret is in the error", name)
		}
	}
}
