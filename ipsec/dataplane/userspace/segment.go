package userspace

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane/internal/checksum"
)

// vnetHeaderLen is the length of the virtio header before each packet of the
// TUN device (struct virtio_net_hdr in linux/virtio_net.h).
const vnetHeaderLen = 10

// maxHeaders bounds the headers of a packet that is segmented: IPv6 with
// extension headers and a full TCP header.
const maxHeaders = 256

// tcpHeaderLen is the length of a TCP header without options, in octets.
const tcpHeaderLen = 20

// vnetHeader says what offload a packet read from TUN still needs.
type vnetHeader struct {
	needsChecksum  bool
	gsoType        uint8
	segmentSize    int // payload octets of each segment
	checksumStart  int // offset of the transport header
	checksumOffset int // of the checksum within it
}

func parseVnetHeader(b []byte) vnetHeader {
	return vnetHeader{
		needsChecksum:  b[0]&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM != 0,
		gsoType:        b[1] &^ unix.VIRTIO_NET_HDR_GSO_ECN,
		segmentSize:    int(binary.LittleEndian.Uint16(b[4:])),
		checksumStart:  int(binary.LittleEndian.Uint16(b[6:])),
		checksumOffset: int(binary.LittleEndian.Uint16(b[8:])),
	}
}

// segmenter cuts a TCP or UDP super-packet into packets, one after the other,
// each in the memory of the super-packet: the headers of a segment are written
// over the end of the segment before, which was sent by then. No payload moves.
type segmenter struct {
	packet    []byte // the super-packet
	v6, udp   bool
	transport int // offset of the transport header
	checksum  int // offset of the transport checksum
	payload   int // offset of the next segment's payload
	size      int
	index     int
	header    []byte // as of the first segment, checksums zero
	pseudo    uint64 // sum of the pseudo-header without its length
	store     [maxHeaders]byte
}

// start prepares the segmentation of b. It reports false if b is not what h says.
func (s *segmenter) start(h vnetHeader, b []byte) bool {
	s.packet, s.transport, s.size, s.index = b, h.checksumStart, h.segmentSize, 0
	s.checksum = h.checksumStart + h.checksumOffset
	s.udp = h.gsoType == unix.VIRTIO_NET_HDR_GSO_UDP_L4
	s.v6 = b[0]>>4 == 6
	minimum := ipv4HeaderLen
	if s.v6 {
		minimum = ipv6HeaderLen
	}
	if s.transport < minimum || s.transport+tcpHeaderLen > maxHeaders || s.transport+tcpHeaderLen > len(b) && !s.udp {
		return false
	}
	transportLen := udpHeaderLen
	if !s.udp {
		if transportLen = int(b[s.transport+12]>>4) * 4; transportLen < tcpHeaderLen {
			return false
		}
	}
	s.payload = s.transport + transportLen
	if s.size == 0 || s.payload > maxHeaders || s.payload >= len(b) || h.checksumOffset+2 > transportLen {
		return false
	}
	s.header = s.store[:s.payload]
	copy(s.header, b)
	s.header[s.checksum], s.header[s.checksum+1] = 0, 0
	if s.v6 {
		s.pseudo = checksum.PseudoIPv6(s.header, s.protocol(), 0)
		return true
	}
	s.header[10], s.header[11] = 0, 0
	s.pseudo = checksum.PseudoIPv4(s.header, s.protocol(), 0)
	return true
}

func (s *segmenter) protocol() uint8 {
	if s.udp {
		return protoUDP
	}
	return protoTCP
}

// next returns the next segment, nil after the last. It is valid until the next
// call.
func (s *segmenter) next() []byte {
	if s.payload >= len(s.packet) {
		return nil
	}
	size := min(s.size, len(s.packet)-s.payload)
	start := s.payload - len(s.header)
	segment := s.packet[start : s.payload+size]
	copy(segment, s.header)
	last := s.payload+size == len(s.packet)
	s.fillTransport(segment, last)
	s.fillIP(segment)
	l4 := len(segment) - s.transport
	sum := ^checksum.Fold(checksum.Add(segment[s.transport:], s.pseudo+checksum.Length(l4)))
	if sum == 0 && s.udp {
		sum = 0xffff // zero means none (RFC 768)
	}
	binary.BigEndian.PutUint16(segment[s.checksum:], sum)
	s.payload += size
	s.index++
	return segment
}

func (s *segmenter) fillTransport(segment []byte, last bool) {
	t := segment[s.transport:]
	if s.udp {
		binary.BigEndian.PutUint16(t[4:], uint16(len(t)))
		return
	}
	seq := binary.BigEndian.Uint32(t[4:]) + uint32(s.index*s.size)
	binary.BigEndian.PutUint32(t[4:], seq)
	if !last {
		t[13] &^= tcpFIN | tcpPSH
	}
	if s.index > 0 {
		t[13] &^= tcpCWR // once for each window (RFC 3168, Section 6.1.2)
	}
}

func (s *segmenter) fillIP(segment []byte) {
	if s.v6 {
		binary.BigEndian.PutUint16(segment[4:], uint16(len(segment)-ipv6HeaderLen))
		return
	}
	binary.BigEndian.PutUint16(segment[2:], uint16(len(segment)))
	id := binary.BigEndian.Uint16(segment[4:]) + uint16(s.index)
	binary.BigEndian.PutUint16(segment[4:], id)
	binary.BigEndian.PutUint16(segment[10:], ^checksum.Fold(checksum.Add(segment[:s.transport], 0)))
}

// TCP flags (RFC 9293, Section 3.1).
const (
	tcpFIN = 0x01
	tcpPSH = 0x08
	tcpACK = 0x10
	tcpCWR = 0x80
)

// completeChecksum finishes a transport checksum that the kernel left to its
// device: the field holds the sum of the pseudo-header. It reports false if h
// does not fit b.
func completeChecksum(h vnetHeader, b []byte) bool {
	field := h.checksumStart + h.checksumOffset
	if h.checksumStart > len(b) || field+2 > len(b) {
		return false
	}
	sum := ^checksum.Fold(checksum.Add(b[h.checksumStart:], 0))
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[field:], sum)
	return true
}
