package wire

import (
	"bytes"
	"testing"
)

func TestDeleteGolden(t *testing.T) {
	testGolden(t, &Delete{Protocol: ProtocolESP, SPIs: [][]byte{{1, 2, 3, 4}, {5, 6, 7, 8}}}, `
		00 00 [0010]      # no next payload, length 16
		03 [04] [0002]    # ESP, SPIs of 4, 2 of them
		01020304 05060708
	`)
	testGolden(t, &Delete{Protocol: ProtocolIKE}, `
		00 00 [0008]    # no next payload, length 8
		01 [00] [0000]  # IKE, no SPIs
	`)
	testGolden(t, &Delete{Protocol: ProtocolESP}, "00 00 [0008] 03 [04] [0000]")
}

func TestDeleteMalformed(t *testing.T) {
	testMalformed(t, PayloadDelete, "needed", "030400")
	testMalformed(t, PayloadDelete, "do not fill", "03040002 01020304")
	testMalformed(t, PayloadDelete, "do not fill", "03040001 0102030405")
	testMalformed(t, PayloadDelete, "do not fill", "030403ff 01020304")
	testMalformed(t, PayloadDelete, "SPIs of no octets", "030000ff")
	testMalformed(t, PayloadDelete, "exceed the limit of 1024", "0304ffff 01020304")
	testMalformed(t, PayloadDelete, "for IKE, want none", "01080001 0102030405060708")
	testMalformed(t, PayloadDelete, "SPI size 8 for ESP", "03080000")
	testMalformed(t, PayloadDelete, "SPI size 4 for IKE", "01040000")
	testMalformed(t, PayloadDelete, "SPI of 8 octets for ESP, want 4", "03080001 0102030405060708")
	testUnsendable(t, &Delete{Protocol: ProtocolIKE, SPIs: [][]byte{count(8)}}, "want none")
	testUnsendable(t, &Delete{Protocol: ProtocolESP, SPIs: make([][]byte, MaxDeleteSPIs+1)}, "exceed the limit")
	testUnsendable(t, &Delete{Protocol: 9, SPIs: [][]byte{count(256)}}, "at most 255")
	testUnsendable(t, &Delete{Protocol: 9, SPIs: [][]byte{count(2), count(3)}}, "SPI of 3 octets")
}

func TestDeleteAtTheLimit(t *testing.T) {
	p := &Delete{Protocol: ProtocolESP, SPIs: make([][]byte, MaxDeleteSPIs)}
	for i := range p.SPIs {
		p.SPIs[i] = []byte{0, 1, byte(i >> 8), byte(i)}
	}
	_, out, err := AppendPayloads(nil, []Payload{p})
	if err != nil {
		t.Fatal(err)
	}
	ps, err := ParsePayloads(PayloadDelete, out)
	if err != nil {
		t.Fatal(err)
	}
	if got := ps[0].(*Delete); len(got.SPIs) != MaxDeleteSPIs || !bytes.Equal(got.SPIs[1023], p.SPIs[1023]) {
		t.Errorf("%d SPIs, want %d", len(got.SPIs), MaxDeleteSPIs)
	}
}
