package ike

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// TCPMode says whether a tunnel goes by TCP (RFC 9329).
type TCPMode uint8

// The modes. With TCPNever a peer that comes by TCP is refused; the other two take
// it. TCPFallback begins by UDP, goes on by TCP where there is no answer, and tries
// UDP again from time to time; TCPOnly is for a network that is known to block UDP.
const (
	TCPNever TCPMode = iota
	TCPFallback
	TCPOnly
)

// TCP says when a tunnel goes by TCP. Both ends have to be configured for it, as
// it is not negotiated (RFC 9329, Section 2).
type TCP struct {
	Mode TCPMode
	// Port is the peer's, DefaultNATPort if zero.
	Port uint16
	// After is how often a request is repeated by UDP before it goes by TCP, 2 if
	// zero. It does not where silence does not say that UDP is blocked: the host is late, or
	// somebody is heard from the peer's address (Runtime.SinceUDP).
	After int
}

func (c TCP) withDefaults() TCP {
	if c.Port == 0 {
		c.Port = DefaultNATPort
	}
	if c.After == 0 {
		c.After = 2
	}
	return c
}

func (c TCP) validate() error {
	switch {
	case c.Mode > TCPOnly:
		return fmt.Errorf("tcp: mode %d is not known", c.Mode)
	case c.After < 0:
		return fmt.Errorf("tcp: After is %d, it has to be positive", c.After)
	}
	return nil
}

const (
	// leaveTime is how long a connection is kept that an IKE SA has left by MOBIKE.
	leaveTime = 5 * time.Second
	// maxRedial bounds the time between two attempts to connect again.
	maxRedial = 30 * time.Second

	remedyTCP = "check that the peer takes TCP encapsulation (RFC 9329) at that port and that TCP passes there, or let this tunnel go by UDP alone"
)

// route is between which ends messages go, and whether in the TCP connection
// between them.
type route struct {
	local, remote netip.AddrPort
	tcp           bool
}

func (r route) isZero() bool { return r == route{} }

// tcpLink is what an IKE SA knows of its connection. The end that made the first IKE
// SA is the originator: it alone connects, and connects again, whoever rekeys (RFC
// 9329, Section 1.2).
type tcpLink struct {
	originator bool
	lost       bool // the connection is gone
	dialing    bool
	redials    int
	redialAt   time.Time
	triedUDP   bool // in vain, to leave TCP
	// before is the connection that the SA has left, closed at leaveAt.
	before  route
	leaveAt time.Time
}

// heir is the link of an IKE SA that replaces this one's.
func (l tcpLink) heir() tcpLink {
	return tcpLink{originator: l.originator, lost: l.lost, redialAt: l.redialAt}
}

// stream is a connection that a tunnel uses; kept ones have been proved by an
// IKE SA.
type stream struct {
	route
	kept bool
}

// byTCP is the route of a connection that is still to be made.
func (t *Tunnel) byTCP(local, remote netip.Addr) route {
	return route{netip.AddrPortFrom(local, 0), netip.AddrPortFrom(remote, t.cfg.TCP.Port), true}
}

// dial asks for a connection; then gets its route or the error.
func (sa *ikeSA) dial(from netip.Addr, to netip.AddrPort, then func(route, error)) {
	sa.link.dialing = true
	token := sa.m.await(sa, func(a any) {
		sa.link.dialing = false
		d, _ := a.(Dialed)
		r := route{d.Local, d.Remote, true}
		if d.Err == nil {
			sa.t.streams = append(sa.t.streams, stream{route: r})
		}
		then(r, d.Err)
	})
	sa.m.emit(Dial{Token: token, Local: from, Remote: to})
}

// dialed gives an answer to who waits for it. A connection that nobody waits for
// any more is dropped.
func (t *Tunnel) dialed(d Dialed) {
	if !slices.ContainsFunc(t.waits, func(w wait) bool { return w.token == d.Token }) && d.Err == nil {
		t.emit(DropStream{d.Local, d.Remote})
	}
	t.answer(d.Token, d)
}

