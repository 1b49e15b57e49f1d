package suite

import (
	"bytes"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// Sizes in octets: RFC 4106, Section 8.1; RFC 7634, Section 2; RFC 3602,
// Section 3; RFC 4868, Section 2.6; RFC 3686, Section 5; RFC 4309, Sections 3.1
// and 7.1; RFC 2404; RFC 3566, Section 4.
func TestESPSizes(t *testing.T) {
	type sizes struct{ encryption, salt, integrity, iv, icv, block int }
	for text, want := range map[string]sizes{
		"aes128gcm16":      {20, 4, 0, 8, 16, 1},
		"aes256gcm16":      {36, 4, 0, 8, 16, 1},
		"chacha20poly1305": {36, 4, 0, 8, 16, 1},
		"aes128-sha256":    {16, 0, 32, 16, 16, 16},
		"aes256-sha384":    {32, 0, 48, 16, 24, 16},
		"aes256-sha512":    {32, 0, 64, 16, 32, 16},
		"aes192gcm16":      {28, 4, 0, 8, 16, 1},
		"aes128gcm12":      {20, 4, 0, 8, 12, 1},
		"aes256gcm8":       {36, 4, 0, 8, 8, 1},
		"aes128ccm8":       {19, 3, 0, 8, 8, 1},
		"aes128ccm12":      {19, 3, 0, 8, 12, 1},
		"aes256ccm16":      {35, 3, 0, 8, 16, 1},
		"aes192-sha1":      {24, 0, 20, 16, 12, 16},
		"aes128ctr-sha256": {20, 4, 32, 8, 16, 1},
		"aes256ctr-sha512": {36, 4, 64, 8, 32, 1},
		"aes128-aesxcbc":   {16, 0, 16, 16, 12, 16},
	} {
		s := espSuite(parseESPTest(t, text)[0].Wire(1, nil))
		got := sizes{s.EncryptionKeyLen(), s.SaltLen(), s.IntegrityKeyLen(), s.IVLen(), s.ICVLen(), s.BlockLen()}
		if got != want || s.KeyLen() != want.encryption+want.integrity || s.AEAD() != (want.integrity == 0) {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
		if err := s.Validate(); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestSuiteValidate(t *testing.T) {
	for name, s := range map[string]ESPSuite{
		"zero":                  {},
		"NULL alone":            {Encryption: wire.EncryptionNull},
		"GMAC beside a cipher":  {Encryption: wire.EncryptionAESCBC, KeyBits: 128, Integrity: wire.IntegrityAES128GMAC},
		"AH alone":              {AH: true},
		"AH with a cipher":      {AH: true, Encryption: wire.EncryptionAESCBC, KeyBits: 128, Integrity: wire.IntegrityHMACSHA256},
		"AH with MD5":           {AH: true, Integrity: wire.IntegrityHMACMD5},
		"CBC without integrity": {Encryption: wire.EncryptionAESCBC, KeyBits: 128},
		"GCM with integrity":    {Encryption: wire.EncryptionAESGCM16, KeyBits: 128, Integrity: wire.IntegrityHMACSHA256},
		"GCM of 129 bits":       {Encryption: wire.EncryptionAESGCM16, KeyBits: 129},
		"CCM of 192 bits":       {Encryption: wire.EncryptionAESCCM8, KeyBits: 192},
		"implicit IV":           {Encryption: wire.EncryptionAESGCM16IIV, KeyBits: 128},
		"CTR without integrity": {Encryption: wire.EncryptionAESCTR, KeyBits: 128},
		"MD5":                   {Encryption: wire.EncryptionAESCBC, KeyBits: 128, Integrity: wire.IntegrityHMACMD5},
		"weak MODP group":       {Encryption: wire.EncryptionAESGCM16, KeyBits: 128, KeyExchange: wire.KeyExchangeMODP1024},
	} {
		if err := s.Validate(); err == nil {
			t.Errorf("%s: valid", name)
		}
	}
}

func TestDefaults(t *testing.T) {
	for _, p := range DefaultIKE() {
		if err := p.Validate(); err != nil {
			t.Error(err)
		}
	}
	for _, p := range DefaultESP() {
		if err := p.Validate(); err != nil {
			t.Error(err)
		}
	}
	// Whoever has our defaults agrees with itself, on the strongest.
	ike, _, err := ChooseIKE(OfferIKE(DefaultIKE(), nil), DefaultIKE())
	if err != nil || ike.String() != "aes256gcm16-prfsha256-x25519-ke1_mlkem768" {
		t.Errorf("IKE: %s, %v", ike, err)
	}
	esp, answer, err := ChooseESP(OfferESP(DefaultESP(), []byte{0, 0, 1, 2}), DefaultESP())
	if err != nil || esp.String() != "aes256gcm16-x25519-ke1_mlkem768-esn" {
		t.Errorf("ESP: %s, %v", esp, err)
	}
	// A peer without ML-KEM finds a proposal too, and one without IKE_INTERMEDIATE.
	old, _, err := ChooseIKE(OfferIKE(DefaultIKE(), nil), parseIKETest(t, "aes128gcm16-prfsha256-ecp256"))
	if err != nil || old.String() != "aes128gcm16-prfsha256-ecp256" {
		t.Errorf("IKE with an older peer: %s, %v", old, err)
	}
	old, _, err = ChooseIKE(OfferIKE(DefaultIKE(), nil), WithoutAdditional(DefaultIKE()))
	if err != nil || old.String() != "aes256gcm16-prfsha256-x25519" {
		t.Errorf("IKE without IKE_INTERMEDIATE: %s, %v", old, err)
	}
	if spi := ProposalSPI(OfferESP(DefaultESP(), []byte{0, 0, 1, 2}), answer.Number); !bytes.Equal(spi, []byte{0, 0, 1, 2}) {
		t.Errorf("SPI of the chosen proposal is %x", spi)
	}
	if ProposalSPI(nil, 1) != nil {
		t.Error("an SPI without a proposal")
	}
}

// Two ends that exchange public values and nonces have the same keys in both
// directions, at first and after each kind of rekeying.
func TestBothEndsAgree(t *testing.T) {
	first := IKESuite{Encryption: wire.EncryptionAESGCM16, KeyBits: 256, PRF: PRFHMACSHA256, KeyExchange: wire.KeyExchangeCurve25519}
	second := IKESuite{Encryption: wire.EncryptionAESCBC, KeyBits: 128, PRF: PRFHMACSHA512, Integrity: wire.IntegrityHMACSHA256, KeyExchange: wire.KeyExchangeECP384}
	spii, spir := wire.SPI{1}, wire.SPI{2}

	sharedI, sharedR := exchangeForTest(t, first.KeyExchange)
	i, err1 := DeriveIKEKeys(first, testNi, testNr, sharedI, spii, spir)
	r, err2 := DeriveIKEKeys(first, testNi, testNr, sharedR, spii, spir)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	checkTalk(t, first, i, r)

	sharedI, sharedR = exchangeForTest(t, second.KeyExchange)
	i2, err1 := RekeyIKEKeys(second, first.PRF, i.D, testNr, testNi, [][]byte{sharedI}, spir, spii)
	r2, err2 := RekeyIKEKeys(second, first.PRF, r.D, testNr, testNi, [][]byte{sharedR}, spir, spii)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	checkTalk(t, second, i2, r2)
	if len(i2.D) != PRFHMACSHA512.Size() || bytes.Equal(i2.D[:32], i.D) {
		t.Error("the rekeyed IKE SA does not have keys of its own PRF")
	}

	esp := ESPSuite{Encryption: wire.EncryptionAESGCM16, KeyBits: 128, KeyExchange: wire.KeyExchangeECP256}
	sharedI, sharedR = exchangeForTest(t, esp.KeyExchange)
	ci, err1 := DeriveChildKeys(second, i2.D, [][]byte{sharedI}, testNi, testNr, esp)
	cr, err2 := DeriveChildKeys(second, r2.D, [][]byte{sharedR}, testNi, testNr, esp)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if !bytes.Equal(ci.InitiatorToResponder, cr.InitiatorToResponder) || !bytes.Equal(ci.ResponderToInitiator, cr.ResponderToInitiator) ||
		bytes.Equal(ci.InitiatorToResponder, ci.ResponderToInitiator) {
		t.Error("the ends have different Child SA keys, or the directions the same")
	}
}

func exchangeForTest(t *testing.T, group wire.KeyExchangeID) (sharedI, sharedR []byte) {
	t.Helper()
	spec, _ := groupOf(group)
	i, err1 := NewKeyExchange(group, bytes.NewReader(bytes.Repeat([]byte{3}, spec.sharedLen)))
	r, err2 := NewKeyExchange(group, bytes.NewReader(bytes.Repeat([]byte{5}, spec.sharedLen)))
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	sharedI, err1 = i.Shared(r.Public())
	sharedR, err2 = r.Shared(i.Public())
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return sharedI, sharedR
}

func checkTalk(t *testing.T, s IKESuite, i, r *IKEKeys) {
	t.Helper()
	seal, err1 := NewProtector(s, i.Ei, i.Ai)
	open, err2 := NewProtector(s, r.Ei, r.Ai)
	other, err3 := NewProtector(s, r.Er, r.Ar)
	if err1 != nil || err2 != nil || err3 != nil {
		t.Fatal(err1, err2, err3)
	}
	body := seal.Seal(nil, []byte("header"), []byte("text"))
	if got, err := open.Open(nil, []byte("header"), body); err != nil || string(got) != "text" {
		t.Errorf("%s: responder reads %q, %v", s, got, err)
	}
	if _, err := other.Open(nil, []byte("header"), body); err != ErrAuthentication {
		t.Errorf("%s: a reflected message is accepted: %v", s, err)
	}
}
