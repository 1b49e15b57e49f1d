package wire

import (
	"bytes"
	"testing"
)

func TestIDGolden(t *testing.T) {
	testGolden(t, &ID{Initiator: true, Kind: IDFQDN, Data: []byte("a.example")}, `
		00 00 [0011]        # no next payload, length 17
		02 000000           # ID_FQDN, RESERVED
		612e6578616d706c65  # a.example
	`)
	testGolden(t, &ID{Kind: IDIPv4, Data: []byte{192, 0, 2, 1}}, `
		00 00 [000c] 01 000000 c0000201
	`)
	testGolden(t, &ID{Kind: IDNull}, "00 00 [0008] 0d 000000")
}

func TestIDMalformed(t *testing.T) {
	testMalformed(t, PayloadIDi, "needed", "020000")
	testMalformed(t, PayloadIDr, "ID_FQDN is empty", "02000000")
	testMalformed(t, PayloadIDi, "3 octets, want 4", "01000000 c00002")
	testMalformed(t, PayloadIDi, "4 octets, want 16", "05000000 c0000201")
	testMalformed(t, PayloadIDi, "want none", "0d000000 00")
	testUnsendable(t, &ID{Kind: IDKeyID}, "is empty")
}

// The peer signs the RESERVED octets that it sent, so Body gives them back,
// while what we send has zeros there.
func TestIDBody(t *testing.T) {
	b := dump(t, "00000009 0bdead01 78").octets
	ps, err := ParsePayloads(PayloadIDi, b)
	if err != nil {
		t.Fatal(err)
	}
	id := ps[0].(*ID)
	if got := id.Body(); !bytes.Equal(got, b[4:]) {
		t.Errorf("Body %x, want %x", got, b[4:])
	}
	_, out, err := AppendPayloads(nil, ps)
	if want := dump(t, "00000009 0b000000 78").octets; err != nil || !bytes.Equal(out, want) {
		t.Errorf("AppendPayloads %x, %v, want %x", out, err, want)
	}
}
