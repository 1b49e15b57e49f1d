package wire

import (
	"strings"
	"testing"
)

func TestCPGolden(t *testing.T) {
	testGolden(t, &CP{Kind: CPReply, Attributes: []CPAttribute{
		{Kind: CPInternalIP4Address, Value: []byte{10, 0, 0, 1}},
		{Kind: CPInternalIP4DNS},
	}}, `
		00 00 [0014]          # no next payload, length 20
		02 000000             # CFG_REPLY, RESERVED
		0001 [0004] 0a000001  # INTERNAL_IP4_ADDRESS
		0003 [0000]           # INTERNAL_IP4_DNS, empty
	`)
	testGolden(t, &CP{Kind: CPRequest}, "00 00 [0008] 01 000000")
}

func TestCPIgnoresReservedBit(t *testing.T) {
	ps, err := ParsePayloads(PayloadCP, dump(t, "0000000c 01000000 80010000").octets)
	if err != nil {
		t.Fatal(err)
	}
	if got := ps[0].(*CP).Attributes[0].Kind; got != CPInternalIP4Address {
		t.Errorf("attribute %s", got)
	}
}

func TestCPMalformed(t *testing.T) {
	testMalformed(t, PayloadCP, "needed", "010000")
	testMalformed(t, PayloadCP, "needed", "01000000 000100")
	testMalformed(t, PayloadCP, "needed", "01000000 00010004 0a0000")
	testMalformed(t, PayloadCP, "more than 255 attributes", "01000000"+strings.Repeat("00010000", 256))
	testUnsendable(t, &CP{Attributes: make([]CPAttribute, 256)}, "exceed the limit")
	testUnsendable(t, &CP{Attributes: []CPAttribute{{Kind: 0x8001}}}, "15 bits")
	testUnsendable(t, &CP{Attributes: []CPAttribute{{Kind: 1, Value: make([]byte, 65536)}}}, "does not fit")
}
