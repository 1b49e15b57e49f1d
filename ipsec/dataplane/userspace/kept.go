package userspace

import (
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/esp"
)

// What may wait for SAs in one transmitter: for one child, of all of them together, and
// for how long.
// Packets that come first are those that open connections; what waited longer than
// its sender does is of no use.
const (
	keptOfChild       = 16
	keptOctetsOfChild = 128 << 10
	keptInAll         = 4096
	keptOctetsInAll   = 8 << 20
	keptFor           = 10 * time.Second
)

// kept are the packets of one transmitter that wait for an outbound SA, as they were
// read from the interface.
type kept struct {
	waiting []*waiting // in the order of their first
	of      map[*child]*waiting
	packets int
	octets  int
}

// waiting are the packets of one child.
type waiting struct {
	child   *child
	packets [][]byte
	octets  int
	since   time.Time // of the first
}

// add keeps a copy of packet b for c, unless there are enough.
func (k *kept) add(c *child, b []byte, now time.Time) bool {
	w := k.of[c]
	switch {
	case k.packets >= keptInAll || k.octets+len(b) > keptOctetsInAll:
		return false
	case w == nil:
		w = &waiting{child: c, since: now}
		k.waiting, k.of[c] = append(k.waiting, w), w
	case len(w.packets) >= keptOfChild || w.octets+len(b) > keptOctetsOfChild:
		return false
	}
	own := append(make([]byte, 0, len(b)+esp.TrailerRoom), b...)
	w.packets, w.octets = append(w.packets, own), w.octets+len(b)
	k.packets, k.octets = k.packets+1, k.octets+len(b)
	return true
}

// take gives up what wanted says.
func (k *kept) take(wanted func(*waiting) bool) (out [][]byte) {
	k.waiting = slices.DeleteFunc(k.waiting, func(w *waiting) bool {
		if !wanted(w) {
			return false
		}
		out = append(out, w.packets...)
		k.packets, k.octets = k.packets-len(w.packets), k.octets-w.octets
		delete(k.of, w.child)
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
	stale := func(w *waiting) bool { return now.Sub(w.since) >= keptFor }
	if len(t.kept.waiting) == 0 || !stale(t.kept.waiting[0]) {
		return // nor are those behind it
	}
	old := t.kept.take(stale)
	t.plane.stats.noSA.Add(uint64(len(old)))
}

// sendKept sends what waited for SAs that have come. It goes through the policies
// once more, as they may be others by now.
func (t *transmitter) sendKept() {
	t.arrived.Store(false)
	t.giveUp(time.Now())
	for _, b := range t.kept.take(func(w *waiting) bool { return w.child.carriers.Load() != nil }) {
		t.take(b)
	}
}

// saArrived has the transmitters send what waited for it.
func (p *Plane) saArrived() {
	for _, in := range p.insides {
		for _, t := range in.transmitters {
			t.arrived.Store(true)
		}
	}
	p.wake()
}
