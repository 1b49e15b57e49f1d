package suite

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// An algorithm is offered, accepted and used only after it reproduced a known
// answer in this process, once, at its first use. A broken build or processor
// then shows as an error that names the algorithm, and not as peers that
// cannot understand each other.

// selfTests holds the outcome for each algorithm that was used so far. It is
// safe for concurrent use.
var selfTests sync.Map // of testKey to func() error

type testKey struct {
	kind kind
	id   uint16
	bits uint16
}

func selfTest(key testKey, run func() error) error {
	test, ok := selfTests.Load(key)
	if !ok {
		test, _ = selfTests.LoadOrStore(key, sync.OnceValue(run))
	}
	return test.(func() error)()
}

func mismatch(what string) error {
	return fmt.Errorf("self-test of %s gave a wrong answer: it is not used on this machine", what)
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic("suite: malformed test vector: " + err.Error())
	}
	return b
}

func testEncryption(e Encryption) error {
	spec, ok := cipherOf(e)
	if !ok {
		return fmt.Errorf("%s %s is not implemented, use one of %s", kindEncryption, e, keywords(kindEncryption))
	}
	if e.ID == wire.EncryptionNull {
		return nil // it computes nothing
	}
	answers := cipherAnswers
	if spec.espOnly {
		answers = gmacAnswers
	}
	return selfTest(testKey{kindEncryption, uint16(e.ID), e.KeyBits}, func() error {
		if !answers(spec) {
			return mismatch(spec.keyword)
		}
		return nil
	})
}

// cipherAnswers seals a fixed message with counter 0 and opens it again, and
// checks that a changed octet is noticed. The key counts 0, 1, 2, ...; the
// answers were computed with another implementation.
func cipherAnswers(spec cipherSpec) bool {
	s := IKESuite{Encryption: spec.ID, KeyBits: spec.KeyBits, PRF: PRFHMACSHA256, KeyExchange: wire.KeyExchangeCurve25519}
	if !spec.aead() {
		s.Integrity = wire.IntegrityHMACSHA256
	}
	key := make([]byte, 0, 64)
	for i := range s.EncryptionKeyLen() {
		key = append(key, byte(i))
	}
	integrityKey := bytes.Repeat([]byte{0xa5}, s.IntegrityKeyLen())
	p, err := newProtector(s, key, integrityKey)
	if err != nil {
		return false
	}
	header, text := []byte("header"), []byte("payloads")
	sealed := p.Seal(nil, header, text)
	if !bytes.Equal(sealed, unhex(sealedAnswers[spec.keyword])) {
		return false
	}
	opened, err := p.Open(nil, header, sealed)
	if err != nil || !bytes.Equal(opened, text) {
		return false
	}
	sealed[len(sealed)-1] ^= 1
	_, err = p.Open(nil, header, sealed)
	return err == ErrAuthentication
}

var sealedAnswers = map[string]string{
	"aes128gcm16":      "000000000000000011e7015e240116dbc6a0abc17f67a077ac9f4c383c33783110",
	"aes192gcm16":      "0000000000000000945415f1ac5e28a07fc4cb4f7f1277439670df2f62d4c6ec01",
	"aes256gcm16":      "0000000000000000e87f5423d147f852ea39dbeb0f33b023b9068a73950764c209",
	"chacha20poly1305": "0000000000000000794e6373d0cba95a1037d58af9a09798da5aca606bc078ede9",
	"aes128":           "c6a13b37878f5b826f4f8162a1c8d879be3f7366cf854b090e8a1ea96bd28898b7d9937d34ef55f3024dfad0ccdff5d6",
	"aes192":           "916251821c73a522c396d627380196079cf6cce91c8bc3cbcb8b861c7e35f029ae385b767f9f5d4ac9d7f68c99706df8",
	"aes256":           "f29000b62a499fd0a9f39a6add2e77805a1605445edb8c4ab4451f39a2ca8b29e7eb6628222f3fa85b925a87e9df7ef3",
	"aes128ctr":        "00000000000000001b4951d8978d3360ddb399475d14630586fe11fe66f724bbc9",
	"aes192ctr":        "00000000000000009ff703a05ff602010dfd2df171cc88c103f3f0a34da57ea33e",
	"aes256ctr":        "00000000000000007e5d9dd4ed183cffc02a130ab9df0148e1d80844f374adab30",
	"aes128gcm12":      "000000000000000011e7015e240116dbc6a0abc17f67a077ac9f4c383c",
	"aes192gcm12":      "0000000000000000945415f1ac5e28a07fc4cb4f7f1277439670df2f62",
	"aes256gcm12":      "0000000000000000e87f5423d147f852ea39dbeb0f33b023b9068a7395",
	"aes128gcm8":       "000000000000000011e7015e240116dbc6a0abc17f67a077ac",
	"aes192gcm8":       "0000000000000000945415f1ac5e28a07fc4cb4f7f12774396",
	"aes256gcm8":       "0000000000000000e87f5423d147f852ea39dbeb0f33b023b9",
	"aes128ccm16":      "00000000000000003835c7fdafa6e1d40d3535df8885a203972ea30f4e3e569a4c",
	"aes256ccm16":      "000000000000000088e4b9b6ffe70f024d49b49052ae4497625bbeddca34470e18",
	"aes128ccm12":      "00000000000000003835c7fdafa6e1d40d91a487fab9c4419383ff3771",
	"aes256ccm12":      "000000000000000088e4b9b6ffe70f024d29fce1eed03fefdef605a2ab",
	"aes128ccm8":       "00000000000000003835c7fdafa6e1d40d8057639833a1fba7",
	"aes256ccm8":       "000000000000000088e4b9b6ffe70f024d493327f9b1b70dad",
}

