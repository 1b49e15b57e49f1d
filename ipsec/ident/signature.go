package ident

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // registers the hashes of scheme.digest
	_ "crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// HashAlgorithms are the hashes that Verify accepts, to be announced in
// SIGNATURE_HASH_ALGORITHMS (RFC 7427, Section 4; RFC 8420, Section 2). SHA-1
// is not among them.
func HashAlgorithms() []wire.HashAlgorithm {
	return []wire.HashAlgorithm{wire.HashIdentity, wire.HashSHA256, wire.HashSHA384, wire.HashSHA512}
}

// HashAlgorithmsNotify returns the SIGNATURE_HASH_ALGORITHMS notification that
// announces HashAlgorithms.
func HashAlgorithmsNotify() *wire.Notify {
	var data []byte
	for _, h := range HashAlgorithms() {
		data = binary.BigEndian.AppendUint16(data, uint16(h))
	}
	return &wire.Notify{Kind: wire.NotifySignatureHashAlgorithms, Data: data}
}

// ParseHashAlgorithms reads the data of a peer's SIGNATURE_HASH_ALGORITHMS.
// Hashes that are not known here are left out.
func ParseHashAlgorithms(data []byte) ([]wire.HashAlgorithm, error) {
	if len(data)%2 != 0 {
		return nil, fmt.Errorf("parse SIGNATURE_HASH_ALGORITHMS: %d octets, want two for each algorithm", len(data))
	}
	var out []wire.HashAlgorithm
	for ; len(data) > 0; data = data[2:] {
		h := wire.HashAlgorithm(binary.BigEndian.Uint16(data))
		if slices.Contains(HashAlgorithms(), h) && !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	return out, nil
}

// scheme is a signature algorithm with its hash, and the encodings of its
// AlgorithmIdentifier. A peer's must equal one of them octet by octet; parsing
// them instead has a history of letting weak or forged ones through.
type scheme struct {
	name        string
	hash        wire.HashAlgorithm
	digest      crypto.Hash // 0 for IDENTITY
	identifiers []string    // the first one is sent
	pss         bool
	verify      func(public crypto.PublicKey, digest crypto.Hash, signed, signature []byte) bool
}

// schemes that Verify accepts. RFC 7427, Appendix A; RFC 8420, Appendix A.
var schemes = []scheme{
	{"Ed25519", wire.HashIdentity, 0, []string{"\x30\x05\x06\x03\x2b\x65\x70"}, false, verifyEd25519},
	{"ECDSA with SHA-256", wire.HashSHA256, crypto.SHA256, []string{ecdsaIdentifier + "\x02"}, false, verifyECDSA},
	{"ECDSA with SHA-384", wire.HashSHA384, crypto.SHA384, []string{ecdsaIdentifier + "\x03"}, false, verifyECDSA},
	{"ECDSA with SHA-512", wire.HashSHA512, crypto.SHA512, []string{ecdsaIdentifier + "\x04"}, false, verifyECDSA},
	{"RSA PKCS #1 v1.5 with SHA-256", wire.HashSHA256, crypto.SHA256, []string{rsaIdentifier + "\x0b\x05\x00"}, false, verifyPKCS1},
	{"RSA PKCS #1 v1.5 with SHA-384", wire.HashSHA384, crypto.SHA384, []string{rsaIdentifier + "\x0c\x05\x00"}, false, verifyPKCS1},
	{"RSA PKCS #1 v1.5 with SHA-512", wire.HashSHA512, crypto.SHA512, []string{rsaIdentifier + "\x0d\x05\x00"}, false, verifyPKCS1},
	{"RSASSA-PSS with SHA-256", wire.HashSHA256, crypto.SHA256, pssIdentifiers(1, 32), true, verifyPSS},
	{"RSASSA-PSS with SHA-384", wire.HashSHA384, crypto.SHA384, pssIdentifiers(2, 48), true, verifyPSS},
	{"RSASSA-PSS with SHA-512", wire.HashSHA512, crypto.SHA512, pssIdentifiers(3, 64), true, verifyPSS},
}

const (
	// SEQUENCE { OBJECT IDENTIFIER 1.2.840.10045.4.3.x }, parameters
	// absent.
	ecdsaIdentifier = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03"
	// SEQUENCE { OBJECT IDENTIFIER 1.2.840.113549.1.1.x, NULL }.
	rsaIdentifier = "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01"
)

// pssIdentifiers are the encodings of RSASSA-PSS-params in use for a SHA-2
// hash, 2.16.840.1.101.3.4.2.hash, with MGF1 on the same hash and a salt of
// its length (RFC 4055, Section 3.1). Peers differ in two points, which change
// no meaning: the parameters of the hash are NULL or absent, and the trailer
// field, whose value is the default, is left out, as DER demands (RFC 7427,
// Section 3), or written (Appendix A.4.3). libreswan takes no other than the
// first of these.
func pssIdentifiers(hash, salt byte) []string {
	var out []string
	for _, null := range []string{"\x05\x00", ""} {
		for _, trailer := range []string{"", "\xa3\x03\x02\x01\x01"} {
			id := tlv(0x30, "\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02"+string([]byte{hash})+null)
			mgf := tlv(0x30, "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08"+id)
			params := tlv(0x30, tlv(0xa0, id)+tlv(0xa1, mgf)+tlv(0xa2, tlv(0x02, string([]byte{salt})))+trailer)
			out = append(out, tlv(0x30, "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a"+params))
		}
	}
	return out
}

// tlv encodes a DER value of less than 128 octets.
func tlv(tag byte, value string) string {
	return string([]byte{tag, byte(len(value))}) + value
}

func verifyEd25519(public crypto.PublicKey, _ crypto.Hash, signed, signature []byte) bool {
	k, ok := public.(ed25519.PublicKey)
	return ok && ed25519.Verify(k, signed, signature)
}

func verifyECDSA(public crypto.PublicKey, h crypto.Hash, signed, signature []byte) bool {
	k, ok := public.(*ecdsa.PublicKey)
	return ok && ecdsa.VerifyASN1(k, sum(h, signed), signature)
}

func verifyPKCS1(public crypto.PublicKey, h crypto.Hash, signed, signature []byte) bool {
	k, ok := public.(*rsa.PublicKey)
	return ok && rsa.VerifyPKCS1v15(k, h, sum(h, signed), signature) == nil
}

func verifyPSS(public crypto.PublicKey, h crypto.Hash, signed, signature []byte) bool {
	k, ok := public.(*rsa.PublicKey)
	options := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}
	return ok && rsa.VerifyPSS(k, h, sum(h, signed), signature, options) == nil
}

