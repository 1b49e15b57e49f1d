package esp

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

var (
	aes128 = suite.ESPSuite{Encryption: wire.EncryptionAESGCM16, KeyBits: 128}
	aes256 = suite.ESPSuite{Encryption: wire.EncryptionAESGCM16, KeyBits: 256}
	chacha = suite.ESPSuite{Encryption: wire.EncryptionChaCha20Poly1305}
	cbc128 = suite.ESPSuite{Encryption: wire.EncryptionAESCBC, KeyBits: 128, Integrity: wire.IntegrityHMACSHA256}
	cbc256 = suite.ESPSuite{Encryption: wire.EncryptionAESCBC, KeyBits: 256, Integrity: wire.IntegrityHMACSHA512}
	gcm8   = suite.ESPSuite{Encryption: wire.EncryptionAESGCM8, KeyBits: 256}
	ccm8   = suite.ESPSuite{Encryption: wire.EncryptionAESCCM8, KeyBits: 128}
	ctr128 = suite.ESPSuite{Encryption: wire.EncryptionAESCTR, KeyBits: 128, Integrity: wire.IntegrityHMACSHA256}
	suites = allSuites()
)

// allSuites are all that can be negotiated, with and without extended sequence
// numbers.
func allSuites() []suite.ESPSuite {
	var all []suite.ESPSuite
	for id := range wire.EncryptionID(64) {
		for _, bits := range []uint16{0, 128, 192, 256} {
			for integrity := range wire.IntegrityID(32) {
				s := suite.ESPSuite{Encryption: id, KeyBits: bits, Integrity: integrity}
				if s.Validate() == nil {
					all = append(all, s, esn(s))
				}
			}
		}
	}
	return all
}

func TestAllSuites(t *testing.T) {
	for _, s := range []suite.ESPSuite{aes128, aes256, chacha, cbc128, cbc256, gcm8, ccm8, ctr128} {
		if !slices.Contains(suites, s) || !slices.Contains(suites, esn(s)) {
			t.Errorf("%s is not among the suites tested", s)
		}
	}
	// 19 combined-mode ciphers, 7 others with 5 integrity algorithms.
	if want := 2 * (19 + 7*5); len(suites) != want {
		t.Errorf("%d suites are tested, want %d: %v", len(suites), want, suites)
	}
}

func esn(s suite.ESPSuite) suite.ESPSuite {
	s.ESN = true
	return s
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func config(s suite.ESPSuite) Config {
	key := make([]byte, s.KeyLen())
	for i := range key {
		key[i] = byte(i + 1)
	}
	return Config{SPI: 0x1234, Suite: s, Key: key}
}

func newPair(t testing.TB, c Config) (*Outbound, *Inbound) {
	t.Helper()
	out, err := NewOutbound(c)
	if err != nil {
		t.Fatal(err)
	}
	in, err := NewInbound(c)
	if err != nil {
		t.Fatal(err)
	}
	return out, in
}

func payloadOf(n int) []byte {
	b := make([]byte, n, n+TrailerRoom)
	for i := range b {
		b[i] = byte(i)
	}
	for i := range b[n:cap(b)] {
		b[:cap(b)][n+i] = 0xa5
	}
	return b
}

// The packets are those of the GCM test cases for ESP (draft-mcgrew-gcm-test-01,
// Section 4) and of RFC 7634, Appendix A. Their IVs are not sequence numbers, so
// they can only be opened.
func TestOpenVectors(t *testing.T) {
	tests := []struct {
		name                string
		suite               suite.ESPSuite
		spi                 uint32
		before              uint64
		key, packet, opened string
		nextHeader          uint8
	}{
		{
			name: "AES-128-GCM with extended sequence number", suite: esn(aes128),
			spi: 0x4321, before: 0x87654320ffffffff,
			key: "4c80cdefbb5d10da906ac73c3613a634 2e443b68",
			packet: `00004321 00000000 4956ed7e3b244cfe
				fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34
				cfa2436f14a3f3cf65925bf1f4a13c5d15b21e1884f5ff6247aeabb786b93bce
				61bc17d768fd9732 459018148f6cbe722fd04796562dfdb4`,
			opened: `45000048699a000080114db7c0a80102c0a801010a9bf15638d3010000010000
				00000000045f736970045f756470037369700963796265726369747902646b00
				00210001`,
			nextHeader: 1,
		},
		{
			name: "AES-256-GCM", suite: aes256,
			spi: 0x4a2cbfe3, before: 1,
			key: "abbccddef00112233445566778899aababbccddef00112233445566778899aab 11223344",
			packet: `4a2cbfe3 00000002 0102030405060708
				ff425c9b724599df7a3bcd510194e00d6a78107f1b0b1cbf06efae9d65a5d763
				748a637985771d347f0545659f14e99def842d8e b335f4eecfdbf831824b4c4915956c96`,
			opened: `4500003069a6400080062690c0a801029389155e0a9e008b2dc57ee000000000
				7002400020bf0000020405b401010402`,
			nextHeader: 1,
		},
		{
			name: "ChaCha20-Poly1305", suite: chacha,
			spi: 0x01020304, before: 4,
			key: `808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f a0a1a2a3`,
			packet: `01020304 00000005 1011121314151617
				24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c6
				14ee8099d52844eb61aa95dfab4c02f72aa71e7c4c4f64c9befe2facc638e8f3
				cbec163fac469b502773f6fb94e664da9165b82829f641e0
				76aaa8266b7fb0f7b11b369907e1ad43`,
			opened: `45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec10
				0007362708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223
				2425262728292a2b2c2d2e2f3031323334353637`,
			nextHeader: NextHeaderIPv4,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in, err := NewInbound(Config{SPI: tt.spi, Suite: tt.suite, Key: unhex(t, tt.key)})
			if err != nil {
				t.Fatal(err)
			}
			in.SetHighestForTest(tt.before)
			p, err := in.Open(unhex(t, tt.packet))
			if err != nil {
				t.Fatal(err)
			}
			if want := unhex(t, tt.opened); !bytes.Equal(p.Payload, want) || p.NextHeader != tt.nextHeader {
				t.Errorf("opened %x next header %d, want %x next header %d", p.Payload, p.NextHeader, want, tt.nextHeader)
			}
		})
	}
}

