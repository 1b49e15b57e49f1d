package userspace

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/swanherd/swanherd/ipsec/esp"
)

// wholePacket is one of UDP with n octets behind its header.
func wholePacket(v6 bool, host byte, n int) []byte {
	header := ipv4HeaderLen
	if v6 {
		header = ipv6HeaderLen
	}
	b := make([]byte, header+udpHeaderLen+n)
	for i := range b[header:] {
		b[header+i] = byte(i*7 + int(host))
	}
	if v6 {
		b[0], b[6], b[7], b[23], b[39] = 0x60, protoUDP, 64, host, 9
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-header))
		return b
	}
	b[0], b[8], b[9], b[15], b[19] = 0x45, 64, protoUDP, host, 9
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	setHeaderChecksum(b[:ipv4HeaderLen])
	return b
}

// withHeaders is such a packet with headers for the way.
func withHeaders(b []byte) []byte {
	if b[0]>>4 == 6 {
		ext := slices.Concat(wayHopByHop, wayDestOpts)
		ext[0], ext[len(wayHopByHop)] = protoDestOpts, b[6]
		b = slices.Insert(b, ipv6HeaderLen, ext...)
		b[6] = protoHopByHop
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ipv6HeaderLen))
		return b
	}
	b = slices.Insert(b, ipv4HeaderLen, wayOptions...)
	b[0] = 0x40 | byte(ipv4HeaderLen+len(wayOptions))/4
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	setHeaderChecksum(b[:ipv4HeaderLen+len(wayOptions)])
	return b
}

// cutPacket cuts one into fragments of at most size octets of data, as a stack does: Linux
// takes options for the destination for such that are read on the way.
func cutPacket(b []byte, identity uint32, size int) (out [][]byte) {
	size &^= 7
	header, next := int(b[0]&15)*4, 9
	v6 := b[0]>>4 == 6
	if v6 {
		header, next, _ = wayHeaders(b)
		if b[next] == protoDestOpts {
			header, next = header+len(wayDestOpts), header
		}
	}
	for at := header; at < len(b); at += size {
		end := min(at+size, len(b))
		more := uint16(0)
		if end < len(b) {
			more = 1
		}
		f := bytes.Clone(b[:header])
		if v6 {
			f[next] = protoFragment
			f = append(f, b[next], 0)
			f = binary.BigEndian.AppendUint16(f, uint16(at-header)|more)
			f = binary.BigEndian.AppendUint32(f, identity)
		}
		f = append(f, b[at:end]...)
		if v6 {
			binary.BigEndian.PutUint16(f[4:], uint16(len(f)-ipv6HeaderLen))
		} else {
			if at > header {
				withoutUncopied(f[ipv4HeaderLen:header])
			}
			binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
			binary.BigEndian.PutUint16(f[4:], uint16(identity))
			binary.BigEndian.PutUint16(f[6:], uint16(at-header)/8|more<<13)
			setHeaderChecksum(f[:header])
		}
		out = append(out, f)
	}
	return out
}

// give gives joins a fragment, and returns the packet that it completes.
func (x *joins) give(t interface{ Fatalf(string, ...any) }, b []byte) (whole []byte, ours bool) {
	var in inner
	if !in.parse(b) || !in.fragment {
		t.Fatalf("no fragment: %x", b[:40])
	}
	f, ok := in.fragmentOf(b)
	if !ok {
		t.Fatalf("not a plain fragment: %x", b[:40])
	}
	if f.offset == 0 {
		x.begin(&f, b)
		return nil, true
	}
	if whole, ours = x.add(&f); whole == nil {
		return nil, ours
	}
	if cap(whole)-len(whole) < esp.TrailerRoom {
		t.Fatalf("no room for a trailer behind the packet")
	}
	return whole[vnetHeaderLen:], ours
}

// TestJoin: fragments of several packets that take turns make the packets that they were.
func TestJoin(t *testing.T) {
	var x joins
	rapid.Check(t, func(t *rapid.T) {
		var packets, got [][]byte
		var parts [][][]byte
		for i := range rapid.IntRange(1, maxJoins).Draw(t, "packets") {
			b := wholePacket(rapid.Bool().Draw(t, "IPv6"), byte(i), rapid.IntRange(3000, 60000).Draw(t, "octets"))
			if rapid.Bool().Draw(t, "headers for the way") {
				b = withHeaders(b)
			}
			if b[0]>>4 == 4 { // the stack gives each an identity
				binary.BigEndian.PutUint16(b[4:], uint16(7+i))
				setHeaderChecksum(b[:int(b[0]&15)*4])
			}
			packets = append(packets, b)
			parts = append(parts, cutPacket(b, uint32(7+i), rapid.IntRange(500, 1480).Draw(t, "size")))
		}
		for left := len(parts); left > 0; {
			i := rapid.IntRange(0, len(parts)-1).Draw(t, "turn")
			if len(parts[i]) == 0 {
				continue
			}
			whole, ours := x.give(t, parts[i][0])
			if !ours {
				t.Fatalf("a fragment of packet %d is nobody's", i)
			}
			if parts[i] = parts[i][1:]; len(parts[i]) == 0 {
				left--
				got = append(got, packets[i], bytes.Clone(whole))
			}
		}
		for i := 0; i < len(got); i += 2 {
			if !bytes.Equal(got[i], got[i+1]) {
				t.Fatalf("packet of %d octets became one of %d", len(got[i]), len(got[i+1]))
			}
		}
		if x.open != 0 {
			t.Fatalf("%d are open, all are whole", x.open)
		}
	})
}

// TestJoinStrange: what does not follow is not taken, ends what it does not fit, and
// takes no more room than there is.
func TestJoinStrange(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		parts := cutPacket(wholePacket(v6, 1, 5000), 7, 1200)
		for name, order := range map[string][]int{"a gap": {0, 2}, "a repetition": {0, 1, 1}, "the end first": {4}, "the second one first": {1}} {
			var x joins
			for i, n := range order {
				whole, ours := x.give(t, parts[n])
				if last := i == len(order)-1; ours == last || whole != nil {
					t.Errorf("IPv6 %v, %s: fragment %d taken: %v", v6, name, n, ours)
				}
			}
			if x.open != 0 {
				t.Errorf("IPv6 %v, %s: %d are open", v6, name, x.open)
			}
		}
		var x joins
		for i := range uint32(3 * maxJoins) { // which never end
			x.give(t, cutPacket(wholePacket(v6, 1, 5000), 100+i, 1200)[0])
		}
		if x.open != maxJoins {
			t.Errorf("IPv6 %v: %d are open, want %d", v6, x.open, maxJoins)
		}
		for i, part := range parts {
			if whole, _ := x.give(t, part); (whole != nil) != (i == len(parts)-1) {
				t.Errorf("IPv6 %v: a packet after others that never ended: %v at %d", v6, whole != nil, i)
			}
		}
		// One that never ends is not put together beyond what a packet can be.
		x = joins{}
		long := cutPacket(wholePacket(v6, 1, 65400), 7, 1200)
		for i, part := range long {
			if i == len(long)-1 {
				part = bytes.Clone(part)
				part = append(part, make([]byte, 1200)...)
				if v6 {
					binary.BigEndian.PutUint16(part[4:], uint16(len(part)-ipv6HeaderLen))
				} else {
					binary.BigEndian.PutUint16(part[2:], uint16(len(part)))
				}
			}
			if whole, _ := x.give(t, part); whole != nil {
				t.Errorf("IPv6 %v: a packet of %d octets", v6, len(whole))
			}
		}
	}
}
