package xfrm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/internal/wholesend"
)

// maxIKEMessage is what SendIKE takes, in octets.
const maxIKEMessage = 65000

// nonESPMarker stands before IKE messages where an SPI would be (RFC 3948,
// Section 2.2).
var nonESPMarker = []byte{0, 0, 0, 0}

// sockets are those of the NAT traversal port, of IPv4 and of IPv6, either of which
// may be missing. The kernel takes ESP and keepalives out of what arrives.
type sockets struct {
	listen netip.AddrPort
	v4, v6 *net.UDPConn
	probes [2]int // for the source address to a destination, IPv4 and IPv6; -1 for none
	mu     sync.Mutex
	once   sync.Once
	// sending is of who sends: a probe needs other options of the socket.
	sending sync.Mutex
}

func openSockets(listen netip.AddrPort, mark uint32) (*sockets, error) {
	s := &sockets{listen: netip.AddrPortFrom(listen.Addr().Unmap(), listen.Port()), probes: [2]int{-1, -1}}
	any := !s.listen.Addr().IsValid() || s.listen.Addr().IsUnspecified()
	var err error
	if any || s.listen.Addr().Is4() {
		s.v4, err = openSocket("udp4", s.listen, mark)
	}
	if err == nil && (any || s.listen.Addr().Is6()) {
		s.v6, err = openSocket("udp6", s.listen, mark)
		if any && errors.Is(err, unix.EAFNOSUPPORT) {
			err = nil // a host without IPv6
		}
	}
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("open UDP port %d: %w", listen.Port(), err)
	}
	for i, family := range []int{unix.AF_INET, unix.AF_INET6} {
		if fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil {
			setMark(fd, mark) // the others have told of errors
			s.probes[i] = fd
		}
	}
	return s, nil
}

func openSocket(network string, listen netip.AddrPort, mark uint32) (*net.UDPConn, error) {
	address := fmt.Sprintf(":%d", listen.Port())
	if a := listen.Addr(); a.IsValid() && !a.IsUnspecified() {
		address = listen.String()
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		ctl := c.Control(func(fd uintptr) {
			if err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_ENCAP, unix.UDP_ENCAP_ESPINUDP); err != nil {
				err = fmt.Errorf("have the kernel take ESP in UDP: %w", err)
				return
			}
			if err = setMark(int(fd), mark); err != nil {
				return
			}
			if network == "udp4" {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
			} else {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
			}
		})
		return errors.Join(ctl, err)
	}}
	conn, err := config.ListenPacket(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

func setMark(fd int, mark uint32) error {
	if mark == 0 {
		return nil
	}
	return os.NewSyscallError("SO_MARK", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)))
}

func (s *sockets) stop() {
	s.once.Do(func() {
		for _, c := range []*net.UDPConn{s.v4, s.v6} {
			if c != nil {
				c.Close()
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for i, fd := range s.probes {
			if fd >= 0 {
				unix.Close(fd)
			}
			s.probes[i] = -1
		}
	})
}

// of is the socket that reaches an address, nil if none does.
func (s *sockets) of(a netip.Addr) *net.UDPConn {
	if a.Is4() {
		return s.v4
	}
	return s.v6
}

// source is the local address from which the host's routing sends to remote.
func (s *sockets) source(remote netip.Addr) (source netip.Addr, err error) {
	if a := s.listen.Addr(); a.IsValid() && !a.IsUnspecified() {
		return a, nil
	}
	err = s.probe(remote, func(fd int) error {
		at, err := unix.Getsockname(fd)
		switch at := at.(type) {
		case *unix.SockaddrInet4:
			source = netip.AddrFrom4(at.Addr)
		case *unix.SockaddrInet6:
			source = netip.AddrFrom16(at.Addr)
		}
		return err
	})
	return source, err
}

// probe calls ask with a socket that is connected to remote. Nothing is sent.
func (s *sockets) probe(remote netip.Addr, ask func(fd int) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	fd, to := s.probes[1], unix.Sockaddr(&unix.SockaddrInet6{Port: DefaultPort, Addr: remote.As16()})
	if remote.Is4() {
		fd, to = s.probes[0], &unix.SockaddrInet4{Port: DefaultPort, Addr: remote.As4()}
	}
	if fd < 0 {
		return net.ErrClosed
	}
	// A probe that is connected would keep its source over the next time.
	defer disconnect(fd)
	if err := unix.Connect(fd, to); err != nil {
		return err
	}
	return ask(fd)
}

// disconnect makes a UDP socket forget peer and source (connect(2), AF_UNSPEC).
func disconnect(fd int) {
	var none unix.RawSockaddr // AF_UNSPEC
	unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&none)), unsafe.Sizeof(none))
}

