package wire

import "testing"

func TestEAPGolden(t *testing.T) {
	testGolden(t, &EAP{Data: []byte{1, 7, 0, 5, 1}}, `
		00 00 [0009]     # no next payload, length 9
		01 07 [0005] 01  # Request 7, length 5, Identity
	`)
	testGolden(t, &EAP{Data: []byte{3, 7, 0, 4}}, "00 00 [0008] 03 07 [0004]  # Success")
}

func TestEAPMalformed(t *testing.T) {
	testMalformed(t, PayloadEAP, "shorter than its header", "010100")
	testMalformed(t, PayloadEAP, "length field says 6", "01010006 01")
	testMalformed(t, PayloadEAP, "without a type", "01010004")
	testMalformed(t, PayloadEAP, "with data", "04010005 00")
	testMalformed(t, PayloadEAP, "code 5", "05010004")
	testUnsendable(t, &EAP{}, "shorter than its header")
}
