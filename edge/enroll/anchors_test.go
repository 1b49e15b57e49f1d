package enroll

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

// Whom the running intent names takes the place of whom the identity came with, also where
// that is nobody whom the edge meets; without an intent those of the identity count.
func TestAnchorsOfTheIntent(t *testing.T) {
	c, other := startController(t), newAuthority(t)
	var log bytes.Buffer
	cfg := testConfig(t, c.token("good"), &log)
	id, err := Enroll(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := NewRenewer(cfg.Dir, cfg.Logger, nil)
	meets := func(what string, want bool) {
		t.Helper()
		if next, err := r.renew(t.Context(), id); (err == nil) != want {
			t.Fatalf("%s: renew = %v", what, err)
		} else if err == nil {
			id = next
		}
	}
	meets("without an intent", true)
	r.Trust(&swanherdv1.TrustBundle{ControllerAnchors: []string{other.pem()}})
	meets("an intent with another authority", false)
	r.Trust(&swanherdv1.TrustBundle{ControllerAnchors: []string{other.pem(), c.pem()}})
	meets("an intent with both", true)
	id.ControllerRoots = []*x509.Certificate{other.cert}
	meets("an identity from before the authority was replaced", true)
	id.ControllerRoots = []*x509.Certificate{other.cert}
	r.Trust(nil)
	meets("when that intent was taken back", false)
}

// A token from before the controller's authority was replaced pins the one that signed it.
func TestPinOfTheAuthorityBefore(t *testing.T) {
	old, next, stranger := newAuthority(t), newAuthority(t), newAuthority(t)
	cross := func(by *authority) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "test authority"},
			NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}, by.cert, next.key.Public(), by.key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	der, err := next.issue(newAuthority(t).key.Public())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pin := func(a *authority) [sha256.Size]byte { return sha256.Sum256(a.cert.RawSubjectPublicKeyInfo) }
	chain := []*x509.Certificate{leaf, next.cert, cross(old), old.cert}
	for _, a := range []*authority{old, next} {
		if err := verifyPinned(chain, pin(a), "127.0.0.1"); err != nil {
			t.Error(err)
		}
	}
	if verifyPinned(chain, pin(stranger), "127.0.0.1") == nil {
		t.Error("a pin that is in no certificate was taken")
	}
	// The certificate alone, which everybody has, does not do.
	if forged := []*x509.Certificate{leaf, next.cert, cross(stranger), old.cert}; verifyPinned(forged, pin(old), "127.0.0.1") == nil {
		t.Error("an authority that the pinned one did not sign was taken")
	}
}
