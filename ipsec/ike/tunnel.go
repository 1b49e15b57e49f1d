package ike

import (
	"net/netip"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// Tunnel is the state machine of one tunnel. It is not safe for concurrent use.
type Tunnel struct {
	machine
	// cfg is what all have in common that know the tunnel, so it is not changed:
	// another one takes its place.
	cfg *Config

	sas      []*ikeSA   // in the order in which they were made
	children []*childSA // likewise
	slots    []slot     // one for each of cfg.Children, in that order
	streams  []stream   // the TCP connections that it uses
	heardAt  time.Time  // when it was last told that the peer is heard by UDP
	ticket   *heldTicket
	// formerIKE are the proposals before the present ones, see former.go.
	formerIKE []suite.IKEProposal
	// redirects are when the latest gateways sent us to others.
	redirects []time.Time

	attempts
	placing
	unsetPolicies
	pathMTU pathMTU

	// peerAddresses are the addresses that the peer has beside the one in use, as
	// far as it says (RFC 4555, Section 3.4).
	peerAddresses []netip.Addr
	leases        []leaseNote  // internal addresses that the peer was given
	hadInternal   []netip.Addr // those that it gave us last
}

// slot is what is remembered of one configured Child SA while it has no SA.
type slot struct {
	name      string
	failures  int
	notBefore time.Time           // no attempt before that
	yield     time.Time           // nor before that while it is the peer's part
	acquired  bool                // traffic asked for it
	former    []suite.ESPProposal // see former.go
	// The addresses of the packet that did, if they are known, and whether
	// the peer wants a Child SA for them alone.
	source, destination netip.Addr
	single              bool
}

const (
	// hintInterval is the least time between two liveness checks caused by
	// something unauthenticated.
	hintInterval = 10 * time.Second
	// redundantTime is how long the other end has to delete an SA that crossing
	// exchanges made superfluous, before this one does.
	redundantTime = 20 * time.Second
	// confirmTime is how long a responder lets the peer take the answer to
	// IKE_AUTH and delete the IKE SA that the new one replaces, before it asks
	// whether the new one is there and sees to the old one itself.
	confirmTime = 2 * time.Second
	// oldInboundTime is how long a deleted Child SA still accepts packets that
	// were under way.
	oldInboundTime = 5 * time.Second
	// responderDelay is how much longer than the original initiator the
	// responder waits before it makes a Child SA that is missing.
	responderDelay = 5 * time.Second
	// maxIdentified bounds the IKE SAs of one tunnel whose peer claims to be
	// ours and has not proved it.
	maxIdentified = 4
)

// New returns a tunnel that does nothing until Connect.
func New(cfg Config) (*Tunnel, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	t := &Tunnel{}
	t.configure(&cfg)
	t.ticket = restoreTicket(cfg.Runtime.Ticket)
	return t, nil
}

// configure has t work by cfg, which is complete and valid.
func (t *Tunnel) configure(cfg *Config) {
	t.cfg = cfg
	t.runtime, t.timing, t.natPort, t.datagram = &cfg.Runtime, &cfg.Timing, cfg.NATPort, cfg.FragmentSize
	t.slots = makeSlots(t.slots, cfg.Children)
}

func makeSlots(old []slot, children []ChildConfig) []slot {
	slots := make([]slot, len(children))
	for i, ch := range children {
		slots[i] = slot{name: ch.Name}
		for _, o := range old {
			if o.name == ch.Name {
				slots[i] = o
			}
		}
	}
	return slots
}

func (t *Tunnel) slot(name string) *slot {
	for i := range t.slots {
		if t.slots[i].name == name {
			return &t.slots[i]
		}
	}
	return nil
}

// Step applies one input at time now. It never blocks. What it causes is then
// handed out by Next. Garbage from the network is counted and changes nothing;
// see [Stats].
func (t *Tunnel) Step(now time.Time, in Input) {
	t.clock.set(now)
	switch in := in.(type) {
	case Datagram:
		t.receive(in)
	case JobDone:
		t.answer(in.Token, in.Result)
	case PlaneResult:
		t.answer(in.Token, in.Errs)
	case PlaneEvent:
		t.planeEvent(in.Event)
	case Activity:
		t.answer(in.Token, in)
	case Dialed:
		t.dialed(in)
	case StreamClosed:
		t.streamClosed(route{in.Local, in.Remote, true})
	case AddressChange:
		t.changeAddresses(in)
	case Unreachable:
		t.unreachable(in.Remote)
	case Reachable:
		t.reachable()
	case TooLong:
		t.tooLong(in.Remote)
	case Connect:
		t.transcript.note(now, wire.SPI{}, "wanted")
		t.connect()
	case Disconnect:
		t.transcript.note(now, wire.SPI{}, "no longer wanted")
		t.disconnect()
	case Reconfigure:
		t.transcript.note(now, wire.SPI{}, "configuration changed")
		t.reconfigure(in.Config)
	case RekeyChild:
		t.requestChildRekey(in.Child)
	case RekeyIKE:
		if sa := t.primary(); sa != nil {
			sa.wantRekey = true
		}
	case Reauthenticate:
		t.reauthenticate()
	case Restart:
		t.transcript.note(now, wire.SPI{}, "restarted by command")
		t.deleteAll()
	case Revalidate:
		t.revalidate()
	case Complaint:
		t.complaint(in)
	case UnknownSPI:
		t.unknownSPI(in)
	case Tick:
	}
	t.tick()
	t.advance()
}

func (t *Tunnel) receive(d Datagram) {
	before := t.stats
	t.dispatch(d)
	t.noteDrops(before, d.Remote)
}

// dispatch gives a datagram to the IKE SA that it is for.
func (t *Tunnel) dispatch(d Datagram) {
	t.stats.Received++
	h, ok := parseHeader(&t.machine, d)
	if !ok {
		return
	}
	ours := h.ResponderSPI
	if !h.FromInitiator() {
		ours = h.InitiatorSPI
	}
	if sa := t.find(h, ours); sa != nil {
		sa.receive(d)
		return
	}
	if isFirst(h.Exchange) && h.ResponderSPI.IsZero() && t.repeatsInit(h, d) {
		return
	}
	t.stats.UnknownSPI++
}

// repeatsInit ignores an IKE_SA_INIT request that belongs to an IKE SA whose
// IKE_AUTH was received already (RFC 7296, Section 2.1).
func (t *Tunnel) repeatsInit(h wire.Header, d Datagram) bool {
	for _, sa := range t.sas {
		if !sa.initiator && sa.remoteSPI == h.InitiatorSPI {
			return true
		}
	}
	return false
}

// primary returns the IKE SA that new exchanges use: the youngest one that is
// established and neither redundant nor on its way out.
func (t *Tunnel) primary() *ikeSA {
	var best *ikeSA
	for _, sa := range t.sas {
		if sa.alive() && !sa.redundant && (best == nil || !sa.established.Before(best.established)) {
			best = sa
		}
	}
	return best
}

func (t *Tunnel) add(sa *ikeSA) {
	sa.t, sa.m = t, &t.machine
	t.sas = append(t.sas, sa)
	t.emit(RegisterSPI{sa.localSPI})
}

// advance does all that can be done now: waiting messages, tasks, the next
// attempt to connect. Each round makes progress or is the last.
func (t *Tunnel) advance() {
	for again := true; again; {
		again = false
		for i := 0; i < len(t.sas); i++ {
			sa := t.sas[i]
			if sa.busy == 0 && len(sa.inbox) > 0 && sa.state != stateDead {
				sa.receivePostponed()
				again = true
			}
			if t.verifyAgain(sa) || t.startTask(sa) {
				again = true
			}
		}
		t.reap()
		t.placeChildren()
		t.watchPath()
		if t.planConnection() || t.planReauth() {
			again = true
		}
	}
	if t.closing && t.onlyLingering() {
		t.finishClosing()
	}
	t.settleStreams()
}

func (t *Tunnel) reap() {
	kept := t.sas[:0]
	for _, sa := range t.sas {
		if sa.state != stateDead {
			kept = append(kept, sa)
		}
	}
	clear(t.sas[len(kept):])
	t.sas = kept
	t.releaseLeases()
	children := t.children[:0]
	for _, c := range t.children {
		if c.state != childDead {
			children = append(children, c)
		}
	}
	clear(t.children[len(children):])
	t.children = children
}

// planeEvent takes an event of the data plane.
func (t *Tunnel) planeEvent(e dataplane.Event) {
	if e.Kind == dataplane.Acquire {
		t.acquire(e)
		return
	}
	c := t.childBySPI(e.SPI, e.Direction)
	if c == nil {
		return
	}
	switch e.Kind {
	case dataplane.SoftExpire:
		c.wantRekey = true
	case dataplane.HardExpire:
		if c.live() {
			t.noteExpiry("Child SA", c.name)
			c.lastResort(true)
		}
		c.end(ReasonExpired)
	case dataplane.FirstInbound:
		t.peerUses(c)
	case dataplane.MappingChanged:
		t.mappingChanged(c, e)
	}
}

func (t *Tunnel) acquire(e dataplane.Event) {
	s := t.slot(e.Child)
	if s == nil || !t.wanted {
		return
	}
	s.acquired = true
	s.source, s.destination = e.Source, e.Destination
	if t.primary() == nil {
		t.attemptForTraffic()
	}
}

// tick turns the deadlines that have come into wishes, and carries out those
// that need nobody else.
func (t *Tunnel) tick() {
	t.retryPolicies()
	t.lookAtPath()
	for _, sa := range t.sas {
		t.tickIKE(sa)
	}
	for _, c := range t.children {
		t.tickChild(c)
	}
}

// Deadline returns when the tunnel wants its next Tick; false means never.
func (t *Tunnel) Deadline() (time.Time, bool) {
	var e earliest
	for _, sa := range t.sas {
		sa.addDeadlines(&e)
	}
	for _, c := range t.children {
		c.addDeadlines(&e)
	}
	if t.connectAt.After(t.now) {
		e.add(t.connectAt)
	}
	e.add(t.policyAt)
	e.add(t.pathMTU.dueAt(t))
	if t.placeAt.After(t.now) {
		e.add(t.placeAt)
	}
	if t.primary() != nil {
		for i := range t.slots {
			for _, at := range []time.Time{t.slots[i].notBefore, t.slots[i].yield} {
				if at.After(t.now) {
					e.add(at)
				}
			}
		}
	}
	return t.outside(e.at), !e.at.IsZero()
}