// RFC 3602, Section 4, cases 5 to 8. The packets there have no ICV: it is added
// here, by the hash that TestOpenRefuses and the vectors of RFC 4868 cover.
func TestOpenRFC3602(t *testing.T) {
	tests := []struct {
		spi, sequence                uint32
		key, iv, ciphertext, payload string
		nextHeader                   uint8
	}{
		{
			spi: 0x4321, sequence: 1, key: "90d382b410eeba7ad938c46cec1a82bf", iv: "e96e8c08ab465763fd098d45dd3ff893",
			ciphertext: `f663c25d325c18c6a9453e194e120849a4870b66cc6b9965330013b4898dc856
				a4699e523a55db080b59ec3a8e4b7e52775b07d1db34ed9c538ab50c551b874aa269add047ad2d5913ac19b7cfbad4a6`,
			payload: `08000ebda70a00008e9c083db95b070008090a0b0c0d0e0f1011121314151617
				18191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637`,
			nextHeader: 1,
		},
		{
			spi: 0x4321, sequence: 8, key: "90d382b410eeba7ad938c46cec1a82bf", iv: "69d08df7d203329db093fc4924e5bd80",
			ciphertext: `f51995881ec4e0c4488987ce742e8109689bb379d2d750c0d915dca346a89f75`,
			payload:    `0800b5e8a80a0500a69c083d0b660e00777777777777777777777777`,
			nextHeader: 1,
		},
		{
			spi: 0x8765, sequence: 2, key: "0123456789abcdef0123456789abcdef", iv: "f4e765244f6407adf13dc1380f673f37",
			ciphertext: `773b5241a4c449225e4f3ce5ed611b0c237ca96cf74a93013c1b0ea1a0cf70f8e4ecaec78ac53aad7a0f022b859243c6
				47752e94a859352b8a4d4d2decd136e5c177f132ad3fbfb2201ac9904c74ee0a109e0ca1e4dfe9d5a100b842f1c22f0d`,
			payload: `45000054090400004001f988c0a87b03c0a87bc808009f76a90a0100b49c083d02a2040008090a0b0c0d0e0f
				101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637`,
			nextHeader: NextHeaderIPv4,
		},
		{
			spi: 0x8765, sequence: 5, key: "0123456789abcdef0123456789abcdef", iv: "85d47224b5f3dd5d2101d4ea8dffab22",
			ciphertext: `15b92683819596a8047232cc00f7048fe45318e11f8a0f62ede3c3fc61203bb50f980a08c9843fd3a1b06d5c07ff9639
				b7eb7dfb3512e5de435e7207ed971ef3d2726d9b5ef6affc6d17a0decbb13892`,
			payload: `45000044090c00004001f990c0a87b03c0a87bc80800d63caa0a0200c69c083da3de0300
				ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff`,
			nextHeader: NextHeaderIPv4,
		},
	}
	for _, tt := range tests {
		integrityKey := bytes.Repeat([]byte{0x0c}, 32)
		in, err := NewInbound(Config{SPI: tt.spi, Suite: cbc128, Key: append(unhex(t, tt.key), integrityKey...)})
		if err != nil {
			t.Fatal(err)
		}
		packet := binary.BigEndian.AppendUint32(nil, tt.spi)
		packet = binary.BigEndian.AppendUint32(packet, tt.sequence)
		packet = append(append(packet, unhex(t, tt.iv)...), unhex(t, tt.ciphertext)...)
		mac := hmac.New(sha256.New, integrityKey)
		mac.Write(packet)
		p, err := in.Open(append(packet, mac.Sum(nil)[:16]...))
		if err != nil {
			t.Fatal(err)
		}
		if want := unhex(t, tt.payload); !bytes.Equal(p.Payload, want) || p.NextHeader != tt.nextHeader || p.Sequence != uint64(tt.sequence) {
			t.Errorf("SPI %x, sequence %d: opened %x, next header %d", tt.spi, tt.sequence, p.Payload, p.NextHeader)
		}
	}
}

