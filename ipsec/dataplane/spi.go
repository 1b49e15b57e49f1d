package dataplane

import (
	"crypto/rand"
	"encoding/binary"
)

// MinSPI is the lowest SPI that may be assigned (RFC 4303, Section 2.1).
const MinSPI = 256

// NewSPI returns an SPI that nobody can foretell and that is not taken. Of 2^32 there
// are always some left: a plane with so many SAs does not fit in memory.
func NewSPI(taken func(spi uint32) bool) uint32 {
	for {
		var b [4]byte
		rand.Read(b[:]) // cannot fail
		if spi := binary.BigEndian.Uint32(b[:]); spi >= MinSPI && !taken(spi) {
			return spi
		}
	}
}
