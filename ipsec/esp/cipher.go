package esp

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha512"
	"fmt"
	"hash"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// nonce is salt and IV (RFC 4106, Section 4). CCM has a shorter salt than the
// others (RFC 4309, Section 4): it begins later, so that the IV has its place.
type nonce struct {
	octets [maxSaltLen + aeadIVLen]byte
	skip   int
}

func (n *nonce) iv() *[aeadIVLen]byte { return (*[aeadIVLen]byte)(n.octets[maxSaltLen:]) }

func (n *nonce) bytes() []byte { return n.octets[n.skip:] }

// mode is a cipher that has its integrity from elsewhere. dst and src may be the
// same.
type mode interface {
	crypt(dst, src, iv []byte)
}

// cbcMode is cipher.BlockMode as the standard library's AES has it: the IV can
// be set for each packet without a new object.
type cbcMode interface {
	cipher.BlockMode
	SetIV(iv []byte)
}

type cbc struct{ cbcMode }

func (c cbc) crypt(dst, src, iv []byte) {
	c.SetIV(iv)
	c.CryptBlocks(dst, src)
}

type ctr struct{ *suite.CTR }

func (c ctr) crypt(dst, src, iv []byte) { c.Crypt(dst, src, iv) }

// null is no cipher at all (RFC 2410).
type null struct{}

func (null) crypt(dst, src, _ []byte) { copy(dst, src) }

// plainCipher is AES-CBC, AES-CTR or none with an integrity algorithm: encrypt, then
// authenticate (RFC 4303, Section 3.3.2.1).
type plainCipher struct {
	mode   mode
	random bool // the IV must be unpredictable, not only unique
	ivLen  int
	block  int
	mac    hash.Hash
	icvLen int
	sum    [sha512.Size]byte
	high   [4]byte // high half of the sequence number, for the MAC
}

// newPlain makes the ciphers of s that are not combined-mode. newCBC is for the
// direction.
func newPlain(s suite.ESPSuite, key []byte, newCBC func(cipher.Block, []byte) cipher.BlockMode) (*plainCipher, error) {
	cipherKey, salt, integrityKey, err := s.SplitKey(key)
	if err != nil {
		return nil, err
	}
	c := &plainCipher{ivLen: s.IVLen(), block: s.BlockLen(), icvLen: s.ICVLen()}
	switch s.Encryption {
	case wire.EncryptionNull:
		c.mode = null{}
	case wire.EncryptionAESCTR:
		stream, err := suite.NewCTR(cipherKey, salt)
		if err != nil {
			return nil, err
		}
		c.mode = ctr{stream}
	case wire.EncryptionAESCBC:
		block, err := aes.NewCipher(cipherKey)
		if err != nil {
			return nil, fmt.Errorf("make AES cipher: %w", err)
		}
		blocks, ok := newCBC(block, zeroIV[:]).(cbcMode)
		if !ok {
			return nil, fmt.Errorf("AES-CBC of this Go release cannot change its IV: use AES-GCM")
		}
		c.mode, c.random = cbc{blocks}, true // RFC 3602, Section 3
	default:
		return nil, fmt.Errorf("ESP does not know the cipher of %s", s)
	}
	c.mac, err = suite.NewMAC(s.Integrity, integrityKey)
	return c, err
}

var zeroIV [aes.BlockSize]byte

// icv authenticates b and, with extended sequence numbers, the half that is
// not sent (RFC 4303, Section 2.2.1). The result is valid until the next call.
func (c *plainCipher) icv(b []byte, seq uint64, esn bool) []byte {
	c.mac.Reset()
	c.mac.Write(b)
	if esn {
		c.high = [4]byte{byte(seq >> 56), byte(seq >> 48), byte(seq >> 40), byte(seq >> 32)}
		c.mac.Write(c.high[:])
	}
	return c.mac.Sum(c.sum[:0])[:c.icvLen]
}
