package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"time"

	"github.com/swanherd/swanherd/server/model"
)

const (
	// AuthorityLifetime is how long an authority's certificate is good.
	AuthorityLifetime = 20 * 365 * 24 * time.Hour
	// ControlLifetime is how long an edge's control certificate is good.
	ControlLifetime = 30 * 24 * time.Hour
	// RenewAfter is the age at which an edge renews its certificates.
	RenewAfter = ControlLifetime / 3
	// IKELifetime is how long an edge's IKE certificate is good: with renewal at
	// RenewAfter, an edge that loses the controller keeps its tunnels for at
	// least IKELifetime - RenewAfter.
	IKELifetime = 90 * 24 * time.Hour
	// ServerLifetime is how long the server's certificate is good; it is issued
	// anew at every start, and when half of this has passed.
	ServerLifetime = 90 * 24 * time.Hour
	// backdate tolerates edges whose clocks are behind.
	backdate = 5 * time.Minute

	// TrustDomain is the authority part of edges' SPIFFE ids.
	TrustDomain = "swanherd"
)

// oidIKEIntermediate is the extended key usage iKEIntermediate, which some
// implementations ask for in certificates of IKE peers (RFC 4945, Section
// 5.1.3.12, tells what to make of it).
var oidIKEIntermediate = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 8, 2, 2}

// An Authority issues certificates.
type Authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	// chain is what the certificate chains to without the root, in DER; empty when it
	// signed itself.
	chain [][]byte
	// bridge, of the controller's authority that took another one's place, is its certificate
	// as that one signed it, and that one's: who trusts only that one needs them; DER.
	bridge [][]byte
	// trusted are the authorities, in DER, beside which it is trusted, itself first.
	trusted [][]byte
	// name and revision of its record in the store, if it has one.
	name     string
	revision int64
}

// A Certificate is a certificate that an Authority issued.
type Certificate struct {
	// Leaf is the certificate; Chain is it and what its verifier needs, in DER.
	Leaf  *x509.Certificate
	Chain [][]byte
	// Serial is hexadecimal, as revocations name it.
	Serial string
	// IssuerPin is the pin of the authority that issued it.
	IssuerPin string
}

// NewAuthority makes a self-signed authority of the given name with a new
// ECDSA P-256 key. It signs no other authority.
func NewAuthority(name string, now time.Time) (*Authority, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	return newAuthority(authorityTemplate(name, now), key)
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key of an authority: %w", err)
	}
	return key, nil
}

// newAuthority signs the authority's certificate by its own key.
func newAuthority(template *x509.Certificate, key *ecdsa.PrivateKey) (*Authority, error) {
	name := template.Subject.CommonName
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign authority %s: %w", name, err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse authority %s: %w", name, err)
	}
	return &Authority{certificate: certificate, key: key, trusted: [][]byte{der}}, nil
}

func authorityTemplate(name string, now time.Time) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(AuthorityLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
}

// Trusted returns the certificates, in DER, that edges of its network are to trust:
// its own, and that of the authority whose place it takes or that takes its.
func (a *Authority) Trusted() [][]byte { return a.trusted }

// Certificate returns the authority's own certificate.
func (a *Authority) Certificate() *x509.Certificate { return a.certificate }

// PEM returns the authority's own certificate in PEM.
func (a *Authority) PEM() []byte { return EncodePEM(a.certificate.Raw) }

// Pin returns the pin of the authority's key, see Pin.
func (a *Authority) Pin() string { return Pin(a.certificate) }

// Pool returns a pool of the authority alone; trustedPool one of all that are Trusted.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// Pin is SHA-256 over the certificate's subject public key info (as in RFC
// 7469, Section 2.4), hexadecimal.
func Pin(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// Serial is the certificate's serial number as revocations name it:
// hexadecimal, lower case, no leading zeros.
func Serial(c *x509.Certificate) string { return c.SerialNumber.Text(16) }

// EncodePEM encodes a certificate in DER as PEM.
func EncodePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// ControlID is the SPIFFE id in an edge's control certificate.
func ControlID(edge model.EdgeName) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: TrustDomain, Path: "/" + edge.String()}
}

