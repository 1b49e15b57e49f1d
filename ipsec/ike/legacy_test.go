package ike

import (
	"bytes"
	"crypto/x509"
	"slices"
	"strings"
	"testing"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// settleOld delivers all packets of a handshake of whose IKE_SA_INIT messages the
// given ends leave out SIGNATURE_HASH_ALGORITHMS, as one does that does not know
// RFC 7427.
func (w *world) settleOld(t *testing.T, old ...*node) {
	t.Helper()
	for len(w.flight) > 0 {
		p := w.take(0)
		m, err := wire.Parse(p.data)
		if err != nil {
			t.Fatal(err)
		}
		if m.Exchange == wire.ExchangeIKESAInit && slices.Contains(old, p.from) {
			m.Payloads = slices.DeleteFunc(m.Payloads, func(p wire.Payload) bool {
				n, ok := p.(*wire.Notify)
				return ok && n.Kind == wire.NotifySignatureHashAlgorithms
			})
			if p.data, err = m.Append(nil); err != nil {
				t.Fatal(err)
			}
			// AUTH covers what was sent (RFC 7296, Section 2.15).
			if m.IsResponse() {
				p.from.halves[0].sa.init.response = p.data
			} else {
				p.from.t.sas[0].init.request = p.data
			}
		}
		w.deliver(p)
	}
}

// TestLegacyPeers: the older methods serve a peer that knows no other, where they
// are allowed, and are no way round digital signatures.
func TestLegacyPeers(t *testing.T) {
	allow := func(methods ...wire.AuthMethod) func(*Config) {
		return func(c *Config) { c.Credentials.Legacy, c.Peer.Legacy = methods, methods }
	}
	nothing := func(*Config) {}
	for _, tt := range []struct {
		name     string
		a, b     func(*Config)
		key      string
		oldA     bool
		oldB     bool
		byA, byB string // how a and b have proved themselves; or
		failure  string // what the one that gives up says
	}{
		{"both old", allow(wire.AuthECDSAP256), allow(wire.AuthECDSAP256), "p256", true, true, "ECDSA on P-256 (method 9)", "ECDSA on P-256 (method 9)", ""},
		{"RSA", allow(wire.AuthRSA), allow(wire.AuthRSA), "rsa", true, true, "RSA PKCS #1 v1.5 (method 1)", "RSA PKCS #1 v1.5 (method 1)", ""},
		{"P-384", allow(wire.AuthECDSAP384), allow(wire.AuthECDSAP384, wire.AuthRSA), "p384", true, true, "ECDSA on P-384 (method 10)", "ECDSA on P-384 (method 10)", ""},
		{"neither old", allow(wire.AuthECDSAP256), allow(wire.AuthECDSAP256), "p256", false, false, "ECDSA with SHA-256", "ECDSA with SHA-256", ""},
		{"not allowed to sign", nothing, allow(wire.AuthECDSAP256), "p256", true, true, "", "", "allow an older method for it"},
		{"not allowed by the verifier", allow(wire.AuthECDSAP256), nothing, "p256", true, true, "", "", "allow ECDSA on P-256 (method 9) for it"},
		// b sees that a knows RFC 7427 and does not use it, for b does not.
		{"initiator may not fall back", allow(wire.AuthECDSAP256), allow(wire.AuthECDSAP256), "p256", false, true, "", "", "it must (RFC 7427, Section 3)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := pair(1, func(a, b *Config) {
				for _, c := range []*Config{a, b} {
					configureAuth(t, c, "own", []string{tt.key})
					configureAuth(t, c, "accept", []string{"cert"})
				}
				tt.a(a)
				tt.b(b)
			})
			w.log = t.Logf
			w.b.step(Connect{})
			w.a.step(Connect{})
			var old []*node
			if tt.oldA {
				old = append(old, w.a)
			}
			if tt.oldB {
				old = append(old, w.b)
			}
			w.settleOld(t, old...)
			if tt.failure != "" {
				for _, n := range []*node{w.a, w.b} {
					if n.failed != nil && strings.Contains(n.failed.Remedy, tt.failure) {
						return
					}
				}
				t.Fatalf("no failure with %q, but %v and %v", tt.failure, w.a.failed, w.b.failed)
			}
			w.check(t)
			if got := w.b.t.primary().remoteAuth; got != tt.byA {
				t.Errorf("a proved itself by %s, want %s", got, tt.byA)
			}
			if got := w.a.t.primary().remoteAuth; got != tt.byB {
				t.Errorf("b proved itself by %s, want %s", got, tt.byB)
			}
		})
	}
}

