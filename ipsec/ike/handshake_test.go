package ike

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/ident"
)

// authority makes certificates for tests, all with keys of one kind.
type authority struct {
	cert   *x509.Certificate
	key    crypto.Signer
	newKey func() crypto.Signer
	serial int64
}

func newEd25519() crypto.Signer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

func newECDSA() crypto.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

func newAuthority(name string, newKey func() crypto.Signer) *authority {
	a := &authority{newKey: newKey, key: newKey()}
	a.cert = a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, a.key)
	return a
}

func (a *authority) sign(template *x509.Certificate, key crypto.Signer) *x509.Certificate {
	a.serial++
	template.SerialNumber = big.NewInt(a.serial)
	template.NotBefore = epoch.Add(-time.Hour)
	if template.NotAfter.IsZero() {
		template.NotAfter = epoch.Add(1000 * time.Hour)
	}
	parent := a.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), a.key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return cert
}

func (a *authority) credentials(name string) ident.Local {
	key := a.newKey()
	return ident.Local{ID: mustID(name), Signer: key, Chain: a.issueFor(name, key)}
}

func (a *authority) issueFor(name string, key crypto.Signer) []*x509.Certificate {
	return a.issueUntil(name, key, time.Time{})
}

func (a *authority) issueUntil(name string, key crypto.Signer, end time.Time) []*x509.Certificate {
	return []*x509.Certificate{a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, KeyUsage: x509.KeyUsageDigitalSignature, NotAfter: end,
	}, key)}
}

func withCertificates(ca *authority) func(a, b *Config) {
	return func(a, b *Config) {
		a.Credentials, b.Credentials = ca.credentials("a.example"), ca.credentials("b.example")
		roots := ident.NewRoots(ca.cert)
		a.Peer, b.Peer = ident.Remote{ID: mustID("b.example"), Roots: roots}, ident.Remote{ID: mustID("a.example"), Roots: roots}
	}
}

func TestCertificates(t *testing.T) {
	for name, newKey := range map[string]func() crypto.Signer{"Ed25519": newEd25519, "ECDSA": newECDSA} {
		t.Run(name, func(t *testing.T) {
			ca := newAuthority("Test CA", newKey)
			w := pair(1, withCertificates(ca))
			w.log = t.Logf
			w.b.step(Connect{})
			w.a.step(Connect{})
			w.settle()
			w.check(t)

			other := newAuthority("Other CA", newKey)
			w = pair(1, withCertificates(ca))
			w.a.cfg.Credentials = other.credentials("a.example")
			w.a.restart()
			w.b.step(Connect{})
			w.a.step(Connect{})
			w.settle()
			if w.b.t.primary() != nil || w.a.t.primary() != nil {
				t.Error("a certificate of another authority is accepted")
			}

			// The initiator refuses the responder, and tells it so (RFC 7296,
			// Section 2.21.2).
			w = pair(1, withCertificates(ca))
			w.log = t.Logf
			w.a.cfg.Peer.Roots = ident.NewRoots(other.cert)
			w.a.restart()
			w.b.step(Connect{})
			w.a.step(Connect{})
			w.settle()
			if w.b.t.primary() != nil || w.a.t.primary() != nil || len(w.b.in)+len(w.a.in) != 0 {
				t.Errorf("SAs are left after the initiator refused the responder:\n%s%s", w.a.state(), w.b.state())
			}
		})
	}
}

// TestFragmentation has an IKE_AUTH too large for one packet (RFC 7383), with
// each of its fragments lost once and the others arriving twice in any order.
func TestFragmentation(t *testing.T) {
	ca := newAuthority("CA "+strings.Repeat("x", 50), newECDSA)
	w := pair(1, withCertificates(ca))
	// More certificates make it larger.
	for i := range 6 {
		extra := ca.credentials(fmt.Sprintf("extra%d.example", i))
		w.a.cfg.Credentials.Chain = append(w.a.cfg.Credentials.Chain, extra.Chain...)
	}
	w.a.restart()
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.deliver(w.take(0))
	w.deliver(w.take(0))
	fragments := len(w.flight)
	if fragments < 3 {
		t.Fatalf("IKE_AUTH has %d fragments, want 3 or more", fragments)
	}
	for range fragments - 1 {
		last := w.flight[len(w.flight)-1]
		w.deliver(last)
		w.deliver(last)
		w.flight = w.flight[:len(w.flight)-1]
	}
	w.take(0) // the first one is lost
	w.advance(2*time.Second, w.settle)
	w.check(t)
}

func (w *world) take(i int) *packet {
	p := w.flight[i]
	w.flight = append(w.flight[:i:i], w.flight[i+1:]...)
	return p
}
