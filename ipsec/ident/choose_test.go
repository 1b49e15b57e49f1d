package ident

import (
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// announcing is a modern peer with a SUPPORTED_AUTH_METHODS notification.
func announcing(list ...Announcement) Announced {
	a := modern
	a.Methods = list
	return a
}

func signatureBy(name string) Announcement {
	for _, s := range schemes {
		if s.name == name {
			return Announcement{Method: wire.AuthDigitalSignature, Algorithm: s.identifiers[0]}
		}
	}
	panic(name)
}

func keyHash(c *x509.Certificate) string {
	h := sha1.Sum(c.RawSubjectPublicKeyInfo)
	return string(h[:])
}

// chosen is the way that Sign takes.
func chosen(t *testing.T, l Local, peer Announced, known *Roots) (string, *Proof) {
	t.Helper()
	proof, err := Sign(l, octets, peer, known, rand.Reader)
	if err != nil {
		return err.Error(), nil
	}
	switch proof.Method {
	case wire.AuthSharedKey:
		return "psk", proof
	case wire.AuthDigitalSignature:
		identifier, _, err := splitSignature(proof.Data)
		if err != nil {
			t.Fatal(err)
		}
		s, _ := schemeOf(identifier)
		return s.name, proof
	}
	return proof.Method.String(), proof
}

// TestChoice: of several credentials, the first that the peer accepts (RFC 9593,
// Section 1; RFC 7427, Section 4; RFC 7296, Section 3.7).
func TestChoice(t *testing.T) {
	one, two := newAuthority("one", nil), newAuthority("two", nil)
	below := newAuthority("below", two)
	rsaPrivate, p256, ed := rsaKey(t, 2048), ecdsaKey(elliptic.P256()), ed25519Key()
	byRSA := Credential{Signer: rsaPrivate, Chain: []*x509.Certificate{one.issue(rsaPrivate, nil)}}
	byECDSA := Credential{Signer: p256, Chain: []*x509.Certificate{below.issue(p256, nil), below.cert}}
	byEd25519 := Credential{Signer: ed, Chain: []*x509.Certificate{one.issue(ed, nil)}}
	secret := Credential{PSK: PSK("a secret of both ends")}
	known := NewRoots(one.cert, two.cert)
	link := func(a Announcement, n uint8) Announcement { a.Authority = n; return a }
	asking := func(a Announced, authorities ...*authority) Announced {
		for _, ca := range authorities {
			a.Authorities = append(a.Authorities, keyHash(ca.cert))
		}
		return a
	}
	const ecdsa, pss, pkcs1 = "ECDSA with SHA-256", "RSASSA-PSS with SHA-256", "RSA PKCS #1 v1.5 with SHA-256"
	onlySHA512 := Announced{Signatures: true, Hashes: []wire.HashAlgorithm{wire.HashSHA512}}
	all := []Credential{byEd25519, byECDSA, byRSA, secret}
	for _, tt := range []struct {
		name string
		own  []Credential
		peer Announced
		want string
	}{
		{"first of all", all, modern, "Ed25519"},
		{"no Ed25519", all, onlySHA512, "ECDSA with SHA-512"},
		{"no signatures", all, Announced{}, "psk"},
		{"announced: a secret", all, announcing(Announcement{Method: wire.AuthSharedKey}), "psk"},
		{"announced: RSA", all, announcing(signatureBy(pss)), pss},
		{"announced: the other RSA", all, announcing(signatureBy(pkcs1)), pkcs1},
		{"announced: our order counts", all, announcing(signatureBy(pss), signatureBy(ecdsa)), ecdsa},
		{"announced: unknown beside known", all, announcing(Announcement{Method: 99, Algorithm: "x"}, signatureBy(pss)), pss},
		{"announced: PSS in another encoding", all, announcing(Announcement{Method: wire.AuthDigitalSignature, Algorithm: pssIdentifiers(1, 32)[3]}), pss},
		{"announced: hash that is not accepted", all, Announced{Signatures: true, Hashes: []wire.HashAlgorithm{wire.HashSHA384}, Methods: []Announcement{signatureBy(ecdsa), {Method: wire.AuthSharedKey}}}, "psk"},
		{"linked to an authority", all, asking(announcing(link(signatureBy("Ed25519"), 1), link(signatureBy(ecdsa), 2)), two, two), ecdsa},
		{"linked to another authority", []Credential{byRSA, byECDSA}, asking(announcing(link(signatureBy(pss), 2), link(signatureBy(ecdsa), 1)), one, two), pss},
		{"link without CERTREQ is none", all, announcing(link(signatureBy("Ed25519"), 7)), "Ed25519"},
		{"link beyond CERTREQ", []Credential{byRSA, byECDSA}, asking(announcing(link(signatureBy(pss), 3), link(signatureBy(ecdsa), 2)), one, two), ecdsa},
		{"asks for one authority", all, asking(modern, two), ecdsa},
		{"asks for the intermediate authority", all, asking(modern, below), ecdsa},
		{"asks for both", all, asking(modern, two, one), "Ed25519"},
		{"asks for a stranger", all, asking(modern, newAuthority("stranger", nil)), "Ed25519"},
		{"asks for a certificate, a secret is preferred", []Credential{secret, byECDSA}, asking(modern, two), "psk"},
		{"RSA alone", []Credential{byRSA}, modern, pss},
		{"RSA, no SHA-256", []Credential{byRSA}, onlySHA512, "RSASSA-PSS with SHA-512"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := Local{ID: id(t, "edge1.example"), Signer: tt.own[0].Signer, Chain: tt.own[0].Chain, PSK: tt.own[0].PSK, Alternatives: tt.own[1:]}
			got, proof := chosen(t, l, tt.peer, known)
			if got != tt.want {
				t.Fatalf("got %s, want %s", got, tt.want)
			}
			for _, c := range tt.own {
				if proof.Method != wire.AuthSharedKey && len(proof.Certificates) > 0 && string(proof.Certificates[0].Data) == string(c.own()) {
					return
				}
			}
			if proof.Method != wire.AuthSharedKey {
				t.Error("sends the certificate of none of the credentials")
			}
		})
	}
}

