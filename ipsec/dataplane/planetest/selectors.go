package planetest

import (
	"net/netip"
	"testing"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ts"
)

func (h *harness) parse(texts ...string) []ts.Selector {
	h.Helper()
	var out []ts.Selector
	for _, text := range texts {
		s, err := ts.Parse(text)
		if err != nil {
			h.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

// The addresses that are nobody's, next to those of the hosts.
var (
	besideA, besideB   = netip.MustParseAddr("10.91.1.2"), netip.MustParseAddr("10.91.2.2")
	besideA6, besideB6 = netip.MustParseAddr("fd91:1::2"), netip.MustParseAddr("fd91:2::2")
)

// selected is a packet from A to B, and whether the selectors take it.
type selected struct {
	what   string
	packet []byte
	fits   bool
}

// selectsOn wants B to receive the packets that fit, and no others: once where A knows that
// they do not, and once where only B does (RFC 4301, Sections 5.1 and 5.2).
func (h *harness) selectsOn(packets func() []selected) {
	h.Helper()
	narrowA, narrowB := h.tsA, h.tsB
	for i, wideA := range []bool{false, true} {
		s := h.newSAs(byte(i + 1))
		if wideA {
			h.tsA, h.tsB = selectors(netA, netA6), selectors(netB, netB6)
			s.outA.LocalTS, s.outA.RemoteTS = h.tsA, h.tsB
		}
		h.apply(h.A, h.policyA(), dataplane.InstallSA{SA: s.inA}, dataplane.InstallSA{SA: s.outA})
		h.tsA, h.tsB = narrowA, narrowB
		h.apply(h.B, h.policyB(), dataplane.InstallSA{SA: s.inB}, dataplane.InstallSA{SA: s.outB})
		var dropped uint64
		for _, of := range packets() {
			if of.fits {
				h.Logf("%s, A wide: %t", of.what, wideA)
				h.passes(h.A, h.B, of.packet)
				continue
			}
			dropped++
			_ = h.A.Send(of.packet) // must not arrive before the next that fits
		}
		h.passes(h.A, h.B, h.toB())
		if wideA && h.lacks&SelectorDrops == 0 {
			h.eventually(h.B, s.inB, "packets outside of the selectors", func(c dataplane.Counters) bool { return c.SelectorDrops == dropped })
		}
		h.apply(h.A, remove(s.outA), remove(s.inA))
		h.apply(h.B, remove(s.outB), remove(s.inB))
	}
}

// testSeveralSelectors: a packet fits if its source is in any of one list and its
// destination in any of the other (RFC 7296, Section 3.13).
func testSeveralSelectors(_ *testing.T, h *harness) {
	h.tsA = h.parse("10.91.1.0-10.91.1.1", "10.91.1.128/25", "fd91:1::1")
	h.tsB = h.parse("10.91.2.64/26", "10.91.2.1", "fd91:2::/128", "fd91:2::1-fd91:2::1")
	h.selectsOn(func() []selected {
		return []selected{
			{"first range", h.packet(hostA, hostB), true},
			{"second prefix", h.packet(netip.MustParseAddr("10.91.1.200"), hostB), true},
			{"between them", h.packet(besideA, hostB), false},
			{"another destination", h.packet(hostA, besideB), false},
			{"IPv6", h.packet(hostA6, hostB6), true},
			{"IPv6 from elsewhere", h.packet(besideA6, hostB6), false},
			{"IPv6 to elsewhere", h.packet(hostA6, besideB6), false},
			{"the end of the prefix", h.packet(netip.MustParseAddr("10.91.1.255"), hostB), true},
		}
	})
}

// testPortSelectors: ranges of ports, and type and code of ICMP in their place (RFC
// 4301, Section 4.4.1.1; RFC 7296, Section 3.13.1).
func testPortSelectors(_ *testing.T, h *harness) {
	h.tsA = h.parse("10.91.1.1[udp/1000-1999]", "10.91.1.1[icmp/253:7]", "fd91:1::1[ipv6-icmp/200]", "fd91:1::1[udp/1234]")
	h.tsB = h.parse("10.91.2.1[udp/4321]", "10.91.2.0/24[icmp/253:7]", "fd91:2::/64[ipv6-icmp/200]", "fd91:2::1[udp]")
	h.selectsOn(func() []selected {
		return []selected{
			{"both ports", h.udp(hostA, hostB, 1000, 4321), true},
			{"the last port", h.udp(hostA, hostB, 1999, 4321), true},
			{"the port after it", h.udp(hostA, hostB, 2000, 4321), false},
			{"the port before the first", h.udp(hostA, hostB, 999, 4321), false},
			{"another destination port", h.udp(hostA, hostB, 1234, 1234), false},
			{"type and code of ICMP", h.icmp(hostA, hostB, 253, 7), true},
			{"another code", h.icmp(hostA, hostB, 253, 8), false},
			{"another type", h.icmp(hostA, hostB, 254, 7), false},
			{"ICMP from elsewhere", h.icmp(besideA, hostB, 253, 7), false},
			{"a type of ICMPv6", h.icmp(hostA6, hostB6, 200, 0), true},
			{"its last code", h.icmp(hostA6, hostB6, 200, 255), true},
			{"another type of ICMPv6", h.icmp(hostA6, hostB6, 201, 0), false},
			{"any destination port", h.udp(hostA6, hostB6, 1234, 1234), true},
			{"another source port", h.udp(hostA6, hostB6, 1235, 4321), false},
		}
	})
}
