package ident

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// authority is a certificate authority for tests.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func ed25519Key() crypto.Signer { return must2(ed25519.GenerateKey(rand.Reader)) }

func must2(_ ed25519.PublicKey, k ed25519.PrivateKey, err error) crypto.Signer {
	if err != nil {
		panic(err)
	}
	return k
}

func ecdsaKey(c elliptic.Curve) crypto.Signer { return must(ecdsa.GenerateKey(c, rand.Reader)) }

func newRSA() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) }

func rsaKey(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	return must(rsa.GenerateKey(rand.Reader, bits))
}

var serials atomic.Int64

func nextSerial() *big.Int { return big.NewInt(serials.Add(1)) }

func newAuthority(name string, parent *authority) *authority {
	key := ecdsaKey(elliptic.P256())
	tmpl := &x509.Certificate{
		SerialNumber: nextSerial(), Subject: pkix.Name{CommonName: name},
		NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(5, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	parentCert, parentKey := tmpl, key
	if parent != nil {
		parentCert, parentKey = parent.cert, parent.key
	}
	der := must(x509.CreateCertificate(rand.Reader, tmpl, parentCert, key.Public(), parentKey))
	return &authority{must(x509.ParseCertificate(der)), key}
}

// issue makes a certificate for edge1 that change may alter.
func (a *authority) issue(key crypto.Signer, change func(*x509.Certificate)) *x509.Certificate {
	tmpl := &x509.Certificate{
		SerialNumber: nextSerial(), Subject: pkix.Name{CommonName: "edge1", Organization: []string{"Example"}},
		NotBefore: now.AddDate(0, -1, 0), NotAfter: now.AddDate(0, 1, 0),
		DNSNames: []string{"edge1.example"}, IPAddresses: []net.IP{net.ParseIP("192.0.2.1"), net.ParseIP("2001:db8::1")},
		EmailAddresses: []string{"Edge1@Example.com"},
		KeyUsage:       x509.KeyUsageDigitalSignature,
	}
	if change != nil {
		change(tmpl)
	}
	der := must(x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key))
	return must(x509.ParseCertificate(der))
}

func id(t *testing.T, s string) ID {
	t.Helper()
	v, err := ParseID(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

var octets = SignedOctets([]byte("IKE_SA_INIT message"), []byte("nonce of the other side"), suite.PRFHMACSHA256, []byte("SK_p"), []byte("ID body"), nil)

func wantReason(t *testing.T, err error, want Reason) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got error %v, want *Error with reason %s", err, want)
	}
	if e.Reason != want || e.Detail == "" || e.Remedy == "" {
		t.Fatalf("got %+v, want reason %s with detail and remedy", e, want)
	}
}

// scenario is a peer that authenticates correctly until a test changes
// something.
type scenario struct {
	local  Local
	remote Remote
	id     ID
	method wire.AuthMethod
	data   []byte
	octets Octets
	chain  []*x509.Certificate
	old    bool // the peer does not support digital signatures
	now    time.Time
}

// modern is a peer that supports digital signatures with all hashes.
var modern = Announced{Signatures: true, Hashes: HashAlgorithms()}

func (s *scenario) verify() (*VerifiedPeer, error) {
	return Verify(s.remote, Claim{s.id, s.method, s.data, s.octets, s.chain, !s.old}, s.now)
}

func newScenario(t *testing.T, key crypto.Signer, change func(*x509.Certificate)) *scenario {
	t.Helper()
	s := newUnsigned(t, key, change)
	s.sign(t)
	return s
}

func newUnsigned(t *testing.T, key crypto.Signer, change func(*x509.Certificate)) *scenario {
	t.Helper()
	root := newAuthority("root", nil)
	intermediate := newAuthority("intermediate", root)
	leaf := intermediate.issue(key, change)
	return &scenario{
		local:  Local{ID: id(t, "edge1.example"), Signer: key, Chain: []*x509.Certificate{leaf, intermediate.cert}},
		remote: Remote{ID: id(t, "edge1.example"), Roots: NewRoots(root.cert)},
		id:     id(t, "edge1.example"),
		octets: octets, chain: []*x509.Certificate{leaf, intermediate.cert}, now: now,
	}
}

func (s *scenario) sign(t *testing.T) {
	t.Helper()
	list, err := schemesToSign(s.local.Signer.Public(), s.local.RSA)
	if err != nil {
		t.Fatal(err)
	}
	s.method, s.data = wire.AuthDigitalSignature, must(list[0].sign(s.local.Signer, s.octets, rand.Reader))
}

func TestSignatureAuthentication(t *testing.T) {
	keys := map[string]crypto.Signer{
		"Ed25519": ed25519Key(), "P-256": ecdsaKey(elliptic.P256()), "P-384": ecdsaKey(elliptic.P384()), "P-521": ecdsaKey(elliptic.P521()), "RSA": rsaKey(t, 2048),
	}
	for name, key := range keys {
		t.Run(name, func(t *testing.T) {
			s := newScenario(t, key, nil)
			for _, text := range []string{"EDGE1.example", "192.0.2.1", "2001:db8::1", "Edge1@example.COM", "cn=EDGE1, o=example"} {
				s.remote.ID = id(t, text)
				s.id = s.remote.ID
				peer, err := s.verify()
				if err != nil {
					t.Fatalf("%s: %v", text, err)
				}
				if peer.Leaf != s.chain[0] || !peer.ID.Equal(s.id) {
					t.Fatalf("verified %+v", peer)
				}
			}
		})
	}
}

func TestVerifyRejects(t *testing.T) {
	other := newAuthority("other", nil)
	tests := []struct {
		name   string
		issue  func(*x509.Certificate)
		change func(t *testing.T, s *scenario)
		want   Reason
	}{
		{"other identity than expected", nil, func(t *testing.T, s *scenario) { s.id = id(t, "edge2.example") }, ReasonIdentity},
		{"no identity", nil, func(_ *testing.T, s *scenario) { s.id = ID{} }, ReasonIdentity},
		{"identity not in certificate", nil, func(t *testing.T, s *scenario) { s.remote.ID = ID{}; s.id = id(t, "edge2.example") }, ReasonIdentity},
		{"address not in certificate", nil, func(t *testing.T, s *scenario) { s.remote.ID = ID{}; s.id = id(t, "192.0.2.2") }, ReasonIdentity},
		{"subject of another", nil, func(t *testing.T, s *scenario) { s.remote.ID = ID{}; s.id = id(t, "CN=edge1,O=Other") }, ReasonIdentity},
		{"key ID is in no certificate", nil, func(t *testing.T, s *scenario) { s.remote.ID = ID{}; s.id = id(t, "keyid:00") }, ReasonIdentity},
		{"common name is no domain name", func(c *x509.Certificate) { c.DNSNames = nil; c.Subject.CommonName = "edge1.example" }, nil, ReasonIdentity},
		{"wildcard does not match", func(c *x509.Certificate) { c.DNSNames = []string{"*.example"} }, nil, ReasonIdentity},
		{"expired", nil, func(_ *testing.T, s *scenario) { s.now = now.AddDate(0, 2, 0) }, ReasonExpired},
		{"not yet valid", nil, func(_ *testing.T, s *scenario) { s.now = now.AddDate(0, -2, 0) }, ReasonExpired},
		{"unknown authority", nil, func(_ *testing.T, s *scenario) { s.remote.Roots = NewRoots(other.cert) }, ReasonUntrusted},
		{"intermediate is missing", nil, func(_ *testing.T, s *scenario) { s.chain = s.chain[:1] }, ReasonUntrusted},
		{"no certificate", nil, func(_ *testing.T, s *scenario) { s.chain = nil }, ReasonCertificate},
		{"key usage without signing", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }, nil, ReasonCertificate},
		{"extended key usage for code", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }, nil, ReasonCertificate},
		{"unknown critical extension", func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		}, nil, ReasonCertificate},
		{"PSK where a certificate is required", nil, func(_ *testing.T, s *scenario) {
			s.method, s.data = wire.AuthSharedKey, octets.sharedKeyAuth(PSK("secret"))
		}, ReasonMethod},
		{"PSK method with an empty key", nil, func(_ *testing.T, s *scenario) {
			s.method, s.data = wire.AuthSharedKey, octets.sharedKeyAuth(nil)
		}, ReasonMethod},
		{"signature where a PSK is required", nil, func(_ *testing.T, s *scenario) {
			s.remote.Roots, s.remote.PSK = nil, PSK("secret")
		}, ReasonMethod},
		{"downgrade to RSA with SHA-1", nil, func(_ *testing.T, s *scenario) { s.method = wire.AuthRSA }, ReasonMethod},
		{"downgrade to ECDSA of RFC 4754", nil, func(_ *testing.T, s *scenario) { s.method = wire.AuthECDSAP256 }, ReasonMethod},
		{"NULL authentication", nil, func(_ *testing.T, s *scenario) { s.method, s.data = wire.AuthNull, nil }, ReasonMethod},
		{"SHA-1 identifier", nil, func(_ *testing.T, s *scenario) {
			s.data = append([]byte("\x0b\x30\x09\x06\x07\x2a\x86\x48\xce\x3d\x04\x01"), s.data[13:]...)
		}, ReasonAlgorithm},
		{"both configured", nil, func(_ *testing.T, s *scenario) { s.remote.PSK = PSK("secret") }, ReasonConfiguration},
		{"neither configured", nil, func(_ *testing.T, s *scenario) { s.remote.Roots = nil }, ReasonConfiguration},
		{"no roots in the set", nil, func(_ *testing.T, s *scenario) { s.remote.Roots = NewRoots() }, ReasonConfiguration},
		{"other octets", nil, func(_ *testing.T, s *scenario) { s.octets.b = append(s.octets.b, 0) }, ReasonSignature},
		{"empty data", nil, func(_ *testing.T, s *scenario) { s.data = nil }, ReasonSignature},
		{"length octet alone", nil, func(_ *testing.T, s *scenario) { s.data = []byte{0} }, ReasonSignature},
		{"identifier without signature", nil, func(_ *testing.T, s *scenario) { s.data = s.data[:13] }, ReasonSignature},
		{"identifier cut short", nil, func(_ *testing.T, s *scenario) { s.data = s.data[:7] }, ReasonSignature},
		{"empty identifier", nil, func(_ *testing.T, s *scenario) { s.data = append([]byte{0}, s.data[13:]...) }, ReasonAlgorithm},
		{"NULL parameters of ECDSA", nil, func(_ *testing.T, s *scenario) {
			s.data = append([]byte("\x0e\x30\x0c\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02\x05\x00"), s.data[13:]...)
		}, ReasonAlgorithm},
		{"trailing octets inside the identifier", nil, func(_ *testing.T, s *scenario) {
			s.data = append(append([]byte{s.data[0] + 1}, s.data[1:13]...), append([]byte{0}, s.data[13:]...)...)
		}, ReasonAlgorithm},
		{"trailing octet after the DER signature", nil, func(_ *testing.T, s *scenario) { s.data = append(s.data, 0) }, ReasonSignature},
		{"Ed25519 identifier with an ECDSA key", nil, func(_ *testing.T, s *scenario) {
			s.data = append([]byte("\x07\x30\x05\x06\x03\x2b\x65\x70"), s.data[13:]...)
		}, ReasonSignature},
		{"another certificate first", nil, func(_ *testing.T, s *scenario) {
			s.remote.ID = ID{}
			s.chain = []*x509.Certificate{s.chain[1], s.chain[0]}
		}, ReasonCertificate},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScenario(t, ecdsaKey(elliptic.P256()), tt.issue)
			if tt.change != nil {
				tt.change(t, s)
			}
			peer, err := s.verify()
			if peer != nil {
				t.Fatalf("accepted as %+v", peer)
			}
			wantReason(t, err, tt.want)
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("error tells the key: %v", err)
			}
		})
	}
}

