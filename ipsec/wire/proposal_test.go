package wire

import "testing"

func TestProposalGolden(t *testing.T) {
	testGolden(t, &SA{Proposals: []Proposal{{
		Number: 7, Protocol: ProtocolESP, SPI: []byte{0x05, 0x23, 0x57, 0xbb},
		Transforms: []Transform{
			{Type: TransformEncryption, ID: uint16(EncryptionAESGCM16), KeyLength: 128},
			{Type: TransformSequenceNumbers, ID: uint16(SequenceNumbersExtended)},
		},
	}}}, `
		00 00 [0024]     # no next payload, length 36
		00 00 [0020]     # last proposal, length 32
		07 03 [04] [02]  # number 7 as in an answer, ESP, SPI of 4, 2 transforms
		052357bb         # SPI
		03 00 [000c]     # more transforms, length 12
		01 00 0014       # ENCR, AES-GCM-16
		800e 0080        # 128 bits
		00 00 [0008]     # last transform
		05 00 0001       # extended sequence numbers
	`)
}

func TestProposalMalformed(t *testing.T) {
	const transform = " 00000008 02000005"
	testMalformed(t, PayloadSA, "0 transforms", "00000008 01010000")
	testMalformed(t, PayloadSA, "trailing", "00000010 01010000"+transform)
	testMalformed(t, PayloadSA, "needed", "00000010 01010002 03000008 02000005")
	testMalformed(t, PayloadSA, "contradicts", "00000010 01010001 03000008 02000005")
	testMalformed(t, PayloadSA, "contradicts", "00000018 01010002 00000008 02000005"+transform)
	testMalformed(t, PayloadSA, "mark is 1", "01000010 01010001"+transform)
	testMalformed(t, PayloadSA, "mark is 3", "03000010 01010001"+transform)
	testMalformed(t, PayloadSA, "shorter than its header", "00000007 01010001"+transform)
	testMalformed(t, PayloadSA, "SPI of 4 octets, want 0 or 8", "00000014 01010401 01020304"+transform)
	testMalformed(t, PayloadSA, "SPI of 0 octets, want 4 for ESP", "00000010 01030001"+transform)
	testMalformed(t, PayloadSA, "needed", "00000010 0103ff01"+transform)
	// The claimed 255 transforms are not there.
	testMalformed(t, PayloadSA, "needed", "00000010 010100ff 03000008 02000005")
	testUnsendable(t, &SA{Proposals: []Proposal{{Number: 1, Protocol: ProtocolESP, SPI: count(5)}}}, "SPI of 5")
	testUnsendable(t, &SA{Proposals: []Proposal{{Number: 1, Protocol: 9, SPI: count(256)}}}, "SPI of 256")
	testUnsendable(t, &SA{Proposals: []Proposal{{Number: 1, Protocol: ProtocolIKE}}}, "0 transforms")
	testUnsendable(t, &SA{Proposals: []Proposal{{
		Number: 1, Protocol: ProtocolIKE, Transforms: make([]Transform, 256),
	}}}, "256 transforms")
}

// An unknown protocol makes one proposal unacceptable, not the payload
// (RFC 7296, Section 3.3.6).
func TestProposalUnknownProtocol(t *testing.T) {
	testGolden(t, &SA{Proposals: []Proposal{{
		Number: 1, Protocol: 201, SPI: []byte{1, 2}, Transforms: []Transform{{Type: 99, ID: 5}},
	}}}, `
		00 00 [0016]
		00 00 [0012] 01 c9 [02] [01] 0102
		00 00 [0008] 63 00 0005
	`)
}
