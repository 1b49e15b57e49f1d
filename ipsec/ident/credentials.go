package ident

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// PSK is a pre-shared key. It prints as a placeholder wherever it goes.
type PSK []byte

const redacted = "[pre-shared key]"

// Format implements fmt.Formatter for every verb.
func (PSK) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText keeps the key out of JSON and YAML.
func (PSK) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue keeps the key out of structured logs.
func (PSK) LogValue() slog.Value { return slog.StringValue(redacted) }

// Credential is one way to prove an identity: either Signer and Chain, or PSK.
type Credential struct {
	// Signer is a key for Ed25519, for ECDSA on P-256, P-384 or P-521, or for
	// RSA of at least MinRSABits. It may be a device's.
	Signer crypto.Signer
	Chain  []*x509.Certificate // certificate of Signer first, then the authorities below the root
	PSK    PSK
}

// String says what c proves with, and tells no key.
func (c Credential) String() string {
	switch {
	case len(c.PSK) != 0:
		return "a pre-shared key"
	case c.Signer != nil:
		return "a certificate"
	default:
		return "nothing"
	}
}

// Format implements fmt.Formatter for every verb: a Signer that is a private
// key in memory would print all of it.
func (c Credential) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(c.String())) }

// MarshalText keeps the key out of JSON and YAML.
func (c Credential) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// LogValue keeps the key out of structured logs.
func (c Credential) LogValue() slog.Value { return slog.StringValue(c.String()) }

// validate reports what keeps c from proving id.
func (c Credential) validate(id ID) error {
	switch {
	case len(c.PSK) != 0 && (c.Signer != nil || len(c.Chain) != 0):
		return configError("both a certificate and a pre-shared key are in one credential of "+id.String(), "make an alternative of one of them, or remove it")
	case len(c.PSK) != 0:
		return nil
	case c.Signer == nil || len(c.Chain) == 0:
		return configError("neither a certificate with its key nor a pre-shared key is configured for "+id.String(), "add one of them")
	}
	public := c.Signer.Public()
	if _, err := schemesToSign(public, 0); err != nil {
		return err
	}
	if k, ok := public.(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(c.Chain[0].PublicKey) {
		return configError("the private key does not belong to the first certificate of the chain", "put the own certificate first, or install the key that it was issued for")
	}
	return id.bind(c.Chain[0])
}

func (c Credential) equal(o Credential) bool {
	// A key belongs to the first certificate of its chain.
	return string(c.PSK) == string(o.PSK) && slices.EqualFunc(c.Chain, o.Chain, (*x509.Certificate).Equal)
}

// certificates returns the CERT payloads to send, the own certificate first
// (RFC 7296, Section 3.6). A self-signed authority is left out: the peer
// either has it or does not trust it (RFC 4945, Section 3.3).
func (c Credential) certificates() []*wire.Cert {
	var out []*wire.Cert
	for i, cert := range c.Chain {
		if i > 0 && isSelfSigned(cert) {
			continue
		}
		out = append(out, &wire.Cert{Encoding: wire.CertX509Signature, Data: cert.Raw})
	}
	return out
}

func isSelfSigned(c *x509.Certificate) bool {
	return slices.Equal(c.RawSubject, c.RawIssuer)
}

// RSAPadding says which signature scheme an RSA key prefers.
type RSAPadding uint8

// The schemes. RFC 8247, Section 3.2, demands RSASSA-PSS of everybody who does
// digital signatures with RSA and leaves PKCS #1 v1.5 open, and RFC 7427 gives a
// peer no way to say which of them it verifies, so PSS is what can be relied
// on. A peer that announces its methods (RFC 9593) gets one that it announces.
const (
	RSAPaddingPSS      RSAPadding = iota // PSS, and PKCS #1 v1.5 if the key's device cannot
	RSAPaddingPKCS1v15                   // the reverse, for peers of before 2017
)

// Local is who we are and how we prove it.
type Local struct {
	ID ID
	// Signer and Chain, or PSK, are the credential that is preferred, see
	// [Credential].
	Signer crypto.Signer
	Chain  []*x509.Certificate
	PSK    PSK
	// Alternatives prove the same identity and are used, the first one that
	// fits, where the peer says that it does not accept what is before them:
	// by SUPPORTED_AUTH_METHODS, SIGNATURE_HASH_ALGORITHMS or, among
	// certificates, CERTREQ.
	Alternatives []Credential
	// RSA is how an RSA key signs if the peer leaves it open.
	RSA RSAPadding
	// Legacy are older methods that may be used to sign for a peer that does
	// not support digital signatures (RFC 7427): wire.AuthRSA with SHA-1,
	// wire.AuthECDSAP256, AuthECDSAP384, AuthECDSAP521.
	Legacy []wire.AuthMethod
}

// credentials returns all of l in order of preference.
func (l Local) credentials() []Credential {
	return append([]Credential{{l.Signer, l.Chain, l.PSK}}, l.Alternatives...)
}

// String says who l is and by what it proves that, and tells no key.
func (l Local) String() string {
	s := l.ID.String()
	for i, c := range l.credentials() {
		if i > 0 {
			s += " or"
		} else {
			s += " with"
		}
		s += " " + c.String()
	}
	return s
}

// Format implements fmt.Formatter for every verb: a Signer that is a private
// key in memory would print all of it.
func (l Local) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(l.String())) }

