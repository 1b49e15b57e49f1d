package userspace

import (
	"encoding/binary"
	"math/bits"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane/internal/checksum"
)

const (
	// maxRuns is how many flows are merged at a time.
	maxRuns = 4
	// maxMerged is how many packets one super-packet takes.
	maxMerged = 64
)

// run is a sequence of packets of one flow that will reach the kernel as one
// super-packet. Their payloads stay where they are: the write gathers them.
type run struct {
	flow     flow
	count    int // 0: empty
	size     int // payload octets of each packet but the last
	total    int // payload octets of all
	headers  int // octets of headers
	next     uint32
	closed   bool // nothing may follow
	verified bool // the checksum of the first packet is right
	tcp, v6  bool
	first    []byte
	vec      [1 + maxMerged]unix.Iovec // vnet header, first packet, payloads
}

func (r *run) transport() int {
	if r.v6 {
		return ipv6HeaderLen
	}
	return ipv4HeaderLen
}

// merger writes packets to the interface, adjacent ones of a flow as one
// super-packet. It is what the kernel's own GRO does for a network card.
type merger struct {
	plane  *Plane
	inside *inside
	mtu    interfaceMTU
	queues []int // to write to
	runs   [maxRuns]run
	victim int
	single [2]unix.Iovec
	plain  [vnetHeaderLen]byte // the vnet header of a packet by itself: zero
	vnet   [vnetHeaderLen]byte
	tcp    bool // merge TCP
	udp    bool
}

// newMerger makes one that writes to those queues of the interface.
func newMerger(p *Plane, in *inside, queues []int) *merger {
	return &merger{plane: p, inside: in, queues: queues, tcp: in.device.mergeTCP, udp: in.device.mergeUDP}
}

// queue is that for packets of f, see [device.outlets]: all of a flow go to one, and flows
// to as many as there are. What the kernel takes for one flow has to be one here: it does
// not tell ICMP messages between two addresses apart, nor fragments.
func (m *merger) queue(f *flow, ports bool) int {
	h := f.src.hi ^ f.dst.hi<<1 ^ f.src.lo ^ f.dst.lo<<1 ^ uint64(f.protocol)<<56
	if ports {
		h ^= uint64(f.srcPort)<<48 ^ uint64(f.dstPort)<<32
	}
	at, _ := bits.Mul64(h*0x9e3779b97f4a7c15, uint64(len(m.queues))) // Fibonacci hashing
	return m.queues[at]
}

// candidate describes how a packet could be part of a run.
type candidate struct {
	tcp, push bool
	headers   int
	sequence  uint32
}

// candidate reports whether b may be merged at all: a whole TCP segment with
// data and no flags beyond ACK and PSH, or a whole UDP datagram, without IP
// options or extension headers.
func (m *merger) candidate(b []byte, in *inner) (candidate, bool) {
	plain := ipv4HeaderLen
	if in.v6 {
		plain = ipv6HeaderLen
	}
	if in.fragment || in.transport != plain || !in.hasPorts {
		return candidate{}, false
	}
	t := b[in.transport:]
	switch {
	case in.protocol == protoTCP && m.tcp && len(t) >= 20:
		headers := int(t[12]>>4) * 4
		ok := headers >= 20 && headers < len(t) && t[13]&^tcpPSH == tcpACK
		return candidate{
			tcp: true, push: t[13]&tcpPSH != 0, headers: in.transport + headers,
			sequence: binary.BigEndian.Uint32(t[4:]),
		}, ok
	case in.protocol == protoUDP && m.udp && len(t) > 8:
		ok := int(binary.BigEndian.Uint16(t[4:])) == len(t) && (t[6] != 0 || t[7] != 0)
		return candidate{headers: in.transport + 8}, ok
	}
	return candidate{}, false
}

// add takes one inner packet, which must stay in place until the next flushAll.
func (m *merger) add(b []byte, in *inner) {
	c, ok := m.candidate(b, in)
	if !ok {
		m.pass(b, in)
		return
	}
	r := m.find(&in.flow)
	if r.count > 0 {
		if m.extend(r, b, c) {
			return
		}
		m.flush(r)
	}
	payload := len(b) - c.headers
	r.flow, r.count, r.size, r.total, r.headers = in.flow, 1, payload, payload, c.headers
	r.next, r.closed, r.verified = c.sequence+uint32(payload), c.push, false
	r.tcp, r.v6, r.first = c.tcp, in.v6, b
	r.vec[1].Base = &b[0]
	r.vec[1].SetLen(len(b))
}

// pass writes a packet that is not merged, after what its flow has waiting.
func (m *merger) pass(b []byte, in *inner) {
	for i := range m.runs {
		if r := &m.runs[i]; r.count > 0 && (in.fragment || r.flow == in.flow) {
			m.flush(r)
		}
	}
	ports := in.hasPorts && !in.fragment && in.protocol != protoICMP && in.protocol != protoICMPv6
	m.write(m.queue(&in.flow, ports), b)
}

// find returns the run of f, or an empty one.
func (m *merger) find(f *flow) *run {
	var free *run
	for i := range m.runs {
		r := &m.runs[i]
		if r.count == 0 {
			free = r
		} else if r.flow == *f {
			return r
		}
	}
	if free == nil {
		free = &m.runs[m.victim]
		m.victim = (m.victim + 1) % maxRuns
		m.flush(free)
	}
	return free
}

