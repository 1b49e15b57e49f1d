package suite

import (
	"crypto/ecdh"
	"errors"
	"fmt"
	"io"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// ErrInvalidPublicValue means that the peer's Key Exchange Data is not a value
// of the group: wrong length, not on the curve, the point at infinity, or a
// value that forces the shared secret to zero. The exchange must end (RFC
// 6989, Section 2.3; RFC 7748, Section 6.1).
var ErrInvalidPublicValue = errors.New("invalid public value")

// KeyExchange is one ephemeral private value. It is used for one exchange and
// then destroyed (RFC 7296, Section 2.12). It is not safe for concurrent use.
type KeyExchange struct {
	group   groupSpec
	curve   ecdh.Curve
	private *ecdh.PrivateKey
	public  []byte
}

// NewKeyExchange makes a private value of group out of rand: exactly 32 octets
// for X25519, and for the NIST curves as many scalars as it takes until one is
// in range. The same octets give the same value.
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
	k := &KeyExchange{group: spec, curve: curveOf(spec.id)}
	scalar := make([]byte, spec.sharedLen)
	defer clear(scalar)
	// A scalar of P-256 is out of range once in 2^32, of P-384 once in
	// 2^190: more than a few misses mean that rand is broken.
	for range 8 {
		if _, err := io.ReadFull(rand, scalar); err != nil {
			return nil, fmt.Errorf("read randomness for %s: %w", spec.keyword, err)
		}
		private, err := k.curve.NewPrivateKey(scalar)
		if err != nil {
			continue
		}
		k.private = private
		k.public = encodePoint(spec, private.PublicKey().Bytes())
		return k, nil
	}
	return nil, fmt.Errorf("make a private value for %s: the random source gave no scalar in range 8 times", spec.keyword)
}

func curveOf(id wire.KeyExchangeID) ecdh.Curve {
	switch id {
	case wire.KeyExchangeECP256:
		return ecdh.P256()
	case wire.KeyExchangeECP384:
		return ecdh.P384()
	default:
		return ecdh.X25519()
	}
}

// uncompressed is the first octet of an SEC 1 point with both coordinates. IKE
// sends the coordinates alone (RFC 5903, Section 7).
const uncompressed = 4

func encodePoint(spec groupSpec, b []byte) []byte {
	if len(b) == spec.publicLen+1 {
		return b[1:]
	}
	return b
}

// Group returns the group of the private value.
func (k *KeyExchange) Group() wire.KeyExchangeID { return k.group.id }

// Public returns the Key Exchange Data to send. The caller must not change it.
func (k *KeyExchange) Public() []byte { return k.public }

// Shared returns the shared secret with the peer's Key Exchange Data: the x
// coordinate for the NIST curves (RFC 5903, Section 7), the u coordinate for
// X25519 (RFC 8031, Section 2). The caller clears it when the keys are
// derived. Its error wraps ErrInvalidPublicValue if the peer is to blame.
func (k *KeyExchange) Shared(peer []byte) ([]byte, error) {
	if k.private == nil {
		return nil, errors.New("key exchange: used after Destroy")
	}
	if len(peer) != k.group.publicLen {
		return nil, fmt.Errorf("key exchange %s: %w: %d octets, want %d",
			k.group.keyword, ErrInvalidPublicValue, len(peer), k.group.publicLen)
	}
	point := peer
	if k.curve != ecdh.X25519() {
		point = append([]byte{uncompressed}, peer...)
	}
	public, err := k.curve.NewPublicKey(point)
	if err != nil {
		return nil, fmt.Errorf("key exchange %s: %w: not a point of the curve", k.group.keyword, ErrInvalidPublicValue)
	}
	shared, err := k.private.ECDH(public)
	if err != nil {
		return nil, fmt.Errorf("key exchange %s: %w: it gives an all-zero secret", k.group.keyword, ErrInvalidPublicValue)
	}
	return shared, nil
}

// Destroy forgets the private value. The standard library keeps the scalar in
// memory that cannot be overwritten from here, so forgetting means that
// nothing refers to it any more.
func (k *KeyExchange) Destroy() { k.private = nil }
