package xfrm

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

const (
	// DefaultInterface is the name of the XFRM interface if none is given.
	DefaultInterface = "swan0"
	// DefaultMTU fits AES-GCM in UDP over a path of 1,500 octets, over IPv6 too.
	DefaultMTU = 1418
	// DefaultPort is the NAT traversal port (RFC 3948, Section 2).
	DefaultPort = 4500

	// requestTag is the upper octet of all our request IDs: what is ours in
	// transport mode. requestMask is the rest.
	requestTag, requestMask = 0x53 << 24, 1<<24 - 1
	// DefaultAdoption is how long what an earlier process left goes on.
	DefaultAdoption = 3 * time.Minute

	eventBuffer = 1024
)

// Config describes the one data plane of a network namespace.
type Config struct {
	// Interface names the XFRM interface to make, at most 15 octets. Empty:
	// DefaultInterface.
	Interface string
	// MTU of the interface in octets, 0 for DefaultMTU.
	MTU int
	// Labels are further interfaces, for traffic of a label.
	Labels []dataplane.Label
	// Listen is where ESP in UDP and IKE arrive. The zero value and an
	// unspecified address take both families; port 0 is DefaultPort.
	Listen netip.AddrPort
	// Mark is put on all that the plane sends outside, 0 for none: by a rule for
	// other marks alone, routes may lead even a peer's own address into the
	// interface.
	Mark uint32
	// Adoption is how long the SAs of an earlier process that ended without Close
	// go on if nothing takes their place; 0 for DefaultAdoption.
	Adoption time.Duration
	// Workers is how many outbound SAs of a child there may be at most (RFC 9611), 0
	// for 17. If the kernel has SAs for single CPUs, and this is more than the number
	// of CPUs, each CPU uses one of its own, and there is one that all may use.
	Workers int
	// Offload asks the network interfaces to encrypt and decrypt ESP that is not in UDP,
	// each SA that through which its peer is reached. What one cannot do the processor
	// does.
	Offload bool
	// Logger gets what an operator should know, never once for a packet. Nil
	// discards.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.Interface = cmp.Or(c.Interface, DefaultInterface)
	c.MTU = cmp.Or(c.MTU, DefaultMTU)
	c.Listen = netip.AddrPortFrom(c.Listen.Addr(), cmp.Or(c.Listen.Port(), DefaultPort))
	c.Adoption = cmp.Or(c.Adoption, DefaultAdoption)
	c.Workers = cmp.Or(c.Workers, defaultWorkers)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Plane is the data plane of the kernel. It implements dataplane.Plane.
type Plane struct {
	logger  *slog.Logger
	mark    uint32
	offload bool
	link    *link   // without a label
	links   []*link // with those of labels
	sockets *sockets
	monitor *monitor
	events  chan dataplane.Event
	running sync.WaitGroup
	done    chan struct{}
	failed  chan error // holds one
	drifts  chan dataplane.Drift
	others  *others

	mu       sync.Mutex
	closed   bool
	kernel   *conn
	able     abilities
	workers  int      // how many outbound SAs of a child there may be
	cpus     []uint32 // that can have outbound SAs of their own
	cpusAt   time.Time
	ranks    uint64 // how many outbound SAs have one; see rank
	removals *removals
	reserved map[uint32]bool // inbound SPIs without an SA
	sas      map[saKey]*association
	children map[childKey]*child
	spd      map[slot]*entry
	ranking  dataplane.Ranking
	retired  []retired
	requests uint32          // the last request ID that was given
	given    map[uint32]bool // those in use
	left     leftovers
	paths    paths
	outlet   *outlet // nil if the host does not let us have it
	traps    traps
	told     told

	disturbed bool      // others have changed what is ours since it was looked at
	audited   time.Time // when that was

	watched
}

type childKey struct{ tunnel, name string }

// saKey identifies an SA: inbound ones by SPI alone.
type saKey struct {
	direction dataplane.Direction
	tunnel    string // outbound only
	spi       uint32
}

var (
	_ dataplane.RoutedPlane   = (*Plane)(nil)
	_ dataplane.RankingPlane  = (*Plane)(nil)
	_ dataplane.DriftingPlane = (*Plane)(nil)
	_ dataplane.StreamTaker   = (*Plane)(nil)
)

// New makes the interface and the sockets. Nothing passes the interface until
// policies and SAs are applied, but for what an earlier process left in the kernel,
// which goes on: see Config.Adoption.
func New(c Config) (_ *Plane, err error) {
	c = c.withDefaults()
	p := &Plane{
		logger: c.Logger, mark: c.Mark, offload: c.Offload, events: make(chan dataplane.Event, eventBuffer), done: make(chan struct{}), failed: make(chan error, 1), drifts: make(chan dataplane.Drift, driftBuffer),
		reserved: map[uint32]bool{}, sas: map[saKey]*association{}, children: map[childKey]*child{}, spd: map[slot]*entry{},
		given: map[uint32]bool{}, paths: newPaths(), told: told{mtus: map[netip.Addr]int{}}, watched: newWatched(),
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start kernel data plane: %w", err), p.release())
		}
	}()
	if c.Workers < 1 || c.Workers > maxWorkers {
		return nil, fmt.Errorf("%d workers: choose 1 to %d", c.Workers, maxWorkers)
	}
	if p.kernel, err = openConn(); err != nil {
		return nil, err
	}
	if p.able, err = p.kernel.abilities(); err != nil {
		return nil, err
	}
	if err = p.kernel.enlargeTables(); err != nil {
		return nil, err
	}
	if p.able.perCPU {
		p.cpus = cpusFor(c.Workers)
	}
	p.workers = c.Workers
	if p.removals, err = openRemovals(); err != nil {
		return nil, err
	}
	if err = p.adopt(c.Adoption); err != nil {
		return nil, fmt.Errorf("take over what an earlier process left: %w", err)
	}
	if err = p.openLinks(c); err != nil {
		return nil, err
	}
	if p.sockets, err = openSockets(c.Listen, c.Mark); err != nil {
		return nil, err
	}
	if p.monitor, err = openMonitor(); err != nil {
		return nil, err
	}
	if p.others, err = openOthers(p.kernel); err != nil {
		return nil, err
	}
	if err := p.openTraps(); err != nil {
		p.logger.Warn("the first packets of a tunnel that is made for them will not wait for it", "error", err)
	}
	p.running.Go(func() { p.monitor.run(p.notice) })
	p.running.Go(p.lookAfter)
	p.running.Go(p.watchLinks)
	p.running.Go(p.watchTraps)
	p.running.Go(p.hearOthers)
	return p, nil
}

