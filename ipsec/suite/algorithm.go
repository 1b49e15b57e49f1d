package suite

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// PRF is a pseudorandom function of RFC 7296, Section 2.13. Its value is the
// Transform ID on the wire.
type PRF wire.PRFID

// PRFs that this package can compute: RFC 4868, RFC 7296, Section 2.13, and RFC
// 4434.
const (
	PRFHMACSHA256 = PRF(wire.PRFHMACSHA256)
	PRFHMACSHA384 = PRF(wire.PRFHMACSHA384)
	PRFHMACSHA512 = PRF(wire.PRFHMACSHA512)
	PRFHMACSHA1   = PRF(wire.PRFHMACSHA1)
	PRFAES128XCBC = PRF(wire.PRFAES128XCBC)
)

// Encryption names one encryption transform: the algorithm and the length of
// its key in bits. KeyBits is 0 for an algorithm with a single key length,
// which takes no Key Length attribute (RFC 7296, Section 3.3.5).
type Encryption struct {
	ID      wire.EncryptionID
	KeyBits uint16
}

// cipherSpec holds the sizes, in octets, that an encryption transform fixes.
type cipherSpec struct {
	keyword string
	Encryption
	keyLen  int  // of the cipher key, without the salt
	saltLen int  // taken from the keying material after the cipher key
	ivLen   int  // carried in each packet
	icvLen  int  // of a combined-mode cipher; 0 means that an integrity algorithm is needed
	block   int  // plaintext and padding fill a multiple of this
	espOnly bool // it does not encrypt: of no use to IKE (RFC 7296, Section 3.3.2)
}

func (c cipherSpec) aead() bool { return c.icvLen > 0 }

// ciphers is ordered: known keywords are listed to people in this order.
var ciphers = []cipherSpec{
	// RFC 4106, Section 8.1; RFC 5282, Section 7.1.
	{"aes128gcm16", Encryption{wire.EncryptionAESGCM16, 128}, 16, 4, 8, 16, 1, false},
	{"aes192gcm16", Encryption{wire.EncryptionAESGCM16, 192}, 24, 4, 8, 16, 1, false},
	{"aes256gcm16", Encryption{wire.EncryptionAESGCM16, 256}, 32, 4, 8, 16, 1, false},
	// RFC 7634, Section 2.
	{"chacha20poly1305", Encryption{wire.EncryptionChaCha20Poly1305, 0}, 32, 4, 8, 16, 1, false},
	// RFC 3602.
	{"aes128", Encryption{wire.EncryptionAESCBC, 128}, 16, 0, 16, 0, 16, false},
	{"aes192", Encryption{wire.EncryptionAESCBC, 192}, 24, 0, 16, 0, 16, false},
	{"aes256", Encryption{wire.EncryptionAESCBC, 256}, 32, 0, 16, 0, 16, false},
	// RFC 3686, Section 5; RFC 5930.
	{"aes128ctr", Encryption{wire.EncryptionAESCTR, 128}, 16, 4, CTRIVLen, 0, 1, false},
	{"aes192ctr", Encryption{wire.EncryptionAESCTR, 192}, 24, 4, CTRIVLen, 0, 1, false},
	{"aes256ctr", Encryption{wire.EncryptionAESCTR, 256}, 32, 4, CTRIVLen, 0, 1, false},
	// Short ICVs: RFC 4106, Section 6; RFC 5282, Section 3.2.
	{"aes128gcm12", Encryption{wire.EncryptionAESGCM12, 128}, 16, 4, 8, 12, 1, false},
	{"aes192gcm12", Encryption{wire.EncryptionAESGCM12, 192}, 24, 4, 8, 12, 1, false},
	{"aes256gcm12", Encryption{wire.EncryptionAESGCM12, 256}, 32, 4, 8, 12, 1, false},
	{"aes128gcm8", Encryption{wire.EncryptionAESGCM8, 128}, 16, 4, 8, 8, 1, false},
	{"aes192gcm8", Encryption{wire.EncryptionAESGCM8, 192}, 24, 4, 8, 8, 1, false},
	{"aes256gcm8", Encryption{wire.EncryptionAESGCM8, 256}, 32, 4, 8, 8, 1, false},
	// RFC 4309, Section 7.1; RFC 5282, Section 7.1.
	{"aes128ccm16", Encryption{wire.EncryptionAESCCM16, 128}, 16, 3, 8, 16, 1, false},
	{"aes256ccm16", Encryption{wire.EncryptionAESCCM16, 256}, 32, 3, 8, 16, 1, false},
	{"aes128ccm12", Encryption{wire.EncryptionAESCCM12, 128}, 16, 3, 8, 12, 1, false},
	{"aes256ccm12", Encryption{wire.EncryptionAESCCM12, 256}, 32, 3, 8, 12, 1, false},
	{"aes128ccm8", Encryption{wire.EncryptionAESCCM8, 128}, 16, 3, 8, 8, 1, false},
	{"aes256ccm8", Encryption{wire.EncryptionAESCCM8, 256}, 32, 3, 8, 8, 1, false},
	// RFC 4543, Section 3 and 5: integrity without confidentiality.
	{keyword: "aes128gmac", Encryption: Encryption{wire.EncryptionNullAESGMAC, 128}, keyLen: 16, saltLen: 4, ivLen: 8, icvLen: 16, block: 1, espOnly: true},
	{keyword: "aes192gmac", Encryption: Encryption{wire.EncryptionNullAESGMAC, 192}, keyLen: 24, saltLen: 4, ivLen: 8, icvLen: 16, block: 1, espOnly: true},
	{keyword: "aes256gmac", Encryption: Encryption{wire.EncryptionNullAESGMAC, 256}, keyLen: 32, saltLen: 4, ivLen: 8, icvLen: 16, block: 1, espOnly: true},
	// RFC 2410: for debugging.
	{keyword: "null", Encryption: Encryption{ID: wire.EncryptionNull}, block: 1, espOnly: true},
}

