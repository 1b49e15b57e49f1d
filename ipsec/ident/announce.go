package ident

import (
	"crypto/sha1"
	"fmt"
	"slices"
	"strings"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// Methods is a set of authentication methods.
type Methods uint32

// MethodsOf returns the set of the given methods.
func MethodsOf(methods ...wire.AuthMethod) Methods {
	var m Methods
	for _, a := range methods {
		m |= 1 << a
	}
	return m
}

// Has reports whether a is in the set.
func (m Methods) Has(a wire.AuthMethod) bool { return a < 32 && m&(1<<a) != 0 }

// Methods returns what r accepts as a proof.
func (r Remote) Methods() Methods {
	var m Methods
	if r.Roots != nil {
		m |= MethodsOf(wire.AuthDigitalSignature) | MethodsOf(r.Legacy...)
	}
	if len(r.PSK) != 0 {
		m |= MethodsOf(wire.AuthSharedKey)
	}
	return m
}

// Announcement is one entry of SUPPORTED_AUTH_METHODS: a method that its sender
// accepts (RFC 9593, Section 3.2).
type Announcement struct {
	Method wire.AuthMethod
	// Authority ties the method to one of the authorities of the CERTREQ
	// payloads beside it, counted from 1; 0 means any.
	Authority uint8
	// Algorithm is the AlgorithmIdentifier of a digital signature, in DER.
	Algorithm string
}

func (a Announcement) String() string {
	s := a.Method.String()
	if a.Algorithm != "" {
		if sch, ok := schemeOf([]byte(a.Algorithm)); ok {
			s = sch.name
		} else {
			s = fmt.Sprintf("a signature with AlgorithmIdentifier %x", clip(a.Algorithm))
		}
	}
	if a.Authority != 0 {
		s += fmt.Sprintf(" under authority %d", a.Authority)
	}
	return s
}

// announced are the schemes of which SUPPORTED_AUTH_METHODS tells: with the
// larger hashes of RSA it would hardly fit IKE_SA_INIT, and who signs with RSA can
// use SHA-256 (RFC 8247, Section 3.2).
var announced = slices.Concat(schemes[0:4], schemes[7:8], schemes[4:5])

// Notify returns the SUPPORTED_AUTH_METHODS notification that announces the set,
// in order of preference: signatures first.
func (m Methods) Notify() *wire.Notify {
	var list []Announcement
	if m.Has(wire.AuthDigitalSignature) {
		for _, s := range announced {
			list = append(list, Announcement{Method: wire.AuthDigitalSignature, Algorithm: s.identifiers[0]})
		}
	}
	for _, l := range legacyMethods {
		if m.Has(l.method) {
			list = append(list, Announcement{Method: l.method})
		}
	}
	if m.Has(wire.AuthSharedKey) {
		list = append(list, Announcement{Method: wire.AuthSharedKey})
	}
	return &wire.Notify{Kind: wire.NotifySupportedAuthMethods, Data: appendAnnouncements(nil, list)}
}

// appendAnnouncements encodes the notification data: two octets for a method
// without public keys, three with the authority for one that fixes its
// algorithm, more for digital signatures (RFC 9593, Sections 3.2.1 to 3.2.3).
func appendAnnouncements(b []byte, list []Announcement) []byte {
	for _, a := range list {
		switch a.Method {
		case wire.AuthSharedKey, wire.AuthNull:
			b = append(b, 2, byte(a.Method))
		default:
			b = append(b, byte(3+len(a.Algorithm)), byte(a.Method), a.Authority)
			b = append(b, a.Algorithm...)
		}
	}
	return b
}

// maxAnnouncements bounds what is kept of a peer's SUPPORTED_AUTH_METHODS.
const maxAnnouncements = 64

// parseAnnouncements reads notification data. Methods and forms that are not
// known are kept: that a peer accepts nothing else is worth an error that names
// them.
func parseAnnouncements(data []byte) ([]Announcement, error) {
	var list []Announcement
	for len(data) > 0 {
		n := int(data[0])
		if n < 2 || n > len(data) {
			return nil, fmt.Errorf("parse SUPPORTED_AUTH_METHODS: an announcement of %d octets where %d are left", n, len(data))
		}
		a := Announcement{Method: wire.AuthMethod(data[1])}
		if n > 2 {
			a.Authority, a.Algorithm = data[2], string(data[3:n])
		}
		if len(list) < maxAnnouncements {
			list = append(list, a)
		}
		data = data[n:]
	}
	return list, nil
}

// Announced is what a peer said about the proofs that it accepts. The zero value
// is a peer that said nothing. Nothing of it is verified when it is used, so
// it chooses among what is configured and never adds to that.
type Announced struct {
	// Signatures is true if the peer supports digital signatures (RFC 7427,
	// Section 4), Hashes are those that it accepts and that are known here.
	Signatures bool
	Hashes     []wire.HashAlgorithm
	// Methods of SUPPORTED_AUTH_METHODS in the peer's order; nil if it did not
	// say.
	Methods []Announcement
	// Authorities are the SHA-1 hashes of the public keys of those that it
	// trusts (RFC 7296, Section 3.7); none if it did not say.
	Authorities []string
}

// maxAuthorities is how many authorities an Announcement can refer to.
const maxAuthorities = 255

// Read takes in what the payloads of one message say. A list replaces one of an
// earlier message: authentication methods and authorities come together (RFC
// 9593, Section 3). Malformed notifications count as not sent.
func (a *Announced) Read(payloads []wire.Payload) {
	var methods []Announcement
	var authorities []string
	for _, p := range payloads {
		switch p := p.(type) {
		case *wire.Notify:
			switch p.Kind {
			case wire.NotifySignatureHashAlgorithms:
				if hashes, err := ParseHashAlgorithms(p.Data); err == nil {
					a.Signatures, a.Hashes = true, hashes
				}
			case wire.NotifySupportedAuthMethods:
				if list, err := parseAnnouncements(p.Data); err == nil && len(methods)+len(list) <= maxAnnouncements {
					methods = append(methods, list...)
				}
			}
		case *wire.CertReq:
			authorities = append(authorities, authoritiesOf(p)...)
		}
	}
	if len(methods) > 0 {
		a.Methods = methods
	}
	if len(authorities) > 0 {
		a.Authorities = authorities[:min(len(authorities), maxAuthorities)]
	}
}

// authoritiesOf splits a CERTREQ payload. Only the encodings of X.509 have a
// defined content (RFC 7296, Section 3.7).
func authoritiesOf(p *wire.CertReq) []string {
	switch p.Encoding {
	case wire.CertX509Signature, wire.CertHashAndURL, wire.CertHashAndURLBundle:
	default:
		return nil
	}
	if len(p.Data)%sha1.Size != 0 {
		return nil
	}
	var out []string
	for h := range slices.Chunk(p.Data, sha1.Size) {
		out = append(out, string(h))
	}
	return out
}

// String says what the peer accepts, for an error.
func (a Announced) String() string {
	var parts []string
	switch {
	case len(a.Methods) > 0:
		var names []string
		for _, m := range a.Methods {
			names = append(names, m.String())
		}
		parts = append(parts, "the methods "+strings.Join(names, ", "))
		if a.Signatures {
			parts = append(parts, fmt.Sprintf("the hashes %v", a.Hashes))
		}
	case a.Signatures:
		parts = append(parts, fmt.Sprintf("the hashes %v", a.Hashes))
	default:
		parts = append(parts, "no digital signatures as of RFC 7427")
	}
	return strings.Join(parts, " with ")
}
