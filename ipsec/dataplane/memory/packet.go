package memory

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// ErrNoSA is returned by Send for a packet that a policy protects and for
// which there is no SA. The first few wait for one.
var ErrNoSA = errors.New("policy without an outbound SA: packet waits or is dropped")

// ErrNoPolicy is returned by Send for a packet that no policy matches.
var ErrNoPolicy = errors.New("no policy matches: packet dropped")

// ErrDiscarded is returned by Send for a packet that a policy discards.
var ErrDiscarded = errors.New("a policy discards the packet")

// Packets returns the inner packets that inbound SAs accepted.
func (p *Plane) Packets() <-chan []byte { return p.packets }

// Send protects an inner IP packet as if the host had sent it.
func (p *Plane) Send(packet []byte) error {
	t, err := parse(packet)
	if err != nil {
		return err
	}
	d, err := p.seal(t, packet)
	if err != nil {
		return err
	}
	if d.tcp {
		return p.sendStream(d)
	}
	p.sw.send(d)
	return nil
}

func (p *Plane) seal(t ts.Packet, packet []byte) (Datagram, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return Datagram{}, dataplane.ErrClosed
	}
	pol := p.match(t, dscp(packet))
	if pol == nil {
		return Datagram{}, ErrNoPolicy
	}
	if pol.Action == dataplane.Discard {
		return Datagram{}, ErrDiscarded
	}
	a := p.newest(pol.Tunnel, pol.Child)
	if a == nil {
		if len(pol.kept) < keptPackets {
			pol.kept = append(pol.kept, bytes.Clone(packet))
		}
		if now := time.Now(); now.Sub(pol.acquired) >= acquireInterval {
			pol.acquired = now
			p.raise(dataplane.Event{
				Kind: dataplane.Acquire, Tunnel: pol.Tunnel, Child: pol.Child, Source: t.Source, Destination: t.Destination,
			})
		}
		return Datagram{}, ErrNoSA
	}
	if !ts.Match(a.LocalTS, a.RemoteTS, t) {
		a.counters.SelectorDrops++
		return Datagram{}, fmt.Errorf("packet is outside of the selectors of SA %08x", a.SPI)
	}
	if a.spent() {
		p.expire(a)
		return Datagram{}, fmt.Errorf("SA %08x is at its hard limit", a.SPI)
	}
	a.next++
	a.count(len(packet))
	p.expire(a)
	from := p.addr
	if a.TCP || a.Local.Port() == 0 {
		from = a.Local
	}
	return Datagram{From: from, To: a.Remote, tcp: a.TCP, packet: &sealed{
		spi: a.SPI, seq: a.next, key: a.Key, inner: bytes.Clone(packet),
	}}, nil
}

// match returns the policy for an outbound packet: lowest priority value, then longest
// remote range, then one that has an SA, then as the ranking says, then the one set first.
func (p *Plane) match(t ts.Packet, dscp uint8) *policy {
	var best *policy
	for _, q := range p.policies {
		if !ts.Match(q.LocalTS, q.RemoteTS, t) {
			continue
		}
		if best == nil || p.before(q, best, t, dscp) {
			best = q
		}
	}
	return best
}

func (p *Plane) before(q, best *policy, t ts.Packet, dscp uint8) bool {
	switch {
	case q.Priority != best.Priority:
		return q.Priority < best.Priority
	case narrower(q.RemoteTS, best.RemoteTS, t.Destination):
		return true
	case narrower(best.RemoteTS, q.RemoteTS, t.Destination):
		return false
	}
	if has, had := p.newest(q.Tunnel, q.Child) != nil, p.newest(best.Tunnel, best.Child) != nil; has != had {
		return has
	}
	class := p.ranking.Class(t, dscp)
	rank, other := p.ranking.Rank(q.Tunnel, class), p.ranking.Rank(best.Tunnel, class)
	if rank != other || rank == dataplane.Unranked {
		return rank < other
	}
	return share(q.Tunnel, t) > share(best.Tunnel, t)
}

// share is what decides which of several tunnels has a flow: the highest.
func share(tunnel string, t ts.Packet) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, t, tunnel)
	return h.Sum64()
}

// dscp is the code point of a packet that has been parsed.
func dscp(packet []byte) uint8 {
	if packet[0]>>4 == 4 {
		return packet[1] >> 2
	}
	return (packet[0]<<4 | packet[1]>>4) >> 2
}

func (p *Plane) newest(tunnel, child string) *association {
	for i := len(p.outbound) - 1; i >= 0; i-- {
		if a := p.outbound[i]; a.Tunnel == tunnel && a.Child == child {
			return a
		}
	}
	return nil
}

func (a *association) count(octets int) {
	a.counters.Packets++
	a.counters.Bytes += uint64(octets)
	a.counters.LastUsed = time.Now()
}

// spent reports whether the SA is at a hard limit.
func (a *association) spent() bool {
	return a.over || a.exhausted() || a.Limits.HardPackets > 0 && a.counters.Packets >= a.Limits.HardPackets ||
		a.Limits.HardBytes > 0 && a.counters.Bytes >= a.Limits.HardBytes
}

