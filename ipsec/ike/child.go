package ike

import (
	"cmp"
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// childState is where a Child SA is in its life.
type childState uint8

const (
	childInstalling childState = iota // the data plane has it on order
	childInstalled
	childReplaced  // another has taken over; one end will delete it
	childDeleting  // our Delete is under way
	childLingering // deleted, accepts packets that were under way
	childDead
)

var childStateNames = [...]string{"installing", "installed", "replaced", "deleting", "lingering", "dead"}

func (s childState) String() string { return childStateNames[s] }

// childSA is a pair of ESP SAs, one in each direction.
//
// At most one Child SA of a name has its outbound SA installed at any time, so
// that it is always clear which one outgoing traffic takes. A new Child SA is
// installed inbound first; its outbound key waits here until it is promoted.
type childSA struct {
	t    *Tunnel
	ike  *ikeSA // that controls it now
	name string

	state             childState
	inbound, outbound uint32 // SPIs
	suite             suite.ESPSuite
	mode              dataplane.Mode
	noTFC             bool   // as in childSpec
	first             string // child of the data plane, and
	queue             int    // queue there
	shared            bool   // the peer has several as well
	full              bool   // but no more further ones than
	most              int    // these
	localTS, remoteTS []ts.Selector
	label             string // that was agreed on
	at                route  // where the data plane has it, zero if that is not known
	outboundKey       []byte // until promoted
	sending           bool   // its outbound SA is installed
	// ready is true once the peer is known to receive on it: it has answered
	// our request for it, or has shown that it got our answer to its own, which
	// was on madeOn.
	ready  bool
	madeOn *ikeSA
	// initiator is true if this end began the exchange that made it.
	initiator bool
	// lowestNonce is the lower nonce of that exchange (RFC 7296, Section
	// 2.8.1).
	lowestNonce []byte

	rekey *rekeyChildTask
	// passive is what the peer's rekeying of this SA made while ours was under
	// way too.
	passive    *passiveRekey
	replacedBy *childSA
	replaces   *childSA
	redundant  bool // lost against another one, which end will delete it is settled
	retired    bool // taken out of the data plane before its deletion
	refused    bool // the peer has refused to rekey it, for good as it seems

	wantRekey, wantDelete bool
	reason                Reason
	installed             time.Time
	rekeyAt, expireAt     time.Time
	endAt                 time.Time
}

// passiveRekey remembers the Child SA that the peer made by rekeying one that
// we are rekeying as well. Its nonce is needed even if the peer has already
// deleted it. While key exchanges are still to come (RFC 9370, Section 2.2.4),
// there is a series and no child.
type passiveRekey struct {
	child  *childSA
	series *peerSeries
	nonce  []byte
}

// live reports whether c carries traffic and is meant to stay.
func (c *childSA) live() bool {
	return (c.state == childInstalling || c.state == childInstalled) && !c.wantDelete && !c.redundant
}

// known reports whether c exists as far as the protocol goes.
func (c *childSA) known() bool { return c.state != childLingering && c.state != childDead }

// end makes c be deleted with the peer's knowledge.
func (c *childSA) end(why Reason) {
	if c.state == childInstalling || c.state == childInstalled || c.state == childReplaced {
		c.wantDelete = true
		if c.reason == 0 {
			c.reason = why
		}
	}
}

// childSpec is what an exchange agreed on for a Child SA.
type childSpec struct {
	cfg               *ChildConfig
	inbound, outbound uint32
	suite             suite.ESPSuite
	former            bool // by proposals that are not configured any more
	mode              dataplane.Mode
	noTFC             bool // the peer takes no padding against traffic analysis
	shared            bool // both ends have several for these selectors
	localTS, remoteTS []ts.Selector
	label             string
	initiator         bool // of the exchange
	lowestNonce       []byte
	keys              *suite.ChildKeys
	replaces          *childSA
	crossed           *childSA       // see peerSeries
	internal          []wire.Payload // what the answer has before its SA payload
}

// install orders the inbound SA, and the outbound one if send is true. then is
// called with the outcome.
func (t *Tunnel) install(sa *ikeSA, spec childSpec, send bool, then func(*childSA, error)) {
	in, out := spec.keys.ResponderToInitiator, spec.keys.InitiatorToResponder
	if !spec.initiator {
		in, out = out, in
	}
	c := &childSA{
		t: t, ike: sa, name: spec.cfg.Name, inbound: spec.inbound, outbound: spec.outbound,
		first: cmp.Or(spec.cfg.first, spec.cfg.Name), queue: spec.cfg.queue, shared: spec.shared,
		suite: spec.suite, mode: spec.mode, noTFC: spec.noTFC, localTS: spec.localTS, remoteTS: spec.remoteTS, label: spec.label,
		outboundKey: out, initiator: spec.initiator, lowestNonce: spec.lowestNonce, replaces: spec.replaces,
		madeOn: sa, ready: spec.initiator,
	}
	if old := spec.replaces; old != nil {
		c.shared = c.shared || old.shared
	}
	c.noteFormer(&spec)
	t.setLifetime(c, spec.cfg)
	c.at = sa.endpoints()
	t.children = append(t.children, c)
	ops := []dataplane.Op{dataplane.InstallSA{SA: c.plane(dataplane.Inbound, in)}}
	if send {
		ops = append(ops, c.takeOutbound()...)
	}
	sa.busy++
	t.apply(sa, ops, func(errs []error) {
		sa.busy--
		if err := firstError(errs); err != nil {
			t.dropChild(c)
			then(nil, err)
			return
		}
		if c.state == childInstalling {
			c.state, c.installed = childInstalled, t.now
			if !t.hasSender(c.name) && c.live() {
				t.promote(c) // the one that was to send until now ended meanwhile
			}
		}
		then(c, nil)
	})
}

func (t *Tunnel) setLifetime(c *childSA, cfg *ChildConfig) {
	life := t.cfg.rekeyTime(cfg)
	if life <= 0 {
		return
	}
	c.rekeyAt, c.expireAt = t.lifetime(life, c.initiator)
}

// promote moves outgoing traffic to c.
func (t *Tunnel) promote(c *childSA) {
	ops := c.takeOutbound()
	t.apply(nil, ops, func(errs []error) {
		if err := firstError(errs); err != nil && c.known() {
			t.childFailed(c.name, &Error{Op: "install outbound SA", Kind: KindDataPlane, Err: err})
			c.sending = false
			c.end(ReasonDataPlane)
		}
	})
}

// takeTraffic moves outgoing traffic to a Child SA that we have just made, unless
// another IKE SA has taken over from its one meanwhile and has the traffic.
func (t *Tunnel) takeTraffic(c *childSA) {
	if c.ike.redundant {
		c.redundant = true
		for _, o := range t.children {
			if o.name == c.name && o.sending && o.ike != c.ike {
				return
			}
		}
	}
	t.promote(c)
}

// promoteBest gives outgoing traffic of a name that has no SA to the best Child
// SA left.
func (t *Tunnel) promoteBest(name string) {
	if t.hasSender(name) {
		return
	}
	var best *childSA
	for _, c := range t.children {
		if c.name != name || c.outboundKey == nil || !c.known() || c.state == childInstalling {
			continue
		}
		if best == nil || c.fitness() >= best.fitness() {
			best = c
		}
	}
	if best != nil {
		t.promote(best)
	}
}

// fitness orders what outgoing traffic may take: what the peer can receive goes
// before what is to stay, and what is being deleted comes last of its kind.
func (c *childSA) fitness() int {
	n := 0
	if c.ready {
		n += 4
	}
	if c.state != childDeleting && !c.wantDelete {
		n += 2
	}
	if c.live() {
		n++
	}
	return n
}

// confirmChildren notes that the peer has sent a new request on sa: it has our
// answers to those before, for it waits for them (RFC 7296, Section 2.3), and so
// can receive on the Child SAs that they made.
func (t *Tunnel) confirmChildren(sa *ikeSA) {
	for _, c := range t.children {
		c.ready = c.ready || c.madeOn == sa
	}
}

// confirm notes that the peer has deleted an IKE SA that sa is to take the place of:
// it has our answer to the IKE_AUTH that made sa, and the Child SA in it.
func (sa *ikeSA) confirm() {
	sa.confirmed = true
	for _, c := range sa.t.children {
		if c.madeOn == sa {
			c.ready = true
			return
		}
	}
}

// peerUses notes that the peer sent on c: it is ready to receive on it (RFC
// 7296, Section 2.8).
func (t *Tunnel) peerUses(c *childSA) {
	c.ike.heard = t.now
	c.ready = true
	if c.state == childInstalled && c.live() && !c.sending && !t.sendsOnYounger(c) {
		t.promote(c)
	}
}

// sendsOnYounger reports whether outgoing traffic takes a Child SA that was made
// after c for the same purpose. It is not moved back: an outbound SA that was
// removed cannot be installed again, as its sequence numbers would repeat.
func (t *Tunnel) sendsOnYounger(c *childSA) bool {
	for i := slices.Index(t.children, c) + 1; i < len(t.children); i++ {
		if o := t.children[i]; o.name == c.name && o.sending && o.live() {
			return true
		}
	}
	return false
}

// removeChild takes c out of the data plane now.
func (t *Tunnel) removeChild(c *childSA, why Reason) {
	if c.state == childDead {
		return
	}
	was := c.status()
	lost := c.known() && c.replacedBy == nil && c.state != childInstalling
	ops := c.stopSending()
	t.dropChild(c)
	t.apply(nil, ops, nil)
	t.promoteBest(c.name)
	if lost && !t.hasLive(c.name) {
		t.emit(ChildDown{was, why})
	}
}

// lingerChild stops sending on c and accepts packets on it a little longer.
func (t *Tunnel) lingerChild(c *childSA, why Reason) {
	if !c.known() {
		return
	}
	was := c.status()
	replaced := c.replacedBy != nil
	c.state = childLingering
	c.endAt = t.now.Add(oldInboundTime)
	c.forgetLinks()
	if next := t.successor(c); next != nil {
		t.promote(next) // removes the outbound SA of c in the same batch
	} else {
		t.apply(nil, c.stopSending(), nil)
		t.promoteBest(c.name)
	}
	if !replaced && !t.hasLive(c.name) {
		t.emit(ChildDown{was, why})
	}
}

// retire takes an expired Child SA out of the data plane at once: it must not be
// used any longer (RFC 7296, Section 2.8), however long the peer takes to agree
// to its deletion.
func (t *Tunnel) retire(c *childSA) {
	ops := c.stopSending()
	if !c.retired {
		ops = append(ops, c.removeInbound())
	}
	c.retired = true
	clear(c.outboundKey)
	c.outboundKey = nil
	t.apply(nil, ops, nil)
	t.promoteBest(c.name)
}

func (c *childSA) removeInbound() dataplane.Op {
	return dataplane.RemoveSA{Tunnel: c.t.cfg.Name, SPI: c.inbound, Direction: dataplane.Inbound}
}

// successor returns the Child SA that takes over outgoing traffic from c, nil
// if c has none to give.
func (t *Tunnel) successor(c *childSA) *childSA {
	if n := c.replacedBy; c.sending && n != nil && n.state == childInstalled && n.outboundKey != nil {
		return n
	}
	return nil
}

func (c *childSA) stopSending() []dataplane.Op {
	if !c.sending {
		return nil
	}
	c.sending = false
	return []dataplane.Op{dataplane.RemoveSA{Tunnel: c.t.cfg.Name, SPI: c.outbound, Direction: dataplane.Outbound}}
}

// dropChild removes the inbound SA and forgets c.
func (t *Tunnel) dropChild(c *childSA) {
	ops := c.stopSending()
	if !c.retired {
		ops = append(ops, c.removeInbound())
	}
	c.state = childDead
	clear(c.outboundKey)
	c.outboundKey = nil
	c.forgetLinks()
	t.apply(nil, ops, nil)
}

// forgetLinks tells the others that c is gone.
func (c *childSA) forgetLinks() {
	for _, o := range c.t.children {
		if o.passive != nil && o.passive.child == c {
			o.passive.child = nil // the nonce stays
		}
		if o.replacedBy == c {
			o.replacedBy = nil
			if (o.state == childReplaced || o.state == childInstalled && o.redundant) && !o.wantDelete {
				o.restore()
			}
		}
		if o.replaces == c {
			o.replaces = nil
		}
	}
}

// restore puts c back in charge, because what replaced it, or won against it, is
// gone, or ends it, if it can no longer be sent on. One that was replaced is still to be, by the peer who tried that already, or
// else by this end.
func (c *childSA) restore() {
	if !c.sending && c.outboundKey == nil {
		c.end(c.reason) // it was sent on before, and cannot be again
		return
	}
	if c.state == childReplaced {
		c.rekeyAt = c.t.now.Add(c.t.retryDelay() + 2*responderDelay)
	}
	c.state, c.redundant, c.reason = childInstalled, false, 0
	c.endAt = time.Time{}
	c.t.childUp(c)
}

// allocateSPI returns the SPI of the inbound SA of a new Child SA, which takes over from
// the live one of that name, if there is one: in a rekey, and when the IKE SA is made
// anew.
func (t *Tunnel) allocateSPI(cfg *ChildConfig) (uint32, error) {
	var replaces uint32
	if c := t.liveChild(cfg.Name); c != nil {
		replaces = c.inbound
	}
	return t.runtime.AllocateSPI(replaces)
}

// releaseSPI gives back an SPI that was reserved and not used.
func (t *Tunnel) releaseSPI(spi uint32) {
	t.apply(nil, []dataplane.Op{dataplane.RemoveSA{Tunnel: t.cfg.Name, SPI: spi, Direction: dataplane.Inbound}}, nil)
}

func (t *Tunnel) hasLive(name string) bool { return t.liveChild(name) != nil }

// liveChild returns the youngest live Child SA of a name.
func (t *Tunnel) liveChild(name string) *childSA {
	for i := len(t.children) - 1; i >= 0; i-- {
		if c := t.children[i]; c.name == name && c.live() {
			return c
		}
	}
	return nil
}

// childSPI names an SA of one direction as messages do: SPIs of ESP and of AH are
// apart (RFC 4301, Section 4.1).
type childSPI struct {
	protocol wire.ProtocolID
	spi      uint32
}

// deletes returns a Delete payload for each protocol (RFC 7296, Section 3.11).
func deletes(spis []childSPI) []wire.Payload {
	var payloads []wire.Payload
	for _, protocol := range []wire.ProtocolID{wire.ProtocolESP, wire.ProtocolAH} {
		var of [][]byte
		for _, s := range spis {
			if s.protocol == protocol {
				of = append(of, put32(s.spi))
			}
		}
		if len(of) > 0 {
			payloads = append(payloads, &wire.Delete{Protocol: protocol, SPIs: of})
		}
	}
	return payloads
}

// peersChild finds the Child SA whose inbound SA at the peer is named.
func (t *Tunnel) peersChild(s childSPI) *childSA {
	for _, c := range t.children {
		if c.known() && c.outbound == s.spi && c.suite.Protocol() == s.protocol {
			return c
		}
	}
	return nil
}

func (t *Tunnel) childBySPI(spi uint32, d dataplane.Direction) *childSA {
	for _, c := range t.children {
		if c.known() && (d == dataplane.Inbound && c.inbound == spi || d == dataplane.Outbound && c.outbound == spi) {
			return c
		}
	}
	return nil
}

func (t *Tunnel) tickChild(c *childSA) {
	switch {
	case c.state == childDead:
	case c.state == childLingering:
		if t.due(c.endAt) {
			t.dropChild(c)
		}
	default:
		if t.due(c.expireAt) {
			c.expireAt = time.Time{}
			t.expireChild(c)
		}
		if t.due(c.endAt) {
			c.endAt = time.Time{}
			c.end(ReasonRedundant)
		}
		if t.due(c.rekeyAt) {
			c.rekeyAt = time.Time{}
			c.wantRekey = c.state == childInstalled && !c.redundant
		}
	}
}

// expireChild ends a Child SA that nothing replaced in time.
func (t *Tunnel) expireChild(c *childSA) {
	if c.live() {
		t.noteExpiry("Child SA", c.name)
		c.lastResort(true)
	}
	t.retire(c)
	c.end(ReasonExpired)
}

func (c *childSA) addDeadlines(e *earliest) {
	e.add(c.endAt)
	if c.known() {
		e.add(c.expireAt)
		e.add(c.rekeyAt)
	}
}

// childFailed reports a failed attempt and delays the next.
func (t *Tunnel) childFailed(name string, err *Error) {
	if t.wantsPair(name, err) {
		return
	}
	t.complete(err, name)
	t.lastError = err
	t.emit(Failed{Child: name, Err: err})
	if s := t.slot(name); s != nil {
		s.failures++
		s.notBefore = t.now.Add(max(t.backoff(s.failures), t.addressDelay(err)))
	}
}
