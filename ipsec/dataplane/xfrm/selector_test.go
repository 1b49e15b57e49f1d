package xfrm

import (
	"net/netip"
	"testing"

	"github.com/swanherd/swanherd/ipsec/ts"
)

// TestReversedSelectors: what one host matches outbound is what the other, which has
// the sides exchanged, matches inbound.
func TestReversedSelectors(t *testing.T) {
	for _, tt := range [][2]string{
		{"10.1.0.0/16", "10.2.0.0/16"},
		{"10.1.0.1-10.1.0.6[tcp/1000-1999]", "10.2.0.0/16[tcp/443]"},
		{"fd00::/64[udp/53]", "::/0[udp]"},
		{"10.1.0.0/16[icmp/8]", "10.2.0.0/16[icmp/8]"},
		{"10.1.0.0/16[icmp/3:1-3:4]", "10.2.0.0/16[icmp]"},
		{"fd00::/64[ipv6-icmp]", "::/0[ipv6-icmp/128-129]"},
	} {
		var sides [2][]ts.Selector
		for i, text := range tt {
			s, err := ts.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			sides[i] = []ts.Selector{s}
		}
		here, err := outboundSelectors(sides[0], sides[1])
		if err != nil {
			t.Fatal(err)
		}
		there, err := outboundSelectors(sides[1], sides[0])
		if err != nil {
			t.Fatal(err)
		}
		reversed := map[selector]bool{}
		for _, s := range there {
			reversed[s.reversed()] = true
		}
		for _, s := range here {
			if !reversed[s] {
				t.Errorf("%s to %s: outbound %+v, inbound %+v", tt[0], tt[1], s, reversed)
			}
		}
		if len(here) != len(reversed) {
			t.Errorf("%s to %s: %d outbound, %d inbound", tt[0], tt[1], len(here), len(reversed))
		}
	}
}

func TestIntersect(t *testing.T) {
	prefix := netip.MustParsePrefix
	web, tls := maskedPort{80, 0xffff}, maskedPort{443, 0xffff}
	low := maskedPort{0, 0xfc00} // up to 1023
	wide := selector{source: prefix("10.1.0.0/16"), destination: prefix("10.2.0.0/16")}
	for _, c := range []struct {
		a, b, want selector
		fits       bool
	}{
		{wide, wide, wide, true},
		{
			wide, selector{prefix("10.1.5.0/24"), prefix("10.0.0.0/8"), 6, maskedPort{}, web},
			selector{prefix("10.1.5.0/24"), prefix("10.2.0.0/16"), 6, maskedPort{}, web}, true,
		},
		{
			selector{prefix("10.1.0.0/16"), prefix("10.2.0.0/16"), 6, maskedPort{}, low},
			selector{prefix("10.1.0.0/16"), prefix("10.2.3.0/24"), 6, tls, web},
			selector{prefix("10.1.0.0/16"), prefix("10.2.3.0/24"), 6, tls, web}, true,
		},
		{a: wide, b: selector{source: prefix("10.1.0.0/16"), destination: prefix("10.3.0.0/16")}},
		{a: wide, b: selector{source: prefix("fd00::/8"), destination: prefix("fd00::/8")}},
		{
			a: selector{prefix("10.1.0.0/16"), prefix("10.2.0.0/16"), 6, maskedPort{}, maskedPort{}},
			b: selector{prefix("10.1.0.0/16"), prefix("10.2.0.0/16"), 17, maskedPort{}, maskedPort{}},
		},
		{
			a: selector{prefix("10.1.0.0/16"), prefix("10.2.0.0/16"), 6, maskedPort{}, web},
			b: selector{prefix("10.1.0.0/16"), prefix("10.2.0.0/16"), 6, maskedPort{}, tls},
		},
	} {
		for _, pair := range [][2]selector{{c.a, c.b}, {c.b, c.a}} {
			if got, fits := pair[0].intersect(pair[1]); fits != c.fits || fits && got != c.want {
				t.Errorf("%v and %v: %v, %t, want %v, %t", pair[0], pair[1], got, fits, c.want, c.fits)
			}
		}
	}
}
