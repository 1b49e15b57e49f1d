package suite

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// suitesForProtection are one suite for each cipher and integrity algorithm.
func suitesForProtection() []IKESuite {
	var out []IKESuite
	for _, c := range ciphers {
		if c.espOnly {
			continue
		}
		s := IKESuite{Encryption: c.ID, KeyBits: c.KeyBits, PRF: PRFHMACSHA256, KeyExchange: wire.KeyExchangeCurve25519}
		if c.aead() {
			out = append(out, s)
			continue
		}
		for _, h := range integrities {
			s.Integrity = wire.IntegrityID(h.id)
			out = append(out, s)
		}
	}
	return out
}

func protectorFor(t rapid.TB, s IKESuite, fill byte) *Protector {
	t.Helper()
	p, err := NewProtector(s, bytes.Repeat([]byte{fill}, s.EncryptionKeyLen()), bytes.Repeat([]byte{fill + 1}, s.IntegrityKeyLen()))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// RFC 7634, Appendix B: a whole INFORMATIONAL request.
func TestRFC7634Message(t *testing.T) {
	header := unhex("c0c1c2c3c4c5c6c7d0d1d2d3d4d5d6d72e202500000000090000004529000029")
	payload := unhex("0000000c000040010000000a")
	body := unhex("101112131415161761039470" + "1f8d017f7c12924889" + "6b71bfe25236efd7cdc67066906315b2")
	var key []byte
	for b := byte(0x80); b <= 0xa3; b++ {
		key = append(key, b)
	}
	s := IKESuite{Encryption: wire.EncryptionChaCha20Poly1305, PRF: PRFHMACSHA256, KeyExchange: wire.KeyExchangeCurve25519}
	p, err := NewProtector(s, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.Open(nil, header, body)
	if err != nil || !bytes.Equal(got, payload) {
		t.Fatalf("opened %x, %v", got, err)
	}
	p.sealed = 0x1011121314151617
	if got := p.Seal(nil, header, payload); !bytes.Equal(got, body) {
		t.Errorf("sealed %x, want %x", got, body)
	}
	if got := p.SealedLen(len(payload)); got != len(body) {
		t.Errorf("SealedLen is %d, want %d", got, len(body))
	}
}

func TestSealOpen(t *testing.T) {
	for _, s := range suitesForProtection() {
		t.Run(s.String(), rapid.MakeCheck(func(t *rapid.T) {
			header := rapid.SliceOfN(rapid.Byte(), 32, 64).Draw(t, "header")
			text := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "text")
			p, q := protectorFor(t, s, 7), protectorFor(t, s, 7)
			message := append(make([]byte, 0, 1000), header...)
			message = p.Seal(message, message, text) // as a caller builds a message in place
			if !bytes.Equal(message[:len(header)], header) {
				t.Fatal("Seal changed the header")
			}
			body := message[len(header):]
			if len(body) != p.SealedLen(len(text)) || len(body) > len(text)+p.Overhead() {
				t.Fatalf("%d octets, SealedLen %d, Overhead %d", len(body), p.SealedLen(len(text)), p.Overhead())
			}
			got, err := q.Open([]byte("before"), header, body)
			if err != nil || !bytes.Equal(got, append([]byte("before"), text...)) {
				t.Fatalf("opened %x, %v", got, err)
			}
			again := p.Seal(nil, header, text)
			n := p.spec.ivLen
			if bytes.Equal(again[:n], body[:n]) {
				t.Fatal("an IV repeats")
			}
		}))
	}
}

// Every changed octet, in the header too, and every other length is noticed;
// nothing else is reported than a failed check.
func TestOpenRejectsChanges(t *testing.T) {
	for _, s := range suitesForProtection() {
		p := protectorFor(t, s, 9)
		header, text := []byte("header of the message"), []byte("payloads of the message")
		body := p.Seal(nil, header, text)
		if _, err := p.Open(nil, header, body); err != nil {
			t.Fatal(err)
		}
		for i := range body {
			bad := slices.Clone(body)
			bad[i] ^= 0x80
			if _, err := p.Open(nil, header, bad); err != ErrAuthentication {
				t.Errorf("%s: octet %d changed: %v", s, i, err)
			}
			if _, err := p.Open(nil, header, body[:i]); err != ErrAuthentication {
				t.Errorf("%s: cut to %d: %v", s, i, err)
			}
		}
		for i := range header {
			bad := slices.Clone(header)
			bad[i] ^= 1
			if _, err := p.Open(nil, bad, body); err != ErrAuthentication {
				t.Errorf("%s: header octet %d changed: %v", s, i, err)
			}
		}
		if _, err := p.Open(nil, header, append(slices.Clone(body), 0)); err != ErrAuthentication {
			t.Errorf("%s: octet added: %v", s, err)
		}
		if _, err := protectorFor(t, s, 10).Open(nil, header, body); err != ErrAuthentication {
			t.Errorf("%s: other key: %v", s, err)
		}
	}
}

// sealRaw seals plaintext that already has its padding, as a peer might, with
// a combined-mode cipher.
func sealRaw(p *Protector, header, text []byte) []byte {
	p.expand()
	q := *p
	iv := make([]byte, q.spec.ivLen)
	copy(q.nonce[q.spec.saltLen:], iv)
	return append(iv, q.aead.Seal(nil, q.nonce, text, header)...)
}

func TestPeerPadding(t *testing.T) {
	for _, s := range suitesForProtection() {
		if !s.AEAD() {
			continue
		}
		p := protectorFor(t, s, 3)
		header := []byte("header")
		long := append([]byte("payload"), bytes.Repeat([]byte{0xee}, 255)...)
		// RFC 5282, Section 3: any amount and any content of padding.
		if got, err := p.Open(nil, header, sealRaw(p, header, append(long, 255))); err != nil || string(got) != "payload" {
			t.Errorf("%s: got %q, %v", s, got, err)
		}
		if got, err := p.Open(nil, header, sealRaw(p, header, []byte{0})); err != nil || len(got) != 0 {
			t.Errorf("%s: empty payloads: %q, %v", s, got, err)
		}
		for name, text := range map[string][]byte{
			"Pad Length beyond the start": {1, 2, 3, 4},
			"Pad Length of one too many":  {1},
		} {
			if _, err := p.Open(nil, header, sealRaw(p, header, text)); !errors.Is(err, ErrPadding) {
				t.Errorf("%s: %s: %v", s, name, err)
			}
		}
		if _, err := p.Open(nil, header, sealRaw(p, header, nil)); err != ErrAuthentication {
			t.Errorf("%s: no Pad Length at all: %v", s, err)
		}
	}
}

// A peer may pad CBC with more blocks than needed (RFC 7296, Section 3.14).
func TestPeerPaddingCBC(t *testing.T) {
	s := IKESuite{Encryption: wire.EncryptionAESCBC, KeyBits: 128, PRF: PRFHMACSHA256, Integrity: wire.IntegrityHMACSHA256, KeyExchange: wire.KeyExchangeCurve25519}
	p := protectorFor(t, s, 3)
	for _, tt := range []struct {
		blocks int
		pad    byte
		want   error
	}{{1, 10, nil}, {2, 31, nil}, {2, 32, ErrPadding}, {1, 255, ErrPadding}} {
		text := bytes.Repeat([]byte{0xaa}, tt.blocks*16)
		text[len(text)-1] = tt.pad
		body := sealBlocks(p, []byte("header"), text)
		got, err := p.Open(nil, []byte("header"), body)
		if !errors.Is(err, tt.want) {
			t.Errorf("%d blocks with Pad Length %d: %v, want %v", tt.blocks, tt.pad, err, tt.want)
		}
		if err == nil && len(got) != len(text)-int(tt.pad)-1 {
			t.Errorf("%d blocks with Pad Length %d: %d octets left", tt.blocks, tt.pad, len(got))
		}
	}
}

// sealBlocks seals text of whole blocks as it is.
func sealBlocks(p *Protector, header, text []byte) []byte {
	sealed := p.Seal(nil, header, text)
	body := sealed[:p.spec.ivLen+len(text)] // less the block that Seal added
	return append(body, p.checksum(header, body)...)
}

func TestNewProtectorKeyLengths(t *testing.T) {
	for _, s := range suitesForProtection() {
		e, a := s.EncryptionKeyLen(), s.IntegrityKeyLen()
		for _, n := range [][2]int{{e - 1, a}, {e + 1, a}, {e, a + 1}, {0, 0}} {
			if _, err := NewProtector(s, make([]byte, n[0]), make([]byte, n[1])); err == nil {
				t.Errorf("%s takes keys of %d and %d octets", s, n[0], n[1])
			}
		}
	}
	if _, err := NewProtector(IKESuite{}, nil, nil); err == nil {
		t.Error("the zero suite protects nothing")
	}
}

func TestProtectorDestroy(t *testing.T) {
	for _, s := range suitesForProtection() {
		p := protectorFor(t, s, 5)
		body := p.Seal(nil, []byte("header"), []byte("text"))
		p.Destroy()
		if _, err := p.Open(nil, []byte("header"), body); err != ErrAuthentication {
			t.Errorf("%s: Open after Destroy gives %v", s, err)
		}
		func() {
			defer func() {
				if recover() != "suite: Seal after Destroy" {
					t.Errorf("%s: Seal after Destroy does not panic as it says", s)
				}
			}()
			p.Seal(nil, []byte("header"), []byte("text"))
		}()
	}
}

func FuzzOpen(f *testing.F) {
	header := []byte("header of the message")
	for _, s := range suitesForProtection() {
		f.Add(protectorFor(f, s, 1).Seal(nil, header, []byte("payloads")))
	}
	f.Add([]byte{})
	protectors := map[string]*Protector{}
	for _, s := range suitesForProtection() {
		protectors[s.String()] = protectorFor(f, s, 1)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for name, p := range protectors {
			got, err := p.Open(nil, header, body)
			if err == nil && len(got) >= len(body) {
				t.Errorf("%s: %d octets out of %d", name, len(got), len(body))
			}
		}
	})
}
