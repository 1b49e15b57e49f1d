package xfrm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/internal/checksum"
)

// Transport mode has no routes of its own. What IKE found out about its path the kernel
// has to know of the route to the peer, as if a router on the way had said so: it is told
// by an ICMP message from this host to itself. It keeps that with the route for a time
// (net.ipv4.route.mtu_expires), so that it goes when the route changes, and leaves no
// trace. It believes no message that says more than an earlier one.

// tellInterval is how often it is told again.
const tellInterval = 30 * time.Second

// told are the paths that the kernel was told of.
type told struct {
	mu    sync.Mutex
	mtus  map[netip.Addr]int // octets of an outer datagram, by peer
	again time.Time
}

// tellPaths tells the kernel what is known of the paths of outbound SAs in transport mode:
// of those of one tunnel, or of all if that is empty.
func (p *Plane) tellPaths(tunnel string) {
	for _, a := range p.sas {
		mtu := p.paths.limits[a.Tunnel]
		if mtu == 0 || tunnel != "" && a.Tunnel != tunnel || a.Direction != dataplane.Outbound || a.Mode != dataplane.Transport {
			continue
		}
		local, remote := a.Local.Addr().Unmap(), a.Remote.Addr().Unmap()
		if err := p.tellPath(local, remote, mtu); err != nil {
			p.logger.Warn("the host does not keep to the path of a tunnel", "tunnel", a.Tunnel, "local", local, "remote", remote, "mtu", mtu, "error", err)
		}
	}
}

// tellPathsAgain does so before the kernel forgets it.
func (p *Plane) tellPathsAgain(now time.Time) {
	if len(p.paths.limits) > 0 && !now.Before(p.told.again) {
		p.told.again = now.Add(tellInterval)
		p.tellPaths("")
	}
}

func (p *Plane) tellPath(local, remote netip.Addr, mtu int) error {
	if p.outlet == nil {
		return errors.New("there are no raw sockets")
	}
	p.told.set(remote, mtu)
	if err := p.outlet.asHost(packetTooBig(local, remote, mtu)); err != nil {
		return err
	}
	has, err := p.link.routeMTU(remote, &netlink.RouteGetOptions{SrcAddr: local.AsSlice()})
	if err == nil && has > mtu {
		err = fmt.Errorf("its MTU stays %d: does it take ICMP from itself, or is the MTU of the route locked?", has)
	}
	return err
}

func (t *told) set(remote netip.Addr, mtu int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mtus[remote] = mtu
}

// own reports whether it was this process that told the kernel of a path.
func (t *told) own(remote netip.Addr, mtu int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mtus[remote] != mtu {
		delete(t.mtus, remote) // the kernel has forgotten it, or knows of less
		return false
	}
	return true
}

// pathMTU is the MTU of the path to remote as far as the kernel knows by others: what is
// asked for is whether the path has become another. It is that of the route, as sockets
// have that of what transport mode leaves of it.
func (p *Plane) pathMTU(remote netip.Addr) (int, error) {
	mtu, err := p.link.routeMTU(remote, &netlink.RouteGetOptions{Mark: p.mark})
	if err == nil && p.told.own(remote, mtu) {
		return p.link.routeMTU(remote, &netlink.RouteGetOptions{Mark: p.mark, FIBMatch: true})
	}
	return mtu, err
}

// routeMTU is the MTU of the route to an address, or of its interface.
func (l *link) routeMTU(to netip.Addr, options *netlink.RouteGetOptions) (int, error) {
	routes, err := l.handle.RouteGetWithOptions(to.AsSlice(), options)
	if err != nil {
		return 0, err
	}
	if len(routes) == 0 {
		return 0, unix.ENETUNREACH
	}
	if routes[0].MTU != 0 {
		return routes[0].MTU, nil
	}
	dev, err := l.handle.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return 0, err
	}
	return dev.Attrs().MTU, nil
}

const (
	headerLenICMP = 8
	hopLimit      = 64
)

// packetTooBig is what a router says to local that drops a packet to remote as it is
// longer than mtu octets: RFC 792 with RFC 1191, Section 4, and RFC 4443, Section 3.2. It
// quotes an answer to a ping, which belongs to no socket.
func packetTooBig(local, remote netip.Addr, mtu int) []byte {
	if !local.Is4() {
		const echoReply = 129
		quoted := header6(local, remote, headerLenICMP)
		quoted = append(quoted, echoReply, 0, 0, 0, 0, 0, 0, 0)
		b := header6(local, local, headerLenICMP+len(quoted))
		b = append(b, 2, 0, 0, 0) // Packet Too Big
		b = binary.BigEndian.AppendUint32(b, uint32(mtu))
		b = append(b, quoted...)
		body := b[headerLen6:]
		sum := checksum.PseudoIPv6(b, unix.IPPROTO_ICMPV6, len(body))
		binary.BigEndian.PutUint16(body[2:], ^checksum.Fold(checksum.Add(body, sum)))
		return b
	}
	quoted := header4(local, remote, headerLenICMP)
	quoted = append(quoted, make([]byte, headerLenICMP)...) // an echo reply is of type 0
	b := header4(local, local, headerLenICMP+len(quoted))
	b = append(b, 3, 4, 0, 0, 0, 0) // Fragmentation Needed
	b = binary.BigEndian.AppendUint16(b, uint16(mtu))
	b = append(b, quoted...)
	body := b[headerLen4:]
	binary.BigEndian.PutUint16(body[2:], ^checksum.Fold(checksum.Add(body, 0)))
	return b
}

func header4(source, destination netip.Addr, payload int) []byte {
	const dontFragment = 0x40
	b := []byte{0x45, 0, 0, 0, 0, 0, dontFragment, 0, hopLimit, unix.IPPROTO_ICMP, 0, 0}
	binary.BigEndian.PutUint16(b[2:], uint16(headerLen4+payload))
	b = append(append(b, source.AsSlice()...), destination.AsSlice()...)
	binary.BigEndian.PutUint16(b[10:], ^checksum.Fold(checksum.Add(b, 0)))
	return b
}

func header6(source, destination netip.Addr, payload int) []byte {
	b := []byte{0x60, 0, 0, 0, 0, 0, unix.IPPROTO_ICMPV6, hopLimit}
	binary.BigEndian.PutUint16(b[4:], uint16(payload))
	return append(append(b, source.AsSlice()...), destination.AsSlice()...)
}
