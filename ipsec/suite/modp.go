package suite

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"filippo.io/bigmod"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// modpGroup is a group of RFC 3526: a prime p with (p-1)/2 prime too, and the
// generator 2. The arithmetic takes the same time for all private values:
// filippo.io/bigmod is what the standard library computes RSA with.
type modpGroup struct {
	prime string // hexadecimal, without leading zeros
	// privateLen is the length of private values, octets: the larger of the
	// two estimates of RFC 3526, Section 8, which is at least twice the
	// strength of the group.
	privateLen int
	modulus    func() *bigmod.Modulus
}

func newMODPGroup(prime string, privateLen int) *modpGroup {
	return &modpGroup{prime: prime, privateLen: privateLen, modulus: sync.OnceValue(func() *bigmod.Modulus {
		m, err := bigmod.NewModulus(unhex(prime))
		if err != nil {
			panic("suite: the prime of a MODP group is no modulus: " + err.Error())
		}
		return m
	})}
}

// modpPrivate is a private value of a MODP group.
type modpPrivate struct {
	group    *modpGroup
	exponent []byte
}

// newMODPPrivate makes a private value out of privateLen octets of rand. Zero
// is its only value that must not be: it comes once in 2^320 reads.
func newMODPPrivate(g *modpGroup, rand io.Reader) (*modpPrivate, error) {
	p := &modpPrivate{group: g, exponent: make([]byte, g.privateLen)}
	if _, err := io.ReadFull(rand, p.exponent); err != nil {
		return nil, fmt.Errorf("read randomness: %w", err)
	}
	if bytes.Equal(p.exponent, make([]byte, g.privateLen)) {
		return nil, errors.New("the random source gave zeros only")
	}
	return p, nil
}

// public returns 2^x mod p, as long as the prime (RFC 7296, Section 3.4).
func (p *modpPrivate) public() []byte {
	m := p.group.modulus()
	two := bigmod.NewNat().SetUint(2).ExpandFor(m)
	return bigmod.NewNat().Exp(two, p.exponent, m).Bytes(m)
}

// shared returns peer^x mod p, as long as the prime (RFC 7296, Section 2.14).
// RFC 6989, Section 2.1, demands that 1 < peer < p-1: what is left out has an
// order of 1 or 2.
func (p *modpPrivate) shared(peer []byte) ([]byte, error) {
	m := p.group.modulus()
	y, err := bigmod.NewNat().SetBytes(peer, m)
	if err != nil || y.IsZero() == 1 || y.IsOne() == 1 || y.IsMinusOne(m) == 1 {
		return nil, errors.New("not between 1 and p-1")
	}
	return bigmod.NewNat().Exp(y, p.exponent, m).Bytes(m), nil
}

func (p *modpPrivate) destroy() { clear(p.exponent) }

// modpGroups are the groups of RFC 3526, Sections 3 to 5. A prime of n bits is
// 2^n - 2^(n-64) - 1 + 2^64 * ([2^(n-130) * pi] + k); the tests compute it.
var modpGroups = map[wire.KeyExchangeID]*modpGroup{
	wire.KeyExchangeMODP2048: newMODPGroup(""+
		"ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404dd"+
		"ef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7ed"+
		"ee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf0598da48361c55d39a69163fa8fd24cf5f"+
		"83655d23dca3ad961c62f356208552bb9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3b"+
		"e39e772c180e86039b2783a2ec07a28fb5c55df06f4c52c9de2bcbf6955817183995497cea956ae515d2261898fa0510"+
		"15728e5a8aacaa68ffffffffffffffff", 40),
	wire.KeyExchangeMODP3072: newMODPGroup(""+
		"ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404dd"+
		"ef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7ed"+
		"ee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf0598da48361c55d39a69163fa8fd24cf5f"+
		"83655d23dca3ad961c62f356208552bb9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3b"+
		"e39e772c180e86039b2783a2ec07a28fb5c55df06f4c52c9de2bcbf6955817183995497cea956ae515d2261898fa0510"+
		"15728e5a8aaac42dad33170d04507a33a85521abdf1cba64ecfb850458dbef0a8aea71575d060c7db3970f85a6e1e4c7"+
		"abf5ae8cdb0933d71e8c94e04a25619dcee3d2261ad2ee6bf12ffa06d98a0864d87602733ec86a64521f2b18177b200c"+
		"bbe117577a615d6c770988c0bad946e208e24fa074e5ab3143db5bfce0fd108e4b82d120a93ad2caffffffffffffffff", 53),
	wire.KeyExchangeMODP4096: newMODPGroup(""+
		"ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404dd"+
		"ef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7ed"+
		"ee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf0598da48361c55d39a69163fa8fd24cf5f"+
		"83655d23dca3ad961c62f356208552bb9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3b"+
		"e39e772c180e86039b2783a2ec07a28fb5c55df06f4c52c9de2bcbf6955817183995497cea956ae515d2261898fa0510"+
		"15728e5a8aaac42dad33170d04507a33a85521abdf1cba64ecfb850458dbef0a8aea71575d060c7db3970f85a6e1e4c7"+
		"abf5ae8cdb0933d71e8c94e04a25619dcee3d2261ad2ee6bf12ffa06d98a0864d87602733ec86a64521f2b18177b200c"+
		"bbe117577a615d6c770988c0bad946e208e24fa074e5ab3143db5bfce0fd108e4b82d120a92108011a723c12a787e6d7"+
		"88719a10bdba5b2699c327186af4e23c1a946834b6150bda2583e9ca2ad44ce8dbbbc2db04de8ef92e8efc141fbecaa6"+
		"287c59474e6bc05d99b2964fa090c3a2233ba186515be7ed1f612970cee2d7afb81bdd762170481cd0069127d5b05aa9"+
		"93b4ea988d8fddc186ffb7dc90a6c08f4df435c934063199ffffffffffffffff", 60),
}
