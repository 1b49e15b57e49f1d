package userspace

import "encoding/binary"

// IP protocol numbers that the data plane looks into.
const (
	protoHopByHop  = 0
	protoICMP      = 1
	protoTCP       = 6
	protoUDP       = 17
	protoDCCP      = 33
	protoRouting   = 43
	protoFragment  = 44
	protoICMPv6    = 58
	protoDestOpts  = 60
	protoSCTP      = 132
	protoMobility  = 135
	protoUDPLite   = 136
	ipv4HeaderLen  = 20
	ipv6HeaderLen  = 40
	maxIPv6Headers = 8
)

// flow holds the selectors of a packet (RFC 4301, Section 4.4.1.1).
type flow struct {
	src, dst address
	protocol uint8
	// hasPorts says that srcPort and dstPort were in the packet. They are
	// not in fragments after the first, nor in protocols without ports. For
	// ICMP both are type and code.
	hasPorts         bool
	srcPort, dstPort uint16
}

// hash of a flow. Its upper half is the better one.
func (f *flow) hash() uint64 {
	return (f.src.lo ^ f.src.hi*3 ^ f.dst.lo*5 ^ f.dst.hi*7 ^
		uint64(f.srcPort)<<24 ^ uint64(f.dstPort)<<40 ^ uint64(f.protocol)) * 0x9e3779b97f4a7c15
}

// inner is what parse learns of an inner packet.
type inner struct {
	flow
	v6        bool
	fragment  bool
	dscp      uint8
	transport int // offset of the transport header; the length if there is none
	length    int // of the packet; padding may follow (RFC 4303, Section 2.7)
}

// parse reads the headers of b, whose sender may be hostile. It reports false
// for what is no whole IPv4 or IPv6 packet.
func (p *inner) parse(b []byte) bool {
	if len(b) < ipv4HeaderLen {
		return false
	}
	switch b[0] >> 4 {
	case 4:
		return p.parse4(b)
	case 6:
		return p.parse6(b)
	}
	return false
}

func (p *inner) parse4(b []byte) bool {
	header := int(b[0]&0xf) * 4
	length := int(binary.BigEndian.Uint16(b[2:]))
	if header < ipv4HeaderLen || length < header || length > len(b) {
		return false
	}
	fragment := binary.BigEndian.Uint16(b[6:])
	*p = inner{
		flow:      flow{src: addressFrom4(b[12:]), dst: addressFrom4(b[16:]), protocol: b[9]},
		fragment:  fragment&0x3fff != 0,
		dscp:      b[1] >> 2,
		transport: header,
		length:    length,
	}
	if fragment&0x1fff == 0 {
		p.ports(b[header:length])
	}
	return true
}

func (p *inner) parse6(b []byte) bool {
	if len(b) < ipv6HeaderLen {
		return false
	}
	length := ipv6HeaderLen + int(binary.BigEndian.Uint16(b[4:]))
	if length > len(b) {
		return false
	}
	*p = inner{
		flow: flow{src: addressFrom16(b[8:]), dst: addressFrom16(b[24:]), protocol: b[6]},
		v6:   true, dscp: (b[0]<<4 | b[1]>>4) >> 2, transport: ipv6HeaderLen, length: length,
	}
	if p.src.mapped() || p.dst.mapped() {
		return false // never on a wire (RFC 4942, Section 2.2)
	}
	first, ok := p.skipExtensions(b[:length])
	if ok && first {
		p.ports(b[p.transport:length])
	}
	return ok
}

// skipExtensions finds the transport header behind extension headers. First is
// false in a fragment after the first, which has none.
func (p *inner) skipExtensions(b []byte) (first, ok bool) {
	for range maxIPv6Headers {
		rest := b[p.transport:]
		switch p.protocol {
		case protoHopByHop, protoRouting, protoDestOpts:
			if len(rest) < 8 || len(rest) < 8+int(rest[1])*8 {
				return false, false
			}
			p.transport += 8 + int(rest[1])*8
		case protoFragment:
			if len(rest) < 8 {
				return false, false
			}
			p.transport += 8
			p.fragment = true
			if binary.BigEndian.Uint16(rest[2:])&0xfff8 != 0 {
				p.protocol = rest[0]
				return false, true
			}
		default:
			return true, true
		}
		p.protocol = rest[0]
	}
	return false, false
}

// ports reads the port numbers, or what stands for them, from the transport
// header t.
func (p *inner) ports(t []byte) {
	switch p.protocol {
	case protoTCP, protoUDP, protoSCTP, protoDCCP, protoUDPLite:
		if len(t) >= 4 {
			p.srcPort, p.dstPort = binary.BigEndian.Uint16(t), binary.BigEndian.Uint16(t[2:])
			p.hasPorts = true
		}
	case protoICMP, protoICMPv6:
		if len(t) >= 2 {
			p.srcPort = binary.BigEndian.Uint16(t)
			p.dstPort = p.srcPort
			p.hasPorts = true
		}
	case protoMobility: // the type is the high-order octet (RFC 4301, Section 4.4.1.1)
		if len(t) >= 3 {
			p.srcPort = uint16(t[2]) << 8
			p.dstPort = p.srcPort
			p.hasPorts = true
		}
	}
}
