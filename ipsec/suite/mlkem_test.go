package suite

import (
	"bytes"
	"crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// The answers were computed with another implementation; that of ML-KEM-768 is
// also the one of the standard library's own self-test.
func TestMLKEMAnswers(t *testing.T) {
	random := make([]byte, 32)
	for i := range random {
		random[i] = byte(65 + i)
	}
	for _, v := range []struct {
		id                 wire.KeyExchangeID
		encapsulate        func(key []byte) (shared, ciphertext []byte, err error)
		ciphertext, shared string
	}{
		{
			wire.KeyExchangeMLKEM768,
			func(key []byte) ([]byte, []byte, error) {
				k, err := mlkem.NewEncapsulationKey768(key)
				if err != nil {
					return nil, nil, err
				}
				return mlkemtest.Encapsulate768(k, random)
			},
			"5d37670104439f3717a08cc6f182bd51ed13c9da943f30674f47dced59917508",
			"5501fc523b745f41762a188de44a59b920f430146204ee4e793732396df7aa48",
		},
		{
			wire.KeyExchangeMLKEM1024,
			func(key []byte) ([]byte, []byte, error) {
				k, err := mlkem.NewEncapsulationKey1024(key)
				if err != nil {
					return nil, nil, err
				}
				return mlkemtest.Encapsulate1024(k, random)
			},
			"b13cc427352afe49089ce78b8e2d24106d0fc7dabfca1ca5bff3fa1f797eac74",
			"7e99cc6a8b6f4850b1e3a2615b89d697773af5c1c5eebc5b27e61b61885c3765",
		},
	} {
		k, err := NewKeyExchange(v.id, mlkemTestSeed())
		if err != nil {
			t.Fatal(err)
		}
		theirs, ciphertext, err := v.encapsulate(k.Public())
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256(ciphertext)
		ours, err := k.Shared(ciphertext)
		if err != nil || !bytes.Equal(digest[:], unhex(v.ciphertext)) || !bytes.Equal(ours, unhex(v.shared)) || !bytes.Equal(ours, theirs) {
			t.Errorf("%s: ciphertext %x, secrets %x and %x, %v", v.id, digest, ours, theirs, err)
		}
	}
}

// Both halves of each method agree, and their Key Exchange Data is as long as
// the documents say: RFC 8031, Section 3.1; RFC 5903, Section 7; RFC 7296,
// Section 3.4; FIPS 203, Table 3.
func TestRespond(t *testing.T) {
	lengths := map[wire.KeyExchangeID][2]int{
		wire.KeyExchangeCurve25519: {32, 32}, wire.KeyExchangeECP256: {64, 64}, wire.KeyExchangeECP384: {96, 96},
		wire.KeyExchangeECP521: {132, 132}, wire.KeyExchangeMODP2048: {256, 256}, wire.KeyExchangeMODP3072: {384, 384},
		wire.KeyExchangeMODP4096: {512, 512}, wire.KeyExchangeMLKEM768: {1184, 1088}, wire.KeyExchangeMLKEM1024: {1568, 1568},
	}
	if len(lengths) != len(groups) {
		t.Errorf("%d methods are tested of %d", len(lengths), len(groups))
	}
	for id, want := range lengths {
		k, err := NewKeyExchange(id, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		public, theirs, err := Respond(id, k.Public(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if len(k.Public()) != want[0] || len(public) != want[1] {
			t.Errorf("%s: key exchange data of %d and %d octets, want %v", id, len(k.Public()), len(public), want)
		}
		ours, err := k.Shared(public)
		if err != nil || !bytes.Equal(ours, theirs) {
			t.Errorf("%s: secrets %x and %x, %v", id, ours, theirs, err)
		}
		if err := checkSecret(id, ours); err != nil {
			t.Error(err)
		}
		k.Destroy()
		if _, err := k.Shared(public); err == nil || errors.Is(err, ErrInvalidPublicValue) {
			t.Errorf("%s: use after Destroy gives %v", id, err)
		}
		// What one end cannot have sent is refused.
		for _, bad := range [][]byte{nil, k.Public()[1:], append(slices.Clone(k.Public()), 0)} {
			if _, _, err := Respond(id, bad, rand.Reader); !errors.Is(err, ErrInvalidPublicValue) {
				t.Errorf("%s: %d octets of an initiator give %v", id, len(bad), err)
			}
		}
	}
	if _, _, err := Respond(wire.KeyExchangeMODP1024, make([]byte, 128), rand.Reader); err == nil || errors.Is(err, ErrInvalidPublicValue) {
		t.Errorf("an unknown method gives %v", err)
	}
}

// FIPS 203, Section 7.2, checks that each coefficient is below q = 3329, and
// Section 7.3 that a ciphertext has the right length.
func TestMLKEMInvalid(t *testing.T) {
	for id, m := range mlkemMethods {
		spec, _ := groupOf(id)
		k, err := NewKeyExchange(id, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		for name, change := range map[string]func(b []byte){
			"first coefficient is q":    func(b []byte) { b[0], b[1] = 0x01, b[1]&0xf0|0x0d },
			"last coefficient is 4095":  func(b []byte) { n := len(b) - 32; b[n-2] |= 0xf0; b[n-1] = 0xff },
			"all coefficients are 4095": func(b []byte) { copy(b, bytes.Repeat([]byte{0xff}, len(b)-32)) },
		} {
			bad := slices.Clone(k.Public())
			change(bad)
			if _, shared, err := Respond(id, bad, rand.Reader); !errors.Is(err, ErrInvalidPublicValue) || shared != nil {
				t.Errorf("%s: %s: secret %x, %v", id, name, shared, err)
			}
		}
		// Every value of the seed is good.
		good := slices.Clone(k.Public())
		good[len(good)-1] ^= 1
		if _, _, err := Respond(id, good, rand.Reader); err != nil {
			t.Errorf("%s: another seed gives %v", id, err)
		}
		for _, n := range []int{0, 1, m.ciphertextLen - 1, m.ciphertextLen + 1, 2 * spec.publicLen} {
			if _, err := k.Shared(make([]byte, n)); !errors.Is(err, ErrInvalidPublicValue) {
				t.Errorf("%s: ciphertext of %d octets gives %v", id, n, err)
			}
		}
		// A ciphertext that somebody changed gives another secret, and
		// always the same one.
		ciphertext, theirs, err := Respond(id, k.Public(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		ciphertext[7] ^= 1
		first, err1 := k.Shared(ciphertext)
		second, err2 := k.Shared(ciphertext)
		if err1 != nil || err2 != nil || bytes.Equal(first, theirs) || !bytes.Equal(first, second) {
			t.Errorf("%s: a changed ciphertext gives %x, %x, %v, %v", id, first, second, err1, err2)
		}
	}
}

func TestMLKEMRandomness(t *testing.T) {
	for id := range mlkemMethods {
		a, err1 := NewKeyExchange(id, mlkemTestSeed())
		b, err2 := NewKeyExchange(id, mlkemTestSeed())
		if err1 != nil || err2 != nil || !bytes.Equal(a.Public(), b.Public()) {
			t.Errorf("%s: the same octets give different keys: %v, %v", id, err1, err2)
		}
		if _, err := NewKeyExchange(id, io.LimitReader(mlkemTestSeed(), 63)); err == nil {
			t.Errorf("%s: 63 octets of randomness are enough", id)
		}
	}
}
