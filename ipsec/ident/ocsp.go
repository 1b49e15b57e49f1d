package ident

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// The response of RFC 6960, Section 4.2.1. golang.org/x/crypto/ocsp knows no
// Ed25519 and leaves it to its caller whether a certificate in the response may
// sign one at all.
type (
	ocspEnvelope struct {
		Status asn1.Enumerated
		Bytes  struct {
			Type     asn1.ObjectIdentifier
			Response []byte
		} `asn1:"explicit,tag:0,optional"`
	}
	ocspBasic struct {
		Data         ocspData
		Algorithm    pkix.AlgorithmIdentifier
		Signature    asn1.BitString
		Certificates []asn1.RawValue `asn1:"explicit,tag:0,optional"`
	}
	ocspData struct {
		Raw        asn1.RawContent
		Version    int `asn1:"optional,default:0,explicit,tag:0"`
		Responder  asn1.RawValue
		ProducedAt time.Time `asn1:"generalized"`
		Responses  []ocspSingle
		Extensions []pkix.Extension `asn1:"explicit,tag:1,optional"`
	}
	ocspSingle struct {
		Cert struct {
			Hash              pkix.AlgorithmIdentifier
			NameHash, KeyHash []byte
			Serial            *big.Int
		}
		Good    asn1.Flag `asn1:"tag:0,optional"`
		Revoked struct {
			At     time.Time       `asn1:"generalized"`
			Reason asn1.Enumerated `asn1:"explicit,tag:0,optional"`
		} `asn1:"tag:1,optional"`
		Unknown    asn1.Flag        `asn1:"tag:2,optional"`
		ThisUpdate time.Time        `asn1:"generalized"`
		NextUpdate time.Time        `asn1:"generalized,explicit,tag:0,optional"`
		Extensions []pkix.Extension `asn1:"explicit,tag:1,optional"`
	}
)

// ocspResponse is a successful response, its signature not verified yet.
type ocspResponse struct {
	basic     ocspBasic
	algorithm x509.SignatureAlgorithm
	// signers are certificates that came with it.
	signers []*x509.Certificate
	keys    verifiedKeys
}

// maxOCSPSigners bounds the certificates in a response; one is usual.
const maxOCSPSigners = 4

var (
	oidOCSPBasic = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 1}

	ocspAlgorithms = []struct {
		oid       asn1.ObjectIdentifier
		algorithm x509.SignatureAlgorithm
	}{
		{asn1.ObjectIdentifier{1, 3, 101, 112}, x509.PureEd25519},
		{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}, x509.ECDSAWithSHA256},
		{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}, x509.ECDSAWithSHA384},
		{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}, x509.ECDSAWithSHA512},
		{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, x509.SHA256WithRSA},
		{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 12}, x509.SHA384WithRSA},
		{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 13}, x509.SHA512WithRSA},
	}
	// ocspHashes name an issuer; nobody relies on their strength.
	ocspHashes = []struct {
		oid  asn1.ObjectIdentifier
		hash crypto.Hash
	}{
		{asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}, crypto.SHA1},
		{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}, crypto.SHA256},
		{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}, crypto.SHA384},
		{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}, crypto.SHA512},
	}
)

func parseOCSP(der []byte) (*ocspResponse, error) {
	var envelope ocspEnvelope
	if rest, err := asn1.Unmarshal(der, &envelope); err != nil || len(rest) != 0 {
		return nil, errors.New("is not the DER encoding of one")
	}
	if envelope.Status != 0 {
		return nil, fmt.Errorf("holds no answer, but the error status %d", envelope.Status)
	}
	if !envelope.Bytes.Type.Equal(oidOCSPBasic) {
		return nil, fmt.Errorf("has the type %s, only basic responses are known", envelope.Bytes.Type)
	}
	o := &ocspResponse{}
	if rest, err := asn1.Unmarshal(envelope.Bytes.Response, &o.basic); err != nil || len(rest) != 0 {
		return nil, errors.New("is malformed")
	}
	for _, a := range ocspAlgorithms {
		if a.oid.Equal(o.basic.Algorithm.Algorithm) {
			o.algorithm = a.algorithm
		}
	}
	if o.algorithm == x509.UnknownSignatureAlgorithm {
		return nil, fmt.Errorf("is signed by the algorithm %s, which is not accepted", o.basic.Algorithm.Algorithm)
	}
	for _, e := range o.extensions() {
		if e.Critical {
			return nil, fmt.Errorf("has the critical extension %s, which is not known", e.Id)
		}
	}
	if n := len(o.basic.Certificates); n > maxOCSPSigners {
		return nil, fmt.Errorf("has %d certificates, at most %d are accepted", n, maxOCSPSigners)
	}
	for _, raw := range o.basic.Certificates {
		c, err := x509.ParseCertificate(raw.FullBytes)
		if err != nil {
			return nil, fmt.Errorf("holds a malformed certificate: %w", err)
		}
		o.signers = append(o.signers, c)
	}
	return o, nil
}

