package userspace

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

const (
	// DefaultInterface is the name of the TUN interface if none is given.
	DefaultInterface = "swan0"
	// DefaultMTU fits AES-GCM in UDP over a path of 1,500 octets, over IPv6 too.
	DefaultMTU = 1418
	// DefaultPort is the NAT traversal port (RFC 3948, Section 2).
	DefaultPort = 4500
	// DefaultQueueLength is the interface's transmit queue in packets. The
	// kernel's own default for TUN of 500 drops bursts that the CPU could take.
	DefaultQueueLength = 1000

	minMTU      = 1280 // RFC 8200, Section 5
	maxMTU      = 65535
	maxWorkers  = 16
	eventBuffer = 1024
)

// Config describes the one data plane of a network namespace.
type Config struct {
	// Interface names the TUN interface to make, at most 15 octets. Empty:
	// DefaultInterface. A %d in it is replaced by a free number.
	Interface string
	// MTU of the interface in octets, 0 for DefaultMTU.
	MTU int
	// QueueLength of the interface in packets, 0 for DefaultQueueLength.
	QueueLength int
	// Listen is where ESP in UDP and IKE arrive. The zero value and an
	// unspecified IPv6 address take both families; port 0 is DefaultPort.
	Listen netip.AddrPort
	// Mark is put on all that the plane sends outside (SO_MARK), 0 for none: by a
	// rule for other marks alone ("not fwmark"), routes may lead even a peer's own
	// address into the interface, as transport mode needs it.
	Mark uint32
	// KeepMSS leaves the maximum segment sizes of TCP connections alone. Without
	// it those that do not fit the path are lowered in both directions.
	KeepMSS bool
	// Workers is how many goroutines move packets in each direction, at most 16; 0 is
	// one for every two processors. The packets of an SA keep their order, so that
	// more of them are of use with several SAs.
	Workers int
	// Labels are further places for packets inside, beside Interface.
	Labels []dataplane.Label
	// Logger gets what an operator should know, never once for a packet.
	// Nil discards.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	c.Interface = cmp.Or(c.Interface, DefaultInterface)
	c.MTU = cmp.Or(c.MTU, DefaultMTU)
	c.QueueLength = cmp.Or(c.QueueLength, DefaultQueueLength)
	c.Workers = cmp.Or(c.Workers, min(max(1, runtime.GOMAXPROCS(0)/2), maxWorkers))
	c.Listen = netip.AddrPortFrom(c.Listen.Addr(), cmp.Or(c.Listen.Port(), DefaultPort))
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.MTU < minMTU || c.MTU > maxMTU {
		return c, fmt.Errorf("MTU %d: choose %d to %d", c.MTU, minMTU, maxMTU)
	}
	if c.Workers < 1 || c.Workers > maxWorkers {
		return c, fmt.Errorf("%d workers: choose 1 to %d", c.Workers, maxWorkers)
	}
	if c.QueueLength < 1 {
		return c, fmt.Errorf("queue length %d: choose 1 or more", c.QueueLength)
	}
	return c, nil
}

// Plane is the data plane in user space. It implements dataplane.Plane.
type Plane struct {
	logger *slog.Logger
	// insides are where packets come from and go to, that without a label first.
	insides []*inside
	socket  *socket
	raw     rawSockets
	events  chan dataplane.Event
	failed  chan error // holds one for each goroutine
	stats   stats

	transmitLatency, receiveLatency dataplane.Latency

	keepMSS   bool
	endpoints *endpoints
	inbound   *spiTable
	filled    atomic.Pointer[[]*outboundSA] // that send dummy packets
	deliver   atomic.Pointer[func(dataplane.IKEDatagram)]
	streams   atomic.Pointer[dataplane.StreamSend]
	stop      atomic.Bool
	running   sync.WaitGroup

	streamed streamReceiver

	mu        sync.Mutex
	closed    bool
	reserved  map[uint32]bool // inbound SPIs without an SA
	allocated uint32          // how many SPIs were
	sas       map[saKey]*association
	children  map[childKey]*child
	ranking   *ranking
}

type childKey struct{ tunnel, name string }

// saKey identifies an SA: inbound ones by SPI alone.
type saKey struct {
	direction dataplane.Direction
	tunnel    string // outbound only
	spi       uint32
}

var (
	_ dataplane.StreamPlane  = (*Plane)(nil)
	_ dataplane.RankingPlane = (*Plane)(nil)
	_ dataplane.Measured     = (*Plane)(nil)
)

// New makes the interface and the socket and starts to move packets, which all
// are dropped until policies and SAs are applied.
func New(c Config) (*Plane, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("configure userspace data plane: %w", err)
	}
	s, err := openSocket(c.Listen, c.Mark, c.Workers)
	if err != nil {
		return nil, fmt.Errorf("start userspace data plane: %w", err)
	}
	d, err := openDevice(c.Interface, c.MTU, c.QueueLength, len(s.lanes))
	if err != nil {
		s.close()
		return nil, fmt.Errorf("start userspace data plane: %w", err)
	}
	if !d.mergeTCP || !d.mergeUDP {
		c.Logger.Warn("this kernel refuses some super-packets; throughput suffers", "interface", d.name, "tcp", d.mergeTCP, "udp", d.mergeUDP)
	}
	first := newInside("")
	first.device, first.mtus = d, s.probes
	p := &Plane{
		logger: c.Logger, insides: []*inside{first}, socket: s, raw: openRaw(c.Listen.Addr(), c.Mark),
		keepMSS:   c.KeepMSS,
		endpoints: newEndpoints(),
		events:    make(chan dataplane.Event, eventBuffer),
		failed:    make(chan error, (2+dataplane.MaxLabels)*maxWorkers+len(rawSockets{}.all)),
		inbound:   newSPITable(),
		reserved:  map[uint32]bool{},
		sas:       map[saKey]*association{},
		children:  map[childKey]*child{},
	}
	if err := p.openInsides(c); err != nil {
		return nil, errors.Join(fmt.Errorf("start userspace data plane: %w", err), p.closeInsides(), s.close(), p.raw.close())
	}
	p.start()
	return p, nil
}

