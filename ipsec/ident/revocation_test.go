package ident

import (
	"crypto"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"
)

// list makes a CRL of a; change may alter the template.
func (a *authority) list(t *testing.T, change func(*x509.RevocationList), revoked ...*x509.Certificate) *x509.RevocationList {
	t.Helper()
	tmpl := &x509.RevocationList{Number: big.NewInt(7), ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(time.Hour)}
	for _, c := range revoked {
		tmpl.RevokedCertificateEntries = append(tmpl.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: c.SerialNumber, RevocationTime: now.Add(-30 * time.Minute), ReasonCode: 1,
		})
	}
	if change != nil {
		change(tmpl)
	}
	return must(x509.ParseRevocationList(must(x509.CreateRevocationList(rand.Reader, tmpl, a.cert, a.key))))
}

// answer makes an OCSP response about c, signed by who, whose certificate goes
// along if it is not that of a.
func (a *authority) answer(t *testing.T, c *x509.Certificate, who *authority, change func(*ocsp.Response)) []byte {
	t.Helper()
	tmpl := ocsp.Response{Status: ocsp.Good, SerialNumber: c.SerialNumber, ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(time.Hour), RevokedAt: now.Add(-time.Minute)}
	if who != a {
		tmpl.Certificate = who.cert
	}
	if change != nil {
		change(&tmpl)
	}
	return must(ocsp.CreateResponse(a.cert, who.cert, tmpl, who.key))
}

func revocations(t *testing.T, policy RevocationPolicy, parts ...any) *Revocations {
	t.Helper()
	var lists []*x509.RevocationList
	var answers [][]byte
	for _, p := range parts {
		switch p := p.(type) {
		case *x509.RevocationList:
			lists = append(lists, p)
		case []byte:
			answers = append(answers, p)
		}
	}
	return must(NewRevocations(policy, lists, answers))
}

// delegate is a signer of OCSP responses with a certificate of a.
func (a *authority) delegate(change func(*x509.Certificate)) *authority {
	key := ecdsaKey(elliptic.P256())
	return &authority{key: key, cert: a.issue(key, func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
		if change != nil {
			change(c)
		}
	})}
}

func point(t *testing.T, p issuingDistributionPoint) func(*x509.RevocationList) {
	t.Helper()
	der := must(asn1.Marshal(p))
	return func(l *x509.RevocationList) {
		l.ExtraExtensions = append(l.ExtraExtensions, pkix.Extension{Id: oidDistributionPoint, Critical: true, Value: der})
	}
}

func uriPoint(uri string) issuingDistributionPoint {
	var p issuingDistributionPoint
	p.Point.FullName = []asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: generalNameURI, Bytes: []byte(uri)}}
	return p
}

