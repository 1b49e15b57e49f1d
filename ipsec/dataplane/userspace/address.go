package userspace

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// address is an IP address as two words, IPv4 in the mapped form
// (::ffff:a.b.c.d), so that ranges and prefixes of both families compare alike.
// IPv6 packets that carry mapped addresses are refused by parse, so an address
// of a packet has a family still.
type address struct{ hi, lo uint64 }

// mappedBits is what a prefix length grows by in the mapped form.
const mappedBits = 96

func addressOf(a netip.Addr) address {
	b := a.As16()
	return address{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// addr returns a as it is written; a mapped one is that of IPv4.
func (a address) addr() netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], a.hi)
	binary.BigEndian.PutUint64(b[8:], a.lo)
	return netip.AddrFrom16(b).Unmap()
}

func addressFrom4(b []byte) address {
	return address{0, 0xffff<<32 | uint64(binary.BigEndian.Uint32(b))}
}

func addressFrom16(b []byte) address {
	return address{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

// mapped reports whether a is in the IPv4 range.
func (a address) mapped() bool { return a.hi == 0 && a.lo>>32 == 0xffff }

func (a address) less(b address) bool {
	return a.hi < b.hi || a.hi == b.hi && a.lo < b.lo
}

// bit returns the bit at position i, 0 being the highest.
func (a address) bit(i int) int {
	if i < 64 {
		return int(a.hi >> (63 - i) & 1)
	}
	return int(a.lo >> (127 - i) & 1)
}

// commonBits returns how many leading bits a and b share.
func (a address) commonBits(b address) int {
	if x := a.hi ^ b.hi; x != 0 {
		return bits.LeadingZeros64(x)
	}
	return 64 + bits.LeadingZeros64(a.lo^b.lo)
}

// masked clears all but the first n bits.
func (a address) masked(n int) address {
	if n < 64 {
		return address{a.hi &^ (1<<(64-n) - 1), 0}
	}
	return address{a.hi, a.lo &^ (1<<(128-n) - 1)}
}
