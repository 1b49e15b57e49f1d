package suite

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// NewAEAD returns the combined-mode cipher e for a key without salt, for IKE
// messages and ESP packets alike. Nonces are the salt and the IV, so their
// length is that of both (11 octets for CCM, 12 for the others); an ICV of the
// length that e has follows the ciphertext, which is the plaintext where e does
// not encrypt. Seal allocates nothing if dst has
// room, Open nothing at all once the longest message was seen; both may work in
// place. It is not safe for concurrent use.
func NewAEAD(e Encryption, key []byte) (cipher.AEAD, error) {
	spec, ok := cipherOf(e)
	if !ok || !spec.aead() {
		return nil, fmt.Errorf("make %s: not a combined-mode cipher known here", e)
	}
	if len(key) != spec.keyLen {
		return nil, fmt.Errorf("make %s: key of %d octets, want %d", e, len(key), spec.keyLen)
	}
	if e.ID == wire.EncryptionChaCha20Poly1305 {
		return chacha20poly1305.New(key)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", e, err)
	}
	switch e.ID {
	case wire.EncryptionAESGCM16, wire.EncryptionAESGCM12:
		return cipher.NewGCMWithTagSize(block, spec.icvLen)
	case wire.EncryptionNullAESGMAC:
		full, err := cipher.NewGCM(block)
		return &gmac{AEAD: full}, err
	case wire.EncryptionAESGCM8:
		full, err := cipher.NewGCM(block)
		return &shortGCM{full: full, tagLen: spec.icvLen}, err
	default:
		return newCCM(block, spec.icvLen), nil
	}
}

// gmac leaves what it protects as it is: GCM authenticates all of it as additional
// data, the IV too (RFC 4543, Section 3.5). It is not safe for concurrent use.
type gmac struct {
	cipher.AEAD
	scratch []byte // not longer than the longest message
}

// tag returns the ICV, valid until the next call.
func (g *gmac) tag(nonce, text, additionalData []byte) []byte {
	b := append(g.scratch[:0], additionalData...)
	b = append(append(b, nonce[gmacSaltLen:]...), text...)
	n := len(b)
	g.scratch = g.AEAD.Seal(b, nonce, nil, b)
	return g.scratch[n:]
}

func (g *gmac) Seal(dst, nonce, plaintext, additionalData []byte) []byte {
	tag := g.tag(nonce, plaintext, additionalData)
	return append(append(dst, plaintext...), tag...)
}

func (g *gmac) Open(dst, nonce, ciphertext, additionalData []byte) ([]byte, error) {
	n := len(ciphertext) - g.Overhead()
	if n < 0 || subtle.ConstantTimeCompare(g.tag(nonce, ciphertext[:n], additionalData), ciphertext[n:]) != 1 {
		return nil, errOpen
	}
	return append(dst, ciphertext[:n]...), nil
}

var errOpen = errors.New("message authentication failed")

// shortGCM is GCM with a tag that is shorter than the standard library makes:
// the first octets of the whole one (NIST SP 800-38D, Section 7.1). It is not
// safe for concurrent use.
type shortGCM struct {
	full   cipher.AEAD
	tagLen int
	// What the whole cipher gives, with the whole tag. Neither holds more than
	// the last message.
	sealed, opened []byte
}

func (g *shortGCM) NonceSize() int { return g.full.NonceSize() }
func (g *shortGCM) Overhead() int  { return g.tagLen }

func (g *shortGCM) Seal(dst, nonce, plaintext, additionalData []byte) []byte {
	g.sealed = g.full.Seal(g.sealed[:0], nonce, plaintext, additionalData)
	return append(dst, g.sealed[:len(plaintext)+g.tagLen]...)
}

// Open cannot let the whole cipher check a tag of which it has only a part. It
// decrypts (which in counter mode is encrypting again), seals the result, and
// compares the tag that this gives, which is secret, in constant time. Nothing
// reaches dst before.
func (g *shortGCM) Open(dst, nonce, ciphertext, additionalData []byte) ([]byte, error) {
	n := len(ciphertext) - g.tagLen
	if n < 0 {
		return nil, errOpen
	}
	g.opened = g.full.Seal(g.opened[:0], nonce, ciphertext[:n], nil)
	g.sealed = g.full.Seal(g.sealed[:0], nonce, g.opened[:n], additionalData)
	if subtle.ConstantTimeCompare(g.sealed[n:n+g.tagLen], ciphertext[n:]) != 1 {
		return nil, errOpen
	}
	return append(dst, g.opened[:n]...), nil
}
