package engine

import (
	"fmt"
	"io"
	"sync"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// The first octet of an IKE SPI of ours names the loop that owns it, so that a
// datagram finds its loop without a table that is shared. It tells an observer
// the number of loops and nothing else; the other 56 bits are random.
//
// The SPIs of half-open responders are made before it is known to which tunnel
// they go. They carry frontShard, and once handed over they are looked up.
const (
	frontShard = 0xff
	maxShards  = 64
)

// newSPI returns an IKE SPI of a shard that taken does not report as used.
func newSPI(rand io.Reader, shard uint8, taken func(wire.SPI) bool) wire.SPI {
	for {
		var spi wire.SPI
		if _, err := io.ReadFull(rand, spi[1:]); err != nil {
			// crypto/rand never fails; a Config.Rand that does is a defect
			// without a safe way on.
			panic(fmt.Sprintf("engine: read randomness: %v", err))
		}
		spi[0] = shard
		if [7]byte(spi[1:]) != [7]byte{} && !taken(spi) {
			return spi
		}
	}
}

// handovers remembers which loop has the IKE SAs that began in the front.
type handovers struct {
	m sync.Map // wire.SPI -> int
}

func (h *handovers) set(spi wire.SPI, shard int) { h.m.Store(spi, shard) }
func (h *handovers) remove(spi wire.SPI)         { h.m.Delete(spi) }

func (h *handovers) shard(spi wire.SPI) (int, bool) {
	v, ok := h.m.Load(spi)
	if !ok {
		return 0, false
	}
	return v.(int), true
}