func (o *ocspResponse) extensions() []pkix.Extension {
	out := slices.Clone(o.basic.Data.Extensions)
	for _, s := range o.basic.Data.Responses {
		out = append(out, s.Extensions...)
	}
	return out
}

// verdict returns what the response says about cert, false if nothing.
func (o *ocspResponse) verdict(cert, issuer *x509.Certificate, now time.Time) (verdict, bool) {
	i := slices.IndexFunc(o.basic.Data.Responses, func(s ocspSingle) bool { return s.about(cert, issuer) })
	if i < 0 || !o.verified(issuer, now) {
		return verdict{}, false
	}
	s := o.basic.Data.Responses[i]
	v := verdict{source: fmt.Sprintf("an OCSP response of %s", stamp(s.ThisUpdate))}
	if !s.NextUpdate.IsZero() {
		v.source += fmt.Sprintf(", good until %s", stamp(s.NextUpdate))
	}
	switch {
	case bool(s.Good):
		v.current = current(s.ThisUpdate, s.NextUpdate, now)
	case bool(s.Unknown):
		v.source += " that does not know it"
	default:
		v.revoked, v.at, v.reason = true, s.Revoked.At, int(s.Revoked.Reason)
	}
	return v, true
}

// about reports whether the status is that of cert: by serial number, and name
// and key of the issuer (RFC 6960, Section 4.1.1).
func (s *ocspSingle) about(cert, issuer *x509.Certificate) bool {
	if s.Cert.Serial.Cmp(cert.SerialNumber) != 0 {
		return false
	}
	for _, h := range ocspHashes {
		if h.oid.Equal(s.Cert.Hash.Algorithm) {
			return bytes.Equal(s.Cert.NameHash, sum(h.hash, issuer.RawSubject)) && bytes.Equal(s.Cert.KeyHash, sum(h.hash, keyBits(issuer)))
		}
	}
	return false
}

// keyBits is the public key without its algorithm.
func keyBits(c *x509.Certificate) []byte {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(c.RawSubjectPublicKeyInfo, &info); err != nil {
		return nil
	}
	return info.Key.RightAlign()
}

// verified reports whether the issuer signed the response, or somebody whom it
// has authorized (RFC 6960, Section 4.2.2.2).
func (o *ocspResponse) verified(issuer *x509.Certificate, now time.Time) bool {
	signed := func(by *x509.Certificate) bool {
		return by.CheckSignature(o.algorithm, o.basic.Data.Raw, o.basic.Signature.RightAlign()) == nil
	}
	if o.keys.check(issuer, func() bool { return signed(issuer) }) {
		return true
	}
	return slices.ContainsFunc(o.signers, func(c *x509.Certificate) bool {
		return authorized(c, issuer, now) && signed(c)
	})
}

// authorized reports whether issuer lets the holder of c sign OCSP responses.
func authorized(c, issuer *x509.Certificate, now time.Time) bool {
	return slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning) &&
		!now.Before(c.NotBefore) && !now.After(c.NotAfter) && checkKey(c.PublicKey) == nil &&
		bytes.Equal(c.RawIssuer, issuer.RawSubject) && c.CheckSignatureFrom(issuer) == nil
}
