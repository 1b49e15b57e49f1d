package ike

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// The network between two nodes: addresses that come and go, paths that are
// broken, NATs. IKE datagrams and packets of SAs take the same ways.

// link is a path between two addresses, in either direction.
type link [2]netip.Addr

func linkOf(a, b netip.Addr) link {
	if b.Less(a) {
		a, b = b, a
	}
	return link{a, b}
}

// has reports whether addr is one of the node's own.
func (n *node) has(addr netip.Addr) bool {
	if len(n.addrs) == 0 {
		return addr == n.cfg.Local.Addr()
	}
	return slices.Contains(n.addrs, addr)
}

// leave returns the source of a datagram as the network sees it, or why it does
// not get that far. The NAT of a node maps port 500 to its own port and all other
// ports that far away from it.
func (w *world) leave(n *node, src, dst netip.AddrPort) (netip.AddrPort, string) {
	if !n.has(src.Addr()) {
		return src, "has no such address to leave from"
	}
	nat, ok := w.nat[n]
	if !ok {
		return src, ""
	}
	if src.Port() == 0 {
		return src, "stopped by the NAT"
	}
	return netip.AddrPortFrom(nat.Addr(), nat.Port()+src.Port()-500), ""
}

// arrive returns the destination of a datagram as its receiver sees it, or why it
// does not arrive.
func (w *world) arrive(n *node, src, dst netip.AddrPort) (netip.AddrPort, string) {
	if w.blocked[linkOf(src.Addr(), dst.Addr())] {
		return dst, "lost on a blocked path"
	}
	nat, ok := w.nat[n]
	switch {
	case !ok && !n.has(dst.Addr()):
		return dst, "arrives nowhere"
	case !ok:
		return dst, ""
	case dst.Addr() != nat.Addr() || dst.Port() != nat.Port() && dst.Port() != nat.Port()+4000:
		return dst, "stopped by the NAT"
	}
	local := n.cfg.Local.Addr()
	if len(n.addrs) > 0 {
		local = n.addrs[0]
	}
	return netip.AddrPortFrom(local, dst.Port()-nat.Port()+500), ""
}

// astray returns how a packet of an outbound SA does not get to the peer, or comes
// from where the peer does not expect it: the data planes point at each other.
func (n *node) astray(spi uint32) string {
	out, in := n.out[spi], n.peer().in[spi]
	src, lost := n.w.leave(n, out.Local, out.Remote)
	if lost == "" {
		_, lost = n.w.arrive(n.peer(), src, out.Remote)
	}
	if out.TCP {
		src, lost = n.w.leaveByTCP(route{out.Local, out.Remote, true})
	}
	switch {
	case n.w.lateNAT && out.Local.Port() == 0:
	case lost != "":
		return fmt.Sprintf("%s sends %x from %s to %s: %s", n.name, spi, out.Local, out.Remote, lost)
	case src != in.Remote:
		return fmt.Sprintf("%s sends %x from %s, and %s expects it from %s", n.name, spi, src, n.peer().name, in.Remote)
	}
	return ""
}

// packets makes one packet of each outbound SA; lost says why one does not leave.
func (n *node) packets(each func(p *packet, lost string)) {
	for _, spi := range slices.Sorted(maps.Keys(n.out)) {
		out := n.out[spi]
		n.lastOut = n.now()
		n.w.lastSequence++
		p := &packet{from: n, to: n.peer(), dst: out.Remote, esp: spi, sequence: n.w.lastSequence, sent: n.w.now}
		p.promised = n.w.lossless && n.w.flowed[n.name+" "+nameOf(out)]
		var lost string
		if p.tcp = out.TCP; p.tcp {
			p.src, lost = n.w.leaveByTCP(route{out.Local, out.Remote, true})
		} else {
			p.src, lost = n.w.leave(n, out.Local, out.Remote)
		}
		each(p, lost)
	}
}

// sendESP puts one packet of each outbound SA in flight.
func (n *node) sendESP() {
	n.packets(func(p *packet, lost string) {
		n.w.lastID++
		p.id = n.w.lastID
		n.w.note("%s ESP %x%s\n", p, p.esp, n.w.way(p))
		if lost != "" {
			n.w.note("%s %s\n", p, lost)
			return
		}
		n.w.flight = append(n.w.flight, p)
	})
}

// traffic sends one packet over each outbound SA, which arrives at once.
func (n *node) traffic() {
	n.packets(func(p *packet, lost string) {
		if lost == "" {
			_, lost = n.w.comes(p.to, p)
		}
		if lost == "" {
			p.to.receiveESP(p)
		}
	})
}

// receiveESP takes a packet if it has the SA, and tells of what it proves as a
// data plane does.
func (n *node) receiveESP(p *packet) {
	sa, ok := n.in[p.esp]
	if !ok {
		n.w.note("   %s has no SA %x\n", n.name, p.esp)
		if p.promised && n.w.lossless && n.w.broken == nil {
			n.w.broken = &violation{"traffic", fmt.Sprintf("%s does not have %x\n%s%s", n.name, p.esp, n.w.a.state(), n.w.b.state())}
		}
		return
	}
	if !p.tcp && !sa.TCP && (p.src.Port() == 0) != (sa.Remote.Port() == 0) {
		n.w.note("   %s expects %x in another encapsulation\n", n.name, p.esp)
		return
	}
	n.lastIn = n.now()
	event := dataplane.Event{Tunnel: "t", Child: sa.Child, SPI: p.esp, Direction: dataplane.Inbound}
	if !n.anyInbound[p.esp] {
		n.anyInbound[p.esp] = true
		event.Kind = dataplane.FirstInbound
		n.step(PlaneEvent{event})
	}
	if p.sequence < n.newest[p.esp] {
		return // only the newest packet speaks for the address of the peer
	}
	n.newest[p.esp] = p.sequence
	if in := n.in[p.esp]; (p.src != in.Remote || p.tcp != in.TCP) && n.w.now.Sub(n.moveTold[p.esp]) >= time.Second {
		n.moveTold[p.esp] = n.w.now
		event.Kind, event.Local, event.Remote, event.TCP = dataplane.MappingChanged, p.dst, p.src, p.tcp
		n.step(PlaneEvent{event})
	}
}