// extend adds b to r if the kernel would cut the result into the same packets.
func (m *merger) extend(r *run, b []byte, c candidate) bool {
	payload := len(b) - c.headers
	if r.closed || r.count == maxMerged || c.headers != r.headers || payload > r.size ||
		r.headers+r.total+payload > maxPacket-1 || c.tcp && c.sequence != r.next || !r.sameHeaders(b) {
		return false
	}
	// A wrong checksum must reach the receiver as it is.
	if !r.verified {
		if !transportChecksumOK(r.first, r.transport(), r.v6) {
			return false
		}
		r.verified = true
	}
	if !transportChecksumOK(b, r.transport(), r.v6) {
		return false
	}
	r.count++
	r.total += payload
	r.next += uint32(payload)
	r.vec[r.count].Base = &b[c.headers]
	r.vec[r.count].SetLen(payload)
	if c.push {
		r.first[r.transport()+13] |= tcpPSH
	}
	r.closed = c.push || payload < r.size
	return true
}

// sameHeaders reports whether the headers of b differ from those of the first
// packet only in what segmentation makes anew. Addresses and ports are equal.
func (r *run) sameHeaders(b []byte) bool {
	a, t := r.first, r.transport()
	if r.v6 {
		if *(*[4]byte)(a) != *(*[4]byte)(b) || a[7] != b[7] {
			return false
		}
	} else {
		if a[1] != b[1] || a[6] != b[6] || a[8] != b[8] {
			return false
		}
		// Without DF the identification matters: segments count it up.
		if a[6]&0x40 == 0 && binary.BigEndian.Uint16(b[4:]) != binary.BigEndian.Uint16(a[4:])+uint16(r.count) {
			return false
		}
	}
	if !r.tcp {
		return true
	}
	return *(*[4]byte)(a[t+8:]) == *(*[4]byte)(b[t+8:]) && // acknowledgment
		*(*[2]byte)(a[t+14:]) == *(*[2]byte)(b[t+14:]) && // window
		string(a[t+20:r.headers]) == string(b[t+20:r.headers]) // options
}

func transportChecksumOK(b []byte, transport int, v6 bool) bool {
	return checksum.Fold(checksum.Add(b[transport:], pseudoSum(b, v6, len(b)-transport))) == 0xffff
}

func pseudoSum(b []byte, v6 bool, length int) uint64 {
	if v6 {
		return checksum.PseudoIPv6(b, b[6], length)
	}
	return checksum.PseudoIPv4(b, b[9], length)
}

func (m *merger) flushAll() {
	for i := range m.runs {
		if m.runs[i].count > 0 {
			m.flush(&m.runs[i])
		}
	}
}

// flush writes a run and empties it.
func (m *merger) flush(r *run) {
	count := r.count
	r.count = 0
	queue := m.queue(&r.flow, true)
	if count == 1 {
		m.write(queue, r.first)
		return
	}
	m.seal(r)
	r.vec[0].Base = &m.vnet[0]
	r.vec[0].SetLen(vnetHeaderLen)
	switch errno := m.writev(queue, &r.vec[0], 1+count); errno {
	case 0:
	case unix.EINVAL:
		// The test at the start did not show it: this kernel refuses
		// super-packets. The sender repeats what is lost here, once.
		m.plane.logger.Warn("kernel refuses super-packets; throughput suffers", "interface", m.inside.device.name)
		m.tcp, m.udp = false, false
		fallthrough
	default:
		m.plane.stats.deliverErrors.Add(uint64(count))
	}
}

// seal makes the first packet's headers and the vnet header those of the whole
// run.
func (m *merger) seal(r *run) {
	b, t := r.first, r.transport()
	length := r.headers + r.total
	v := vnetHeader{needsChecksum: true, segmentSize: r.size, checksumStart: t, checksumOffset: 16}
	switch {
	case !r.tcp:
		v.gsoType, v.checksumOffset = unix.VIRTIO_NET_HDR_GSO_UDP_L4, 6
		binary.BigEndian.PutUint16(b[t+4:], uint16(length-t))
	case r.v6:
		v.gsoType = unix.VIRTIO_NET_HDR_GSO_TCPV6
	default:
		v.gsoType = unix.VIRTIO_NET_HDR_GSO_TCPV4
	}
	v.put(m.vnet[:], r.headers)
	if r.v6 {
		binary.BigEndian.PutUint16(b[4:], uint16(length-ipv6HeaderLen))
	} else {
		binary.BigEndian.PutUint16(b[2:], uint16(length))
		setHeaderChecksum(b[:t])
	}
	// The kernel completes a checksum that starts from the pseudo-header.
	binary.BigEndian.PutUint16(b[t+v.checksumOffset:], checksum.Fold(pseudoSum(b, r.v6, length-t)))
}

// write passes one packet as it is.
func (m *merger) write(queue int, b []byte) {
	m.single[0].Base = &m.plain[0]
	m.single[0].SetLen(vnetHeaderLen)
	m.single[1].Base = &b[0]
	m.single[1].SetLen(len(b))
	if errno := m.writev(queue, &m.single[0], 2); errno != 0 {
		m.plane.stats.deliverErrors.Add(1)
	}
}

func (m *merger) writev(queue int, vec *unix.Iovec, n int) unix.Errno {
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(queue), uintptr(unsafe.Pointer(vec)), uintptr(n))
		if errno != unix.EINTR {
			return errno
		}
	}
}
