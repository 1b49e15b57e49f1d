package ident

import (
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

// Local is who we are and how we prove it: either Signer and Chain, or PSK.
type Local struct {
	ID     ID
	Signer crypto.Signer       // Ed25519, or ECDSA on P-256, P-384 or P-521
	Chain  []*x509.Certificate // certificate of Signer first, then the authorities below the root
	PSK    PSK
}

// String says who l is and by what it proves that, and tells no key.
func (l Local) String() string {
	switch {
	case len(l.PSK) != 0:
		return l.ID.String() + " with a pre-shared key"
	case l.Signer != nil:
		return l.ID.String() + " with a certificate"
	default:
		return l.ID.String() + " without credentials"
	}
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
	switch {
	case l.ID.IsZero():
		return configError("no local identity is configured", "set one, such as the name in the certificate")
	case len(l.PSK) != 0 && (l.Signer != nil || len(l.Chain) != 0):
		return configError("both a certificate and a pre-shared key are configured for "+l.ID.String(), "remove one of them")
	case len(l.PSK) != 0:
		return nil
	case l.Signer == nil || len(l.Chain) == 0:
		return configError("neither a certificate with its key nor a pre-shared key is configured for "+l.ID.String(), "add one of them")
	}
	public := l.Signer.Public()
	if _, err := schemesToSign(public); err != nil {
		return err
	}
	if k, ok := public.(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(l.Chain[0].PublicKey) {
		return configError("the private key does not belong to the first certificate of the chain", "put the own certificate first, or install the key that it was issued for")
	}
	return l.ID.bind(l.Chain[0])
}

// Certificates returns the CERT payloads to send, the own certificate first
// (RFC 7296, Section 3.6). A self-signed authority is left out: the peer
// either has it or does not trust it.
func (l Local) Certificates() []*wire.Cert {
	var out []*wire.Cert
	for i, c := range l.Chain {
		if i > 0 && isSelfSigned(c) {
			continue
		}
		out = append(out, &wire.Cert{Encoding: wire.CertX509Signature, Data: c.Raw})
	}
	return out
}

func isSelfSigned(c *x509.Certificate) bool {
	return slices.Equal(c.RawSubject, c.RawIssuer)
}

// Remote is what a peer has to prove: with Roots a certificate, with PSK the
// knowledge of the key. Exactly one of the two is set; nothing else is
// accepted.
type Remote struct {
	ID    ID // the peer must have this identity; zero means any that it can prove
	Roots *Roots
	PSK   PSK
	// CheckRevoked is called for each certificate of the path but the
	// root, the peer's first, and returns an error if it must not be used.
	// It may be nil. It runs where Verify runs and must be safe for
	// concurrent use.
	CheckRevoked func(*x509.Certificate) error
}

// Validate reports a contradiction in r.
func (r Remote) Validate() error {
	switch {
	case len(r.PSK) != 0 && r.Roots != nil:
		return configError("both trusted authorities and a pre-shared key are configured for peer "+r.ID.String(), "remove one of them: a peer that may choose can choose the weaker one")
	case len(r.PSK) == 0 && (r.Roots == nil || len(r.Roots.certs) == 0):
		return configError("neither trusted authorities nor a pre-shared key are configured for peer "+r.ID.String(), "add one of them")
	}
	return nil
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
