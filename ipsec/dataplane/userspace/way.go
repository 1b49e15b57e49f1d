package userspace

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane/internal/checksum"
	"github.com/swanherd/swanherd/ipsec/esp"
)

// What is read on the way to the peer stays before ESP and AH: options of IPv4, and of
// IPv6 what hop-by-hop options and a routing header end (RFC 4303 and 4302, Section
// 3.1.1). A packet of transport mode that has such headers goes out with its own IP header
// by the socket that sends AH, whatever it is protected by, and is cut here: a header that
// the kernel writes would get further entries where options record who it passed. At the
// other end the kernel tells what came.

// maxWay bounds the IPv6 headers for the way of a packet that is received, in octets.
const maxWay = 352

// wayHeaders returns where the headers for the way of a packet end, and where the protocol
// of what follows is written. The packet was parsed, or is one that was made here. It is not
// ok if options are malformed, or a route is not over: then the peer is not its destination.
func wayHeaders(b []byte) (end, next int, ok bool) {
	if b[0]>>4 == 4 {
		end = int(b[0]&15) * 4
		return end, 9, arrived4(b[ipv4HeaderLen:end])
	}
	end, next = ipv6HeaderLen, 6
	for at, field := end, next; ; {
		switch protocol := b[field]; protocol {
		case protoRouting, protoHopByHop, protoDestOpts:
			if protocol == protoRouting && b[at+3] != 0 { // Segments Left
				return 0, 0, false
			}
			field, at = at, at+8+int(b[at+1])*8
			if protocol != protoDestOpts { // else for the destination, unless one of the others follows
				end, next = at, field
			}
		default:
			return end, next, true
		}
	}
}

// Options of IPv4 (RFC 791, Section 3.1).
const (
	optionEnd         = 0
	optionNone        = 1
	optionLooseRoute  = 131
	optionStrictRoute = 137
	optionCopied      = 0x80 // into all fragments
)

// eachOption calls f with every option but padding, and reports whether all are well-formed.
func eachOption(b []byte, f func(option []byte)) bool {
	for len(b) > 0 && b[0] != optionEnd {
		n := 1
		if b[0] != optionNone {
			if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
				return false
			}
			n = int(b[1])
			f(b[:n])
		}
		b = b[n:]
	}
	return true
}

// arrived4 reports whether options are well-formed and no source route is left.
func arrived4(options []byte) bool {
	arrived := true
	return eachOption(options, func(o []byte) {
		if o[0] == optionLooseRoute || o[0] == optionStrictRoute {
			arrived = arrived && len(o) >= 3 && int(o[2]) > len(o)
		}
	}) && arrived
}

// withoutUncopied makes options those of a fragment after the first, as long as they were.
func withoutUncopied(options []byte) {
	eachOption(options, func(o []byte) {
		if o[0]&optionCopied != 0 {
			return
		}
		for i := range o {
			o[i] = optionNone
		}
	})
}

// lead is what a transmitter puts before ESP.
type lead struct {
	buf  []byte // empty: the kernel writes the IP header
	way  int    // octets of it that are IP
	next int    // where in them the protocol of what follows is written
}

// ownHeader returns the endpoint at the addresses of e for packets that bring their IP
// header, nil if there is none: in a TCP connection, or without raw sockets.
func (t *transmitter) ownHeader(e *endpoint) *endpoint {
	o := e.own.Load()
	if o == nil {
		if _, err := t.plane.raw.to(e.remote.Addr(), true); err != nil || e.tcp {
			return nil
		}
		o = t.plane.endpoint(unported(e.local), unported(e.remote), false, true)
		e.own.Store(o)
	}
	o.prove(int(e.path.proved.Load()), t.socket.probes)
	o.limit(t.socket.probes, t.now)
	return o
}

