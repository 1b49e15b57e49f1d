package esp

import (
	"bytes"
	"encoding/binary"
)

// Protocol numbers of what may stand before an AH.
const (
	protocolHopByHop     = 0
	protocolRouting      = 43
	protocolFragment     = 44
	protocolAH           = 51
	protocolDestinations = 60
)

const (
	ipv4MinLen = 20
	ipv6Len    = 40
	ipv6Dest   = 24 // where the destination address is
	ipv4Dest   = 16
)

// ahHeaders is where the headers of one packet are, as offsets.
type ahHeaders struct {
	v6      bool
	options int // end of the IPv4 header with its options
	// insert is where an AH is put, ah where there is one, 0 if there is none;
	// the other two are where the protocol of what comes there is written.
	insert, insertNext int
	ah, ahNext         int
}

// parseAHPacket finds the headers of an IP packet and cuts off what is behind its
// end. A Fragment header that divides nothing is taken out (RFC 4302, Appendix A2), so
// that the packet returned may begin later than b.
func parseAHPacket(b []byte) ([]byte, ahHeaders, error) {
	if len(b) < ipv4MinLen {
		return nil, ahHeaders{}, ErrMalformed
	}
	switch b[0] >> 4 {
	case 4:
		return parseAHv4(b)
	case 6:
		return parseAHv6(b)
	}
	return nil, ahHeaders{}, ErrMalformed
}

func parseAHv4(b []byte) ([]byte, ahHeaders, error) {
	n, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if n < ipv4MinLen || total < n || total > len(b) {
		return nil, ahHeaders{}, ErrMalformed
	}
	if binary.BigEndian.Uint16(b[6:])&0x3fff != 0 { // more fragments, or an offset
		return nil, ahHeaders{}, ErrFragment
	}
	h := ahHeaders{options: n, insert: n, insertNext: 9}
	if b[9] == protocolAH {
		h.ah, h.ahNext = n, 9
	}
	return b[:total], h, nil
}

// parseAHv6 walks the extension headers. An AH is put behind the last of them that is
// looked at before the destination: Hop-by-Hop and Routing, with what is between
// (RFC 4302, Section 3.1.1).
func parseAHv6(b []byte) ([]byte, ahHeaders, error) {
	if len(b) < ipv6Len {
		return nil, ahHeaders{}, ErrMalformed
	}
	total := ipv6Len + int(binary.BigEndian.Uint16(b[4:]))
	if total > len(b) {
		return nil, ahHeaders{}, ErrMalformed
	}
	b = b[:total]
	h := ahHeaders{v6: true, insert: ipv6Len, insertNext: 6}
	fragments := 0
	for at, next := ipv6Len, 6; ; {
		switch protocol := b[next]; protocol {
		case protocolAH:
			h.ah, h.ahNext = at, next
			return b, h, nil
		case protocolFragment:
			// A second one would only make work: all before it is moved.
			if fragments++; fragments > 1 || len(b) < at+8 {
				return nil, ahHeaders{}, ErrMalformed
			}
			if binary.BigEndian.Uint16(b[at+2:])&0xfff9 != 0 {
				return nil, ahHeaders{}, ErrFragment
			}
			b[next] = b[at]
			copy(b[8:], b[:at])
			b = b[8:]
			binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ipv6Len))
		case protocolHopByHop, protocolRouting, protocolDestinations:
			if len(b) < at+8 || len(b) < at+extensionLen(b[at:]) {
				return nil, ahHeaders{}, ErrMalformed
			}
			next, at = at, at+extensionLen(b[at:])
			if protocol != protocolDestinations {
				h.insert, h.insertNext = at, next
			}
		default:
			return b, h, nil
		}
	}
}

func extensionLen(b []byte) int { return (int(b[1]) + 1) * 8 }

// lengthBase is what the length field of the IP header does not count.
func (h ahHeaders) lengthBase() int {
	if h.v6 {
		return ipv6Len
	}
	return 0
}