func TestSealOpenRoundTrip(t *testing.T) {
	for _, s := range suites {
		t.Run(s.String(), func(t *testing.T) {
			out, in := newPair(t, config(s))
			dst := make([]byte, 0, 65536)
			for n := range 1500 {
				payload := payloadOf(n)
				sealed, err := out.Seal(dst, payload, NextHeaderIPv6)
				if err != nil {
					t.Fatal(err)
				}
				if len(sealed) != out.SealedLen(n) || len(sealed) != n+Overhead(s, n) {
					t.Fatalf("length %d: sealed %d octets, SealedLen says %d, Overhead %d", n, len(sealed), out.SealedLen(n), Overhead(s, n))
				}
				if len(sealed)%4 != 0 {
					t.Fatalf("length %d: the ICV does not end on a 4 octet boundary", n)
				}
				if !bytes.Equal(payload[:cap(payload)], payloadOf(n)[:cap(payload)]) {
					t.Fatalf("length %d: Seal left traces in or behind the payload", n)
				}
				p, err := in.Open(sealed)
				if err != nil {
					t.Fatalf("length %d: %v", n, err)
				}
				if !bytes.Equal(p.Payload, payload) || p.NextHeader != NextHeaderIPv6 || p.Sequence != uint64(n+1) {
					t.Fatalf("length %d: opened %d octets, next header %d, sequence %d", n, len(p.Payload), p.NextHeader, p.Sequence)
				}
			}
		})
	}
}

func TestSealAppends(t *testing.T) {
	out, in := newPair(t, config(aes128))
	var group []byte
	for range 3 {
		var err error
		if group, err = out.Seal(group, payloadOf(100), NextHeaderIPv4); err != nil {
			t.Fatal(err)
		}
	}
	for len(group) > 0 {
		n := out.SealedLen(100)
		if _, err := in.Open(group[:n:n]); err != nil {
			t.Fatal(err)
		}
		group = group[n:]
	}
}

func TestMaxPayload(t *testing.T) {
	for _, s := range suites {
		out, _ := newPair(t, config(s))
		for limit := range 1500 {
			n := out.MaxPayload(limit)
			if n > 0 && out.SealedLen(n) > limit {
				t.Fatalf("%s: %d octets seal to %d, more than %d", s, n, out.SealedLen(n), limit)
			}
			if out.SealedLen(n+1) <= limit {
				t.Fatalf("%s: limit %d: %d octets would fit, MaxPayload says %d", s, limit, n+1, n)
			}
		}
	}
}

func TestSealNeedsTrailerRoom(t *testing.T) {
	out, _ := newPair(t, config(aes128))
	if _, err := out.Seal(nil, make([]byte, 10), NextHeaderIPv4); !errors.Is(err, ErrNoTrailerRoom) {
		t.Errorf("got %v, want %v", err, ErrNoTrailerRoom)
	}
	if out.Sequence() != 0 {
		t.Error("a refused packet used a sequence number")
	}
}

func TestSequenceNeverWraps(t *testing.T) {
	for s, last := range map[suite.ESPSuite]uint64{aes128: math.MaxUint32, esn(aes128): math.MaxUint64} {
		out, in := newPair(t, config(s))
		out.SetSequenceForTest(last - 1)
		in.SetHighestForTest(last - 1)
		sealed, err := out.Seal(nil, payloadOf(60), NextHeaderIPv4)
		if err != nil {
			t.Fatal(err)
		}
		if p, err := in.Open(sealed); err != nil || p.Sequence != last {
			t.Errorf("%s: last packet: sequence %d, error %v", s, p.Sequence, err)
		}
		for range 2 {
			got, err := out.Seal(nil, payloadOf(60), NextHeaderIPv4)
			if !errors.Is(err, ErrSequenceExhausted) || len(got) != 0 {
				t.Errorf("%s: packet after the last: %d octets, error %v", s, len(got), err)
			}
		}
	}
}