func sum(h crypto.Hash, b []byte) []byte {
	w := h.New()
	w.Write(b)
	return w.Sum(nil)
}

// splitSignature cuts the Authentication Data of RFC 7427, Section 3: a length
// octet, the AlgorithmIdentifier, the signature value.
func splitSignature(data []byte) (identifier, signature []byte, err error) {
	if len(data) == 0 || len(data) < 1+int(data[0]) {
		return nil, nil, errors.New("Authentication Data ends within its AlgorithmIdentifier")
	}
	n := 1 + int(data[0])
	if len(data) == n {
		return nil, nil, errors.New("Authentication Data has no signature value")
	}
	return data[1:n], data[n:], nil
}

// schemeOf finds the scheme with exactly this AlgorithmIdentifier.
func schemeOf(identifier []byte) (scheme, bool) {
	for _, s := range schemes {
		for _, id := range s.identifiers {
			if bytes.Equal([]byte(id), identifier) {
				return s, true
			}
		}
	}
	return scheme{}, false
}

// schemesToSign returns what a key can sign with, the best first: hashes at
// least as strong as the curve, and SHA-256 before others for RSA (RFC 8247,
// Section 3.2).
func schemesToSign(public crypto.PublicKey, padding RSAPadding) ([]scheme, error) {
	switch k := public.(type) {
	case ed25519.PublicKey:
		return schemes[0:1], nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return schemes[1:4], nil
		case elliptic.P384():
			return schemes[2:4], nil
		case elliptic.P521():
			return schemes[3:4], nil
		}
	case *rsa.PublicKey:
		if err := checkKey(k); err != nil {
			return nil, err
		}
		pkcs1, pss := schemes[4:7], schemes[7:10]
		if padding == RSAPaddingPKCS1v15 {
			return slices.Concat(pkcs1, pss), nil
		}
		return slices.Concat(pss, pkcs1), nil
	}
	return nil, configError(fmt.Sprintf("a private key for %T cannot sign here", public), "use an Ed25519 key, an ECDSA key on P-256, P-384 or P-521, or an RSA key")
}

// sign makes the Authentication Data of RFC 7427, Section 3.
func (s scheme) sign(signer crypto.Signer, o Octets, rand io.Reader) ([]byte, error) {
	message, options := o.b, crypto.SignerOpts(crypto.Hash(0))
	if s.digest != 0 {
		message, options = sum(s.digest, o.b), s.digest
	}
	if s.pss {
		options = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: s.digest}
	}
	signature, err := signer.Sign(rand, message, options)
	if err != nil {
		return nil, signError(err)
	}
	data := append([]byte{byte(len(s.identifiers[0]))}, s.identifiers[0]...)
	return append(data, signature...), nil
}

func signError(err error) error {
	return &Error{Reason: ReasonSignature, Detail: "sign with the own key", Remedy: "check the key or the device that holds it", Err: err}
}