func TestVerifyAcceptsUsages(t *testing.T) {
	usages := map[string]func(*x509.Certificate){
		"none":              func(c *x509.Certificate) { c.KeyUsage = 0 },
		"contentCommitment": func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageContentCommitment },
		"any":               func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} },
		"serverAuth":        func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
		"clientAuth":        func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} },
		"ipsecIKE":          func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{oidIPsecIKE} },
	}
	for name, change := range usages {
		t.Run(name, func(t *testing.T) {
			if _, err := newScenario(t, ed25519Key(), change).verify(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestCheckRevoked(t *testing.T) {
	s := newScenario(t, ed25519Key(), nil)
	var asked []string
	s.remote.CheckRevoked = func(c *x509.Certificate) error {
		asked = append(asked, c.Subject.CommonName)
		return nil
	}
	if _, err := s.verify(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(asked, " "); got != "edge1 intermediate" {
		t.Errorf("asked about %q, want the path without the root", got)
	}
	for _, name := range []string{"edge1", "intermediate"} {
		s.remote.CheckRevoked = func(c *x509.Certificate) error {
			if c.Subject.CommonName == name {
				return errors.New("revoked at noon")
			}
			return nil
		}
		_, err := s.verify()
		wantReason(t, err, ReasonRevoked)
	}
}

func TestPinnedCertificate(t *testing.T) {
	s := newScenario(t, ed25519Key(), nil)
	s.remote.Roots = NewRoots(s.chain[0])
	if _, err := s.verify(); err != nil {
		t.Fatal(err)
	}
}

func TestSharedKey(t *testing.T) {
	local := Local{ID: id(t, "edge1.example"), PSK: PSK("0123456789abcdef")}
	proof, err := Sign(local, octets, Announced{}, nil, nil)
	if err != nil || proof.Method != wire.AuthSharedKey || len(proof.Certificates) != 0 {
		t.Fatal(proof, err)
	}
	claim := Claim{ID: local.ID, Method: proof.Method, Data: proof.Data, Octets: octets}
	remote := Remote{ID: local.ID, PSK: local.PSK}
	peer, err := Verify(remote, claim, now)
	if err != nil || peer.Leaf != nil || !peer.ID.Equal(local.ID) {
		t.Fatal(peer, err)
	}
	remote.PSK = PSK("0123456789abcdeF")
	_, err = Verify(remote, claim, now)
	wantReason(t, err, ReasonSignature)
	remote.PSK = local.PSK
	for n := range len(proof.Data) {
		claim.Data = proof.Data[:n]
		_, err = Verify(remote, claim, now)
		wantReason(t, err, ReasonSignature)
	}
}

// An independent computation of RFC 7296, Section 2.15.
func TestSharedKeyFormula(t *testing.T) {
	prf := suite.PRFHMACSHA256
	want := prf.Sum(prf.Sum([]byte("psk"), []byte("Key Pad for IKEv2")), []byte("message"), []byte("nonce"), prf.Sum([]byte("SK_p"), []byte("body")))
	got := SignedOctets([]byte("message"), []byte("nonce"), prf, []byte("SK_p"), []byte("body"), nil).sharedKeyAuth(PSK("psk"))
	if !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

func TestRSAPeers(t *testing.T) {
	key := rsaKey(t, 2048)
	s := newUnsigned(t, key, nil)
	s.method = wire.AuthDigitalSignature
	digest := sha256.Sum256(octets.b)
	pkcs1 := must(rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:]))
	pss := must(rsa.SignPSS(rand.Reader, key, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}))
	longSalt := must(rsa.SignPSS(rand.Reader, key, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: 40}))

	try := func(identifier string, signature []byte) error {
		s.data = append(append([]byte{byte(len(identifier))}, identifier...), signature...)
		_, err := s.verify()
		return err
	}
	for _, sch := range schemes {
		for _, identifier := range sch.identifiers {
			for kind, signature := range map[string][]byte{"RSA PKCS #1 v1.5 with SHA-256": pkcs1, "RSASSA-PSS with SHA-256": pss} {
				err := try(identifier, signature)
				if (err == nil) != (kind == sch.name) {
					t.Errorf("%s signature under identifier of %s: %v", kind, sch.name, err)
				}
			}
		}
	}
	wantReason(t, try(pssIdentifiers(1, 32)[0], longSalt), ReasonSignature)
	wantReason(t, try(pssIdentifiers(1, 40)[0], longSalt), ReasonAlgorithm)
	wantReason(t, try("\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a\x30\x00", pss), ReasonAlgorithm) // defaults mean SHA-1
	wantReason(t, try("\x30\x0b\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b", pkcs1), ReasonAlgorithm)       // NULL is required
}

func TestWeakKeys(t *testing.T) {
	weak := rsaKey(t, 1024)
	strange := must(rsa.GenerateKey(rand.Reader, 2048))
	strange.E = 3
	p224 := ecdsaKey(elliptic.P224()).Public()
	for _, k := range []crypto.PublicKey{&weak.PublicKey, &strange.PublicKey, p224, "none"} {
		wantReason(t, checkKey(k), ReasonAlgorithm)
	}
}

// RFC 7427, Appendix A.4.3.
func TestPSSIdentifierOfRFC7427(t *testing.T) {
	const (
		oid    = "06092a864886f70d01010a"
		params = "a00f300d06096086480165030402010500" + "a11c301a06092a864886f70d010108300d06096086480165030402010500" + "a203020120"
	)
	// What is sent is DER, without the field that has its default value, and
	// octet for octet what libreswan compares with; the appendix writes it.
	for i, want := range []string{"3041" + oid + "3034" + params, "3046" + oid + "3039" + params + "a303020101"} {
		if got := fmt.Sprintf("%x", pssIdentifiers(1, 32)[i]); got != want {
			t.Errorf("identifier %d is %s\nwant %s", i, got, want)
		}
	}
}
