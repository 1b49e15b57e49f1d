package esp

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// newAEAD makes the combined-mode cipher of s and cuts its salt off key.
func newAEAD(s suite.ESPSuite, key []byte) (cipher.AEAD, [saltLen]byte, error) {
	var salt [saltLen]byte
	cipherKey, saltPart, _, err := s.SplitKey(key)
	if err != nil {
		return nil, salt, err
	}
	copy(salt[:], saltPart)
	switch s.Encryption {
	case wire.EncryptionAESGCM16:
		block, err := aes.NewCipher(cipherKey)
		if err != nil {
			return nil, salt, fmt.Errorf("make AES cipher: %w", err)
		}
		aead, err := cipher.NewGCM(block)
		return aead, salt, err
	case wire.EncryptionChaCha20Poly1305:
		aead, err := chacha20poly1305.New(cipherKey)
		return aead, salt, err
	}
	return nil, salt, fmt.Errorf("ESP does not know the combined-mode cipher of %s", s)
}

// cbcMode is cipher.BlockMode as the standard library's AES has it: the IV can
// be set for each packet without a new object.
type cbcMode interface {
	cipher.BlockMode
	SetIV(iv []byte)
}

// cbcHMAC is AES-CBC with HMAC-SHA-2: encrypt, then authenticate (RFC 4303,
// Section 3.3.2.1).
type cbcHMAC struct {
	mode   cbcMode
	mac    hash.Hash
	icvLen int
	sum    [sha512.Size]byte
	high   [4]byte // high half of the sequence number, for the MAC
}

func newCBC(s suite.ESPSuite, key []byte, newMode func(cipher.Block, []byte) cipher.BlockMode) (*cbcHMAC, error) {
	cipherKey, _, integrityKey, err := s.SplitKey(key)
	if err != nil {
		return nil, err
	}
	if s.Encryption != wire.EncryptionAESCBC {
		return nil, fmt.Errorf("ESP does not know the cipher of %s", s)
	}
	block, err := aes.NewCipher(cipherKey)
	if err != nil {
		return nil, fmt.Errorf("make AES cipher: %w", err)
	}
	mode, ok := newMode(block, zeroIV[:]).(cbcMode)
	if !ok {
		return nil, fmt.Errorf("AES-CBC of this Go release cannot change its IV: use AES-GCM")
	}
	c := &cbcHMAC{mode: mode, icvLen: s.ICVLen()}
	switch s.Integrity {
	case wire.IntegrityHMACSHA256:
		c.mac = hmac.New(sha256.New, integrityKey)
	case wire.IntegrityHMACSHA384:
		c.mac = hmac.New(sha512.New384, integrityKey)
	case wire.IntegrityHMACSHA512:
		c.mac = hmac.New(sha512.New, integrityKey)
	default:
		return nil, fmt.Errorf("ESP does not know the integrity algorithm of %s", s)
	}
	return c, nil
}

var zeroIV [aes.BlockSize]byte

// icv authenticates b and, with extended sequence numbers, the half that is
// not sent (RFC 4303, Section 2.2.1). The result is valid until the next call.
func (c *cbcHMAC) icv(b []byte, seq uint64, esn bool) []byte {
	c.mac.Reset()
	c.mac.Write(b)
	if esn {
		c.high = [4]byte{byte(seq >> 56), byte(seq >> 48), byte(seq >> 40), byte(seq >> 32)}
		c.mac.Write(c.high[:])
	}
	return c.mac.Sum(c.sum[:0])[:c.icvLen]
}
