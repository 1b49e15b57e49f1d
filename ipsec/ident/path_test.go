package ident

import (
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"testing"
)

// subordinate is an authority below a that change may alter.
func (a *authority) subordinate(name string, change func(*x509.Certificate)) *authority {
	key := ecdsaKey(elliptic.P256())
	tmpl := &x509.Certificate{
		SerialNumber: nextSerial(), Subject: pkix.Name{CommonName: name},
		NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(5, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if change != nil {
		change(tmpl)
	}
	return &authority{must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)))), key}
}

// directoryConstraint is a name constraint of a form that crypto/x509 does not
// process: permitted directoryName O=Elsewhere.
func directoryConstraint(critical bool) func(*x509.Certificate) {
	name := must(asn1.Marshal(pkix.Name{Organization: []string{"Elsewhere"}}.ToRDNSequence()))
	subtree := must(asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: name}))
	permitted := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: must(asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: subtree}))}
	value := must(asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: must(asn1.Marshal(permitted))}))
	return func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: oidNameConstraints, Critical: critical, Value: value})
	}
}

// TestPaths: the limits that authorities set to each other (RFC 5280, Sections
// 4.2.1.3, 4.2.1.9 and 4.2.1.10; RFC 4945, Section 5.1).
func TestPaths(t *testing.T) {
	key := ed25519Key()
	constrained := func(f func(*x509.Certificate)) func(*authority) *authority {
		return func(root *authority) *authority { return root.subordinate("constrained", f) }
	}
	_, inside, _ := net.ParseCIDR("192.0.2.0/24")
	_, outside, _ := net.ParseCIDR("198.51.100.0/24")
	for _, tt := range []struct {
		name  string
		below func(root *authority) *authority // the leaf's issuer, below the root
		leaf  func(*x509.Certificate)
		want  Reason // empty: accepted
	}{
		{"intermediate", constrained(nil), nil, ""},
		{"DNS name permitted", constrained(func(c *x509.Certificate) {
			c.PermittedDNSDomainsCritical, c.PermittedDNSDomains = true, []string{"example"}
		}), nil, ""},
		{"DNS name not permitted", constrained(func(c *x509.Certificate) {
			c.PermittedDNSDomainsCritical, c.PermittedDNSDomains = true, []string{"elsewhere"}
		}), nil, ReasonCertificate},
		{"DNS name excluded", constrained(func(c *x509.Certificate) { c.ExcludedDNSDomains = []string{"example"} }), nil, ReasonCertificate},
		{"address permitted", constrained(func(c *x509.Certificate) { c.PermittedIPRanges = []*net.IPNet{inside} }), func(c *x509.Certificate) { c.IPAddresses = c.IPAddresses[:1] }, ""},
		{"address not permitted", constrained(func(c *x509.Certificate) { c.PermittedIPRanges = []*net.IPNet{outside} }), nil, ReasonCertificate},
		{"address excluded", constrained(func(c *x509.Certificate) { c.ExcludedIPRanges = []*net.IPNet{inside} }), nil, ReasonCertificate},
		{"e-mail address not permitted", constrained(func(c *x509.Certificate) { c.PermittedEmailAddresses = []string{"elsewhere.com"} }), nil, ReasonCertificate},
		{"constraint that cannot be processed", constrained(directoryConstraint(true)), nil, ReasonCertificate},
		{"the same, not critical", constrained(directoryConstraint(false)), nil, ReasonCertificate},
		{"no authority", constrained(func(c *x509.Certificate) { c.IsCA = false }), nil, ReasonUntrusted},
		{"authority without certSign", constrained(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), nil, ReasonUntrusted},
		{"expired authority", constrained(func(c *x509.Certificate) { c.NotAfter = now.AddDate(0, 0, -1) }), nil, ReasonExpired},
		{"authority with a weak key", func(root *authority) *authority {
			weak := rsaKey(t, 1024)
			tmpl := &x509.Certificate{SerialNumber: nextSerial(), Subject: pkix.Name{CommonName: "weak"}, NotBefore: now, NotAfter: now.AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true}
			return &authority{must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, tmpl, root.cert, weak.Public(), root.key)))), weak}
		}, nil, ReasonAlgorithm},
		{"critical extension in the authority", constrained(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		}), nil, ReasonCertificate},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := newAuthority("root", nil)
			issuer := tt.below(root)
			wantPath(t, root, []*x509.Certificate{issuer.issue(key, tt.leaf), issuer.cert}, tt.want)
		})
	}
}

// TestPathLength: an authority may say how many may be below it (RFC 5280, Section
// 4.2.1.9). The order of the certificates after the first one is free (RFC 7296,
// Section 3.6), and what does not belong there does no harm (RFC 4945, Section
// 3.3.10).
func TestPathLength(t *testing.T) {
	key := ed25519Key()
	for length, want := range map[int]Reason{0: ReasonCertificate, 1: "", 2: ""} {
		root := newAuthority("root", nil)
		first := root.subordinate("first", func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = length, length == 0 })
		second := first.subordinate("second", nil)
		leaf := second.issue(key, nil)
		wantPath(t, root, []*x509.Certificate{leaf, second.cert, first.cert}, want)
		wantPath(t, root, []*x509.Certificate{leaf, newAuthority("stranger", nil).cert, first.cert, leaf, root.cert, second.cert, first.cert}, want)
	}
}

func wantPath(t *testing.T, root *authority, chain []*x509.Certificate, want Reason) {
	t.Helper()
	_, err := verifyPath(Remote{Roots: NewRoots(root.cert)}, chain, now)
	if want == "" {
		if err != nil {
			t.Error(err)
		}
		return
	}
	wantReason(t, err, want)
}
