package wire

import "testing"

func TestVendorIDGolden(t *testing.T) {
	testGolden(t, &VendorID{Data: []byte("id")}, "00 00 [0006] 6964")
	testGolden(t, &VendorID{}, "00 00 [0004]")
}