// MarshalText keeps the key out of JSON and YAML.
func (l Local) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// LogValue keeps the key out of structured logs.
func (l Local) LogValue() slog.Value { return slog.StringValue(l.String()) }

// Validate reports the first thing that keeps l from proving its identity. It
// does not look at validity periods: the peer judges those.
func (l Local) Validate() error {
	if l.ID.IsZero() {
		return configError("no local identity is configured", "set one, such as the name in the certificate")
	}
	sent := l.Payload(true).Data
	for _, c := range l.credentials() {
		if err := c.validate(l.ID); err != nil {
			return err
		}
		if l.ID.Kind == wire.IDDERDN && len(c.Chain) > 0 && !bytes.Equal(c.Chain[0].RawSubject, sent) {
			return configError("the certificates for "+l.ID.String()+" encode this name differently, and only one encoding can be sent (RFC 4945, Section 3.1.5)",
				"issue both with the same string types in the subject, or use a subject alternative name as identity")
		}
	}
	return validateLegacy(l.Legacy)
}

// Payload returns the ID payload of l. A distinguished name is sent as it is
// encoded in the certificate: peers may compare octets (RFC 4945, Section 3.1.5).
func (l Local) Payload(initiator bool) *wire.ID {
	if l.ID.Kind == wire.IDDERDN {
		for _, c := range l.credentials() {
			if len(c.Chain) > 0 {
				return FromSubject(c.Chain[0]).Payload(initiator)
			}
		}
	}
	return l.ID.Payload(initiator)
}

// Equal reports whether both prove the same identity in the same ways.
func (l Local) Equal(o Local) bool {
	return l.ID.Equal(o.ID) && l.RSA == o.RSA && slices.Equal(l.Legacy, o.Legacy) &&
		slices.EqualFunc(l.credentials(), o.credentials(), Credential.equal)
}

// Remote is what a peer has to prove: with Roots a certificate, with PSK the
// knowledge of the key. Nothing else is accepted.
type Remote struct {
	ID    ID // the peer must have this identity; zero means any that it can prove
	Roots *Roots
	PSK   PSK
	// Either allows both Roots and PSK: the peer chooses, and so a stranger
	// who learns the weaker of the two can too.
	Either bool
	// Legacy are older methods, see [Local], that are accepted of a peer that
	// does not support digital signatures (RFC 7427). They are no way round
	// those: a peer that announces them has to use them.
	Legacy []wire.AuthMethod
	// Revocations are what the authorities say about revoked certificates, nil
	// if nobody is asked.
	Revocations *Revocations
	// CheckRevoked is called for each certificate of the path but the
	// root, the peer's first, and returns an error if it must not be used.
	// It may be nil. It runs where Verify runs and must be safe for
	// concurrent use.
	CheckRevoked func(*x509.Certificate) error
}

// Proofs says for people what r accepts.
func (r Remote) Proofs() string {
	var list []string
	if r.Roots != nil {
		list = append(list, "a digital signature with a certificate of a trusted authority")
		for _, m := range r.Legacy {
			l, _ := legacyOf(m)
			list = append(list, l.name())
		}
	}
	if len(r.PSK) != 0 {
		list = append(list, "a pre-shared key")
	}
	return strings.Join(list, " or ")
}

// Validate reports a contradiction in r.
func (r Remote) Validate() error {
	switch {
	case len(r.PSK) != 0 && r.Roots != nil && !r.Either:
		return configError("both trusted authorities and a pre-shared key are configured for peer "+r.ID.String(), "remove one of them, for a peer that may choose can choose the weaker one; or allow either")
	case len(r.PSK) == 0 && r.Roots == nil, r.Roots != nil && len(r.Roots.certs) == 0:
		return configError("neither trusted authorities nor a pre-shared key are configured for peer "+r.ID.String(), "add one of them")
	}
	return validateLegacy(r.Legacy)
}

