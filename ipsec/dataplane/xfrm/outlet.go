package xfrm

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// outlet sends whole packets as this host.
type outlet struct {
	raw [2]int // IPv4 and IPv6, -1 for none
}

func openOutlet() (_ *outlet, err error) {
	o := &outlet{raw: [2]int{-1, -1}}
	for i, family := range []int{unix.AF_INET, unix.AF_INET6} {
		o.raw[i], err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if i == 1 && errors.Is(err, unix.EAFNOSUPPORT) {
			err = nil // a host without IPv6
		}
		if err != nil {
			o.close()
			return nil, fmt.Errorf("open raw socket: %w", err)
		}
	}
	return o, nil
}

func (o *outlet) close() {
	for _, fd := range o.raw {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// openPacket opens the socket that sends into the interface, in its network namespace.
func (l *link) openPacket() {
	if fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil {
		l.packet = fd
	}
}

// send sends a packet into the interface, whose policies protect it or drop it.
func (l *link) send(b []byte) error {
	protocol := uint16(unix.ETH_P_IPV6)
	if b[0]>>4 == 4 {
		protocol = unix.ETH_P_IP
	}
	return unix.Sendto(l.packet, b, unix.MSG_DONTWAIT, &unix.SockaddrLinklayer{Protocol: swap16(protocol), Ifindex: l.dev.Attrs().Index})
}

// asHost sends a packet of this host itself. Its route and its policies go by its source.
func (o *outlet) asHost(b []byte) error {
	source, to, _ := addressesOf(b)
	if to.Is4() {
		control := unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: source.As4()})
		return unix.Sendmsg(o.raw[0], b, control, &unix.SockaddrInet4{Addr: to.As4()}, unix.MSG_DONTWAIT)
	}
	control := unix.PktInfo6(&unix.Inet6Pktinfo{Addr: source.As16()})
	return unix.Sendmsg(o.raw[1], b, control, &unix.SockaddrInet6{Addr: to.As16()}, unix.MSG_DONTWAIT)
}

const headerLen4, headerLen6 = 20, 40

// addressesOf reads the addresses of an IP packet.
func addressesOf(b []byte) (source, destination netip.Addr, known bool) {
	switch {
	case len(b) >= headerLen4 && b[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), true
	case len(b) >= headerLen6 && b[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), true
	}
	return source, destination, false
}