// leadWith has the packets that follow go behind the headers for the way of packet, whose
// payload is at an offset, to e.
func (t *transmitter) leadWith(outer outerHeader, e *endpoint, packet []byte, at int) {
	l := &t.lead
	_, l.next, _ = wayHeaders(packet)
	l.way, l.buf = at, append(l.buf[:0], packet[:at]...)
	h := l.buf
	if t.inner.v6 {
		h[0], h[1] = h[0]&0xf0|outer.class>>4, h[1]&0x0f|outer.class<<4
	} else {
		h[1] = outer.class
		if h[6] &^= 0x40; !outer.fragment {
			h[6] |= 0x40
		}
		t.identify(h)
	}
	if h[l.next] = protoESP; !e.native() {
		h[l.next] = protoUDP
		l.buf = binary.BigEndian.AppendUint16(l.buf, t.socket.local.Port())
		l.buf = binary.BigEndian.AppendUint16(l.buf, e.remote.Port())
		l.buf = append(l.buf, 0, 0, 0, 0)
	}
}

// sealBehind is the Seal of ESP, behind the lead.
func (t *transmitter) sealBehind(sa *outboundSA, dst, payload []byte, protocol uint8) ([]byte, error) {
	start, l := len(dst), &t.lead
	dst, err := sa.esp.Seal(append(dst, l.buf...), payload, protocol)
	if err != nil {
		return dst[:start], err
	}
	b := dst[start:]
	if len(b) >= maxPacket {
		return dst[:start], esp.ErrTooLong
	}
	if b[0]>>4 == 6 {
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ipv6HeaderLen))
	} else {
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		setHeaderChecksum(b[:l.way])
	}
	if udp := b[l.way:]; len(l.buf) > l.way {
		binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
		pseudo := checksum.PseudoIPv4
		if b[0]>>4 == 6 {
			pseudo = checksum.PseudoIPv6
		}
		sum := ^checksum.Fold(checksum.Add(udp, pseudo(b, protoUDP, len(udp))))
		if sum == 0 {
			sum = 0xffff // RFC 768
		}
		binary.BigEndian.PutUint16(udp[6:], sum)
	}
	return dst, nil
}

// identify gives an IPv4 packet an identification if it has none.
func (t *transmitter) identify(packet []byte) {
	if binary.BigEndian.Uint16(packet[4:]) == 0 {
		t.identity = max(1, t.identity+1)
		binary.BigEndian.PutUint16(packet[4:], t.identity)
	}
}

// way is the headers for the way of the message at hand.
type way struct {
	buf   [maxWay]byte
	n     int   // of buf
	first uint8 // protocol of the first one, in IPv6
	last  int   // where the last one is: it begins with the protocol of what follows
	lost  bool  // there were more
}

// options4 takes those of IPv4, which are 40 octets at most.
func (w *way) options4(b []byte) { w.n = copy(w.buf[:], b) }

// received takes what the ancillary data of a message says.
func (w *way) received(oob []byte, truncated bool) {
	w.lost = truncated
	for {
		h, data, rest := nextControl(oob)
		switch oob = rest; {
		case h == nil:
			return
		case h.Level == unix.SOL_IP && h.Type == unix.IP_RECVOPTS:
			w.options4(data)
		case h.Level != unix.SOL_IPV6:
		case h.Type == unix.IPV6_HOPOPTS:
			w.extension(protoHopByHop, data)
		case h.Type == unix.IPV6_RTHDR:
			w.extension(protoRouting, data)
		case h.Type == unix.IPV6_DSTOPTS:
			w.extension(protoDestOpts, data)
		}
	}
}

// extension takes the next one of IPv6.
func (w *way) extension(protocol uint8, b []byte) {
	if len(b) < 8 || len(b) != 8+int(b[1])*8 || w.n+len(b) > maxWay {
		w.lost = true
		return
	}
	if w.n == 0 {
		w.first = protocol
	} else {
		w.buf[w.last] = protocol
	}
	w.last = w.n
	w.n += copy(w.buf[w.n:], b)
}

// put writes the headers behind the plain IP header of b, which has room for them, and
// what follows them.
func (w *way) put(b []byte, protocol uint8) {
	if w.n == 0 {
		return
	}
	if b[0]>>4 == 4 {
		copy(b[ipv4HeaderLen:], w.buf[:w.n])
		b[0] = 0x40 | uint8(ipv4HeaderLen+w.n)/4
		setHeaderChecksum(b[:ipv4HeaderLen+w.n])
		return
	}
	copy(b[ipv6HeaderLen:], w.buf[:w.n])
	b[6], b[ipv6HeaderLen+w.last] = w.first, protocol
}