// EdgeOf returns the edge that a control certificate names. It does not verify
// the certificate.
func EdgeOf(c *x509.Certificate) (model.EdgeName, error) {
	if len(c.URIs) != 1 || c.URIs[0].Scheme != "spiffe" || c.URIs[0].Host != TrustDomain || len(c.URIs[0].Path) == 0 {
		return model.EdgeName{}, fmt.Errorf("certificate %s names no edge: its URI is not spiffe://%s/networks/{network}/edges/{edge}", Serial(c), TrustDomain)
	}
	return model.ParseEdgeName(c.URIs[0].Path[1:])
}

// IssueControl issues the certificate with which an edge opens its session. Of
// the request only the key is taken.
func (a *Authority) IssueControl(csr *x509.CertificateRequest, edge model.EdgeName, now time.Time) (*Certificate, error) {
	return a.issue(csr.PublicKey, &x509.Certificate{
		Subject:     pkix.Name{CommonName: edge.Edge},
		NotAfter:    now.Add(ControlLifetime),
		URIs:        []*url.URL{ControlID(edge)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, now)
}

// IssueIKE issues the certificate that an edge shows to IKE peers; it carries
// the edge's IKE identity as a DNS name (RFC 4945, Section 3.1.2). Of the
// request only the key is taken.
func (a *Authority) IssueIKE(csr *x509.CertificateRequest, edge model.EdgeName, now time.Time) (*Certificate, error) {
	return a.issue(csr.PublicKey, &x509.Certificate{
		Subject:            pkix.Name{CommonName: edge.IKEIdentity()[:min(64, len(edge.IKEIdentity()))]},
		NotAfter:           now.Add(IKELifetime),
		DNSNames:           []string{edge.IKEIdentity()},
		ExtKeyUsage:        []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{oidIKEIntermediate},
	}, now)
}

// IssueServer issues a TLS server certificate for a key. Hosts are names or
// addresses, without ports. The chain includes the authority, so that a client
// that has only the pin can verify it, also the pin of the one before as long as that is
// trusted.
func (a *Authority) IssueServer(key crypto.PublicKey, hosts []string, now time.Time) (*Certificate, error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "swanherd controller"},
		NotAfter:    now.Add(ServerLifetime),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if addr, err := netip.ParseAddr(h); err == nil {
			template.IPAddresses = append(template.IPAddresses, net.IP(addr.Unmap().AsSlice()))
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	c, err := a.issue(key, template, now)
	if err != nil {
		return nil, err
	}
	c.Chain = append(append(c.Chain, a.certificate.Raw), a.bridge...)
	return c, nil
}

func (a *Authority) issue(key crypto.PublicKey, template *x509.Certificate, now time.Time) (*Certificate, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	template.SerialNumber = newSerial()
	template.NotBefore = now.Add(-backdate)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	if template.NotAfter.After(a.certificate.NotAfter) {
		template.NotAfter = a.certificate.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", template.Subject.CommonName, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse certificate of %s: %w", template.Subject.CommonName, err)
	}
	chain := [][]byte{der}
	if !selfSigned(a.certificate) { // whoever trusts the root alone needs the rest
		chain = append(append(chain, a.certificate.Raw), a.chain...)
	}
	return &Certificate{Leaf: leaf, Chain: chain, Serial: Serial(leaf), IssuerPin: a.Pin()}, nil
}

func selfSigned(c *x509.Certificate) bool { return bytes.Equal(c.RawIssuer, c.RawSubject) }

// newSerial returns a positive serial number of 128 random bits (RFC 5280,
// Section 4.1.2.2, allows 160).
func newSerial() *big.Int {
	b := make([]byte, 16)
	for {
		rand.Read(b)
		if n := new(big.Int).SetBytes(b); n.Sign() > 0 {
			return n
		}
	}
}
