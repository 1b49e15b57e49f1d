package ident

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"math/big"
	"strings"
	"time"
)

// RevocationPolicy says what becomes of a certificate of which nobody says
// anything current.
type RevocationPolicy uint8

// The policies. RFC 4945, Section 5.2, wants revocation information used, and the
// strict policy refuses a certificate without it; the price is that an authority
// that falls silent takes the tunnels down when its last word has run out.
const (
	// RevocationRelaxed refuses what is known to be revoked.
	RevocationRelaxed RevocationPolicy = iota
	// RevocationStrict also refuses what is not known not to be: each
	// certificate of a path but the root needs a CRL or an OCSP response that
	// has not run out.
	RevocationStrict
)

// Revocations is what the authorities say about revoked certificates, as somebody
// trusted has collected it: nothing is fetched, and nothing that a peer sends
// gets in. A signature is verified when it is first needed, for only then it is
// known by whose key. A Revocations does not change and is safe for concurrent
// use; newer information makes a new one.
type Revocations struct {
	policy    RevocationPolicy
	crls      []*crl
	responses []*ocspResponse
	digest    [sha256.Size]byte // of everything
}

// NewRevocations takes CRLs (RFC 5280, Section 5) and OCSP responses in DER (RFC
// 6960, Section 4.2). It refuses what it could not use: delta and indirect CRLs,
// those for some reasons only, and signatures over SHA-1.
func NewRevocations(policy RevocationPolicy, crls []*x509.RevocationList, responses [][]byte) (*Revocations, error) {
	r := &Revocations{policy: policy}
	h := sha256.New()
	h.Write([]byte{byte(policy)})
	add := func(kind byte, b []byte) {
		h.Write(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(b))))
		h.Write(b)
	}
	for i, list := range crls {
		c, err := newCRL(list)
		if err != nil {
			return nil, fmt.Errorf("CRL %d: %w", i+1, err)
		}
		r.crls = append(r.crls, c)
		add(0, list.Raw)
	}
	for i, b := range responses {
		o, err := parseOCSP(b)
		if err != nil {
			return nil, fmt.Errorf("OCSP response %d: %w", i+1, err)
		}
		r.responses = append(r.responses, o)
		add(1, b)
	}
	h.Sum(r.digest[:0])
	return r, nil
}

// Equal reports whether both say the same. Nil says nothing.
func (r *Revocations) Equal(o *Revocations) bool {
	if r == nil || o == nil {
		return r == o
	}
	return r.digest == o.digest
}

// verdict is what one source says about a certificate.
type verdict struct {
	revoked bool
	at      time.Time // of the revocation
	reason  int       // CRLReason of RFC 5280, Section 5.3.1
	// current is true if the source has not run out.
	current bool
	source  string
}

// clockSkew is by how much the clock of an authority may be ahead of ours.
const clockSkew = 5 * time.Minute

// current reports whether information of that period may be used now. Without an
// end it never may: newer information has always been available (RFC 6960,
// Section 4.2.2.1).
func current(thisUpdate, nextUpdate, now time.Time) bool {
	return !thisUpdate.After(now.Add(clockSkew)) && !nextUpdate.IsZero() && !now.After(nextUpdate)
}

// Check returns why cert, issued by issuer, is not to be used at time now. It is
// revoked if any source says so, also one that has run out (RFC 4945, Section
// 5.2.1). The error is an *Error.
func (r *Revocations) Check(cert, issuer *x509.Certificate, now time.Time) error {
	verdicts := r.verdicts(cert, issuer, now)
	good := false
	var old []string
	for _, v := range verdicts {
		switch {
		case v.revoked:
			return &Error{
				Reason: ReasonRevoked,
				Detail: fmt.Sprintf("%s was revoked at %s (%s), says %s", describe(cert), stamp(v.at), revocationReason(v.reason), v.source),
				Remedy: "issue a new certificate",
			}
		case v.current:
			good = true
		default:
			old = append(old, v.source)
		}
	}
	if good || r.policy == RevocationRelaxed {
		return nil
	}
	e := &Error{
		Reason: ReasonRevoked,
		Detail: fmt.Sprintf("whether %s is revoked is unknown: there is neither a CRL of its authority nor an OCSP response", describe(cert)),
		Remedy: "provide one of them, or relax the revocation policy",
	}
	if len(old) > 0 {
		e.Detail = fmt.Sprintf("whether %s is revoked is unknown: it is %s now, and there is only %s", describe(cert), stamp(now), strings.Join(old, ", "))
		e.Remedy = "provide newer revocation information, set the clock, or relax the revocation policy"
	}
	return e
}

func (r *Revocations) verdicts(cert, issuer *x509.Certificate, now time.Time) []verdict {
	var out []verdict
	if c := r.newestCRL(cert, issuer); c != nil {
		out = append(out, c.verdict(cert, now))
	}
	for _, o := range r.responses {
		if v, ok := o.verdict(cert, issuer, now); ok {
			out = append(out, v)
		}
	}
	return out
}

// newestCRL returns the latest list that covers cert. Earlier ones say nothing any
// more: what they held back may have been released.
func (r *Revocations) newestCRL(cert, issuer *x509.Certificate) *crl {
	var newest *crl
	for _, c := range r.crls {
		if c.covers(cert, issuer) && c.verified(issuer) && (newest == nil || c.newer(newest)) {
			newest = c
		}
	}
	return newest
}

var revocationReasons = map[int]string{
	0: "no reason given", 1: "key compromise", 2: "authority's key compromise", 3: "affiliation changed",
	4: "superseded", 5: "no longer in operation", 6: "on hold", 9: "privilege withdrawn", 10: "attribute authority's key compromise",
}

func revocationReason(code int) string {
	if s, ok := revocationReasons[code]; ok {
		return s
	}
	return fmt.Sprintf("reason %d", code)
}

// serialKey is a serial number as a key of a map.
func serialKey(n *big.Int) string { return n.Text(16) }