// dialFirst connects for the first exchange of an IKE SA.
func (sa *ikeSA) dialFirst() {
	sa.dial(sa.local.Addr(), sa.remote, func(r route, err error) {
		if err != nil {
			sa.fail(&Error{
				Op: "connect by TCP", Exchange: wire.ExchangeIKESAInit, Remedy: remedyTCP,
				Err: fmt.Errorf("%w from %s: %w", ErrNoAnswer, sa.remote, err),
			})
			return
		}
		sa.move(r)
		sa.beginFirst()
	})
}

// fallsBack reports whether it is time to try TCP: the peer has not answered by UDP
// to an IKE SA in the making. A refusal is an answer, even an unauthenticated one.
func (sa *ikeSA) fallsBack() bool {
	o := sa.window.outstanding
	if o == nil || !sa.m.due(o.at) || !sa.initiator || !sa.state.in(stateInit|stateIntermediate|stateAuth) || sa.tcp ||
		sa.t.cfg.TCP.Mode != TCPFallback || sa.init == nil || sa.init.hint != nil || sa.t.rivals(sa) {
		return false
	}
	if sa.init.heard == sa.remote {
		// UDP has passed, as far as one can believe it: not before all has been tried
		// (RFC 9329, Section 5.1).
		return o.tries >= sa.mostTries(o) && sa.seemsBlocked(o)
	}
	return o.silent >= sa.t.cfg.TCP.After && sa.seemsBlocked(o)
}

// lateness is from when on it is this host that is too busy: what came in time may wait
// to be read.
const lateness = 250 * time.Millisecond

// seemsBlocked reports whether the silence after a request, whose time to be repeated has
// come, may be for want of UDP. It is not if somebody was heard from there since the
// request was sent: then the peer is busy, or does not want to answer this one.
func (sa *ikeSA) seemsBlocked(o *outstanding) bool {
	if sa.m.now.Sub(o.at) > lateness {
		return false
	}
	if sa.m.runtime.SinceUDP == nil {
		return true
	}
	ago, known := sa.m.runtime.SinceUDP(sa.local.Addr(), sa.remote)
	return !known || ago > sa.m.now.Sub(o.begun)
}

// heardInterval is the least time between two [HeardByUDP] of a tunnel.
const heardInterval = time.Second

// tellHeard tells that the peer was heard by UDP.
func (t *Tunnel) tellHeard(r route) {
	if r.tcp || t.cfg.TCP.Mode != TCPFallback || !t.mayInitiate() || t.now.Before(t.heardAt.Add(heardInterval)) {
		return
	}
	t.heardAt = t.now
	t.emit(HeardByUDP{Local: r.local.Addr(), Remote: r.remote})
}

// fallBack begins anew by TCP, with another SPI and NAT detection of its own (RFC
// 9329, Section 5.1). If the IKE SA was to replace one that goes by TCP already,
// that is rekeyed where it is.
func (t *Tunnel) fallBack(sa *ikeSA) {
	t.transcript.note(t.now, sa.localSPI, "no answer by UDP, trying TCP")
	b := beginning{route: route{sa.local, sa.gateway, true}, replaces: sa.init.replaces, redirectedFrom: sa.init.redirectedFrom}
	for _, o := range t.ofAttempt(sa, stateLarval) {
		o.die()
	}
	sa.die()
	if old := b.replaces; old != nil && old.tcp && old.link.triedUDP && !b.redirectedFrom.IsValid() {
		old.wantRekey = old.alive()
		return
	}
	t.begin(b)
}

// leaveTCP tries UDP when an IKE SA that goes by TCP is to be rekeyed, by making a
// new one in its place: without MOBIKE one cannot move, and with it homeTask tries.
// It reports whether it does; a second time it does not.
func (t *Tunnel) leaveTCP(sa *ikeSA) bool {
	if !sa.tcp || sa.mobike || t.cfg.TCP.Mode != TCPFallback || !sa.mayBeginAgain() || sa.link.triedUDP || !t.mayInitiate() || t.isReplacing(sa) || t.now.Before(sa.mayReplaceAt()) {
		return false
	}
	sa.link.triedUDP = true
	b := sa.again()
	b.tcp = false
	t.begin(b)
	return true
}

