package suite

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

type octets []byte

func (o *octets) UnmarshalText(b []byte) error {
	v, err := hex.DecodeString(string(b))
	*o = v
	return err
}

// kdfVector is one case of testdata/sp800-135.json: vectors that NIST
// publishes for SP 800-135, Section 4.1.2. The Child SA and rekey parts are
// absent in some.
type kdfVector struct {
	Source, PRF       string
	Ni, Nr, Shared    octets
	SPIi, SPIr        octets
	SKEYSEED, Keymat  octets
	ChildKeymat       octets // prf+(SK_d, Ni | Nr)
	NewShared         octets
	ChildSharedKeymat octets // prf+(SK_d, g^ir (new) | Ni | Nr)
	RekeySkeyseed     octets // prf(SK_d, g^ir (new) | Ni | Nr)
}

func kdfVectors(t *testing.T) []kdfVector {
	t.Helper()
	b, err := os.ReadFile("testdata/sp800-135.json")
	if err != nil {
		t.Fatal(err)
	}
	var vs []kdfVector
	if err := json.Unmarshal(b, &vs); err != nil {
		t.Fatal(err)
	}
	if len(vs) != 7 {
		t.Fatalf("%d vectors, want 7", len(vs))
	}
	return vs
}

func prfNamed(t *testing.T, keyword string) PRF {
	t.Helper()
	k, id, _, ok := lookup(keyword)
	if !ok || k != kindPRF {
		t.Fatalf("no PRF %q", keyword)
	}
	return PRF(id)
}

func TestKeyDerivationVectors(t *testing.T) {
	for _, v := range kdfVectors(t) {
		prf := prfNamed(t, v.PRF)
		seed := skeyseed(prf, v.Ni, v.Nr, v.Shared)
		if !bytes.Equal(seed, v.SKEYSEED) {
			t.Errorf("%s %s: SKEYSEED is %x, want %x", v.Source, v.PRF, seed, v.SKEYSEED)
		}
		keymat := prf.Plus(seed, slices.Concat(v.Ni, v.Nr, v.SPIi, v.SPIr), len(v.Keymat))
		if !bytes.Equal(keymat, v.Keymat) {
			t.Errorf("%s %s: prf+ is %x, want %x", v.Source, v.PRF, keymat, v.Keymat)
		}
		checkKeyCut(t, v, prf)
		if v.NewShared != nil {
			checkChildVectors(t, v, prf)
		}
	}
}

// checkKeyCut compares the seven secrets with the published key stream for a
// suite with short keys, which all vectors cover.
func checkKeyCut(t *testing.T, v kdfVector, prf PRF) {
	t.Helper()
	s := IKESuite{Encryption: wire.EncryptionAESGCM16, KeyBits: 128, PRF: prf, KeyExchange: wire.KeyExchangeECP256}
	k := expandIKEKeys(s, v.SKEYSEED, v.Ni, v.Nr, wire.SPI(v.SPIi), wire.SPI(v.SPIr))
	got := slices.Concat(k.D, k.Ai, k.Ar, k.Ei, k.Er, k.Pi, k.Pr)
	n := min(len(got), len(v.Keymat))
	if !bytes.Equal(got[:n], v.Keymat[:n]) {
		t.Errorf("%s %s: keys are %x, want %x", v.Source, v.PRF, got, v.Keymat)
	}
	p := prf.Size()
	if len(k.D) != p || len(k.Pi) != p || len(k.Pr) != p || len(k.Ai)+len(k.Ar) != 0 || len(k.Ei) != 20 || len(k.Er) != 20 {
		t.Errorf("%s: wrong key lengths", v.PRF)
	}
}

func checkChildVectors(t *testing.T, v kdfVector, prf PRF) {
	t.Helper()
	s := IKESuite{Encryption: wire.EncryptionAESGCM16, KeyBits: 128, PRF: prf, KeyExchange: wire.KeyExchangeECP256}
	skD := v.Keymat[:prf.Size()]
	for _, c := range []struct {
		shared [][]byte
		want   octets
	}{{nil, v.ChildKeymat}, {[][]byte{v.NewShared}, v.ChildSharedKeymat}} {
		k := expandChildKeys(prf, skD, c.shared, v.Ni, v.Nr, 20)
		if got := slices.Concat(k.InitiatorToResponder, k.ResponderToInitiator); !bytes.Equal(got, c.want[:40]) {
			t.Errorf("Child SA keys are %x, want %x", got, c.want[:40])
		}
	}
	// The SKEYSEED of a rekeyed IKE SA shows in the keys it gives.
	s.KeyExchange = wire.KeyExchangeECP256
	want := expandIKEKeys(s, v.RekeySkeyseed, v.Ni, v.Nr, wire.SPI(v.SPIi), wire.SPI(v.SPIr))
	seed := rekeyedSkeyseed(prf, skD, [][]byte{v.NewShared}, v.Ni, v.Nr)
	got := expandIKEKeys(s, seed, v.Ni, v.Nr, wire.SPI(v.SPIi), wire.SPI(v.SPIr))
	if !bytes.Equal(got.D, want.D) || !bytes.Equal(got.Pr, want.Pr) {
		t.Error("keys of the rekeyed IKE SA differ")
	}
}

var testNi, testNr = bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)

