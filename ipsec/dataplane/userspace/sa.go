package userspace

import (
	"cmp"
	"crypto/sha256"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/esp"
)

const (
	// eventInterval is how often an event whose cause lasts is raised again.
	eventInterval = time.Second
	// moveInterval is likewise for a peer that seems to have moved: it may move on at
	// once, as a NAT does that has just forgotten its mapping.
	moveInterval = 100 * time.Millisecond
)

// association is what the two directions of an SA have in common. The counters
// are written by the goroutine that moves its packets, once for a batch, and read by
// anyone.
type association struct {
	// moving is held by who moves its packets, for as long as some of them have
	// not left, so that they keep their order.
	moving sync.Mutex

	spi         uint32
	config      dataplane.SA // without its key
	fingerprint [sha256.Size]byte
	selectors   selectors
	inside      *inside
	endpoint    atomic.Pointer[endpoint]
	transport   bool // mode

	packets, bytes, missing, dummies         atomic.Uint64
	replayDrops, authFailures, selectorDrops atomic.Uint64
	lastUsed                                 atomic.Int64 // nanoseconds of Unix time
	over                                     atomic.Bool  // its time is over

	// Of who holds moving. Spent is all that was encrypted, unseen
	// what of it was no inner packet: padding and dummy packets.
	spent, unseen usage
	soft, hard    usage // the limits; none is the greatest number
	expired       bool
	softRaised    time.Time
	hardRaised    time.Time
	mappingRaised time.Time
	proved        bool // FirstInbound was raised
}

// usage is an amount of traffic: packets, and octets of them.
type usage struct{ packets, bytes uint64 }

func (u usage) reached(limit usage) bool {
	return u.packets >= limit.packets || u.bytes >= limit.bytes
}

func limit(packets, bytes uint64) usage {
	if packets == 0 {
		packets = math.MaxUint64
	}
	if bytes == 0 {
		bytes = math.MaxUint64
	}
	return usage{packets, bytes}
}

func (a *association) init(c dataplane.SA, e *endpoint) {
	a.fingerprint = sha256.Sum256(c.Key)
	c.Key = nil
	a.spi, a.config, a.transport = c.SPI, c, c.Mode == dataplane.Transport
	a.selectors = selectors{local: compileSelectors(c.LocalTS), remote: compileSelectors(c.RemoteTS)}
	a.soft = limit(c.Limits.SoftPackets, c.Limits.SoftBytes)
	a.hard = limit(c.Limits.HardPackets, c.Limits.HardBytes)
	a.endpoint.Store(e)
}

// same reports whether c describes this SA. Addresses may differ, they move.
func (a *association) same(c *dataplane.SA) bool {
	s := selectors{local: compileSelectors(c.LocalTS), remote: compileSelectors(c.RemoteTS)}
	return a.fingerprint == sha256.Sum256(c.Key) && a.config.Suite == c.Suite && a.config.Mode == c.Mode && a.config.Outer == c.Outer && a.config.TFC == c.TFC &&
		a.config.Tunnel == c.Tunnel && a.config.Child == c.Child && a.config.Label == c.Label && a.selectors.equal(&s)
}

func (a *association) event(kind dataplane.EventKind) dataplane.Event {
	return dataplane.Event{Kind: kind, Tunnel: a.config.Tunnel, Child: a.config.Child, SPI: a.spi, Direction: a.config.Direction}
}

func (a *association) counters() dataplane.Counters {
	c := dataplane.Counters{
		Tunnel: a.config.Tunnel, Child: a.config.Child, SPI: a.spi, Direction: a.config.Direction,
		Packets: a.packets.Load(), Bytes: a.bytes.Load(),
		ReplayDrops: a.replayDrops.Load(), AuthFailures: a.authFailures.Load(), SelectorDrops: a.selectorDrops.Load(),
		Missing: a.missing.Load(), Dummies: a.dummies.Load(),
	}
	if at := a.lastUsed.Load(); at != 0 {
		c.LastUsed = time.Unix(0, at)
	}
	return c
}

// inboundSA receives. What is of esp belongs to who holds moving.
type inboundSA struct {
	association
	esp *esp.Inbound
	ah  *esp.AHInbound // instead of esp
}

// outboundSA sends. What is of esp belongs to who holds moving.
type outboundSA struct {
	association
	waiting int // groups with packets of it, of the transmitter that holds moving
	child   *child
	esp     *esp.Outbound
	ah      *esp.AHOutbound // instead of esp
	outer   outerRule
	hidden  hidden
	// narrow says that the SA does not carry all that its policy matches.
	narrow atomic.Bool
}

