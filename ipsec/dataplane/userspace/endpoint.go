package userspace

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"
	"weak"

	"golang.org/x/sys/unix"
)

// sockaddr is a socket address as the kernel takes it: room for either family,
// length octets of it used. The zero value is no address.
type sockaddr struct {
	raw    [unix.SizeofSockaddrInet6]byte
	length uint32
}

// Offsets in struct sockaddr_in and sockaddr_in6.
const (
	sockaddrPort  = 2
	sockaddrAddr4 = 4
	sockaddrAddr6 = 8
	sockaddrScope = 24
)

// endpoint is where the packets of an SA go. It never changes but for path, and for
// lanes, of which each transmitter has one.
type endpoint struct {
	local, remote netip.AddrPort
	tcp           bool       // in the connection between them
	raw           *rawSocket // nil unless ESP or AH goes in IP itself
	name          sockaddr   // remote
	address       address    // remote
	path          pathMTU
	own           atomic.Pointer[endpoint] // for packets that bring their IP header, nil until one does
	lanes         [maxWorkers]*lane        // of the first inside; nil until the transmitter needs it
}

func (s *socket) newEndpoint(local, remote netip.AddrPort, tcp bool) *endpoint {
	local = netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
	remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	return &endpoint{local: local, remote: remote, tcp: tcp, name: s.sockaddrOf(remote), address: addressOf(remote.Addr())}
}

// endpoints are those in use, one for all SAs between the same addresses: what was
// learnt of the path is for all of them, and their packets leave together.
type endpoints struct {
	mu    sync.Mutex
	known map[endpointKey]weak.Pointer[endpoint]
}

type endpointKey struct {
	local, remote netip.AddrPort
	tcp, ah       bool
}

func newEndpoints() *endpoints {
	return &endpoints{known: map[endpointKey]weak.Pointer[endpoint]{}}
}

// get returns the endpoint of a key, or one that is made.
func (x *endpoints) get(key endpointKey, make func() *endpoint) *endpoint {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.known[key].Value(); e != nil {
		return e
	}
	e := make()
	x.known[key] = weak.Make(e)
	runtime.AddCleanup(e, x.forget, key)
	return e
}

// forget is called when the endpoint of a key is gone, which another may have replaced.
func (x *endpoints) forget(key endpointKey) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.known[key].Value() == nil {
		delete(x.known, key)
	}
}

// endpoint returns one that checkEndpoints has accepted; ah is for AH.
func (p *Plane) endpoint(local, remote netip.AddrPort, tcp, ah bool) *endpoint {
	return p.endpoints.get(endpointKey{local, remote, tcp, ah}, func() *endpoint {
		e := p.socket.newEndpoint(local, remote, tcp)
		if !tcp && remote.Port() == 0 {
			e.raw, _ = p.raw.to(e.remote.Addr(), ah)
			e.name = e.raw.sockaddrOf(e.remote.Addr())
		}
		return e
	})
}

// native reports whether packets go as an IP protocol of their own.
func (e *endpoint) native() bool { return e.raw != nil }

// unported is a without its port.
func unported(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), 0) }

// headerLen is that of the outer IP header.
func (e *endpoint) headerLen() int {
	if e.remote.Addr().Is6() {
		return ipv6HeaderLen
	}
	return ipv4HeaderLen
}

// sockaddrOf gives a in the form of the socket's own family: IPv4 on an IPv6
// socket is mapped.
func (s *socket) sockaddrOf(a netip.AddrPort) sockaddr {
	var out sockaddr
	binary.NativeEndian.PutUint16(out.raw[:], uint16(s.family))
	binary.BigEndian.PutUint16(out.raw[sockaddrPort:], a.Port())
	if s.family == unix.AF_INET {
		v4 := a.Addr().Unmap().As4()
		copy(out.raw[sockaddrAddr4:], v4[:])
		out.length = unix.SizeofSockaddrInet4
		return out
	}
	v6 := a.Addr().As16()
	copy(out.raw[sockaddrAddr6:], v6[:])
	out.length = unix.SizeofSockaddrInet6
	return out
}

// reaches reports whether the socket can send to a: an IPv4 socket has no IPv6.
func (s *socket) reaches(a netip.Addr) bool {
	return a.IsValid() && (s.family == unix.AF_INET6 || a.Unmap().Is4())
}

// addrPort reads a raw socket address; invalid if it is of no known family.
func addrPort(raw []byte) netip.AddrPort {
	port := binary.BigEndian.Uint16(raw[sockaddrPort:])
	switch binary.NativeEndian.Uint16(raw) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(raw[sockaddrAddr4:])), port)
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(raw[sockaddrAddr6:])).Unmap(), port)
	}
	return netip.AddrPort{}
}

// samePeer reports whether raw, the source of a received datagram, is the
// remote of e: family, port and address.
func (e *endpoint) samePeer(raw *[unix.SizeofSockaddrInet6]byte) bool {
	n := &e.name
	if e.tcp {
		return false
	}
	if *(*[4]byte)(n.raw[:]) != *(*[4]byte)(raw[:]) {
		return false
	}
	if n.length == unix.SizeofSockaddrInet4 {
		return *(*[4]byte)(n.raw[sockaddrAddr4:]) == *(*[4]byte)(raw[sockaddrAddr4:])
	}
	return *(*[16]byte)(n.raw[sockaddrAddr6:]) == *(*[16]byte)(raw[sockaddrAddr6:])
}

// control builds the ancillary data of one message to send.
type control struct {
	buf [128]byte
	n   int
}

func (c *control) reset() { c.n = 0 }

// add appends a message of size octets and returns where its data goes.
func (c *control) add(level, kind int32, size int) []byte {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&c.buf[c.n]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(size))
	data := c.buf[c.n+unix.CmsgLen(0) : c.n+unix.CmsgLen(size)]
	c.n += unix.CmsgSpace(size)
	return data
}

// addSegment asks for segmentation in datagrams of size octets.
func (c *control) addSegment(size int) {
	binary.NativeEndian.PutUint16(c.add(unix.SOL_UDP, unix.UDP_SEGMENT, 2), uint16(size))
}

// addClass sets the DSCP and ECN of the datagrams.
func (c *control) addClass(class uint8, v4 bool) {
	level, kind := int32(unix.SOL_IPV6), int32(unix.IPV6_TCLASS)
	if v4 {
		level, kind = unix.SOL_IP, unix.IP_TOS
	}
	binary.NativeEndian.PutUint32(c.add(level, kind, 4), uint32(class))
}

// addSource chooses the source address; an unspecified one is left to routing.
func (c *control) addSource(family int, a netip.Addr) {
	if !a.IsValid() || a.IsUnspecified() {
		return
	}
	if family == unix.AF_INET {
		b := c.add(unix.SOL_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
		clear(b)
		v4 := a.As4()
		copy(b[4:8], v4[:]) // ipi_spec_dst
		return
	}
	b := c.add(unix.SOL_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
	clear(b)
	v6 := a.As16() // IPv4 mapped
	copy(b, v6[:])
}
