package ident

import (
	"bytes"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

func TestKeysAreNeverPrinted(t *testing.T) {
	const key = "correct horse battery staple"
	signer := ed25519.NewKeyFromSeed([]byte(key + "....")) // the seed is the key's start
	local := Local{ID: id(t, "edge1.example"), PSK: PSK(key)}
	withCertificate := Local{ID: id(t, "edge1.example"), Signer: signer}
	remote := Remote{PSK: PSK(key)}
	config := struct {
		Credentials Local
		Peer        Remote
	}{withCertificate, remote}
	var b bytes.Buffer
	for _, v := range []any{local, &local, remote, &remote, local.PSK, &local.PSK, withCertificate, &withCertificate, config, &config} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
			fmt.Fprintf(&b, verb+"\n", v)
		}
		fmt.Fprintln(&b, v)
		if j, err := json.Marshal(v); err == nil {
			b.Write(j)
		}
		slog.New(slog.NewTextHandler(&b, nil)).Info("credentials", "value", v)
		slog.New(slog.NewJSONHandler(&b, nil)).Info("credentials", "value", v)
	}
	out := b.String()
	for _, leak := range []string{key, "horse", fmt.Sprintf("%x", key), fmt.Sprintf("%X", key), fmt.Sprint([]byte(key))[1:20], "Y29ycmVjdCBob3JzZ"} {
		if strings.Contains(out, leak) {
			t.Errorf("output holds %q:\n%s", leak, out)
		}
	}
}

func TestLocalValidate(t *testing.T) {
	ca := newAuthority("root", nil)
	key := ed25519Key()
	good := Local{ID: id(t, "edge1.example"), Signer: key, Chain: []*x509.Certificate{ca.issue(key, nil)}}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*Local)
		want   Reason
	}{
		"no identity":           {func(l *Local) { l.ID = ID{} }, ReasonConfiguration},
		"nothing to prove with": {func(l *Local) { l.Signer, l.Chain = nil, nil }, ReasonConfiguration},
		"key alone":             {func(l *Local) { l.Chain = nil }, ReasonConfiguration},
		"certificate alone":     {func(l *Local) { l.Signer = nil }, ReasonConfiguration},
		"both":                  {func(l *Local) { l.PSK = PSK("secret") }, ReasonConfiguration},
		"key of another":        {func(l *Local) { l.Signer = ed25519Key() }, ReasonConfiguration},
		"key of another type":   {func(l *Local) { l.Signer = ecdsaKey(elliptic.P256()) }, ReasonConfiguration},
		"RSA key of another":    {func(l *Local) { l.Signer = rsaKey(t, 2048) }, ReasonConfiguration},
		"short RSA key":         {func(l *Local) { l.Signer = rsaKey(t, 1024) }, ReasonAlgorithm},
		"strange older method":  {func(l *Local) { l.Legacy = []wire.AuthMethod{wire.AuthNull} }, ReasonConfiguration},
		"useless alternative":   {func(l *Local) { l.Alternatives = []Credential{{}} }, ReasonConfiguration},
		"alternative of another": {func(l *Local) {
			l.Alternatives = []Credential{{Signer: key, Chain: []*x509.Certificate{ca.issue(key, func(c *x509.Certificate) { c.DNSNames = []string{"edge2.example"} })}}}
		}, ReasonIdentity},
		"P-224 key":       {func(l *Local) { l.Signer = ecdsaKey(elliptic.P224()) }, ReasonConfiguration},
		"name of another": {func(l *Local) { l.ID = id(t, "edge2.example") }, ReasonIdentity},
		"root first":      {func(l *Local) { l.Chain = []*x509.Certificate{ca.cert, l.Chain[0]} }, ReasonConfiguration},
	} {
		l := good
		tt.change(&l)
		wantReason(t, l.Validate(), tt.want)
		_, err := Sign(l, octets, modern, nil, nil)
		if err == nil {
			t.Errorf("%s: signs all the same", name)
		}
	}
}

func TestSignPicksHash(t *testing.T) {
	s := newScenario(t, ecdsaKey(elliptic.P384()), nil)
	for _, tt := range []struct {
		peer []wire.HashAlgorithm
		want string
	}{
		{HashAlgorithms(), ecdsaIdentifier + "\x03"},
		{[]wire.HashAlgorithm{wire.HashSHA512, wire.HashSHA256}, ecdsaIdentifier + "\x04"},
		{[]wire.HashAlgorithm{wire.HashSHA256, wire.HashIdentity}, ""}, // weaker than the curve
		{[]wire.HashAlgorithm{wire.HashSHA1}, ""},
		{nil, ""},
	} {
		proof, err := Sign(s.local, octets, Announced{Signatures: tt.peer != nil, Hashes: tt.peer}, nil, nil)
		if tt.want == "" {
			wantReason(t, err, ReasonAlgorithm)
			continue
		}
		if err != nil || string(proof.Data[1:1+len(tt.want)]) != tt.want || int(proof.Data[0]) != len(tt.want) {
			t.Errorf("peer accepts %v: %+v, %v", tt.peer, proof, err)
		}
	}
	// RFC 8420, Section 2: Ed25519 only to a peer that announced IDENTITY.
	e := newScenario(t, ed25519Key(), nil)
	_, err := Sign(e.local, octets, Announced{Signatures: true, Hashes: []wire.HashAlgorithm{wire.HashSHA256, wire.HashSHA512}}, nil, nil)
	wantReason(t, err, ReasonAlgorithm)
}

