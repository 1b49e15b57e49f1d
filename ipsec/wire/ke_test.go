package wire

import "testing"

func TestKEGolden(t *testing.T) {
	testGolden(t, &KE{Group: KeyExchangeCurve25519, Data: count(32)}, `
		00 00 [0028]  # no next payload, length 40
		001f 0000     # Curve25519, RESERVED
		000102030405060708090a0b0c0d0e0f 101112131415161718191a1b1c1d1e1f
	`)
}

func TestKEMalformed(t *testing.T) {
	testMalformed(t, PayloadKE, "needed", "001f00")
	testMalformed(t, PayloadKE, "no key exchange data", "001f0000")
	testUnsendable(t, &KE{Group: KeyExchangeECP256}, "no key exchange data")
	testUnsendable(t, &KE{Group: KeyExchangeECP256, Data: make([]byte, 65536)}, "exceed the limit")
}
