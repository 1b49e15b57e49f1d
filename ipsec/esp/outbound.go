package esp

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// Outbound is the sending side of an ESP SA.
type Outbound struct {
	spi   uint32
	esn   bool
	align int
	seq   uint64 // last one used
	last  uint64 // last one there is
	fixed int    // octets beside payload and padding

	aead  cipher.AEAD
	nonce nonce
	aad   [12]byte

	plain *plainCipher // instead of aead
}

// NewOutbound makes the sending side of an SA. Its first packet has sequence
// number 1.
func NewOutbound(c Config) (*Outbound, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("make outbound SA: %w", err)
	}
	o := &Outbound{
		spi:   c.SPI,
		esn:   c.Suite.ESN,
		align: alignment(c.Suite),
		last:  math.MaxUint32,
		fixed: headerLen + c.Suite.IVLen() + 2 + c.Suite.ICVLen(),
	}
	if o.esn {
		o.last = math.MaxUint64
	}
	if !c.Suite.AEAD() {
		plain, err := newPlain(c.Suite, c.Key, cipher.NewCBCEncrypter)
		if err != nil {
			return nil, fmt.Errorf("make outbound SA: %w", err)
		}
		o.plain = plain
		return o, nil
	}
	aead, nonce, err := newAEAD(c.Suite, c.Key)
	if err != nil {
		return nil, fmt.Errorf("make outbound SA: %w", err)
	}
	o.aead, o.nonce = aead, nonce
	return o, nil
}

// SPI returns the SPI that the SA's packets carry.
func (o *Outbound) SPI() uint32 { return o.spi }

// Sequence returns the sequence number last used, 0 before the first packet.
func (o *Outbound) Sequence() uint64 { return o.seq }

// SealedLen returns how long the ESP packet for a payload of n octets is.
func (o *Outbound) SealedLen(n int) int {
	return o.fixed + n + o.padding(n)
}

// MaxPayload returns the longest payload whose ESP packet has at most limit
// octets, 0 if there is none.
func (o *Outbound) MaxPayload(limit int) int {
	return maxPayload(limit, o.fixed, o.align)
}

// padding is the least that ends the plaintext on the alignment, which is a
// power of two (RFC 4303, Section 2.4).
func (o *Outbound) padding(n int) int { return -(n + 2) & (o.align - 1) }

// Seal appends the ESP packet that carries payload to dst and returns it.
//
// The payload's capacity must reach at least TrailerRoom octets beyond its
// length: Seal puts the trailer there, so that the cipher reads one piece, and
// restores those octets. dst and payload must not overlap. Nothing is
// allocated if dst has SealedLen(len(payload)) octets of room.
//
// Errors: ErrSequenceExhausted, ErrNoTrailerRoom.
func (o *Outbound) Seal(dst, payload []byte, nextHeader uint8) ([]byte, error) {
	n := len(payload)
	if cap(payload)-n < TrailerRoom {
		return dst, ErrNoTrailerRoom
	}
	if o.seq >= o.last {
		return dst, ErrSequenceExhausted
	}
	o.seq++
	if room := o.SealedLen(n); cap(dst)-len(dst) < room {
		dst = slices.Grow(dst, room)
	}
	if o.plain != nil {
		return o.sealPlain(dst, payload, nextHeader), nil
	}
	start := len(dst)
	dst = dst[:start+headerLen+aeadIVLen]
	h := dst[start : start+headerLen+aeadIVLen]
	binary.BigEndian.PutUint32(h, o.spi)
	binary.BigEndian.PutUint32(h[4:], uint32(o.seq))
	// The sequence number as IV: unique for the key, because it never wraps
	// (RFC 4106, Section 3.1).
	binary.BigEndian.PutUint64(h[8:], o.seq)
	binary.BigEndian.PutUint64(o.nonce.iv()[:], o.seq)
	aad := o.aad[:additional(&o.aad, o.spi, o.seq, o.esn)]

	// At most 3 octets of padding and 2 of trailer: one word, put back after.
	pad := o.padding(n)
	behind := payload[n : n+8 : n+8]
	saved := binary.LittleEndian.Uint64(behind)
	binary.LittleEndian.PutUint64(behind, paddings[pad]|uint64(nextHeader)<<(8*(pad+1)))
	dst = o.aead.Seal(dst, o.nonce.bytes(), payload[:n+pad+2], aad)
	binary.LittleEndian.PutUint64(behind, saved)
	return dst, nil
}

// paddings holds, for 0 to 3 octets of padding, the padding 1, 2, 3 and the pad
// length behind it (RFC 4303, Section 2.4), lowest octet first.
var paddings = [4]uint64{0x00, 0x0101, 0x020201, 0x03030201}

func (o *Outbound) sealPlain(dst, payload []byte, nextHeader uint8) []byte {
	n, pad, start := len(payload), o.padding(len(payload)), len(dst)
	behind := payload[n : n+TrailerRoom]
	saved := [TrailerRoom]byte(behind)
	for i := range pad {
		behind[i] = byte(i + 1)
	}
	behind[pad], behind[pad+1] = byte(pad), nextHeader

	body := start + headerLen + o.plain.ivLen
	dst = dst[:body+n+pad+2]
	binary.BigEndian.PutUint32(dst[start:], o.spi)
	binary.BigEndian.PutUint32(dst[start+4:], uint32(o.seq))
	iv := dst[start+headerLen : body]
	switch {
	case o.plain.random:
		rand.Read(iv) // cannot fail
	case len(iv) > 0:
		binary.BigEndian.PutUint64(iv, o.seq) // unique, as in Seal
	}
	o.plain.mode.crypt(dst[body:], payload[:n+pad+2], iv)
	copy(behind, saved[:])
	return append(dst, o.plain.icv(dst[start:], o.seq, o.esn)...)
}

// SetSequenceForTest makes seq the number last used.
func (o *Outbound) SetSequenceForTest(seq uint64) { o.seq = seq }
