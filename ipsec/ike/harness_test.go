package ike

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// packet is a datagram on its way.
type packet struct {
	id       int
	from, to *node
	src, dst netip.AddrPort
	data     []byte
	sent     time.Time
	esp      uint32 // the SPI of a packet that is no IKE message; 0 otherwise
	sequence int    // of such a packet
	promised bool   // it must arrive
	tcp      bool   // it goes in a connection
}

// world is two nodes, the network between them and the time.
type world struct {
	now                  time.Time
	a, b                 *node
	tcp                  tcpNet
	flight               []*packet
	lastID, lastSequence int
	// lastWork numbers the results that wait.
	lastWork int
	log      func(string, ...any)
	// announcements has render show them.
	announcements bool
	rng           *rand.Rand
	// blocked are paths on which nothing arrives, deaf the nodes to which no IKE
	// datagram does.
	blocked map[link]bool
	deaf    map[*node]bool
	// uprooted: a host has lost the address of an IKE SA that could not move.
	uprooted bool
	// lateNAT: a NAT came in between when there was an IKE SA. Nobody finds it
	// without MOBIKE, and ESP that is not in UDP does not pass.
	lateNAT bool
	// ways has the log show from where to where each datagram goes.
	ways bool
	// mtu, if set, is the largest IP datagram of a node that arrives.
	mtu map[*node]int
	// nat, if set, rewrites what a node sends.
	nat map[*node]netip.AddrPort
	// cut holds the nodes from which nothing arrives.
	cut map[*node]bool
	// gateway is another place where a's peer can be.
	gateway *node
	// intruder answers in place of b what it gets to see of a's messages.
	intruder *node
	silent   bool // it does not answer after IKE_SA_INIT

	broken *violation // the first invariant that did not hold
	gaps   []*gap     // when traffic was lost
	flowed map[string]bool
	// lossless makes a gap a violation, unless a message is lost or late.
	lossless bool
	// forgotten are inbound SPIs that an end lost and does not delete.
	forgotten []uint32
	mutate    func(*node)           // spoils a node after each step, to test the tests
	trace     func(*world, *packet) // sees each packet that is sent
}

// node is one end: a tunnel, its half-open responders, and a data plane that
// only remembers.
type node struct {
	w       *world
	name    string
	cfg     Config
	t       *Tunnel
	halves  []*HalfOpen
	random  *rand.ChaCha8
	nonces  [][]byte // used up before random ones
	lastSPI uint64
	lastESP uint32
	succeed map[uint32]uint32 // what inbound SAs were to replace, by SPI

	registered map[wire.SPI]bool
	in, out    map[uint32]dataplane.SA
	reserved   map[uint32]bool
	policies   map[string]dataplane.Policy
	failPlane  int // so many operations fail
	events     []string
	failed     *Error // the last one
	closed     bool
	dropJobs   bool // never answers jobs
	cookies    *CookieSecret
	// redirectsAll: it redirects in IKE_SA_INIT, not in IKE_AUTH.
	redirectsAll bool
	forgetful    bool            // never knows its own cookies
	disclose     func(IKEKeys)   // gets the keys that its configuration asks for
	anyInbound   map[uint32]bool // SPIs that FirstInbound was raised for

	skew         time.Duration // how far its clock is ahead of the world's
	later        bool          // results of jobs and operations wait for work
	pending      []pendingWork
	failPolicies int // so many policies fail to be set
	failMoves    int // so many moves of its SAs fail

	hostMTU, wireMTU int // what the host knows of the path, and of its own interface

	lastIn, lastOut time.Time            // when packets of SAs passed, by its own clock
	heard           map[route]time.Time  // when, by UDP
	newest          map[uint32]int       // packet received, by SPI
	moveTold        map[uint32]time.Time // MappingChanged raised, likewise
	addrs           []netip.Addr         // its own; nil: that of its configuration

	halfFragments bool // it ignores fragments of INFORMATIONAL exchanges

	without wire.NotifyType // an extension of IKE_SA_INIT that this end does not know
}

