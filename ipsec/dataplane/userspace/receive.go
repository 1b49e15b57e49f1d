package userspace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/esp"
)

const (
	// minESP is the least that is looked at of a datagram, in octets: SPI and
	// sequence number.
	minESP = 8

	// receivePause is how long a socket that cannot be read, for want of memory
	// or another reason that may pass, is left alone.
	receivePause = 20 * time.Millisecond
)

// receiver moves packets from sockets, which it serves in turn, or from all streams, to
// the interface: receive, find the SA, open in place, check, merge, write, all in one
// goroutine.
type receiver struct {
	plane   *Plane
	intake  *intake // nil for streams
	socket  *socket
	merger  *merger   // the last one that was used
	mergers []*merger // of each inside
	inner   inner
	now     time.Time
	rebuilt rebuilt

	sa     *inboundSA // of the last packet: held, and its counters are to be published
	moved  bool       // the slab at hand came from another address than sa's
	in     *inbox     // nil for streams
	at     int        // which message of it
	source *[unix.SizeofSockaddrInet6]byte
	stream streamPath // where packets come from that are not of a socket
	class  uint8      // of the outer header
	way    way        // likewise
	forged int        // packets of the stream whose integrity check failed

	unknownRaised time.Time
}

// newReceiver makes one that writes to the interface, and to those of labels, as one worker
// does.
func newReceiver(p *Plane, from *intake, in *inbox, worker int) *receiver {
	all := p.mergers(worker)
	return &receiver{plane: p, intake: from, socket: p.socket, merger: all[0], mergers: all, in: in}
}

// run serves the sockets, and parks in the poller when there is nothing in any.
func (r *receiver) run() {
	for !r.plane.stop.Load() {
		if err := r.round(); err != nil {
			r.plane.fail(fmt.Errorf("wait for the network: %w", err))
			return
		}
	}
}

// round gives each socket in which something waits its turn, of one batch.
func (r *receiver) round() error {
	from := r.intake
	if len(from.ready) > 0 {
		from.look()
	} else if err := from.wait(); err != nil {
		return err
	}
	left := from.ready[:0]
	for _, socket := range from.ready {
		if r.turn(socket) {
			left = append(left, socket)
		} else if err := from.rearm(socket); err != nil {
			return err
		}
	}
	from.ready = left
	return nil
}

// turn takes a batch and reports whether more may wait.
func (r *receiver) turn(socket int) (more bool) {
	in := r.in
	in.fd = socket
	more = in.receive()
	switch in.errno {
	case 0:
		r.batch()
	case unix.EAGAIN, unix.EINTR, unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH:
		// Nothing, or an earlier send's ICMP error.
	default:
		r.plane.stats.receiveErrors.Add(1)
		time.Sleep(receivePause)
	}
	return more
}

// batch handles what one receive call brought.
func (r *receiver) batch() {
	in := r.in
	r.now = time.Now()
	for i := range in.n {
		r.publish()
		r.source, r.at = &in.names[i], i
		if in.raw != nil {
			r.rawMessage(i)
		} else {
			r.slab(i)
		}
	}
	r.finish()
}

// finish ends a batch, whose memory is about to be used again.
func (r *receiver) finish() {
	r.publish()
	for _, m := range r.mergers {
		m.flushAll()
	}
	r.rebuilt.reset()
	r.plane.receiveLatency.Observe(time.Since(r.now))
}

// slab handles the datagrams of one message: all from one source with one
// traffic class, equal in length but for the last.
func (r *receiver) slab(i int) {
	n := r.in.messages[i].n
	info := &r.in.said[i]
	size := info.segment
	if size <= 0 {
		size = int(n)
	}
	if r.class, r.way.n, r.way.lost = info.class, 0, false; info.way {
		r.way.received(r.in.control(i), r.in.truncated(i))
	}
	for b := r.in.slabs[i][:n]; len(b) > 0; {
		n := min(size, len(b))
		r.datagram(b[:n:n])
		b = b[n:]
	}
}

// datagram tells keepalives, IKE and ESP apart (RFC 3948, Section 2).
func (r *receiver) datagram(b []byte) {
	if len(b) < minESP {
		if len(b) != 1 || b[0] != keepAlive[0] {
			r.plane.stats.malformed.Add(1)
		}
		return
	}
	spi := binary.BigEndian.Uint32(b)
	if spi == 0 {
		r.ike(b[len(nonESPMarker):])
		return
	}
	r.protected(spi, b)
}

// protected takes an ESP packet to its SA, and reports whether there is one.
func (r *receiver) protected(spi uint32, b []byte) bool {
	if r.sa == nil || r.sa.spi != spi {
		sa := r.plane.inbound.get(spi)
		if sa == nil {
			r.plane.stats.unknownSPI.Add(1)
			r.announceUnknown(spi)
			return false
		}
		r.publish()
		sa.moving.Lock()
		r.sa, r.moved = sa, !r.from(sa.endpoint.Load())
	}
	r.open(r.sa, b)
	return true
}

// from reports whether the packets at hand come from the remote of e. Between ESP in
// IP itself and in UDP no NAT has changed them, so that they tell of no move.
func (r *receiver) from(e *endpoint) bool {
	switch {
	case r.stream.set:
		return e.tcp && e.local == r.stream.local && e.remote == r.stream.remote
	case e.native() != (r.in.raw != nil):
		return true // some send the one although the other was agreed
	}
	return e.samePeer(r.source)
}