// TestRevocations: what CRLs and OCSP responses say of a certificate, under both
// policies (RFC 5280, Section 6.3; RFC 6960, Section 3.2).
func TestRevocations(t *testing.T) {
	ca, other := newAuthority("root", nil), newAuthority("other", nil)
	namesake := newAuthority("root", nil) // same name, another key
	key := ed25519Key()
	good, bad := ca.issue(key, nil), ca.issue(key, nil)
	pointed := ca.issue(key, func(c *x509.Certificate) { c.CRLDistributionPoints = []string{"http://pki.example/1.crl"} })
	stale := func(l *x509.RevocationList) {
		l.ThisUpdate, l.NextUpdate = now.Add(-3*time.Hour), now.Add(-2*time.Hour)
	}
	future := func(l *x509.RevocationList) { l.ThisUpdate = now.Add(10 * time.Minute) }
	ahead := func(l *x509.RevocationList) { l.ThisUpdate = now.Add(time.Minute) }
	number := func(n int64) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) { l.Number = big.NewInt(n) }
	}
	status := func(s int) func(*ocsp.Response) { return func(r *ocsp.Response) { r.Status = s } }
	old := func(r *ocsp.Response) { r.ThisUpdate, r.NextUpdate = now.Add(-3*time.Hour), now.Add(-2*time.Hour) }
	endless := func(r *ocsp.Response) { r.NextUpdate = time.Time{} }
	delegate := ca.delegate(nil)
	const fine, revoked, unknown = "", "was revoked at", "is unknown"
	for _, tt := range []struct {
		name            string
		parts           []any
		cert            *x509.Certificate
		relaxed, strict string
	}{
		{"nothing", nil, good, fine, unknown},
		{"CRL", []any{ca.list(t, nil, bad)}, good, fine, fine},
		{"CRL, revoked", []any{ca.list(t, nil, bad)}, bad, revoked, revoked},
		{"CRL that has run out", []any{ca.list(t, stale, bad)}, good, fine, unknown},
		{"CRL that has run out, revoked", []any{ca.list(t, stale, bad)}, bad, revoked, revoked},
		{"CRL of tomorrow", []any{ca.list(t, future)}, good, fine, unknown},
		{"CRL of a clock ahead", []any{ca.list(t, ahead)}, good, fine, fine},
		{"CRL of another authority", []any{other.list(t, nil, good)}, good, fine, unknown},
		{"CRL of a namesake", []any{namesake.list(t, nil, good)}, good, fine, unknown},
		{"namesake's beside the true one", []any{namesake.list(t, number(99), good), ca.list(t, nil, bad)}, good, fine, fine},
		{"released by a later CRL", []any{ca.list(t, number(7), bad), ca.list(t, number(8))}, bad, fine, fine},
		{"order does not matter", []any{ca.list(t, number(8)), ca.list(t, number(7), bad)}, bad, fine, fine},
		{"CRL for the certificate's point", []any{ca.list(t, point(t, uriPoint("http://pki.example/1.crl")), pointed)}, pointed, revoked, revoked},
		{"CRL for another point", []any{ca.list(t, point(t, uriPoint("http://pki.example/2.crl")), pointed)}, pointed, fine, unknown},
		{"CRL for a point, certificate without", []any{ca.list(t, point(t, uriPoint("http://pki.example/1.crl")), good)}, good, fine, unknown},
		{"CRL without points", []any{ca.list(t, nil)}, pointed, fine, fine},
		{"CRL for end entities", []any{ca.list(t, point(t, issuingDistributionPoint{OnlyUser: true}), bad)}, bad, revoked, revoked},
		{"CRL for authorities", []any{ca.list(t, point(t, issuingDistributionPoint{OnlyCA: true}), bad)}, bad, fine, unknown},
		{"OCSP", []any{ca.answer(t, good, ca, nil)}, good, fine, fine},
		{"OCSP, revoked", []any{ca.answer(t, good, ca, status(ocsp.Revoked))}, good, revoked, revoked},
		{"OCSP, revoked and old", []any{ca.answer(t, good, ca, func(r *ocsp.Response) { old(r); r.Status = ocsp.Revoked })}, good, revoked, revoked},
		{"OCSP, unknown", []any{ca.answer(t, good, ca, status(ocsp.Unknown))}, good, fine, unknown},
		{"OCSP of another certificate", []any{ca.answer(t, bad, ca, nil)}, good, fine, unknown},
		{"OCSP that has run out", []any{ca.answer(t, good, ca, old)}, good, fine, unknown},
		{"OCSP without end", []any{ca.answer(t, good, ca, endless)}, good, fine, unknown},
		{"OCSP with SHA-256", []any{ca.answer(t, good, ca, func(r *ocsp.Response) { r.IssuerHash = crypto.SHA256 })}, good, fine, fine},
		{"OCSP of a delegate", []any{ca.answer(t, good, delegate, nil)}, good, fine, fine},
		{"OCSP of a delegate without the purpose", []any{ca.answer(t, good, ca.delegate(func(c *x509.Certificate) { c.ExtKeyUsage = nil }), status(ocsp.Revoked))}, good, fine, unknown},
		{"OCSP of a delegate that has expired", []any{ca.answer(t, good, ca.delegate(func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }), status(ocsp.Revoked))}, good, fine, unknown},
		{"OCSP of another's delegate", []any{ca.answer(t, good, other.delegate(nil), status(ocsp.Revoked))}, good, fine, unknown},
		{"OCSP signed by another authority", []any{must(ocsp.CreateResponse(ca.cert, ca.cert, ocsp.Response{SerialNumber: good.SerialNumber, ThisUpdate: now, NextUpdate: now.Add(time.Hour)}, other.key))}, good, fine, unknown},
		{"OCSP of a namesake", []any{namesake.answer(t, good, namesake, status(ocsp.Revoked))}, good, fine, unknown},
		// RFC 4945, Section 5.2.1.
		{"good by OCSP, revoked by CRL", []any{ca.answer(t, bad, ca, nil), ca.list(t, nil, bad)}, bad, revoked, revoked},
		{"good by CRL, revoked by OCSP", []any{ca.list(t, nil), ca.answer(t, good, ca, status(ocsp.Revoked))}, good, revoked, revoked},
		{"old CRL, current OCSP", []any{ca.list(t, stale), ca.answer(t, good, ca, nil)}, good, fine, fine},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for policy, want := range map[RevocationPolicy]string{RevocationRelaxed: tt.relaxed, RevocationStrict: tt.strict} {
				r := revocations(t, policy, tt.parts...)
				for range 2 { // the second time by what is remembered
					err := r.Check(tt.cert, ca.cert, now)
					switch {
					case want == fine && err != nil:
						t.Errorf("policy %d: %v", policy, err)
					case want != fine:
						wantReason(t, err, ReasonRevoked)
						if !strings.Contains(err.Error(), want) {
							t.Errorf("policy %d: %v, want %q in it", policy, err, want)
						}
					}
				}
			}
		})
	}
}

