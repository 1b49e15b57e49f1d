package ident

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"time"
)

// crl is a certificate revocation list.
type crl struct {
	list    *x509.RevocationList
	revoked map[string]x509.RevocationListEntry // by serialKey
	scope   crlScope
	keys    verifiedKeys
}

// crlScope is which certificates of its issuer a list is about: those that name
// one of the distribution points (all if there is none), only those of end
// entities, or only those of authorities.
type crlScope struct {
	points            []string
	onlyUser, onlyCA  bool
	somewhereElseOnly bool // a distribution point that is no URI
}

// Object identifiers of CRL extensions (RFC 5280, Sections 5.2 and 5.3).
var (
	oidReasonCode         = asn1.ObjectIdentifier{2, 5, 29, 21}
	oidInvalidityDate     = asn1.ObjectIdentifier{2, 5, 29, 24}
	oidDeltaCRL           = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidDistributionPoint  = asn1.ObjectIdentifier{2, 5, 29, 28}
	knownEntryExtensions  = []asn1.ObjectIdentifier{oidReasonCode, oidInvalidityDate}
	errWeakListSignature  = errors.New("is signed over SHA-1 or MD5; let the authority sign with SHA-256 or better")
	errDeltaCRL           = errors.New("is a delta CRL, provide the complete one (RFC 4945, Section 5.2.2.4)")
	errIndirectCRL        = errors.New("is an indirect CRL, one for some reasons, or one for attribute certificates; provide a complete one of the authority itself")
	errUnknownCRLCritical = errors.New("has a critical extension that is not known")
)

func newCRL(list *x509.RevocationList) (*crl, error) {
	switch list.SignatureAlgorithm {
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1, x509.MD2WithRSA, x509.UnknownSignatureAlgorithm:
		return nil, errWeakListSignature
	}
	c := &crl{list: list, revoked: make(map[string]x509.RevocationListEntry, len(list.RevokedCertificateEntries))}
	for _, e := range list.Extensions {
		switch {
		case e.Id.Equal(oidDeltaCRL):
			return nil, errDeltaCRL
		case e.Id.Equal(oidDistributionPoint):
			if err := c.scope.parse(e.Value); err != nil {
				return nil, err
			}
		case e.Critical:
			return nil, fmt.Errorf("%w (%s)", errUnknownCRLCritical, e.Id)
		}
	}
	for _, e := range list.RevokedCertificateEntries {
		// RFC 5280, Section 5.3: such a list is not to be used at all.
		if i := slices.IndexFunc(e.Extensions, unknownCritical); i >= 0 {
			return nil, fmt.Errorf("%w (%s)", errUnknownCRLCritical, e.Extensions[i].Id)
		}
		c.revoked[serialKey(e.SerialNumber)] = e
	}
	return c, nil
}

func unknownCritical(e pkix.Extension) bool {
	return e.Critical && !slices.ContainsFunc(knownEntryExtensions, e.Id.Equal)
}

// issuingDistributionPoint is the extension of RFC 5280, Section 5.2.5.
type issuingDistributionPoint struct {
	Point struct {
		FullName     []asn1.RawValue  `asn1:"optional,tag:0"`
		RelativeName pkix.RDNSequence `asn1:"optional,tag:1"`
	} `asn1:"optional,tag:0"`
	OnlyUser      bool           `asn1:"optional,tag:1"`
	OnlyCA        bool           `asn1:"optional,tag:2"`
	OnlyReasons   asn1.BitString `asn1:"optional,tag:3"`
	Indirect      bool           `asn1:"optional,tag:4"`
	OnlyAttribute bool           `asn1:"optional,tag:5"`
}

const generalNameURI = 6 // uniformResourceIdentifier of RFC 5280, Section 4.2.1.6

func (s *crlScope) parse(der []byte) error {
	var p issuingDistributionPoint
	if rest, err := asn1.Unmarshal(der, &p); err != nil || len(rest) != 0 {
		return errors.New("has a malformed issuing distribution point")
	}
	if p.Indirect || p.OnlyAttribute || len(p.OnlyReasons.Bytes) > 0 {
		return errIndirectCRL
	}
	s.onlyUser, s.onlyCA = p.OnlyUser, p.OnlyCA
	for _, n := range p.Point.FullName {
		if n.Class == asn1.ClassContextSpecific && n.Tag == generalNameURI {
			s.points = append(s.points, string(n.Bytes))
		}
	}
	s.somewhereElseOnly = len(s.points) == 0 && (len(p.Point.FullName) > 0 || len(p.Point.RelativeName) > 0)
	return nil
}

// covers reports whether the list is about cert. A list for one distribution point
// says nothing about certificates that name another: else an old list of one
// could stand for that of the other (RFC 4945, Section 5.1.3.13).
func (c *crl) covers(cert, issuer *x509.Certificate) bool {
	s := c.scope
	switch {
	case !bytes.Equal(c.list.RawIssuer, issuer.RawSubject):
		return false
	case s.onlyUser && cert.IsCA, s.onlyCA && !cert.IsCA, s.somewhereElseOnly:
		return false
	}
	return len(s.points) == 0 ||
		slices.ContainsFunc(cert.CRLDistributionPoints, func(p string) bool { return slices.Contains(s.points, p) })
}

// verified reports whether issuer signed the list. Its certificate must allow
// that (RFC 5280, Section 6.3.3 (f)).
func (c *crl) verified(issuer *x509.Certificate) bool {
	return c.keys.check(issuer, func() bool { return c.list.CheckSignatureFrom(issuer) == nil })
}

func (c *crl) newer(o *crl) bool {
	a, b := c.list.Number, o.list.Number
	if a != nil && b != nil && a.Cmp(b) != 0 {
		return a.Cmp(b) > 0
	}
	return c.list.ThisUpdate.After(o.list.ThisUpdate)
}

func (c *crl) verdict(cert *x509.Certificate, now time.Time) verdict {
	l := c.list
	number := l.Number
	if number == nil {
		number = new(big.Int)
	}
	v := verdict{
		current: current(l.ThisUpdate, l.NextUpdate, now),
		source:  fmt.Sprintf("CRL %d of %q, made at %s and good until %s", number, clip(l.Issuer.String()), stamp(l.ThisUpdate), stamp(l.NextUpdate)),
	}
	if e, ok := c.revoked[serialKey(cert.SerialNumber)]; ok {
		v.revoked, v.at, v.reason = true, e.RevocationTime, e.ReasonCode
	}
	return v
}

// verifiedKeys remembers whose keys a signature was verified with, for hashing a
// long list takes time. Only issuers on a verified path get here, so there are
// few.
type verifiedKeys struct{ good sync.Map }

func (v *verifiedKeys) check(issuer *x509.Certificate, verify func() bool) bool {
	key := string(issuer.Raw)
	if _, ok := v.good.Load(key); ok {
		return true
	}
	if !verify() {
		return false
	}
	v.good.Store(key, true)
	return true
}