func (r *receiver) ike(b []byte) {
	deliver := r.plane.deliver.Load()
	if deliver == nil {
		return
	}
	(*deliver)(dataplane.IKEDatagram{Local: r.arrivedAt(), Remote: addrPort(r.source[:]), Data: b})
}

// arrivedAt is the address and port that the slab at hand was sent to.
func (r *receiver) arrivedAt() netip.AddrPort {
	local := parseControl(r.in.control(r.at), true).local
	if r.in.raw != nil {
		return netip.AddrPortFrom(local, 0)
	}
	if !local.IsValid() {
		local = r.socket.local.Addr()
	}
	return netip.AddrPortFrom(local, r.socket.local.Port())
}

// announceUnknown reports a packet for an SA that is not there: its sender may
// not know that this host has begun anew.
func (r *receiver) announceUnknown(spi uint32) {
	if r.now.Sub(r.unknownRaised) < eventInterval {
		return
	}
	e := dataplane.Event{Kind: dataplane.UnknownSPI, SPI: spi, Direction: dataplane.Inbound}
	r.tellPath(&e)
	if r.plane.raise(e) {
		r.unknownRaised = r.now
	}
}

// open takes one ESP packet of sa through RFC 4301, Section 5.2.
func (r *receiver) open(sa *inboundSA, b []byte) {
	if sa.over.Load() {
		sa.expired = true
	}
	if sa.expired {
		r.plane.stats.expired.Add(1)
		sa.expire(r.plane, r.now)
		return
	}
	packet, err := sa.open(b, r.takesAH())
	if err != nil {
		r.refuse(sa, err)
		return
	}
	if !sa.proved {
		sa.proved = r.plane.raise(sa.event(dataplane.FirstInbound))
	}
	if r.moved && packet.Sequence == sa.highest() {
		r.announceMove(sa)
	}
	if sa.transport {
		r.acceptTransport(sa, packet)
	} else {
		r.acceptTunnel(sa, packet)
	}
}

func (r *receiver) refuse(sa *inboundSA, err error) {
	switch {
	case errors.Is(err, esp.ErrReplayed):
		sa.replayDrops.Add(1)
	case errors.Is(err, esp.ErrAuthentication):
		sa.authFailures.Add(1)
		r.forged++
	default:
		r.plane.stats.malformed.Add(1)
	}
}

// tellPath writes down how the packet at hand came.
func (r *receiver) tellPath(e *dataplane.Event) {
	if r.stream.set {
		e.Local, e.Remote, e.TCP = r.stream.local, r.stream.remote, true
		return
	}
	e.Local, e.Remote = r.arrivedAt(), addrPort(r.source[:])
}

// announceMove reports that the peer sends from another address. Only the
// newest packet of an SA speaks for it, lest one that was delayed on the old
// path turn it back (RFC 7296, Section 2.23).
func (r *receiver) announceMove(sa *inboundSA) {
	if r.now.Sub(sa.mappingRaised) < moveInterval {
		return
	}
	e := sa.event(dataplane.MappingChanged)
	r.tellPath(&e)
	if r.plane.raise(e) {
		sa.mappingRaised = r.now
	}
}

// acceptTunnel checks what was in a packet of tunnel mode and passes it on.
func (r *receiver) acceptTunnel(sa *inboundSA, packet esp.Packet) {
	switch packet.NextHeader {
	case esp.NextHeaderIPv4, esp.NextHeaderIPv6:
	case esp.NextHeaderNone:
		r.plane.stats.dummy.Add(1)
		sa.dummies.Add(1)
		return
	default:
		r.plane.stats.malformed.Add(1)
		return
	}
	in := &r.inner
	if !in.parse(packet.Payload) || in.v6 != (packet.NextHeader == esp.NextHeaderIPv6) {
		r.plane.stats.malformed.Add(1)
		return
	}
	r.accept(sa, packet.Payload[:in.length:in.length])
}

// accept passes on the packet that inner was parsed from, if it is one of the SA.
func (r *receiver) accept(sa *inboundSA, inside []byte) {
	in := &r.inner
	if !sa.selectors.inbound(&in.flow) {
		sa.selectorDrops.Add(1)
		return
	}
	if r.class&3 != ecnNotECT && !sa.transport && !mergeECN(r.class, inside, in.v6) {
		r.plane.stats.congestion.Add(1)
		return
	}
	if in.tcpSYN(inside) && !r.plane.keepMSS {
		r.clamp(sa, inside)
	}
	if sa.count(in.length) {
		sa.expire(r.plane, r.now)
	}
	r.mergerFor(sa).add(inside, in)
}

// clamp makes a connection that the peer's side opens keep to the MTU of the way
// back, which is the peer's address.
func (r *receiver) clamp(sa *inboundSA, b []byte) {
	m := r.mergerFor(sa)
	mtu := m.mtu.get(m.inside, r.now)
	if e := sa.endpoint.Load(); e.limit(r.socket.probes, r.now) != 0 {
		mtu = min(mtu, fits(&sa.config, e))
	}
	clampMSS(b, &r.inner, mtu)
}

// publish makes the counters of the SA last used visible, and lets go of it.
func (r *receiver) publish() {
	if r.sa == nil {
		return
	}
	r.sa.publish(r.now)
	r.sa.missing.Store(r.sa.lost())
	r.sa.moving.Unlock()
	r.sa = nil
}