// start makes the goroutines that move packets and lets them run.
func (p *Plane) start() {
	p.streamed.receiver = newReceiver(p, nil, nil, 0)
	for i := range p.insides[0].device.intakes {
		for _, in := range p.insides {
			in.transmitters = append(in.transmitters, newTransmitter(p, in, i))
		}
		p.running.Go(newReceiver(p, p.socket.intakes[i], &inbox{}, i).run)
	}
	for _, in := range p.insides {
		for _, t := range in.transmitters {
			p.running.Go(t.run)
		}
	}
	p.raw.each(func(s *rawSocket) { p.running.Go(newReceiver(p, s.intake, &inbox{raw: s}, 0).run) })
}

// Name implements dataplane.Plane.
func (p *Plane) Name() string { return "userspace" }

// Interface returns the name of the TUN interface, for routes.
func (p *Plane) Interface() string { return p.insides[0].device.name }

// Workers returns how many goroutines move packets in each direction.
func (p *Plane) Workers() int { return len(p.insides[0].transmitters) }

// ListenAddr returns where ESP in UDP and IKE arrive.
func (p *Plane) ListenAddr() netip.AddrPort { return p.socket.local }

// Events implements dataplane.Plane.
func (p *Plane) Events() <-chan dataplane.Event { return p.events }

// Failed gets an error when the plane can move packets no more, for instance
// because somebody removed its interface. There is no way on but to close it and
// to make another one.
func (p *Plane) Failed() <-chan error { return p.failed }

// fail is called by a goroutine that has to end before Close.
func (p *Plane) fail(err error) {
	if p.stop.Load() {
		return
	}
	p.logger.Error("data plane has failed", "interface", p.Interface(), "error", err)
	p.failed <- err
}

// raise hands an event to the reader and reports whether there was room.
func (p *Plane) raise(e dataplane.Event) bool {
	select {
	case p.events <- e:
		return true
	default:
		p.stats.lostEvents.Add(1)
		return false
	}
}

// AllocateSPI implements dataplane.Plane.
func (p *Plane) AllocateSPI(replaces uint32) (uint32, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, dataplane.ErrClosed
	}
	// The receivers take turns, so that what is allocated one after the other, as for
	// the SAs of one child, is received by different ones; see steering. A successor
	// stays where its predecessor was.
	receivers := uint32(len(p.socket.intakes))
	at := replaces
	if replaces == 0 {
		p.allocated++
		at = p.allocated
	}
	spi := dataplane.NewSPI(func(spi uint32) bool {
		return spi%receivers != at%receivers || p.reserved[spi] || p.sas[keyOf(dataplane.Inbound, "", spi)] != nil
	})
	p.reserved[spi] = true
	return spi, nil
}

// Counters implements dataplane.Plane.
func (p *Plane) Counters() []dataplane.Counters {
	p.mu.Lock()
	out := make([]dataplane.Counters, 0, len(p.sas))
	for _, sa := range p.sas {
		out = append(out, sa.counters())
	}
	p.mu.Unlock()
	slices.SortFunc(out, func(a, b dataplane.Counters) int {
		return cmp.Or(cmp.Compare(a.Tunnel, b.Tunnel), cmp.Compare(a.Child, b.Child),
			cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.SPI, b.SPI))
	})
	return out
}

// Latency implements dataplane.Measured.
func (p *Plane) Latency(d dataplane.Direction) dataplane.LatencySnapshot {
	if d == dataplane.Outbound {
		return p.transmitLatency.Snapshot()
	}
	return p.receiveLatency.Snapshot()
}

// Listen implements dataplane.Plane.
func (p *Plane) Listen(deliver func(dataplane.IKEDatagram)) (dataplane.IKESender, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, dataplane.ErrClosed
	}
	if !p.deliver.CompareAndSwap(nil, &deliver) {
		return nil, errors.New("listen for IKE: already listening")
	}
	return ikeSender{p}, nil
}

// Close implements dataplane.Plane.
func (p *Plane) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	clear(p.sas)
	clear(p.children)
	clear(p.reserved)
	p.filled.Store(nil)
	p.mu.Unlock()

	// Wake both goroutines, and take the descriptors away only after they
	// ended: they use the bare numbers.
	p.stop.Store(true)
	past := time.Unix(1, 0)
	err := errors.Join(p.wakeInsides(past), p.socket.wake(past), p.raw.wake(past))
	p.running.Wait()
	p.streamed.close()
	err = errors.Join(err, p.closeInsides(), p.socket.close(), p.raw.close())
	close(p.events)
	if err != nil {
		return fmt.Errorf("close userspace data plane: %w", err)
	}
	return nil
}
