package job

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Numbers of the protocols.
const (
	protocolICMP   = 1
	protocolICMPv6 = 58
)

// echo sends echo requests to one destination and reads what comes back for them
// (RFC 792; RFC 4443, Section 4).
type echo struct {
	conn        *icmp.PacketConn
	destination netip.Addr
	id          uint16
	buffer      []byte
}

// An answer is what came back for a request.
type answer struct {
	seq  uint16
	from netip.Addr
	at   time.Time
	// err is why the request went no further; nil: the destination answered. One whose
	// hop limit ended is errHopLimit.
	err error
}

var errHopLimit = errors.New("the hop limit ended")

// openEcho opens a socket for a destination where the place is.
func openEcho(at Place, source, destination string) (*echo, error) {
	to, err := netip.ParseAddr(destination)
	if err != nil {
		return nil, fmt.Errorf("destination: %w", err)
	}
	to = to.Unmap()
	network, any := "ip4:icmp", "0.0.0.0"
	if to.Is6() {
		network, any = "ip6:ipv6-icmp", "::"
	}
	if source == "" {
		source = any
	}
	e := &echo{destination: to, id: uint16(rand.Uint32()), buffer: make([]byte, 64<<10)}
	err = at.enter(func() (err error) {
		e.conn, err = icmp.ListenPacket(network, source)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a socket for ICMP: %w", err)
	}
	return e, nil
}

func (e *echo) close() { e.conn.Close() }

// limit sets the hop limit of requests.
func (e *echo) limit(hops int) error {
	if e.destination.Is4() {
		return e.conn.IPv4PacketConn().SetTTL(hops)
	}
	return e.conn.IPv6PacketConn().SetHopLimit(hops)
}

// send sends a request with as many octets of data.
func (e *echo) send(seq uint16, size int) error {
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: int(e.id), Seq: int(seq), Data: make([]byte, size)}}
	if e.destination.Is6() {
		m.Type = ipv6.ICMPTypeEchoRequest
	}
	b, err := m.Marshal(nil)
	if err != nil {
		return err
	}
	_, err = e.conn.WriteTo(b, &net.IPAddr{IP: e.destination.AsSlice(), Zone: e.destination.Zone()})
	return err
}

// receive waits until then for what comes back for a request. Its error is that of the
// socket: os.ErrDeadlineExceeded when nothing came.
func (e *echo) receive(until time.Time) (answer, error) {
	if err := e.conn.SetReadDeadline(until); err != nil {
		return answer{}, err
	}
	for {
		n, from, err := e.conn.ReadFrom(e.buffer)
		if err != nil {
			return answer{}, err
		}
		at := time.Now()
		address, ok := from.(*net.IPAddr)
		if !ok {
			continue
		}
		who, _ := netip.AddrFromSlice(address.IP)
		if a, ok := e.parse(e.buffer[:n], who.Unmap()); ok {
			a.at = at
			return a, nil
		}
	}
}

// parse takes a message for what it says of a request of this socket. Those of others,
// which the kernel shows to all sockets, are nothing.
func (e *echo) parse(b []byte, from netip.Addr) (answer, bool) {
	protocol := protocolICMP
	if e.destination.Is6() {
		protocol = protocolICMPv6
	}
	m, err := icmp.ParseMessage(protocol, b)
	if err != nil {
		return answer{}, false
	}
	out := answer{from: from}
	var original []byte
	switch body := m.Body.(type) {
	case *icmp.Echo:
		out.seq = uint16(body.Seq)
		reply := m.Type == ipv4.ICMPTypeEchoReply || m.Type == ipv6.ICMPTypeEchoReply
		return out, reply && body.ID == int(e.id) && from == e.destination.WithZone("")
	case *icmp.TimeExceeded:
		original, out.err = body.Data, errHopLimit
	case *icmp.DstUnreach:
		original, out.err = body.Data, fmt.Errorf("unreachable, code %d", m.Code)
	case *icmp.PacketTooBig:
		original, out.err = body.Data, fmt.Errorf("packet too big: %d octets pass", body.MTU)
	default:
		return out, false
	}
	seq, ok := e.original(original)
	out.seq = seq
	return out, ok
}

// original is the number of the request that an error is about, of which it has the
// first octets.
func (e *echo) original(b []byte) (seq uint16, ok bool) {
	header, to, protocol := 40, 24, 6
	if e.destination.Is4() {
		if len(b) < 20 {
			return 0, false
		}
		header, to, protocol = int(b[0]&0xf)*4, 16, 9
	}
	want := byte(protocolICMP)
	if e.destination.Is6() {
		want = protocolICMPv6
	}
	octets := e.destination.AsSlice()
	if header < to+len(octets) || len(b) < header+8 || b[protocol] != want || string(b[to:to+len(octets)]) != string(octets) {
		return 0, false
	}
	request := b[header:]
	return binary.BigEndian.Uint16(request[6:]), binary.BigEndian.Uint16(request[4:]) == e.id
}