func cipherOf(e Encryption) (cipherSpec, bool) {
	for _, c := range ciphers {
		if c.Encryption == e {
			return c, true
		}
	}
	return cipherSpec{}, false
}

// macSpec describes a keyed hash, whether it serves as PRF or as integrity
// algorithm.
type macSpec struct {
	keyword string
	id      uint16
	new     func(key []byte) hash.Hash
	size    int // output and preferred key length, octets; of GMAC the latter
	icvLen  int // octets sent of the output (RFC 4868, Section 2.6); PRFs are not truncated
}

// withHMAC returns HMAC with a hash (RFC 2104).
func withHMAC(h func() hash.Hash) func(key []byte) hash.Hash {
	return func(key []byte) hash.Hash { return hmac.New(h, key) }
}

// prfs and integrities have the same hashes in the same places. What RFC 8247
// calls MUST- or for the Internet of Things comes last: no default has it.
var prfs = []macSpec{
	{"prfsha256", uint16(wire.PRFHMACSHA256), withHMAC(sha256.New), 32, 32},
	{"prfsha384", uint16(wire.PRFHMACSHA384), withHMAC(sha512.New384), 48, 48},
	{"prfsha512", uint16(wire.PRFHMACSHA512), withHMAC(sha512.New), 64, 64},
	{"prfsha1", uint16(wire.PRFHMACSHA1), withHMAC(sha1.New), 20, 20},
	{"prfaesxcbc", uint16(wire.PRFAES128XCBC), newPRFXCBC, 16, 16},
}

var integrities = []macSpec{
	{"sha256", uint16(wire.IntegrityHMACSHA256), withHMAC(sha256.New), 32, 16},
	{"sha384", uint16(wire.IntegrityHMACSHA384), withHMAC(sha512.New384), 48, 24},
	{"sha512", uint16(wire.IntegrityHMACSHA512), withHMAC(sha512.New), 64, 32},
	{"sha1", uint16(wire.IntegrityHMACSHA1), withHMAC(sha1.New), 20, 12},
	{"aesxcbc", uint16(wire.IntegrityAESXCBC), func(key []byte) hash.Hash { return newXCBC(key) }, 16, 12},
}

// gmacs are for AH alone: they are no keyed hashes but take a nonce, and their
// keys end with the salt of it (RFC 4543, Sections 4 and 5.1).
var gmacs = []macSpec{
	{"aes128gmac", uint16(wire.IntegrityAES128GMAC), nil, 16 + gmacSaltLen, 16},
	{"aes192gmac", uint16(wire.IntegrityAES192GMAC), nil, 24 + gmacSaltLen, 16},
	{"aes256gmac", uint16(wire.IntegrityAES256GMAC), nil, 32 + gmacSaltLen, 16},
}

const (
	gmacSaltLen = 4
	gmacIVLen   = 8
)

// NewMAC returns the integrity algorithm id for a key of the length that
// ESPSuite.IntegrityKeyLen names. Of its output the first ICVLen octets are
// sent.
func NewMAC(id wire.IntegrityID, key []byte) (hash.Hash, error) {
	m, ok := findMAC(integrities, uint16(id))
	if !ok {
		return nil, fmt.Errorf("make %s: not an integrity algorithm known here", id)
	}
	if len(key) != m.size {
		return nil, fmt.Errorf("make %s: key of %d octets, want %d", id, len(key), m.size)
	}
	return m.new(key), nil
}