func (c Credential) own() []byte {
	if len(c.Chain) == 0 {
		return nil
	}
	return c.Chain[0].Raw
}

// An authority that is not known here may be above the certificate or not, so a
// link to it is no reason to give up.
func TestLinkToUnknownAuthority(t *testing.T) {
	ca := newAuthority("unknown", nil)
	key := ed25519Key()
	l := Local{ID: id(t, "edge1.example"), Signer: key, Chain: []*x509.Certificate{ca.issue(key, nil)}}
	peer := announcing(Announcement{wire.AuthDigitalSignature, 1, schemes[0].identifiers[0]})
	peer.Authorities = []string{keyHash(ca.cert)}
	if got, _ := chosen(t, l, peer, nil); got != "Ed25519" {
		t.Error(got)
	}
}

// An error says what either end could do.
func TestNoCommonWay(t *testing.T) {
	key := ecdsaKey(elliptic.P384())
	l := Local{ID: id(t, "edge1.example"), Signer: key, Chain: []*x509.Certificate{newAuthority("root", nil).issue(key, nil)}}
	for name, tt := range map[string]struct {
		peer Announced
		want string
	}{
		"hashes":     {Announced{Signatures: true, Hashes: []wire.HashAlgorithm{wire.HashSHA256}}, "by ECDSA with SHA-384, ECDSA with SHA-512, the peer accepts the hashes [SHA2-256]"},
		"methods":    {announcing(signatureBy("Ed25519"), Announcement{Method: wire.AuthSharedKey}), "the peer accepts the methods Ed25519, PSK"},
		"unknown":    {announcing(Announcement{Method: wire.AuthDigitalSignature, Algorithm: "\x30\x01"}), "AlgorithmIdentifier 3001"},
		"old peer":   {Announced{}, "no digital signatures as of RFC 7427"},
		"legacy one": {Announced{Methods: []Announcement{{Method: wire.AuthECDSAP256}}}, "the peer accepts the methods ECDSA_P256"},
	} {
		_, err := Sign(l, octets, tt.peer, nil, rand.Reader)
		wantReason(t, err, ReasonAlgorithm)
		if !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q in it", name, err, tt.want)
		}
	}
}

// token is a key in a device: it shows its public half and signs.
type token struct {
	key crypto.Signer
	pss bool
	not error
}

func (d token) Public() crypto.PublicKey { return d.key.Public() }

func (d token) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if _, pss := opts.(*rsa.PSSOptions); d.not != nil && pss == d.pss {
		return nil, d.not
	}
	return d.key.Sign(rand, digest, opts)
}

func TestTokens(t *testing.T) {
	cannot := errors.New("mechanism is not supported")
	key := rsaKey(t, 2048)
	for _, tt := range []struct {
		name   string
		signer crypto.Signer
		prefer RSAPadding
		want   string
	}{
		{"Ed25519", token{key: ed25519Key()}, 0, "Ed25519"},
		{"ECDSA", token{key: ecdsaKey(elliptic.P521())}, 0, "ECDSA with SHA-512"},
		{"RSA", token{key: key}, 0, "RSASSA-PSS with SHA-256"},
		{"RSA, the older scheme preferred", token{key: key}, RSAPaddingPKCS1v15, "RSA PKCS #1 v1.5 with SHA-256"},
		{"RSA without PSS", token{key: key, pss: true, not: cannot}, 0, "RSA PKCS #1 v1.5 with SHA-256"},
		{"RSA with PSS alone", token{key: key, not: cannot}, RSAPaddingPKCS1v15, "RSASSA-PSS with SHA-256"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newUnsigned(t, tt.signer, nil)
			s.local.RSA = tt.prefer
			got, proof := chosen(t, s.local, modern, nil)
			if got != tt.want {
				t.Fatalf("signs by %s, want %s", got, tt.want)
			}
			s.method, s.data = proof.Method, proof.Data
			if _, err := s.verify(); err != nil {
				t.Error(err)
			}
		})
	}
	broken := newUnsigned(t, token{key: ed25519Key(), not: cannot}, nil)
	_, err := Sign(broken.local, octets, modern, nil, rand.Reader)
	wantReason(t, err, ReasonSignature)
	if !errors.Is(err, cannot) {
		t.Errorf("%v does not say why", err)
	}
}

// Both methods are accepted of a peer only if that is configured.
func TestEither(t *testing.T) {
	s := newScenario(t, ed25519Key(), nil)
	s.remote.PSK = PSK("a secret of both ends")
	_, err := s.verify()
	wantReason(t, err, ReasonConfiguration)
	s.remote.Either = true
	if _, err := s.verify(); err != nil {
		t.Fatal(err)
	}
	s.method, s.data, s.chain = wire.AuthSharedKey, s.octets.sharedKeyAuth(s.remote.PSK), nil
	if _, err := s.verify(); err != nil {
		t.Fatal(err)
	}
	s.data = s.octets.sharedKeyAuth(nil)
	_, err = s.verify()
	wantReason(t, err, ReasonSignature)
	s.method = wire.AuthNull
	_, err = s.verify()
	wantReason(t, err, ReasonMethod)
}
