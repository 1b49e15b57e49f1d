package memory

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Datagram is what passes the switch: an IKE message, or one packet of an SA.
type Datagram struct {
	From, To netip.AddrPort
	IKE      []byte // nil for a packet of an SA
	packet   *sealed
	tcp      bool // a packet that goes in a connection and not by the switch
}

// sealed stands for an ESP packet.
type sealed struct {
	spi   uint32
	seq   uint64
	key   []byte
	inner []byte
}

// Filter decides what becomes of a datagram: one delivery for each element of
// the result, after that delay. None loses it, {0} is a perfect network, {0,
// 0} repeats it. It may change From and To, as a NAT does, and must not keep
// or change the data.
type Filter func(d *Datagram) []time.Duration

// Perfect is the Filter of a new Switch.
func Perfect(*Datagram) []time.Duration { return []time.Duration{0} }

// Latency delivers everything after delay.
func Latency(delay time.Duration) Filter {
	return func(*Datagram) []time.Duration { return []time.Duration{delay} }
}

// Lose loses everything.
func Lose(*Datagram) []time.Duration { return nil }

// Switch joins planes.
type Switch struct {
	mu     sync.Mutex
	planes map[netip.AddrPort]*Plane
	filter Filter
}

// NewSwitch returns a switch without planes and with a perfect network.
func NewSwitch() *Switch {
	return &Switch{
		planes: make(map[netip.AddrPort]*Plane),
		filter: Perfect,
	}
}

// SetFilter replaces the filter.
func (s *Switch) SetFilter(f Filter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.filter = f
}

// Inject puts an IKE message on the network as if from had sent it.
func (s *Switch) Inject(from, to netip.AddrPort, message []byte) {
	s.send(Datagram{From: from, To: to, IKE: slices.Clone(message)})
}

// Deliver has a datagram arrive that a Filter has seen: once more, or late.
func (s *Switch) Deliver(d Datagram) {
	if p := s.find(d.To); p != nil {
		p.receive(d)
	}
}

// find returns the plane at an address, where without a port there is one at most.
func (s *Switch) find(to netip.AddrPort) *Plane {
	s.mu.Lock()
	defer s.mu.Unlock()
	if to.Port() != 0 {
		return s.planes[to]
	}
	for at, p := range s.planes {
		if at.Addr() == to.Addr() {
			return p
		}
	}
	return nil
}

func (s *Switch) attach(p *Plane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.planes[p.addr] = p
}

func (s *Switch) detach(p *Plane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.planes[p.addr] == p {
		delete(s.planes, p.addr)
	}
}

// send takes ownership of the data in d.
func (s *Switch) send(d Datagram) {
	s.mu.Lock()
	filter := s.filter
	s.mu.Unlock()
	for _, delay := range filter(&d) {
		if delay <= 0 {
			s.Deliver(d)
			continue
		}
		time.AfterFunc(delay, func() { s.Deliver(d) })
	}
}

// NAT makes what inside sends come from outside, and takes what is sent there
// to inside. Nothing else reaches inside.
func NAT(inside, outside netip.AddrPort) Filter {
	return func(d *Datagram) []time.Duration {
		switch {
		case d.From == inside:
			d.From = outside
		case d.To == outside:
			d.To = inside
		case d.To == inside:
			return nil
		}
		return []time.Duration{0}
	}
}