// setLength writes the length of b into its IP header, and the checksum.
func (h ahHeaders) setLength(b []byte) {
	n := uint16(len(b) - h.lengthBase())
	if h.v6 {
		binary.BigEndian.PutUint16(b[4:], n)
		return
	}
	binary.BigEndian.PutUint16(b[2:], n)
	binary.BigEndian.PutUint16(b[10:], 0)
	var sum uint32
	for i := 0; i < h.options; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum&0xffff + sum>>16
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum))
}

// zeroMutable gives the fields in the headers b, which end with the AH, the value that
// they have for the ICV (RFC 4302, Section 3.3.3.1). send says that the packet has its
// way before it, so that fields with a predictable value get that. An AH behind the
// one that is put in is payload.
func (h ahHeaders) zeroMutable(b []byte, send bool) error {
	if !h.v6 {
		b[1] = 0                   // DSCP and ECN
		b[6], b[7], b[8] = 0, 0, 0 // flags, fragment offset, TTL
		b[10], b[11] = 0, 0        // checksum
		return zeroOptionsV4(b, h.options, send)
	}
	b[0], b[1], b[2], b[3] = 0x60, 0, 0, 0 // DSCP, ECN, flow label
	b[7] = 0                               // hop limit
	end := h.ah
	if send {
		end = h.insert
	}
	for at, next := ipv6Len, 6; at < end; {
		n := extensionLen(b[at:])
		ext := b[at : at+n]
		var err error
		if b[next] == protocolRouting {
			err = predictRoute(b[ipv6Dest:ipv6Len], ext, send)
		} else {
			err = zeroOptionsV6(ext[2:])
		}
		if err != nil {
			return err
		}
		next, at = at, at+n
	}
	return nil
}

// zeroOptionsV4 zeroes each option that is not known to stay as it is (RFC 4302,
// Appendix A1), and sees to the destination under source routing (Section
// 3.3.3.1.1.1): it is the last of the route when the packet arrives.
func zeroOptionsV4(b []byte, end int, send bool) error {
	for at := ipv4MinLen; at < end; {
		kind := b[at]
		if kind == 0 { // end of the list: what follows is as it is
			return nil
		}
		if kind == 1 {
			at++
			continue
		}
		if at+1 >= end || b[at+1] < 2 || at+int(b[at+1]) > end {
			return ErrMalformed
		}
		option := b[at : at+int(b[at+1])]
		switch kind {
		case 130, 133, 134, 148, 149: // security labels, router alert, multiple destinations
		case 131, 137: // loose and strict source route
			if len(option) < 3 {
				return ErrMalformed
			}
			if left := int(option[2]) <= len(option); left && !send {
				return ErrRoute // it has not arrived
			} else if left && len(option) >= 7 {
				copy(b[ipv4Dest:ipv4MinLen], option[len(option)-4:])
			}
			clear(option)
		default:
			clear(option)
		}
		at += len(option)
	}
	return nil
}

// zeroOptionsV6 zeroes the data of options that may change on the way (RFC 8200,
// Section 4.2; RFC 4302, Section 3.3.3.1.2.2).
func zeroOptionsV6(b []byte) error {
	const pad1, mutable = 0, 0x20
	for len(b) > 0 {
		if b[0] == pad1 {
			b = b[1:]
			continue
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return ErrMalformed
		}
		n := 2 + int(b[1])
		if b[0]&mutable != 0 {
			clear(b[2:n])
		}
		b = b[n:]
	}
	return nil
}

// predictRoute makes a Routing header, and the destination, what they are at the end
// of the way (RFC 4302, Appendix A2). Type 0 and type 2 (RFC 6275, Section 6.4) swap
// the destination for the next address at each stop.
func predictRoute(destination, ext []byte, send bool) error {
	kind, left := ext[2], int(ext[3])
	if left == 0 {
		return nil
	}
	addresses := ext[8:]
	if !send || kind != 0 && kind != 2 || len(addresses)%16 != 0 || left > len(addresses)/16 {
		return ErrRoute
	}
	ext[3] = 0
	rest := addresses[len(addresses)-left*16:]
	last := bytes.Clone(rest[len(rest)-16:])
	copy(rest[16:], rest[:len(rest)-16])
	copy(rest, destination)
	copy(destination, last)
	return nil
}
