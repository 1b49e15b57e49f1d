package userspace

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// maxLanes is how many source addresses have a lane of their own.
	maxLanes = 8
	// maxSources bounds what is remembered of them.
	maxSources = 256
)

// lane is one UDP socket that sends from the NAT traversal port. What waits in the
// queue of a network device is charged to the socket that sent it, so with one
// socket for all a slow uplink would stall every other one, and IKE with it.
// Each transmitter has a lane for each source address, which stands for an uplink; SAs
// that share an uplink share its rate anyway.
type lane struct {
	fd      int
	closing atomic.Bool // who waits for room gives up
	// fragments says that datagrams of IPv4 go without DF. It is of the
	// transmitter whose lane it is.
	fragments bool
}

// wake ends the waiting of who sends.
func (l *lane) wake() { l.closing.Store(true) }

func (l *lane) close() error { return unix.Close(l.fd) }

// prepare enlarges the socket's buffers, past the system's limit where allowed,
// and has it discover path MTUs, whatever net.ipv4.ip_no_pmtu_disc says.
func (l *lane) prepare(mark uint32) error {
	l.enlarge()
	return errors.Join(l.setMark(mark), l.discoverPaths())
}

// setMark puts a mark on all that is sent, 0 for none.
func (l *lane) setMark(mark uint32) error {
	if mark == 0 {
		return nil
	}
	if err := unix.SetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
		return fmt.Errorf("set SO_MARK: %w", err)
	}
	return nil
}

func (l *lane) enlarge() {
	for force, plain := range map[int]int{unix.SO_RCVBUFFORCE: unix.SO_RCVBUF, unix.SO_SNDBUFFORCE: unix.SO_SNDBUF} {
		if unix.SetsockoptInt(l.fd, unix.SOL_SOCKET, force, socketBuffer) != nil {
			unix.SetsockoptInt(l.fd, unix.SOL_SOCKET, plain, socketBuffer)
		}
	}
}

func (l *lane) discoverPaths() error {
	if err := unix.SetsockoptInt(l.fd, unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_WANT); err != nil {
		return fmt.Errorf("set IP_MTU_DISCOVER: %w", err)
	}
	return nil
}

// onlyIPv6 has an IPv6 socket leave IPv4 alone unless it listens on all addresses.
func (l *lane) onlyIPv6(addr netip.Addr) error {
	only := 0
	if addr.Is6() && !addr.IsUnspecified() {
		only = 1
	}
	if err := unix.SetsockoptInt(l.fd, unix.SOL_IPV6, unix.IPV6_V6ONLY, only); err != nil {
		return fmt.Errorf("set IPV6_V6ONLY: %w", err)
	}
	return nil
}

func (l *lane) bindTo(name *sockaddr) unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(l.fd), uintptr(unsafe.Pointer(&name.raw[0])), uintptr(name.length))
	return errno
}

// allowFragments says whether the datagrams that follow go without DF. With it
// the kernel still fragments what it knows not to pass, and this host learns of
// narrow paths.
func (l *lane) allowFragments(yes bool) {
	if yes == l.fragments {
		return
	}
	mode := unix.IP_PMTUDISC_WANT
	if yes {
		mode = unix.IP_PMTUDISC_DONT
	}
	if unix.SetsockoptInt(l.fd, unix.SOL_IP, unix.IP_MTU_DISCOVER, mode) == nil {
		l.fragments = yes
	}
}

// lanes are those of one transmitter, which gives them to source addresses. They are
// opened with the socket, in its network namespace.
type lanes struct {
	socket   *socket
	all      []*lane
	bySource map[netip.Addr]*lane
}

// newLanes makes the lanes of one transmitter; where there can be none the socket is
// the only one.
func (s *socket) newLanes() (*lanes, error) {
	x := &lanes{socket: s, bySource: map[netip.Addr]*lane{}}
	for s.shared && len(x.all) < maxLanes {
		l, err := s.newLane()
		if err != nil {
			return x, err
		}
		x.all = append(x.all, l)
	}
	return x, nil
}

// saw notes that packets leave from source.
func (s *socket) saw(source netip.Addr) {
	if !s.first.CompareAndSwap(nil, &source) && *s.first.Load() != source {
		s.several.Store(true)
	}
}

// find returns the lane for packets to e.
func (x *lanes) find(e *endpoint) *lane {
	if len(x.all) == 0 {
		return &x.socket.lane
	}
	source := e.local.Addr()
	if !source.IsValid() || source.IsUnspecified() {
		source, _ = x.socket.probes.source(e.remote.Addr()) // else they share one
	}
	l := x.bySource[source]
	if l == nil {
		if len(x.bySource) >= maxSources {
			clear(x.bySource) // of addresses that this host had; lanes in use stay
		}
		l = x.all[len(x.bySource)%maxLanes]
		x.bySource[source] = l
		x.socket.saw(source)
	}
	return l
}

func (s *socket) newLane() (*lane, error) {
	fd, err := unix.Socket(s.family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	l := &lane{fd: fd}
	if err := s.bindLane(l); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return l, nil
}

// bindLane binds l to the socket's port, for which both must agree to share it. From
// then on a process of the same user may join as well, and gets nothing.
func (s *socket) bindLane(l *lane) error {
	if err := l.prepare(s.mark); err != nil {
		return err
	}
	if s.family == unix.AF_INET6 {
		if err := l.onlyIPv6(s.local.Addr()); err != nil {
			return err
		}
	}
	for _, fd := range []int{s.fd, l.fd} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return err
		}
	}
	name := s.sockaddrOf(s.local)
	if errno := l.bindTo(&name); errno != 0 {
		return errno
	}
	return nil
}
