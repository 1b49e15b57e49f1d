package memory

import (
	"fmt"
	"math"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// SetSequenceForTest has an SA go on as if sequence were the number that was sent last,
// or the highest that was received.
func (p *Plane) SetSequenceForTest(sa dataplane.SA, sequence uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.find(sa.Direction, sa.Tunnel, sa.SPI)
	switch {
	case a == nil:
		return fmt.Errorf("set sequence number of %s SA %08x: there is no such SA", sa.Direction, sa.SPI)
	case sa.Direction == dataplane.Outbound:
		a.next = sequence
	default:
		a.highest = sequence
		clear(a.window)
		a.window[sequence] = true
	}
	return nil
}

// exhausted reports whether an SA has used its last sequence number (RFC 4303, Section
// 3.3.3).
func (a *association) exhausted() bool {
	if a.Suite.ESN {
		return a.next == math.MaxUint64
	}
	return a.next == math.MaxUint32
}