func TestHashAlgorithmsNotify(t *testing.T) {
	n := HashAlgorithmsNotify()
	if n.Kind != wire.NotifySignatureHashAlgorithms || !bytes.Equal(n.Data, []byte{0, 5, 0, 2, 0, 3, 0, 4}) || len(n.SPI) != 0 {
		t.Errorf("got %+v", n)
	}
	got, err := ParseHashAlgorithms(n.Data)
	if err != nil || !slices.Equal(got, HashAlgorithms()) {
		t.Errorf("got %v, %v", got, err)
	}
	got, err = ParseHashAlgorithms([]byte{0, 1, 0, 2, 0, 2, 0xff, 0xff, 0, 0})
	if err != nil || !slices.Equal(got, []wire.HashAlgorithm{wire.HashSHA256}) {
		t.Errorf("SHA-1, repeated and unknown ones: got %v, %v", got, err)
	}
	if _, err := ParseHashAlgorithms([]byte{0, 2, 0}); err == nil {
		t.Error("an odd length is accepted")
	}
	if got, err := ParseHashAlgorithms(nil); err != nil || got != nil {
		t.Errorf("none: got %v, %v", got, err)
	}
}

func TestCertificatePayloads(t *testing.T) {
	s := newScenario(t, ed25519Key(), nil)
	root := newAuthority("another root", nil)
	s.local.Chain = append(s.local.Chain, root.cert)
	payloads := s.local.credentials()[0].certificates()
	if len(payloads) != 2 {
		t.Fatalf("%d certificates are sent, want 2 without the root", len(payloads))
	}
	chain, err := ParseCertificates(payloads)
	if err != nil || len(chain) != 2 || !chain[0].Equal(s.chain[0]) || !chain[1].Equal(s.chain[1]) {
		t.Fatalf("got %d certificates, %v", len(chain), err)
	}
	crl := &wire.Cert{Encoding: wire.CertCRL, Data: []byte("whatever")}
	if chain, err := ParseCertificates([]*wire.Cert{payloads[0], crl, payloads[1]}); err != nil || len(chain) != 2 {
		t.Errorf("with a CRL: %d certificates, %v", len(chain), err)
	}
	if chain, err := ParseCertificates(nil); err != nil || len(chain) != 0 {
		t.Errorf("none: %d certificates, %v", len(chain), err)
	}
	for name, ps := range map[string][]*wire.Cert{
		"hash and URL":   {{Encoding: wire.CertHashAndURL, Data: payloads[0].Data}},
		"raw public key": {{Encoding: wire.CertRawPublicKey, Data: payloads[0].Data}},
		"garbage":        {{Encoding: wire.CertX509Signature, Data: []byte{0x30, 0}}},
		"empty":          {{Encoding: wire.CertX509Signature}},
		"trailing octet": {{Encoding: wire.CertX509Signature, Data: append(slices.Clone(payloads[0].Data), 0)}},
		"too large":      {{Encoding: wire.CertX509Signature, Data: make([]byte, maxCertificateLen+1)}},
		"too many":       slices.Repeat(payloads[:1], maxCertificates+1),
	} {
		_, err := ParseCertificates(ps)
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		wantReason(t, err, ReasonCertificate)
	}
}

func TestRequest(t *testing.T) {
	a, b := newAuthority("a", nil), newAuthority("b", nil)
	r := NewRoots(a.cert, b.cert).Request()
	ha, hb := sha1.Sum(a.cert.RawSubjectPublicKeyInfo), sha1.Sum(b.cert.RawSubjectPublicKeyInfo)
	if r.Encoding != wire.CertX509Signature || !bytes.Equal(r.Data, append(ha[:], hb[:]...)) {
		t.Errorf("got %+v", r)
	}
}

func TestUnionRoots(t *testing.T) {
	a, b := newAuthority("a", nil), newAuthority("b", nil)
	u := UnionRoots(NewRoots(a.cert), nil, NewRoots(b.cert, a.cert))
	if want := NewRoots(a.cert, b.cert).Request(); !bytes.Equal(u.Request().Data, want.Data) {
		t.Errorf("got %x, want %x", u.Request().Data, want.Data)
	}
	if r := UnionRoots(); len(r.Request().Data) != 0 {
		t.Errorf("the empty union asks for %x", r.Request().Data)
	}
	var many []*x509.Certificate
	for range maxRequestHashes + 1 {
		many = append(many, newAuthority("many", nil).cert)
	}
	if r := NewRoots(many...).Request(); len(r.Data) != 0 || r.Encoding != wire.CertX509Signature {
		t.Errorf("many authorities ask for %d octets", len(r.Data))
	}
	if r := NewRoots(many[1:]...).Request(); len(r.Data) != maxRequestHashes*sha1.Size {
		t.Errorf("%d authorities ask for %d octets", maxRequestHashes, len(r.Data))
	}
}

