package userspace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socketBuffer is what the UDP socket asks for in each direction, in octets:
// enough for the bursts that segmentation offload makes.
const socketBuffer = 7 << 20

// socket is the UDP socket of the NAT traversal port (RFC 3948). With an
// unspecified listening address it is one of IPv6 that takes IPv4 too, so that
// one goroutine receives for every SA.
//
// It receives IKE, and sends it. What the transmitter sends goes by lanes, and ESP is
// received by further sockets of the port, so that a flood of it takes the room of few
// others and none of IKE.
type socket struct {
	lane
	family int
	local  netip.AddrPort // port never 0
	mark   uint32         // of all that is sent
	shared bool           // the kernel lets several sockets have the port
	// intakes are those of the receivers, and own all that receives, IKE's in the first.
	intakes []*intake
	lanes   []*lanes
	first   atomic.Pointer[netip.Addr] // source address that was seen
	several atomic.Bool                // there were others
	probes  *probes
}

// probes ask the routing table. They send nothing.
type probes struct {
	mu sync.Mutex
	fd [2]int // of IPv4 and of IPv6; -1: the host has no IPv6
}

// openSocket binds listen; an invalid or unspecified address is all of both
// families. It makes as many intakes, and sets of lanes, as there are workers, where the
// kernel can.
func openSocket(listen netip.AddrPort, mark uint32, workers int) (*socket, error) {
	s := &socket{family: unix.AF_INET6, mark: mark}
	addr := listen.Addr().Unmap()
	if addr.Is4() && !addr.IsUnspecified() {
		s.family = unix.AF_INET
	}
	const kind = unix.SOCK_DGRAM | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	fd, err := unix.Socket(s.family, kind, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) && !addr.Is6() {
		s.family = unix.AF_INET // a host without IPv6
		fd, err = unix.Socket(s.family, kind, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("open UDP socket: %w", err)
	}
	s.fd = fd
	if err := s.bind(addr, listen.Port(), workers); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind UDP %s: %w", listen, err)
	}
	s.probes = openProbes(mark)
	if !s.shared {
		workers = 1
	}
	// The kernel counts the sockets of the port in the order in which they were bound.
	if err := s.openIntakes(workers); err != nil {
		s.close()
		return nil, err
	}
	if err := s.openLanes(workers); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// openIntakes opens what receives, in the order that steering has.
func (s *socket) openIntakes(workers int) error {
	for i := range workers {
		in, err := openIntake()
		if err != nil {
			return err
		}
		s.intakes = append(s.intakes, in)
		if i > 0 {
			continue
		}
		if err := in.add(s.fd); err != nil {
			return err
		}
	}
	if !s.shared {
		return nil
	}
	for i := range workers * queuesOfIntake {
		l, err := s.newLane()
		if err != nil {
			return fmt.Errorf("open further socket to receive: %w", err)
		}
		if err := errors.Join(s.intakes[i%workers].add(l.fd), s.receiveInfo(l.fd, s.local.Addr())); err != nil {
			return err
		}
	}
	return nil
}

func (s *socket) openLanes(workers int) error {
	for len(s.lanes) < workers {
		x, err := s.newLanes()
		s.lanes = append(s.lanes, x)
		if err != nil {
			return fmt.Errorf("open socket to send: %w", err)
		}
	}
	return nil
}

// openProbes opens probes that are routed like what has the mark.
func openProbes(mark uint32) *probes {
	p := &probes{}
	for i, family := range []int{unix.AF_INET, unix.AF_INET6} {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			p.fd[i] = -1
			continue
		}
		if p.fd[i] = fd; mark != 0 {
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)) // the socket has told of errors
		}
	}
	return p
}

func (p *probes) close() {
	for _, fd := range p.fd {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

func (s *socket) close() (err error) {
	s.probes.close()
	for _, x := range s.lanes {
		for _, l := range x.all {
			err = errors.Join(err, l.close())
		}
	}
	if len(s.intakes) == 0 {
		return errors.Join(err, s.lane.close()) // which none has taken over
	}
	for _, in := range s.intakes {
		err = errors.Join(err, in.close())
	}
	return err
}

// wake ends the waiting of all goroutines.
func (s *socket) wake(past time.Time) (err error) {
	s.lane.wake()
	for _, x := range s.lanes {
		for _, l := range x.all {
			l.wake()
		}
	}
	for _, in := range s.intakes {
		err = errors.Join(err, in.setDeadline(past))
	}
	return err
}

func (s *socket) bind(addr netip.Addr, port uint16, workers int) error {
	if err := s.prepare(s.mark); err != nil {
		return err
	}
	s.shared = s.sharePort(workers) == nil
	if s.family == unix.AF_INET6 {
		if err := s.onlyIPv6(addr); err != nil {
			return err
		}
	}
	if err := s.receiveInfo(s.fd, addr); err != nil {
		return err
	}
	if !addr.IsValid() {
		addr = netip.IPv6Unspecified()
	}
	if s.family == unix.AF_INET && addr.Is6() {
		addr = netip.IPv4Unspecified()
	}
	name := s.sockaddrOf(netip.AddrPortFrom(addr, port))
	errno := s.bindTo(&name)
	if errno == unix.EADDRINUSE {
		return fmt.Errorf("%w (another IPsec daemon runs on this host?)", errno)
	}
	if errno != 0 {
		return errno
	}
	bound, err := socketName(s.fd)
	s.local = bound
	return err
}

// receiveInfo has received datagrams merged, and their traffic class and the address
// that they came to reported.
func (s *socket) receiveInfo(fd int, addr netip.Addr) error {
	unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1) // Linux 5.0; without it one datagram at a time comes
	if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVTOS, 1); err != nil {
		return fmt.Errorf("enable IP_RECVTOS: %w", err)
	}
	if err := reportWay(fd, false); err != nil {
		return err
	}
	if s.family == unix.AF_INET {
		if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_PKTINFO, 1); err != nil {
			return fmt.Errorf("enable IP_PKTINFO: %w", err)
		}
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVTCLASS, 1); err != nil {
		return fmt.Errorf("enable IPV6_RECVTCLASS: %w", err)
	}
	// Reports mapped addresses for IPv4 too.
	if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1); err != nil {
		return fmt.Errorf("enable IPV6_RECVPKTINFO: %w", err)
	}
	return reportWay(fd, true)
}

