package attest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
)

var now = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// area is the public area of a key on P-256 that a TPM would have made.
func area(k *ecdsa.PrivateKey, change func(*tpm2.TPMTPublic, *tpm2.TPMSECCParms)) []byte {
	parms := &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256, Scheme: tpm2.TPMTECCScheme{
		Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
	}}
	p := tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true},
	}
	change(&p, parms)
	p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, parms)
	if k != nil {
		p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: k.X.FillBytes(make([]byte, 32))}, Y: tpm2.TPM2BECCParameter{Buffer: k.Y.FillBytes(make([]byte, 32))},
		})
	}
	return tpm2.Marshal(p)
}

func asKey(*tpm2.TPMTPublic, *tpm2.TPMSECCParms) {}

func asAK(p *tpm2.TPMTPublic, _ *tpm2.TPMSECCParms) { p.ObjectAttributes.Restricted = true }

func asEK(p *tpm2.TPMTPublic, parms *tpm2.TPMSECCParms) {
	p.ObjectAttributes = tpm2.ECCEKTemplate.ObjectAttributes
	p.AuthPolicy = tpm2.ECCEKTemplate.AuthPolicy
	parms.Scheme = tpm2.TPMTECCScheme{}
	parms.Symmetric = tpm2.TPMTSymDefObject{
		Algorithm: tpm2.TPMAlgAES, KeyBits: tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)), Mode: tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
	}
}

// program does what a TPM does, and keeps nothing safe. What Verify makes of real ones is in
// deployments/tpm.
type program struct {
	ek, ak, key *ecdsa.PrivateKey
	authority   *ecdsa.PrivateKey
	root        *x509.Certificate
}

func newProgram(t testing.TB) *program {
	t.Helper()
	p := &program{ek: newKey(t), ak: newKey(t), key: newKey(t), authority: newKey(t)}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Maker of TPMs"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, p.authority.Public(), p.authority)
	if err != nil {
		t.Fatal(err)
	}
	if p.root, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *program) authorities(t testing.TB) *Authorities {
	t.Helper()
	a, err := ParseAuthorities(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.root.Raw}))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// certificate is one of an EK, as manufacturers make them: without a subject, with a critical
// alternative name that says what the TPM is.
func (p *program) certificate(t testing.TB, key crypto.PublicKey, change func(*x509.Certificate)) []byte {
	t.Helper()
	about, err := asn1.Marshal(pkix.RDNSequence{
		{{Type: oidManufacturer, Value: "id:53574448"}}, {{Type: oidModel, Value: "program"}}, {{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 3}, Value: "id:1"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	name, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: about}})
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageKeyAgreement,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{oidEKCertificate},
		ExtraExtensions:    []pkix.Extension{{Id: oidSubjectAltName, Critical: true, Value: name}},
	}
	change(tmpl)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, p.root, key, p.authority)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// certify is TPM2_Certify of an object by key; change makes it something else.
func certify(t testing.TB, object []byte, key *ecdsa.PrivateKey, change func(*tpm2.TPMSAttest)) (info, signature []byte) {
	t.Helper()
	sum := sha256.Sum256(object)
	a := tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestCertify,
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{Name: tpm2.TPM2BName{Buffer: append([]byte{0, 0x0b}, sum[:]...)}}),
	}
	change(&a)
	info = tpm2.Marshal(a)
	digest := sha256.Sum256(info)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return info, tpm2.Marshal(tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
		Hash: tpm2.TPMAlgSHA256, SignatureR: tpm2.TPM2BECCParameter{Buffer: r.Bytes()}, SignatureS: tpm2.TPM2BECCParameter{Buffer: s.Bytes()},
	})})
}