func TestKeyInputErrors(t *testing.T) {
	good := IKESuite{Encryption: wire.EncryptionAESGCM16, KeyBits: 256, PRF: PRFHMACSHA512, KeyExchange: wire.KeyExchangeCurve25519}
	shared := make([]byte, 32)
	spi := wire.SPI{1}
	if _, err := DeriveIKEKeys(good, testNi, testNr, shared, spi, spi); err != nil {
		t.Fatal(err)
	}
	unknown, weak := good, good
	unknown.KeyBits = 129
	weak.Integrity = wire.IntegrityHMACSHA256
	for name, run := range map[string]func() error{
		"nonce shorter than half the PRF key": func() error {
			_, err := DeriveIKEKeys(good, testNi[:31], testNr, shared, spi, spi)
			return err
		},
		"nonce too long": func() error {
			_, err := DeriveIKEKeys(good, testNi, make([]byte, 257), shared, spi, spi)
			return err
		},
		"shared secret of another group": func() error {
			_, err := DeriveIKEKeys(good, testNi, testNr, make([]byte, 48), spi, spi)
			return err
		},
		"unknown cipher": func() error {
			_, err := DeriveIKEKeys(unknown, testNi, testNr, shared, spi, spi)
			return err
		},
		"integrity with a combined-mode cipher": func() error {
			_, err := DeriveIKEKeys(weak, testNi, testNr, shared, spi, spi)
			return err
		},
		"rekey without SK_d": func() error {
			_, err := RekeyIKEKeys(good, PRFHMACSHA256, nil, testNi, testNr, [][]byte{shared}, spi, spi)
			return err
		},
		"rekey without key exchange": func() error {
			_, err := RekeyIKEKeys(good, PRFHMACSHA256, shared, testNi, testNr, nil, spi, spi)
			return err
		},
		"child with a secret it did not negotiate": func() error {
			_, err := DeriveChildKeys(good, shared, [][]byte{shared}, testNi, testNr, ESPSuite{Encryption: wire.EncryptionAESGCM16, KeyBits: 128})
			return err
		},
		"child without the secret it negotiated": func() error {
			_, err := DeriveChildKeys(good, shared, nil, testNi, testNr, ESPSuite{Encryption: wire.EncryptionAESGCM16, KeyBits: 128, KeyExchange: wire.KeyExchangeECP256})
			return err
		},
		"child without SK_d": func() error {
			_, err := DeriveChildKeys(good, nil, nil, testNi, testNr, ESPSuite{Encryption: wire.EncryptionAESGCM16, KeyBits: 128})
			return err
		},
	} {
		if run() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestDestroy(t *testing.T) {
	s := IKESuite{Encryption: wire.EncryptionAESCBC, KeyBits: 256, PRF: PRFHMACSHA256, Integrity: wire.IntegrityHMACSHA384, KeyExchange: wire.KeyExchangeCurve25519}
	k, err := DeriveIKEKeys(s, testNi, testNr, make([]byte, 32), wire.SPI{1}, wire.SPI{2})
	if err != nil {
		t.Fatal(err)
	}
	all := [][]byte{k.D, k.Ai, k.Ar, k.Ei, k.Er, k.Pi, k.Pr}
	for i, b := range all {
		if isZero(b) {
			t.Errorf("secret %d is zero before Destroy", i)
		}
	}
	k.Destroy()
	c, err := DeriveChildKeys(s, testNi, nil, testNi, testNr, ESPSuite{Encryption: wire.EncryptionAESGCM16, KeyBits: 128})
	if err != nil {
		t.Fatal(err)
	}
	all = append(all, c.InitiatorToResponder, c.ResponderToInitiator)
	c.Destroy()
	for i, b := range all {
		if !isZero(b) {
			t.Errorf("secret %d survives Destroy", i)
		}
	}
	if k.D != nil || c.InitiatorToResponder != nil {
		t.Error("Destroy keeps references")
	}
}

func isZero(b []byte) bool { return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) }

func TestPlusLimits(t *testing.T) {
	for _, n := range []int{0, 1, 31, 32, 33, 255 * 32} {
		out := PRFHMACSHA256.Plus([]byte("key"), []byte("seed"), n)
		if len(out) != n || cap(out) != n {
			t.Errorf("%d octets with capacity %d, want %d", len(out), cap(out), n)
		}
	}
	for _, n := range []int{-1, 255*32 + 1} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("prf+ of %d octets does not panic", n)
				}
			}()
			PRFHMACSHA256.Plus([]byte("key"), nil, n)
		}()
	}
}

func TestSplitKey(t *testing.T) {
	for _, w := range []string{"aes128gcm16", "aes256gcm16", "chacha20poly1305", "aes128-sha256", "aes256-sha512"} {
		p := parseESPTest(t, w)[0]
		s := ESPSuite{Encryption: p.Encryption[0].ID, KeyBits: p.Encryption[0].KeyBits}
		if len(p.Integrity) > 0 {
			s.Integrity = p.Integrity[0]
		}
		key := make([]byte, s.KeyLen())
		for i := range key {
			key[i] = byte(i)
		}
		enc, salt, integ, err := s.SplitKey(key)
		if err != nil || !bytes.Equal(slices.Concat(enc, salt, integ), key) || len(salt) != s.SaltLen() || len(integ) != s.IntegrityKeyLen() {
			t.Errorf("%s: %d + %d + %d octets, %v", w, len(enc), len(salt), len(integ), err)
		}
		_, _, _, err = s.SplitKey(key[1:])
		if err == nil || strings.Contains(err.Error(), "010203") {
			t.Errorf("%s: short key gives %v", w, err)
		}
	}
}