// pendingWork is a result that the machine waits for.
type pendingWork struct {
	m     stepper
	half  *HalfOpen // nil if m is the tunnel
	input func() Input
	plane bool
	id    int
	since time.Time
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newWorld(seed uint64) *world {
	return &world{now: epoch, rng: rand.New(rand.NewPCG(seed, seed)), nat: map[*node]netip.AddrPort{}, cut: map[*node]bool{}, flowed: map[string]bool{}, mtu: map[*node]int{}, blocked: map[link]bool{}, deaf: map[*node]bool{}}
}

// note writes to the transcript, if there is one.
func (w *world) note(format string, args ...any) {
	if w.log != nil {
		w.log(format, args...)
	}
}

func (n *node) Read(b []byte) (int, error) { return n.random.Read(b) }

func (w *world) newNode(name string, cfg Config) *node {
	n := &node{
		w: w, name: name, hostMTU: 1500, wireMTU: 1500,
		registered: map[wire.SPI]bool{}, in: map[uint32]dataplane.SA{}, out: map[uint32]dataplane.SA{},
		reserved: map[uint32]bool{}, policies: map[string]dataplane.Policy{}, anyInbound: map[uint32]bool{},
		newest: map[uint32]int{}, succeed: map[uint32]uint32{}, moveTold: map[uint32]time.Time{}, heard: map[route]time.Time{},
	}
	n.random = rand.NewChaCha8(sha256.Sum256([]byte(fmt.Sprintf("%s %d", name, w.rng.Uint64()))))
	cfg.Name = "t"
	cfg.Runtime = Runtime{Rand: n, NewSPI: n.newSPI, AllocateSPI: n.allocate, NonceForTest: n.nonce, Tokens: cfg.Runtime.Tokens, Tickets: n.ticketKeys(nil), SinceUDP: n.sinceUDP}
	n.cfg = cfg
	n.restart()
	return n
}

func (n *node) ticketKeys(saved []byte) *TicketKeys {
	k, err := NewTicketKeys(n, saved, nil)
	if err != nil {
		panic(err)
	}
	return k
}

// restart makes the node forget everything but its configuration and what it has
// for a restart.
func (n *node) restart() {
	n.renewPool()
	n.cfg.Runtime.Tickets = n.ticketKeys(n.cfg.Runtime.Tickets.Save())
	cfg := n.cfg
	if len(n.addrs) > 0 {
		cfg.Local = netip.AddrPortFrom(n.addrs[0], cfg.Local.Port())
		cfg.Mobility.Local = n.addrs[1:]
	}
	t, err := New(cfg)
	if err != nil {
		panic(err)
	}
	n.t, n.halves, n.closed, n.pending = t, nil, false, nil
	clear(n.registered)
	clear(n.in)
	clear(n.out)
	clear(n.reserved)
	clear(n.policies)
	clear(n.anyInbound)
}

// now is the time that n sees.
func (n *node) now() time.Time { return n.w.now.Add(n.skew) }

func (n *node) newSPI() wire.SPI {
	n.lastSPI++
	var s wire.SPI
	binary.BigEndian.PutUint64(s[:], uint64(n.name[0])<<56|n.lastSPI)
	return s
}

func (n *node) allocate(replaces uint32) (uint32, error) {
	n.lastESP++
	spi := uint32(n.name[0])<<8 | n.lastESP
	n.reserved[spi] = true
	n.succeed[spi] = replaces
	return spi, nil
}

func (n *node) nonce() []byte {
	if len(n.nonces) > 0 {
		first := n.nonces[0]
		n.nonces = n.nonces[1:]
		return first
	}
	b := make([]byte, nonceLen)
	n.random.Read(b)
	return b
}

func fixedNonce(first byte) []byte { return append([]byte{first}, make([]byte, nonceLen-1)...) }

func (n *node) peer() *node {
	if n == n.w.a {
		return n.w.b
	}
	return n.w.a
}

// nodeAt is whom n reaches at an address: its peer, unless the gateway is there.
func (n *node) nodeAt(a netip.Addr) *node {
	if g := n.w.gateway; g != nil && a == g.cfg.Local.Addr() {
		return g
	}
	return n.peer()
}

// step gives the tunnel an input and carries out what it causes.
func (n *node) step(in Input) {
	n.t.Step(n.now(), in)
	n.drain(n.t, nil)
	n.stepped()
}

func (n *node) stepped() {
	if n.w.mutate != nil {
		n.w.mutate(n)
		n.drain(n.t, nil)
	}
	n.w.observe()
	n.w.hangUp()
}

type stepper interface {
	Step(time.Time, Input)
	Next() (Effect, bool)
}

func (n *node) drain(m stepper, h *HalfOpen) {
	for {
		e, ok := m.Next()
		if !ok {
			return
		}
		switch e := e.(type) {
		case Send:
			n.carry(m, e)
		case Dial:
			m.Step(n.now(), n.dial(e))
		case KeepStream:
			n.event("uses the connection %s - %s", e.Local, e.Remote)
		case DropStream:
			n.dropStream(route{e.Local, e.Remote, true})
		case CloseStream:
			n.closeStream(route{e.Local, e.Remote, true})
		case KeepAlive:
			n.event("keepalive to %s", e.Remote)
		case StartJob:
			if !n.dropJobs {
				n.do(m, h, false, func() Input { return JobDone{e.Token, e.Run()} })
			}
		case AskActivity:
			m.Step(n.now(), Activity{e.Token, n.lastIn, n.lastOut, n.hostMTU})
		case Plane:
			errs := n.apply(e.Ops)
			n.do(m, h, true, func() Input { return PlaneResult{e.Token, errs} })
		case IKEKeys:
			if n.disclose == nil {
				panic("keys are handed out and nobody asked for them")
			}
			n.disclose(e)
		case HeardByUDP:
			n.heard[route{netip.AddrPortFrom(e.Local, n.cfg.Local.Port()), e.Remote, false}] = n.now()
		case RegisterSPI:
			n.registered[e.SPI] = true
		case UnregisterSPI:
			delete(n.registered, e.SPI)
		case Ticket:
			n.cfg.Runtime.Ticket = e.State
		default:
			n.describe(e)
		}
	}
}

// carry sends messages, but no probe that is too long for the interface.
func (n *node) carry(m stepper, e Send) {
	for _, d := range e.Datagrams {
		r := route{e.Local, e.Remote, e.TCP}
		if e.Probe {
			n.w.note("   %s probes %d\n", n.name, n.lengthOf(r, d))
			if n.lengthOf(r, d) > n.wireMTU {
				m.Step(n.now(), TooLong{e.Remote})
				continue
			}
		}
		n.sendBy(r, d)
	}
}

// do gives m a result now, or has it wait for work.
func (n *node) do(m stepper, h *HalfOpen, plane bool, input func() Input) {
	if n.later {
		n.w.lastWork++
		n.pending = append(n.pending, pendingWork{m, h, input, plane, n.w.lastWork, n.w.now})
		return
	}
	m.Step(n.now(), input())
}

// work gives the machine a result that it waits for. Those of the data plane
// come in order.
func (n *node) work(i int) {
	if i >= len(n.pending) {
		return
	}
	p := n.pending[i]
	if p.plane {
		i = slices.IndexFunc(n.pending, func(p pendingWork) bool { return p.plane })
		p = n.pending[i]
	}
	n.pending = slices.Delete(n.pending, i, i+1)
	if p.half != nil {
		n.stepHalf(p.half, p.input())
		return
	}
	n.step(p.input())
}

// workAll gives the machine all results of one kind.
func (n *node) workAll(plane bool) {
	for {
		i := slices.IndexFunc(n.pending, func(p pendingWork) bool { return p.plane == plane })
		if i < 0 {
			return
		}
		n.work(i)
	}
}

func (n *node) event(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	n.events = append(n.events, s)
	n.w.note("   %s! %s\n", n.name, s)
}

func (n *node) describe(e Effect) {
	switch e := e.(type) {
	case IKEUp:
		n.event("IKE SA up %s, peer %s", short(e.SA), e.SA.RemoteID)
	case IKEDown:
		n.event("IKE SA down %s: %s", short(e.SA), e.Reason)
	case IKESuspect:
		n.event("IKE SA %s suspect %v", short(e.SA), e.SA.Suspect)
	case IKEMoved:
		n.event("IKE SA %s moved to %s -> %s", short(e.SA), e.SA.Local, e.SA.Remote)
	case IKERekeyed:
		n.event("IKE SA rekeyed %s -> %s", short(e.Old), short(e.New))
	case ChildUp:
		n.event("Child SA up %s %x/%x", e.SA.Name, e.SA.InboundSPI, e.SA.OutboundSPI)
	case ChildDown:
		n.event("Child SA down %s %x/%x: %s", e.SA.Name, e.SA.InboundSPI, e.SA.OutboundSPI, e.Reason)
	case ChildRekeyed:
		n.event("Child SA rekeyed %s %x -> %x", e.New.Name, e.Old.InboundSPI, e.New.InboundSPI)
	case PathMTU:
		n.event("path MTU to %s is %d", e.Remote.Addr(), e.MTU)
	case Failed:
		n.failed = e.Err
		n.event("failed %s", strings.TrimSpace(e.Child+" "+e.Err.Error()))
	case Configured:
		n.event("%s %s", short(e.SA), e.SA.Internal)
	case Closed:
		n.closed = true
		n.event("closed")
	}
}

func short(s IKEStatus) string { return shortSPI(s.LocalSPI) + "/" + shortSPI(s.RemoteSPI) }

func shortSPI(s wire.SPI) string {
	if s.IsZero() {
		return "-"
	}
	return fmt.Sprintf("%c%d", s[0], s.Uint64()&0xffffffff)
}

func (n *node) apply(ops []dataplane.Op) []error {
	errs := make([]error, len(ops))
	for i, op := range ops {
		if n.failPlane > 0 {
			if _, install := op.(dataplane.InstallSA); install {
				n.failPlane--
				errs[i] = fmt.Errorf("no room in the data plane")
				n.w.note("   %s cannot install %x\n", n.name, op.(dataplane.InstallSA).SA.SPI)
				continue
			}
		}
		switch op := op.(type) {
		case dataplane.InstallSA:
			sa := op.SA
			sa.Key = bytes.Clone(sa.Key)
			m := n.in
			if sa.Direction == dataplane.Outbound {
				m = n.out
			} else if !n.reserved[sa.SPI] {
				panic("inbound SPI was not allocated")
			}
			if _, ok := m[sa.SPI]; ok {
				panic(fmt.Sprintf("%s: SPI %x installed twice", n.name, sa.SPI))
			}
			m[sa.SPI] = sa
		case dataplane.RemoveSA:
			if op.Direction == dataplane.Inbound {
				delete(n.in, op.SPI)
				delete(n.reserved, op.SPI)
			} else {
				delete(n.out, op.SPI)
			}
		case dataplane.SetPolicy:
			if n.failPolicies > 0 {
				n.failPolicies--
				errs[i] = fmt.Errorf("no room in the data plane")
				continue
			}
			n.policies[op.Policy.Child] = op.Policy
		case dataplane.RemovePolicy:
			delete(n.policies, op.Child)
		case dataplane.UpdateEndpoints:
			if n.failMoves > 0 {
				n.failMoves--
				errs[i] = fmt.Errorf("the data plane moves nothing")
				continue
			}
			for _, m := range []map[uint32]dataplane.SA{n.in, n.out} {
				for spi, sa := range m {
					sa.Local, sa.Remote, sa.TCP = op.Local, op.Remote, op.TCP
					m[spi] = sa
				}
			}
			n.setPathMTU(0)
			n.event("Child SAs moved to %s", op.Remote)
		case dataplane.SetPathMTU:
			n.setPathMTU(op.MTU)
		}
	}
	return errs
}

func (n *node) send(local, remote netip.AddrPort, data []byte) {
	n.sendBy(route{local: local, remote: remote}, data)
}

func (n *node) stepHalf(half *HalfOpen, in Input) {
	half.Step(n.now(), in)
	n.drain(half, half)
	if half.Identified() {
		err := errors.New("no tunnel is for this peer")
		if n.cfg.Matches(half.PeerID(), half.LocalID(), half.Remote().Addr()) {
			err = n.t.Adopt(n.now(), half)
		}
		if err == nil {
			n.drain(n.t, nil)
		} else {
			half.Reject(n.now(), err)
			n.drain(half, half)
		}
	}
	n.sweep()
	n.stepped()
}

func (n *node) sweep() {
	n.halves = slices.DeleteFunc(n.halves, func(h *HalfOpen) bool { return h.Done() })
}

func (n *node) tick() {
	for _, h := range slices.Clone(n.halves) {
		h.Step(n.now(), Tick{})
		n.drain(h, h)
	}
	n.sweep()
	n.step(Tick{})
}

// state prints the SAs of a node.
func (n *node) state() string {
	var b strings.Builder
	s := n.t.Status()
	fmt.Fprintf(&b, "%s: %s\n", n.name, s.State)
	for _, sa := range s.IKE {
		role := "r"
		if sa.Initiator {
			role = "i"
		}
		fmt.Fprintf(&b, "  IKE %s %s %s", short(sa), role, sa.State)
		if sa.LocalNAT || sa.RemoteNAT || sa.Encap || sa.TCP {
			fmt.Fprintf(&b, " %s<->%s", sa.Local, sa.Remote)
		}
		if sa.LocalNAT {
			b.WriteString(" behind NAT")
		}
		b.WriteString("\n")
	}
	for _, c := range s.Children {
		out := ""
		if c.Outbound {
			out = " sending"
		}
		fmt.Fprintf(&b, "  child %s %x/%x %s%s\n", c.Name, c.InboundSPI, c.OutboundSPI, c.State, out)
	}
	return b.String()
}
