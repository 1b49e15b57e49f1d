package engine

import (
	"maps"
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// shard is one loop and what it owns.
type shard struct {
	engine *Engine
	index  uint8
	made   *spiTable // the SPIs that newSPI returned

	*mailbox

	// Owned by the loop.
	tunnels map[string]*tunnel
	spis    map[wire.SPI]*tunnel
	timers  timers[*tunnel]
	drained chan struct{} // while the engine closes: closed when no tunnel is left
}

func newShard(e *Engine, index int) *shard {
	return &shard{
		engine:  e,
		index:   uint8(index),
		made:    newSPITable(),
		mailbox: newMailbox(e.config.Limits.Mailbox),
		tunnels: make(map[string]*tunnel),
		spis:    make(map[wire.SPI]*tunnel),
	}
}

func (s *shard) run(stop <-chan struct{}) { s.mailbox.run(stop, s.wake, s.receive) }

// wake calls the tunnels whose deadline has come.
func (s *shard) wake(now time.Time) (time.Time, bool) {
	for {
		t, ok := s.timers.pop(now)
		if !ok {
			return s.timers.next()
		}
		t.wake(now)
	}
}

func (s *shard) receive(d datagram) {
	t := s.spis[d.ours]
	if t == nil {
		s.engine.counters.drop(DropUnknownSPI)
		return
	}
	t.step(time.Now(), ike.Datagram{Local: d.local, Remote: d.remote, TCP: d.tcp, Data: d.data})
}

func (s *shard) register(spi wire.SPI, t *tunnel) {
	s.spis[spi] = t
	if table := s.engine.tableOf(spi); table != nil {
		table.set(spi, s.mailbox)
	}
}

func (s *shard) unregister(spi wire.SPI) {
	delete(s.spis, spi)
	if table := s.engine.tableOf(spi); table != nil {
		table.remove(spi, s.mailbox)
	}
}

// newSPI returns an IKE SPI that leads to this loop.
func (s *shard) newSPI() wire.SPI { return newSPI(s.engine.config.Rand, s.index, s.made) }

// drain closes every tunnel, and done when the last of them is gone.
func (s *shard) drain(now time.Time, done chan struct{}) {
	s.drained = done
	for _, t := range slices.Collect(maps.Values(s.tunnels)) {
		t.disconnect(now)
	}
	s.checkDrained()
}

func (s *shard) checkDrained() {
	if s.drained != nil && len(s.tunnels) == 0 {
		close(s.drained)
		s.drained = nil
	}
}
