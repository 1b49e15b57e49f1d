package suite

import (
	"crypto/ecdh"
	"errors"
	"fmt"
	"io"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// ErrInvalidPublicValue means that the peer's Key Exchange Data is not a value
// of the group: wrong length, not on the curve, the point at infinity, out of
// the range of a MODP group, a value that forces the shared secret to zero, or
// no encapsulation key of ML-KEM.
// The exchange must end (RFC 6989, Section 2; RFC 7748, Section 6.1).
var ErrInvalidPublicValue = errors.New("invalid public value")

// KeyExchange is the ephemeral private value of an initiator; a responder calls
// Respond. It is used for one exchange and then destroyed (RFC 7296, Section 2.12). It is not safe for concurrent use.
type KeyExchange struct {
	group   groupSpec
	private privateValue // nil after Destroy
	public  []byte
}

// privateValue is a private value of one kind of group.
type privateValue interface {
	public() []byte
	// shared returns the secret with a public value of the right length, or
	// an error that says in a few words what is wrong with that value.
	shared(peer []byte) ([]byte, error)
	destroy()
}

// NewKeyExchange makes a private value of group out of rand: exactly 32 octets
// for X25519, 64 for ML-KEM, the private length for MODP groups, and for the
// NIST curves as many scalars as it takes until one is in range. The same octets
// give the same value.
func NewKeyExchange(group wire.KeyExchangeID, rand io.Reader) (*KeyExchange, error) {
	spec, ok := groupOf(group)
	if !ok {
		return nil, fmt.Errorf("key exchange: group %s is not implemented, use one of %s", group, keywords(kindKeyExchange))
	}
	if err := testKeyExchange(group); err != nil {
		return nil, err
	}
	return newKeyExchange(spec, rand)
}

func newKeyExchange(spec groupSpec, rand io.Reader) (*KeyExchange, error) {
	private, err := newPrivateValue(spec, rand)
	if err != nil {
		return nil, fmt.Errorf("make a private value for %s: %w", spec.keyword, err)
	}
	return &KeyExchange{group: spec, private: private, public: private.public()}, nil
}

func newPrivateValue(spec groupSpec, rand io.Reader) (privateValue, error) {
	if g, ok := modpGroups[spec.id]; ok {
		return newMODPPrivate(g, rand)
	}
	if m, ok := mlkemMethods[spec.id]; ok {
		return newMLKEMPrivate(m, rand)
	}
	return newCurvePrivate(curves[spec.id], spec.sharedLen, rand)
}

// curves are the groups on elliptic curves.
var curves = map[wire.KeyExchangeID]ecdh.Curve{
	wire.KeyExchangeCurve25519: ecdh.X25519(),
	wire.KeyExchangeECP256:     ecdh.P256(),
	wire.KeyExchangeECP384:     ecdh.P384(),
	wire.KeyExchangeECP521:     ecdh.P521(),
}

// curvePrivate is a private value of X25519 or of a NIST curve.
type curvePrivate struct {
	curve ecdh.Curve
	key   *ecdh.PrivateKey
}

func newCurvePrivate(curve ecdh.Curve, scalarLen int, rand io.Reader) (*curvePrivate, error) {
	scalar := make([]byte, scalarLen)
	defer clear(scalar)
	// A scalar of P-256 is out of range once in 2^32, of the larger curves
	// practically never: more than a few misses mean that rand is broken.
	for range 8 {
		if _, err := io.ReadFull(rand, scalar); err != nil {
			return nil, fmt.Errorf("read randomness: %w", err)
		}
		if curve == ecdh.P521() {
			scalar[0] &= 1 // 521 bits of 528
		}
		if key, err := curve.NewPrivateKey(scalar); err == nil {
			return &curvePrivate{curve: curve, key: key}, nil
		}
	}
	return nil, errors.New("the random source gave no scalar in range 8 times")
}

// uncompressed is the first octet of an SEC 1 point with both coordinates. IKE
// sends the coordinates alone (RFC 5903, Section 7).
const uncompressed = 4

func (p *curvePrivate) public() []byte {
	b := p.key.PublicKey().Bytes()
	if p.curve == ecdh.X25519() {
		return b
	}
	return b[1:]
}

func (p *curvePrivate) shared(peer []byte) ([]byte, error) {
	point := peer
	if p.curve != ecdh.X25519() {
		point = append([]byte{uncompressed}, peer...)
	}
	public, err := p.curve.NewPublicKey(point)
	if err != nil {
		return nil, errors.New("not a point of the curve")
	}
	shared, err := p.key.ECDH(public)
	if err != nil {
		return nil, errors.New("it gives an all-zero secret")
	}
	return shared, nil
}

// destroy does nothing: the standard library keeps the scalar in memory that
// cannot be overwritten from here.
func (p *curvePrivate) destroy() {}

// Group returns the group of the private value.
func (k *KeyExchange) Group() wire.KeyExchangeID { return k.group.id }

// Public returns the Key Exchange Data to send. The caller must not change it.
func (k *KeyExchange) Public() []byte { return k.public }

// Shared returns the shared secret with the peer's Key Exchange Data: the x
// coordinate for the NIST curves (RFC 5903, Section 7), the u coordinate for
// X25519 (RFC 8031, Section 2), for MODP groups a number as long as the prime
// (RFC 7296, Section 2.14), and for ML-KEM the shared secret key. The caller clears it when the keys are
// derived. Its error wraps ErrInvalidPublicValue if the peer is to blame.
func (k *KeyExchange) Shared(peer []byte) ([]byte, error) {
	if k.private == nil {
		return nil, errors.New("key exchange: used after Destroy")
	}
	if want := k.group.replyLen(); len(peer) != want {
		return nil, fmt.Errorf("key exchange %s: %w: %d octets, want %d",
			k.group.keyword, ErrInvalidPublicValue, len(peer), want)
	}
	shared, err := k.private.shared(peer)
	if err != nil {
		return nil, fmt.Errorf("key exchange %s: %w: %w", k.group.keyword, ErrInvalidPublicValue, err)
	}
	return shared, nil
}

// Destroy forgets the private value, and overwrites it where it can be reached:
// the standard library keeps scalars in memory of its own.
func (k *KeyExchange) Destroy() {
	if k.private != nil {
		k.private.destroy()
		k.private = nil
	}
}