// Equal reports whether both demand the same proof. What is revoked is another
// question: Revocations and CheckRevoked do not count.
func (r Remote) Equal(o Remote) bool {
	return r.ID.Equal(o.ID) && string(r.PSK) == string(o.PSK) && r.Roots.Equal(o.Roots) &&
		r.Either == o.Either && slices.Equal(r.Legacy, o.Legacy)
}

// EqualBarRoots is Equal for two that both take certificates, or both do not, whatever
// the authorities.
func (r Remote) EqualBarRoots(o Remote) bool {
	if r.Roots != nil && o.Roots != nil {
		o.Roots = r.Roots
	}
	return r.Equal(o)
}

func configError(detail, remedy string) error {
	return &Error{Reason: ReasonConfiguration, Detail: detail, Remedy: remedy}
}

// Roots is an immutable set of trusted authorities, to be shared by all
// tunnels that trust them. It is safe for concurrent use.
type Roots struct {
	certs  []*x509.Certificate
	pool   *x509.CertPool
	hashes []byte
}

// NewRoots makes a set of trusted authorities. A certificate that is no
// authority is trusted for itself alone.
func NewRoots(certs ...*x509.Certificate) *Roots {
	r := &Roots{certs: slices.Clone(certs), pool: x509.NewCertPool()}
	for _, c := range certs {
		r.pool.AddCert(c)
		h := sha1.Sum(c.RawSubjectPublicKeyInfo)
		r.hashes = append(r.hashes, h[:]...)
	}
	return r
}

// Equal reports whether both trust the same certificates. Nil trusts nothing.
func (r *Roots) Equal(other *Roots) bool {
	if r == nil || other == nil {
		return r == other
	}
	return slices.EqualFunc(r.certs, other.certs, (*x509.Certificate).Equal)
}

// Covers reports whether everything that other trusts is trusted by r as well. Nil
// trusts nothing.
func (r *Roots) Covers(other *Roots) bool {
	if other == nil {
		return true
	}
	for _, c := range other.certs {
		if r == nil || !slices.ContainsFunc(r.certs, c.Equal) {
			return false
		}
	}
	return true
}

// UnionRoots returns the authorities of all sets, each once. Nil sets are
// empty. A responder asks for certificates before it knows which peer it talks
// to, so it names the authorities of all that it may be (RFC 7296, Section
// 1.2).
func UnionRoots(sets ...*Roots) *Roots {
	var certs []*x509.Certificate
	seen := make(map[string]bool)
	for _, set := range sets {
		if set == nil {
			continue
		}
		for _, c := range set.certs {
			if !seen[string(c.Raw)] {
				seen[string(c.Raw)] = true
				certs = append(certs, c)
			}
		}
	}
	return NewRoots(certs...)
}

// maxRequestHashes bounds the CERTREQ payload: a responder sends it to anybody
// who asks, and a longer answer would not fit a packet.
const maxRequestHashes = 20

// Request returns the CERTREQ payload for the authorities: the SHA-1 hashes of
// their public keys (RFC 7296, Section 3.7). Of more than 20 authorities it
// names none, which leaves the choice to the peer.
func (r *Roots) Request() *wire.CertReq {
	if len(r.hashes) > maxRequestHashes*sha1.Size {
		return &wire.CertReq{Encoding: wire.CertX509Signature}
	}
	return &wire.CertReq{Encoding: wire.CertX509Signature, Data: slices.Clone(r.hashes)}
}

// MinRSABits is the least modulus of an RSA key that is accepted (RFC 8247,
// Section 3.1.1); maxRSABits bounds the work that a certificate can cause.
const (
	MinRSABits = 2048
	maxRSABits = 8192
)

// checkKey reports why a public key is not accepted in a certificate.
func checkKey(public crypto.PublicKey) error {
	switch k := public.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
		return keyError("an ECDSA key on curve " + k.Curve.Params().Name)
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < MinRSABits || n > maxRSABits {
			return keyError(fmt.Sprintf("an RSA key of %d bits", n))
		}
		if k.E < 65537 {
			return keyError(fmt.Sprintf("an RSA key with exponent %d", k.E))
		}
		return nil
	default:
		return keyError(fmt.Sprintf("a key of type %T", public))
	}
}

func keyError(what string) error {
	return &Error{
		Reason: ReasonAlgorithm,
		Detail: "certificate with " + what,
		Remedy: fmt.Sprintf("use Ed25519, ECDSA on P-256, P-384 or P-521, or RSA with %d to %d bits and an exponent of at least 65537", MinRSABits, maxRSABits),
	}
}
