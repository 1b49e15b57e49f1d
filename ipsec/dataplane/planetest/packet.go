package planetest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// marker begins the payload of every packet of the suite.
const marker = "planetest "

const (
	protocolHopByHop     = 0
	protocolDestinations = 60

	protocolICMP   = 1
	protocolUDP    = 17
	protocolICMPv6 = 58
)

// body makes what a new packet says.
func (h *harness) body() []byte {
	h.packets++
	return fmt.Appendf(nil, "%s%d", marker, h.packets)
}

// packet makes a new UDP packet.
func (h *harness) packet(src, dst netip.Addr) []byte { return h.udp(src, dst, 1234, 4321) }

func (h *harness) udp(src, dst netip.Addr, from, to uint16) []byte {
	body := h.body()
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(body)))
	b = append(append(b, 0, 0), body...)
	c := checksum(pseudoHeader(src, dst, protocolUDP, len(b)), b)
	if c == 0 {
		c = 0xffff // 0 is none (RFC 768)
	}
	binary.BigEndian.PutUint16(b[6:], c)
	return packetOf(src, dst, protocolUDP, b)
}

// icmp makes a message that no host answers.
func (h *harness) icmp(src, dst netip.Addr, kind, code uint8) []byte {
	b := append([]byte{kind, code, 0, 0, 0, 0, 0, 0}, h.body()...)
	protocol, start := uint8(protocolICMP), uint32(0)
	if src.Is6() {
		protocol, start = protocolICMPv6, pseudoHeader(src, dst, protocolICMPv6, len(b))
	}
	binary.BigEndian.PutUint16(b[2:], checksum(start, b))
	return packetOf(src, dst, protocol, b)
}

func packetOf(src, dst netip.Addr, protocol uint8, payload []byte) []byte {
	if src.Is6() {
		b := make([]byte, 40, 40+len(payload))
		b[0], b[6], b[7] = 0x60, protocol, 64
		binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
		copy(b[8:], src.AsSlice())
		copy(b[24:], dst.AsSlice())
		return append(b, payload...)
	}
	b := make([]byte, 20, 20+len(payload))
	b[0], b[8], b[9] = 0x45, 64, protocol
	b[6] = 0x40 // do not fragment
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], checksum(0, b))
	return append(b, payload...)
}

// pseudoHeader is the sum of what UDP and ICMPv6 cover beside themselves.
func pseudoHeader(src, dst netip.Addr, protocol uint8, length int) uint32 {
	return sum(sum(0, src.AsSlice()), dst.AsSlice()) + uint32(protocol) + uint32(length)
}

func checksum(start uint32, b []byte) uint16 {
	s := sum(start, b)
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

func sum(s uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

// What packets of transport mode have to keep: router alert, which does not change on the
// way, of hop-by-hop options one of each kind (RFC 8200, Section 4.2), and options for the
// destination.
var (
	options     = []byte{148, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 1} // and a route to be recorded
	hopByHop    = []byte{protocolDestinations, 1, 0x1e, 4, 'a', 'b', 'c', 'd', 0x3e, 4, 1, 2, 3, 4, 1, 0}
	destination = []byte{protocolUDP, 0, 0x1e, 4, 'e', 'f', 'g', 'h'}
)

func isExtension(protocol uint8) bool {
	return protocol == protocolHopByHop || protocol == protocolDestinations
}

// withWay puts headers into a UDP packet that are read on the way.
func withWay(b []byte) []byte {
	if b[0]>>4 == 6 {
		b = slices.Insert(b, 40, slices.Concat(hopByHop, destination)...)
		b[6] = protocolHopByHop
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
		return b
	}
	b = slices.Insert(b, 20, options...)
	b[0] = 0x40 | byte(20+len(options))/4
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], checksum(0, b[:20+len(options)]))
	return b
}

// keepsWay reports whether a received packet has such headers as it was sent with. A host may
// have taken off those of IPv6.
func keepsWay(sent, got []byte) bool {
	switch {
	case sent[0] == 0x40|byte(20+len(options))/4:
		return len(got) >= 32 && got[0] == sent[0] && bytes.Equal(got[20:26], sent[20:26]) && got[26] >= options[6]
	case sent[0]>>4 == 6 && sent[6] == protocolHopByHop && len(got) > 64 && got[0]>>4 == 6:
		return got[6] == protocolHopByHop && bytes.Equal(got[40:64], sent[40:64])
	}
	return true
}
