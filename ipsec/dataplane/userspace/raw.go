package userspace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// IP protocol numbers of what goes without UDP encapsulation.
const (
	protoESP = 50
	protoAH  = 51
)

// rawSocket sends and receives ESP or AH as an IP protocol, of one family. There is
// no segmentation offload for it: each packet costs a system call.
//
// AH covers the IP header, so that its sender writes that itself. For ESP the
// kernel does, and fragments what is too long.
type rawSocket struct {
	lane
	intake  *intake // owns the socket
	v6, ah  bool
	sending sync.Mutex // of who sends, and sets what is to be set for that
}

// rawSockets are one of each family and protocol, nil where there can be none.
type rawSockets struct {
	all [4]*rawSocket
	err error // why there are not all of them
}

func rawIndex(v6, ah bool) (i int) {
	if v6 {
		i = 2
	}
	if ah {
		i++
	}
	return i
}

// openRaw opens what can be had: a process may lack CAP_NET_RAW, and a host IPv6.
// listen is as in openSocket.
func openRaw(listen netip.Addr, mark uint32) (r rawSockets) {
	listen = listen.Unmap()
	for _, v6 := range []bool{false, true} {
		if listen.IsValid() && !listen.IsUnspecified() && listen.Is6() != v6 {
			continue
		}
		for _, ah := range []bool{false, true} {
			s, err := newRawSocket(v6, ah, listen, mark)
			if err != nil {
				r.err = errors.Join(r.err, err)
				continue
			}
			r.all[rawIndex(v6, ah)] = s
		}
	}
	return r
}

func newRawSocket(v6, ah bool, listen netip.Addr, mark uint32) (*rawSocket, error) {
	s := &rawSocket{v6: v6, ah: ah}
	family, protocol := unix.AF_INET, protoESP
	if v6 {
		family = unix.AF_INET6
	}
	if ah {
		protocol = protoAH
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("open raw socket of IP protocol %d: %w (CAP_NET_RAW?)", protocol, err)
	}
	s.fd = fd
	if err := errors.Join(s.setMark(mark), s.configure(listen)); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("raw socket of IP protocol %d: %w", protocol, err)
	}
	if s.intake, err = openIntake(); err != nil {
		unix.Close(fd)
		return nil, err
	}
	if err := s.intake.add(fd); err != nil {
		return nil, errors.Join(err, s.intake.close())
	}
	return s, nil
}

func (s *rawSocket) configure(listen netip.Addr) error {
	s.enlarge()
	level, includeHeader, info := unix.SOL_IP, unix.IP_HDRINCL, unix.IP_PKTINFO
	if s.v6 {
		level, includeHeader, info = unix.SOL_IPV6, unix.IPV6_HDRINCL, unix.IPV6_RECVPKTINFO
		if err := unix.SetsockoptInt(s.fd, level, unix.IPV6_RECVTCLASS, 1); err != nil {
			return fmt.Errorf("enable IPV6_RECVTCLASS: %w", err)
		}
		if err := reportWay(s.fd, true); err != nil {
			return err
		}
	} else if err := s.discoverPaths(); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(s.fd, level, info, 1); err != nil {
		return fmt.Errorf("have destination addresses reported: %w", err)
	}
	if s.ah {
		if err := unix.SetsockoptInt(s.fd, level, includeHeader, 1); err != nil {
			return fmt.Errorf("write IP headers: %w", err)
		}
	}
	if !listen.IsValid() || listen.IsUnspecified() {
		return nil
	}
	name := s.sockaddrOf(listen)
	if errno := s.bindTo(&name); errno != 0 {
		return errno
	}
	return nil
}

// sockaddrOf is that of a peer: raw sockets have no port.
func (s *rawSocket) sockaddrOf(a netip.Addr) sockaddr {
	family := socket{family: unix.AF_INET}
	if s.v6 {
		family.family = unix.AF_INET6
	}
	return family.sockaddrOf(netip.AddrPortFrom(a, 0))
}

