package suite

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"slices"
)

// ccm is Counter with CBC-MAC (NIST SP 800-38C) with the parameters of RFC
// 4309, Sections 2 to 4: nonces of 11 octets, hence a length field of 4. It is
// not safe for concurrent use.
type ccm struct {
	block   cipher.Block
	tagLen  int
	counter counterMode
	mac     [aes.BlockSize]byte
	first   [aes.BlockSize]byte // the block A_0, encrypted
}

const (
	ccmNonceLen  = 11
	ccmLengthLen = aes.BlockSize - 1 - ccmNonceLen // L of RFC 3610
)

func newCCM(block cipher.Block, tagLen int) *ccm {
	return &ccm{block: block, tagLen: tagLen, counter: counterMode{block: block}}
}

func (c *ccm) NonceSize() int { return ccmNonceLen }
func (c *ccm) Overhead() int  { return c.tagLen }

func (c *ccm) Seal(dst, nonce, plaintext, additionalData []byte) []byte {
	start, n := len(dst), len(plaintext)
	c.authenticate(nonce, plaintext, additionalData)
	dst = slices.Grow(dst, n+c.tagLen)[:start+n]
	c.crypt(dst[start:], plaintext, nonce)
	subtle.XORBytes(c.mac[:], c.mac[:], c.first[:])
	return append(dst, c.mac[:c.tagLen]...)
}

func (c *ccm) Open(dst, nonce, ciphertext, additionalData []byte) ([]byte, error) {
	start, n := len(dst), len(ciphertext)-c.tagLen
	if n < 0 {
		return nil, errOpen
	}
	dst = slices.Grow(dst, n)[:start+n]
	c.crypt(dst[start:], ciphertext[:n], nonce)
	c.authenticate(nonce, dst[start:], additionalData)
	subtle.XORBytes(c.mac[:], c.mac[:], c.first[:])
	if subtle.ConstantTimeCompare(c.mac[:c.tagLen], ciphertext[n:]) != 1 {
		clear(dst[start:])
		return nil, errOpen
	}
	return dst, nil
}

// crypt encrypts or decrypts with the counter blocks A_1 and on, and leaves the
// encrypted A_0, which masks the MAC, in first (NIST SP 800-38C, Appendix A.3).
func (c *ccm) crypt(dst, src, nonce []byte) {
	c.first = [aes.BlockSize]byte{ccmLengthLen - 1}
	copy(c.first[1:], nonce)
	c.counter.start(c.first)
	c.counter.next()
	c.first = c.counter.key
	c.counter.xor(dst, src)
}

// authenticate computes the CBC-MAC of the formatted input (NIST SP 800-38C,
// Appendix A.2).
func (c *ccm) authenticate(nonce, plaintext, additionalData []byte) {
	c.mac = [aes.BlockSize]byte{byte(c.tagLen-2)/2<<3 | ccmLengthLen - 1}
	copy(c.mac[1:], nonce)
	binary.BigEndian.PutUint32(c.mac[1+ccmNonceLen:], uint32(len(plaintext)))
	if len(additionalData) == 0 {
		c.block.Encrypt(c.mac[:], c.mac[:])
		c.absorb(0, plaintext)
		return
	}
	c.mac[0] |= 1 << 6
	c.block.Encrypt(c.mac[:], c.mac[:])
	var length [6]byte
	head := length[:2]
	if n := len(additionalData); n < 0xff00 {
		binary.BigEndian.PutUint16(head, uint16(n))
	} else {
		head = length[:6]
		head[0], head[1] = 0xff, 0xfe
		binary.BigEndian.PutUint32(head[2:], uint32(n))
	}
	subtle.XORBytes(c.mac[:], c.mac[:], head)
	c.absorb(len(head), additionalData)
	c.absorb(0, plaintext)
}

// absorb takes b into the MAC, whose block already has its first at octets, and
// fills the last block up with zeros.
func (c *ccm) absorb(at int, b []byte) {
	for len(b) > 0 {
		n := subtle.XORBytes(c.mac[at:], c.mac[at:], b)
		c.block.Encrypt(c.mac[:], c.mac[:])
		b, at = b[n:], 0
	}
}
