package suite

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"slices"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// ErrAuthentication means that the integrity check of an Encrypted payload
// failed: it did not come from the peer as it is. Nothing may change because
// of it.
var ErrAuthentication = errors.New("integrity check failed")

// ErrPadding means that an authentic Encrypted payload has padding that does
// not fit it: the peer is at fault, INVALID_SYNTAX is the answer.
var ErrPadding = errors.New("invalid padding")

// Protector seals or opens the Encrypted payloads (SK and SKF) of one
// direction of an IKE SA: RFC 7296, Section 3.14, for CBC and RFC 5930 for CTR,
// both with an integrity algorithm, and RFC 5282 for combined-mode ciphers. It counts the messages it seals, so that no
// IV repeats under a key. It is not safe for concurrent use.
type Protector struct {
	spec cipherSpec
	icv  int
	// keys are those of the cipher and of integrity until the first message: a
	// handshake that goes no further is not worth their expansion.
	keys []byte

	aead  cipher.AEAD // combined-mode ciphers
	nonce []byte      // salt, then IV

	block cipher.Block // CBC
	ctr   *CTR
	mac   hash.Hash // CBC and CTR

	integrity wire.IntegrityID
	sealed    uint64
}

// NewProtector makes a Protector from SK_ei and SK_ai, or from SK_er and
// SK_ar; integrityKey is empty for a combined-mode cipher. It copies the keys.
func NewProtector(s IKESuite, encryptionKey, integrityKey []byte) (*Protector, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	return newProtector(s, encryptionKey, integrityKey)
}

func newProtector(s IKESuite, encryptionKey, integrityKey []byte) (*Protector, error) {
	if len(encryptionKey) != s.EncryptionKeyLen() || len(integrityKey) != s.IntegrityKeyLen() {
		return nil, fmt.Errorf("protect messages with %s: keys have %d and %d octets, want %d and %d",
			s, len(encryptionKey), len(integrityKey), s.EncryptionKeyLen(), s.IntegrityKeyLen())
	}
	spec, _ := cipherOf(Encryption{s.Encryption, s.KeyBits})
	p := &Protector{spec: spec, icv: spec.icvLen, keys: slices.Concat(encryptionKey, integrityKey)}
	if !spec.aead() {
		h, _ := findMAC(integrities, uint16(s.Integrity))
		p.integrity, p.icv = s.Integrity, h.icvLen
	}
	return p, nil
}

// expand makes the ciphers, once.
func (p *Protector) expand() {
	if p.keys == nil {
		return
	}
	encryptionKey, integrityKey := p.keys[:p.spec.keyLen+p.spec.saltLen], p.keys[p.spec.keyLen+p.spec.saltLen:]
	cipherKey, salt := encryptionKey[:p.spec.keyLen], encryptionKey[p.spec.keyLen:]
	var err error
	switch {
	case p.spec.aead():
		p.aead, err = NewAEAD(p.spec.Encryption, cipherKey)
		p.nonce = append(slices.Clone(salt), make([]byte, p.spec.ivLen)...)
	case p.spec.Encryption.ID == wire.EncryptionAESCTR:
		p.ctr, err = NewCTR(cipherKey, salt)
	default:
		p.block, err = aes.NewCipher(cipherKey)
	}
	if err != nil {
		panic("suite: " + err.Error()) // the lengths of the keys were checked
	}
	if !p.spec.aead() {
		h, _ := findMAC(integrities, uint16(p.integrity))
		p.mac = h.new(integrityKey)
	}
	clear(p.keys)
	p.keys = nil
}

// SealedLen returns the length of the body, from IV to ICV, that Seal makes
// out of n octets of payloads. The lengths in the headers must be set from it
// before Seal, because they are authenticated.
func (p *Protector) SealedLen(n int) int {
	return p.spec.ivLen + n + p.padding(n) + 1 + p.icv
}

// Overhead returns by how much SealedLen can exceed its argument at most.
func (p *Protector) Overhead() int {
	return p.spec.ivLen + p.spec.block + p.icv
}

