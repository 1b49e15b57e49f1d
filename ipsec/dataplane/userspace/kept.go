package userspace

import (
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/esp"
)

// What may wait for SAs: for one child, of all of them together, and for how long.
// Packets that come first are those that open connections; what waited longer than
// its sender does is of no use.
const (
	keptOfChild       = 16
	keptOctetsOfChild = 128 << 10
	keptInAll         = 4096
	keptOctetsInAll   = 8 << 20
	keptFor           = 10 * time.Second
)

// kept are the packets that wait for an outbound SA, as they were read from the
// interface. They belong to the transmitter.
type kept struct {
	children []*child // that have any, in the order of their first
	packets  int
	octets   int
}

// waiting are the packets of one child.
type waiting struct {
	packets [][]byte
	octets  int
	since   time.Time // of the first
}

// add keeps a copy of packet b for c, unless there are enough.
func (k *kept) add(c *child, b []byte, now time.Time) bool {
	w := &c.waiting
	if len(w.packets) >= keptOfChild || w.octets+len(b) > keptOctetsOfChild ||
		k.packets >= keptInAll || k.octets+len(b) > keptOctetsInAll {
		return false
	}
	if len(w.packets) == 0 {
		w.since = now
		k.children = append(k.children, c)
	}
	own := append(make([]byte, 0, len(b)+esp.TrailerRoom), b...)
	w.packets, w.octets = append(w.packets, own), w.octets+len(b)
	k.packets, k.octets = k.packets+1, k.octets+len(b)
	return true
}

// take gives up what waits for the children that wanted says.
func (k *kept) take(wanted func(*child) bool) (out [][]byte) {
	k.children = slices.DeleteFunc(k.children, func(c *child) bool {
		if !wanted(c) {
			return false
		}
		out = append(out, c.waiting.packets...)
		k.packets, k.octets = k.packets-len(c.waiting.packets), k.octets-c.waiting.octets
		c.waiting = waiting{}
		return true
	})
	return out
}

// keep has the packet at hand wait for an SA of c, or counts it as lost.
func (t *transmitter) keep(c *child, b []byte) {
	now := time.Now()
	t.giveUp(now)
	if t.kept.add(c, b, now) {
		t.plane.stats.waited.Add(1)
	} else {
		t.plane.stats.noSA.Add(1)
	}
}

// giveUp drops what waited too long.
func (t *transmitter) giveUp(now time.Time) {
	stale := func(c *child) bool { return now.Sub(c.waiting.since) >= keptFor }
	if len(t.kept.children) == 0 || !stale(t.kept.children[0]) {
		return // nor are those behind it
	}
	old := t.kept.take(stale)
	t.plane.stats.noSA.Add(uint64(len(old)))
}

// sendKept sends what waited for SAs that have come. It goes through the policies
// once more, as they may be others by now.
func (t *transmitter) sendKept() {
	t.plane.arrived.Store(false)
	t.giveUp(time.Now())
	for _, b := range t.kept.take(func(c *child) bool { return c.current.Load() != nil }) {
		t.take(b)
	}
}

// saArrived has the transmitter send what waited for it.
func (p *Plane) saArrived() {
	p.arrived.Store(true)
	p.device.wake()
}