// send sends one datagram without waiting; whole as dataplane.IKESender's SendProbe has
// it.
func (s *sockets) send(local, remote netip.AddrPort, b []byte, whole bool) error {
	to := remote.Addr().Unmap()
	c := s.of(to)
	if c == nil {
		return fmt.Errorf("the NAT traversal port listens on %s only", s.listen)
	}
	var control []byte
	var address unix.Sockaddr
	from := local.Addr().Unmap()
	given := from.IsValid() && !from.IsUnspecified()
	if to.Is4() {
		address = &unix.SockaddrInet4{Port: int(remote.Port()), Addr: to.As4()}
		if given && from.Is4() {
			control = unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: from.As4()})
		}
	} else {
		address = &unix.SockaddrInet6{Port: int(remote.Port()), Addr: to.As16()}
		if given && from.Is6() {
			control = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: from.As16()})
		}
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	s.sending.Lock()
	defer s.sending.Unlock()
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		send := func() error { return unix.Sendmsg(int(fd), b, control, address, unix.MSG_DONTWAIT) }
		if whole {
			sent = wholesend.Do(int(fd), !to.Is4(), send)
		} else {
			sent = send()
		}
		return true
	})
	return errors.Join(err, sent)
}

// receive hands every IKE message that arrives at c to deliver, until c is closed.
func (s *sockets) receive(c *net.UDPConn, deliver func(dataplane.IKEDatagram)) {
	b, control := make([]byte, 65536), make([]byte, 128)
	for {
		n, m, _, from, err := c.ReadMsgUDPAddrPort(b, control)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue // such as a complaint by ICMP about something sent earlier
		}
		if n < len(nonESPMarker) || [4]byte(b) != [4]byte{} {
			continue
		}
		deliver(dataplane.IKEDatagram{
			Local:  netip.AddrPortFrom(arrivedAt(control[:m]), s.listen.Port()),
			Remote: netip.AddrPortFrom(from.Addr().Unmap(), from.Port()),
			Data:   b[len(nonESPMarker):n],
		})
	}
}

// arrivedAt reads the address that a datagram was sent to.
func arrivedAt(control []byte) netip.Addr {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return netip.Addr{}
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			return netip.AddrFrom4([4]byte(m.Data[8:12]))
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			return netip.AddrFrom16([16]byte(m.Data[:16]))
		}
	}
	return netip.Addr{}
}

// Listen implements dataplane.Plane.
func (p *Plane) Listen(deliver func(dataplane.IKEDatagram)) (dataplane.IKESender, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, dataplane.ErrClosed
	}
	for _, c := range []*net.UDPConn{p.sockets.v4, p.sockets.v6} {
		if c != nil {
			p.running.Go(func() { p.sockets.receive(c, deliver) })
		}
	}
	return sender{p}, nil
}

// sender implements dataplane.IKESender.
type sender struct{ plane *Plane }

// SendIKE implements dataplane.IKESender.
func (s sender) SendIKE(local, remote netip.AddrPort, b []byte) error {
	if len(b) > maxIKEMessage {
		return fmt.Errorf("send IKE message of %d octets to %s: at most %d fit", len(b), remote, maxIKEMessage)
	}
	if err := s.plane.sockets.send(local, remote, append(nonESPMarker[:4:4], b...), false); err != nil {
		return fmt.Errorf("send IKE message to %s: %w", remote, err)
	}
	return nil
}

// SendProbe implements dataplane.IKESender.
func (s sender) SendProbe(local, remote netip.AddrPort, b []byte) error {
	err := s.plane.sockets.send(local, remote, append(nonESPMarker[:4:4], b...), true)
	if errors.Is(err, unix.EMSGSIZE) {
		err = dataplane.ErrTooLong
	}
	if err != nil {
		return fmt.Errorf("send probe of %d octets to %s: %w", len(b), remote, err)
	}
	return nil
}

// SendKeepAlive implements dataplane.IKESender.
func (s sender) SendKeepAlive(local, remote netip.AddrPort) error {
	if err := s.plane.sockets.send(local, remote, []byte{0xff}, false); err != nil {
		return fmt.Errorf("send NAT keepalive to %s: %w", remote, err)
	}
	return nil
}

// LocalFor implements dataplane.IKESender.
func (s sender) LocalFor(remote netip.Addr) (netip.AddrPort, error) {
	source, err := s.plane.sockets.source(remote.Unmap())
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("find source for %s: %w", remote, err)
	}
	return netip.AddrPortFrom(source, s.plane.sockets.listen.Port()), nil
}

// PathMTU implements dataplane.IKESender.
func (s sender) PathMTU(remote netip.Addr) (int, error) {
	mtu, err := s.plane.pathMTU(remote.Unmap())
	if err != nil {
		return 0, fmt.Errorf("find path MTU to %s: %w", remote, err)
	}
	return mtu, nil
}
