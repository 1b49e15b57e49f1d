package userspace

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane/internal/checksum"
)

const (
	// tooBigInterval is the least time between two messages to inner senders
	// over one path (RFC 4301, Section 5.1.1; RFC 1812, Section 4.3.2.8).
	tooBigInterval = 5 * time.Millisecond

	udpHeaderLen  = 8
	icmpHeaderLen = 8
	// How much of the offending packet goes back: the whole message stays
	// below 576 (RFC 1812, Section 4.3.2.3) and 1,280 octets (RFC 4443,
	// Section 3.2).
	maxQuote4 = 576 - ipv4HeaderLen - icmpHeaderLen
	maxQuote6 = minMTU - ipv6HeaderLen - icmpHeaderLen
)

// tooBig reports whether a packet would not pass to e whole, and tells its
// sender so (RFC 4301, Section 8.2.1). An IPv4 packet that may be fragmented
// passes, and one whose outer header may, or that came in fragments: the kernel fragments
// what carries it.
//
// What ESP protects begins at an offset in the packet.
func (t *transmitter) tooBig(sa *outboundSA, e *endpoint, h vnetHeader, packet []byte, at int) bool {
	length := t.inner.length
	if h.gsoType != unix.VIRTIO_NET_HDR_GSO_NONE {
		length = h.checksumStart + h.segmentSize + udpHeaderLen
		if h.gsoType != unix.VIRTIO_NET_HDR_GSO_UDP_L4 && len(packet) > h.checksumStart+12 {
			length += int(packet[h.checksumStart+12]>>4)*4 - udpHeaderLen
		}
	}
	fits := sa.fits(e)
	if way := at - t.inner.plainLen(); way > 0 {
		fits = at + sa.esp.MaxPayload(int(e.path.limit.Load())-way)
	}
	if length <= fits || sa.fragments(e, packet, t.inner.v6) || t.whole && sa.fragmentsLater(e) {
		return false
	}
	if t.inner.v6 && fits < minMTU && sa.ah == nil {
		return false // no sender goes below 1,280: let the kernel fragment
	}
	if e.path.told.due(time.Now(), tooBigInterval) {
		message := t.packetTooBig(packet, fits)
		if _, err := unix.Write(t.inside.device.outlets(t.worker)[0], message); err != nil {
			t.plane.stats.deliverErrors.Add(1)
		}
	}
	return true
}

// packetTooBig makes the ICMP message, behind its vnet header, that tells the
// sender of packet to send at most mtu octets. It comes from the address that
// packet was for: the plane has none of its own.
func (t *transmitter) packetTooBig(packet []byte, mtu int) []byte {
	if t.inner.v6 {
		return packetTooBig6(packet[:min(t.inner.length, maxQuote6)], mtu)
	}
	return fragmentationNeeded(packet[:min(t.inner.length, maxQuote4)], mtu)
}

// fragmentationNeeded is RFC 1191, Section 4.
func fragmentationNeeded(quote []byte, mtu int) []byte {
	b := make([]byte, vnetHeaderLen+ipv4HeaderLen+icmpHeaderLen, vnetHeaderLen+576)
	b = append(b, quote...)
	ip := b[vnetHeaderLen:]
	ip[0], ip[8], ip[9] = 0x45, 64, protoICMP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:16], quote[16:20])
	copy(ip[16:20], quote[12:16])
	binary.BigEndian.PutUint16(ip[10:], ^checksum.Fold(checksum.Add(ip[:ipv4HeaderLen], 0)))
	icmp := ip[ipv4HeaderLen:]
	icmp[0], icmp[1] = 3, 4
	binary.BigEndian.PutUint16(icmp[6:], uint16(mtu))
	binary.BigEndian.PutUint16(icmp[2:], ^checksum.Fold(checksum.Add(icmp, 0)))
	return b
}

// packetTooBig6 is RFC 4443, Section 3.2.
func packetTooBig6(quote []byte, mtu int) []byte {
	b := make([]byte, vnetHeaderLen+ipv6HeaderLen+icmpHeaderLen, vnetHeaderLen+minMTU)
	b = append(b, quote...)
	ip := b[vnetHeaderLen:]
	ip[0], ip[6], ip[7] = 0x60, protoICMPv6, 64
	binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-ipv6HeaderLen))
	copy(ip[8:24], quote[24:40])
	copy(ip[24:40], quote[8:24])
	icmp := ip[ipv6HeaderLen:]
	icmp[0] = 2
	binary.BigEndian.PutUint32(icmp[4:], uint32(mtu))
	sum := checksum.Add(icmp, checksum.PseudoIPv6(ip, protoICMPv6, len(icmp)))
	binary.BigEndian.PutUint16(icmp[2:], ^checksum.Fold(sum))
	return b
}
