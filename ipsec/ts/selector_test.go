package ts

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// parse reads a list of selectors, separated by spaces.
func parse(t testing.TB, text string) []Selector {
	t.Helper()
	var set []Selector
	for _, field := range strings.Fields(text) {
		s, err := Parse(field)
		if err != nil {
			t.Fatal(err)
		}
		set = append(set, s)
	}
	return set
}

// The examples of RFC 7296, Section 2.9, and what surrounds them.
func TestNarrow(t *testing.T) {
	for _, c := range []struct{ name, offer, policy, want string }{
		{"equal", "198.51.100.0/24", "198.51.100.0/24", "198.51.100.0/24"},
		{"policy is wider", "198.51.100.0/24", "0.0.0.0/0", "198.51.100.0/24"},
		{"policy is narrower", "0.0.0.0/0", "198.51.100.0/24", "198.51.100.0/24"},
		{"packet first, all allowed", "198.51.100.43[tcp/443] 198.51.100.0/24", "0.0.0.0/0", "198.51.100.0/24"},
		{"packet first, host allowed", "198.51.100.43[tcp/443] 198.51.100.0/24", "198.51.100.43", "198.51.100.43"},
		{"packet first, TCP allowed", "198.51.100.43[tcp/443] 198.51.100.0/24", "198.51.100.43[tcp]", "198.51.100.43[tcp]"},
		{"disjoint", "198.51.100.0/24", "192.0.2.0/24", ""},
		{"other family", "0.0.0.0/0", "::/0", ""},
		{"several policies", "10.0.0.0/8", "10.2.0.0/16 10.1.0.0/16 11.0.0.0/8", "10.2.0.0/16 10.1.0.0/16"},
		{"order of the offer", "10.1.0.0/16 10.2.0.0/16", "10.2.0.0/16 10.1.0.0/16", "10.1.0.0/16 10.2.0.0/16"},
		{"dual stack", "0.0.0.0/0 ::/0", "2001:db8::/32 10.0.0.0/8", "10.0.0.0/8 2001:db8::/32"},
		{"ports", "10.0.0.1[tcp/1-100]", "10.0.0.0/8[tcp/50-200]", "10.0.0.1[tcp/50-100]"},
		{"ANY holds OPAQUE", "10.0.0.1[tcp]", "10.0.0.1[tcp/opaque]", "10.0.0.1[tcp/opaque]"},
		{"a range does not", "10.0.0.1[tcp/0-65534]", "10.0.0.1[tcp/opaque]", ""},
		{"protocol", "10.0.0.1", "10.0.0.1[tcp/80] 10.0.0.1[udp]", "10.0.0.1[tcp/80] 10.0.0.1[udp]"},
		{"nothing offered", "", "10.0.0.1", ""},
		{"nothing allowed", "10.0.0.1", "", ""},
	} {
		got, want := Narrow(parse(t, c.offer), parse(t, c.policy)), parse(t, c.want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %s, want %s", c.name, got, want)
		}
	}
}

func TestNarrowLimit(t *testing.T) {
	var policy []Selector
	for i := range 600 {
		policy = append(policy, FromPrefix(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)))
	}
	got := Narrow(parse(t, "0.0.0.0/0"), policy)
	if !slices.Equal(got, policy[:MaxSelectors]) {
		t.Errorf("%d selectors, want the first %d", len(got), MaxSelectors)
	}
	if _, _, err := wire.AppendPayloads(nil, []wire.Payload{ToWire(true, got)}); err != nil {
		t.Error(err)
	}
}

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		set, sub string
		want     bool
	}{
		{"", "", true},
		{"", "10.0.0.1", false},
		{"10.0.0.0/25 10.0.0.128/25", "10.0.0.0/24", true},
		{"10.0.0.128/25 10.0.0.0/25", "10.0.0.0/24", true},
		{"10.0.0.0/25 10.0.0.129-10.0.0.255", "10.0.0.0/24", false},
		{"10.0.0.0-10.0.0.10 10.0.0.1-10.0.0.2 10.0.0.11-10.0.0.15", "10.0.0.0/28", true},
		{"0.0.0.0/1 128.0.0.0/1", "0.0.0.0/0", true},
		{"::/1 8000::/1", "::/0", true},
		{"::/1 8000::/2", "::/0", false},
		{"10.0.0.1[tcp/0-99] 10.0.0.1[tcp/100-65534] 10.0.0.1[tcp/65535]", "10.0.0.1[tcp]", false}, // OPAQUE is missing
		{"10.0.0.1[tcp/0-99] 10.0.0.1[tcp/100-65534] 10.0.0.1[tcp/65535] 10.0.0.1[tcp/opaque]", "10.0.0.1[tcp]", true},
		{"10.0.0.1[tcp] 10.0.0.1[udp]", "10.0.0.1", false},
		{"10.0.0.0/25 10.0.0.128/25[tcp]", "10.0.0.0/24[tcp/80]", true},
		{"10.0.0.0/25 10.0.0.128/25[tcp]", "10.0.0.0/24[udp/80]", false},
	} {
		if got := Covers(parse(t, c.set), parse(t, c.sub)); got != c.want {
			t.Errorf("%s covers %s: %t, want %t", c.set, c.sub, got, c.want)
		}
	}
}

