package suite

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha512"
	"slices"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// There are no published vectors for RFC 9370 and its relatives. The tests here
// compute its formulas again, with nothing but HMAC-SHA2-384.

func hmac384(key []byte, parts ...[]byte) []byte {
	mac := hmac.New(sha512.New384, key)
	for _, p := range parts {
		mac.Write(p)
	}
	return mac.Sum(nil)
}

// prfPlus384 is T1 | T2 | ... of RFC 7296, Section 2.13.
func prfPlus384(key, seed []byte, n int) []byte {
	var out, t []byte
	for i := byte(1); len(out) < n; i++ {
		t = hmac384(key, t, seed, []byte{i})
		out = append(out, t...)
	}
	return out[:n]
}

var (
	multipleSuite = IKESuite{
		Encryption: wire.EncryptionAESGCM16, KeyBits: 256, PRF: PRFHMACSHA384,
		KeyExchange: wire.KeyExchangeCurve25519,
		Additional:  AdditionalMethods{wire.KeyExchangeMLKEM768, 0, wire.KeyExchangeECP384},
	}
	spiI, spiR                = wire.SPI{1, 2, 3}, wire.SPI{4, 5, 6}
	secret0, secret1, secret2 = bytes.Repeat([]byte{0xa0}, 32), bytes.Repeat([]byte{0xa1}, 32), bytes.Repeat([]byte{0xa2}, 48)
)

func wantKeys(t *testing.T, what string, got *IKEKeys, stream []byte) {
	t.Helper()
	if all := slices.Concat(got.D, got.Ai, got.Ar, got.Ei, got.Er, got.Pi, got.Pr); !bytes.Equal(all, stream) {
		t.Errorf("%s: keys are %x, want %x", what, all, stream)
	}
}

// multipleLen is the length of the seven keys of multipleSuite: SK_d, SK_ei and
// SK_er with salt, SK_pi and SK_pr.
const multipleLen = 48 + 2*36 + 2*48

