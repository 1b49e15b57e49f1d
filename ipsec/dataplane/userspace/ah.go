package userspace

import (
	"encoding/binary"
	"math/rand/v2"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/esp"
)

// AH (RFC 4302) covers the outer IP header, which the transmitter therefore writes
// itself, so that no kernel fragments the packet. In tunnel mode what is too long is
// fragmented before AH; transport mode protects whole packets alone, and what it makes of
// them is fragmented here (Section 3.3.4). Or its sender is told.

// open checks and opens a packet: of AH with its IP header, of ESP without. In
// transport mode the payload of AH is the whole packet, but for the AH.
func (sa *inboundSA) open(b []byte, ah bool) (esp.Packet, error) {
	if ah != (sa.ah != nil) {
		return esp.Packet{}, esp.ErrMalformed
	}
	if !ah {
		return sa.esp.Open(b)
	}
	p, err := sa.ah.Open(b)
	if sa.transport {
		p.Payload = p.Whole
	}
	return esp.Packet{Payload: p.Payload, NextHeader: p.NextHeader, Sequence: p.Sequence}, err
}

// highest and lost are of the replay window.
func (sa *inboundSA) highest() uint64 {
	if sa.ah != nil {
		return sa.ah.Highest()
	}
	return sa.esp.Highest()
}

func (sa *inboundSA) lost() uint64 {
	if sa.ah != nil {
		return sa.ah.Missing()
	}
	return sa.esp.Missing()
}

// fragmentsFirst reports whether what is too long for the path is fragmented before it
// is protected: no kernel fragments AH, nor to less than it believes to pass.
func (sa *outboundSA) fragmentsFirst(e *endpoint) bool { return sa.ah != nil || e.path.hole.Load() }

// fragmentsLater reports whether what carries a packet that this host has put together
// from fragments may be fragmented itself.
func (sa *outboundSA) fragmentsLater(e *endpoint) bool {
	return sa.ah != nil && sa.transport || !sa.fragmentsFirst(e)
}

// fragments reports whether a packet that is too long for e passes in fragments: of the
// outer packet, or of itself.
func (sa *outboundSA) fragments(e *endpoint, packet []byte, v6 bool) bool {
	if sa.fragmentsFirst(e) {
		return (sa.ah != nil || !sa.transport) && mayFragment(packet, v6)
	}
	return mayFragment(packet, v6) || sa.outer.df == dataplane.DFClear
}

// sealedLen is how long the packet to e for a payload of n octets becomes; of AH with
// its outer header.
func (sa *outboundSA) sealedLen(e *endpoint, n int) int {
	if sa.ah == nil {
		return sa.esp.SealedLen(n)
	}
	n += esp.AHLen(sa.config.Suite, e.remote.Addr().Is6())
	if !sa.transport {
		n += e.headerLen()
	}
	return n
}

// tooLong reports whether a packet has to be fragmented before it is protected.
func (t *transmitter) tooLong(sa *outboundSA, e *endpoint, packet []byte) bool {
	return sa.fragmentsFirst(e) && !sa.transport && e.path.limit.Load() != 0 && len(packet) > sa.fits(e) && sa.fragments(e, packet, t.inner.v6)
}

// sealFragments is seal for such a packet.
func (t *transmitter) sealFragments(sa *outboundSA, outer outerHeader, next uint8, packet []byte) {
	most := sa.fits(outer.to)
	header := int(packet[0]&15) * 4
	for at := header; at < len(packet); {
		var b []byte
		b, at = t.nextFragment(packet, header, at, most)
		if b == nil || !t.sealPadded(sa, outer, next, b) {
			return
		}
	}
}

// nextFragment returns the fragment, of at most most octets, whose payload begins at
// an offset in an IPv4 packet with such a header, and where the next one's begins (RFC
// 791, Section 3.2). It is valid until the next call, and nil if most is too little.
func (t *transmitter) nextFragment(packet []byte, header, at, most int) (b []byte, next int) {
	n := len(packet) - at
	last := n <= most-header
	if !last {
		n = (most - header) &^ 7
	}
	if n <= 0 {
		return nil, len(packet)
	}
	if t.fragment == nil {
		t.fragment = make([]byte, maxPacket)
	}
	b = t.fragment[:header+n]
	copy(b, packet[:header])
	copy(b[header:], packet[at:])
	if at > header {
		withoutUncopied(b[ipv4HeaderLen:header])
	}
	field := binary.BigEndian.Uint16(packet[6:]) + uint16((at-header)/8)
	if !last {
		field |= 0x2000 // more fragments
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[6:], field)
	setHeaderChecksum(b[:header])
	return b, at + n
}

// nextFragment6 is nextFragment for an IPv6 packet, of which header is with the headers for
// the way, and field where they tell the protocol of what follows (RFC 8200, Section 4.5).
func (t *transmitter) nextFragment6(packet []byte, header, field, at, most int) (b []byte, next int) {
	n, room := len(packet)-at, most-header-ipv6FragmentLen
	last := n <= room
	if !last {
		n = room &^ 7
	}
	if n <= 0 {
		return nil, len(packet)
	}
	if t.fragment == nil {
		t.fragment = make([]byte, maxPacket)
	}
	b = t.fragment[:header+ipv6FragmentLen+n]
	copy(b, packet[:header])
	copy(b[header+ipv6FragmentLen:], packet[at:])
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ipv6HeaderLen))
	b[field] = protoFragment
	offset := uint16(at - header)
	if !last {
		offset |= 1
	}
	h := b[header:]
	h[0], h[1] = packet[field], 0
	binary.BigEndian.PutUint16(h[2:], offset)
	binary.BigEndian.PutUint32(h[4:], t.identity6)
	return b, at + n
}

// sendOwn sends a packet that brings its IP header, in fragments if it is too long and may
// be fragmented: in IPv6 only what this host itself had made fragments of comes to this
// length.
func (t *transmitter) sendOwn(e *endpoint, packet []byte, wait bool) unix.Errno {
	limit, v6 := int(e.path.limit.Load()), packet[0]>>4 == 6
	most := limit + e.headerLen()
	if limit == 0 || len(packet) <= most || !v6 && !mayFragment(packet, false) {
		return e.raw.sendWait(e, packet, &t.control, wait)
	}
	header, field, _ := wayHeaders(packet)
	t.identity6 = rand.Uint32() // RFC 7739
	for at := header; at < len(packet); {
		var b []byte
		if v6 {
			b, at = t.nextFragment6(packet, header, field, at, most)
		} else {
			b, at = t.nextFragment(packet, header, at, most)
		}
		if b == nil {
			return unix.EMSGSIZE
		}
		if errno := e.raw.sendWait(e, b, &t.control, wait); errno != 0 {
			return errno // the others would be of no use
		}
	}
	return 0
}

// protect appends the protected packet to dst.
func (t *transmitter) protect(sa *outboundSA, outer outerHeader, dst, packet []byte, next uint8) ([]byte, error) {
	if sa.ah == nil {
		if len(t.lead.buf) > 0 {
			return t.sealBehind(sa, dst, packet, next)
		}
		return sa.esp.Seal(dst, packet, next)
	}
	if !sa.transport {
		e := outer.to
		b := t.room(e.headerLen() + len(packet))
		copy(b[e.headerLen():], packet)
		writeHeader(b, outer, next, e.local.Addr(), e.remote.Addr())
		packet = b
	}
	// Where there is no identification the kernel would write one, which AH
	// covers, behind our back.
	if packet[0]>>4 == 4 {
		t.identify(packet)
	}
	return sa.ah.Seal(dst, packet)
}
