package suite

import (
	"bytes"
	"crypto/rand"
	"errors"
	"math/big"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// modpForms are the k of 2^n - 2^(n-64) - 1 + 2^64 * ([2^(n-130) * pi] + k),
// by which RFC 3526, Sections 3 to 5, define the primes of n bits.
var modpForms = []struct {
	id   wire.KeyExchangeID
	bits uint
	k    int64
}{
	{wire.KeyExchangeMODP2048, 2048, 124476},
	{wire.KeyExchangeMODP3072, 3072, 1690314},
	{wire.KeyExchangeMODP4096, 4096, 240904},
}

func modpPrime(id wire.KeyExchangeID) *big.Int {
	return new(big.Int).SetBytes(unhex(modpGroups[id].prime))
}

func TestMODPPrimes(t *testing.T) {
	one := big.NewInt(1)
	power := func(n uint) *big.Int { return new(big.Int).Lsh(one, n) }
	for _, f := range modpForms {
		want := power(f.bits)
		want.Sub(want, power(f.bits-64)).Sub(want, one)
		middle := new(big.Int).Add(scaledPi(f.bits-130), big.NewInt(f.k))
		want.Add(want, middle.Lsh(middle, 64))
		p := modpPrime(f.id)
		if p.Cmp(want) != 0 {
			t.Errorf("%s: the prime is %x, want %x", f.id, p, want)
		}
		q := new(big.Int).Rsh(p, 1)
		if !p.ProbablyPrime(0) || !q.ProbablyPrime(0) {
			t.Errorf("%s: p or (p-1)/2 is not prime", f.id)
		}
		// 2 generates the subgroup of order q.
		if new(big.Int).Exp(big.NewInt(2), q, p).Cmp(one) != 0 {
			t.Errorf("%s: 2 is not of order (p-1)/2", f.id)
		}
	}
}

// scaledPi returns 2^n times pi, rounded down, by Machin's formula.
func scaledPi(n uint) *big.Int {
	const guard = 64
	unit := new(big.Int).Lsh(big.NewInt(1), n+guard)
	arctan := func(x int64) *big.Int { // of 1/x
		power := new(big.Int).Div(unit, big.NewInt(x))
		sum, square := new(big.Int).Set(power), big.NewInt(x*x)
		for i := int64(3); power.Sign() != 0; i += 2 {
			power.Div(power, square)
			term := new(big.Int).Div(power, big.NewInt(i))
			if i%4 == 3 {
				sum.Sub(sum, term)
			} else {
				sum.Add(sum, term)
			}
		}
		return sum
	}
	pi := new(big.Int).Lsh(arctan(5), 2)
	pi.Sub(pi, arctan(239)).Lsh(pi, 2)
	return pi.Rsh(pi, guard)
}

// The same results as the arithmetic of math/big, for any private value and any
// public value in range.
func TestMODPAgainstBig(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.SampledFrom(modpForms).Draw(t, "group")
		p, spec, n := modpPrime(f.id), modpGroups[f.id], int(f.bits/8)
		private := rapid.SliceOfN(rapid.Byte(), spec.privateLen, spec.privateLen).Filter(func(b []byte) bool { return !isZero(b) }).Draw(t, "private")
		peer := new(big.Int).SetBytes(rapid.SliceOfN(rapid.Byte(), 1, n).Draw(t, "peer"))
		peer.Mod(peer, new(big.Int).Sub(p, big.NewInt(3))).Add(peer, big.NewInt(2)) // 2 to p-2
		k, err := NewKeyExchange(f.id, bytes.NewReader(private))
		if err != nil {
			t.Fatal(err)
		}
		x := new(big.Int).SetBytes(private)
		if want := new(big.Int).Exp(big.NewInt(2), x, p).FillBytes(make([]byte, n)); !bytes.Equal(k.Public(), want) {
			t.Errorf("%s: public value %x, want %x", f.id, k.Public(), want)
		}
		got, err := k.Shared(peer.FillBytes(make([]byte, n)))
		if want := new(big.Int).Exp(peer, x, p).FillBytes(make([]byte, n)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: secret %x, %v, want %x", f.id, got, err, want)
		}
	})
}

// RFC 6989, Section 2.1: 1 < y < p-1.
func TestMODPPublicValues(t *testing.T) {
	for _, f := range modpForms {
		p, n := modpPrime(f.id), int(f.bits/8)
		k, err := NewKeyExchange(f.id, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		for offset, valid := range map[int64]bool{-2: true, -1: false, 0: false, 1: false, 2: false} {
			y := new(big.Int).Add(p, big.NewInt(offset))
			if _, err := k.Shared(y.FillBytes(make([]byte, n))); (err == nil) != valid || (err != nil && !errors.Is(err, ErrInvalidPublicValue)) {
				t.Errorf("%s: p%+d: %v", f.id, offset, err)
			}
		}
		for y, valid := range []bool{false, false, true, true} {
			b := make([]byte, n)
			b[n-1] = byte(y)
			if _, err := k.Shared(b); (err == nil) != valid {
				t.Errorf("%s: %d: %v", f.id, y, err)
			}
		}
		if _, err := k.Shared(bytes.Repeat([]byte{0xff}, n)); !errors.Is(err, ErrInvalidPublicValue) {
			t.Errorf("%s: all ones: %v", f.id, err)
		}
		// RFC 7296, Section 3.4: as long as the prime, leading zeros and all.
		for _, length := range []int{0, 1, n - 1, n + 1, 2 * n} {
			b := make([]byte, length)
			if length > 0 {
				b[length-1] = 3
			}
			if _, err := k.Shared(b); !errors.Is(err, ErrInvalidPublicValue) {
				t.Errorf("%s: %d octets: %v", f.id, length, err)
			}
		}
	}
}

// RFC 3526, Section 8, and RFC 8247, Section 2.4: both ends agree, and values
// that begin with zeros keep them.
func TestMODPExchange(t *testing.T) {
	for _, f := range modpForms {
		private := modpGroups[f.id].privateLen
		small := make([]byte, private)
		small[private-1] = 3 // 2^3: a public value of mostly zeros
		i, err1 := NewKeyExchange(f.id, bytes.NewReader(small))
		r, err2 := NewKeyExchange(f.id, rand.Reader)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if n := int(f.bits / 8); len(i.Public()) != n || i.Public()[n-1] != 8 || !isZero(i.Public()[:n-1]) {
			t.Errorf("%s: public value of the private value 3: %x", f.id, i.Public())
		}
		a, err1 := i.Shared(r.Public())
		b, err2 := r.Shared(i.Public())
		if err1 != nil || err2 != nil || !bytes.Equal(a, b) || len(a) != int(f.bits/8) {
			t.Errorf("%s: secrets %x (%v) and %x (%v)", f.id, a, err1, b, err2)
		}
		exponent := r.private.(*modpPrivate).exponent
		if isZero(exponent) {
			t.Errorf("%s: the private value is zero", f.id)
		}
		r.Destroy()
		if !isZero(exponent) {
			t.Errorf("%s: Destroy leaves the private value", f.id)
		}
		for name, random := range map[string][]byte{"short": slices.Clone(small[1:]), "zero": make([]byte, private)} {
			if _, err := NewKeyExchange(f.id, bytes.NewReader(random)); err == nil {
				t.Errorf("%s: %s randomness is accepted", f.id, name)
			}
		}
	}
}
