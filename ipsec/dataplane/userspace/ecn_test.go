package userspace

import (
	"testing"

	"github.com/swanherd/swanherd/ipsec/dataplane/internal/checksum"
)

// TestMergeECN is Figure 4 of RFC 6040.
func TestMergeECN(t *testing.T) {
	const drop = 0xff
	want := map[uint8][4]uint8{ // inner: by outer Not-ECT, ECT(1), ECT(0), CE
		ecnNotECT: {ecnNotECT, ecnNotECT, ecnNotECT, drop},
		ecnECT0:   {ecnECT0, ecnECT1, ecnECT0, ecnCE},
		ecnECT1:   {ecnECT1, ecnECT1, ecnECT1, ecnCE},
		ecnCE:     {ecnCE, ecnCE, ecnCE, ecnCE},
	}
	for inner, row := range want {
		for outer, result := range row {
			for _, v6 := range []bool{false, true} {
				const dscp = 0xb8
				b := ipv4Packet(dscp | inner)
				if v6 {
					b = make([]byte, ipv6HeaderLen)
					b[0], b[1] = 0x60|(dscp|inner)>>4, (dscp|inner)<<4|0x0f
				}
				ok := mergeECN(0x28|uint8(outer), b, v6)
				if ok != (result != drop) {
					t.Errorf("inner %d outer %d IPv6 %v: passed %v", inner, outer, v6, ok)
				}
				if !ok {
					continue
				}
				if got := trafficClass(b, v6); got != dscp|result {
					t.Errorf("inner %d outer %d IPv6 %v: class %#x, want %#x", inner, outer, v6, got, dscp|result)
				}
				if !v6 && checksum.Fold(checksum.Add(b, 0)) != 0xffff {
					t.Errorf("inner %d outer %d: the header checksum is wrong", inner, outer)
				}
			}
		}
	}
}

func ipv4Packet(class uint8) []byte {
	b := make([]byte, ipv4HeaderLen)
	b[0], b[1], b[3], b[8], b[9] = 0x45, class, ipv4HeaderLen, 64, protoUDP
	sum := ^checksum.Fold(checksum.Add(b, 0))
	b[10], b[11] = byte(sum>>8), byte(sum)
	return b
}