// gmacAnswers does the same with GMAC.
func gmacAnswers(spec cipherSpec) bool {
	key := make([]byte, spec.keyLen+gmacSaltLen+8)
	for i := range key[:spec.keyLen+gmacSaltLen] {
		key[i] = byte(i)
	}
	aead, err := NewAEAD(spec.Encryption, key[:spec.keyLen])
	if err != nil {
		return false
	}
	header, text, nonce := []byte("header"), []byte("payloads"), key[spec.keyLen:]
	sealed := aead.Seal(nil, nonce, text, header)
	if !bytes.Equal(sealed, append(text, unhex(gmacTags[spec.keyLen])...)) {
		return false
	}
	opened, err := aead.Open(nil, nonce, sealed, header)
	if err != nil || !bytes.Equal(opened, text) {
		return false
	}
	sealed[0] ^= 1
	_, err = aead.Open(nil, nonce, sealed, header)
	return err != nil
}

var gmacTags = map[int]string{
	16: "58b79b6dbfdc5417ca18ea51144e3baa",
	24: "8f4a3e2ef2994281acb9db1e8f00dd53",
	32: "07028ff5d5b82e9724a177d6dce8014c",
}

// macAnswers are published, for each length of output: RFC 4231, Section 4.3,
// and its like for SHA-1, RFC 2202, Section 3 (test cases 2); RFC 3566, Section
// 4.2 (test case 4), which RFC 4434, Section 3, has too.
var macAnswers = map[int]struct{ key, text, mac string }{
	16: {
		"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f",
		"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\x13",
		"47f51b4564966215b8985c63055ed308",
	},
	20: {hmacKey, hmacText, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"},
	32: {hmacKey, hmacText, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
	48: {hmacKey, hmacText, "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649"},
	64: {hmacKey, hmacText, "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"},
}

const (
	hmacKey  = "Jefe"
	hmacText = "what do ya want for nothing?"
)

func testMAC(k kind, table []macSpec, id uint16) error {
	h, ok := findMAC(table, id)
	if !ok {
		return fmt.Errorf("%s %d is not implemented, use one of %s", k, id, keywords(k))
	}
	return selfTest(testKey{kind: k, id: id}, func() error {
		answer := macAnswers[h.size]
		mac := h.new([]byte(answer.key))
		mac.Write([]byte(answer.text))
		if !hmac.Equal(mac.Sum(nil), unhex(answer.mac)) {
			return mismatch(h.keyword)
		}
		return nil
	})
}

func testPRF(p PRF) error { return testMAC(kindPRF, prfs, uint16(p)) }
func testIntegrity(id wire.IntegrityID) error {
	return testMAC(kindIntegrity, integrities, uint16(id))
}

// testAHIntegrity is testIntegrity for AH, which has GMAC too.
func testAHIntegrity(id wire.IntegrityID) error {
	if m, ok := findMAC(gmacs, uint16(id)); ok {
		return testEncryption(Encryption{wire.EncryptionNullAESGMAC, uint16(m.size-gmacSaltLen) * 8})
	}
	return testIntegrity(id)
}

// exchangeAnswer is a known exchange: the private scalar of one side, the
// public value of the other, the shared secret, or its SHA-256 if it is long.
type exchangeAnswer struct{ scalar, peer, shared string }

var exchangeAnswers = map[wire.KeyExchangeID]exchangeAnswer{
	wire.KeyExchangeCurve25519: { // RFC 8031, Appendix A
		scalar: "751fb4308655b476b6789b7325f9ea8cddd16a58533ff6d9e60009464a5f9d94",
		peer:   "0be7c1f5aad87d7e448662673298a443478b859745179eaf564c79c0ef6eee25",
		shared: "c74950607a12327f3204d94b6825bfb068b7f8319a9e3708ed3d43ce8130c950",
	},
	wire.KeyExchangeECP256: { // RFC 5903, Section 8.1
		scalar: "C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433",
		peer: "D12DFB5289C8D4F81208B70270398C342296970A0BCCB74C736FC7554494BF63" +
			"56FBF3CA366CC23E8157854C13C58D6AAC23F046ADA30F8353E74F33039872AB",
		shared: "D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE",
	},
	wire.KeyExchangeECP384: { // RFC 5903, Section 8.2
		scalar: "099F3C7034D4A2C699884D73A375A67F7624EF7C6B3C0F160647B67414DCE655E35B538041E649EE3FAEF896783AB194",
		peer: "E558DBEF53EECDE3D3FCCFC1AEA08A89A987475D12FD950D83CFA41732BC509D0D1AC43A0336DEF96FDA41D0774A3571" +
			"DCFBEC7AACF3196472169E838430367F66EEBE3C6E70C416DD5F0C68759DD1FFF83FA40142209DFF5EAAD96DB9E6386C",
		shared: "11187331C279962D93D604243FD592CB9D0A926F422E47187521287E7156C5C4D603135569B9E9D09CF5D4A270F59746",
	},
	wire.KeyExchangeECP521: { // RFC 5903, Section 8.3
		scalar: "0037ADE9319A89F4DABDB3EF411AACCCA5123C61ACAB57B5393DCE47608172A095AA85A30FE1C2952C6771D937BA9777F5957B2639BAB072462F68C27A57382D4A52",
		peer: "00D0B3975AC4B799F5BEA16D5E13E9AF971D5E9B984C9F39728B5E5739735A219B97C356436ADC6E95BB0352F6BE64A6C2912D4EF2D0433CED2B6171640012D9460F" +
			"015C68226383956E3BD066E797B623C27CE0EAC2F551A10C2C724D9852077B87220B6536C5C408A1D2AEBB8E86D678AE49CB57091F4732296579AB44FCD17F0FC56A",
		shared: "01144C7D79AE6956BC8EDB8E7C787C4521CB086FA64407F97894E5E6B2D79B04D1427E73CA4BAA240A34786859810C06B3C715A3A8CC3151F2BEE417996D19F3DDEA",
	},
	// Computed with another implementation, with the peer's public value 3:
	// these groups have no published exchanges.
	wire.KeyExchangeMODP2048: {
		scalar: "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728",
		peer:   strings.Repeat("00", 255) + "03",
		shared: "928aed59b5fad821f9d1cc1cc859f7b43ed4a93bbe068281921a1b11d5e0d641",
	},
	wire.KeyExchangeMODP3072: {
		scalar: "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f303132333435",
		peer:   strings.Repeat("00", 383) + "03",
		shared: "edae654aca9c0d913d95f6756c2b5c488e5384413f912885caa6efafab6bb896",
	},
	wire.KeyExchangeMODP4096: {
		scalar: "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c",
		peer:   strings.Repeat("00", 511) + "03",
		shared: "dc72f7a3da735005a2ded9cfeea71fa51e523418c22d033b1f675a8eb3f0deaa",
	},
}

func testOptionalKeyExchange(id wire.KeyExchangeID) error {
	if id == 0 {
		return nil
	}
	return testKeyExchange(id)
}

func testKeyExchange(id wire.KeyExchangeID) error {
	spec, ok := groupOf(id)
	if !ok {
		return fmt.Errorf("%s %s is not implemented, use one of %s", kindKeyExchange, id, keywords(kindKeyExchange))
	}
	return selfTest(testKey{kind: kindKeyExchange, id: uint16(id)}, func() error {
		if m, ok := mlkemMethods[id]; ok {
			if !m.answersKnown(id) {
				return mismatch(spec.keyword)
			}
			return nil
		}
		answer := exchangeAnswers[id]
		k, err := newKeyExchange(spec, bytes.NewReader(unhex(answer.scalar)))
		if err != nil {
			return mismatch(spec.keyword)
		}
		defer k.Destroy()
		shared, err := k.Shared(unhex(answer.peer))
		if digest := sha256.Sum256(shared); len(shared) > sha256.Size && len(answer.shared) == 2*sha256.Size {
			shared = digest[:]
		}
		if err != nil || !bytes.Equal(shared, unhex(answer.shared)) {
			return mismatch(spec.keyword)
		}
		return nil
	})
}

func knownSequenceNumbers(id wire.SequenceNumbersID) error {
	if id != wire.SequenceNumbers32 && id != wire.SequenceNumbersExtended {
		return fmt.Errorf("%s %s is not implemented, use one of %s", kindSequenceNumbers, id, keywords(kindSequenceNumbers))
	}
	return nil
}
