package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// organisation is an authority that is not the controller's.
type organisation struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newOrganisation(t *testing.T) *organisation {
	key := ecdsaKey(t, elliptic.P384()).(*ecdsa.PrivateKey)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Example Corp Root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(AuthorityLifetime),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &organisation{key, cert}
}

// sign signs a request as an authority, with what change changes.
func (o *organisation) sign(t *testing.T, request []byte, change func(*x509.Certificate)) []byte {
	t.Helper()
	csr, err := x509.ParseCertificateRequest(request)
	if err != nil {
		t.Fatal(err)
	}
	if err := csr.CheckSignature(); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: csr.Subject, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(5 * 365 * day),
	}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, o.cert, csr.PublicKey, o.key)
	if err != nil {
		t.Fatal(err)
	}
	return EncodePEM(der)
}

func TestExternalAuthority(t *testing.T) {
	w := newWorld(t, "berlin")
	txn := w.store.Txn()
	if _, err := w.keeper.RotateIn(txn, w.authority(), demo, RotateOptions{External: true, Edges: 1}, now); err != nil {
		t.Fatal(err)
	}
	w.commit(txn)
	w.step()
	if w.phase() != swanherdv1.CertificateAuthority_PHASE_AWAITING_CERTIFICATE {
		t.Fatalf("phase is %s before anybody signed", w.phase())
	}
	if _, err := w.keeper.AdvanceIn(w.store.Txn(), w.authority(), w.phase(), now); !errors.Is(err, ErrRotation) {
		t.Errorf("forced without a certificate: %v", err)
	}
	corp, request := newOrganisation(t), w.authority().Value.GetRotation().GetCertificateRequest()
	good := corp.sign(t, request, func(*x509.Certificate) {})
	otherKey, err := (&Authority{certificate: corp.cert, key: ecdsaKey(t, elliptic.P256()).(*ecdsa.PrivateKey)}).request()
	if err != nil {
		t.Fatal(err)
	}
	none := func(*x509.Certificate) {}
	tooDeep, err := corp.below(t, 0)(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	for what, bad := range map[string][]byte{
		"no certificate":                     []byte("hello"),
		"a key":                              []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
		"another key":                        corp.sign(t, otherKey, none),
		"the root alone":                     EncodePEM(corp.cert.Raw),
		"no authority":                       corp.sign(t, request, func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = false, false }),
		"not for signing":                    corp.sign(t, request, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }),
		"too short":                          corp.sign(t, request, func(c *x509.Certificate) { c.NotAfter = now.Add(IKELifetime - day) }),
		"not yet good":                       corp.sign(t, request, func(c *x509.Certificate) { c.NotBefore = now.Add(day) }),
		"of another root":                    append(append([]byte{}, good...), EncodePEM(newOrganisation(t).cert.Raw)...),
		"below one that may have none below": tooDeep,
		"constrained to other names": corp.sign(t, request, func(c *x509.Certificate) {
			c.PermittedDNSDomains = []string{"example.com"}
			c.PermittedDNSDomainsCritical = true
		}),
		"constrained to servers": corp.sign(t, request, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }),
	} {
		if _, _, err := w.keeper.ImportIn(w.store.Txn(), w.authority(), demo, bad, nil, now); !errors.Is(err, ErrChain) {
			t.Errorf("%s: %v", what, err)
		}
	}
	txn = w.store.Txn()
	_, issuer, err := w.keeper.ImportIn(txn, w.authority(), demo, append(good, EncodePEM(corp.cert.Raw)...), nil, now)
	if err != nil || !strings.Contains(issuer, "Example Corp Root") {
		t.Fatalf("import: %q, %v", issuer, err)
	}
	w.commit(txn)
	w.says("berlin", confirmed, w.authority().Revision, "")
	w.step()
	c := w.issue("berlin")
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(corp.cert)
	for _, der := range c.Chain[1:] {
		x, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		between.AddCert(x)
	}
	if _, err := c.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("who trusts the external root alone does not take the edge: %v", err)
	}
	if _, err := new(Verifier).Control(w.store.Snapshot(), c.Leaf, now); err != nil && !strings.Contains(err.Error(), "does not exist") { // the edge, which this test does not make
		t.Errorf("the controller does not take the edge: %v", err)
	}
	// What else the external root signs is not trusted.
	stray := corp.sign(t, otherKey, none)
	block, err := parseChain(stray)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := new(Verifier).Control(w.store.Snapshot(), block[0], now); err == nil {
		t.Error("a certificate of the external root is taken for an edge's")
	}
	if _, _, err := w.keeper.ImportIn(w.store.Txn(), w.authority(), demo, good, nil, now); !errors.Is(err, ErrRotation) {
		t.Errorf("a second import: %v", err)
	}
}