// mayBeginAgain reports whether a new IKE SA in place of sa can be begun here: the
// originator's peer cannot connect.
func (sa *ikeSA) mayBeginAgain() bool { return !sa.tcp || sa.link.originator }

// followStream follows an authentic message, or the newest packet of a Child SA, to
// the connection that it came by. Only the originator's peer does: it sends where it
// last heard the other end (RFC 9329, Section 6.1). Who has the connection is there,
// so the address need not be proved.
func (sa *ikeSA) followStream(r route) {
	if sa.link.originator || sa.t == nil || !sa.alive() || r == sa.route || !r.tcp || !sa.tcp {
		return
	}
	sa.reconnected(r)
}

// reconnected goes on over another connection, with the IKE SAs that shared the one
// before. A request that is out is sent again (RFC 9329, Section 6.2).
func (sa *ikeSA) reconnected(r route) {
	t, from := sa.t, sa.route
	for _, o := range t.sas {
		if o.route != from || !o.state.in(stateUsable) {
			continue
		}
		if o.link.lost = false; r == from {
			o.redirect(r)
		}
		o.move(r)
	}
	if p := t.primary(); p != nil && p.route == r {
		p.settle()
	}
}

// streamClosed takes that a connection has ended. IKE SAs outlive it; the originator
// connects again (RFC 9329, Section 6.1).
func (t *Tunnel) streamClosed(r route) {
	t.streams = slices.DeleteFunc(t.streams, func(s stream) bool { return s.route == r })
	t.transcript.note(t.now, wire.SPI{}, "connection from ", r.local.String(), " to ", r.remote.String(), " closed")
	for _, sa := range t.sas {
		switch {
		case sa.route != r || sa.link.lost || sa.state == stateDead:
		case sa.state.in(stateLarval) && sa.initiator:
			sa.fail(&Error{
				Exchange: wire.ExchangeIKESAInit, Remedy: remedyTCP,
				Err: fmt.Errorf("%w: %s closed the TCP connection", ErrNoAnswer, r.remote),
			})
		default:
			sa.link.lost, sa.link.redials, sa.link.redialAt = true, 0, t.now
		}
	}
}

// redialAt is when the originator connects again.
func (sa *ikeSA) redialAt() time.Time {
	if !sa.link.lost || !sa.link.originator || sa.link.dialing || sa.t == nil || sa != sa.t.primary() {
		return time.Time{}
	}
	return sa.link.redialAt
}

func (sa *ikeSA) tickLink() {
	if !sa.m.due(sa.redialAt()) {
		return
	}
	from, to := sa.dialTo()
	sa.dial(from, to, func(r route, err error) {
		switch {
		case err != nil:
			delay := min(time.Second<<min(sa.link.redials, 8), maxRedial)
			sa.link.redials++
			sa.link.redialAt = sa.m.now.Add(sa.vary(delay))
			sa.wantProbe = true // so that its end is found out if this goes on
		case sa.link.lost && sa.mobike && sa.decides():
			// Somebody is there: who it is the answer to the update tells.
			sa.choose(r)
			sa.link.lost = false
		case sa.link.lost:
			sa.reconnected(r)
			sa.wantProbe = sa.window.outstanding == nil // the peer learns the connection
		}
	})
}

// reconnect leaves a connection for one between the addresses that there are now.
func (sa *ikeSA) reconnect() {
	sa.link.lost, sa.link.redials, sa.link.redialAt = true, 0, sa.m.now
}