// Name implements dataplane.Plane.
func (p *Plane) Name() string { return "kernel" }

// Interface is the name of the XFRM interface.
func (p *Plane) Interface() string { return p.link.name }

// Workers is how many outbound SAs of a child are used side by side: one that all CPUs
// may use, and one for each. It becomes more when CPUs come.
func (p *Plane) Workers() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return 1 + len(p.cpus)
}

// Events implements dataplane.Plane.
func (p *Plane) Events() <-chan dataplane.Event { return p.events }

// raise queues an event and reports whether there was room; p.mu is held.
func (p *Plane) raise(ev dataplane.Event) bool {
	if p.closed {
		return false
	}
	select {
	case p.events <- ev:
		return true
	default:
		return false
	}
}

// AllocateSPI implements dataplane.Plane.
func (p *Plane) AllocateSPI(uint32) (uint32, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, dataplane.ErrClosed
	}
	spi := dataplane.NewSPI(func(spi uint32) bool {
		return p.reserved[spi] || p.left.spis[spi] || p.sas[keyOf(dataplane.Inbound, "", spi)] != nil
	})
	p.reserved[spi] = true
	return spi, nil
}

// Counters implements dataplane.Plane.
func (p *Plane) Counters() []dataplane.Counters {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	states, err := p.kernel.states()
	if err != nil {
		p.logger.Warn("cannot read counters from the kernel", "error", err)
		return nil
	}
	byID := make(map[stateID]*facts, len(states))
	for _, f := range states {
		byID[f.stateID] = f
	}
	var out []dataplane.Counters
	for _, a := range p.sas {
		c := a.counters
		if f := byID[a.stateID()]; f != nil {
			c = a.with(f)
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b dataplane.Counters) int {
		return cmp.Or(cmp.Compare(a.Tunnel, b.Tunnel), cmp.Compare(a.Child, b.Child),
			cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.SPI, b.SPI))
	})
	return out
}

