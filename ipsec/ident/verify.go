package ident

import (
	"crypto"
	"crypto/hmac"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// Claim is what a peer says about itself in IKE_AUTH.
type Claim struct {
	ID ID
	// Method and Data are those of the AUTH payload, Octets what it has to
	// prove.
	Method wire.AuthMethod
	Data   []byte
	Octets Octets
	// Chain are the certificates that it sent, its own first.
	Chain []*x509.Certificate
	// Signatures is true if it supports digital signatures, see [Announced].
	Signatures bool
}

// VerifiedPeer is a peer that proved its identity.
type VerifiedPeer struct {
	ID   ID
	Leaf *x509.Certificate // nil with a pre-shared key
	// Method is how it did so, for people: `psk`, or the signature's algorithm.
	Method string
	// Expires is when the first certificate of its path ends, zero with a
	// pre-shared key.
	Expires time.Time
}

// Verify checks the claim of a peer at time now. It succeeds only if the method
// is a configured one, the identity is the expected one and bound to what
// proves it, the certificate has a path to a configured authority, and the
// proof is right. The error is an *Error.
func Verify(remote Remote, c Claim, now time.Time) (*VerifiedPeer, error) {
	if err := remote.admits(c.ID); err != nil {
		return nil, err
	}
	switch {
	case c.Method == wire.AuthSharedKey && len(remote.PSK) != 0:
		return verifySharedKey(remote, c)
	case c.Method != wire.AuthSharedKey && remote.Roots != nil:
		return verifyCertificate(remote, c, now)
	}
	return nil, methodError(remote, c)
}

// Revalidate checks again whether a peer that has proved itself as id with the
// certificates of chain would still be believed: nothing expired or revoked, the
// authority still trusted. The error is an *Error.
func Revalidate(remote Remote, id ID, chain []*x509.Certificate, now time.Time) (*VerifiedPeer, error) {
	if err := remote.admits(id); err != nil {
		return nil, err
	}
	if remote.Roots == nil || len(chain) == 0 {
		return nil, methodError(remote, Claim{ID: id, Method: wire.AuthDigitalSignature, Signatures: true})
	}
	expires, err := verifyPath(remote, chain, now)
	if err != nil {
		return nil, err
	}
	if err := id.bind(chain[0]); err != nil {
		return nil, err
	}
	return &VerifiedPeer{ID: id, Leaf: chain[0], Expires: expires}, nil
}

// admits reports why a peer with that identity is not the expected one.
func (r Remote) admits(id ID) error {
	if err := r.Validate(); err != nil {
		return err
	}
	if id.IsZero() {
		return &Error{Reason: ReasonIdentity, Detail: "the peer sent no identity", Remedy: "configure one on the peer"}
	}
	if !r.ID.IsZero() && !r.ID.Equal(id) {
		return &Error{
			Reason: ReasonIdentity,
			Detail: fmt.Sprintf("the peer claims to be %s, expected is %s", id, r.ID),
			Remedy: "make the peer's own identity and the one expected here equal",
		}
	}
	return nil
}

func verifySharedKey(remote Remote, c Claim) (*VerifiedPeer, error) {
	if !hmac.Equal(c.Octets.sharedKeyAuth(remote.PSK), c.Data) {
		return nil, &Error{
			Reason: ReasonSignature,
			Detail: fmt.Sprintf("the proof of %s does not fit the pre-shared key", c.ID),
			Remedy: "set the same pre-shared key for this pair of identities on both ends",
		}
	}
	return &VerifiedPeer{ID: c.ID, Method: "psk"}, nil
}

// verifyCertificate checks everything that is cheap or of the own configuration
// before a signature of the peer's choice.
func verifyCertificate(remote Remote, c Claim, now time.Time) (*VerifiedPeer, error) {
	check, err := signatureCheck(remote, c)
	if err != nil {
		return nil, err
	}
	if len(c.Chain) == 0 {
		return nil, &Error{Reason: ReasonCertificate, Detail: fmt.Sprintf("%s sent no certificate", c.ID), Remedy: "configure the peer to send its certificate always"}
	}
	leaf := c.Chain[0]
	expires, err := verifyPath(remote, c.Chain, now)
	if err != nil {
		return nil, err
	}
	if err := c.ID.bind(leaf); err != nil {
		return nil, err
	}
	if !check.verify(leaf.PublicKey) {
		return nil, &Error{
			Reason: ReasonSignature,
			Detail: fmt.Sprintf("the signature of %s by %s does not fit its certificate", c.ID, check.name),
			Remedy: "check that the peer's private key belongs to its certificate",
		}
	}
	return &VerifiedPeer{ID: c.ID, Leaf: leaf, Method: check.name, Expires: expires}, nil
}

// check is a signature that is still to be verified.
type check struct {
	name   string
	verify func(crypto.PublicKey) bool
}

// signatureCheck finds out how the peer signed, and whether it may.
func signatureCheck(remote Remote, c Claim) (check, error) {
	if c.Method != wire.AuthDigitalSignature {
		l, ok := legacyOf(c.Method)
		if !ok || c.Signatures || !slices.Contains(remote.Legacy, c.Method) {
			return check{}, methodError(remote, c)
		}
		return check{l.name(), func(k crypto.PublicKey) bool { return l.verify(k, c.Octets, c.Data) }}, nil
	}
	identifier, signature, err := splitSignature(c.Data)
	if err != nil {
		return check{}, &Error{Reason: ReasonSignature, Detail: fmt.Sprintf("the proof of %s is malformed", c.ID), Remedy: "check the peer's implementation of RFC 7427", Err: err}
	}
	s, ok := schemeOf(identifier)
	if !ok {
		return check{}, &Error{
			Reason: ReasonAlgorithm,
			Detail: fmt.Sprintf("%s signed with an algorithm that is not accepted (AlgorithmIdentifier %x)", c.ID, clip(string(identifier))),
			Remedy: "let the peer sign by Ed25519, ECDSA or RSA with SHA-256 or better",
		}
	}
	return check{s.name, func(k crypto.PublicKey) bool { return s.verify(k, s.digest, c.Octets.b, signature) }}, nil
}

// methodError says what the peer did and what it may do.
func methodError(remote Remote, c Claim) error {
	e := &Error{
		Reason: ReasonMethod,
		Detail: fmt.Sprintf("%s authenticates by %s (method %d), accepted is %s", c.ID, c.Method, c.Method, remote.Proofs()),
		Remedy: "configure the same method on both ends",
	}
	if l, old := legacyOf(c.Method); old && remote.Roots != nil {
		e.Remedy = "enable digital signatures (RFC 7427) on the peer, or allow " + l.name() + " for it"
		if c.Signatures {
			e.Remedy = "let the peer use the digital signatures that it announced: it must (RFC 7427, Section 3)"
		}
	}
	return e
}

// Bounds of what a peer can make us parse and verify.
const (
	maxCertificates   = 8
	maxCertificateLen = 16 << 10 // octets of one certificate
)

// unread are the encodings of CERT payloads that are passed over. What is revoked
// is for the controller to say: the holder of a stolen key would choose the
// latest CRL or OCSP response (RFC 4806) that still speaks for it, and RFC
// 4945, Section 3.3.3, has nobody send a CRL.
var unread = []wire.CertEncoding{wire.CertCRL, wire.CertARL, wire.CertOCSPContent}

// ParseCertificates reads the CERT payloads of a message in their order: the
// first one holds the key that signs (RFC 7296, Section 3.6). URLs are never
// fetched, and HTTP_CERT_LOOKUP_SUPPORTED is never sent. The error is an
// *Error.
func ParseCertificates(payloads []*wire.Cert) ([]*x509.Certificate, error) {
	var ders [][]byte
	for i, p := range payloads {
		switch {
		case slices.Contains(unread, p.Encoding):
			continue
		case p.Encoding != wire.CertX509Signature:
			return nil, certificateError(i, fmt.Sprintf("has encoding %s, which is not supported", p.Encoding), nil)
		}
		ders = append(ders, p.Data)
	}
	return ParseChain(ders)
}

// ParseChain reads certificates in DER as ParseCertificates does.
func ParseChain(ders [][]byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for i, der := range ders {
		switch {
		case i == maxCertificates:
			return nil, certificateError(i, fmt.Sprintf("is more than the %d that are accepted", maxCertificates), nil)
		case len(der) > maxCertificateLen:
			return nil, certificateError(i, fmt.Sprintf("has %d octets, at most %d are accepted", len(der), maxCertificateLen), nil)
		}
		c, err := x509.ParseCertificate(der)
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
// authority that is valid now and of which nothing is revoked, and returns when
// its first certificate ends.
func verifyPath(remote Remote, chain []*x509.Certificate, now time.Time) (time.Time, error) {
	leaf := chain[0]
	if err := checkUsage(leaf); err != nil {
		return time.Time{}, err
	}
	for _, c := range chain {
		// Before any signature is verified with the key: a huge one is
		// slow.
		if err := checkKey(c.PublicKey); err != nil {
			return time.Time{}, err
		}
		if err := checkConstraints(c); err != nil {
			return time.Time{}, err
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
		return time.Time{}, pathError(leaf, now, err)
	}
	path, err := unrevoked(remote, paths, now)
	if err != nil {
		return time.Time{}, err
	}
	expires := path[0].NotAfter
	for _, c := range path[1:] {
		if c.NotAfter.Before(expires) {
			expires = c.NotAfter
		}
	}
	return expires, nil
}

// unrevoked returns the first path of which no certificate is revoked.
func unrevoked(remote Remote, paths [][]*x509.Certificate, now time.Time) ([]*x509.Certificate, error) {
	var first error
	for _, path := range paths {
		err := pathRevoked(remote, path, now)
		if err == nil {
			return path, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// pathRevoked returns why a certificate of the path is not to be used. The root
// is trusted because it is configured.
func pathRevoked(remote Remote, path []*x509.Certificate, now time.Time) error {
	for i, c := range path {
		issued := i < len(path)-1
		if remote.CheckRevoked != nil && (issued || i == 0) {
			if err := remote.CheckRevoked(c); err != nil {
				return &Error{Reason: ReasonRevoked, Detail: describe(c) + " is not to be used", Remedy: "issue a new certificate, or renew the revocation information", Err: err}
			}
		}
		if remote.Revocations != nil && issued {
			if err := remote.Revocations.Check(c, path[i+1], now); err != nil {
				return err
			}
		}
	}
	return nil
}

// oidNameConstraints is that of RFC 5280, Section 4.2.1.10.
var oidNameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}

// checkConstraints refuses an authority whose name constraints crypto/x509 cannot
// process, such as those of directory names. It passes over them if they are
// not critical, which they must be, and their authority could then name anybody.
func checkConstraints(c *x509.Certificate) error {
	for _, e := range c.Extensions {
		if !e.Id.Equal(oidNameConstraints) || e.Critical {
			continue
		}
		if len(c.PermittedDNSDomains)+len(c.ExcludedDNSDomains)+len(c.PermittedIPRanges)+len(c.ExcludedIPRanges)+
			len(c.PermittedEmailAddresses)+len(c.ExcludedEmailAddresses)+len(c.PermittedURIDomains)+len(c.ExcludedURIDomains) != countSubtrees(e.Value) {
			return &Error{
				Reason: ReasonCertificate,
				Detail: describe(c) + " has name constraints of a form that is not processed",
				Remedy: "let its authority constrain DNS names, addresses, e-mail addresses or URIs only",
			}
		}
	}
	return nil
}

// countSubtrees counts the names in the extension, -1 if it is malformed.
func countSubtrees(der []byte) int {
	var constraints struct {
		Permitted []asn1.RawValue `asn1:"optional,tag:0"`
		Excluded  []asn1.RawValue `asn1:"optional,tag:1"`
	}
	if rest, err := asn1.Unmarshal(der, &constraints); err != nil || len(rest) != 0 {
		return -1
	}
	return len(constraints.Permitted) + len(constraints.Excluded)
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
