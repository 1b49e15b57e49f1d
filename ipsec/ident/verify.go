package ident

import (
	"crypto/hmac"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// VerifiedPeer is a peer that proved its identity.
type VerifiedPeer struct {
	ID   ID
	Leaf *x509.Certificate // nil with a pre-shared key
	// Method is how it did so, for people: `psk`, or the signature's algorithm.
	Method string
}

// Sign makes the content of the AUTH payload that proves local's identity (RFC
// 7296, Section 2.15; RFC 7427, Section 3). peerHashes come from the peer's
// SIGNATURE_HASH_ALGORITHMS; nil if it sent none. The error is an *Error.
func Sign(local Local, octets Octets, peerHashes []wire.HashAlgorithm, rand io.Reader) (wire.AuthMethod, []byte, error) {
	if err := local.Validate(); err != nil {
		return 0, nil, err
	}
	if len(local.PSK) != 0 {
		return wire.AuthSharedKey, octets.sharedKeyAuth(local.PSK), nil
	}
	data, err := sign(local.Signer, octets, peerHashes, rand)
	if err != nil {
		return 0, nil, err
	}
	return wire.AuthDigitalSignature, data, nil
}

// Verify checks the AUTH payload of a peer that claims to be id, with the
// certificates that it sent, at time now. It succeeds only if the method is
// the configured one, the identity is the expected one and bound to what
// proves it, the certificate has a path to a configured authority, and the
// proof is right. The error is an *Error.
func Verify(remote Remote, id ID, method wire.AuthMethod, data []byte, octets Octets, chain []*x509.Certificate, now time.Time) (*VerifiedPeer, error) {
	if err := remote.Validate(); err != nil {
		return nil, err
	}
	if id.IsZero() {
		return nil, &Error{Reason: ReasonIdentity, Detail: "the peer sent no identity", Remedy: "configure one on the peer"}
	}
	if !remote.ID.IsZero() && !remote.ID.Equal(id) {
		return nil, &Error{
			Reason: ReasonIdentity,
			Detail: fmt.Sprintf("the peer claims to be %s, expected is %s", id, remote.ID),
			Remedy: "make the peer's own identity and the one expected here equal",
		}
	}
	if len(remote.PSK) != 0 {
		return verifySharedKey(remote, id, method, data, octets)
	}
	return verifyCertificate(remote, id, method, data, octets, chain, now)
}

func verifySharedKey(remote Remote, id ID, method wire.AuthMethod, data []byte, octets Octets) (*VerifiedPeer, error) {
	if method != wire.AuthSharedKey {
		return nil, methodError(method, "a pre-shared key")
	}
	if !hmac.Equal(octets.sharedKeyAuth(remote.PSK), data) {
		return nil, &Error{
			Reason: ReasonSignature,
			Detail: fmt.Sprintf("the proof of %s does not fit the pre-shared key", id),
			Remedy: "set the same pre-shared key for this pair of identities on both ends",
		}
	}
	return &VerifiedPeer{ID: id, Method: "psk"}, nil
}

func verifyCertificate(remote Remote, id ID, method wire.AuthMethod, data []byte, octets Octets, chain []*x509.Certificate, now time.Time) (*VerifiedPeer, error) {
	if method != wire.AuthDigitalSignature {
		return nil, methodError(method, "a digital signature (method 14)")
	}
	if len(chain) == 0 {
		return nil, &Error{Reason: ReasonCertificate, Detail: fmt.Sprintf("%s sent no certificate", id), Remedy: "configure the peer to send its certificate always"}
	}
	identifier, signature, err := splitSignature(data)
	if err != nil {
		return nil, &Error{Reason: ReasonSignature, Detail: fmt.Sprintf("the proof of %s is malformed", id), Remedy: "check the peer's implementation of RFC 7427", Err: err}
	}
	s, ok := schemeOf(identifier)
	if !ok {
		return nil, &Error{
			Reason: ReasonAlgorithm,
			Detail: fmt.Sprintf("%s signed with an algorithm that is not accepted (AlgorithmIdentifier %x)", id, clip(string(identifier))),
			Remedy: "let the peer sign by Ed25519, ECDSA or RSA with SHA-256 or better",
		}
	}
	leaf := chain[0]
	if err := verifyPath(remote, chain, now); err != nil {
		return nil, err
	}
	if err := id.bind(leaf); err != nil {
		return nil, err
	}
	if !s.verify(leaf.PublicKey, s.digest, octets.b, signature) {
		return nil, &Error{
			Reason: ReasonSignature,
			Detail: fmt.Sprintf("the %s signature of %s does not fit its certificate", s.name, id),
			Remedy: "check that the peer's private key belongs to its certificate",
		}
	}
	return &VerifiedPeer{ID: id, Leaf: leaf, Method: s.name}, nil
}

func methodError(got wire.AuthMethod, want string) error {
	return &Error{
		Reason: ReasonMethod,
		Detail: fmt.Sprintf("the peer authenticates by %s, expected is %s", got, want),
		Remedy: "configure the same method on both ends",
	}
}

// Bounds of what a peer can make us parse and verify.
const (
	maxCertificates   = 8
	maxCertificateLen = 16 << 10 // octets of one certificate
)

// ParseCertificates reads the CERT payloads of a message in their order: the
// first one holds the key that signs (RFC 7296, Section 3.6). CRLs are left
// out, for they come by the CheckRevoked hook; URLs are never fetched. The
// error is an *Error.
func ParseCertificates(payloads []*wire.Cert) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for i, p := range payloads {
		switch {
		case p.Encoding == wire.CertCRL:
			continue
		case p.Encoding != wire.CertX509Signature:
			return nil, certificateError(i, fmt.Sprintf("has encoding %s, which is not supported", p.Encoding), nil)
		case len(chain) == maxCertificates:
			return nil, certificateError(i, fmt.Sprintf("is more than the %d that are accepted", maxCertificates), nil)
		case len(p.Data) > maxCertificateLen:
			return nil, certificateError(i, fmt.Sprintf("has %d octets, at most %d are accepted", len(p.Data), maxCertificateLen), nil)
		}
		c, err := x509.ParseCertificate(p.Data)
		if err != nil {
			return nil, certificateError(i, "is malformed", err)
		}
		chain = append(chain, c)
	}
	return chain, nil
}

