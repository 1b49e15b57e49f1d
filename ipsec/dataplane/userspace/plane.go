package userspace

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
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
	// Logger gets what an operator should know, never once for a packet.
	// Nil discards.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	c.Interface = cmp.Or(c.Interface, DefaultInterface)
	c.MTU = cmp.Or(c.MTU, DefaultMTU)
	c.QueueLength = cmp.Or(c.QueueLength, DefaultQueueLength)
	c.Listen = netip.AddrPortFrom(c.Listen.Addr(), cmp.Or(c.Listen.Port(), DefaultPort))
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.MTU < minMTU || c.MTU > maxMTU {
		return c, fmt.Errorf("MTU %d: choose %d to %d", c.MTU, minMTU, maxMTU)
	}
	if c.QueueLength < 1 {
		return c, fmt.Errorf("queue length %d: choose 1 or more", c.QueueLength)
	}
	return c, nil
}

// Plane is the data plane in user space. It implements dataplane.Plane.
type Plane struct {
	logger *slog.Logger
	device *device
	socket *socket
	raw    rawSockets
	events chan dataplane.Event
	failed chan error // holds one for each goroutine
	stats  stats
	// Each is written by the one goroutine of its direction.
	transmitLatency, receiveLatency dataplane.Latency

	keepMSS bool
	inbound *spiTable
	spd     atomic.Pointer[spdNode]
	filled  atomic.Pointer[[]*outboundSA] // that send dummy packets
	arrived atomic.Bool                   // an outbound SA came: packets may wait for it
	deliver atomic.Pointer[func(dataplane.IKEDatagram)]
	streams atomic.Pointer[dataplane.StreamSend]
	stop    atomic.Bool
	running sync.WaitGroup
	// receiver has a lock of its own, as streams bring it packets too.
	receiver *receiver

	mu       sync.Mutex
	closed   bool
	reserved map[uint32]bool // inbound SPIs without an SA
	sas      map[saKey]*association
	children map[childKey]*child
}

type childKey struct{ tunnel, name string }

// saKey identifies an SA: inbound ones by SPI alone.
type saKey struct {
	direction dataplane.Direction
	tunnel    string // outbound only
	spi       uint32
}

var (
	_ dataplane.StreamPlane = (*Plane)(nil)
	_ dataplane.Measured    = (*Plane)(nil)
)

// New makes the interface and the socket and starts to move packets, which all
// are dropped until policies and SAs are applied.
func New(c Config) (*Plane, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("configure userspace data plane: %w", err)
	}
	s, err := openSocket(c.Listen, c.Mark)
	if err != nil {
		return nil, fmt.Errorf("start userspace data plane: %w", err)
	}
	d, err := openDevice(c.Interface, c.MTU, c.QueueLength)
	if err != nil {
		s.close()
		return nil, fmt.Errorf("start userspace data plane: %w", err)
	}
	if !d.mergeTCP || !d.mergeUDP {
		c.Logger.Warn("this kernel refuses some super-packets; throughput suffers", "interface", d.name, "tcp", d.mergeTCP, "udp", d.mergeUDP)
	}
	p := &Plane{
		logger: c.Logger, device: d, socket: s, raw: openRaw(c.Listen.Addr(), c.Mark),
		keepMSS:  c.KeepMSS,
		events:   make(chan dataplane.Event, eventBuffer),
		failed:   make(chan error, 2+len(rawSockets{}.all)),
		inbound:  newSPITable(),
		reserved: map[uint32]bool{},
		sas:      map[saKey]*association{},
		children: map[childKey]*child{},
	}
	p.receiver = newReceiver(p)
	udp := p.receiver.in
	p.running.Go(newTransmitter(p).run)
	p.running.Go(func() { p.receiver.run(udp) })
	p.raw.each(func(s *rawSocket) {
		in := newInbox(&s.lane, s)
		p.running.Go(func() { p.receiver.run(in) })
	})
	return p, nil
}

// Name implements dataplane.Plane.
func (p *Plane) Name() string { return "userspace" }

// Interface returns the name of the TUN interface, for routes.
func (p *Plane) Interface() string { return p.device.name }

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
	p.logger.Error("data plane has failed", "interface", p.device.name, "error", err)
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
func (p *Plane) AllocateSPI() (uint32, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, dataplane.ErrClosed
	}
	spi := dataplane.NewSPI(func(spi uint32) bool { return p.reserved[spi] || p.sas[keyOf(dataplane.Inbound, "", spi)] != nil })
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
	err := errors.Join(p.device.file.SetDeadline(past), p.socket.file.SetDeadline(past), p.socket.wakeLanes(past), p.raw.wake(past))
	p.running.Wait()
	p.receiver.close()
	err = errors.Join(err, p.device.file.Close(), p.socket.close(), p.raw.close())
	close(p.events)
	if err != nil {
		return fmt.Errorf("close userspace data plane: %w", err)
	}
	return nil
}
