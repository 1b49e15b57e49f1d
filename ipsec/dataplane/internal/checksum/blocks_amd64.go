package checksum

import "golang.org/x/sys/cpu"

var useAVX2 = cpu.X86.HasAVX2

// addBlocksAVX2 sums the 32-bit little-endian words of the n octets at p. n is
// a multiple of 64.
//
//go:noescape
func addBlocksAVX2(p *byte, n int) uint64

func addBlocks(b []byte) uint64 {
	if useAVX2 {
		return addBlocksAVX2(&b[0], len(b))
	}
	return addBlocksGeneric(b)
}