// TestExtendedSequenceAcrossSubspace sends over the edge of 2^32, in and out of
// order (RFC 4303, Appendix A2.2).
func TestExtendedSequenceAcrossSubspace(t *testing.T) {
	for _, s := range []suite.ESPSuite{esn(aes128), esn(cbc128), esn(gcm8), esn(ccm8), esn(ctr128)} {
		out, in := newPair(t, config(s))
		out.SetSequenceForTest(1<<32 - 4)
		in.SetHighestForTest(1<<32 - 4)
		var packets [][]byte
		for range 8 {
			b, err := out.Seal(nil, payloadOf(64), NextHeaderIPv4)
			if err != nil {
				t.Fatal(err)
			}
			packets = append(packets, b)
		}
		for _, i := range []int{0, 5, 2, 1, 7, 3, 4, 6} {
			p, err := in.Open(bytes.Clone(packets[i]))
			if want := uint64(1<<32 - 3 + i); err != nil || p.Sequence != want {
				t.Fatalf("%s: packet %d: sequence %d, error %v, want %d", s, i, p.Sequence, err, want)
			}
			if _, err := in.Open(bytes.Clone(packets[i])); !errors.Is(err, ErrReplayed) {
				t.Fatalf("%s: packet %d again: %v", s, i, err)
			}
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, s := range suites {
		t.Run(s.String(), func(t *testing.T) {
			out, in := newPair(t, config(s))
			sealed, err := out.Seal(nil, payloadOf(80), NextHeaderIPv4)
			if err != nil {
				t.Fatal(err)
			}
			for i := range sealed {
				if i < 4 {
					continue // the SPI finds the SA; it is checked as the SA's own
				}
				b := bytes.Clone(sealed)
				b[i] ^= 0x10
				if _, err := in.Open(b); err == nil {
					t.Fatalf("octet %d flipped: opened", i)
				}
			}
			for n := range sealed {
				if _, err := in.Open(bytes.Clone(sealed[:n])); err == nil {
					t.Fatalf("cut to %d octets: opened", n)
				}
			}
			if in.Highest() != 0 {
				t.Error("a forged packet moved the window")
			}
			if _, err := in.Open(bytes.Clone(sealed)); err != nil {
				t.Errorf("the true packet after the forged ones: %v", err)
			}
			if _, err := in.Open(sealed); !errors.Is(err, ErrReplayed) {
				t.Errorf("the same again: %v", err)
			}
		})
	}
}

func TestOpenOldPacket(t *testing.T) {
	c := config(aes128)
	c.ReplayWindow = 64
	out, in := newPair(t, c)
	first, _ := out.Seal(nil, payloadOf(20), NextHeaderIPv4)
	in.SetHighestForTest(65)
	if _, err := in.Open(first); !errors.Is(err, ErrReplayed) {
		t.Errorf("packet 1 with the window at 2..65: %v", err)
	}
}

// sealPlain seals a plaintext whose trailer is the test's own.
func sealPlain(t *testing.T, o *Outbound, plain []byte) []byte {
	t.Helper()
	o.seq++
	b := binary.BigEndian.AppendUint32(nil, o.spi)
	b = binary.BigEndian.AppendUint32(b, uint32(o.seq))
	b = binary.BigEndian.AppendUint64(b, o.seq)
	copy(o.nonce.iv()[:], b[8:])
	return o.aead.Seal(b, o.nonce.bytes(), plain, b[:8])
}

func TestOpenTrailers(t *testing.T) {
	tests := []struct {
		name  string
		plain []byte
		want  error
		left  int
	}{
		{"no payload", []byte{0, 4}, nil, 0},
		{"pad length beyond the packet", []byte{1, 2, 3, 4}, ErrMalformed, 0},
		{"pad length is everything", []byte{1, 2, 2, 4}, nil, 0},
		{"padding does not count up", []byte{9, 2, 2, 4}, ErrMalformed, 0},
		{"more padding than needed", append(append(make([]byte, 10), sequence(255)...), 255, 4), nil, 10},
		{"dummy packet", []byte{7, 7, 0, NextHeaderNone}, nil, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, in := newPair(t, config(aes128))
			p, err := in.Open(sealPlain(t, out, tt.plain))
			if !errors.Is(err, tt.want) || len(p.Payload) != tt.left {
				t.Errorf("got %d octets, error %v; want %d, %v", len(p.Payload), err, tt.left, tt.want)
			}
		})
	}
	out, in := newPair(t, config(aes128))
	for _, plain := range [][]byte{nil, {4}} {
		if _, err := in.Open(sealPlain(t, out, plain)); !errors.Is(err, ErrMalformed) {
			t.Errorf("plaintext of %d octets: %v", len(plain), err)
		}
	}
}

func sequence(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i + 1)
	}
	return b
}

