package engine

import (
	"fmt"
	"io"
	"sync"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// The first octet of an IKE SPI of ours names the loop that made it, so that
// the tables in which receiving goroutines look SPIs up are as many as loops. It
// tells an observer the number of loops and nothing else; the other 56 bits are
// random. Half-open responders, made before it is known to which tunnel they
// go, carry frontShard and keep it.
const (
	frontShard = 0xff
	maxShards  = 64
)

// spiTable says which loop has an SPI. A datagram of an unknown SPI is dropped
// by it, before it costs a copy or a place in a mailbox. The loops write it, for
// a moment each; nothing else happens under its lock.
type spiTable struct {
	mu     sync.RWMutex
	owners map[wire.SPI]*mailbox
}

func newSPITable() *spiTable { return &spiTable{owners: make(map[wire.SPI]*mailbox)} }

// owner returns nil for an SPI that is not ours.
func (t *spiTable) owner(spi wire.SPI) *mailbox {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.owners[spi]
}

func (t *spiTable) set(spi wire.SPI, owner *mailbox) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.owners[spi] = owner
}

// remove removes an SPI, if it still has this owner.
func (t *spiTable) remove(spi wire.SPI, owner *mailbox) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.owners[spi] == owner {
		delete(t.owners, spi)
	}
}

// tableOf returns the table for an SPI, nil if none of ours begins so.
func (e *Engine) tableOf(spi wire.SPI) *spiTable {
	switch n := int(spi[0]); {
	case n < len(e.shards):
		return e.shards[n].made
	case n == frontShard:
		return e.front.made
	}
	return nil
}

// newSPI returns an unused IKE SPI of a loop.
func newSPI(rand io.Reader, shard uint8, table *spiTable) wire.SPI {
	for {
		var spi wire.SPI
		if _, err := io.ReadFull(rand, spi[1:]); err != nil {
			// crypto/rand never fails; a Config.Rand that does is a defect
			// without a safe way on.
			panic(fmt.Sprintf("engine: read randomness: %v", err))
		}
		spi[0] = shard
		if [7]byte(spi[1:]) != [7]byte{} && table.owner(spi) == nil {
			return spi
		}
	}
}
