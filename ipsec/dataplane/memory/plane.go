package memory

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// Sizes of the queues: as of a real plane, bounded, dropping what is above.
const (
	eventQueue  = 256
	packetQueue = 1024
)

// acquireInterval is the least time between two Acquire events of a policy
// and two MappingChanged events of an SA.
const acquireInterval = time.Second

// keptPackets is how many packets of a policy wait for an SA.
const keptPackets = 16

// Plane is a data plane that lives in memory.
type Plane struct {
	sw      *Switch
	addr    netip.AddrPort
	events  chan dataplane.Event
	packets chan []byte

	mu       sync.Mutex
	closed   bool
	deliver  func(dataplane.IKEDatagram)
	streams  dataplane.StreamSend
	fault    func(dataplane.Op) error
	reserved map[uint32]bool
	inbound  map[uint32]*association
	outbound []*association // in the order of their installation
	policies []*policy
	ranking  dataplane.Ranking
	log      []dataplane.Op

	unknownTold time.Time
}

type association struct {
	dataplane.SA
	counters    dataplane.Counters
	next        uint64 // outbound: the last sequence number used
	window      map[uint64]bool
	highest     uint64
	soft        bool // SoftExpire was raised
	hard        bool
	over        bool // its time is over
	mappingTold time.Time
}

type policy struct {
	dataplane.Policy
	acquired time.Time
	kept     [][]byte // packets that wait for an SA
}

var _ dataplane.RankingPlane = (*Plane)(nil)

// New attaches a plane to a switch, with addr as its NAT traversal endpoint.
// A plane that had this address before no longer receives.
func New(sw *Switch, addr netip.AddrPort) *Plane {
	p := &Plane{
		sw: sw, addr: addr,
		events:   make(chan dataplane.Event, eventQueue),
		packets:  make(chan []byte, packetQueue),
		reserved: make(map[uint32]bool),
		inbound:  make(map[uint32]*association),
	}
	sw.attach(p)
	return p
}

// Name implements dataplane.Plane.
func (p *Plane) Name() string { return "memory" }

// SetFault makes Apply ask f before each operation and fail it with the error
// that f returns. Nil takes it away.
func (p *Plane) SetFault(f func(dataplane.Op) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = f
}

// Log returns every operation that succeeded, in order.
func (p *Plane) Log() []dataplane.Op {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.log)
}

// SAs returns the installed SAs, in the order of Counters.
func (p *Plane) SAs() []dataplane.SA {
	p.mu.Lock()
	defer p.mu.Unlock()
	var sas []dataplane.SA
	for _, a := range p.sorted() {
		sas = append(sas, a.SA)
	}
	return sas
}

// Policies returns the policies, in the order in which they were first set.
func (p *Plane) Policies() []dataplane.Policy {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []dataplane.Policy
	for _, pol := range p.policies {
		out = append(out, pol.Policy)
	}
	return out
}

// Raise queues an event as if the plane had seen its cause.
func (p *Plane) Raise(ev dataplane.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.raise(ev)
}

func (p *Plane) raise(ev dataplane.Event) {
	if p.closed {
		return
	}
	select {
	case p.events <- ev:
	default:
	}
}

// AllocateSPI implements dataplane.Plane.
func (p *Plane) AllocateSPI(uint32) (uint32, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, dataplane.ErrClosed
	}
	spi := dataplane.NewSPI(func(spi uint32) bool { return p.reserved[spi] || p.inbound[spi] != nil })
	p.reserved[spi] = true
	return spi, nil
}

// Apply implements dataplane.Plane.
func (p *Plane) Apply(ops []dataplane.Op) []error {
	results, waited := p.applyAll(ops)
	for _, packet := range waited {
		_ = p.Send(packet) // where it cannot be, it is lost
	}
	return results
}

// applyAll also returns the packets that waited for SAs that have come.
func (p *Plane) applyAll(ops []dataplane.Op) (results []error, waited [][]byte) {
	results = make([]error, len(ops))
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, op := range ops {
		results[i] = p.apply(op)
		if results[i] == nil {
			p.log = append(p.log, op)
		}
	}
	for _, pol := range p.policies {
		if len(pol.kept) > 0 && p.newest(pol.Tunnel, pol.Child) != nil {
			waited = append(waited, pol.kept...)
			pol.kept = nil
		}
	}
	return results, waited
}

