package engine

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/internal/wholesend"
)

// readErrorPause is how long a socket that cannot be read is left alone.
const readErrorPause = 50 * time.Millisecond

// ikeSocket is the engine's own UDP socket, usually of port 500. It learns and
// chooses the local address of each datagram, as a host with several has to
// answer from the one it was asked at (RFC 7296, Section 2.11).
type ikeSocket struct {
	conn *net.UDPConn
	raw  syscall.RawConn
	port uint16
	v6   bool // also speaks IPv4, if bound to the unspecified address
	// sending is of who sends: a probe needs other options of the socket.
	sending sync.Mutex
}

func listenIKE(addr netip.AddrPort, mark uint32) (*ikeSocket, error) {
	network := "udp4"
	if addr.Addr().Is6() {
		network = "udp"
	}
	conn, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(addr))
	if errors.Is(err, unix.EAFNOSUPPORT) && addr.Addr() == netip.IPv6Unspecified() {
		// A host without IPv6: everything that there is.
		return listenIKE(netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port()), mark)
	}
	if err != nil {
		return nil, fmt.Errorf("listen for IKE on %s: %w", addr, err)
	}
	s := &ikeSocket{conn: conn, v6: addr.Addr().Is6()}
	s.port = conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	s.raw, err = conn.SyscallConn()
	if err == nil {
		err = errors.Join(s.askForLocalAddress(), s.mark(mark))
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("prepare IKE socket on %s: %w", addr, err)
	}
	return s, nil
}

func (s *ikeSocket) mark(mark uint32) (err error) {
	if mark == 0 {
		return nil
	}
	control := s.raw.Control(func(fd uintptr) {
		err = os.NewSyscallError("SO_MARK", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark)))
	})
	return errors.Join(control, err)
}

func (s *ikeSocket) askForLocalAddress() error {
	var err error
	control := s.raw.Control(func(fd uintptr) {
		if s.v6 {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		}
	})
	if control != nil {
		return control
	}
	return err
}

// run delivers until the socket is closed. The data is valid only during the
// call.
func (s *ikeSocket) run(deliver func(local, remote netip.AddrPort, b []byte)) {
	buf := make([]byte, 1<<16)
	oob := make([]byte, 128)
	for {
		n, oobn, flags, remote, err := s.conn.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(readErrorPause) // it may last; do not spin
			continue
		}
		if flags&unix.MSG_TRUNC != 0 {
			continue
		}
		local := netip.AddrPortFrom(localAddress(oob[:oobn]), s.port)
		deliver(local, netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port()), buf[:n])
	}
}

// localAddress reads the destination address from the control messages.
func localAddress(oob []byte) netip.Addr {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.Addr{}
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			return netip.AddrFrom4([4]byte(m.Data[8:12])) // ipi_addr

		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			return netip.AddrFrom16([16]byte(m.Data[:16])).Unmap() // ipi6_addr

		}
	}
	return netip.Addr{}
}

// send never waits: a datagram that does not fit the socket's buffer is lost. With probe
// it is as dataplane.IKESender's SendProbe.
func (s *ikeSocket) send(local, remote netip.AddrPort, b []byte, probe bool) error {
	var to unix.Sockaddr
	var oob []byte
	if s.v6 {
		to = &unix.SockaddrInet6{Port: int(remote.Port()), Addr: remote.Addr().As16()}
		if specified(local.Addr()) {
			oob = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: local.Addr().As16()})
		}
	} else {
		if !remote.Addr().Unmap().Is4() {
			return fmt.Errorf("send to %s: the IKE socket is for IPv4 only", remote)
		}
		to = &unix.SockaddrInet4{Port: int(remote.Port()), Addr: remote.Addr().Unmap().As4()}
		if specified(local.Addr()) && local.Addr().Unmap().Is4() {
			oob = unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: local.Addr().Unmap().As4()})
		}
	}
	s.sending.Lock()
	defer s.sending.Unlock()
	var err error
	rawErr := s.raw.Write(func(fd uintptr) bool {
		send := func() error { return unix.Sendmsg(int(fd), b, oob, to, unix.MSG_DONTWAIT) }
		if probe {
			err = wholesend.Do(int(fd), s.v6, send)
		} else {
			err = send()
		}
		return true // also when the buffer is full: do not wait for room
	})
	if errors.Is(err, unix.EMSGSIZE) && probe {
		err = dataplane.ErrTooLong
	}
	if rawErr != nil {
		err = rawErr
	}
	if err != nil {
		return fmt.Errorf("send %d octets from %s to %s: %w", len(b), local, remote, err)
	}
	return nil
}

func specified(a netip.Addr) bool { return a.IsValid() && !a.IsUnspecified() }

// localFor returns the address that the host's routing gives a datagram to
// remote: that of a connected socket, which sends nothing.
func (s *ikeSocket) localFor(remote netip.Addr) (netip.AddrPort, error) {
	if bound := s.conn.LocalAddr().(*net.UDPAddr).AddrPort(); specified(bound.Addr()) {
		return bound, nil
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(remote, s.port)))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("find the local address towards %s: %w", remote, err)
	}
	defer conn.Close()
	local := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(local.Addr().Unmap(), s.port), nil
}

func (s *ikeSocket) close() { s.conn.Close() }
