package userspace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/internal/checksum"
	"github.com/swanherd/swanherd/ipsec/esp"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// Transport mode (RFC 4301, Section 4.1; RFC 4303, Section 3.1.1) protects what this
// host itself says to its peer: a route leads those packets into the interface, and
// what arrived comes out of it. The IP header is made anew for the outer packet, and
// at the other end from that one.

// rebuiltLen is how much a batch of received packets can need before it is written
// out early, in octets.
const rebuiltLen = 1 << 18

// rebuilt holds the packets of transport mode that were given a new IP header, until
// the end of a batch.
type rebuilt struct{ buf []byte }

func (x *rebuilt) reset() { x.buf = x.buf[:0] }

// checkTransport: the traffic is between the outer addresses and nobody else's.
func checkTransport(c *dataplane.SA) error {
	if err := checkHost("local", c.LocalTS, c.Local.Addr()); err != nil {
		return err
	}
	return checkHost("remote", c.RemoteTS, c.Remote.Addr())
}

func checkHost(side string, selectors []ts.Selector, outer netip.Addr) error {
	outer = outer.Unmap()
	if !outer.IsValid() || outer.IsUnspecified() {
		return fmt.Errorf("transport mode: the %s outer address must be known", side)
	}
	for _, s := range selectors {
		if s.First != outer || s.Last != outer {
			return fmt.Errorf("transport mode: %s selector %s is not of the outer address %s: use tunnel mode", side, s, outer)
		}
	}
	return nil
}

// errUnfit: transport mode of this plane cannot carry the packet.
var errUnfit = errors.New("packet is a fragment that belongs to no other, has options that are malformed or a route that is not over, or nobody writes its headers")

// payload returns where what ESP is to protect begins in an outbound packet, and its
// protocol: in tunnel mode, and for AH, the whole packet.
//
// In transport mode ESP comes before all that is for the last destination alone. Fragments
// do not go in transport mode (RFC 4303, Section 3.3.4): see joins.
func (in *inner) payload(sa *outboundSA, b []byte) (at int, protocol uint8, err error) {
	whole, header, next := uint8(esp.NextHeaderIPv4), ipv4HeaderLen, b[9]
	if in.v6 {
		whole, header, next = esp.NextHeaderIPv6, ipv6HeaderLen, b[6]
	}
	switch {
	case !sa.transport:
		return 0, whole, nil
	case in.fragment:
		return 0, 0, errUnfit
	case in.v6 && (next == protoHopByHop || next == protoRouting || next == protoDestOpts), !in.v6 && b[0]&15 != ipv4HeaderLen/4:
		var field int
		var ok bool
		if header, field, ok = wayHeaders(b); !ok {
			return 0, 0, errUnfit
		}
		next = b[field]
	}
	if sa.ah != nil {
		return 0, whole, nil
	}
	return header, next, nil
}

// plainLen is the length of an IP header without headers for the way.
func (in *inner) plainLen() int {
	if in.v6 {
		return ipv6HeaderLen
	}
	return ipv4HeaderLen
}

// acceptTransport checks what was in a packet of transport mode and passes it on.
func (r *receiver) acceptTransport(sa *inboundSA, packet esp.Packet) {
	b := packet.Payload
	if sa.ah == nil {
		if packet.NextHeader == esp.NextHeaderNone {
			r.plane.stats.dummy.Add(1)
			sa.dummies.Add(1)
			return
		}
		b = r.rebuild(sa, packet)
	}
	if b == nil || !r.inner.parse(b) {
		r.plane.stats.malformed.Add(1)
		return
	}
	if sa.config.Translated {
		r.inner.renewChecksum(b)
	}
	r.accept(sa, b[:r.inner.length:r.inner.length])
}

// rebuild puts an IP header before a payload: that of the outer packet, whose
// addresses are those of the SA, with its headers for the way. It returns nil if there is
// no such packet.
func (r *receiver) rebuild(sa *inboundSA, packet esp.Packet) []byte {
	source, destination := sa.config.Remote.Addr().Unmap(), sa.config.Local.Addr().Unmap()
	header := ipv4HeaderLen
	if source.Is6() {
		header = ipv6HeaderLen
	}
	header += r.way.n
	n := header + len(packet.Payload)
	if n > maxPacket-1 || r.way.lost {
		return nil
	}
	if r.rebuilt.buf == nil {
		r.rebuilt.buf = make([]byte, 0, rebuiltLen)
	}
	if len(r.rebuilt.buf)+n > rebuiltLen {
		r.merger.flushAll()
		r.rebuilt.reset()
	}
	start := len(r.rebuilt.buf)
	r.rebuilt.buf = r.rebuilt.buf[:start+n]
	b := r.rebuilt.buf[start:]
	copy(b[header:], packet.Payload)
	writeHeader(b, outerHeader{class: r.class}, packet.NextHeader, source, destination)
	r.way.put(b, packet.NextHeader)
	return b
}

// renewChecksum makes the checksum anew that covers addresses of b, which was parsed
// into in. The integrity check has vouched for the octets.
func (in *inner) renewChecksum(b []byte) {
	t, field := b[in.transport:in.length], 0
	switch {
	case in.fragment:
		return
	case in.protocol == protoTCP && len(t) >= 20:
		field = 16
	case in.protocol == protoUDP && len(t) >= udpHeaderLen && (t[6] != 0 || t[7] != 0): // zero: it has none
		field = 6
	case in.protocol == protoICMPv6 && len(t) >= icmpHeaderLen:
		field = 2
	default:
		return
	}
	t[field], t[field+1] = 0, 0
	pseudo := checksum.PseudoIPv4
	if in.v6 {
		pseudo = checksum.PseudoIPv6
	}
	sum := ^checksum.Fold(checksum.Add(t, pseudo(b, in.protocol, len(t))))
	if sum == 0 && in.protocol == protoUDP {
		sum = 0xffff // RFC 768
	}
	binary.BigEndian.PutUint16(t[field:], sum)
}

// hopLimit is that of headers which this plane writes.
const hopLimit = 64

// writeHeader makes the first octets of b an IP header for all of b. In IPv4 it has
// no identification: the caller gives it one if b may be fragmented.
func writeHeader(b []byte, h outerHeader, protocol uint8, source, destination netip.Addr) {
	if source.Is6() {
		clear(b[:8])
		b[0], b[1] = 0x60|h.class>>4, h.class<<4
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ipv6HeaderLen))
		b[6], b[7] = protocol, hopLimit
		from, to := source.As16(), destination.As16()
		copy(b[8:], from[:])
		copy(b[24:], to[:])
		return
	}
	clear(b[:12])
	b[0], b[1] = 0x45, h.class
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	if !h.fragment {
		b[6] = 0x40
	}
	b[8], b[9] = hopLimit, protocol
	from, to := source.As4(), destination.As4()
	copy(b[12:], from[:])
	copy(b[16:], to[:])
	setHeaderChecksum(b[:ipv4HeaderLen])
}

// setHeaderChecksum is of an IPv4 header.
func setHeaderChecksum(h []byte) {
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], ^checksum.Fold(checksum.Add(h, 0)))
}