// prfOfIntegrity is the PRF that a proposal implies when it names an integrity
// algorithm and no PRF: the one on the same hash.
func prfOfIntegrity(id wire.IntegrityID) wire.PRFID {
	for i, h := range integrities {
		if h.id == uint16(id) {
			return wire.PRFID(prfs[i].id)
		}
	}
	return 0
}

func findMAC(table []macSpec, id uint16) (macSpec, bool) {
	for _, h := range table {
		if h.id == id {
			return h, true
		}
	}
	return macSpec{}, false
}

type groupSpec struct {
	keyword   string
	id        wire.KeyExchangeID
	publicLen int // of the initiator's Key Exchange Data, octets; see replyLen
	sharedLen int
}

var groups = []groupSpec{
	{"x25519", wire.KeyExchangeCurve25519, 32, 32},
	{"ecp256", wire.KeyExchangeECP256, 64, 32},
	{"ecp384", wire.KeyExchangeECP384, 96, 48},
	{"ecp521", wire.KeyExchangeECP521, 132, 66},
	{"modp2048", wire.KeyExchangeMODP2048, 256, 256},
	{"modp3072", wire.KeyExchangeMODP3072, 384, 384},
	{"modp4096", wire.KeyExchangeMODP4096, 512, 512},
	{"mlkem768", wire.KeyExchangeMLKEM768, 1184, 32},
	{"mlkem1024", wire.KeyExchangeMLKEM1024, 1568, 32},
}

func groupOf(id wire.KeyExchangeID) (groupSpec, bool) {
	for _, g := range groups {
		if g.id == id {
			return g, true
		}
	}
	return groupSpec{}, false
}

// IKESuite is the set of algorithms of one IKE SA: exactly one of each
// mandatory transform type of RFC 7296, Section 3.3.3.
type IKESuite struct {
	Encryption  wire.EncryptionID
	KeyBits     uint16 // 0 if the cipher has a single key length
	PRF         PRF
	Integrity   wire.IntegrityID // 0 for a combined-mode cipher
	KeyExchange wire.KeyExchangeID
	Additional  AdditionalMethods // RFC 9370
}

// String returns the suite in the keyword form that ParseIKE reads.
func (s IKESuite) String() string { return s.proposal().String() }

func (s IKESuite) proposal() IKEProposal {
	p := IKEProposal{
		Encryption:  []Encryption{{s.Encryption, s.KeyBits}},
		PRF:         []PRF{s.PRF},
		KeyExchange: []wire.KeyExchangeID{s.KeyExchange},
		Additional:  s.Additional.offers(),
	}
	if s.Integrity != 0 {
		p.Integrity = []wire.IntegrityID{s.Integrity}
	}
	return p
}

// validate reports why keys cannot be made for s.
func (s IKESuite) validate() error {
	if err := s.proposal().Validate(); err != nil {
		return fmt.Errorf("IKE suite: %w", err)
	}
	return nil
}

// AEAD reports whether the cipher protects integrity by itself.
func (s IKESuite) AEAD() bool { return isAEAD(Encryption{s.Encryption, s.KeyBits}) }

// EncryptionKeyLen returns the length in octets of SK_ei and of SK_er, salt
// included (RFC 5282, Section 7.1).
func (s IKESuite) EncryptionKeyLen() int {
	return encryptionKeyLen(Encryption{s.Encryption, s.KeyBits})
}

// IntegrityKeyLen returns the length in octets of SK_ai and of SK_ar, 0 for a
// combined-mode cipher (RFC 5282, Section 7.1; RFC 4868, Section 2.1.1).
func (s IKESuite) IntegrityKeyLen() int { return integrityKeyLen(s.Integrity) }

// ESPSuite is the set of algorithms of one pair of ESP SAs, or of AH SAs (RFC
// 7296, Section 3.3.3).
type ESPSuite struct {
	AH          bool // AH (RFC 4302): it has Integrity and no Encryption
	Encryption  wire.EncryptionID
	KeyBits     uint16             // 0 if the cipher has a single key length
	Integrity   wire.IntegrityID   // 0 for a combined-mode cipher
	KeyExchange wire.KeyExchangeID // 0 when the exchange makes no key exchange of its own
	Additional  AdditionalMethods  // RFC 9370
	ESN         bool               // 64-bit sequence numbers (RFC 4303, Section 2.2.1)
}

// String returns the suite in the keyword form that ParseESP reads.
func (s ESPSuite) String() string { return s.proposal().String() }

