package esp

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"hash"

	"github.com/swanherd/swanherd/ipsec/suite"
)

// ahSum computes the ICV of AH, which is an HMAC or its like, or GMAC.
type ahSum struct {
	mac    hash.Hash
	gmac   cipher.AEAD // instead of mac
	nonce  [maxSaltLen + aeadIVLen]byte
	ivLen  int // of GMAC, before the ICV in its field (RFC 4543, Section 4)
	icvLen int

	head []byte // scratch: the headers as they are authenticated
	text []byte // scratch: all of the packet, as GMAC wants it in one piece
	sum  [sha512.Size]byte
	high [4]byte
}

func newAHSum(c Config) (*ahSum, error) {
	if !c.Suite.AH {
		return nil, fmt.Errorf("%s is a suite of ESP, not of AH", c.Suite)
	}
	if err := c.validateCommon(); err != nil {
		return nil, err
	}
	if len(c.Key) != c.Suite.KeyLen() {
		return nil, fmt.Errorf("AH key for %s has %d octets, want %d", c.Suite, len(c.Key), c.Suite.KeyLen())
	}
	s := &ahSum{ivLen: c.Suite.IVLen(), icvLen: c.Suite.ICVLen()}
	if s.ivLen == 0 {
		var err error
		s.mac, err = suite.NewMAC(c.Suite.Integrity, c.Key)
		return s, err
	}
	// The key ends with the salt (RFC 4543, Section 5.1).
	cut := len(c.Key) - maxSaltLen
	block, err := aes.NewCipher(c.Key[:cut])
	if err != nil {
		return nil, fmt.Errorf("make AES cipher: %w", err)
	}
	copy(s.nonce[:], c.Key[cut:])
	s.gmac, err = cipher.NewGCM(block)
	return s, err
}

// headerLen is as AHLen.
func (s *ahSum) headerLen(v6 bool) int { return ahLen(s.ivLen+s.icvLen, v6) }

// fits reports whether an AH of n octets may come. Linux pads to 64 bits in IPv4
// too unless it is told not to; padding is authenticated, so it is taken.
func (s *ahSum) fits(n int, v6 bool) bool { return n == s.headerLen(v6) || n == s.headerLen(true) }

// prepare copies the first n octets of b, up to the end of the AH, and gives fields
// that may change on the way their value for the ICV. The copy is valid until the next
// call.
func (s *ahSum) prepare(b []byte, h ahHeaders, n int, send bool) ([]byte, error) {
	s.head = append(s.head[:0], b[:n]...)
	return s.head, h.zeroMutable(s.head, send)
}

// icv is over the prepared headers, the payload and, with extended sequence numbers,
// the half that is not sent (RFC 4302, Section 3.3.3.2.2). The result is valid until
// the next call. iv is where the packet has it, if there is one.
func (s *ahSum) icv(head, payload, iv []byte, seq uint64, esn bool) []byte {
	high := s.high[:0]
	if esn {
		high = binary.BigEndian.AppendUint32(high, uint32(seq>>32))
	}
	if s.gmac == nil {
		s.mac.Reset()
		s.mac.Write(head)
		s.mac.Write(payload)
		s.mac.Write(high)
		return s.mac.Sum(s.sum[:0])[:s.icvLen]
	}
	s.text = append(append(append(s.text[:0], head...), payload...), high...)
	copy(s.nonce[maxSaltLen:], iv[:aeadIVLen])
	return s.gmac.Seal(s.sum[:0], s.nonce[:], nil, s.text)
}
