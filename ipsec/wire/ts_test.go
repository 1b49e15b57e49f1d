package wire

import (
	"net/netip"
	"testing"
)

func TestTSGolden(t *testing.T) {
	addr := netip.MustParseAddr
	testGolden(t, &TS{Initiator: true, Selectors: []TrafficSelector{
		{Kind: TSIPv4Range, IPProtocol: 6, StartPort: 443, EndPort: 443, First: addr("10.1.0.0"), Last: addr("10.1.255.255")},
		{Kind: TSIPv6Range, EndPort: 65535, First: addr("2001:db8::"), Last: addr("2001:db8::ffff")},
	}}, `
		00 00 [0040]     # no next payload, length 64
		[02] 000000      # 2 selectors, RESERVED
		07 06 [0010]     # IPv4 range, TCP, length 16
		01bb 01bb        # ports 443 to 443
		0a010000         # 10.1.0.0
		0a01ffff         # 10.1.255.255
		08 00 [0028]     # IPv6 range, any protocol, length 40
		0000 ffff        # all ports
		20010db8000000000000000000000000
		20010db800000000000000000000ffff
	`)
	testGolden(t, &TS{Selectors: []TrafficSelector{ // OPAQUE ports
		{Kind: TSIPv4Range, IPProtocol: 17, StartPort: 65535, EndPort: 0, First: addr("192.0.2.1"), Last: addr("192.0.2.1")},
	}}, "00 00 [0018] [01] 000000 07 11 [0010] ffff 0000 c0000201 c0000201")
}

// A selector of unknown type is kept and told apart, so that narrowing can
// leave it out (RFC 7296, Section 2.9).
func TestTSUnknownType(t *testing.T) {
	testGolden(t, &TS{Selectors: []TrafficSelector{
		{Kind: TSSecurityLabel, Opaque: "label"},
		{Kind: 200, IPProtocol: 1},
	}}, `
		00 00 [0015]
		[02] 000000
		0a 00 [0009] 6c6162656c  # security label
		c8 01 [0004]             # unassigned type without content
	`)
}

func TestTSMalformed(t *testing.T) {
	testMalformed(t, PayloadTSi, "needed", "010000")
	testMalformed(t, PayloadTSi, "0 selectors", "00000000")
	testMalformed(t, PayloadTSr, "trailing", "00000000 07000010 0000ffff c0000201 c0000201")
	testMalformed(t, PayloadTSr, "trailing", "01000000 07000010 0000ffff c0000201 c0000201 00")
	testMalformed(t, PayloadTSi, "needed", "ff000000 07000010 0000ffff c0000201 c0000201")
	testMalformed(t, PayloadTSi, "shorter than its header", "01000000 07000003")
	testMalformed(t, PayloadTSi, "needed", "01000000 0700000c 0000ffff c0000201")
	testMalformed(t, PayloadTSi, "trailing", "01000000 07000014 0000ffff c0000201 c0000201 00000000")
	testMalformed(t, PayloadTSi, "needed", "01000000 08000010 0000ffff c0000201 c0000201")
	testMalformed(t, PayloadTSi, "192.0.2.2 to 192.0.2.1 is inverted", "01000000 07000010 0000ffff c0000202 c0000201")
	testMalformed(t, PayloadTSi, "port range 2 to 1 is inverted", "01000000 07060010 00020001 c0000201 c0000201")

	addr := netip.MustParseAddr
	for words, s := range map[string]TrafficSelector{
		"invalid IP does not fit":      {Kind: TSIPv4Range},
		"address ::1 does not fit":     {Kind: TSIPv4Range, First: addr("::1"), Last: addr("::2")},
		"address 192.0.2.1 does":       {Kind: TSIPv6Range, First: addr("192.0.2.1"), Last: addr("192.0.2.1")},
		"address fe80::1%a does":       {Kind: TSIPv6Range, First: addr("fe80::1%a"), Last: addr("fe80::1%a")},
		"fe80::2 to fe80::1 is invert": {Kind: TSIPv6Range, First: addr("fe80::2"), Last: addr("fe80::1")},
		"do not fit":                   {Kind: 99, Opaque: string(make([]byte, 65535))},
	} {
		testUnsendable(t, &TS{Selectors: []TrafficSelector{s}}, words)
	}
	testUnsendable(t, &TS{}, "0 selectors")
	testUnsendable(t, &TS{Selectors: make([]TrafficSelector, 256)}, "256 selectors")
}
