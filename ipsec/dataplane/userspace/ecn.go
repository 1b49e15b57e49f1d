package userspace

import "encoding/binary"

// ECN codepoints (RFC 3168, Section 5).
const (
	ecnNotECT = 0
	ecnECT1   = 1
	ecnECT0   = 2
	ecnCE     = 3
)

// trafficClass returns the DSCP and ECN octet of an IP header.
func trafficClass(b []byte, v6 bool) uint8 {
	if v6 {
		return b[0]<<4 | b[1]>>4
	}
	return b[1]
}

// mergeECN carries congestion marks of the outer header over to the inner one
// as a tunnel's egress must (RFC 6040, Section 4.2). It reports false if the
// packet must be dropped: congestion was marked that its sender would not see.
func mergeECN(outer uint8, b []byte, v6 bool) bool {
	inner := trafficClass(b, v6) & 3
	var want uint8
	switch outer & 3 {
	case ecnCE:
		if inner == ecnNotECT {
			return false
		}
		want = ecnCE
	case ecnECT1:
		if inner != ecnECT0 {
			return true
		}
		want = ecnECT1
	default:
		return true
	}
	if want == inner {
		return true
	}
	if v6 {
		b[1] = b[1]&^0x30 | want<<4
		return true
	}
	old := binary.BigEndian.Uint16(b)
	b[1] = b[1]&^3 | want
	binary.BigEndian.PutUint16(b[10:], updateChecksum(binary.BigEndian.Uint16(b[10:]), old, binary.BigEndian.Uint16(b)))
	return true
}
