package ident

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// FuzzIdentity: whatever a peer or a person gives as an identity is refused, or
// prints as a text that reads back as an equal identity, and equal identities
// have the same key.
func FuzzIdentity(f *testing.F) {
	for _, s := range []string{"192.0.2.1", "2001:db8::1", "edge1.example", "a@b", "CN=edge1,O=Example", `CN=Doe\, John`, "keyid:00ff", "dn:UID=1,DC=example", "email:a=b@c", "fqdn:a@b"} {
		id, err := ParseID(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(id.Kind), []byte(id.Data), s)
	}
	f.Add(uint8(wire.IDDERDN), []byte("\x30\x80"), "")
	f.Fuzz(func(t *testing.T, kind uint8, data []byte, text string) {
		if id, err := FromPayload(&wire.ID{Kind: wire.IDType(kind), Data: data}); err == nil {
			for _, r := range id.String() {
				if r < ' ' || r == 0x7f {
					t.Errorf("%x prints the control character %q", data, r)
				}
			}
			same, err := FromPayload(id.Payload(false))
			if err != nil || !same.Equal(id) || same.Key() != id.Key() {
				t.Errorf("%x is not equal to itself", data)
			}
			_ = id.bind(&x509.Certificate{RawSubject: data})
		}
		id, err := ParseID(text)
		if err != nil {
			return
		}
		back, err := FromPayload(id.Payload(true))
		if err != nil || back != id {
			t.Fatalf("%q: payload reads back as %v, %v", text, back, err)
		}
		again, err := ParseID(id.String())
		if err != nil || !again.Equal(id) || again.Key() != id.Key() {
			// Attributes without a short name print as OIDs (RFC 4514, Section
			// 2.4), which ParseID does not read.
			if id.Kind != wire.IDDERDN {
				t.Errorf("%q prints as %q, which reads as %v, %v", text, id, again, err)
			}
		}
	})
}

// fixedKey is the same in each of the processes of a fuzzer.
func fixedKey(first byte) *ecdsa.PrivateKey {
	return must(ecdsa.ParseRawPrivateKey(elliptic.P256(), append([]byte{first}, make([]byte, 31)...)))
}

// fixedAuthority is the same but for its signature.
func fixedAuthority(first byte, name string, parent *authority) *authority {
	key := fixedKey(first)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(int64(first)), Subject: pkix.Name{CommonName: name}, NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(5, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if parent == nil {
		parent = &authority{tmpl, key}
	}
	return &authority{must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, tmpl, parent.cert, key.Public(), parent.key)))), key}
}

// FuzzCertificates: hostile certificates, in place of the peer's own one and of
// the one above it, are refused or believed for what they say, without a panic.
// The signature is that of one key, so no certificate of another is believed.
func FuzzCertificates(f *testing.F) {
	root := fixedAuthority(1, "root", nil)
	between := fixedAuthority(2, "between", root)
	name, err := ParseID("edge1.example")
	if err != nil {
		f.Fatal(err)
	}
	remote := Remote{Roots: NewRoots(root.cert), Legacy: []wire.AuthMethod{wire.AuthRSA, wire.AuthECDSAP256}}
	for _, key := range []crypto.Signer{ed25519Key(), ecdsaKey(elliptic.P256()), must(newRSA())} {
		leaf := between.issue(key, func(c *x509.Certificate) { c.CRLDistributionPoints = []string{"http://pki.example/1.crl"} })
		f.Add(leaf.Raw, between.cert.Raw)
	}
	f.Add(root.cert.Raw, []byte{})
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	signature := must(schemes[0].sign(key, octets, rand.Reader))
	f.Add(between.issue(key, nil).Raw, between.cert.Raw)
	f.Fuzz(func(t *testing.T, leaf, above []byte) {
		payloads := []*wire.Cert{{Encoding: wire.CertX509Signature, Data: leaf}, {Encoding: wire.CertX509Signature, Data: above}}
		for n := 1; n <= len(payloads); n++ {
			chain, err := ParseCertificates(payloads[:n])
			if err != nil {
				continue
			}
			for _, method := range []wire.AuthMethod{wire.AuthDigitalSignature, wire.AuthRSA, wire.AuthECDSAP256} {
				c := Claim{ID: name, Method: method, Data: signature, Octets: octets, Chain: chain, Signatures: method == wire.AuthDigitalSignature}
				if peer, err := Verify(remote, c, now); err == nil && !key.Public().(ed25519.PublicKey).Equal(peer.Leaf.PublicKey) {
					t.Errorf("%x is believed", leaf)
				}
			}
			_, _ = Revalidate(remote, name, chain, now)
		}
	})
}

// FuzzRevocations: what vouches for a certificate does so for another
// implementation, too.
func FuzzRevocations(f *testing.F) {
	ca := fixedAuthority(1, "root", nil)
	leaf := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(7)}, ca.cert, fixedKey(3).Public(), ca.key))))
	for _, status := range []int{ocsp.Good, ocsp.Revoked, ocsp.Unknown} {
		f.Add(must(ocsp.CreateResponse(ca.cert, ca.cert, ocsp.Response{
			Status: status, SerialNumber: leaf.SerialNumber, ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(time.Hour),
		}, ca.key)))
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		r, err := NewRevocations(RevocationStrict, nil, [][]byte{der})
		if err != nil || r.Check(leaf, ca.cert, now) != nil || len(r.responses[0].signers) > 0 {
			return // with certificates beside it, the other implementation wants one of them to have signed
		}
		if o, err := ocsp.ParseResponseForCert(der, leaf, ca.cert); err != nil || o.Status != ocsp.Good {
			t.Errorf("%x vouches for a certificate, but: %v", der, err)
		}
	})
}

// FuzzLegacyAuth: the older methods have no length or encoding that they trust.
func FuzzLegacyAuth(f *testing.F) {
	keys := map[wire.AuthMethod]crypto.Signer{wire.AuthECDSAP256: fixedKey(1), wire.AuthRSA: must(newRSA())}
	for m, key := range keys {
		l, _ := legacyOf(m)
		data := must(l.sign(key, octets, rand.Reader))
		f.Add(uint8(m), data[:len(data)-1])
	}
	f.Add(uint8(wire.AuthECDSAP256), make([]byte, 64))
	f.Fuzz(func(t *testing.T, method uint8, data []byte) {
		for m, key := range keys {
			l, ok := legacyOf(wire.AuthMethod(method))
			if ok && l.verify(key.Public(), octets, data) {
				t.Errorf("method %d with a key of method %d: %x is accepted", method, m, data)
			}
		}
	})
}