func newInboundSA(c esp.Config) (*inboundSA, error) {
	if c.Suite.AH {
		in, err := esp.NewAHInbound(c)
		return &inboundSA{ah: in}, err
	}
	in, err := esp.NewInbound(c)
	return &inboundSA{esp: in}, err
}

func newOutboundSA(c esp.Config) (*outboundSA, error) {
	if c.Suite.AH {
		out, err := esp.NewAHOutbound(c)
		return &outboundSA{ah: out}, err
	}
	out, err := esp.NewOutbound(c)
	return &outboundSA{esp: out}, err
}

// child is one child of a tunnel: its policy and its outbound SAs in the order of their
// installation. Fields but carriers and ranked belong to the holder of the plane's lock.
type child struct {
	tunnel, name string
	policy       *policy // nil if there is none
	inside       *inside // of the policy
	discards     atomic.Bool
	spec         dataplane.Policy
	outbound     []*outboundSA
	carriers     atomic.Pointer[[]*outboundSA] // of each queue that which carries its traffic; never empty
	ranked       atomic.Pointer[ranked]        // its tunnel in the plane's ranking, nil for none

	acquired moment // when Acquire was last raised
}

// carries reports whether there is an SA for its traffic.
func (c *child) carries() bool { return c.carriers.Load() != nil }

// chooseAnew is choose after an SA came or went. With the first one, and without the last,
// another child's policy may go first: what transmitters remember of policies is void.
func (c *child) chooseAnew() {
	carried := c.carries()
	c.choose()
	if c.policy != nil && c.carries() != carried {
		again := *c.inside.spd.Load()
		c.inside.spd.Store(&again)
	}
}

// choose makes the SA installed last carry the traffic (RFC 7296, Section 2.8), in each
// queue (RFC 9611).
func (c *child) choose() {
	c.discards.Store(c.spec.Action == dataplane.Discard)
	var carriers []*outboundSA
	for _, sa := range slices.Backward(c.outbound) {
		same := func(o *outboundSA) bool { return o.config.Queue == sa.config.Queue }
		if c.policy != nil && c.spec.Label != sa.config.Label {
			continue
		}
		if c.spec.Action == dataplane.Protect && !slices.ContainsFunc(carriers, same) {
			sa.narrow.Store(c.policy == nil || !sa.selectors.equal(&c.policy.selectors))
			carriers = append(carriers, sa)
		}
	}
	if carriers == nil {
		c.carriers.Store(nil)
		return
	}
	slices.SortFunc(carriers, func(a, b *outboundSA) int { return cmp.Compare(a.config.Queue, b.config.Queue) })
	c.carriers.Store(&carriers)
}

// carrier is the SA for what one worker sends, nil if there is none.
func (c *child) carrier(worker int) *outboundSA {
	all := c.carriers.Load()
	if all == nil {
		return nil
	}
	return (*all)[worker%len(*all)]
}

// keepTime raises the events of an SA's limits in time. The callbacks find it gone
// when it was removed before.
func (p *Plane) keepTime(key saKey, a *association) {
	after := func(d time.Duration, then func()) {
		if d <= 0 {
			return
		}
		time.AfterFunc(d, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			if !p.closed && p.sas[key] == a {
				then()
			}
		})
	}
	after(a.config.Limits.SoftTime, func() { p.raise(a.event(dataplane.SoftExpire)) })
	after(a.config.Limits.HardTime, func() {
		a.over.Store(true)
		p.raise(a.event(dataplane.HardExpire))
	})
}

// count notes one packet of n octets as carried and reports whether a limit
// was reached by it.
func (a *association) count(n int) bool {
	a.spent.packets++
	a.spent.bytes += uint64(n)
	return a.spent.reached(a.soft) || a.spent.reached(a.hard)
}

// publish makes what was counted visible.
func (a *association) publish(now time.Time) {
	packets := a.spent.packets - a.unseen.packets
	if a.packets.Load() == packets {
		return
	}
	a.packets.Store(packets)
	a.bytes.Store(a.spent.bytes - a.unseen.bytes)
	a.lastUsed.Store(now.UnixNano())
}

// expire raises what a reached limit asks for, at most once in eventInterval.
func (a *association) expire(p *Plane, now time.Time) {
	if a.spent.reached(a.hard) {
		a.expired = true
	}
	if a.expired {
		if now.Sub(a.hardRaised) >= eventInterval && p.raise(a.event(dataplane.HardExpire)) {
			a.hardRaised = now
		}
		return
	}
	if now.Sub(a.softRaised) >= eventInterval && p.raise(a.event(dataplane.SoftExpire)) {
		a.softRaised = now
	}
}