func (s ESPSuite) proposal() ESPProposal {
	p := ESPProposal{AH: s.AH, Additional: s.Additional.offers()}
	if e := (Encryption{s.Encryption, s.KeyBits}); !s.AH || e != (Encryption{}) {
		p.Encryption = []Encryption{e}
	}
	if s.Integrity != 0 {
		p.Integrity = []wire.IntegrityID{s.Integrity}
	}
	if s.KeyExchange != 0 {
		p.KeyExchange = []wire.KeyExchangeID{s.KeyExchange}
	}
	p.SequenceNumbers = []wire.SequenceNumbersID{sequenceNumbers(s.ESN)}
	return p
}

// Protocol returns what the SAs are of: ESP or AH.
func (s ESPSuite) Protocol() wire.ProtocolID { return childProtocol(s.AH) }

func childProtocol(ah bool) wire.ProtocolID {
	if ah {
		return wire.ProtocolAH
	}
	return wire.ProtocolESP
}

// Validate reports why s cannot protect packets: an algorithm that is not
// known here or that failed its self-test, or a cipher without integrity.
func (s ESPSuite) Validate() error {
	if err := s.proposal().Validate(); err != nil {
		return fmt.Errorf("%s suite: %w", s.Protocol(), err)
	}
	return nil
}

// AEAD reports whether the cipher protects integrity by itself.
func (s ESPSuite) AEAD() bool { return isAEAD(Encryption{s.Encryption, s.KeyBits}) }

// EncryptionKeyLen returns the octets of keying material that the cipher of
// one direction takes, salt included (RFC 4106, Section 8.1).
func (s ESPSuite) EncryptionKeyLen() int {
	return encryptionKeyLen(Encryption{s.Encryption, s.KeyBits})
}

// IntegrityKeyLen returns the octets of keying material that the integrity
// algorithm of one direction takes, 0 for a combined-mode cipher.
func (s ESPSuite) IntegrityKeyLen() int { return integrityKeyLen(s.Integrity) }

// KeyLen returns the octets of keying material of one direction.
func (s ESPSuite) KeyLen() int { return s.EncryptionKeyLen() + s.IntegrityKeyLen() }

// SaltLen returns how many octets at the end of the encryption key are salt.
func (s ESPSuite) SaltLen() int {
	c, _ := cipherOf(Encryption{s.Encryption, s.KeyBits})
	return c.saltLen
}

// IVLen returns the octets of initialization vector in each packet; AH has one
// with GMAC alone, within its ICV field (RFC 4543, Section 4).
func (s ESPSuite) IVLen() int {
	if _, gmac := findMAC(gmacs, uint16(s.Integrity)); gmac {
		return gmacIVLen
	}
	c, _ := cipherOf(Encryption{s.Encryption, s.KeyBits})
	return c.ivLen
}

// ICVLen returns the octets of integrity check value in each packet.
func (s ESPSuite) ICVLen() int {
	if c, ok := cipherOf(Encryption{s.Encryption, s.KeyBits}); ok && c.aead() {
		return c.icvLen
	}
	h, _ := integrityOf(s.Integrity)
	return h.icvLen
}

// BlockLen returns the octets that encrypted data must be a multiple of; ESP
// itself asks for at least 4 (RFC 4303, Section 2.4).
func (s ESPSuite) BlockLen() int {
	c, _ := cipherOf(Encryption{s.Encryption, s.KeyBits})
	return c.block
}

// SplitKey cuts the key of one direction as DeriveChildKeys makes it: cipher
// key, salt, integrity key (RFC 4301, Section 4.5.2). The parts share key's
// memory. The error never holds key octets.
func (s ESPSuite) SplitKey(key []byte) (cipherKey, salt, integrityKey []byte, err error) {
	if len(key) != s.KeyLen() {
		return nil, nil, nil, fmt.Errorf("ESP key for %s has %d octets, want %d", s, len(key), s.KeyLen())
	}
	enc := s.EncryptionKeyLen()
	cut := enc - s.SaltLen()
	return key[:cut:cut], key[cut:enc:enc], key[enc:], nil
}

func isAEAD(e Encryption) bool {
	c, ok := cipherOf(e)
	return ok && c.aead()
}

func espOnly(e Encryption) bool {
	c, _ := cipherOf(e)
	return c.espOnly
}

// integrityOf finds an integrity algorithm of IKE, ESP or AH.
func integrityOf(id wire.IntegrityID) (macSpec, bool) {
	if h, ok := findMAC(integrities, uint16(id)); ok {
		return h, true
	}
	return findMAC(gmacs, uint16(id))
}

func encryptionKeyLen(e Encryption) int {
	c, _ := cipherOf(e)
	return c.keyLen + c.saltLen
}

func integrityKeyLen(id wire.IntegrityID) int {
	h, _ := integrityOf(id)
	return h.size
}

func sequenceNumbers(esn bool) wire.SequenceNumbersID {
	if esn {
		return wire.SequenceNumbersExtended
	}
	return wire.SequenceNumbers32
}
