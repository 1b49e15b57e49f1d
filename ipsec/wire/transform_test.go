package wire

import (
	"strings"
	"testing"
)

// Attributes that are not understood are kept, so that the transform can be
// told apart and is never chosen (RFC 7296, Section 3.3.6).
func TestTransformUnsupportedAttributes(t *testing.T) {
	testGolden(t, &SA{Proposals: []Proposal{{
		Number: 1, Protocol: ProtocolIKE, Transforms: []Transform{{
			Type: TransformEncryption, ID: uint16(EncryptionAESCBC), KeyLength: 256,
			Unsupported: "\x80\x0f\x00\x01" + "\x00\x10\x00\x03abc" + "\x00\x0e\x00\x02\x01\x00" + "\x80\x0e\x00\x00",
		}},
	}}}, `
		00 00 [002d]
		00 00 [0029] 01 01 [00] [01]
		00 00 [0021] 01 00 000c
		800e 0100         # Key Length 256
		800f 0001         # unknown, TV
		0010 [0003] 616263  # unknown, TLV
		000e [0002] 0100  # Key Length as TLV is not allowed
		800e 0000         # Key Length of zero bits
	`)
}

func TestTransformMalformed(t *testing.T) {
	testMalformed(t, PayloadSA, "two Key Length",
		"00000018 01010001 00000010 0100000c 800e0080 800e0100")
	testMalformed(t, PayloadSA, "needed", // TLV longer than the transform
		"00000014 01010001 0000000c 0100000c 00100001")
	testMalformed(t, PayloadSA, "needed", // half an attribute
		"00000012 01010001 0000000a 0100000c 800e")
	testMalformed(t, PayloadSA, "mark is 2", "00000010 01010001 02000008 02000005")
	testMalformed(t, PayloadSA, "shorter than its header", "00000010 01010001 00000007 02000005")
	testMalformed(t, PayloadSA, "needed", "00000010 01010001 00000009 02000005")
	for _, bad := range []string{"x", "\x80\x0e\x01\x00", "\x00\x10\x00\x05abc"} {
		testUnsendable(t, &SA{Proposals: []Proposal{{
			Number: 1, Protocol: ProtocolIKE, Transforms: []Transform{{Type: TransformEncryption, Unsupported: bad}},
		}}}, "malformed unsupported attributes")
	}
	testUnsendable(t, &SA{Proposals: []Proposal{{
		Number: 1, Protocol: ProtocolIKE, Transforms: []Transform{{
			Type: TransformEncryption, Unsupported: strings.Repeat("\x80\x0f\x00\x01", 16384),
		}},
	}}}, "octets of attributes")
}

func TestTransformString(t *testing.T) {
	for _, c := range []struct {
		t    Transform
		want string
	}{
		{Transform{Type: TransformEncryption, ID: 20, KeyLength: 256}, "ENCR_AES_GCM_16/256"},
		{Transform{Type: TransformPRF, ID: 6}, "PRF_HMAC_SHA2_384"},
		{Transform{Type: TransformIntegrity, ID: 12}, "AUTH_HMAC_SHA2_256_128"},
		{Transform{Type: TransformKeyExchange, ID: 31}, "CURVE25519"},
		{Transform{Type: TransformAdditionalKE7, ID: 36}, "ML_KEM_768"},
		{Transform{Type: TransformSequenceNumbers}, "NO_ESN"},
		{Transform{Type: TransformKeyWrap, ID: 1}, "KWA:1"},
		{Transform{Type: TransformEncryption, ID: 1024}, "ENCR(1024)"},
	} {
		if got := c.t.String(); got != c.want {
			t.Errorf("%+v: %q, want %q", c.t, got, c.want)
		}
	}
}