func (p *program) statement(t testing.TB) Statement {
	t.Helper()
	s := Statement{
		EKCertificate: p.certificate(t, p.ek.Public(), func(*x509.Certificate) {}),
		EKPublic:      area(p.ek, asEK), AKPublic: area(p.ak, asAK), KeyPublic: area(p.key, asKey),
	}
	s.CertifyInfo, s.Signature = certify(t, s.KeyPublic, p.ak, func(*tpm2.TPMSAttest) {})
	return s
}

func TestVerify(t *testing.T) {
	p := newProgram(t)
	e, err := Verify(p.statement(t), p.key.Public(), p.authorities(t), now)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(p.ek.Public())
	if err != nil {
		t.Fatal(err)
	}
	if e.EKFingerprint != sha256.Sum256(der) || e.Issuer != "CN=Maker of TPMs" || e.Manufacturer != "id:53574448" || e.Model != "program" {
		t.Errorf("evidence is %+v", e)
	}
	// Nobody who is believed vouches for it: then nothing of the certificate is.
	for what, authorities := range map[string]*Authorities{"no authorities": nil, "others": newProgram(t).authorities(t)} {
		if e, err := Verify(p.statement(t), p.key.Public(), authorities, now); err != nil || e.Issuer+e.Manufacturer+e.Model != "" {
			t.Errorf("%s: %+v, %v", what, e, err)
		}
	}
	bare := p.statement(t)
	bare.EKCertificate = nil
	if e, err := Verify(bare, p.key.Public(), p.authorities(t), now); err != nil || e.Issuer != "" {
		t.Errorf("without a certificate: %+v, %v", e, err)
	}
}

