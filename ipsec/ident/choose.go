package ident

import (
	"bytes"
	"crypto/sha1"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// Proof is how we prove our identity to one peer.
type Proof struct {
	// Method and Data are for the AUTH payload.
	Method wire.AuthMethod
	Data   []byte
	// Certificates go before it, the own one first.
	Certificates []*wire.Cert
	// By says for people how it was made, such as "Ed25519".
	By string
}

// way is one way to make a proof.
type way struct {
	credential Credential
	method     wire.AuthMethod
	scheme     scheme // with wire.AuthDigitalSignature
}

func (w way) String() string {
	switch w.method {
	case wire.AuthSharedKey:
		return "a pre-shared key"
	case wire.AuthDigitalSignature:
		return w.scheme.name
	}
	l, _ := legacyOf(w.method)
	return l.name()
}

// Sign proves local's identity (RFC 7296, Section 2.15; RFC 7427, Section 3) in
// the first of the configured ways that the peer accepts. The authorities of
// known, which may be nil, tell which of our certificates a CERTREQ payload asks
// for, where the authority itself is not in the chain. The same arguments choose
// the same way. The error is an *Error.
func Sign(local Local, octets Octets, peer Announced, known *Roots, rand io.Reader) (*Proof, error) {
	if err := local.Validate(); err != nil {
		return nil, err
	}
	ways, err := local.accepted(peer, known)
	if err != nil {
		return nil, err
	}
	proof, err := ways[0].prove(octets, rand)
	if err != nil {
		if other := otherPadding(ways); other != nil {
			if proof, e := other.prove(octets, rand); e == nil {
				return proof, nil
			}
		}
		return nil, err
	}
	return proof, nil
}

// otherPadding returns how the key that is to be used can sign by the other
// scheme of RSA, nil if it cannot: some devices know only one of them.
func otherPadding(ways []way) *way {
	for i, w := range ways {
		if w.method == ways[0].method && w.scheme.pss != ways[0].scheme.pss && w.credential.equal(ways[0].credential) {
			return &ways[i]
		}
	}
	return nil
}

func (w way) prove(octets Octets, rand io.Reader) (*Proof, error) {
	p := &Proof{Method: w.method, Certificates: w.credential.certificates(), By: w.String()}
	var err error
	switch w.method {
	case wire.AuthSharedKey:
		p.Data = octets.sharedKeyAuth(w.credential.PSK)
	case wire.AuthDigitalSignature:
		p.Data, err = w.scheme.sign(w.credential.Signer, octets, rand)
	default:
		l, _ := legacyOf(w.method)
		p.Data, err = l.sign(w.credential.Signer, octets, rand)
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// ways returns everything that l can prove itself by, in order of preference.
func (l Local) ways() []way {
	var out []way
	for _, c := range l.credentials() {
		if c.Signer == nil {
			out = append(out, way{credential: c, method: wire.AuthSharedKey})
			continue
		}
		list, _ := schemesToSign(c.Signer.Public(), l.RSA) // validated before
		for _, s := range list {
			out = append(out, way{c, wire.AuthDigitalSignature, s})
		}
		for _, m := range l.Legacy {
			if old, ok := legacyOf(m); ok && old.fits(c.Signer.Public()) {
				out = append(out, way{credential: c, method: m})
			}
		}
	}
	return out
}

// accepted returns the ways that the peer accepts, the one to be used first. It
// is never empty without an error.
func (l Local) accepted(peer Announced, known *Roots) ([]way, error) {
	all := l.ways()
	usable := slices.DeleteFunc(slices.Clone(all), func(w way) bool { return !w.understood(peer) })
	if len(usable) == 0 {
		return nil, noWay(all, peer)
	}
	if len(peer.Methods) > 0 {
		announced := func(links bool) []way {
			return slices.DeleteFunc(slices.Clone(usable), func(w way) bool { return !w.announced(peer, known, links) })
		}
		fitting := announced(true)
		if len(fitting) == 0 {
			// Which authority is above ours may be unknown here.
			fitting = announced(false)
		}
		if len(fitting) == 0 {
			return nil, noWay(all, peer)
		}
		usable = fitting
	}
	return l.requested(usable, peer, known), nil
}

// understood reports whether the peer knows the format. Who does digital
// signatures gets no older ones (RFC 7427, Section 3).
func (w way) understood(peer Announced) bool {
	switch w.method {
	case wire.AuthSharedKey:
		return true
	case wire.AuthDigitalSignature:
		return peer.Signatures && slices.Contains(peer.Hashes, w.scheme.hash)
	default:
		return !peer.Signatures
	}
}

// announced reports whether the peer's SUPPORTED_AUTH_METHODS has the way, with
// links under the authority that it names.
func (w way) announced(peer Announced, known *Roots, links bool) bool {
	for _, a := range peer.Methods {
		switch {
		case a.Method != w.method:
		case w.method == wire.AuthDigitalSignature && !slices.Contains(w.scheme.identifiers, a.Algorithm):
		case links && a.Authority != 0 && len(peer.Authorities) > 0 && !w.credential.under(peer.authority(a.Authority), known):
			// RFC 9593, Section 3.2.2.
		default:
			return true
		}
	}
	return false
}

// authority returns the N-th authority of the peer, nothing if there is none.
func (a Announced) authority(n uint8) []string {
	if int(n) > len(a.Authorities) {
		return nil
	}
	return a.Authorities[n-1 : n]
}

// requested moves a certificate that the peer asks for before others, if a
// certificate is what is to be used. CERTREQ is a suggestion, so the others
// remain (RFC 7296, Section 3.7).
func (l Local) requested(ways []way, peer Announced, known *Roots) []way {
	if ways[0].credential.Signer == nil || len(peer.Authorities) == 0 {
		return ways
	}
	asked := func(w way) bool { return w.credential.Signer != nil && w.credential.under(peer.Authorities, known) }
	var first, rest []way
	for _, w := range ways {
		if asked(w) {
			first = append(first, w)
		} else {
			rest = append(rest, w)
		}
	}
	return append(first, rest...)
}

// under reports whether one of the authorities, given by the SHA-1 hashes of
// their public keys, is above the certificate of c.
func (c Credential) under(authorities []string, known *Roots) bool {
	is := func(a *x509.Certificate) bool {
		h := sha1.Sum(a.RawSubjectPublicKeyInfo)
		return slices.Contains(authorities, string(h[:]))
	}
	for i, cert := range c.Chain {
		if is(cert) {
			return true // also if the peer has pinned the certificate itself
		}
		if i == len(c.Chain)-1 && known != nil {
			return slices.ContainsFunc(known.certs, func(a *x509.Certificate) bool { return issued(a, cert) && is(a) })
		}
	}
	return false
}

// issued reports whether a may be the issuer of cert, by their names.
func issued(a, cert *x509.Certificate) bool {
	return bytes.Equal(a.RawSubject, cert.RawIssuer) &&
		(len(cert.AuthorityKeyId) == 0 || len(a.SubjectKeyId) == 0 || bytes.Equal(cert.AuthorityKeyId, a.SubjectKeyId))
}

// noWay says what either side could do.
func noWay(ours []way, peer Announced) error {
	var names []string
	for _, w := range ours {
		names = append(names, w.String())
	}
	e := &Error{
		Reason: ReasonAlgorithm,
		Detail: fmt.Sprintf("this end can prove itself by %s, the peer accepts %s", strings.Join(names, ", "), peer),
		Remedy: "add a credential that the peer accepts, or enable one of ours on the peer",
	}
	if !peer.Signatures {
		e.Remedy = "enable digital signatures on the peer (SIGNATURE_HASH_ALGORITHMS), allow an older method for it, or use a pre-shared key"
		e.Err = errors.New("it did not send SIGNATURE_HASH_ALGORITHMS")
	}
	return e
}
