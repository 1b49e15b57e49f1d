package userspace

import (
	"net/netip"
	"testing"
)

func TestParseInner(t *testing.T) {
	udp := func(head ...byte) []byte { return append(head, 0x03, 0xe8, 0x07, 0xd0, 0, 8, 0, 0) }
	v6 := func(next byte, rest ...byte) []byte {
		b := make([]byte, ipv6HeaderLen, ipv6HeaderLen+len(rest))
		b[0], b[5], b[6], b[8], b[24], b[39] = 0x60, byte(len(rest)), next, 0xfd, 0xfd, 9
		return append(b, rest...)
	}
	v4 := func(protocol, fragmentHigh, fragmentLow byte, rest ...byte) []byte {
		b := make([]byte, ipv4HeaderLen, ipv4HeaderLen+len(rest))
		b[0], b[3], b[6], b[7], b[9] = 0x45, byte(ipv4HeaderLen+len(rest)), fragmentHigh, fragmentLow, protocol
		return append(b, rest...)
	}
	mapped := v6(protoUDP, udp()...)
	copy(mapped[8:], []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1})
	tests := []struct {
		name     string
		b        []byte
		ok       bool
		protocol uint8
		ports    bool
		srcPort  uint16
		fragment bool
	}{
		{"IPv4 UDP", v4(protoUDP, 0x40, 0, udp()...), true, protoUDP, true, 1000, false},
		{"IPv4 first fragment", v4(protoUDP, 0x20, 0, udp()...), true, protoUDP, true, 1000, true},
		{"IPv4 later fragment", v4(protoUDP, 0, 5, udp()...), true, protoUDP, false, 0, true},
		{"IPv4 ICMP echo", v4(protoICMP, 0, 0, 8, 0, 0, 0), true, protoICMP, true, 0x800, false},
		{"IPv4 ESP", v4(50, 0, 0, 1, 2, 3, 4), true, 50, false, 0, false},
		{"IPv4 without ports", v4(protoTCP, 0, 0, 1, 2), true, protoTCP, false, 0, false},
		{"IPv6 UDP", v6(protoUDP, udp()...), true, protoUDP, true, 1000, false},
		{"IPv6 hop by hop, then UDP", v6(protoHopByHop, udp(protoUDP, 0, 0, 0, 0, 0, 0, 0)...), true, protoUDP, true, 1000, false},
		{"IPv6 first fragment", v6(protoFragment, udp(protoUDP, 0, 0, 1, 0, 0, 0, 0)...), true, protoUDP, true, 1000, true},
		{"IPv6 later fragment", v6(protoFragment, udp(protoUDP, 0, 1, 1, 0, 0, 0, 0)...), true, protoUDP, false, 0, true},
		{"IPv6 extension beyond the packet", v6(protoHopByHop, protoUDP, 9, 0, 0, 0, 0, 0, 0), false, 0, false, 0, false},
		{"IPv6 endless extensions", v6(protoHopByHop, make([]byte, 8*20)...), false, 0, false, 0, false},
		{"IPv6 with a mapped address", mapped, false, 0, false, 0, false},
		{"nothing", nil, false, 0, false, 0, false},
		{"version 5", append([]byte{0x50}, make([]byte, 39)...), false, 0, false, 0, false},
		{"IPv4 longer than it is", append(v4(protoUDP, 0, 0, udp()...)[:3], 200), false, 0, false, 0, false},
		{"IPv4 header too short", append([]byte{0x44}, make([]byte, 39)...), false, 0, false, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var in inner
			ok := in.parse(tt.b)
			if ok != tt.ok {
				t.Fatalf("parsed %v, want %v", ok, tt.ok)
			}
			if ok && (in.protocol != tt.protocol || in.hasPorts != tt.ports || in.srcPort != tt.srcPort || in.fragment != tt.fragment || in.length != len(tt.b)) {
				t.Errorf("got %+v", in)
			}
		})
	}
	padded := append(v4(protoUDP, 0, 0, udp()...), make([]byte, 50)...) // RFC 4303, Section 2.7
	var in inner
	if !in.parse(padded) || in.length != len(padded)-50 {
		t.Errorf("padding counted as packet: %d of %d octets", in.length, len(padded))
	}
}

func FuzzInner(f *testing.F) {
	f.Add(superPacket(false, false, 100, 50)[vnetHeaderLen:])
	f.Add(superPacket(true, true, 100, 50)[vnetHeaderLen:])
	for _, v6 := range []bool{false, true} {
		f.Add(withHeaders(wholePacket(v6, 1, 50)))
		f.Add(cutPacket(withHeaders(wholePacket(v6, 1, 500)), 1, 200)[1])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var in inner
		if !in.parse(b) {
			return
		}
		if in.length > len(b) || in.transport > in.length {
			t.Fatalf("transport at %d of %d octets, %d there", in.transport, in.length, len(b))
		}
		if end, next, ok := wayHeaders(b[:in.length:in.length]); ok && (end > in.length || next >= end) {
			t.Fatalf("headers for the way end at %d of %d octets, and say at %d what follows", end, in.length, next)
		}
		if in.fragment {
			if f, ok := in.fragmentOf(b[:in.length:in.length]); ok && f.header > in.length {
				t.Fatalf("a fragment with %d octets of headers has %d", f.header, in.length)
			}
		}
		m := merger{tcp: true, udp: true}
		if c, ok := m.candidate(b[:in.length], &in); ok && c.headers >= in.length {
			t.Fatalf("headers of %d octets in a packet of %d", c.headers, in.length)
		}
	})
}

func FuzzSegmenter(f *testing.F) {
	f.Add(superPacket(false, false, 100, 50))
	f.Add(superPacket(true, true, 100, 50))
	short := superPacket(false, false, 81, 50)
	short[8] = 4                                   // where the checksum is
	short[vnetHeaderLen+ipv4HeaderLen+12] = 3 << 4 // a TCP header of 12 octets, and 1 in the last segment
	f.Add(short)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < vnetHeaderLen+ipv4HeaderLen || len(b) > maxPacket {
			return
		}
		var s segmenter
		if !s.start(parseVnetHeader(b), b[vnetHeaderLen:]) {
			return
		}
		total := 0
		for seg := s.next(); seg != nil; seg = s.next() {
			total += len(seg) - len(s.header)
		}
		if total != len(b)-vnetHeaderLen-len(s.header) {
			t.Fatalf("segments hold %d octets of %d", total, len(b)-vnetHeaderLen-len(s.header))
		}
	})
}

func TestAddressPrefix(t *testing.T) {
	a := addressOf(netip.MustParseAddr("10.1.2.3"))
	b := addressOf(netip.MustParseAddr("10.1.3.0"))
	if got := a.commonBits(b); got != mappedBits+23 {
		t.Errorf("common bits %d, want %d", got, mappedBits+23)
	}
	if got, want := a.masked(mappedBits+16), addressOf(netip.MustParseAddr("10.1.0.0")); got != want {
		t.Errorf("masked %x, want %x", got, want)
	}
	for n := range 129 {
		all := address{^uint64(0), ^uint64(0)}
		if got := all.masked(n).commonBits(all); got != n {
			t.Errorf("mask of %d bits keeps %d", n, got)
		}
	}
}
