package suite

import (
	"bytes"
	"crypto"
	"crypto/mlkem"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// mlkemMethod is a parameter set of ML-KEM (FIPS 203) as a key exchange method
// of draft-ietf-ipsecme-ikev2-mlkem: the initiator sends an encapsulation key,
// the responder a ciphertext.
type mlkemMethod struct {
	ciphertextLen    int
	decapsulationKey func(seed []byte) (crypto.Decapsulator, error)
	encapsulationKey func(b []byte) (crypto.Encapsulator, error)
}

var mlkemMethods = map[wire.KeyExchangeID]mlkemMethod{
	wire.KeyExchangeMLKEM768: {
		mlkem.CiphertextSize768,
		func(seed []byte) (crypto.Decapsulator, error) { return mlkem.NewDecapsulationKey768(seed) },
		func(b []byte) (crypto.Encapsulator, error) { return mlkem.NewEncapsulationKey768(b) },
	},
	wire.KeyExchangeMLKEM1024: {
		mlkem.CiphertextSize1024,
		func(seed []byte) (crypto.Decapsulator, error) { return mlkem.NewDecapsulationKey1024(seed) },
		func(b []byte) (crypto.Encapsulator, error) { return mlkem.NewEncapsulationKey1024(b) },
	},
}

// replyLen is the length of the responder's Key Exchange Data, octets.
func (g groupSpec) replyLen() int {
	if m, ok := mlkemMethods[g.id]; ok {
		return m.ciphertextLen
	}
	return g.publicLen
}

// mlkemPrivate is the decapsulation key of an initiator.
type mlkemPrivate struct{ key crypto.Decapsulator }

// newMLKEMPrivate makes a decapsulation key out of 64 octets of rand: d and z
// of FIPS 203, Section 7.1.
func newMLKEMPrivate(m mlkemMethod, rand io.Reader) (*mlkemPrivate, error) {
	seed := make([]byte, mlkem.SeedSize)
	defer clear(seed)
	if _, err := io.ReadFull(rand, seed); err != nil {
		return nil, fmt.Errorf("read randomness: %w", err)
	}
	key, err := m.decapsulationKey(seed)
	if err != nil {
		return nil, err
	}
	return &mlkemPrivate{key}, nil
}

func (p *mlkemPrivate) public() []byte { return p.key.Encapsulator().Bytes() }

// shared takes a ciphertext. One that was not made for this key gives a secret
// that nobody else has (FIPS 203, Section 6.3), so the messages under the keys
// from it fail their integrity check.
func (p *mlkemPrivate) shared(ciphertext []byte) ([]byte, error) {
	return p.key.Decapsulate(ciphertext)
}

// destroy does nothing: the standard library keeps the key in memory that
// cannot be overwritten from here.
func (p *mlkemPrivate) destroy() {}

// encapsulate is the responder's half. It checks that the initiator's key has
// the right length and that its coefficients are reduced (FIPS 203, Section
// 7.2). The standard library takes the randomness from the system and not from
// a caller.
func (m mlkemMethod) encapsulate(peer []byte) (ciphertext, shared []byte, err error) {
	key, err := m.encapsulationKey(peer)
	if err != nil {
		return nil, nil, errors.New("not an encapsulation key")
	}
	shared, ciphertext = key.Encapsulate()
	return ciphertext, shared, nil
}

// mlkemAnswer is what the key whose seed counts 1, 2, ... 64 gives, computed
// with another implementation: the SHA-256 of its encapsulation key, and the
// secret for a ciphertext of the octet a5 throughout, which is rejected and so
// takes both decryption and encryption.
type mlkemAnswer struct{ encapsulationKey, rejected string }

var mlkemAnswers = map[wire.KeyExchangeID]mlkemAnswer{
	wire.KeyExchangeMLKEM768: {
		"db4782927013b79c13111f87949d9c9d39ca8c25dd52155d98d6e7f2bad55087",
		"3747b9b9599a1ae69e340a2668302804d0670a3ac6da22c30ff912048985bba9",
	},
	wire.KeyExchangeMLKEM1024: {
		"3a05c1d65fcaec3bec38e85c46d68bbcebf4070bf604e77024b5c19d7163b627",
		"44454b60a71ca6d196b688b5dea5d8f5f749254fdb47f2a142f07fabdfbce30b",
	},
}

func mlkemTestSeed() io.Reader {
	seed := make([]byte, mlkem.SeedSize)
	for i := range seed {
		seed[i] = byte(i + 1)
	}
	return bytes.NewReader(seed)
}

// answersKnown reports whether the method gives its known answers, and whether
// both ends of an exchange agree.
func (m mlkemMethod) answersKnown(id wire.KeyExchangeID) bool {
	answer := mlkemAnswers[id]
	p, err := newMLKEMPrivate(m, mlkemTestSeed())
	if err != nil {
		return false
	}
	digest := sha256.Sum256(p.public())
	rejected, err := p.shared(bytes.Repeat([]byte{0xa5}, m.ciphertextLen))
	if err != nil || !bytes.Equal(digest[:], unhex(answer.encapsulationKey)) || !bytes.Equal(rejected, unhex(answer.rejected)) {
		return false
	}
	ciphertext, theirs, err := m.encapsulate(p.public())
	if err != nil {
		return false
	}
	ours, err := p.shared(ciphertext)
	return err == nil && bytes.Equal(ours, theirs)
}
