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

// RoutedPlane is a Plane that leaves to the host's routes how long inner packets may be:
// the MTU of a route is what the host fragments to, what it tells senders whose packets
// are too long, and what its own connections keep to.
type RoutedPlane interface {
	Plane

	// InnerMTUs returns, by tunnel, the longest packet in octets that all its outbound SAs
	// in tunnel mode carry whole, of those tunnels alone whose path takes less than the
	// host knows (SetPathMTU).
	InnerMTUs() map[string]int

	// InnerMTUsChanged gets a value after they changed.
	InnerMTUsChanged() <-chan struct{}
}
