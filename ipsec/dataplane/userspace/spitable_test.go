package userspace

import (
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func inboundWithSPI(spi uint32) *inboundSA {
	sa := &inboundSA{}
	sa.spi = spi
	return sa
}

func TestSPITableMatchesMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table, model := newSPITable(), map[uint32]*inboundSA{}
		spis := rapid.OneOf(rapid.Uint32Range(256, 300), rapid.Uint32Range(256, 1<<32-1))
		for range rapid.IntRange(1, 500).Draw(t, "steps") {
			spi := spis.Draw(t, "SPI")
			if model[spi] == nil {
				model[spi] = inboundWithSPI(spi)
				table.put(model[spi])
			} else if rapid.Bool().Draw(t, "remove") {
				delete(model, spi)
				table.remove(spi)
			}
			if got := table.get(spi); got != model[spi] {
				t.Fatalf("SPI %08x: got %p, want %p", spi, got, model[spi])
			}
		}
		for spi, sa := range model {
			if table.get(spi) != sa {
				t.Fatalf("SPI %08x is lost", spi)
			}
		}
	})
}

// TestSPITableReaders looks up while the table is changed and replaced; the race
// detector watches.
func TestSPITableReaders(t *testing.T) {
	table := newSPITable()
	keep := inboundWithSPI(777)
	table.put(keep)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if table.get(777) != keep {
					t.Error("an SA that was not touched could not be found")
					return
				}
			}
		})
	}
	for i := range uint32(20000) {
		table.put(inboundWithSPI(1000 + i))
		if i%3 == 0 {
			table.remove(1000 + i/2)
		}
	}
	close(stop)
	readers.Wait()
}

func BenchmarkSPITable(b *testing.B) {
	table := newSPITable()
	for i := range uint32(10000) {
		table.put(inboundWithSPI(1<<16 + i*7919))
	}
	i := uint32(0)
	for b.Loop() {
		i = (i + 1) % 10000
		if table.get(1<<16+i*7919) == nil {
			b.Fatal("lost")
		}
	}
}