func (p *Plane) apply(op dataplane.Op) error {
	if p.closed {
		return dataplane.ErrClosed
	}
	if p.fault != nil {
		if err := p.fault(op); err != nil {
			return err
		}
	}
	switch op := op.(type) {
	case dataplane.InstallSA:
		return p.install(op.SA)
	case dataplane.RemoveSA:
		p.removeSA(op)
	case dataplane.SetPolicy:
		return p.setPolicy(op.Policy)
	case dataplane.RemovePolicy:
		p.policies = slices.DeleteFunc(p.policies, func(q *policy) bool {
			return q.Tunnel == op.Tunnel && q.Child == op.Child
		})
	case dataplane.UpdateEndpoints:
		for _, a := range p.sorted() {
			if a.Tunnel == op.Tunnel {
				a.Local, a.Remote, a.TCP, a.PathMTU = op.Local, op.Remote, op.TCP, 0
			}
		}
	case dataplane.SetPathMTU:
		for _, a := range p.sorted() {
			if a.Tunnel == op.Tunnel {
				a.PathMTU = op.MTU
			}
		}
	default:
		return fmt.Errorf("operation %T is not known", op)
	}
	return nil
}

func (p *Plane) install(sa dataplane.SA) error {
	if err := validate(sa); err != nil {
		return err
	}
	if sa.TCP && p.streams == nil {
		return errors.New("install SA: the plane has not joined any streams")
	}
	if old := p.find(sa.Direction, sa.Tunnel, sa.SPI); old != nil {
		if old.Tunnel == sa.Tunnel && old.Child == sa.Child && old.Suite == sa.Suite && bytes.Equal(old.Key, sa.Key) {
			return nil
		}
		return fmt.Errorf("install SA: %s SPI %08x of tunnel %q is installed with another key or owner", sa.Direction, sa.SPI, old.Tunnel)
	}
	sa.Key = bytes.Clone(sa.Key)
	sa.LocalTS, sa.RemoteTS = slices.Clone(sa.LocalTS), slices.Clone(sa.RemoteTS)
	a := &association{SA: sa, window: make(map[uint64]bool), counters: dataplane.Counters{
		Tunnel: sa.Tunnel, Child: sa.Child, SPI: sa.SPI, Direction: sa.Direction,
	}}
	p.keepTime(a)
	if sa.Direction == dataplane.Inbound {
		delete(p.reserved, sa.SPI)
		p.inbound[sa.SPI] = a
		return nil
	}
	p.outbound = append(p.outbound, a)
	return nil
}

// keepTime raises the events of an SA's limits in time, if it is still there then.
func (p *Plane) keepTime(a *association) {
	after := func(d time.Duration, then func()) {
		if d <= 0 {
			return
		}
		time.AfterFunc(d, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.find(a.Direction, a.Tunnel, a.SPI) == a {
				then()
			}
		})
	}
	event := func(kind dataplane.EventKind) {
		p.raise(dataplane.Event{Kind: kind, Tunnel: a.Tunnel, Child: a.Child, SPI: a.SPI, Direction: a.Direction})
	}
	after(a.Limits.SoftTime, func() { event(dataplane.SoftExpire) })
	after(a.Limits.HardTime, func() {
		a.over, a.hard = true, true
		event(dataplane.HardExpire)
	})
}

func validate(sa dataplane.SA) error {
	switch {
	case sa.Tunnel == "" || sa.Child == "":
		return errors.New("install SA: tunnel and child must be named")
	case sa.Direction != dataplane.Inbound && sa.Direction != dataplane.Outbound:
		return errors.New("install SA: no direction")
	case sa.SPI < dataplane.MinSPI:
		return fmt.Errorf("install SA: SPI %d is reserved; the least is %d", sa.SPI, dataplane.MinSPI)
	case len(sa.Key) != sa.Suite.KeyLen():
		return fmt.Errorf("install SA: key of %d octets, %s needs %d", len(sa.Key), sa.Suite, sa.Suite.KeyLen())
	case !sa.Remote.IsValid() || !sa.Local.IsValid():
		return errors.New("install SA: outer address missing")
	case len(sa.LocalTS) == 0 || len(sa.RemoteTS) == 0:
		return errors.New("install SA: no traffic selectors")
	case sa.Label != "":
		return fmt.Errorf("install SA: %w", dataplane.NoLabel(sa.Label))
	}
	return nil
}

func (p *Plane) find(d dataplane.Direction, tunnel string, spi uint32) *association {
	if d == dataplane.Inbound {
		return p.inbound[spi]
	}
	for _, a := range p.outbound {
		if a.Tunnel == tunnel && a.SPI == spi {
			return a
		}
	}
	return nil
}

