package wire

import "testing"

func TestSAGolden(t *testing.T) {
	testGolden(t, &SA{Proposals: []Proposal{
		{Number: 1, Protocol: ProtocolIKE, Transforms: []Transform{
			{Type: TransformEncryption, ID: uint16(EncryptionAESGCM16), KeyLength: 256},
			{Type: TransformPRF, ID: uint16(PRFHMACSHA384)},
			{Type: TransformKeyExchange, ID: uint16(KeyExchangeCurve25519)},
		}},
		{Number: 2, Protocol: ProtocolIKE, Transforms: []Transform{
			{Type: TransformPRF, ID: uint16(PRFHMACSHA256)},
		}},
	}}, `
		00 00 [0038]     # no next payload, not critical, length 56
		02 00 [0024]     # more proposals, length 36
		01 01 [00] [03]  # number 1, IKE, no SPI, 3 transforms
		03 00 [000c]     # more transforms, length 12
		01 00 0014       # ENCR, AES-GCM with 16-octet ICV
		800e 0100        # Key Length in TV format, 256 bits
		03 00 [0008]     # more transforms, length 8
		02 00 0006       # PRF, HMAC-SHA2-384
		00 00 [0008]     # last transform, length 8
		04 00 001f       # KE, Curve25519
		00 00 [0010]     # last proposal, length 16
		02 01 [00] [01]  # number 2, IKE, no SPI, 1 transform
		00 00 [0008]     # last transform, length 8
		02 00 0005       # PRF, HMAC-SHA2-256
	`)
}

func TestSAMalformed(t *testing.T) {
	testMalformed(t, PayloadSA, "needed", "")
	testMalformed(t, PayloadSA, "trailing", "00000010 01010001 00000008 02000005  00")
	testMalformed(t, PayloadSA, "proposal number 3 after 1",
		"02000010 01010001 00000008 02000005  00000010 03010001 00000008 02000005")
	testMalformed(t, PayloadSA, "proposal number 1 after 1", // IKEv1's AND of protocols
		"02000010 01010001 00000008 02000005  00000010 01010001 00000008 02000005")
	testMalformed(t, PayloadSA, "needed", "02000010 01010001 00000008 02000005")
	testUnsendable(t, &SA{}, "no proposal")
	testUnsendable(t, &SA{Proposals: []Proposal{
		{Number: 1, Protocol: ProtocolIKE, Transforms: []Transform{{Type: TransformPRF}}},
		{Number: 1, Protocol: ProtocolIKE, Transforms: []Transform{{Type: TransformPRF}}},
	}}, "proposal number")
}
