package xfrm

import (
	"encoding/binary"

	"github.com/vishvananda/netlink"
)

// The kernel's numbers, of struct xfrm_user_offload.
const (
	offloadIPv6, offloadInbound = 1, 2 // XFRM_OFFLOAD_IPV6, XFRM_OFFLOAD_INBOUND

	sizeofUserOffload = 8
)

// device is the index of the network interface that is asked to encrypt and decrypt for
// a, 0 for none: that through which the peer is reached. Interfaces do no AH, and the
// kernel asks none to do what is encapsulated or padded.
func (p *Plane) device(a *association) int {
	if !p.offload || a.Suite.AH || a.Local.Port() != 0 || a.TFC.PadTo != 0 {
		return 0
	}
	local, remote := a.Local.Addr().Unmap(), a.Remote.Addr().Unmap()
	routes, err := p.link.handle.RouteGetWithOptions(remote.AsSlice(), &netlink.RouteGetOptions{SrcAddr: local.AsSlice(), Mark: p.mark})
	if err != nil || len(routes) == 0 {
		p.logger.Debug("no network interface is found for an SA", "tunnel", a.Tunnel, "local", local, "remote", remote, "error", err)
		return 0
	}
	return routes[0].LinkIndex
}

// encodeOffload makes struct xfrm_user_offload, which asks for the cipher and no more:
// headers, sequence numbers and policies stay the kernel's.
func (s *state) encodeOffload() []byte {
	b := binary.NativeEndian.AppendUint32(make([]byte, 0, sizeofUserOffload), uint32(s.device))
	var flags byte
	if s.destination.Is6() {
		flags |= offloadIPv6
	}
	if s.inbound {
		flags |= offloadInbound
	}
	return append(b, flags, 0, 0, 0)
}