func (p *Plane) removeSA(op dataplane.RemoveSA) {
	if op.Direction == dataplane.Outbound {
		p.outbound = slices.DeleteFunc(p.outbound, func(a *association) bool {
			return a.Tunnel == op.Tunnel && a.SPI == op.SPI
		})
		return
	}
	if a := p.inbound[op.SPI]; a != nil && a.Tunnel != op.Tunnel {
		return // another tunnel's: for this one it is absent
	}
	delete(p.reserved, op.SPI)
	delete(p.inbound, op.SPI)
}

func (p *Plane) setPolicy(pol dataplane.Policy) error {
	if pol.Tunnel == "" || pol.Child == "" {
		return errors.New("set policy: tunnel and child must be named")
	}
	if len(pol.LocalTS) == 0 || len(pol.RemoteTS) == 0 {
		return fmt.Errorf("set policy of %s/%s: no traffic selectors", pol.Tunnel, pol.Child)
	}
	if pol.Action == dataplane.Bypass {
		return fmt.Errorf("set policy of %s/%s: nothing passes a plane in memory in clear", pol.Tunnel, pol.Child)
	}
	if pol.Label != "" {
		return fmt.Errorf("set policy of %s/%s: %w", pol.Tunnel, pol.Child, dataplane.NoLabel(pol.Label))
	}
	pol.LocalTS, pol.RemoteTS = slices.Clone(pol.LocalTS), slices.Clone(pol.RemoteTS)
	for _, q := range p.policies {
		if q.Tunnel == pol.Tunnel && q.Child == pol.Child {
			q.Policy = pol
			return nil
		}
	}
	p.policies = append(p.policies, &policy{Policy: pol})
	return nil
}

// SetRanking implements dataplane.RankingPlane.
func (p *Plane) SetRanking(r dataplane.Ranking) error {
	if err := r.Validate(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return dataplane.ErrClosed
	}
	p.ranking = r
	return nil
}

// TakesClasses implements dataplane.RankingPlane.
func (p *Plane) TakesClasses() bool { return true }

// Counters implements dataplane.Plane.
func (p *Plane) Counters() []dataplane.Counters {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []dataplane.Counters
	for _, a := range p.sorted() {
		out = append(out, a.counters)
	}
	return out
}

func (p *Plane) sorted() []*association {
	all := slices.Clone(p.outbound)
	for _, a := range p.inbound {
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b *association) int {
		return cmp.Or(cmp.Compare(a.Tunnel, b.Tunnel), cmp.Compare(a.Child, b.Child),
			cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.SPI, b.SPI))
	})
	return all
}

// Listen implements dataplane.Plane.
func (p *Plane) Listen(deliver func(dataplane.IKEDatagram)) (dataplane.IKESender, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, dataplane.ErrClosed
	}
	if p.deliver != nil {
		return nil, errors.New("listen: the plane has a listener")
	}
	p.deliver = deliver
	return sender{p}, nil
}

// Events implements dataplane.Plane.
func (p *Plane) Events() <-chan dataplane.Event { return p.events }

// Close implements dataplane.Plane.
func (p *Plane) Close() error {
	p.sw.detach(p)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	clear(p.inbound)
	clear(p.reserved)
	p.outbound, p.policies = nil, nil
	close(p.events)
	return nil
}

// pathMTU is what every host knows of every path, in octets.
const pathMTU = 1500

type sender struct{ p *Plane }

func (s sender) SendIKE(local, remote netip.AddrPort, b []byte) error {
	s.p.mu.Lock()
	closed := s.p.closed
	s.p.mu.Unlock()
	if closed {
		return dataplane.ErrClosed
	}
	if len(b) > 65000 {
		return fmt.Errorf("send IKE message of %d octets: too long for a datagram", len(b))
	}
	s.p.sw.send(Datagram{From: s.p.addr, To: remote, IKE: bytes.Clone(b)})
	return nil
}

// SendProbe sends on a wire that has room for everything that PathMTU knows.
func (s sender) SendProbe(local, remote netip.AddrPort, b []byte) error {
	return s.SendIKE(local, remote, b)
}

func (s sender) PathMTU(netip.Addr) (int, error) { return pathMTU, nil }

func (s sender) SendKeepAlive(local, remote netip.AddrPort) error { return nil }

func (s sender) LocalFor(netip.Addr) (netip.AddrPort, error) { return s.p.addr, nil }
