package userspace

import (
	"fmt"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// SetSequenceForTest has an SA go on as if sequence were the number that was sent last,
// or the highest that was received.
func (p *Plane) SetSequenceForTest(c dataplane.SA, sequence uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	set := p.sequenceOf(c)
	if set == nil {
		return fmt.Errorf("set sequence number of %s SA %08x: there is no such SA", c.Direction, c.SPI)
	}
	a := p.sas[keyOf(c.Direction, c.Tunnel, c.SPI)]
	a.moving.Lock()
	defer a.moving.Unlock()
	set(sequence)
	return nil
}

// sequenceOf returns what sets the sequence number of an SA, nil if there is none.
func (p *Plane) sequenceOf(c dataplane.SA) func(uint64) {
	if c.Direction == dataplane.Inbound {
		in := p.inbound.get(c.SPI)
		switch {
		case in == nil:
			return nil
		case in.ah != nil:
			return in.ah.SetHighestForTest
		}
		return in.esp.SetHighestForTest
	}
	ch := p.children[childKey{c.Tunnel, c.Child}]
	if ch == nil {
		return nil
	}
	for _, out := range ch.outbound {
		switch {
		case out.spi != c.SPI:
		case out.ah != nil:
			return out.ah.SetSequenceForTest
		default:
			return out.esp.SetSequenceForTest
		}
	}
	return nil
}