// RFC 9370, Section 2.2.2.
func TestUpdateIKEKeys(t *testing.T) {
	expand := func(skeyseed []byte) []byte {
		return prfPlus384(skeyseed, slices.Concat(testNi, testNr, spiI[:], spiR[:]), multipleLen)
	}
	stream := expand(hmac384(slices.Concat(testNi, testNr), secret0))
	keys, err := DeriveIKEKeys(multipleSuite, testNi, testNr, secret0, spiI, spiR)
	if err != nil {
		t.Fatal(err)
	}
	wantKeys(t, "IKE_SA_INIT", keys, stream)
	for i, x := range []struct {
		method wire.KeyExchangeID
		secret []byte
	}{{wire.KeyExchangeMLKEM768, secret1}, {wire.KeyExchangeECP384, secret2}} {
		stream = expand(hmac384(stream[:48], x.secret, testNi, testNr))
		keys, err = UpdateIKEKeys(multipleSuite, x.method, keys.D, testNi, testNr, x.secret, spiI, spiR)
		if err != nil {
			t.Fatal(err)
		}
		wantKeys(t, "key exchange "+string(rune('1'+i)), keys, stream)
	}
	for name, f := range map[string]func() error{
		"short secret": func() error {
			_, err := UpdateIKEKeys(multipleSuite, wire.KeyExchangeECP384, keys.D, testNi, testNr, secret1, spiI, spiR)
			return err
		},
		"no SK_d": func() error {
			_, err := UpdateIKEKeys(multipleSuite, wire.KeyExchangeECP384, nil, testNi, testNr, secret2, spiI, spiR)
			return err
		},
		"NONE": func() error {
			_, err := UpdateIKEKeys(multipleSuite, wire.KeyExchangeNone, keys.D, testNi, testNr, nil, spiI, spiR)
			return err
		},
	} {
		if f() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// RFC 9370, Section 2.2.4: SKEYSEED = prf(SK_d, SK(0) | Ni | Nr | SK(1) | SK(2)).
func TestRekeyWithSeveralExchanges(t *testing.T) {
	oldD := bytes.Repeat([]byte{0xdd}, 48)
	secrets := [][]byte{secret0, secret1, secret2}
	skeyseed := hmac384(oldD, secret0, testNi, testNr, secret1, secret2)
	stream := prfPlus384(skeyseed, slices.Concat(testNi, testNr, spiI[:], spiR[:]), multipleLen)
	keys, err := RekeyIKEKeys(multipleSuite, PRFHMACSHA384, oldD, testNi, testNr, secrets, spiI, spiR)
	if err != nil {
		t.Fatal(err)
	}
	wantKeys(t, "rekeyed", keys, stream)

	// KEYMAT = prf+(SK_d, SK(0) | Ni | Nr | SK(1) | SK(2)).
	esp := ESPSuite{
		Encryption: wire.EncryptionAESGCM16, KeyBits: 128,
		KeyExchange: multipleSuite.KeyExchange, Additional: multipleSuite.Additional,
	}
	keymat := prfPlus384(oldD, slices.Concat(secret0, testNi, testNr, secret1, secret2), 40)
	child, err := DeriveChildKeys(multipleSuite, oldD, secrets, testNi, testNr, esp)
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Concat(child.InitiatorToResponder, child.ResponderToInitiator); !bytes.Equal(got, keymat) {
		t.Errorf("Child SA keys are %x, want %x", got, keymat)
	}

	for name, wrong := range map[string][][]byte{
		"one missing": secrets[:2], "one too many": append(slices.Clone(secrets), secret0),
		"another order": {secret0, secret2, secret1}, "none": nil,
	} {
		if _, err := RekeyIKEKeys(multipleSuite, PRFHMACSHA384, oldD, testNi, testNr, wrong, spiI, spiR); err == nil {
			t.Errorf("IKE SA: %s is accepted", name)
		}
		if _, err := DeriveChildKeys(multipleSuite, oldD, wrong, testNi, testNr, esp); err == nil {
			t.Errorf("Child SA: %s is accepted", name)
		}
	}
}

// RFC 8784, Section 3: SK_d = prf+(PPK, SK_d') and so on, of which one block is
// prf(PPK, SK_d' | 0x01).
func TestMixPPK(t *testing.T) {
	ppk := bytes.Repeat([]byte{0x77}, 40)
	keys, err := DeriveIKEKeys(multipleSuite, testNi, testNr, secret0, spiI, spiR)
	if err != nil {
		t.Fatal(err)
	}
	d, pi, pr := slices.Clone(keys.D), slices.Clone(keys.Pi), slices.Clone(keys.Pr)
	others := slices.Concat(keys.Ei, keys.Er)
	before := keys.MixPPK(PRFHMACSHA384, ppk)
	for i, k := range [][2][]byte{{keys.D, d}, {keys.Pi, pi}, {keys.Pr, pr}} {
		if want := hmac384(ppk, k[1], []byte{1}); !bytes.Equal(k[0], want) {
			t.Errorf("key %d is %x, want %x", i, k[0], want)
		}
	}
	if !bytes.Equal(slices.Concat(keys.Ei, keys.Er), others) {
		t.Error("the keys of messages have changed")
	}
	mixed := [][]byte{keys.D, keys.Pi, keys.Pr}
	keys.Restore(before)
	if !bytes.Equal(keys.D, d) || !bytes.Equal(keys.Pi, pi) || !bytes.Equal(keys.Pr, pr) || before.D != nil {
		t.Error("Restore does not bring back the keys before")
	}
	for _, k := range mixed {
		if !isZero(k) {
			t.Errorf("%x is not zeroed", k)
		}
	}
}

// RFC 9867: SKEYSEED' = prf+(PPK, SK_d), and PPK Confirmation.
func TestPPKIKEKeys(t *testing.T) {
	ppk, skD := bytes.Repeat([]byte{0x77}, 40), bytes.Repeat([]byte{0xdd}, 48)
	seed := prfPlus384(ppk, skD, 48)
	stream := prfPlus384(seed, slices.Concat(testNi, testNr, spiI[:], spiR[:]), multipleLen)
	keys, err := PPKIKEKeys(multipleSuite, ppk, skD, testNi, testNr, spiI, spiR)
	if err != nil {
		t.Fatal(err)
	}
	wantKeys(t, "PPK", keys, stream)
	got := PPKConfirmation(PRFHMACSHA384, ppk, testNi, testNr, spiI, spiR)
	if want := hmac384(ppk, testNi, testNr, spiI[:], spiR[:])[:8]; !bytes.Equal(got, want) {
		t.Errorf("PPK Confirmation is %x, want %x", got, want)
	}
	for _, in := range [][2][]byte{{nil, skD}, {ppk, nil}} {
		if _, err := PPKIKEKeys(multipleSuite, in[0], in[1], testNi, testNr, spiI, spiR); err == nil {
			t.Error("a missing secret is accepted")
		}
	}
}
