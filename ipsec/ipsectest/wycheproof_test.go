package ipsectest_test

import (
	"bytes"
	"crypto/hmac"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"testing"

	"github.com/c2sp/wycheproof"

	"github.com/swanherd/swanherd/ipsec/esp"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// Wycheproof's vectors go for the known weak points of primitives. Here they go
// through the functions that IKE and ESP use, and not only through what those
// call: what a vector calls acceptable has one answer here. Signatures are in
// package ident.

type wycheproofGroup struct {
	KeySize, IVSize, TagSize int // bits
	Tests                    []wycheproofTest
}

type wycheproofTest struct {
	TcID            int
	Comment, Result string
	Flags           []string
	Public, Private octets
	Shared          octets
	Key, IV, AAD    octets
	Msg, CT, Tag    octets
	Seed, EK, C, K  octets
}

type octets []byte

func (o *octets) UnmarshalText(text []byte) (err error) {
	*o, err = hex.DecodeString(string(text))
	return err
}

// eachWycheproof runs run for every test in a file, and wants at least some that
// are for us: run returns false for the others.
func eachWycheproof(t *testing.T, file string, least int, run func(t *testing.T, g wycheproofGroup, v wycheproofTest) bool) {
	t.Helper()
	b, err := fs.ReadFile(wycheproof.TestVectors, file)
	if err != nil {
		t.Fatal(err)
	}
	var all struct{ TestGroups []wycheproofGroup }
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	n := 0
	for _, g := range all.TestGroups {
		for _, v := range g.Tests {
			if run(t, g, v) {
				n++
			}
			if t.Failed() {
				t.Fatalf("%s: test %d: %s %v, %s", file, v.TcID, v.Comment, v.Flags, v.Result)
			}
		}
	}
	if n < least {
		t.Errorf("%s: %d tests are for us, expected at least %d", file, n, least)
	}
}

func TestWycheproofX25519(t *testing.T) {
	eachWycheproof(t, "x25519_test.json", 518, func(t *testing.T, _ wycheproofGroup, v wycheproofTest) bool {
		// RFC 7748, Section 6.1: a secret of zeros is refused, everything else
		// is taken (RFC 8031, Section 3.2).
		valid := !bytes.Equal(v.Shared, make([]byte, 32))
		checkShared(t, wire.KeyExchangeCurve25519, v.Private, v.Public, v.Shared, valid)
		return true
	})
}

func TestWycheproofECDH(t *testing.T) {
	for _, c := range []struct {
		file  string
		id    wire.KeyExchangeID
		n     int // octets of a coordinate
		least int
	}{
		{"ecdh_secp256r1_ecpoint_test.json", wire.KeyExchangeECP256, 32, 350},
		{"ecdh_secp384r1_ecpoint_test.json", wire.KeyExchangeECP384, 48, 600},
		{"ecdh_secp521r1_ecpoint_test.json", wire.KeyExchangeECP521, 66, 600},
	} {
		eachWycheproof(t, c.file, c.least, func(t *testing.T, _ wycheproofGroup, v wycheproofTest) bool {
			scalar := make([]byte, c.n)
			copy(scalar[max(0, c.n-len(v.Private)):], v.Private[max(0, len(v.Private)-c.n):])
			// IKE sends both coordinates and nothing before them: a compressed
			// point has no form there, and its octets are refused as they are.
			public, uncompressed := bytes.CutPrefix(v.Public, []byte{4})
			checkShared(t, c.id, scalar, public, v.Shared, v.Result != "invalid" && uncompressed)
			return true
		})
	}
}

func checkShared(t *testing.T, id wire.KeyExchangeID, private, peer, want []byte, valid bool) {
	t.Helper()
	k, err := suite.NewKeyExchange(id, bytes.NewReader(private))
	if err != nil {
		t.Fatalf("%s: %v", id, err)
	}
	defer k.Destroy()
	got, err := k.Shared(peer)
	switch {
	case valid && (err != nil || !bytes.Equal(got, want)):
		t.Errorf("%s: secret %x, %v, want %x", id, got, err, want)
	case !valid && !errors.Is(err, suite.ErrInvalidPublicValue):
		t.Errorf("%s: accepted with secret %x, %v", id, got, err)
	}
}

func TestWycheproofMLKEM(t *testing.T) {
	for set, id := range map[string]wire.KeyExchangeID{"768": wire.KeyExchangeMLKEM768, "1024": wire.KeyExchangeMLKEM1024} {
		const seedLen = 64
		eachWycheproof(t, "mlkem_"+set+"_keygen_seed_test.json", 100, func(t *testing.T, _ wycheproofGroup, v wycheproofTest) bool {
			k, err := suite.NewKeyExchange(id, bytes.NewReader(v.Seed))
			if err != nil || !bytes.Equal(k.Public(), v.EK) {
				t.Errorf("ML-KEM-%s: another key, %v", set, err)
			}
			return true
		})
		eachWycheproof(t, "mlkem_"+set+"_test.json", 160, func(t *testing.T, _ wycheproofGroup, v wycheproofTest) bool {
			if len(v.Seed) != seedLen {
				return false // there is no such thing as a seed of another length here
			}
			checkShared(t, id, v.Seed, v.C, v.K, v.Result == "valid")
			return true
		})
		eachWycheproof(t, "mlkem_"+set+"_encaps_test.json", 200, func(t *testing.T, _ wycheproofGroup, v wycheproofTest) bool {
			_, _, err := suite.Respond(id, v.EK, nil)
			if (err == nil) != (v.Result == "valid") || (err != nil && !errors.Is(err, suite.ErrInvalidPublicValue)) {
				t.Errorf("ML-KEM-%s: encapsulation to the key: %v", set, err)
			}
			return true
		})
	}
}

var aeadFiles = []struct {
	file   string
	id     wire.EncryptionID
	fixed  bool // the cipher has a single key length
	ivBits int
	least  int
}{
	{"aes_gcm_test.json", wire.EncryptionAESGCM16, false, 96, 190},
	{"chacha20_poly1305_test.json", wire.EncryptionChaCha20Poly1305, true, 96, 310},
	{"aes_ccm_test.json", wire.EncryptionAESCCM16, false, 88, 12},
}

func TestWycheproofAEAD(t *testing.T) {
	for _, c := range aeadFiles {
		eachWycheproof(t, c.file, c.least, func(t *testing.T, g wycheproofGroup, v wycheproofTest) bool {
			e := suite.Encryption{ID: c.id, KeyBits: uint16(g.KeySize)}
			if c.fixed {
				e.KeyBits = 0
			}
			if g.IVSize != c.ivBits || g.TagSize != 128 || (c.id == wire.EncryptionAESCCM16 && g.KeySize == 192) {
				return false
			}
			checkAEAD(t, e, v)
			if c.id == wire.EncryptionAESGCM16 {
				for id, n := range map[wire.EncryptionID]int{wire.EncryptionAESGCM12: 12, wire.EncryptionAESGCM8: 8} {
					checkShortTag(t, suite.Encryption{ID: id, KeyBits: e.KeyBits}, n, v)
				}
			}
			checkProtector(t, e, v)
			checkESP(t, e, v)
			return true
		})
	}
}

func checkAEAD(t *testing.T, e suite.Encryption, v wycheproofTest) {
	t.Helper()
	a, err := suite.NewAEAD(e, v.Key)
	if err != nil {
		t.Fatal(err)
	}
	sealed := append(bytes.Clone(v.CT), v.Tag...)
	opened, err := a.Open(nil, v.IV, sealed, v.AAD)
	if (err == nil) != (v.Result == "valid") || (err == nil && !bytes.Equal(opened, v.Msg)) {
		t.Errorf("%s: opened %x, %v", e, opened, err)
	}
	if again := a.Seal(nil, v.IV, v.Msg, v.AAD); bytes.Equal(again, sealed) != (v.Result == "valid") {
		t.Errorf("%s: sealed %x", e, again)
	}
}

// checkShortTag cuts the tag of a vector. A forgery whose wrong octets are cut
// off is none any more.
func checkShortTag(t *testing.T, e suite.Encryption, n int, v wycheproofTest) {
	t.Helper()
	a, err := suite.NewAEAD(e, v.Key)
	if err != nil {
		t.Fatal(err)
	}
	sealed := append(bytes.Clone(v.CT), v.Tag[:n]...)
	valid := bytes.Equal(a.Seal(nil, v.IV, v.Msg, v.AAD), sealed)
	if v.Result == "valid" && !valid {
		t.Errorf("%s: sealed something else", e)
	}
	if opened, err := a.Open(nil, v.IV, sealed, v.AAD); (err == nil) != valid || (err == nil && !bytes.Equal(opened, v.Msg)) {
		t.Errorf("%s: opened %x, %v", e, opened, err)
	}
}

// checkProtector opens the vector as an IKE message whose header is the
// additional data. Its text is no IKE payload with padding, so what counts is
// whether it is found authentic.
func checkProtector(t *testing.T, e suite.Encryption, v wycheproofTest) {
	t.Helper()
	s := suite.IKESuite{Encryption: e.ID, KeyBits: e.KeyBits, PRF: suite.PRFHMACSHA256, KeyExchange: wire.KeyExchangeCurve25519}
	salt := s.EncryptionKeyLen() - len(v.Key)
	p, err := suite.NewProtector(s, append(bytes.Clone(v.Key), v.IV[:salt]...), nil)
	if err != nil {
		t.Fatal(err)
	}
	body := append(append(bytes.Clone(v.IV[salt:]), v.CT...), v.Tag...)
	opened, err := p.Open(nil, v.AAD, body)
	switch {
	case v.Result != "valid" || len(v.Msg) == 0: // there is a Pad Length at least
		if !errors.Is(err, suite.ErrAuthentication) {
			t.Errorf("%s: IKE message: opened %x, %v", e, opened, err)
		}
	case int(v.Msg[len(v.Msg)-1]) >= len(v.Msg):
		if !errors.Is(err, suite.ErrPadding) {
			t.Errorf("%s: IKE message: opened %x, %v, want a padding error", e, opened, err)
		}
	default:
		if want := v.Msg[:len(v.Msg)-int(v.Msg[len(v.Msg)-1])-1]; err != nil || !bytes.Equal(opened, want) {
			t.Errorf("%s: IKE message: opened %x, %v, want %x", e, opened, err, want)
		}
	}
}

// checkESP opens the vector as an ESP packet if its additional data could be SPI
// and sequence number.
func checkESP(t *testing.T, e suite.Encryption, v wycheproofTest) {
	t.Helper()
	if len(v.AAD) != 8 && len(v.AAD) != 12 || len(v.Msg) < 2 {
		return
	}
	s := suite.ESPSuite{Encryption: e.ID, KeyBits: e.KeyBits, ESN: len(v.AAD) == 12}
	sequence := uint64(binary.BigEndian.Uint32(v.AAD[len(v.AAD)-4:]))
	if s.ESN {
		sequence = binary.BigEndian.Uint64(v.AAD[4:])
	}
	c := esp.Config{SPI: binary.BigEndian.Uint32(v.AAD), Suite: s, Key: append(bytes.Clone(v.Key), v.IV[:s.SaltLen()]...)}
	if c.SPI < esp.MinSPI || sequence < 2 {
		return
	}
	in, err := esp.NewInbound(c)
	if err != nil {
		t.Fatal(err)
	}
	in.SetHighestForTest(sequence - 1)
	packet := append(bytes.Clone(v.AAD[:4]), v.AAD[len(v.AAD)-4:]...)
	packet = append(append(append(packet, v.IV[s.SaltLen():]...), v.CT...), v.Tag...)
	_, err = in.Open(packet)
	if authentic := err == nil || errors.Is(err, esp.ErrMalformed); authentic != (v.Result == "valid") {
		t.Errorf("%s: ESP packet: %v", e, err)
	}
}

func TestWycheproofHMAC(t *testing.T) {
	for _, h := range []struct {
		hash      string
		prf       suite.PRF
		integrity wire.IntegrityID
	}{
		{"sha1", suite.PRFHMACSHA1, wire.IntegrityHMACSHA1},
		{"sha256", suite.PRFHMACSHA256, wire.IntegrityHMACSHA256},
		{"sha384", suite.PRFHMACSHA384, wire.IntegrityHMACSHA384},
		{"sha512", suite.PRFHMACSHA512, wire.IntegrityHMACSHA512},
	} {
		eachWycheproof(t, "hmac_"+h.hash+"_test.json", 170, func(t *testing.T, g wycheproofGroup, v wycheproofTest) bool {
			valid, n := v.Result == "valid", g.TagSize/8
			if got := h.prf.Sum(v.Key, v.Msg)[:n]; bytes.Equal(got, v.Tag) != valid {
				t.Errorf("%s: %x", h.prf, got)
			}
			if len(v.Key) == h.prf.Size() {
				mac, err := suite.NewMAC(h.integrity, v.Key)
				if err != nil {
					t.Fatal(err)
				}
				mac.Write(v.Msg)
				if got := mac.Sum(nil)[:n]; hmac.Equal(got, v.Tag) != valid {
					t.Errorf("%s: %x", h.integrity, got)
				}
			}
			return true
		})
	}
}
