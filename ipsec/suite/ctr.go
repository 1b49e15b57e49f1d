package suite

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
)

// counterMode encrypts counter blocks whose last 32 bits count. The standard
// library has it too, but with an allocation for each message.
type counterMode struct {
	block cipher.Block
	ctr   [aes.BlockSize]byte
	key   [aes.BlockSize]byte // the last block of the key stream
}

func (c *counterMode) start(ctr [aes.BlockSize]byte) { c.ctr = ctr }

// next makes the next block of the key stream.
func (c *counterMode) next() {
	c.block.Encrypt(c.key[:], c.ctr[:])
	binary.BigEndian.PutUint32(c.ctr[12:], binary.BigEndian.Uint32(c.ctr[12:])+1)
}

// xor encrypts or decrypts src into dst, which may be the same.
func (c *counterMode) xor(dst, src []byte) {
	for len(src) > 0 {
		c.next()
		n := subtle.XORBytes(dst, src, c.key[:])
		dst, src = dst[n:], src[n:]
	}
}

// CTR is AES in counter mode as RFC 3686 uses it for ESP and RFC 5930 for IKE
// messages. It says nothing about integrity, so it never stands alone. It is
// not safe for concurrent use.
type CTR struct {
	mode  counterMode
	nonce [4]byte
}

// CTRIVLen is the length of the IV in each message, octets (RFC 3686, Section
// 3.1).
const CTRIVLen = 8

// NewCTR returns AES-CTR for a key and a nonce as ESPSuite.SplitKey cuts them:
// 16, 24 or 32 octets, and 4.
func NewCTR(key, nonce []byte) (*CTR, error) {
	c := &CTR{}
	if len(nonce) != len(c.nonce) {
		return nil, fmt.Errorf("make AES-CTR: nonce of %d octets, want %d", len(nonce), len(c.nonce))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("make AES-CTR: key of %d octets, want 16, 24 or 32", len(key))
	}
	c.mode.block = block
	copy(c.nonce[:], nonce)
	return c, nil
}

// Crypt encrypts or decrypts src into dst, which may be the same. iv must never
// repeat under a key: two messages with the same one give away the difference
// of their texts (RFC 3686, Section 7). The counter begins with 1 (Section 4).
func (c *CTR) Crypt(dst, src, iv []byte) {
	ctr := [aes.BlockSize]byte{15: 1}
	copy(ctr[:], c.nonce[:])
	copy(ctr[len(c.nonce):], iv[:CTRIVLen])
	c.mode.start(ctr)
	c.mode.xor(dst, src)
}
