package dataplane

import (
	"github.com/swanherd/swanherd/ipsec/esp"
)

// Octets of headers beside those of ESP and AH.
const (
	ipv4Header = 20 // never with options (RFC 4301, Section 5.1.2.1)
	ipv6Header = 40
	udpHeader  = 8

	// maxStreamPacket is the longest ESP packet in a TCP connection: its length
	// field counts itself (RFC 9329, Section 3.1).
	maxStreamPacket = 65535 - 2
)

// InnerMTU returns the longest packet in octets that sa carries unfragmented over
// an outer path of the given MTU (RFC 4301, Section 8.2.1), 0 if none fits. In
// transport mode it is the length of the packet before ESP or AH, which is counted
// as one without options and extension headers. In a TCP connection the path does
// not matter.
func (sa *SA) InnerMTU(path int) int {
	ip := ipv4Header
	if sa.Remote.Addr().Unmap().Is6() {
		ip = ipv6Header
	}
	switch {
	case sa.Suite.AH:
		return sa.innerMTUOfAH(path, ip)
	case sa.TCP:
		return esp.MaxPayload(sa.Suite, maxStreamPacket)
	}
	room := path - ip
	if sa.Remote.Port() != 0 {
		room -= udpHeader
	}
	inner := esp.MaxPayload(sa.Suite, room)
	if sa.Mode == Transport && inner > 0 {
		inner += ip
	}
	return inner
}

func (sa *SA) innerMTUOfAH(path, ip int) int {
	length := esp.AHLen(sa.Suite, ip == ipv6Header)
	if sa.Mode == Tunnel {
		length += ip
	}
	return max(0, path-length)
}
