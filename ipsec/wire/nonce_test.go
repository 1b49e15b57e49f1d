package wire

import (
	"strings"
	"testing"
)

func TestNonceGolden(t *testing.T) {
	testGolden(t, &Nonce{Data: count(16)}, `
		00 00 [0014]                      # no next payload, length 20
		000102030405060708090a0b0c0d0e0f  # nonce
	`)
}

func TestNonceMalformed(t *testing.T) {
	testMalformed(t, PayloadNonce, "nonce of 0 octets", "")
	testMalformed(t, PayloadNonce, "nonce of 15 octets", strings.Repeat("00", 15))
	testMalformed(t, PayloadNonce, "nonce of 257 octets", strings.Repeat("00", 257))
	testUnsendable(t, &Nonce{Data: count(257)}, "nonce of 257 octets")
}
