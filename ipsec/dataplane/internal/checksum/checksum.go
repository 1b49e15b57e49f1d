package checksum

import (
	"encoding/binary"
	"math/bits"
)

// Add returns the unfolded one's complement sum of b plus initial. The sum is
// kept in little-endian order, in which any 16-bit swap is left to [Fold]
// (RFC 1071, Section 2(B)). Sums of several pieces may be chained as long as
// every piece but the last has an even length.
func Add(b []byte, initial uint64) uint64 {
	sum := initial
	if bulk := len(b) &^ 63; bulk > 0 {
		sum += addBlocks(b[:bulk])
		b = b[bulk:]
	}
	for len(b) >= 4 {
		sum += uint64(binary.LittleEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		sum += uint64(binary.LittleEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint64(b[0])
	}
	return sum
}

// Fold reduces a sum to 16 bits, in the order in which it is stored with
// binary.BigEndian.PutUint16. A packet whose checksum is right sums to 0xffff.
func Fold(sum uint64) uint16 {
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return bits.ReverseBytes16(uint16(sum))
}

// PseudoIPv4 is the sum of the pseudo-header of a TCP or UDP segment of length
// octets carried by the IPv4 packet ip (RFC 9293, Section 3.1).
func PseudoIPv4(ip []byte, protocol uint8, length int) uint64 {
	return uint64(binary.LittleEndian.Uint32(ip[12:16])) +
		uint64(binary.LittleEndian.Uint32(ip[16:20])) +
		uint64(protocol)<<8 + Length(length)
}

// PseudoIPv6 is the same for an IPv6 packet (RFC 8200, Section 8.1).
func PseudoIPv6(ip []byte, protocol uint8, length int) uint64 {
	var sum uint64
	for i := 8; i < 40; i += 4 {
		sum += uint64(binary.LittleEndian.Uint32(ip[i : i+4]))
	}
	return sum + uint64(protocol)<<8 + Length(length)
}

// Length is what a length of at most 65,535 octets adds to a pseudo-header.
func Length(n int) uint64 { return uint64(bits.ReverseBytes16(uint16(n))) }

// addBlocksGeneric sums b, whose length is a multiple of 64, as 32-bit words.
func addBlocksGeneric(b []byte) uint64 {
	var even, odd uint64
	for len(b) >= 32 {
		w0 := binary.LittleEndian.Uint64(b)
		w1 := binary.LittleEndian.Uint64(b[8:])
		w2 := binary.LittleEndian.Uint64(b[16:])
		w3 := binary.LittleEndian.Uint64(b[24:])
		even += w0&0xffffffff + w1&0xffffffff + w2&0xffffffff + w3&0xffffffff
		odd += w0>>32 + w1>>32 + w2>>32 + w3>>32
		b = b[32:]
	}
	return even + odd
}