func TestConfigErrors(t *testing.T) {
	good := config(aes128)
	for name, change := range map[string]func(*Config){
		"reserved SPI":     func(c *Config) { c.SPI = 255 },
		"short key":        func(c *Config) { c.Key = c.Key[1:] },
		"window too small": func(c *Config) { c.ReplayWindow = 63 },
		"window too large": func(c *Config) { c.ReplayWindow = 8193 },
		"no cipher":        func(c *Config) { c.Suite = suite.ESPSuite{} },
		"no integrity":     func(c *Config) { c.Suite = suite.ESPSuite{Encryption: wire.EncryptionAESCBC, KeyBits: 128} },
	} {
		c := good
		change(&c)
		if _, err := NewInbound(c); err == nil {
			t.Errorf("%s: inbound accepted", name)
		}
		if _, err := NewOutbound(c); err == nil {
			t.Errorf("%s: outbound accepted", name)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	for _, s := range suites {
		for _, n := range []int{64, 512, 1400} {
			out, in := newPair(t, config(s))
			payload, dst := payloadOf(n), make([]byte, 0, 2048)
			var failure error
			allocs := testing.AllocsPerRun(100, func() {
				sealed, err := out.Seal(dst, payload, NextHeaderIPv4)
				if err == nil {
					_, err = in.Open(sealed)
				}
				if err != nil {
					failure = err
				}
			})
			if failure != nil {
				t.Fatal(failure)
			}
			if allocs != 0 {
				t.Errorf("%s, %d octets: %v allocations per packet", s, n, allocs)
			}
		}
	}
}

func FuzzOpen(f *testing.F) {
	for i, s := range suites {
		out, _ := newPair(f, config(s))
		sealed, err := out.Seal(nil, payloadOf(40), NextHeaderIPv4)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), sealed)
	}
	f.Add(uint8(0), []byte{})
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		_, in := newPair(t, config(suites[int(which)%len(suites)]))
		valid := len(b) // Open may clear b
		p, err := in.Open(b)
		if err != nil && in.Highest() != 0 && !errors.Is(err, ErrMalformed) {
			t.Fatalf("error %v after the window moved", err)
		}
		if len(p.Payload) > valid {
			t.Fatal("payload longer than its packet")
		}
	})
}

// FuzzTrailer reaches what FuzzOpen cannot without forging an ICV.
func FuzzTrailer(f *testing.F) {
	f.Add([]byte{1, 2, 2, 4})
	f.Fuzz(func(t *testing.T, plain []byte) {
		if len(plain) < 2 {
			return
		}
		p, err := parseTrailer(plain, 1)
		if err == nil && len(p.Payload)+int(plain[len(plain)-2])+2 != len(plain) {
			t.Fatalf("payload %d of %d octets", len(p.Payload), len(plain))
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	for _, s := range []suite.ESPSuite{aes128, aes256, chacha, cbc128, gcm8, ccm8, ctr128} {
		for _, n := range []int{64, 512, 1400} {
			b.Run(fmt.Sprintf("%s/%d", s, n), func(b *testing.B) {
				out, _ := newPair(b, config(s))
				payload, dst := payloadOf(n), make([]byte, 0, 2048)
				b.SetBytes(int64(n))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := out.Seal(dst, payload, NextHeaderIPv4); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, s := range []suite.ESPSuite{aes128, aes256, chacha, cbc128, gcm8, ccm8, ctr128} {
		for _, n := range []int{64, 512, 1400} {
			b.Run(fmt.Sprintf("%s/%d", s, n), func(b *testing.B) {
				c := config(s)
				out, in := newPair(b, c)
				sealed, err := out.Seal(nil, payloadOf(n), NextHeaderIPv4)
				if err != nil {
					b.Fatal(err)
				}
				work := make([]byte, len(sealed))
				b.SetBytes(int64(n))
				b.ReportAllocs()
				for b.Loop() {
					copy(work, sealed)
					clear(in.window.words) // the same packet again
					if _, err := in.Open(work); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