func TestRevocationsRefused(t *testing.T) {
	ca := newAuthority("root", nil)
	extension := func(id asn1.ObjectIdentifier, critical bool) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) {
			l.ExtraExtensions = append(l.ExtraExtensions, pkix.Extension{Id: id, Critical: critical, Value: []byte{2, 1, 1}})
		}
	}
	for name, tt := range map[string]struct {
		change func(*x509.RevocationList)
		want   error
	}{
		"delta":        {extension(oidDeltaCRL, true), errDeltaCRL},
		"indirect":     {point(t, issuingDistributionPoint{Indirect: true}), errIndirectCRL},
		"some reasons": {point(t, issuingDistributionPoint{OnlyReasons: asn1.BitString{Bytes: []byte{0x40}, BitLength: 2}}), errIndirectCRL},
		"attributes":   {point(t, issuingDistributionPoint{OnlyAttribute: true}), errIndirectCRL},
		"unknown":      {extension(asn1.ObjectIdentifier{1, 2, 3}, true), errUnknownCRLCritical},
		"unknown in one": {func(l *x509.RevocationList) {
			l.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: big.NewInt(1), RevocationTime: now, ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 29}, Critical: true, Value: []byte{5, 0}}}}}
		}, errUnknownCRLCritical},
	} {
		if _, err := NewRevocations(RevocationRelaxed, []*x509.RevocationList{ca.list(t, tt.change)}, nil); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	if _, err := NewRevocations(0, []*x509.RevocationList{ca.list(t, extension(asn1.ObjectIdentifier{1, 2, 3}, false))}, nil); err != nil {
		t.Errorf("an unknown extension that is not critical: %v", err)
	}
	weak := *ca.list(t, nil)
	weak.SignatureAlgorithm = x509.ECDSAWithSHA1
	if _, err := NewRevocations(0, []*x509.RevocationList{&weak}, nil); !errors.Is(err, errWeakListSignature) {
		t.Errorf("SHA-1: %v", err)
	}
	answer := ca.answer(t, ca.cert, ca, nil)
	for name, b := range map[string][]byte{
		"empty": nil, "cut": answer[:len(answer)-1], "trailing": append(slices.Clone(answer), 0),
		"no answer": ocsp.TryLaterErrorResponse, "CRL": ca.list(t, nil).Raw,
	} {
		if _, err := NewRevocations(0, nil, [][]byte{b}); err == nil {
			t.Errorf("OCSP response, %s: accepted", name)
		}
	}
}

// An authority with an Ed25519 key, whose responses golang.org/x/crypto/ocsp
// cannot make: its tbs part is signed anew.
func TestOCSPEd25519(t *testing.T) {
	key := ed25519Key().(ed25519.PrivateKey)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ed"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	cert := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key))))
	ca := &authority{cert: cert, key: key}
	leaf := ca.issue(ed25519Key(), nil)
	stand := newAuthority("ed", nil)
	var e ocspEnvelope
	must(asn1.Unmarshal(must(ocsp.CreateResponse(cert, stand.cert, ocsp.Response{
		Status: ocsp.Good, SerialNumber: leaf.SerialNumber, ThisUpdate: now.Add(-time.Minute), NextUpdate: now.Add(time.Minute),
	}, stand.key)), &e))
	var b ocspBasic
	must(asn1.Unmarshal(e.Bytes.Response, &b))
	b.Algorithm = pkix.AlgorithmIdentifier{Algorithm: ocspAlgorithms[0].oid}
	signature := ed25519.Sign(key, b.Data.Raw)
	b.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	e.Bytes.Response = must(asn1.Marshal(b))
	if err := revocations(t, RevocationStrict, must(asn1.Marshal(e))).Check(leaf, cert, now); err != nil {
		t.Error(err)
	}
}