// Close implements dataplane.Plane.
func (p *Plane) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	for _, a := range p.sas {
		clear(a.Key)
	}
	err := p.kernel.flush()
	p.mu.Unlock()
	close(p.done)
	p.monitor.stop()
	p.sockets.stop()
	p.traps.stop()
	p.others.file.Close()
	p.running.Wait()
	close(p.events)
	return errors.Join(err, p.release())
}

// release closes what is open.
func (p *Plane) release() error {
	var err error
	for _, l := range p.links {
		err = errors.Join(err, l.remove())
	}
	if p.sockets != nil {
		p.sockets.stop()
	}
	if p.monitor != nil {
		p.monitor.stop()
	}
	p.traps.stop()
	if p.others != nil {
		p.others.file.Close()
	}
	if p.outlet != nil {
		p.outlet.close()
	}
	if p.kernel != nil {
		p.kernel.close()
	}
	if p.removals != nil {
		p.removals.close()
	}
	return err
}

// flush removes all states and policies that are ours: the states first, so that
// nothing leaves in clear meanwhile.
func (c *conn) flush() error {
	states, err := c.states()
	if err != nil {
		return err
	}
	var gone []stateID
	for _, f := range states {
		if ours(f.ifID, f.request) {
			gone = append(gone, f.stateID)
		}
	}
	err = c.deleteStates(gone...)
	policies, failed := c.policies()
	err = errors.Join(err, failed)
	var requests []request
	for _, q := range policies {
		if q.ours() {
			requests = append(requests, q.ask(nl.XFRM_MSG_DELPOLICY))
		}
	}
	for _, a := range c.send(requests...) {
		if a.err != nil && !errors.Is(a.err, unix.ENOENT) {
			err = errors.Join(err, a.err)
		}
	}
	return err
}

func ours(ifID, request uint32) bool {
	return ourInterface(ifID) || request&^requestMask == requestTag
}

func (q *policy) ours() bool {
	bypass := q.ifID == 0 && q.template.protocol == 0 && q.priority == bypassPriority &&
		(q.selector.protocol == unix.IPPROTO_UDP || q.selector.protocol == unix.IPPROTO_ICMPV6)
	return ourInterface(q.ifID) || bypass || q.template.protocol != 0 && ours(q.ifID, q.template.request)
}

// retired is an outbound state that nothing is sent on any more. Packets that chose
// it just before its policies changed may still be under way in the kernel, which
// refuses them once it is deleted.
type retired struct {
	stateID
	request uint32
	since   time.Time
}

// retireTime is how long such a state stays at least.
const retireTime = time.Second

// deleteRetired removes the retired states that which is true for.
func (p *Plane) deleteRetired(which func(retired) bool) error {
	var err error
	p.retired = slices.DeleteFunc(p.retired, func(r retired) bool {
		if !which(r) {
			return false
		}
		err = errors.Join(err, p.kernel.deleteStates(r.stateID))
		if r.destination == trapAddress {
			delete(p.traps.of, r.spi)
		}
		return true
	})
	return err
}
