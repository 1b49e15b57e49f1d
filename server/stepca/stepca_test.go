package stepca_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/server/stepca"
	"github.com/swanherd/swanherd/server/stepca/stepcatest"
)

func request(t *testing.T, name string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func client(t *testing.T, cfg stepca.Config) *stepca.Client {
	t.Helper()
	c, err := stepca.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func parse(t *testing.T, text []byte) (chain []*x509.Certificate) {
	t.Helper()
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, c)
	}
	return chain
}

// A real step-ca signs, by what its provisioners say, and says why it does not.
func TestStepCA(t *testing.T) {
	ca := stepcatest.Start(t)
	asked := request(t, "Swanherd network demo")
	chain, err := client(t, ca.Settings("authorities")).Sign(t.Context(), asked)
	if err != nil {
		t.Fatal(err)
	}
	got := parse(t, chain)
	if len(got) != 2 || !got[0].IsCA || !got[0].MaxPathLenZero || got[0].Subject.CommonName != "Swanherd network demo" || got[0].Issuer.CommonName != "Example Corp Issuing" {
		t.Fatalf("signed %d certificates, first %v", len(got), got[0].Subject)
	}
	above := x509.NewCertPool()
	above.AddCert(got[1])
	if _, err := got[0].Verify(x509.VerifyOptions{Roots: client(t, ca.Settings("authorities")).Roots(), Intermediates: above, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Errorf("does not chain to its root: %v", err)
	}
	locked := ca.Settings("authorities")
	locked.KeyFile, locked.PasswordFile = filepath.Join(ca.Dir, "locked.json"), filepath.Join(ca.Dir, "password")
	if _, err := client(t, locked).Sign(t.Context(), asked); err != nil {
		t.Errorf("with a key as `step` encrypts it: %v", err)
	}
	longer := ca.Settings("short")
	longer.Lifetime = 2400 * time.Hour
	if chain, err = client(t, longer).Sign(t.Context(), asked); err != nil {
		t.Fatal(err)
	}
	if c := parse(t, chain)[0]; c.NotAfter.Sub(c.NotBefore).Round(time.Hour) != longer.Lifetime {
		t.Errorf("good for %s, want %s", c.NotAfter.Sub(c.NotBefore), longer.Lifetime)
	}
	tooLong, stranger := ca.Settings("short"), ca.Settings("nobody")
	tooLong.Lifetime = 100_000 * time.Hour
	for what, c := range map[string]struct {
		cfg  stepca.Config
		want string
	}{
		"too long a life": {tooLong, "step-ca answered 403 "},
		"a stranger":      {stranger, "step-ca answered 401 "},
	} {
		if _, err := client(t, c.cfg).Sign(t.Context(), asked); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	ca.Stop()
	if _, err := client(t, ca.Settings("authorities")).Sign(t.Context(), asked); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("stopped: %v", err)
	}
	ca.Restart()
	if _, err := client(t, ca.Settings("authorities")).Sign(t.Context(), asked); err != nil {
		t.Errorf("started again: %v", err)
	}
}
