package userspace

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/esp"
)

const (
	// readsBeforeFlush bounds how long a packet of a quiet peer waits while
	// busy ones keep the interface readable.
	readsBeforeFlush = 128

	// turnReads and turnOctets bound what is taken of a queue while others wait.
	turnReads  = 64
	turnOctets = 1 << 18

	// maxPacket is the greatest super-packet, in octets.
	maxPacket = 65536
)

// transmitter moves packets from queues of the interface to the network: read, find
// policy and SA, seal, send, all in one goroutine.
type transmitter struct {
	plane     *Plane
	inside    *inside
	worker    int // which one of it it is
	intake    *intake
	queue     int // the one of it whose turn it is
	socket    *socket
	lanes     *lanes
	arrived   atomic.Bool // an outbound SA came: packets may wait for it
	cache     spdCache
	inner     inner
	segmenter segmenter
	gathered  gathered
	reads     int       // since the last flush
	now       time.Time // when the batch at hand began
	control   control
	mtu       interfaceMTU
	padding   int    // to how many octets the packets at hand are padded, 0 for not
	scratch   []byte // for one packet, nil until it is needed
	fragment  []byte // for one fragment, likewise
	lead      lead
	identity  uint16 // of the last IPv4 header that was written
	identity6 uint32 // of the IPv6 packet that is cut
	timed     bool   // a deadline may be set
	kept      kept
	joins     joins
	whole     bool // the packet at hand came in fragments

	buf   []byte
	n     int // of the last read
	errno unix.Errno
}

func newTransmitter(p *Plane, in *inside, worker int) *transmitter {
	intake := in.device.intakes[worker]
	t := &transmitter{
		plane: p, inside: in, worker: worker, intake: intake, queue: intake.queues[0], socket: p.socket, lanes: p.lanesOf(in, worker), now: time.Now(),
		kept: kept{of: map[*child]*waiting{}},
	}
	t.buf = make([]byte, vnetHeaderLen+maxPacket+esp.TrailerRoom)
	return t
}

func (t *transmitter) read() {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(t.queue), uintptr(unsafe.Pointer(&t.buf[0])), uintptr(vnetHeaderLen+maxPacket))
	t.n, t.errno = int(n), errno
}

// run drains the interface before it sends, so that what is waiting leaves in
// as few sends as possible, and parks in the poller when nothing is left.
func (t *transmitter) run() {
	in := t.intake
	for !t.plane.stop.Load() {
		if len(in.ready) > 0 {
			in.look()
		} else {
			t.flushAll()
			if err := t.park(); err != nil {
				t.plane.fail(fmt.Errorf("wait for interface %s: %w", t.inside.device.name, err))
				return
			}
		}
		if t.arrived.Load() {
			t.sendKept()
		}
		if err := t.round(); err != nil {
			t.flushAll()
			t.plane.fail(fmt.Errorf("read interface %s (did somebody remove it?): %w", t.inside.device.name, err))
			return
		}
	}
}

// round gives each queue that is ready its turn.
func (t *transmitter) round() error {
	in := t.intake
	left := in.ready[:0]
	for i, queue := range in.ready {
		t.queue = queue
		more, err := t.turn()
		if err != nil {
			return err
		}
		if more {
			left = append(left, queue)
			continue
		}
		if len(left) == 0 && i == len(in.ready)-1 {
			t.flushAll() // before what comes next wakes somebody
		}
		if err := in.rearm(queue); err != nil {
			return err
		}
	}
	in.ready = left
	return nil
}

// turn takes what waits in a queue, or as much of it as there is in a turn: then there
// may be more.
func (t *transmitter) turn() (more bool, err error) {
	octets := 0
	for reads := 0; reads < turnReads && octets < turnOctets; reads++ {
		t.read()
		if t.arrived.Load() { // before what was just read, to keep the order
			t.sendKept()
		}
		switch t.errno {
		case 0:
			octets += t.n
			t.take(t.buf[:t.n])
		case unix.EAGAIN:
			return false, nil
		case unix.EINTR:
		default:
			return false, t.errno
		}
	}
	return true, nil
}

// park waits for a packet, or until dummy packets are to be sent. On return there may
// be none.
func (t *transmitter) park() error {
	list := t.filled()
	if list != nil || t.timed {
		var next time.Time
		if list != nil {
			t.now = time.Now()
			next = t.dummies(*list, t.now)
			t.flushGroups()
		}
		if err := t.intake.setDeadline(next); err != nil {
			return err
		}
		// Close and Apply set a deadline too, after what is looked at here.
		if t.timed = !next.IsZero(); t.plane.stop.Load() || t.arrived.Load() || t.filled() != list {
			return nil
		}
	}
	err := t.intake.wait()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.timed = true // to set another, or none
		return nil
	}
	return err
}

// take handles what one read brought. The first of a batch says what time it is
// for all.
func (t *transmitter) take(b []byte) {
	if t.reads == 0 {
		t.now = time.Now()
	}
	t.process(b)
	if t.reads++; t.reads >= readsBeforeFlush {
		t.flushAll()
		if list := t.filled(); list != nil { // the interface may never be empty
			t.dummies(*list, t.now)
		}
	}
}