// prepare writes the ancillary data of sends to e, which an IP header of its own makes
// needless.
func (s *rawSocket) prepare(e *endpoint, outer outerHeader, c *control) {
	if s.ah {
		return
	}
	family := unix.AF_INET
	if s.v6 {
		family = unix.AF_INET6
	}
	c.addSource(family, e.local.Addr())
	if outer.class != 0 {
		c.addClass(outer.class, !s.v6)
	}
}

// room is how many octets are to be free before a received message: the kernel keeps
// the IPv6 headers for itself.
func (s *rawSocket) room() int {
	if s == nil || !s.v6 {
		return 0
	}
	return ipv6HeaderLen + maxWay
}

// each calls f for every socket there is.
func (r *rawSockets) each(f func(*rawSocket)) {
	for _, s := range r.all {
		if s != nil {
			f(s)
		}
	}
}

func (r *rawSockets) wake(past time.Time) (err error) {
	r.each(func(s *rawSocket) {
		s.wake()
		err = errors.Join(err, s.intake.setDeadline(past))
	})
	return err
}

func (r *rawSockets) close() (err error) {
	r.each(func(s *rawSocket) { err = errors.Join(err, s.intake.close()) })
	return err
}

// to returns the socket for packets to a, or an error that says what is missing.
func (r *rawSockets) to(a netip.Addr, ah bool) (*rawSocket, error) {
	if s := r.all[rawIndex(a.Is6(), ah)]; s != nil {
		return s, nil
	}
	if r.err != nil {
		return nil, fmt.Errorf("no way to %s without UDP encapsulation: %w", a, r.err)
	}
	return nil, fmt.Errorf("no way to %s: the data plane listens on an address of the other family", a)
}

// rawMessage handles what a raw socket received: one packet, put together if it came
// in fragments, in IPv4 with its IP header.
func (r *receiver) rawMessage(i int) {
	s, n := r.in.raw, int(r.in.messages[i].n)
	b := r.in.slabs[i][: s.room()+n : s.room()+n]
	at := 0
	if s.v6 {
		b, at = r.ipv6Headers(i, b)
	} else {
		if n < ipv4HeaderLen || n < int(b[0]&15)*4 {
			r.plane.stats.malformed.Add(1)
			return
		}
		r.class, at = b[1], int(b[0]&15)*4
		r.way.options4(b[ipv4HeaderLen:at])
	}
	switch rest := b[at:]; {
	case len(rest) < minAH:
		r.plane.stats.malformed.Add(1)
	case s.ah && r.way.lost:
		r.plane.stats.malformed.Add(1)
	case s.ah:
		r.protected(binary.BigEndian.Uint32(rest[4:]), b)
	default:
		r.protected(binary.BigEndian.Uint32(rest), rest)
	}
}

// minAH is the least that is looked at of a raw message, in octets: less than either
// protocol needs.
const minAH = 12

// ipv6Headers writes the headers before what the socket gave, which is at the end of b,
// and returns where they begin and how long they are. Flow label and hop limit, which AH
// does not cover (RFC 4302, Section 3.3.3.1.2.1), are new.
func (r *receiver) ipv6Headers(i int, b []byte) (packet []byte, headers int) {
	info := parseControl(r.in.control(i), true)
	if r.class, r.way.n, r.way.lost = info.class, 0, false; info.way {
		r.way.received(r.in.control(i), r.in.truncated(i))
	}
	headers = ipv6HeaderLen + r.way.n
	b = b[r.in.raw.room()-headers:]
	source := netip.AddrFrom16([16]byte(r.source[sockaddrAddr6:]))
	writeHeader(b, outerHeader{class: r.class}, protoAH, source, info.local)
	r.way.put(b, protoAH)
	return b, headers
}

// takesAH reports whether the packets at hand are of AH.
func (r *receiver) takesAH() bool { return !r.stream.set && r.in.raw != nil && r.in.raw.ah }