// dialTo is between which ends to connect: those in use, or the preferred ones if
// this host no longer has its address; and after each failure between others, if
// MOBIKE lets the IKE SA move.
func (sa *ikeSA) dialTo() (netip.Addr, netip.AddrPort) {
	local, remote := sa.local.Addr(), sa.remote.Addr()
	if p, ok := sa.preferred(false); ok && !sa.t.isLocal(local) {
		local, remote = p.local.Addr(), p.remote.Addr()
	}
	if pairs := sa.dialPairs(local, remote); len(pairs) > 0 {
		p := pairs[sa.link.redials%len(pairs)]
		local, remote = p[0], p[1]
	}
	if sa.tcp && remote == sa.remote.Addr() {
		return local, sa.remote
	}
	return local, netip.AddrPortFrom(remote, sa.t.cfg.TCP.Port)
}

// dialPairs are the pairs of addresses that a connection is tried between, that of
// local and remote first.
func (sa *ikeSA) dialPairs(local, remote netip.Addr) [][2]netip.Addr {
	pairs := [][2]netip.Addr{{local, remote}}
	if !sa.mobike || !sa.decides() {
		return pairs
	}
	for _, r := range sa.remoteAddresses() {
		for _, l := range sa.t.localAddresses() {
			p := [2]netip.Addr{l, r}
			if l.Is4() == r.Is4() && !slices.Contains(pairs, p) && len(pairs) < maxWays {
				pairs = append(pairs, p)
			}
		}
	}
	return pairs
}

// tryTCP has a request that gets no answer by UDP go by TCP as well. If the answer
// comes that way, the IKE SA goes there too (RFC 9329, Section 7.1). Blocked says that
// the silence may be for want of UDP.
func (sa *ikeSA) tryTCP(o *outstanding, blocked bool) {
	if !blocked || !sa.mobike || !sa.decides() || sa.state != stateEstablished || sa.tcp || sa.link.dialing ||
		sa.t.cfg.TCP.Mode != TCPFallback || o.silent < sa.t.cfg.TCP.After || sa.t.hasStream(o) {
		return
	}
	from, to := sa.dialTo()
	sa.dial(from, to, func(r route, err error) {
		switch {
		case err != nil:
			sa.link.redials++ // next time between others
		case sa.window.outstanding == o:
			o.went(r)
			sa.sendAgain(r, o.datagrams)
		}
	})
}

// hasStream reports whether a request goes by a connection.
func (t *Tunnel) hasStream(o *outstanding) bool {
	return slices.ContainsFunc(t.streams, func(s stream) bool { return slices.Contains(o.ways, s.route) })
}

// settleStreams tells which connections are in use, as follows from the IKE SAs.
func (t *Tunnel) settleStreams() {
	for _, sa := range t.sas {
		if sa.tcp && !sa.link.lost && sa.state.in(stateUsable) {
			t.keepStream(sa.route)
		}
	}
	t.streams = slices.DeleteFunc(t.streams, func(s stream) bool {
		if slices.ContainsFunc(t.sas, func(sa *ikeSA) bool { return sa.uses(s.route) }) {
			return false
		}
		t.emit(DropStream{s.local, s.remote})
		return true
	})
}

// uses reports whether messages of the SA go over r.
func (sa *ikeSA) uses(r route) bool {
	if sa.state.in(stateLingering | stateDead) {
		return false
	}
	o := sa.window.outstanding
	return sa.route == r || o != nil && slices.Contains(o.ways, r) || sa.leaves() && sa.link.before == r
}

// leaves reports whether the connection that the SA has left is still needed: the
// peer sends on it until it has learned of the move (RFC 9329, Section 7.1).
func (sa *ikeSA) leaves() bool { return sa.m.now.Before(sa.link.leaveAt) }

// leftAt is when it no longer is.
func (sa *ikeSA) leftAt() time.Time {
	if !sa.leaves() {
		return time.Time{}
	}
	return sa.link.leaveAt
}

func (t *Tunnel) keepStream(r route) {
	i := slices.IndexFunc(t.streams, func(s stream) bool { return s.route == r })
	if i < 0 {
		i, t.streams = len(t.streams), append(t.streams, stream{route: r})
	}
	if !t.streams[i].kept {
		t.streams[i].kept = true
		t.emit(KeepStream{r.local, r.remote})
	}
}
