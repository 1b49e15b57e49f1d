package userspace

import (
	"math/bits"
	"sync/atomic"
)

// spiTable finds inbound SAs. It has one writer at a time and any number of
// readers, which take no lock: a reader sees a slot before or after a change,
// and the whole table is replaced when it fills.
type spiTable struct {
	slots atomic.Pointer[[]atomic.Pointer[inboundSA]]
	used  int // slots that are not nil, the removed ones included
	live  int
}

// removedSA marks a slot whose SA is gone, so that a search goes on past it.
var removedSA = new(inboundSA)

const minSPISlots = 64

func newSPITable() *spiTable {
	t := &spiTable{}
	slots := make([]atomic.Pointer[inboundSA], minSPISlots)
	t.slots.Store(&slots)
	return t
}

// spiSlot spreads SPIs over a table of n slots, a power of two. Inbound SPIs are
// random, but a hostile sender chooses what it asks for.
func spiSlot(spi uint32, n int) int {
	return int(uint64(spi) * 0x9e3779b97f4a7c15 >> (64 - bits.TrailingZeros(uint(n))))
}

// get returns the SA, or nil.
func (t *spiTable) get(spi uint32) *inboundSA {
	slots := *t.slots.Load()
	for i := spiSlot(spi, len(slots)); ; i = (i + 1) & (len(slots) - 1) {
		sa := slots[i].Load()
		if sa == nil || sa.spi == spi {
			return sa
		}
	}
}

// put adds an SA whose SPI is not in the table.
func (t *spiTable) put(sa *inboundSA) {
	slots := *t.slots.Load()
	if (t.used+1)*2 > len(slots) {
		slots = t.rebuilt(slots)
		t.slots.Store(&slots)
	}
	t.insert(slots, sa)
}

func (t *spiTable) rebuilt(old []atomic.Pointer[inboundSA]) []atomic.Pointer[inboundSA] {
	size := minSPISlots
	for size < 4*(t.live+1) {
		size *= 2
	}
	slots := make([]atomic.Pointer[inboundSA], size)
	t.used, t.live = 0, 0
	for i := range old {
		if sa := old[i].Load(); sa != nil && sa != removedSA {
			t.insert(slots, sa)
		}
	}
	return slots
}

func (t *spiTable) insert(slots []atomic.Pointer[inboundSA], sa *inboundSA) {
	i := spiSlot(sa.spi, len(slots))
	for slots[i].Load() != nil {
		i = (i + 1) & (len(slots) - 1)
	}
	slots[i].Store(sa)
	t.used++
	t.live++
}

// remove takes an SA out, if it is there.
func (t *spiTable) remove(spi uint32) {
	slots := *t.slots.Load()
	for i := spiSlot(spi, len(slots)); ; i = (i + 1) & (len(slots) - 1) {
		sa := slots[i].Load()
		if sa == nil {
			return
		}
		if sa.spi == spi {
			slots[i].Store(removedSA)
			t.live--
			return
		}
	}
}
