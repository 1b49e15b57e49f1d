package wire

import "testing"

func TestAuthGolden(t *testing.T) {
	testGolden(t, &Auth{Method: AuthSharedKey, Data: []byte{0xaa, 0xbb}}, `
		00 00 [000a]  # no next payload, length 10
		02 000000     # shared key, RESERVED
		aabb          # AUTH data
	`)
}

func TestAuthMalformed(t *testing.T) {
	testMalformed(t, PayloadAuth, "needed", "0e0000")
	testMalformed(t, PayloadAuth, "no authentication data", "0e000000")
	testUnsendable(t, &Auth{Method: AuthDigitalSignature}, "no authentication data")
}