// An authority that another one signed is believed as it stands.
func TestIntermediateIsAnAnchor(t *testing.T) {
	p, other := newProgram(t), newProgram(t)
	der, err := x509.CreateCertificate(rand.Reader, p.root, other.root, p.authority.Public(), other.authority)
	if err != nil {
		t.Fatal(err)
	}
	a, err := ParseAuthorities(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	if e, err := Verify(p.statement(t), p.key.Public(), a, now); err != nil || e.Issuer == "" {
		t.Errorf("%+v, %v", e, err)
	}
}

// Whatever is wrong with a statement is told with the part that has it.
func TestVerifyRefuses(t *testing.T) {
	p := newProgram(t)
	other := newKey(t)
	good := p.statement(t)
	authorities := p.authorities(t)
	type edit = func(*tpm2.TPMTPublic, *tpm2.TPMSECCParms)
	changed := func(as, then edit) edit {
		return func(a *tpm2.TPMTPublic, parms *tpm2.TPMSECCParms) { as(a, parms); then(a, parms) }
	}
	attribute := func(as edit, set func(*tpm2.TPMAObject)) edit {
		return changed(as, func(a *tpm2.TPMTPublic, _ *tpm2.TPMSECCParms) { set(&a.ObjectAttributes) })
	}
	policy := func(a *tpm2.TPMTPublic, _ *tpm2.TPMSECCParms) { a.AuthPolicy.Buffer = make([]byte, 32) }
	key := func(e edit) func(*Statement) {
		return func(s *Statement) {
			s.KeyPublic = area(p.key, e)
			s.CertifyInfo, s.Signature = certify(t, s.KeyPublic, p.ak, func(*tpm2.TPMSAttest) {})
		}
	}
	ak := func(e edit) func(*Statement) { return func(s *Statement) { s.AKPublic = area(p.ak, e) } }
	ek := func(e edit) func(*Statement) { return func(s *Statement) { s.EKPublic = area(p.ek, e) } }
	info := func(change func(*tpm2.TPMSAttest)) func(*Statement) {
		return func(s *Statement) { s.CertifyInfo, s.Signature = certify(t, s.KeyPublic, p.ak, change) }
	}
	certificate := func(of crypto.PublicKey, change func(*x509.Certificate)) func(*Statement) {
		return func(s *Statement) { s.EKCertificate = p.certificate(t, of, change) }
	}
	for what, tc := range map[string]struct {
		change func(*Statement)
		want   string
	}{
		"nothing":                {func(s *Statement) { *s = Statement{} }, "ek_public is not"},
		"EK that is not fixed":   {ek(attribute(asEK, func(a *tpm2.TPMAObject) { a.FixedTPM = false })), "ek_public does not have the attribute fixedTPM"},
		"EK that signs":          {ek(attribute(asEK, func(a *tpm2.TPMAObject) { a.SignEncrypt = true })), "ek_public has the attribute sign"},
		"EK that is open":        {ek(attribute(asEK, func(a *tpm2.TPMAObject) { a.Restricted = false })), "ek_public does not have the attribute restricted"},
		"EK with octets behind":  {func(s *Statement) { s.EKPublic = append(bytes.Clone(s.EKPublic), 0) }, "ek_public is not"},
		"EK that is cut":         {func(s *Statement) { s.EKPublic = s.EKPublic[:len(s.EKPublic)-1] }, "ek_public is not"},
		"EK not on its curve":    {func(s *Statement) { s.EKPublic = bytes.Clone(s.EKPublic); s.EKPublic[len(s.EKPublic)-1] ^= 1 }, "ek_public is a point"},
		"EK by SHA-1":            {ek(changed(asEK, func(a *tpm2.TPMTPublic, _ *tpm2.TPMSECCParms) { a.NameAlg = tpm2.TPMAlgSHA1 })), "ek_public has a name by hash"},
		"EK on P-521":            {ek(changed(asEK, func(_ *tpm2.TPMTPublic, c *tpm2.TPMSECCParms) { c.CurveID = tpm2.TPMECCNistP521 })), "ek_public is on curve"},
		"certificate of another": {certificate(other.Public(), func(*x509.Certificate) {}), "ek_certificate is of another key"},
		"certificate of a server": {certificate(p.ek.Public(), func(c *x509.Certificate) {
			c.UnknownExtKeyUsage, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}), "ek_certificate is not for"},
		"certificate that ended": {certificate(p.ek.Public(), func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }), "ek_certificate x509: certificate has expired"},
		"critical extension": {certificate(p.ek.Public(), func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
		}), "ek_certificate x509: unhandled critical extension"},
		"another alternative name": {certificate(p.ek.Public(), func(c *x509.Certificate) {
			c.ExtraExtensions[0].Value = []byte{0x30, 0x02, 0x88, 0x00} // a registered id
		}), "ek_certificate x509: unhandled critical extension"},
		"certificate with octets behind": {func(s *Statement) { s.EKCertificate = append(bytes.Clone(s.EKCertificate), 0) }, "ek_certificate is not X.509"},

		"AK that is not fixed":     {ak(attribute(asAK, func(a *tpm2.TPMAObject) { a.FixedTPM = false })), "ak_public does not have the attribute fixedTPM"},
		"AK that came in":          {ak(attribute(asAK, func(a *tpm2.TPMAObject) { a.SensitiveDataOrigin = false })), "ak_public does not have the attribute sensitiveDataOrigin"},
		"AK that moves":            {ak(attribute(asAK, func(a *tpm2.TPMAObject) { a.FixedParent = false })), "ak_public does not have the attribute fixedParent"},
		"AK that signs anything":   {ak(asKey), "ak_public does not have the attribute restricted"},
		"AK with a policy":         {ak(changed(asAK, policy)), "ak_public has an authorization policy"},
		"AK for whom has a policy": {ak(attribute(asAK, func(a *tpm2.TPMAObject) { a.AdminWithPolicy = true })), "ak_public has the attribute adminWithPolicy"},
		"AK without a scheme":      {ak(changed(asAK, func(_ *tpm2.TPMTPublic, c *tpm2.TPMSECCParms) { c.Scheme = tpm2.TPMTECCScheme{} })), "ak_public is not a key for ECDSA"},
		"another AK":               {func(s *Statement) { s.AKPublic = area(other, asAK) }, "signature is not by ak_public"},
		"another key":              {func(s *Statement) { s.KeyPublic = area(other, asKey) }, "key_public is not the key of the certificate request"},
		"key that is not fixed":    {key(attribute(asKey, func(a *tpm2.TPMAObject) { a.FixedTPM = false })), "key_public does not have the attribute fixedTPM"},
		"key that came in":         {key(attribute(asKey, func(a *tpm2.TPMAObject) { a.SensitiveDataOrigin = false })), "key_public does not have the attribute sensitiveDataOrigin"},
		"key with a policy":        {key(changed(asKey, policy)), "key_public has an authorization policy"},
		"key that is restricted":   {key(asAK), "key_public has the attribute restricted"},
		"area of the key after all": {func(s *Statement) {
			s.KeyPublic = area(p.key, attribute(asKey, func(a *tpm2.TPMAObject) { a.NoDA = true }))
		}, "certify_info is of another key"},
		"not made by a TPM": {func(s *Statement) { s.CertifyInfo = bytes.Clone(s.CertifyInfo); s.CertifyInfo[0] ^= 1 }, "certify_info was not made by a TPM"},
		"octets behind":     {func(s *Statement) { s.CertifyInfo = append(bytes.Clone(s.CertifyInfo), 0) }, "certify_info is not what"},
		"a quote": {info(func(a *tpm2.TPMSAttest) {
			a.Type, a.Attested = tpm2.TPMSTAttestQuote, tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{})
		}), "certify_info is not of TPM2_Certify"},
		"another time": {func(s *Statement) {
			s.CertifyInfo, _ = certify(t, s.KeyPublic, p.ak, func(a *tpm2.TPMSAttest) { a.ClockInfo.Clock++ })
		}, "signature is not by ak_public"},
		"signature that is cut": {func(s *Statement) { s.Signature = s.Signature[:len(s.Signature)-1] }, "signature is not encoded"},
	} {
		s := good
		tc.change(&s)
		_, err := Verify(s, p.key.Public(), authorities, now)
		var of *Error
		if !errors.As(err, &of) || !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %s", what, err, tc.want)
		}
	}
}

