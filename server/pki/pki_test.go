package pki

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

var (
	now    = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	berlin = model.EdgeName{Network: "demo", Edge: "berlin"}
	demo   = model.NetworkName{Network: "demo"}
)

func request(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		// An authority takes none of these.
		Subject:  pkix.Name{CommonName: "root of everything"},
		DNSNames: []string{"oslo.demo.swanherd.internal"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func ed25519Key(t testing.TB) crypto.Signer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func ecdsaKey(t testing.TB, curve elliptic.Curve) crypto.Signer {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaKey(t testing.TB, bits int) crypto.Signer {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func parsed(t testing.TB, der []byte) *x509.CertificateRequest {
	t.Helper()
	csr, err := ParseRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func TestParseRequest(t *testing.T) {
	for name, key := range map[string]crypto.Signer{
		"Ed25519": ed25519Key(t), "P-256": ecdsaKey(t, elliptic.P256()), "P-384": ecdsaKey(t, elliptic.P384()), "RSA 3072": rsaKey(t, 3072),
	} {
		if _, err := ParseRequest(request(t, key)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := request(t, ed25519Key(t))
	forged := slices.Clone(good)
	forged[len(forged)-1] ^= 1
	for name, der := range map[string][]byte{
		"empty":              nil,
		"not DER":            []byte("-----BEGIN CERTIFICATE REQUEST-----"),
		"cut":                good[:len(good)-10],
		"trailing octets":    append(slices.Clone(good), 0),
		"another signature":  forged,
		"P-224":              request(t, ecdsaKey(t, elliptic.P224())),
		"P-521":              request(t, ecdsaKey(t, elliptic.P521())),
		"RSA 2048":           request(t, rsaKey(t, 2048)),
		"longer than it may": make([]byte, maxCSR+1),
	} {
		if _, err := ParseRequest(der); !errors.Is(err, ErrRequest) {
			t.Errorf("%s: %v, want ErrRequest", name, err)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add(request(f, ed25519Key(f)))
	f.Add(request(f, ecdsaKey(f, elliptic.P256())))
	f.Fuzz(func(t *testing.T, der []byte) {
		csr, err := ParseRequest(der)
		if err != nil && !errors.Is(err, ErrRequest) {
			t.Fatalf("error is not ErrRequest: %v", err)
		}
		if err == nil && csr.CheckSignature() != nil {
			t.Fatal("a request without proof of possession passed")
		}
	})
}

func TestAuthorityDecidesNamesAndUsages(t *testing.T) {
	ca, err := NewAuthority("Swanherd network demo", now)
	if err != nil {
		t.Fatal(err)
	}
	control, err := ca.IssueControl(parsed(t, request(t, ecdsaKey(t, elliptic.P256()))), berlin, now)
	if err != nil {
		t.Fatal(err)
	}
	if edge, err := EdgeOf(control.Leaf); err != nil || edge != berlin {
		t.Errorf("EdgeOf = %v, %v", edge, err)
	}
	if c := control.Leaf; len(c.DNSNames) != 0 || c.Subject.CommonName != "berlin" || c.IsCA || len(c.ExtKeyUsage) != 1 ||
		c.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || c.URIs[0].String() != "spiffe://swanherd/networks/demo/edges/berlin" {
		t.Errorf("control certificate has names %v %v %v, usages %v", c.Subject, c.DNSNames, c.URIs, c.ExtKeyUsage)
	}
	ike, err := ca.IssueIKE(parsed(t, request(t, ed25519Key(t))), berlin, now)
	if err != nil {
		t.Fatal(err)
	}
	if c := ike.Leaf; !slices.Equal(c.DNSNames, []string{"berlin.demo.swanherd.internal"}) || len(c.URIs) != 0 ||
		!c.UnknownExtKeyUsage[0].Equal(oidIKEIntermediate) {
		t.Errorf("IKE certificate has names %v %v, usages %v", c.DNSNames, c.URIs, c.UnknownExtKeyUsage)
	}
	for c, lifetime := range map[*x509.Certificate]time.Duration{control.Leaf: ControlLifetime, ike.Leaf: IKELifetime} {
		if !c.NotAfter.Equal(now.Add(lifetime)) || !c.NotBefore.Before(now) {
			t.Errorf("valid from %v to %v", c.NotBefore, c.NotAfter)
		}
		if c.SerialNumber.Sign() <= 0 || c.SerialNumber.BitLen() > 128 || c.SerialNumber.BitLen() < 64 {
			t.Errorf("serial number %x", c.SerialNumber)
		}
		if _, err := c.Verify(x509.VerifyOptions{Roots: ca.Pool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			t.Error(err)
		}
	}
	if control.Serial == ike.Serial {
		t.Error("two certificates have the same serial number")
	}
}

// A client that has only the pin can verify the server: the chain has the root.
func TestServerCertificate(t *testing.T) {
	ca, err := NewAuthority("Swanherd controller", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key := ecdsaKey(t, elliptic.P256())
	c, err := ca.IssueServer(key.Public(), []string{"controller.example", "127.0.0.1", "::1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	go tls.Server(server, &tls.Config{Certificates: []tls.Certificate{{Certificate: c.Chain, PrivateKey: key}}}).Handshake()
	conn := tls.Client(client, &tls.Config{ServerName: "127.0.0.1", RootCAs: ca.Pool(), MinVersion: tls.VersionTLS13})
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	peer := conn.ConnectionState().PeerCertificates
	if got := Pin(peer[len(peer)-1]); got != ca.Pin() || len(got) != 64 {
		t.Errorf("pin of the last of the chain is %s, want %s", got, ca.Pin())
	}
}

func openStore(t *testing.T) (*store.Store, *store.Sealer) {
	t.Helper()
	dir := t.TempDir()
	s, err := store.Open(t.Context(), store.Config{DataDir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	sealer, err := store.LoadSealer(filepath.Join(dir, "secret.key"))
	if err != nil {
		t.Fatal(err)
	}
	return s, sealer
}

func TestKeeper(t *testing.T) {
	ctx := t.Context()
	s, sealer := openStore(t)
	k := NewKeeper(s, sealer)
	if _, err := k.Network(ctx, demo); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("authority of no network: %v, want ErrNotFound", err)
	}
	made, err := k.Controller(ctx, now)
	if err != nil {
		t.Fatal(err)
	}
	txn := s.Txn()
	if err := k.CreateNetworkIn(txn, demo, now); err != nil {
		t.Fatal(err)
	}
	if _, err := txn.Commit(ctx); err != nil {
		t.Fatal(err)
	}

	// Another replica, or this one after a restart, has the same authorities.
	other := NewKeeper(s, sealer)
	again, err := other.Controller(ctx, now)
	if err != nil {
		t.Fatal(err)
	}
	if again.Pin() != made.Pin() || !again.key.Equal(made.key) {
		t.Error("the controller's authority is another one after a restart")
	}
	if _, err := other.Network(ctx, demo); err != nil {
		t.Error(err)
	}

	// Without the key file, the keys are of no use.
	strange, err := store.LoadSealer(filepath.Join(t.TempDir(), "secret.key"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewKeeper(s, strange).Controller(ctx, now); err == nil {
		t.Error("an authority opened with another key")
	}

	// A key moved to another authority does not open.
	row, err := s.Authorities.Get(ctx, demo.AuthorityName())
	if err != nil {
		t.Fatal(err)
	}
	moved := &storev1.CertificateAuthority{Name: "certificateAuthorities/networks/evil", Certificate: row.Value.GetCertificate(), Key: row.Value.GetKey()}
	if _, err := s.Authorities.Create(ctx, moved.GetName(), moved); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Network(ctx, model.NetworkName{Network: "evil"}); err == nil {
		t.Error("a sealed key opened under another name")
	}
}

func TestKeeperRace(t *testing.T) {
	s, sealer := openStore(t)
	pins := make(chan string)
	for range 8 {
		go func() {
			a, err := NewKeeper(s, sealer).Controller(context.Background(), now)
			if err != nil {
				t.Error(err)
				pins <- ""
				return
			}
			pins <- a.Pin()
		}()
	}
	first := <-pins
	for range 7 {
		if p := <-pins; p != first {
			t.Errorf("two replicas have different authorities: %s and %s", first, p)
		}
	}
}

// TestVerifier also asks again about what was proved: what is remembered must not outlive
// the edge, its certificate or its authority.
func TestVerifier(t *testing.T) {
	ctx := t.Context()
	s, sealer := openStore(t)
	k := NewKeeper(s, sealer)
	other := model.NetworkName{Network: "other"}
	txn := s.Txn()
	for _, n := range []model.NetworkName{demo, other} {
		s.Networks.CreateIn(txn, n.String(), &swanherdv1.Network{Name: n.String()})
		if err := k.CreateNetworkIn(txn, n, now); err != nil {
			t.Fatal(err)
		}
	}
	s.Edges.CreateIn(txn, berlin.String(), &swanherdv1.Edge{Name: berlin.String()})
	revision, err := txn.Commit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	snap, err := s.WaitRevision(ctx, revision)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(ca model.NetworkName, edge model.EdgeName) *Certificate {
		a, err := k.Network(ctx, ca)
		if err != nil {
			t.Fatal(err)
		}
		c, err := a.IssueControl(parsed(t, request(t, ecdsaKey(t, elliptic.P256()))), edge, now)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	good := issue(demo, berlin)
	var v Verifier
	for range 2 {
		if edge, err := v.Control(snap, good.Leaf, now); err != nil || edge != berlin {
			t.Errorf("Control = %v, %v", edge, err)
		}
	}
	a, err := k.Network(ctx, demo)
	if err != nil {
		t.Fatal(err)
	}
	ike, err := a.IssueIKE(parsed(t, request(t, ed25519Key(t))), berlin, now)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		leaf *x509.Certificate
		at   time.Time
	}{
		"another network's authority": {issue(other, berlin).Leaf, now},
		"no such edge":                {issue(demo, model.EdgeName{Network: "demo", Edge: "oslo"}).Leaf, now},
		"no such network":             {issue(demo, model.EdgeName{Network: "gone", Edge: "berlin"}).Leaf, now},
		"expired":                     {good.Leaf, now.Add(ControlLifetime + time.Second)},
		"an IKE certificate":          {ike.Leaf, now},
	} {
		if edge, err := v.Control(snap, c.leaf, c.at); err == nil {
			t.Errorf("%s: passes as %s", name, edge)
		}
	}

	identity := &storev1.EdgeIdentity{Edge: berlin.String()}
	Remember(identity, good, ike, now)
	txn = s.Txn()
	RevokeIn(txn, s, berlin, identity, "edge deleted", now)
	if revision, err = txn.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if snap, err = s.WaitRevision(ctx, revision); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Control(snap, good.Leaf, now); !errors.Is(err, ErrRevoked) {
		t.Errorf("revoked certificate: %v, want ErrRevoked", err)
	}
	if !Revoked(snap, demo, ike.Serial) {
		t.Error("the IKE certificate is not revoked with the edge")
	}

	txn = s.Txn()
	if n := DropExpiredIn(txn, s, snap, now.Add(ControlLifetime+time.Hour), 100); n != 1 {
		t.Errorf("%d revocations are forgotten after the control certificate expired, want 1", n)
	}
}

func TestRememberForgetsExpired(t *testing.T) {
	ca, err := NewAuthority("x", now)
	if err != nil {
		t.Fatal(err)
	}
	csr := parsed(t, request(t, ed25519Key(t)))
	identity := &storev1.EdgeIdentity{}
	for day := range 120 {
		at := now.Add(time.Duration(day) * 24 * time.Hour)
		control, err := ca.IssueControl(csr, berlin, at)
		if err != nil {
			t.Fatal(err)
		}
		ike, err := ca.IssueIKE(csr, berlin, at)
		if err != nil {
			t.Fatal(err)
		}
		Remember(identity, control, ike, at)
	}
	if n := len(identity.GetCertificates()); n != 30+90 {
		t.Errorf("%d certificates are remembered after daily renewals, want 120", n)
	}
}
