package userspace

import (
	"math/rand/v2"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/esp"
)

// leastDummy and mostDummy bound dummy packets of random length, in octets.
const (
	leastDummy = 40
	mostDummy  = 1400
)

// dummyPause is the least time between two looks at which SAs are silent.
const dummyPause = time.Millisecond

// hidden is the state of an SA whose traffic is hidden (RFC 4303, Sections 2.6 and
// 2.7).
type hidden struct {
	dataplane.TFC
	sent moment // when the last packet was
}

// filled are the SAs for which this transmitter has to send dummy packets: the first
// one does it for all.
func (t *transmitter) filled() *[]*outboundSA {
	if t.worker != 0 || t.inside != t.plane.insides[0] {
		return nil
	}
	return t.plane.filled.Load()
}

// padTo returns to how many octets the packets of sa are padded, 0 for not at all.
func (t *transmitter) padTo(sa *outboundSA, e *endpoint) int {
	n := sa.hidden.PadTo
	if n == 0 {
		return 0
	}
	fits := t.fits(sa, e)
	if n == dataplane.PadToPath {
		return fits
	}
	return min(n, fits)
}

// fits returns how long an inner packet may be, in octets.
func (t *transmitter) fits(sa *outboundSA, e *endpoint) int {
	if e.path.limit.Load() != 0 {
		return sa.fits(e)
	}
	return t.mtu.get(t.inside, t.now)
}

// pad returns packet with zeros behind it up to n octets, in a buffer that is valid
// until the next call: behind the packet itself is the next segment.
func (t *transmitter) pad(packet []byte, n int) []byte {
	b := t.room(n)
	clear(b[copy(b, packet):])
	return b
}

// room is n octets, and what Seal needs behind them, that are valid until the next
// call.
func (t *transmitter) room(n int) []byte {
	if t.scratch == nil {
		t.scratch = make([]byte, maxPacket+esp.TrailerRoom)
	}
	return t.scratch[:n]
}

// dummies sends what SAs have to send that were silent, and returns when it is to be
// called again, the zero time for never.
func (t *transmitter) dummies(list []*outboundSA, now time.Time) (next time.Time) {
	for _, sa := range list {
		if sa.hidden.sent.due(now, sa.hidden.Fill) {
			t.dummy(sa, now)
		}
		due := sa.hidden.sent.at().Add(sa.hidden.Fill)
		if next.IsZero() || due.Before(next) {
			next = due
		}
	}
	if soon := now.Add(dummyPause); !next.IsZero() && next.Before(soon) {
		return soon
	}
	return next
}

// dummy sends one dummy packet.
func (t *transmitter) dummy(sa *outboundSA, now time.Time) {
	e := sa.endpoint.Load()
	e.limit(t.socket.probes, now)
	n := t.padTo(sa, e)
	if n == 0 {
		most := min(t.fits(sa, e), mostDummy)
		n = leastDummy + rand.IntN(max(1, most-leastDummy+1))
	}
	if t.sealPadded(sa, sa.outer.dummy(e), esp.NextHeaderNone, t.pad(nil, n)) {
		sa.unseen.packets++
		sa.unseen.bytes += uint64(n)
		sa.dummies.Add(1)
	}
}

// dummy is the outer header of a dummy packet: that of a packet without a class
// whose length does not matter.
func (r *outerRule) dummy(e *endpoint) outerHeader { return outerHeader{to: e, class: r.set} }