func socketName(fd int) (netip.AddrPort, error) {
	var raw [unix.SizeofSockaddrInet6]byte
	length := uint32(len(raw))
	_, _, errno := unix.Syscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&raw[0])), uintptr(unsafe.Pointer(&length)))
	if errno != 0 {
		return netip.AddrPort{}, fmt.Errorf("read socket address: %w", errno)
	}
	return addrPort(raw[:]), nil
}

// source asks which address packets to remote leave from.
func (p *probes) source(remote netip.Addr) (source netip.Addr, err error) {
	err = p.ask(remote, func(fd int) error {
		bound, err := socketName(fd)
		source = bound.Addr()
		return err
	})
	return source, err
}

// mtu asks for the MTU of the path to remote, as far as the kernel has learnt it
// from its own interface and from ICMP.
func (p *probes) mtu(remote netip.Addr) (mtu int, err error) {
	level, option := unix.SOL_IP, unix.IP_MTU
	if remote.Is6() {
		level, option = unix.SOL_IPV6, unix.IPV6_MTU
	}
	err = p.ask(remote, func(fd int) error {
		mtu, err = unix.GetsockoptInt(fd, level, option)
		return err
	})
	return mtu, err
}

// ask calls f with a probe that is connected to remote, and makes it forget that.
func (p *probes) ask(remote netip.Addr, f func(fd int) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	probe, fd := socket{family: unix.AF_INET6}, p.fd[1]
	if remote.Is4() {
		probe.family, fd = unix.AF_INET, p.fd[0]
	}
	if fd < 0 {
		return unix.EAFNOSUPPORT
	}
	name := probe.sockaddrOf(netip.AddrPortFrom(remote, 9))
	connect := func() unix.Errno {
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&name.raw[0])), uintptr(name.length))
		return errno
	}
	defer func() {
		name.raw = [unix.SizeofSockaddrInet6]byte{} // AF_UNSPEC
		connect()
	}()
	if errno := connect(); errno != 0 {
		return errno
	}
	return f(fd)
}

// received is what the ancillary data of a datagram said.
type received struct {
	segment int   // size of each datagram that was merged, 0 if none was
	class   uint8 // DSCP and ECN of the outer header
	way     bool  // there were headers for the way
	local   netip.Addr
}

// nextControl takes the first message off ancillary data, nil if there is none.
func nextControl(oob []byte) (h *unix.Cmsghdr, data, rest []byte) {
	if len(oob) < unix.SizeofCmsghdr {
		return nil, nil, nil
	}
	h = (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
	size := int(h.Len)
	if size < unix.CmsgLen(0) || size > len(oob) {
		return nil, nil, nil
	}
	return h, oob[unix.CmsgLen(0):size], oob[min(unix.CmsgSpace(size-unix.CmsgLen(0)), len(oob)):]
}

// parseControl reads the ancillary data oob; local only if wanted, which costs.
func parseControl(oob []byte, wantLocal bool) received {
	var r received
	for {
		h, data, rest := nextControl(oob)
		switch oob = rest; {
		case h == nil:
			return r
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(data) >= 4:
			r.segment = int(binary.NativeEndian.Uint32(data))
		case h.Level == unix.SOL_IP && h.Type == unix.IP_TOS && len(data) >= 1:
			r.class = data[0]
		case h.Level == unix.SOL_IPV6 && h.Type == unix.IPV6_TCLASS && len(data) >= 4:
			r.class = uint8(binary.NativeEndian.Uint32(data))
		case wantLocal && h.Level == unix.SOL_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			r.local = netip.AddrFrom4([4]byte(data[8:])) // ipi_addr
		case wantLocal && h.Level == unix.SOL_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			r.local = netip.AddrFrom16([16]byte(data)).Unmap()
		case h.Level == unix.SOL_IP && h.Type == unix.IP_RECVOPTS,
			h.Level == unix.SOL_IPV6 && (h.Type == unix.IPV6_HOPOPTS || h.Type == unix.IPV6_RTHDR || h.Type == unix.IPV6_DSTOPTS):
			r.way = true
		}
	}
}

// reportWay has the headers for the way of received packets reported.
func reportWay(fd int, v6 bool) error {
	if !v6 {
		if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVOPTS, 1); err != nil {
			return fmt.Errorf("enable IP_RECVOPTS: %w", err)
		}
		return nil
	}
	for _, option := range []int{unix.IPV6_RECVHOPOPTS, unix.IPV6_RECVRTHDR, unix.IPV6_RECVDSTOPTS} {
		if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, option, 1); err != nil {
			return fmt.Errorf("have IPv6 extension headers reported: %w", err)
		}
	}
	return nil
}
