package ts

import (
	"math"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParse(t *testing.T) {
	addr := netip.MustParseAddr
	for text, want := range map[string]Selector{
		"10.1.0.0/16":              {EndPort: 65535, First: addr("10.1.0.0"), Last: addr("10.1.255.255")},
		"0.0.0.0/0":                {EndPort: 65535, First: addr("0.0.0.0"), Last: addr("255.255.255.255")},
		"2001:db8::/32":            {EndPort: 65535, First: addr("2001:db8::"), Last: addr("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff")},
		"10.1.0.0/16[tcp/443]":     {Protocol: 6, StartPort: 443, EndPort: 443, First: addr("10.1.0.0"), Last: addr("10.1.255.255")},
		"10.1.0.5-10.1.0.9":        {EndPort: 65535, First: addr("10.1.0.5"), Last: addr("10.1.0.9")},
		"192.0.2.1/32[udp/53-80]":  {Protocol: 17, StartPort: 53, EndPort: 80, First: addr("192.0.2.1"), Last: addr("192.0.2.1")},
		"192.0.2.1/32[tcp]":        {Protocol: 6, EndPort: 65535, First: addr("192.0.2.1"), Last: addr("192.0.2.1")},
		"192.0.2.1/32[tcp/opaque]": {Protocol: 6, StartPort: 65535, First: addr("192.0.2.1"), Last: addr("192.0.2.1")},
		"192.0.2.1/32[99/7]":       {Protocol: 99, StartPort: 7, EndPort: 7, First: addr("192.0.2.1"), Last: addr("192.0.2.1")},
		"0.0.0.0/0[icmp/8]":        {Protocol: 1, StartPort: 0x0800, EndPort: 0x08ff, First: addr("0.0.0.0"), Last: addr("255.255.255.255")},
		"0.0.0.0/0[icmp/3:4]":      {Protocol: 1, StartPort: 0x0304, EndPort: 0x0304, First: addr("0.0.0.0"), Last: addr("255.255.255.255")},
		"::/0[ipv6-icmp/128:0-129:255]": {
			Protocol: 58, StartPort: 0x8000, EndPort: 0x81ff, First: addr("::"),
			Last: addr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
		},
	} {
		got, err := Parse(text)
		if err != nil || got != want {
			t.Errorf("Parse(%q) %+v, %v, want %+v", text, got, err, want)
		}
		if got := want.String(); got != text {
			t.Errorf("String %q, want %q", got, text)
		}
	}
	// Other spellings of the same.
	for text, want := range map[string]string{
		"192.0.2.1":                 "192.0.2.1/32",
		"10.0.0.0-10.0.0.255":       "10.0.0.0/24",
		"::1[any/any]":              "::1/128",
		"192.0.2.1[6/0-65535]":      "192.0.2.1/32[tcp]",
		"192.0.2.1[tcp/any]":        "192.0.2.1/32[tcp]",
		"192.0.2.1[icmp/8-9]":       "192.0.2.1/32[icmp/8:0-9:255]",
		"192.0.2.1[icmp/8:0-8:255]": "192.0.2.1/32[icmp/8]",
	} {
		got, err := Parse(text)
		if err != nil || got.String() != want {
			t.Errorf("Parse(%q) %s, %v, want %s", text, got, err, want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for text, words := range map[string]string{
		"":                         "want an address, a prefix or first-last",
		"10.1.0.0/33":              "prefix length out of range",
		"10.1.2.3/16":              "has host bits, write 10.1.0.0/16 or 10.1.2.3",
		"10.0.0.2-10.0.0.1":        "last address is below the first",
		"10.0.0.1-::1":             "different families",
		"10.0.0.1-x":               "unable to parse IP",
		"fe80::1%eth0":             "remove the zone",
		"10.0.0.1[tcp/443":         "closing ] is missing",
		"10.0.0.1[tcp/443]x":       "closing ] is missing",
		"10.0.0.1[quic/443]":       `protocol "quic" is not known, write its number`,
		"10.0.0.1[256]":            "is not known",
		"10.0.0.1[]":               "is not known",
		"10.0.0.1[tcp/]":           `port "" is not a number`,
		"10.0.0.1[tcp/http]":       `port "http" is not a number`,
		"10.0.0.1[tcp/65536]":      "is not a number",
		"10.0.0.1[tcp/1-]":         "is not a number",
		"10.0.0.1[tcp/2-1]":        "port range 2-1 is inverted",
		"10.0.0.1[tcp/65535-0]":    "inverted", // would be OPAQUE
		"10.0.0.1[any/443]":        "ports need a protocol",
		"10.0.0.1[any/opaque]":     "ports need a protocol",
		"10.0.0.1[icmp/256]":       "ICMP type",
		"10.0.0.1[icmp/echo]":      "ICMP type",
		"10.0.0.1[icmp/8:256]":     "ICMP code",
		"10.0.0.1[icmp/8:0:0]":     "ICMP code",
		"10.0.0.1[ipv6-icmp/9-8]":  "inverted",
		"10.0.0.1[tcp/443][udp/1]": "not a number",
	} {
		_, err := Parse(text)
		if err == nil || !strings.Contains(err.Error(), words) || !strings.HasPrefix(err.Error(), "parse traffic selector") {
			t.Errorf("Parse(%q): error %v, want %q", text, err, words)
		}
	}
}

func TestStringOfInvalid(t *testing.T) {
	if got, want := (Selector{StartPort: 1, EndPort: 2}).String(), "invalid IP-invalid IP[any/1-2]"; got != want {
		t.Errorf("String %q, want %q", got, want)
	}
}

func TestTextRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := generateAny(t)
		got, err := Parse(s.String())
		if err != nil || got != s {
			t.Fatalf("%q is read as %+v, %v, want %+v", s, got, err, s)
		}
	})
}

// generateAny makes valid selectors of the whole world.
func generateAny(t *rapid.T) Selector {
	n := rapid.SampledFrom([]int{4, 16}).Draw(t, "address length")
	first, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "first"))
	last, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "last"))
	if last.Less(first) {
		first, last = last, first
	}
	s := FromRange(first, last)
	if rapid.Bool().Draw(t, "prefix") {
		p, _ := first.Prefix(rapid.IntRange(0, 8*n).Draw(t, "bits"))
		s = FromPrefix(p)
	}
	s.Protocol = rapid.SampledFrom([]uint8{0, 1, 6, 17, 58, 99, 255}).Draw(t, "protocol")
	if s.Protocol == AnyProtocol {
		return s
	}
	switch rapid.IntRange(0, 2).Draw(t, "ports") {
	case 0:
		s.StartPort, s.EndPort = math.MaxUint16, 0
	case 1:
		s.StartPort = rapid.Uint16().Draw(t, "start port")
		s.EndPort = rapid.Uint16Range(s.StartPort, math.MaxUint16).Draw(t, "end port")
	}
	return s
}

func FuzzParse(f *testing.F) {
	for seed := range 30 {
		f.Add(rapid.Custom(generateAny).Example(seed).String())
	}
	f.Add("10.0.0.1[tcp/65535-0]")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		if err := s.Validate(); err != nil {
			t.Fatalf("%q is parsed although %v", text, err)
		}
		again, err := Parse(s.String())
		if err != nil || again != s {
			t.Fatalf("%q is printed as %q and read as %+v, %v", text, s, again, err)
		}
	})
}
