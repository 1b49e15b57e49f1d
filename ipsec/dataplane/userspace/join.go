package userspace

import (
	"encoding/binary"
	"slices"

	"github.com/swanherd/swanherd/ipsec/esp"
)

// What is longer than the interface takes the host's stack cuts into fragments before it
// comes here, and transport mode protects whole packets alone. So they are put together
// first, and what comes of it is cut behind ESP, by the kernel, or AH (RFC 4303 and
// 4302, Section 3.3.4).
//
// They are of this host's own stack, which gives them to one queue, in their order. What
// is in another is not taken.

// maxJoins is how many packets a transmitter puts together at a time: a stack that has
// lost the rest of one does not say so, and the oldest makes room.
const maxJoins = 8

// ipv6FragmentLen is the length of an IPv6 fragment header (RFC 8200, Section 4.5).
const ipv6FragmentLen = 8

// joins are the packets that a transmitter puts together.
type joins struct {
	all  [maxJoins]join
	open int // of them
	next int // to make room
}

// join is a packet, of which the beginning is there.
type join struct {
	key          fragmentKey
	header, next int    // as of the first fragment
	buf          []byte // behind a vnet header; empty: none
}

// fragmentKey says which fragments belong together.
type fragmentKey struct {
	src, dst address
	protocol uint8
	identity uint32
}

// fragment is one piece of a packet.
type fragment struct {
	key    fragmentKey
	header int // octets before the fragmented part, but for an IPv6 fragment header
	next   int // where in them the protocol of what follows is
	data   []byte
	offset int  // of data in the fragmented part
	more   bool // it is not the last
}

// fragmentOf reads the headers of a fragment, which were parsed into in. It is not ok if
// those for the way are not.
func (in *inner) fragmentOf(b []byte) (f fragment, ok bool) {
	f.key = fragmentKey{src: in.src, dst: in.dst}
	b = b[:in.length]
	if f.header, f.next, ok = wayHeaders(b); !ok {
		return f, false
	}
	if in.v6 {
		for b[f.next] == protoDestOpts { // some hosts take them for read on the way
			f.next, f.header = f.header, f.header+8+int(b[f.header+1])*8
		}
		if b[f.next] != protoFragment {
			return f, false
		}
		h := b[f.header:]
		field := binary.BigEndian.Uint16(h[2:])
		f.key.protocol, f.key.identity = h[0], binary.BigEndian.Uint32(h[4:])
		f.data = h[ipv6FragmentLen:]
		f.offset, f.more = int(field&^7), field&1 != 0
		return f, true
	}
	field := binary.BigEndian.Uint16(b[6:])
	f.key.protocol, f.key.identity = b[9], uint32(binary.BigEndian.Uint16(b[4:]))
	f.data = b[f.header:]
	f.offset, f.more = int(field&0x1fff)*8, field&0x2000 != 0
	return f, true
}

// begin takes the first fragment of a packet, b with its IP header.
func (x *joins) begin(f *fragment, b []byte) {
	i := slices.IndexFunc(x.all[:], func(j join) bool { return len(j.buf) > 0 && j.key == f.key })
	if i < 0 {
		i = slices.IndexFunc(x.all[:], func(j join) bool { return len(j.buf) == 0 })
	}
	if i < 0 {
		i, x.next = x.next, (x.next+1)%maxJoins
	}
	j := &x.all[i]
	if len(j.buf) == 0 {
		x.open++
	}
	j.key, j.header, j.next = f.key, f.header, f.next
	j.buf = append(j.buf[:0], make([]byte, vnetHeaderLen)...)
	j.buf = append(append(j.buf, b[:f.header]...), f.data...)
}

// add takes a further one and reports whether it belongs to a packet that was begun. The
// packet, behind a vnet header, is returned with its last fragment, and is valid until
// the next call.
func (x *joins) add(f *fragment) (whole []byte, ours bool) {
	if x.open == 0 {
		return nil, false
	}
	for i := range x.all {
		j := &x.all[i]
		if len(j.buf) == 0 || j.key != f.key {
			continue
		}
		packet := j.buf[vnetHeaderLen:]
		if len(packet) != j.header+f.offset || len(packet)+len(f.data) >= maxPacket {
			x.end(j)
			return nil, false
		}
		j.buf = append(j.buf, f.data...)
		if f.more {
			return nil, true
		}
		j.buf = slices.Grow(j.buf, esp.TrailerRoom)
		whole = j.buf
		j.finish(whole[vnetHeaderLen:])
		x.end(j)
		return whole, true
	}
	return nil, false
}

func (x *joins) end(j *join) {
	j.buf = j.buf[:0]
	x.open--
}

// finish makes the headers of the first fragment, at the beginning of b, those of all.
func (j *join) finish(b []byte) {
	if b[0]>>4 == 6 {
		b[j.next] = j.key.protocol
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ipv6HeaderLen))
		return
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	b[6], b[7] = 0, 0
	setHeaderChecksum(b[:j.header])
}

// joined takes the fragment at hand, and reports whether it waits for others, or was the
// last of a packet that has been sent. SA is what carries it, nil if that is not known
// yet.
func (t *transmitter) joined(sa *outboundSA, packet []byte) bool {
	f, ok := t.inner.fragmentOf(packet)
	switch {
	case !ok:
		return false
	case f.offset == 0:
		if sa == nil || !sa.transport || !f.more {
			return false
		}
		t.joins.begin(&f, packet)
		return true
	case sa != nil:
		return false // it was asked for without
	}
	whole, ours := t.joins.add(&f)
	if whole != nil {
		t.whole = true
		t.process(whole)
		t.whole = false
	}
	return ours
}