// padding is the least that fills the block with payloads and Pad Length.
func (p *Protector) padding(n int) int {
	return (p.spec.block - (n+1)%p.spec.block) % p.spec.block
}

// Seal appends to dst the body of an Encrypted payload with the payloads in
// plaintext: IV, ciphertext, ICV. header is the message from the first octet
// of the IKE header through the header of the Encrypted payload, which for SKF
// includes the fragment numbers (RFC 7383, Section 2.5). dst may be header
// itself with spare capacity.
func (p *Protector) Seal(dst, header, plaintext []byte) []byte {
	if p.spec.block == 0 {
		panic("suite: Seal after Destroy")
	}
	p.expand()
	start := len(dst)
	total := p.SealedLen(len(plaintext))
	dst = append(dst, make([]byte, total)...)
	body := dst[start:]
	pad := p.padding(len(plaintext))
	text := body[p.spec.ivLen : p.spec.ivLen+len(plaintext)+pad+1]
	copy(text, plaintext)
	text[len(text)-1] = byte(pad)

	iv := body[:p.spec.ivLen]
	binary.BigEndian.PutUint64(iv[len(iv)-8:], p.sealed)
	p.sealed++
	if p.aead != nil {
		copy(p.nonce[p.spec.saltLen:], iv)
		p.aead.Seal(text[:0], p.nonce, text, header)
		return dst
	}
	if p.ctr != nil {
		p.ctr.Crypt(text, text, iv)
	} else {
		// The cipher of a counter is unpredictable without the key, as
		// CBC needs it (NIST SP 800-38A, Appendix C).
		p.block.Encrypt(iv, iv)
		cipher.NewCBCEncrypter(p.block, iv).CryptBlocks(text, text)
	}
	copy(body[total-p.icv:], p.checksum(header, body[:total-p.icv]))
	return dst
}

// Open returns the payloads in the body of an Encrypted payload, appended to
// dst. header is as for Seal, from the message as received. The error is
// ErrAuthentication or ErrPadding.
func (p *Protector) Open(dst, header, body []byte) ([]byte, error) {
	if p.spec.block == 0 {
		return nil, ErrAuthentication // after Destroy
	}
	p.expand()
	n := len(body) - p.spec.ivLen - p.icv
	if n < 1 || n%p.spec.block != 0 {
		return nil, ErrAuthentication
	}
	iv, text := body[:p.spec.ivLen], body[p.spec.ivLen:]
	start := len(dst)
	if p.aead != nil {
		copy(p.nonce[p.spec.saltLen:], iv)
		out, err := p.aead.Open(dst, p.nonce, text, header)
		if err != nil {
			return nil, ErrAuthentication
		}
		return unpad(out, start)
	}
	if !hmac.Equal(p.checksum(header, body[:len(body)-p.icv]), text[n:]) {
		return nil, ErrAuthentication
	}
	dst = append(dst, text[:n]...)
	if p.ctr != nil {
		p.ctr.Crypt(dst[start:], dst[start:], iv)
	} else {
		cipher.NewCBCDecrypter(p.block, iv).CryptBlocks(dst[start:], dst[start:])
	}
	return unpad(dst, start)
}

// checksum is the Integrity Checksum Data of RFC 7296, Section 3.14.
func (p *Protector) checksum(header, body []byte) []byte {
	p.mac.Reset()
	p.mac.Write(header)
	p.mac.Write(body)
	return p.mac.Sum(nil)[:p.icv]
}

// unpad removes Padding and Pad Length after b[:start]. The content of the
// padding is the sender's business.
func unpad(b []byte, start int) ([]byte, error) {
	pad := int(b[len(b)-1])
	if pad+1 > len(b)-start {
		return nil, ErrPadding
	}
	return b[:len(b)-pad-1], nil
}

// Destroy forgets the keys: from then on Open opens nothing and Seal panics.
// The expanded keys live inside the standard library, where they cannot be
// overwritten from here.
func (p *Protector) Destroy() {
	clear(p.keys)
	*p = Protector{}
}