// macKey authenticates with a key for tests.
type macKey struct{}

func (macKey) Authenticate(message []byte) (string, []byte) {
	h := hmac.New(sha256.New, []byte("key"))
	h.Write(message)
	return "k1", h.Sum(nil)
}

func (k macKey) Authentic(keyID string, message, mac []byte) error {
	if id, want := k.Authenticate(message); id != keyID || !hmac.Equal(mac, want) {
		return errors.New("not authentic")
	}
	return nil
}

// An answer is good for a minute, for the TPM and the purpose that the challenge was for, and
// as often as it is given.
func TestAnswer(t *testing.T) {
	p, other := newProgram(t), newProgram(t)
	evidence := func(p *program) *Evidence {
		t.Helper()
		e, err := Verify(p.statement(t), p.key.Public(), nil, now)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	e := evidence(p)
	c, err := e.Challenge(macKey{}, []byte("this"), now)
	if err != nil {
		t.Fatal(err)
	}
	_, secret := macKey{}.Authenticate(e.message(c.Ticket[:expirySize], []byte("this")))
	later := bytes.Clone(c.Ticket)
	later[expirySize-1] += 60
	otherAK := *p
	otherAK.ak = newKey(t)
	for what, tc := range map[string]struct {
		e              *Evidence
		about          string
		ticket, secret []byte
		now            time.Time
		want           error
	}{
		"the answer":         {e, "this", c.Ticket, secret, now, nil},
		"the answer again":   {e, "this", c.Ticket, secret, now.Add(59 * time.Second), nil},
		"too late":           {e, "this", c.Ticket, secret, now.Add(61 * time.Second), ErrExpired},
		"time bought":        {e, "this", later, secret, now, ErrAnswer},
		"about another":      {e, "that", c.Ticket, secret, now, ErrAnswer},
		"of another EK":      {evidence(other), "this", c.Ticket, secret, now, ErrAnswer},
		"of another AK":      {evidence(&otherAK), "this", c.Ticket, secret, now, ErrAnswer},
		"no secret":          {e, "this", c.Ticket, nil, now, ErrAnswer},
		"another secret":     {e, "this", c.Ticket, make([]byte, 32), now, ErrAnswer},
		"no ticket":          {e, "this", nil, secret, now, ErrAnswer},
		"a ticket of no key": {e, "this", c.Ticket[:expirySize], secret, now, ErrAnswer},
	} {
		if err := tc.e.Answered(macKey{}, []byte(tc.about), tc.ticket, tc.secret, tc.now); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", what, err, tc.want)
		}
	}
	if bytes.Contains(append(c.Blob, c.Seed...), secret) {
		t.Error("the challenge shows its secret")
	}
}

