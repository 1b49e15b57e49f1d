package ike

import (
	"net/netip"
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// An IKE SA has two pairs of addresses. Its own messages go over path; the
// packets of its Child SAs are where placed says. The two differ only while it is
// not proved that the peer is at a new address (RFC 4555, Section 3.7), or while
// the data plane has not carried out a change.
//
// The data plane is brought to what placed says after every step, by one
// operation for all SAs of the tunnel, and again if that fails: so the endpoint of
// IKE, the Child SAs and the keepalives do not stay apart, whatever it was that
// moved the IKE SA.

// path is between which addresses an IKE SA and its Child SAs are.
type path struct {
	route     // where its messages go
	link      tcpLink
	placed    placement // where the packets of its Child SAs go
	movedFrom route     // where they went before, until that is told
	left      route     // that it had to leave and the peer may still use
	unproved  route     // where the peer may be and was not asked yet, zero if nowhere
	movedAt   time.Time // when its messages last went another way
	checkAt   time.Time // when all of checkBurst looks into addresses that packets came from may be had again
	suspectAt time.Time // earliest next test of the path because of a hint
}

// placing is the work of the data plane on where Child SAs are.
type placing struct {
	moving     bool
	placeAt    time.Time // earliest next time after it failed
	placeTries int       // that failed
}

// placement is where ESP goes, and whether in UDP.
type placement struct {
	route
	encap bool
}

const (
	// placeRetry is how long the data plane is left alone after it could not move
	// SAs.
	placeRetry = 2 * time.Second
	// checkInterval is the mean time between two checks of an address that
	// packets came from, and between two moves without a check: addresses that
	// flap cost no more than that. As many as checkBurst may follow one another,
	// for a NAT that has just forgotten may change its mind: Linux's gives two
	// ports to two packets that two processors send at once, and drops one of
	// them a second later.
	checkInterval = 5 * time.Second
	checkBurst    = 3
	// pathTries is how often a request that tests a path is repeated on it alone,
	// before it goes over the path in use as well.
	pathTries = 2
	// maxPlaceTries is how often the data plane is asked to move SAs before they are
	// replaced by others where they should be.
	maxPlaceTries = 3
	// maxWays bounds the paths that one request is sent over.
	maxWays = 9
)

// move has the messages of the SA go over p from now on. A request that is out is
// repeated there at once (RFC 4555, Section 3.5).
func (sa *ikeSA) move(p route) {
	if p == sa.route {
		return
	}
	if sa.tcp && sa.mobike && !sa.link.lost {
		sa.link.before, sa.link.leaveAt = sa.route, sa.m.now.Add(leaveTime)
	}
	sa.route, sa.movedAt, sa.link.lost = p, sa.m.now, false
	sa.redirect(p)
}

// redirect sends a request that is out over p as well.
func (sa *ikeSA) redirect(p route) {
	if o := sa.window.outstanding; o != nil && sa.state.in(stateUsable) {
		sa.sendAgain(p, o.datagrams)
		o.went(p)
	}
}

// firstPlace has the first Child SAs go where IKE_AUTH went (RFC 4555, Section 3.3).
// An initiator is there if the first request came from the same address, as it
// could not have gone on without the answer. If that came from another one, nobody
// knows about this one yet: Child SAs go to the first until it was asked.
func (sa *ikeSA) firstPlace() {
	at := sa.placed.route
	if sa.initiator || at.isZero() || sa.tcp || at.remote.Addr() == sa.remote.Addr() || sa.t.cfg.Mobility.TrustPeer {
		sa.placed = placement{}
		sa.settle()
		return
	}
	sa.placed.encap = sa.encap
	sa.prove(sa.route)
}

// settle has the Child SAs go where the messages go.
func (sa *ikeSA) settle() {
	sa.unproved = route{}
	if to := (placement{sa.route, sa.encap}); to != sa.placed {
		sa.place(to)
	}
}

// goFrom goes over p, because this end has to leave from there or can: its Child SAs
// do so as well, to where the peer was last proved to be.
func (sa *ikeSA) goFrom(p route) {
	sa.t.moveAll(sa, p)
	at := sa.placed.remote
	switch {
	case p.remote == at || sa.t.cfg.Mobility.TrustPeer:
		sa.settle()
	case p.local.Addr().Is4() == at.Addr().Is4():
		sa.unproved = p
		sa.place(placement{route{local: p.local, remote: at}, sa.encap})
	default:
		sa.unproved = p
	}
}

func (sa *ikeSA) place(to placement) {
	from := sa.placed.route
	sa.placed = to
	if sa.movedFrom.isZero() && from != to.route {
		sa.movedFrom = from
	}
}

// announceMove tells that the SA and its Child SAs have moved, once the data plane
// has carried it out.
func (sa *ikeSA) announceMove() {
	from := sa.movedFrom
	sa.movedFrom = route{}
	if !from.isZero() && from != sa.placed.route {
		sa.m.emit(IKEMoved{SA: sa.status(), FromLocal: from.local, FromRemote: from.remote})
	}
}

// endpoints are the outer addresses of ESP. Ports are those of the encapsulation,
// zero without (RFC 3948, Section 2.1).
func (sa *ikeSA) endpoints() route {
	p := sa.placed
	if p.encap || p.tcp {
		return p.route
	}
	return route{local: netip.AddrPortFrom(p.local.Addr(), 0), remote: netip.AddrPortFrom(p.remote.Addr(), 0)}
}

// placeChildren moves the SAs of the tunnel in the data plane if one of them is
// not where the IKE SA in charge has it (RFC 7296, Section 2.23).
func (t *Tunnel) placeChildren() {
	sa := t.primary()
	if sa == nil {
		return
	}
	if sa.route != sa.placed.route && sa.unproved.isZero() && !(sa.mobike && sa.decides()) {
		sa.proveOrSettle(sa.route) // it moved before it was in charge
	}
	if t.moving || t.now.Before(t.placeAt) {
		return
	}
	to := sa.endpoints()
	if !slices.ContainsFunc(t.children, func(c *childSA) bool { return c.ike == sa && c.known() && c.at != to }) {
		sa.announceMove()
		return
	}
	t.moving = true
	t.pathMTU.forget()
	for _, c := range t.children {
		c.at = to
	}
	t.apply(nil, []dataplane.Op{dataplane.UpdateEndpoints{Tunnel: t.cfg.Name, Local: to.local, Remote: to.remote, TCP: to.tcp}}, func(errs []error) {
		t.moving = false
		if err := firstError(errs); err != nil {
			t.report(&Error{Op: "move Child SAs to " + to.remote.String(), Kind: KindDataPlane, Err: err})
			t.notPlaced()
			return
		}
		t.placeTries = 0
	})
}

// notPlaced has the data plane asked again in a moment to move SAs, or if it does
// not do that at all has them rekeyed: new ones are made where they should be.
func (t *Tunnel) notPlaced() {
	t.placeAt = t.now.Add(placeRetry)
	if t.placeTries++; t.placeTries >= maxPlaceTries {
		t.placeTries = 0
		for _, c := range t.children {
			c.wantRekey = c.wantRekey || c.live()
		}
		return
	}
	for _, c := range t.children {
		c.at = route{}
	}
}

// inheritPath takes over from the SA that sa replaces where the peer is: the two
// may have moved apart since sa was made. What was under way about it is done
// again on sa.
func (sa *ikeSA) inheritPath(old *ikeSA) {
	if old.movedAt.After(sa.movedAt) {
		sa.route, sa.movedAt = old.route, old.movedAt
		sa.localNAT, sa.remoteNAT, sa.encap = old.localNAT, old.remoteNAT, old.encap
		sa.link = old.link.heir()
	}
	sa.placed, sa.movedFrom, sa.left, sa.testAt = old.placed, old.movedFrom, old.left, old.testAt
	switch {
	case sa.route == sa.placed.route:
		sa.settle()
	case sa.mobike && sa.decides():
		sa.wantUpdate = true
	default:
		sa.proveOrSettle(sa.route)
	}
	switch old.active.(type) {
	case *updateTask:
		sa.wantUpdate = true
	case *announceTask:
		sa.wantAnnounce = true
	}
	sa.wantUpdate = sa.wantUpdate || old.wantUpdate
	sa.wantAnnounce = sa.wantAnnounce || old.wantAnnounce
}

// proveOrSettle has the Child SAs go to the peer's new address p: at once if it is
// trusted in that, otherwise when it was proved to be there (RFC 4555, Section
// 3.7). Who has made a TCP connection is there (RFC 9329, Section 7.1).
func (sa *ikeSA) proveOrSettle(p route) {
	if sa.t.cfg.Mobility.TrustPeer || p.tcp || p.remote == sa.placed.remote {
		sa.move(p)
		sa.settle()
		return
	}
	sa.prove(p)
}

// mayLook reports whether another look into an address that packets came from is
// due, and countLook counts one.
func (sa *ikeSA) mayLook() bool {
	return !sa.m.now.Before(sa.checkAt.Add(-(checkBurst - 1) * checkInterval))
}

func (sa *ikeSA) countLook() {
	if sa.checkAt.Before(sa.m.now) {
		sa.checkAt = sa.m.now
	}
	sa.checkAt = sa.checkAt.Add(checkInterval)
}

// prove has the peer asked whether it is at p. A request that is out goes there at
// once, for it may not reach the peer where it went.
func (sa *ikeSA) prove(p route) {
	if sa.unproved == p {
		return
	}
	sa.unproved = p
	if p != sa.route {
		sa.redirect(p)
	}
}

// repeatedFrom takes that the latest request of the peer came again, and where from.
// If that request has moved the peer to a place where it does not answer, somebody
// may have changed the address of its first copy on the way: the check goes to
// where this one came from as well, and if the answer comes from there, that place
// is checked.
//
// To the end that decides, repetitions say that its answers do not arrive, while it
// may well hear the packets of the peer: its own way there may have failed.
func (sa *ikeSA) repeatedFrom(p route) {
	if sa.mobike && sa.decides() && sa.window.repeats >= suspectTries {
		sa.suspectPath()
	}
	if _, checks := sa.active.(*checkTask); checks && sa.mobike && sa.unproved == sa.route && p != sa.route && !p.tcp {
		sa.redirect(p)
	}
}

// checkTask asks the peer at a new address whether it is there before its Child
// SAs go there: by an empty request, or with MOBIKE by one with a cookie that only
// who receives it can return (RFC 4555, Section 3.7). If no answer comes, the
// request is repeated on the path in use, because it has to be answered.
type checkTask struct {
	sa     *ikeSA
	to     route
	cookie []byte
}

func (c *checkTask) start() {
	sa := c.sa
	c.to = sa.unproved
	var payloads []wire.Payload
	if sa.mobike {
		c.cookie = sa.m.random(cookie2Len)
		payloads = append(payloads, &wire.Notify{Kind: wire.NotifyCookie2, Data: c.cookie})
	}
	sa.askOver(c.to, wire.ExchangeInformational, payloads, c.answered)
}

func (c *checkTask) abandon() {}

func (c *checkTask) answered(m *message) {
	sa := c.sa
	sa.finish()
	if !sa.returned(m, c.cookie) || sa.unproved != c.to {
		return
	}
	switch {
	case sa.answered.onlyTo(c.to.remote):
		sa.move(c.to)
		sa.settle()
	case c.to == sa.route && m.route != c.to:
		sa.unproved = m.route // see repeatedFrom
	case c.to != sa.route:
		// It answered elsewhere. The next packet from there asks again.
		sa.unproved = route{}
	}
}

// pathTask chooses among what is to be done about addresses, which goes before
// everything but the end of the IKE SA (RFC 4555, Section 3.5).
func (t *Tunnel) pathTask(sa *ikeSA) task {
	switch {
	case sa != t.primary():
		return nil
	case sa.wantUpdate:
		return &updateTask{sa: sa}
	case !sa.unproved.isZero():
		return &checkTask{sa: sa}
	case sa.wantAnnounce && sa.mobike:
		return &announceTask{sa: sa}
	case sa.wantHome:
		return &homeTask{sa}
	}
	return nil
}

// went notes that the request was sent over p.
func (o *outstanding) went(p route) {
	if (len(o.ways) < maxWays || p.tcp) && !slices.Contains(o.ways, p) {
		o.ways = append(o.ways, p)
	}
}

// only reports whether the request was sent over p and nowhere else: only then
// does its answer say that the peer is there (RFC 4555, Section 3.7).
func (o *outstanding) only(p route) bool { return o != nil && len(o.ways) == 1 && o.ways[0] == p }

// onlyTo is the same of one address of the peer, from whichever address of this end.
func (o *outstanding) onlyTo(remote netip.AddrPort) bool {
	return o != nil && !slices.ContainsFunc(o.ways, func(p route) bool { return p.remote != remote })
}

// hasOtherSource reports whether the request went from another address too.
func (o *outstanding) hasOtherSource(a netip.Addr) bool {
	return o != nil && slices.ContainsFunc(o.ways, func(p route) bool { return p.local.Addr() != a })
}

// waysAgain are the paths over which a request is repeated.
func (sa *ikeSA) waysAgain(o *outstanding) []route {
	if !o.test.isZero() && o.silent <= pathTries {
		return []route{o.test}
	}
	var ways []route
	if !sa.tcp || !slices.Contains(o.ways, sa.route) || o.silent >= suspectTries {
		// What is sent by TCP arrives, or the connection ends (RFC 9329, Section
		// 6.2). But the peer may not have been ready for it, for an IKE SA that it
		// still made its end of, and has dropped it.
		ways = append(ways, sa.route)
	}
	if !sa.unproved.isZero() && sa.unproved != sa.route {
		ways = append(ways, sa.unproved)
	}
	if at := sa.placed.route; sa.unproved == sa.route && at != sa.route && !at.tcp {
		ways = append(ways, at) // it may be where it was, whatever moved it
	}
	if o.silent >= suspectTries {
		ways = append(ways, sa.alternatives()...)
	}
	return ways
}
