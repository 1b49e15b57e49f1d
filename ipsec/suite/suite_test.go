package suite

import "testing"

func TestDefaultsPassSelfTests(t *testing.T) {
	for _, p := range DefaultIKE() {
		if err := p.Validate(); err != nil {
			t.Error(err)
		}
	}
	for _, w := range []string{"aes128-aes256-sha256-sha384-sha512-x25519-ecp256-ecp384", "chacha20poly1305-prfsha256-ecp384"} {
		p, err := ParseIKE(w)
		if err != nil {
			t.Fatal(err)
		}
		t.Log(p)
	}
	_, err := ParseESP("aes128gcm16-bogus")
	t.Log(err)
}