// TestCertificateForAuthority: of two certificates each end uses the one that the
// peer's CERTREQ asks for, and HTTP_CERT_LOOKUP_SUPPORTED makes nobody send a URL
// (RFC 7296, Sections 3.6 and 3.7).
func TestCertificateForAuthority(t *testing.T) {
	one, two := newAuthority("one", newEd25519), newAuthority("two", newECDSA)
	w := pair(1, func(a, b *Config) {
		for _, c := range []*Config{a, b} {
			first, second := one.credentials(c.Credentials.ID.String()), two.credentials(c.Credentials.ID.String())
			first.Alternatives = []ident.Credential{{Signer: second.Signer, Chain: append(second.Chain, two.cert)}}
			c.Credentials = first
			c.Peer = ident.Remote{ID: c.Peer.ID, Roots: ident.NewRoots(two.cert)}
		}
		b.Peer.Roots = ident.NewRoots(one.cert)
	})
	w.log = t.Logf
	w.b.step(Connect{})
	w.a.step(Connect{})
	p := w.take(0)
	m, err := wire.Parse(p.data)
	if err != nil {
		t.Fatal(err)
	}
	m.Payloads = append(m.Payloads, &wire.Notify{Kind: wire.NotifyHTTPCertLookupSupported})
	if p.data, err = m.Append(nil); err != nil {
		t.Fatal(err)
	}
	w.a.t.sas[0].init.request = p.data
	w.deliver(p)
	for len(w.flight) > 0 {
		p := w.take(0)
		for _, c := range w.certificates(t, p.data) {
			if c.Encoding != wire.CertX509Signature {
				t.Errorf("%s sends a certificate as %s", p.from.name, c.Encoding)
			}
		}
		w.deliver(p)
	}
	w.check(t)
	if a, b := w.b.t.primary().remoteAuth, w.a.t.primary().remoteAuth; a != "Ed25519" || b != "ECDSA with SHA-256" {
		t.Errorf("a proved itself by %s, b by %s", a, b)
	}
}

// TestDistinguishedNames: both ends send the subject of their certificate as it is
// encoded there (RFC 4945, Section 3.1.5), and AUTH covers just that.
func TestDistinguishedNames(t *testing.T) {
	ca := newAuthority("Test CA", newECDSA)
	utf8Subject := func(id ident.ID) []byte {
		return bytes.Replace([]byte(id.Data), []byte("\x13\x09"), []byte("\x0c\x09"), 1) // PrintableString to UTF8String
	}
	w := pair(1, func(a, b *Config) {
		for _, c := range []*Config{a, b} {
			key := ca.newKey()
			c.Credentials = ident.Local{ID: mustID("CN=" + c.Credentials.ID.String()), Signer: key}
			c.Credentials.Chain = []*x509.Certificate{ca.sign(&x509.Certificate{RawSubject: utf8Subject(c.Credentials.ID), KeyUsage: x509.KeyUsageDigitalSignature}, key)}
			c.Peer = ident.Remote{ID: mustID("CN=" + c.Peer.ID.String()), Roots: ident.NewRoots(ca.cert)}
		}
	})
	w.log = t.Logf
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.settle()
	w.check(t)
	for _, n := range []*node{w.a, w.b} {
		if got, want := n.t.primary().remoteID.Data, utf8Subject(n.cfg.Peer.ID); got != string(want) {
			t.Errorf("the peer of %s sends %x, its certificate has %x", n.name, got, want)
		}
	}
}

// certificates returns the CERT payloads of an encrypted message.
func (w *world) certificates(t *testing.T, data []byte) []*wire.Cert {
	t.Helper()
	m, err := wire.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	e, ok := m.Payloads[0].(*wire.Encrypted)
	if !ok {
		return nil
	}
	payloads, note := w.peek(m, e.FirstInner)
	if note != "" {
		t.Fatal(note)
	}
	var out []*wire.Cert
	for _, p := range payloads {
		if c, ok := p.(*wire.Cert); ok {
			out = append(out, c)
		}
	}
	return out
}