func TestFromPrefix(t *testing.T) {
	if got := FromPrefix(netip.MustParsePrefix("10.1.2.3/16")); got != parse(t, "10.1.0.0/16")[0] {
		t.Errorf("host bits are kept: %s", got)
	}
	if got := FromPrefix(netip.Prefix{}); got != (Selector{}) || got.Validate() == nil {
		t.Errorf("an invalid prefix gives %s", got)
	}
}

func TestPrefixes(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/8":                      "10.0.0.0/8",
		"0.0.0.0/0":                       "0.0.0.0/0",
		"::/0":                            "::/0",
		"10.0.0.1":                        "10.0.0.1/32",
		"10.0.0.1-10.0.0.6":               "10.0.0.1/32 10.0.0.2/31 10.0.0.4/31 10.0.0.6/32",
		"255.255.255.254-255.255.255.255": "255.255.255.254/31",
	} {
		var got []string
		for _, p := range Prefixes(parse(t, text)[0]) {
			got = append(got, p.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	addr := netip.MustParseAddr
	if n := len(Prefixes(FromRange(addr("0.0.0.1"), addr("255.255.255.254")))); n != 62 {
		t.Errorf("%d prefixes, want 62", n)
	}
	if n := len(Prefixes(FromRange(addr("::1"), addr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe")))); n != 254 {
		t.Errorf("%d prefixes, want 254", n)
	}
	for _, s := range []Selector{
		{},
		FromRange(addr("10.0.0.2"), addr("10.0.0.1")), FromRange(addr("10.0.0.1"), addr("::1")),
		FromRange(addr("fe80::1%a"), addr("fe80::2%a")), FromRange(netip.Addr{}, addr("::1")),
	} {
		if got := Prefixes(s); got != nil {
			t.Errorf("%s: %s, want none", s, got)
		}
	}
}

// The prefixes are in order, touch each other, begin and end with the range,
// and no two of them could be one.
func TestPrefixesProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := generateAny(t)
		next := s.First
		var last netip.Prefix
		for _, p := range Prefixes(s) {
			if p.Addr() != next || p != p.Masked() {
				t.Fatalf("%s: %s follows the address before %s", s, p, next)
			}
			if last.IsValid() && last.Bits() == p.Bits() {
				if wider, err := last.Addr().Prefix(p.Bits() - 1); err == nil && wider.Addr() == last.Addr() {
					t.Fatalf("%s: %s and %s are %s", s, last, p, wider)
				}
			}
			last, next = p, lastAddr(p).Next()
		}
		if lastAddr(last) != s.Last {
			t.Fatalf("%s: ends with %s", s, last)
		}
	})
}

func TestWireRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set := rapid.SliceOfN(rapid.Custom(generateAny), 1, 10).Draw(t, "set")
		initiator := rapid.Bool().Draw(t, "initiator")
		first, b, err := wire.AppendPayloads(nil, []wire.Payload{ToWire(initiator, set)})
		if err != nil {
			t.Fatal(err)
		}
		ps, err := wire.ParsePayloads(first, b)
		if err != nil {
			t.Fatal(err)
		}
		p := ps[0].(*wire.TS)
		got, err := FromWire(p)
		if err != nil || p.Initiator != initiator || !slices.Equal(got, set) {
			t.Fatalf("%s, %v, want %s", got, err, set)
		}
	})
}

func TestFromWire(t *testing.T) {
	p := ToWire(true, parse(t, "10.0.0.1[tcp/80]"))
	p.Selectors = append(p.Selectors, wire.TrafficSelector{Kind: wire.TSSecurityLabel, Opaque: "label"})
	got, err := FromWire(p)
	if want := parse(t, "10.0.0.1[tcp/80]"); err != nil || !slices.Equal(got, want) {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
	if got, err := FromWire(&wire.TS{Selectors: p.Selectors[1:]}); err != nil || len(got) != 0 {
		t.Errorf("%s, %v, want nothing", got, err)
	}
	p.Selectors[0].IPProtocol = 0
	if _, err := FromWire(p); err == nil || !strings.Contains(err.Error(), "TSi payload, selector 1: traffic selector 10.0.0.1/32[any/80]") {
		t.Errorf("error %v", err)
	}
}

func BenchmarkNarrow(b *testing.B) {
	offer, policy := parse(b, "10.1.0.5[tcp/443] 10.1.0.0/16 10.2.0.0/16"), parse(b, "10.0.0.0/8 192.168.0.0/16 2001:db8::/32")
	b.ReportAllocs()
	for b.Loop() {
		Narrow(offer, policy)
	}
}

// The worst that a peer can ask for: selectors that only together cover.
func BenchmarkCoversHostile(b *testing.B) {
	var set, sub []Selector
	for i := range uint16(MaxSelectors) {
		s := parse(b, "10.0.0.0/8[tcp]")[0]
		s.StartPort, s.EndPort = 200*i, 200*i+199
		set = append(set, s)
		s.StartPort, s.EndPort = 0, 200*MaxSelectors-1
		s.First = netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
		sub = append(sub, s)
	}
	for b.Loop() {
		if !Covers(set, sub) {
			b.Fatal("not covered")
		}
	}
}
