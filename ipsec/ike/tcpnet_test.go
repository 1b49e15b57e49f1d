package ike

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// tcpNet is the TCP connections of a world. What goes in one arrives in order or
// not at all; a story delivers it like the rest.
type tcpNet struct {
	blockUDP bool
	refuse   bool
	conns    []conn
	lastPort uint16
	closed   []func() // to be told
}

// conn is a connection as its opener sees it.
type conn struct {
	route
	opener *node
}

func (n *node) sinceUDP(local netip.Addr, remote netip.AddrPort) (time.Duration, bool) {
	at, ok := n.heard[route{netip.AddrPortFrom(local, n.cfg.Local.Port()), remote, false}]
	return n.now().Sub(at), ok
}

// dial opens a connection for n.
func (n *node) dial(d Dial) Dialed {
	w := n.w
	if w.tcp.refuse {
		w.note("   %s cannot connect to %s\n", n.name, d.Remote)
		return Dialed{Token: d.Token, Err: errors.New("connection refused")}
	}
	c := conn{route{netip.AddrPortFrom(d.Local, 40000+w.tcp.lastPort+1), d.Remote, true}, n}
	if !w.joins(c) {
		w.note("   %s cannot reach %s from %s\n", n.name, d.Remote, d.Local)
		return Dialed{Token: d.Token, Err: errors.New("no route to host")}
	}
	w.tcp.lastPort++
	local := c.local
	w.tcp.conns = append(w.tcp.conns, c)
	w.note("   %s connects %s to %s\n", n.name, local, d.Remote)
	return Dialed{Token: d.Token, Local: local, Remote: d.Remote}
}

// connected reports whether there is a connection between the ends of r.
func (w *world) connected(r route) bool {
	return slices.ContainsFunc(w.tcp.conns, func(c conn) bool {
		return c.route == r || c.route == route{r.remote, r.local, true}
	})
}

// joins reports whether a connection has two ends and a path between them.
func (w *world) joins(c conn) bool {
	return c.opener.has(c.local.Addr()) && c.opener.nodeAt(c.remote.Addr()).has(c.remote.Addr()) && !w.blocked[linkOf(c.local.Addr(), c.remote.Addr())]
}

// leaveByTCP is leave for what goes in a connection.
func (w *world) leaveByTCP(r route) (netip.AddrPort, string) {
	if !w.connected(r) {
		return r.local, "finds no connection"
	}
	return r.local, ""
}

// comes returns the destination of p as n sees it, or why it does not come.
func (w *world) comes(n *node, p *packet) (netip.AddrPort, string) {
	switch {
	case p.tcp:
		return p.dst, ""
	case w.tcp.blockUDP:
		return p.dst, "is stopped by the firewall"
	}
	return w.arrive(n, p.src, p.dst)
}

// dropStream is what the engine does: who opened a connection closes it.
func (n *node) dropStream(r route) {
	w := n.w
	if !slices.Contains(w.tcp.conns, conn{r, n}) {
		return
	}
	w.note("   %s closes %s to %s\n", n.name, r.local, r.remote)
	w.tcp.conns = slices.DeleteFunc(w.tcp.conns, func(c conn) bool { return c.route == r })
	w.tcp.closed = append(w.tcp.closed, func() { n.nodeAt(r.remote.Addr()).step(StreamClosed{r.remote, r.local}) })
}

// closeStream closes a connection that is corrupt. What is in it is lost.
func (n *node) closeStream(r route) {
	w := n.w
	if !w.connected(r) {
		return
	}
	w.note("   %s finds the connection to %s corrupt\n", n.name, r.remote)
	w.tcp.conns = slices.DeleteFunc(w.tcp.conns, func(c conn) bool { return c.route == r || c.route == route{r.remote, r.local, true} })
	w.flight = slices.DeleteFunc(w.flight, func(p *packet) bool { return p.tcp && !w.connected(route{p.src, p.dst, true}) })
	w.tcp.closed = append(w.tcp.closed,
		func() { n.step(StreamClosed{r.local, r.remote}) },
		func() { n.nodeAt(r.remote.Addr()).step(StreamClosed{r.remote, r.local}) })
}

// hangUp tells of the connections that the other end has closed.
func (w *world) hangUp() {
	for len(w.tcp.closed) > 0 {
		tell := w.tcp.closed[0]
		w.tcp.closed = w.tcp.closed[1:]
		tell()
	}
}

// reset breaks all connections, and what is in them is lost.
func (w *world) reset() { w.resetIf(func(conn) bool { return true }) }

// resetBroken breaks the connections between whose ends nothing passes any more.
func (w *world) resetBroken() { w.resetIf(func(c conn) bool { return !w.joins(c) }) }

func (w *world) resetIf(ends func(conn) bool) {
	var over, rest []conn
	for _, c := range w.tcp.conns {
		if ends(c) {
			over = append(over, c)
		} else {
			rest = append(rest, c)
		}
	}
	w.tcp.conns = rest
	w.flight = slices.DeleteFunc(w.flight, func(p *packet) bool { return p.tcp && !w.connected(route{p.src, p.dst, true}) })
	for _, c := range over {
		w.note("   connection %s to %s is reset\n", c.local, c.remote)
		c.opener.step(StreamClosed{c.local, c.remote})
		c.opener.nodeAt(c.remote.Addr()).step(StreamClosed{c.remote, c.local})
	}
}

// planStream has a packet in a connection arrive, after those before it.
func (s *simulator) planStream(p *packet) {
	at := s.arrival(p)
	if last := s.ordered[p.from]; at.Before(last) {
		at = last
	}
	s.ordered[p.from] = at
	s.arrivals[p.id] = []time.Time{at}
}

// TestFirewall runs many seeds of a bad network that blocks UDP from time to time,
// breaks connections, and refuses them.
func TestFirewall(t *testing.T) { runSeeds(t, "TestFirewall", *simCount/3, firewall) }

// firewall is badNetwork with TCP.
func firewall(s *simulator) {
	line := append(s.badConfig(), "tcp=fallback")
	if s.rng.IntN(4) == 0 {
		line = append(line, "a.tcp=only")
	}
	s.do("%s", strings.Join(line, " "))
	s.mishap = func(s *simulator) {
		s.filter()
		s.fault()
	}
	if s.rng.IntN(2) == 0 {
		s.do("udp blocked")
	}
	s.do("connect a")
	s.run(4 * time.Minute)
	s.do("tcp open")
	if s.rng.IntN(2) == 0 {
		s.do("udp open")
	}
	s.mend("3m")
}

// filter changes what passes now and then.
func (s *simulator) filter() {
	switch x := s.rng.IntN(100); {
	case x < 3:
		s.do("udp blocked")
	case x < 5:
		s.do("udp open")
	case x < 7:
		s.do("reset")
	case x < 8:
		s.do("tcp refused")
	case x < 11 && s.w.tcp.refuse:
		s.do("tcp open")
	}
}