func certificateError(i int, what string, err error) error {
	return &Error{
		Reason: ReasonCertificate,
		Detail: fmt.Sprintf("certificate %d of the peer %s", i+1, what),
		Remedy: "let the peer send X.509 certificates, its own first",
		Err:    err,
	}
}

// verifyPath finds a path from the peer's certificate to a configured
// authority that is valid now and of which nothing is revoked.
func verifyPath(remote Remote, chain []*x509.Certificate, now time.Time) error {
	leaf := chain[0]
	if err := checkUsage(leaf); err != nil {
		return err
	}
	for _, c := range chain {
		// Before any signature is verified with the key: a huge one is
		// slow.
		if err := checkKey(c.PublicKey); err != nil {
			return err
		}
	}
	intermediates := x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	paths, err := leaf.Verify(x509.VerifyOptions{
		Roots:         remote.Roots.pool,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // checkUsage knows more
	})
	if err != nil {
		return pathError(leaf, now, err)
	}
	return checkRevoked(remote, paths)
}

// checkRevoked accepts the first path of which no certificate is revoked.
func checkRevoked(remote Remote, paths [][]*x509.Certificate) error {
	if remote.CheckRevoked == nil {
		return nil
	}
	var first error
	for _, path := range paths {
		err := pathRevoked(remote, path)
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}

func pathRevoked(remote Remote, path []*x509.Certificate) error {
	for i, c := range path {
		if i > 0 && i == len(path)-1 {
			break // the root is trusted because it is configured
		}
		if err := remote.CheckRevoked(c); err != nil {
			return &Error{Reason: ReasonRevoked, Detail: describe(c) + " is not to be used", Remedy: "issue a new certificate, or renew the revocation information", Err: err}
		}
	}
	return nil
}

// oidIPsecIKE is id-kp-ipsecIKE (RFC 4945, Section 5.1.3.12).
var oidIPsecIKE = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 17}

// checkUsage holds RFC 4945, Section 5.1.3.2: a certificate that restricts the
// use of its key must allow signing. If it restricts the purpose too, that must
// be IKE or any (Section 5.1.3.12) or, contrary to that section, TLS, which
// many authorities write for lack of anything better.
func checkUsage(c *x509.Certificate) error {
	if c.KeyUsage != 0 && c.KeyUsage&(x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment) == 0 {
		return usageError(c, "its key usage does not include digitalSignature")
	}
	if len(c.ExtKeyUsage) == 0 && len(c.UnknownExtKeyUsage) == 0 {
		return nil
	}
	for _, u := range c.ExtKeyUsage {
		switch u {
		case x509.ExtKeyUsageAny, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth:
			return nil
		}
	}
	if slices.ContainsFunc(c.UnknownExtKeyUsage, oidIPsecIKE.Equal) {
		return nil
	}
	return usageError(c, "its extended key usage allows neither IKE nor any of anyExtendedKeyUsage, serverAuth, clientAuth")
}

func usageError(c *x509.Certificate, what string) error {
	return &Error{
		Reason: ReasonCertificate,
		Detail: describe(c) + " is not for this use: " + what,
		Remedy: "issue it with digitalSignature and, if extended key usage is restricted, ipsecIKE (1.3.6.1.5.5.7.3.17)",
	}
}

// pathError says in our words what crypto/x509 found.
func pathError(leaf *x509.Certificate, now time.Time, err error) error {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		c := invalid.Cert
		if now.Before(c.NotBefore) {
			return &Error{Reason: ReasonExpired, Detail: fmt.Sprintf("%s is not valid before %s, it is %s now", describe(c), stamp(c.NotBefore), stamp(now)), Remedy: "set the clock, or wait"}
		}
		return &Error{Reason: ReasonExpired, Detail: fmt.Sprintf("%s expired at %s, it is %s now", describe(c), stamp(c.NotAfter), stamp(now)), Remedy: "renew it, or set the clock"}
	case errors.As(err, &unknown):
		return &Error{
			Reason: ReasonUntrusted,
			Detail: fmt.Sprintf("%s has no path to a trusted authority", describe(leaf)),
			Remedy: "add its authority to the trusted ones, or let the peer send the intermediate certificates",
		}
	default:
		return &Error{Reason: ReasonCertificate, Detail: describe(leaf) + " is not acceptable", Remedy: "issue it anew", Err: err}
	}
}

// describe names a certificate for people.
func describe(c *x509.Certificate) string {
	return fmt.Sprintf("certificate %q with serial %x, issued by %q", clip(FromSubject(c).String()), c.SerialNumber, clip(ID{wire.IDDERDN, string(c.RawIssuer)}.String()))
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