// process handles one packet or super-packet with its vnet header.
func (t *transmitter) process(b []byte) {
	if len(b) < vnetHeaderLen {
		t.plane.stats.outMalformed.Add(1)
		return
	}
	h, packet := parseVnetHeader(b), b[vnetHeaderLen:]
	if !t.inner.parse(packet) {
		t.plane.stats.outMalformed.Add(1)
		return
	}
	if t.inner.fragment && t.joined(nil, packet) {
		return
	}
	sa := t.find(&t.inner, b)
	if sa == nil || t.inner.fragment && t.joined(sa, packet) {
		return
	}
	e := sa.endpoint.Load()
	if t.looped(e) {
		t.plane.stats.loops.Add(1)
		return
	}
	at, next, err := t.inner.payload(sa, packet)
	if err != nil {
		t.plane.stats.unfit.Add(1)
		return
	}
	limit := e.limit(t.socket.probes, t.now)
	if limit != 0 && t.tooBig(sa, e, h, packet, at) {
		t.plane.stats.tooBig.Add(1)
		return
	}
	t.padding = t.padTo(sa, e)
	outer := sa.outer.header(e, packet, t.inner.v6)
	way := at > t.inner.plainLen()
	if way {
		if outer.to = t.ownHeader(e); outer.to == nil {
			t.plane.stats.unfit.Add(1)
			return
		}
	}
	if h.gsoType == unix.VIRTIO_NET_HDR_GSO_NONE {
		if !t.finish(h, sa, e, packet, limit) {
			return
		}
		if way {
			t.leadWith(outer, e, packet, at)
		}
		t.seal(sa, outer, next, packet[at:])
	} else {
		if !t.segmenter.start(h, packet) {
			t.plane.stats.outMalformed.Add(1)
			return
		}
		for segment := t.segmenter.next(); segment != nil; segment = t.segmenter.next() {
			if way {
				t.leadWith(outer, e, segment, at)
			}
			t.seal(sa, outer, next, segment[at:])
		}
	}
	if way {
		t.lead.buf = t.lead.buf[:0]
	}
}

// finish completes a packet that is no super-packet, and reports whether it can be.
func (t *transmitter) finish(h vnetHeader, sa *outboundSA, e *endpoint, packet []byte, limit int) bool {
	if h.needsChecksum && !completeChecksum(h, packet) {
		t.plane.stats.outMalformed.Add(1)
		return false
	}
	if t.inner.tcpSYN(packet) && !t.plane.keepMSS {
		mtu := t.mtu.get(t.inside, t.now)
		if limit != 0 {
			mtu = min(mtu, sa.fits(e))
		}
		clampMSS(packet, &t.inner, mtu)
	}
	return true
}

// find returns the SA for an outbound packet, b as it was read. Where there is none it
// counts the drop, or keeps the packet and asks for one if a policy wants it (RFC 4301,
// Section 5.1).
func (t *transmitter) find(packet *inner, b []byte) *outboundSA {
	f := &packet.flow
	p := t.cache.lookup(t.inside.spd.Load(), f, packet.dscp)
	if p == nil {
		t.plane.stats.noPolicy.Add(1)
		return nil
	}
	c := p.child
	sa := c.carrier(t.worker)
	if sa != nil && (!sa.narrow.Load() || sa.selectors.outbound(f)) {
		return sa
	}
	if c.discards.Load() {
		t.plane.stats.discarded.Add(1)
		return nil
	}
	if sa != nil {
		t.plane.stats.noSA.Add(1)
	} else {
		t.keep(c, b)
		if now := time.Now(); c.acquired.since(now, eventInterval) &&
			t.plane.raise(dataplane.Event{
				Kind: dataplane.Acquire, Tunnel: c.tunnel, Child: c.name, Source: f.src.addr(), Destination: f.dst.addr(),
			}) {
			c.acquired.set(now)
		}
	}
	return nil
}

// looped reports whether the packet at hand is one that the plane itself sent to
// e, or of the connection to there: a route leads the peer's outer address into
// the tunnel.
func (t *transmitter) looped(e *endpoint) bool {
	f := &t.inner.flow
	if e.native() && (f.protocol == protoESP || f.protocol == protoAH) {
		return f.dst == e.address
	}
	if e.tcp {
		return f.protocol == protoTCP && f.hasPorts && f.dst == e.address && f.dstPort == e.remote.Port() && f.srcPort == e.local.Port()
	}
	return f.srcPort == t.socket.local.Port() && f.protocol == protoUDP && f.hasPorts &&
		f.dst == e.address && f.dstPort == e.remote.Port()
}

// seal adds the ESP packet for one inner packet to a group, padded if it is to be.
// Behind packet there are at least esp.TrailerRoom octets of the read buffer.
func (t *transmitter) seal(sa *outboundSA, outer outerHeader, next uint8, packet []byte) {
	n := t.padding - len(packet)
	if t.tooLong(sa, outer.to, packet) {
		t.sealFragments(sa, outer, next, packet)
	} else if n <= 0 || sa.ah != nil {
		t.sealPadded(sa, outer, next, packet)
	} else if t.sealPadded(sa, outer, next, t.pad(packet, t.padding)) {
		sa.unseen.bytes += uint64(n)
	}
}

// sealPadded reports whether the packet was sealed.
func (t *transmitter) sealPadded(sa *outboundSA, outer outerHeader, next uint8, packet []byte) bool {
	t.hold(sa)
	if sa.over.Load() {
		sa.expired = true
	}
	var err error
	if !sa.expired {
		g := t.group(outer, sa.sealedLen(outer.to, len(packet))+len(t.lead.buf))
		if g.buf, err = t.protect(sa, outer, g.buf, packet, next); err == nil {
			g.add(sa)
			if sa.count(len(packet)) {
				sa.expire(t.plane, t.now)
			}
			return true
		}
	}
	sa.expired = sa.expired || errors.Is(err, esp.ErrSequenceExhausted)
	if sa.expired {
		sa.expire(t.plane, t.now)
	}
	t.plane.stats.expired.Add(1)
	sa.waiting--
	t.letGo()
	return false
}

// flushAll ends a batch.
func (t *transmitter) flushAll() {
	if t.reads == 0 {
		return
	}
	t.reads = 0
	t.flushGroups()
	t.plane.transmitLatency.Observe(time.Since(t.now))
}
