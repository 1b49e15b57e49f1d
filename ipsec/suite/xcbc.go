package suite

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"hash"
)

// xcbc is AES-XCBC-MAC (RFC 3566, Section 4), a MAC for messages of any length
// out of AES-128 alone.
type xcbc struct {
	block  cipher.Block // with K1
	k2, k3 [aes.BlockSize]byte
	chain  [aes.BlockSize]byte // E[i]
	rest   [aes.BlockSize]byte // what came since: the last block needs another key
	n      int                 // octets of rest
}

// newXCBC returns AES-XCBC-MAC for a key of 16 octets.
func newXCBC(key []byte) *xcbc {
	outer := mustAES(key)
	x := &xcbc{}
	var k1 [aes.BlockSize]byte
	defer clear(k1[:])
	for i, k := range [][]byte{k1[:], x.k2[:], x.k3[:]} {
		outer.Encrypt(k, bytes.Repeat([]byte{byte(i + 1)}, aes.BlockSize))
	}
	x.block = mustAES(k1[:])
	return x
}

// newPRFXCBC returns AES-XCBC-PRF-128, which takes keys of any length (RFC
// 4434, Section 2): short ones get zeros behind them, long ones are replaced by
// their MAC under the key zero.
func newPRFXCBC(key []byte) hash.Hash {
	fit := make([]byte, aes.BlockSize)
	defer clear(fit)
	if len(key) <= aes.BlockSize {
		copy(fit, key)
	} else {
		x := newXCBC(fit)
		x.Write(key)
		x.Sum(fit[:0])
	}
	return newXCBC(fit)
}

func mustAES(key []byte) cipher.Block {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("suite: " + err.Error())
	}
	return block
}

func (x *xcbc) Size() int      { return aes.BlockSize }
func (x *xcbc) BlockSize() int { return aes.BlockSize }

func (x *xcbc) Reset() {
	x.chain, x.rest, x.n = [aes.BlockSize]byte{}, [aes.BlockSize]byte{}, 0
}

func (x *xcbc) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		if x.n == aes.BlockSize {
			x.absorb(&x.rest)
			x.n = 0
		}
		n := copy(x.rest[x.n:], p)
		x.n += n
		p = p[n:]
	}
	return total, nil
}

// absorb is E[i] = K1(M[i] xor E[i-1]).
func (x *xcbc) absorb(m *[aes.BlockSize]byte) {
	subtle.XORBytes(x.chain[:], x.chain[:], m[:])
	x.block.Encrypt(x.chain[:], x.chain[:])
}

// Sum appends the MAC of what was written; more may be written after.
func (x *xcbc) Sum(b []byte) []byte {
	chain, rest := x.chain, x.rest
	key := &x.k2
	if x.n < aes.BlockSize {
		clear(x.rest[x.n:])
		x.rest[x.n] = 0x80
		key = &x.k3
	}
	subtle.XORBytes(x.rest[:], x.rest[:], key[:])
	x.absorb(&x.rest)
	b = append(b, x.chain[:]...)
	x.chain, x.rest = chain, rest
	return b
}