func (p *Plane) expire(a *association) {
	ev := dataplane.Event{Tunnel: a.Tunnel, Child: a.Child, SPI: a.SPI, Direction: a.Direction}
	if !a.hard && a.spent() {
		a.hard, ev.Kind = true, dataplane.HardExpire
		p.raise(ev)
		return
	}
	soft := a.Limits.SoftPackets > 0 && a.counters.Packets >= a.Limits.SoftPackets ||
		a.Limits.SoftBytes > 0 && a.counters.Bytes >= a.Limits.SoftBytes
	if soft && !a.soft {
		a.soft, ev.Kind = true, dataplane.SoftExpire
		p.raise(ev)
	}
}

// receive takes what the switch delivers.
func (p *Plane) receive(d Datagram) {
	if d.packet != nil {
		p.open(d)
		return
	}
	p.mu.Lock()
	deliver := p.deliver
	if p.closed {
		deliver = nil
	}
	p.mu.Unlock()
	if deliver != nil {
		deliver(dataplane.IKEDatagram{Local: p.addr, Remote: d.From, Data: d.IKE})
	}
}

func (p *Plane) open(d Datagram) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.inbound[d.packet.spi]
	if p.closed {
		return
	}
	if a == nil {
		if now := time.Now(); now.Sub(p.unknownTold) >= acquireInterval {
			p.unknownTold = now
			p.raise(dataplane.Event{Kind: dataplane.UnknownSPI, SPI: d.packet.spi, Direction: dataplane.Inbound, Local: d.at(p), Remote: d.From, TCP: d.tcp})
		}
		return
	}
	if !bytes.Equal(a.Key, d.packet.key) {
		a.counters.AuthFailures++
		return
	}
	if a.replayed(d.packet.seq) {
		a.counters.ReplayDrops++
		return
	}
	t, err := parse(d.packet.inner)
	if err != nil || !ts.Match(a.RemoteTS, a.LocalTS, t) {
		a.counters.SelectorDrops++
		return
	}
	if a.spent() {
		p.expire(a)
		return
	}
	p.observe(a, d)
	a.count(len(d.packet.inner))
	p.expire(a)
	select {
	case p.packets <- d.packet.inner:
	default:
	}
}

// observe raises what an authentic packet proves.
func (p *Plane) observe(a *association, d Datagram) {
	ev := dataplane.Event{Tunnel: a.Tunnel, Child: a.Child, SPI: a.SPI, Direction: dataplane.Inbound}
	if a.counters.Packets == 0 {
		ev.Kind = dataplane.FirstInbound
		p.raise(ev)
	}
	now := time.Now()
	if (d.From != a.Remote || d.tcp != a.TCP) && now.Sub(a.mappingTold) >= acquireInterval {
		a.mappingTold = now
		ev.Kind, ev.Local, ev.Remote, ev.TCP = dataplane.MappingChanged, d.at(p), d.From, d.tcp
		p.raise(ev)
	}
}

// replayed keeps the receive window of RFC 4303, Section 3.4.3.
func (a *association) replayed(seq uint64) bool {
	size := uint64(a.ReplayWindow)
	if size == 0 {
		size = 64
	}
	behind := func(n uint64) bool { return n < a.highest && a.highest-n >= size }
	if behind(seq) || a.window[seq] {
		return true
	}
	a.window[seq] = true
	if seq > a.highest {
		a.counters.Missing += seq - a.highest - 1
		a.highest = seq
	} else {
		a.counters.Missing--
	}
	maps.DeleteFunc(a.window, func(n uint64, _ bool) bool { return behind(n) })
	return false
}

// parse reads what selectors look at. Extension headers and fragments, which
// tests do not send, are taken as they come.
func parse(b []byte) (ts.Packet, error) {
	var t ts.Packet
	var rest []byte
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		t.Source, t.Destination = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		t.Protocol = b[9]
		if n := int(b[0]&15) * 4; n <= len(b) {
			rest = b[n:]
		}
	case len(b) >= 40 && b[0]>>4 == 6:
		t.Source, t.Destination = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		t.Protocol, rest = b[6], b[40:]
	default:
		return ts.Packet{}, fmt.Errorf("packet of %d octets is neither IPv4 nor IPv6", len(b))
	}
	const icmp, tcp, udp, icmpv6 = 1, 6, 17, 58
	switch {
	case (t.Protocol == tcp || t.Protocol == udp) && len(rest) >= 4:
		t.SourcePort, t.DestinationPort = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:])
	case (t.Protocol == icmp || t.Protocol == icmpv6) && len(rest) >= 2:
		t.SourcePort = binary.BigEndian.Uint16(rest)
		t.DestinationPort = t.SourcePort
	default:
		t.NoPorts = true
	}
	return t, nil
}

func inRange(s ts.Selector, addr netip.Addr) bool {
	return s.First.BitLen() == addr.BitLen() && s.First.Compare(addr) <= 0 && addr.Compare(s.Last) <= 0
}

// narrower reports whether the selectors of a that hold addr are a narrower
// range than those of b, by the number of leading bits that first and last
// address share.
func narrower(a, b []ts.Selector, addr netip.Addr) bool {
	return commonBits(a, addr) > commonBits(b, addr)
}

func commonBits(set []ts.Selector, addr netip.Addr) int {
	best := -1
	for _, s := range set {
		if !inRange(s, addr) {
			continue
		}
		n := addr.BitLen()
		for n > 0 {
			if p, err := s.First.Prefix(n); err == nil && p.Contains(s.Last) {
				break
			}
			n--
		}
		best = max(best, n)
	}
	return best
}
