package stun

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// readErrorPause is how long a socket that cannot be read is left alone.
const readErrorPause = 50 * time.Millisecond

// Server answers on two ports.
type Server struct {
	conns    []packetConn
	ports    []uint32
	observed func(Result)
}

// packetConn is a socket that tells at which of the host's addresses a datagram came, and
// sends from one.
type packetConn interface {
	read(b []byte) (n int, from netip.AddrPort, to net.IP, err error)
	write(b []byte, to netip.AddrPort, from net.IP) error
	Close() error
}

// Listen binds the UDP port of address, `host:port`, and the next one; two that are free if
// it is 0. An unspecified host is all of this one's addresses, of both families, as it is for
// TCP. What becomes of each datagram is told to observed, by several goroutines.
func Listen(ctx context.Context, address string, observed func(Result)) (*Server, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil || port == 65535 {
		return nil, fmt.Errorf("listen on %s: want a port from 0 to 65534, as the next one is used too", address)
	}
	s := &Server{observed: observed}
	for i := range uint16(2) {
		at := uint16(port)
		if at != 0 {
			at += i
		}
		if err := s.bind(ctx, host, at); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// bind binds one port, and takes note of it. Each family has a socket of its own: that of a
// socket which has both cannot be told where to send from.
func (s *Server) bind(ctx context.Context, host string, port uint16) error {
	networks := map[string]string{"udp": host}
	if addr, err := netip.ParseAddr(host); host == "" || err == nil && addr.IsUnspecified() {
		networks = map[string]string{"udp4": "0.0.0.0", "udp6": "::"}
	}
	for _, network := range slices.Sorted(maps.Keys(networks)) {
		c, bound, err := listen(ctx, network, net.JoinHostPort(networks[network], strconv.Itoa(int(port))))
		if errors.Is(err, syscall.EAFNOSUPPORT) && len(networks) > 1 && network == "udp6" {
			continue // a host without IPv6
		}
		if err != nil {
			return err
		}
		port = bound
		s.conns = append(s.conns, c)
	}
	s.ports = append(s.ports, uint32(port))
	return nil
}

func listen(ctx context.Context, network, address string) (packetConn, uint16, error) {
	var cfg net.ListenConfig
	c, err := cfg.ListenPacket(ctx, network, address)
	if err != nil {
		return nil, 0, err
	}
	local := c.LocalAddr().(*net.UDPAddr).AddrPort()
	if local.Addr().Unmap().Is4() {
		p := ipv4.NewPacketConn(c)
		return conn4{p}, local.Port(), p.SetControlMessage(ipv4.FlagDst, true)
	}
	p := ipv6.NewPacketConn(c)
	return conn6{p}, local.Port(), p.SetControlMessage(ipv6.FlagDst, true)
}

// Ports are those that the server answers on.
func (s *Server) Ports() []uint32 { return s.ports }

// Close ends Serve.
func (s *Server) Close() {
	for _, c := range s.conns {
		c.Close() // a socket that was bound has nothing to say about that
	}
}

// Serve answers until Close.
func (s *Server) Serve() {
	var all sync.WaitGroup
	for _, c := range s.conns {
		all.Go(func() { s.serve(c) })
	}
	all.Wait()
}

func (s *Server) serve(c packetConn) {
	var a Answerer
	limits := newLimiter()
	buf := make([]byte, maxRequest+1)
	for {
		n, from, to, err := c.read(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			time.Sleep(readErrorPause) // it may last; do not spin
			continue
		case !limits.allow(from.Addr(), time.Now()):
			s.observed(Limited)
			continue
		}
		answer, result := a.Answer(from, buf[:n])
		if result == Answered && c.write(answer, from, to) != nil {
			result = SendFailed
		}
		s.observed(result)
	}
}

type conn4 struct{ *ipv4.PacketConn }

func (c conn4) read(b []byte) (int, netip.AddrPort, net.IP, error) {
	n, cm, from, err := c.ReadFrom(b)
	if err != nil {
		return 0, netip.AddrPort{}, nil, err
	}
	var to net.IP
	if cm != nil {
		to = cm.Dst
	}
	return n, from.(*net.UDPAddr).AddrPort(), to, nil
}

func (c conn4) write(b []byte, to netip.AddrPort, from net.IP) error {
	_, err := c.WriteTo(b, &ipv4.ControlMessage{Src: from}, net.UDPAddrFromAddrPort(to))
	return err
}

type conn6 struct{ *ipv6.PacketConn }

func (c conn6) read(b []byte) (int, netip.AddrPort, net.IP, error) {
	n, cm, from, err := c.ReadFrom(b)
	if err != nil {
		return 0, netip.AddrPort{}, nil, err
	}
	var to net.IP
	if cm != nil {
		to = cm.Dst
	}
	return n, from.(*net.UDPAddr).AddrPort(), to, nil
}

func (c conn6) write(b []byte, to netip.AddrPort, from net.IP) error {
	_, err := c.WriteTo(b, &ipv6.ControlMessage{Src: from}, net.UDPAddrFromAddrPort(to))
	return err
}