// No Authentication Data but the one that was signed is accepted; Ed25519
// signatures, unlike those of ECDSA, have a single form.
func FuzzVerify(f *testing.F) {
	ca := newAuthority("root", nil)
	name, err := ParseID("edge1.example")
	if err != nil {
		f.Fatal(err)
	}
	remote := Remote{ID: name, Roots: NewRoots(ca.cert)}
	key := ed25519Key()
	chain := []*x509.Certificate{ca.issue(key, nil)}
	signed, err := schemes[0].sign(key, octets, rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Add([]byte{})
	f.Add([]byte{255, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := Verify(remote, Claim{name, wire.AuthDigitalSignature, data, octets, chain, true}, now)
		if (err == nil) != bytes.Equal(data, signed) {
			t.Errorf("data %x: %v", data, err)
		}
	})
}

// A distinguished name is sent octet by octet as the certificate has it, whatever
// string types our own text form would get (RFC 4945, Section 3.1.5).
func TestDistinguishedNameIsSentAsInCertificate(t *testing.T) {
	ca, key := newAuthority("root", nil), ed25519Key()
	issue := func(subject string) Credential {
		return Credential{Signer: key, Chain: []*x509.Certificate{ca.issue(key, func(c *x509.Certificate) { c.RawSubject = []byte(subject) })}}
	}
	printable := id(t, "CN=edge1").Data
	utf8 := strings.Replace(printable, "\x13\x05edge1", "\x0c\x05edge1", 1)
	for _, subject := range []string{printable, utf8} {
		c := issue(subject)
		l := Local{ID: id(t, "cn=Edge1"), Signer: c.Signer, Chain: c.Chain}
		if err := l.Validate(); err != nil {
			t.Fatal(err)
		}
		if p := l.Payload(true); string(p.Data) != subject || !p.Initiator || p.Kind != wire.IDDERDN {
			t.Errorf("sends %x, want %x", p.Data, subject)
		}
		// So does one who prefers a pre-shared key.
		l = Local{ID: l.ID, PSK: PSK("secret"), Alternatives: []Credential{c}}
		if p := l.Payload(false); string(p.Data) != subject || p.Initiator {
			t.Errorf("with a pre-shared key as well, sends %x, want %x", p.Data, subject)
		}
	}
	both := Local{ID: id(t, "CN=edge1"), Signer: key, Chain: issue(printable).Chain, Alternatives: []Credential{issue(utf8)}}
	wantReason(t, both.Validate(), ReasonConfiguration)
	for _, l := range []Local{{ID: id(t, "CN=edge1"), PSK: PSK("secret")}, {ID: id(t, "edge1.example"), Signer: key, Chain: issue(utf8).Chain}} {
		if p := l.Payload(true); string(p.Data) != l.ID.Data || p.Kind != l.ID.Kind {
			t.Errorf("%s sends %x", l.ID, p.Data)
		}
	}
}

func TestRootsCover(t *testing.T) {
	a, b := newAuthority("a", nil).cert, newAuthority("b", nil).cert
	for name, c := range map[string]struct {
		r, other *Roots
		want     bool
	}{
		"one less":       {NewRoots(a, b), NewRoots(b), true},
		"another order":  {NewRoots(b, a), NewRoots(a, b), true},
		"one more":       {NewRoots(a), NewRoots(a, b), false},
		"nothing":        {NewRoots(a), nil, true},
		"by nothing":     {nil, NewRoots(a), false},
		"both of nobody": {nil, nil, true},
	} {
		if got := c.r.Covers(c.other); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestRemoteEqualBarRoots(t *testing.T) {
	a, b := NewRoots(newAuthority("a", nil).cert), NewRoots(newAuthority("b", nil).cert)
	id, other := ID{wire.IDFQDN, "x"}, ID{wire.IDFQDN, "y"}
	for _, c := range []struct {
		x, y Remote
		want bool
	}{
		{Remote{ID: id, Roots: a}, Remote{ID: id, Roots: b}, true},
		{Remote{ID: id, Roots: a}, Remote{ID: other, Roots: a}, false},
		{Remote{ID: id, Roots: a}, Remote{ID: id, PSK: PSK("x")}, false},
		{Remote{ID: id, Roots: a}, Remote{ID: id, Roots: b, Legacy: []wire.AuthMethod{wire.AuthRSA}}, false},
	} {
		if got := c.x.EqualBarRoots(c.y); got != c.want || c.y.EqualBarRoots(c.x) != c.want {
			t.Errorf("%+v and %+v: %t", c.x, c.y, got)
		}
	}
}
