package ike

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// issue makes a certificate of name, signed by the authority or by itself.
func issue(t *testing.T, name string, ca *x509.Certificate, caKey ed25519.PrivateKey) (*x509.Certificate, ed25519.PrivateKey) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: epoch.Add(-time.Hour), NotAfter: epoch.Add(10 * 365 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	if ca == nil {
		template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign
		ca, caKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, key
}

// certificatePair is a pair whose ends prove themselves by certificates.
func certificatePair(t *testing.T) *world {
	t.Helper()
	ca, caKey := issue(t, "authority", nil, nil)
	roots := ident.NewRoots(ca)
	return pair(1, func(a, b *Config) {
		for _, c := range []*Config{a, b} {
			leaf, key := issue(t, c.Credentials.ID.String(), ca, caKey)
			c.Credentials = ident.Local{ID: c.Credentials.ID, Signer: key, Chain: []*x509.Certificate{leaf}}
			c.Peer = ident.Remote{ID: c.Peer.ID, Roots: roots}
		}
	})
}

// initAnswer returns the response to the IKE_SA_INIT request of a.
func initAnswer(t *testing.T, w *world) *wire.Message {
	t.Helper()
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.deliver(w.flight[0])
	m, err := wire.Parse(w.flight[1].data)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestResponderAsksForCertificate(t *testing.T) {
	w := certificatePair(t)
	got := find[*wire.CertReq](&message{payloads: initAnswer(t, w).Payloads})
	want := w.b.cfg.Peer.Roots.Request()
	if got == nil || got.Encoding != want.Encoding || string(got.Data) != string(want.Data) {
		t.Errorf("CERTREQ of the IKE_SA_INIT response is %v, want %v", got, want)
	}
	w.flight = w.flight[1:]
	w.settle()
	w.check(t)
	if got := w.a.t.Status().State; got != StateUp {
		t.Errorf("tunnel is %s, want up", got)
	}
}

func TestResponderWithSecretAsksForNoCertificate(t *testing.T) {
	m := initAnswer(t, pair(1, nil))
	if got := find[*wire.CertReq](&message{payloads: m.Payloads}); got != nil {
		t.Errorf("IKE_SA_INIT response holds %v, want no CERTREQ", got)
	}
}

// TestInitRefusesProposalWithSPI holds RFC 7296, Section 3.3.1: the SPI size is
// zero in IKE_SA_INIT.
func TestInitRefusesProposalWithSPI(t *testing.T) {
	w := pair(1, nil)
	w.b.step(Connect{})
	w.a.step(Connect{})
	p := w.flight[0]
	m, err := wire.Parse(p.data)
	if err != nil {
		t.Fatal(err)
	}
	find[*wire.SA](&message{payloads: m.Payloads}).Proposals[0].SPI = []byte("8 octets")
	if p.data, err = m.Append(nil); err != nil {
		t.Fatal(err)
	}
	w.deliver(p)
	answer, err := wire.Parse(w.flight[1].data)
	if err != nil {
		t.Fatal(err)
	}
	if n := find[*wire.Notify](&message{payloads: answer.Payloads}); n == nil || n.Kind != wire.NotifyNoProposalChosen {
		t.Errorf("answer is %v, want NO_PROPOSAL_CHOSEN", answer.Payloads)
	}
}

// TestCertificatesAreReadInJob holds that certificates of a peer that is not
// authenticated cost the loop nothing, and that bad ones are refused.
func TestCertificatesAreReadInJob(t *testing.T) {
	for _, jobs := range []bool{false, true} {
		w := certificatePair(t)
		bad := *w.a.cfg.Credentials.Chain[0]
		bad.Raw = []byte("no certificate")
		w.a.cfg.Credentials.Chain = []*x509.Certificate{&bad}
		w.a.restart()
		initAnswer(t, w)
		w.deliver(w.flight[1])
		auth := w.flight[2]
		w.flight, w.b.dropJobs = nil, !jobs
		w.deliver(auth)
		if got := len(w.flight) > 0; got != jobs {
			t.Errorf("with jobs done %v, answered is %v", jobs, got)
		}
		w.settle()
		e := w.b.t.Status().LastError
		if refused := e != nil && e.Notify == wire.NotifyAuthenticationFailed; refused != jobs {
			t.Errorf("with jobs done %v, last error is %v", jobs, e)
		}
	}
}