// The whole path is asked about but the root, and each by its own issuer.
func TestPathRevocations(t *testing.T) {
	root := newAuthority("root", nil)
	intermediate := newAuthority("intermediate", root)
	key := ed25519Key()
	leaf := intermediate.issue(key, nil)
	s := newUnsigned(t, key, nil)
	s.chain, s.remote.Roots = []*x509.Certificate{leaf, intermediate.cert}, NewRoots(root.cert)
	s.sign(t)
	try := func(policy RevocationPolicy, parts ...any) error {
		s.remote.Revocations = revocations(t, policy, parts...)
		_, err := s.verify()
		return err
	}
	if err := try(RevocationStrict, root.list(t, nil), intermediate.list(t, nil)); err != nil {
		t.Error(err)
	}
	wantReason(t, try(RevocationStrict, root.list(t, nil)), ReasonRevoked)
	wantReason(t, try(RevocationStrict, intermediate.list(t, nil)), ReasonRevoked)
	wantReason(t, try(RevocationRelaxed, intermediate.list(t, nil, leaf)), ReasonRevoked)
	wantReason(t, try(RevocationRelaxed, root.list(t, nil, intermediate.cert)), ReasonRevoked)
	// A serial number counts under its own issuer only.
	if err := try(RevocationRelaxed, root.list(t, nil, leaf), intermediate.list(t, nil, intermediate.cert)); err != nil {
		t.Error(err)
	}
	// A pinned certificate has no issuer that could revoke it.
	s.remote.Roots = NewRoots(leaf)
	if err := try(RevocationStrict); err != nil {
		t.Error(err)
	}
}

// Revalidate finds what has happened since.
func TestRevalidate(t *testing.T) {
	root := newAuthority("root", nil)
	key := ed25519Key()
	leaf := root.issue(key, nil)
	name := id(t, "edge1.example")
	remote := Remote{ID: name, Roots: NewRoots(root.cert)}
	chain := []*x509.Certificate{leaf}
	peer, err := Revalidate(remote, name, chain, now)
	if err != nil || !peer.Expires.Equal(leaf.NotAfter) {
		t.Fatal(peer, err)
	}
	for _, tt := range []struct {
		change func(*Remote)
		at     time.Time
		want   Reason
	}{
		{func(*Remote) {}, leaf.NotAfter.Add(time.Second), ReasonExpired},
		{func(r *Remote) { r.Revocations = revocations(t, 0, root.list(t, nil, leaf)) }, now, ReasonRevoked},
		{func(r *Remote) { r.CheckRevoked = func(*x509.Certificate) error { return errors.New("gone") } }, now, ReasonRevoked},
		{func(r *Remote) { r.Roots = NewRoots(newAuthority("other", nil).cert) }, now, ReasonUntrusted},
		{func(r *Remote) { r.ID = id(t, "edge2.example") }, now, ReasonIdentity},
		{func(r *Remote) { r.Roots, r.PSK = nil, PSK("secret") }, now, ReasonMethod},
	} {
		r := remote
		tt.change(&r)
		_, err := Revalidate(r, name, chain, tt.at)
		wantReason(t, err, tt.want)
	}
	_, err = Revalidate(remote, name, nil, now)
	wantReason(t, err, ReasonMethod)
}

func TestRevocationsEqual(t *testing.T) {
	ca := newAuthority("root", nil)
	list, answer := ca.list(t, nil), ca.answer(t, ca.cert, ca, nil)
	same, again := revocations(t, 0, list, answer), revocations(t, 0, list, answer)
	if !same.Equal(again) || same.Equal(nil) || (*Revocations)(nil).Equal(same) || !(*Revocations)(nil).Equal(nil) {
		t.Error("equality")
	}
	for _, other := range []*Revocations{revocations(t, RevocationStrict, list, answer), revocations(t, 0, list), revocations(t, 0, answer), revocations(t, 0)} {
		if same.Equal(other) {
			t.Error("different ones are equal")
		}
	}
}
