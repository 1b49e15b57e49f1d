package suite

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"slices"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// TestResumeKeys computes RFC 5723, Section 5.1, once more by hand, as no vectors
// are published.
func TestResumeKeys(t *testing.T) {
	s := IKESuite{Encryption: wire.EncryptionAESGCM16, KeyBits: 128, PRF: PRF(wire.PRFHMACSHA256), KeyExchange: wire.KeyExchangeCurve25519}
	oldD, ni, nr := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32), bytes.Repeat([]byte{3}, 16)
	spii, spir := wire.SPI{4}, wire.SPI{5}
	prf := func(key []byte, parts ...[]byte) []byte {
		mac := hmac.New(sha256.New, key)
		mac.Write(slices.Concat(parts...))
		return mac.Sum(nil)
	}
	seed := prf(oldD, []byte("Resumption"), ni, nr)
	var stream, last []byte
	for i := byte(1); i <= 5; i++ {
		last = prf(seed, last, ni, nr, spii[:], spir[:], []byte{i})
		stream = append(stream, last...)
	}
	keys, err := ResumeIKEKeys(s, oldD, ni, nr, spii, spir)
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Concat(keys.D, keys.Ai, keys.Ar, keys.Ei, keys.Er, keys.Pi, keys.Pr); !bytes.Equal(got, stream[:len(got)]) {
		t.Errorf("keys %x, want %x", got, stream[:len(got)])
	}
	for name, bad := range map[string]func() error{
		"short SK_d":  func() error { _, err := ResumeIKEKeys(s, oldD[:31], ni, nr, spii, spir); return err },
		"short nonce": func() error { _, err := ResumeIKEKeys(s, oldD, ni, nr[:15], spii, spir); return err },
		"no suite":    func() error { _, err := ResumeIKEKeys(IKESuite{}, oldD, ni, nr, spii, spir); return err },
	} {
		if bad() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}