// A certificate may say that its RSA key is for OAEP only, of which crypto/x509 makes none.
func TestKeyForOAEP(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p := newProgram(t)
	der := p.certificate(t, key.Public(), func(*x509.Certificate) {})
	plain, err := asn1.Marshal(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1})
	if err != nil {
		t.Fatal(err)
	}
	oaep, err := asn1.Marshal(oidRSAESOAEP)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(bytes.Replace(der, plain, oaep, 1)) // its signature is not looked at
	if err != nil || cert.PublicKey != nil {
		t.Fatalf("%T, %v: crypto/x509 knows it by now", cert.PublicKey, err)
	}
	if got, err := keyOf(cert); err != nil || !key.PublicKey.Equal(got) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestParseAuthoritiesRefuses(t *testing.T) {
	p := newProgram(t)
	leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.certificate(t, p.ek.Public(), func(*x509.Certificate) {})})
	for text, want := range map[string]string{"": "no certificate", string(leaf): "is not an authority's", strings.ReplaceAll(string(leaf), "CERTIFICATE", "X"): `"X", is not a certificate`} {
		if _, err := ParseAuthorities([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// Whatever somebody shows, it is refused or a challenge can be made for it.
func FuzzVerify(f *testing.F) {
	p := newProgram(f)
	s := p.statement(f)
	modulus := new(big.Int).SetBit(big.NewInt(1), 2047, 1)
	ek := tpm2.RSAEKTemplate
	ek.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: modulus.Bytes()})
	f.Add(s.EKCertificate, s.EKPublic, s.AKPublic, s.KeyPublic, s.CertifyInfo, s.Signature)
	f.Add([]byte(nil), tpm2.Marshal(ek), s.AKPublic, s.KeyPublic, s.CertifyInfo, s.Signature)
	authorities := p.authorities(f)
	f.Fuzz(func(t *testing.T, ekCertificate, ekPublic, akPublic, keyPublic, certifyInfo, signature []byte) {
		// What a part is wrong with hides those behind it: each is looked at for itself as well.
		for _, b := range [][]byte{ekPublic, akPublic, keyPublic} {
			if ek, err := parseEK(b); err == nil {
				e := &Evidence{ek: ek, akName: make([]byte, 34)}
				if _, err := e.Challenge(macKey{}, nil, now); err != nil {
					t.Errorf("no challenge can be made for %x: %v", b, err)
				}
				_ = e.vouch(ekCertificate, authorities, now)
			}
		}
		_ = checkCertify(certifyInfo, keyPublic)
		_ = checkSignature(signature, certifyInfo, &p.ak.PublicKey)
		e, err := Verify(Statement{ekCertificate, ekPublic, akPublic, keyPublic, certifyInfo, signature}, p.key.Public(), authorities, now)
		var of *Error
		if (e == nil) == (err == nil) || err != nil && !errors.As(err, &of) {
			t.Errorf("%v, %v", e, err)
		}
	})
}
