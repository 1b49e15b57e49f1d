package nat

import (
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Times of retransmission (RFC 8489, Section 6.2.1): a request goes at 0, 500, 1500, 3500,
// 7500, 15500 and 31500 ms, and is given up at 39500 ms.
const (
	rto      = 500 * time.Millisecond
	tries    = 7  // Rc
	lastWait = 16 // Rm
)

const (
	// askBehindNAT and askWithout are how often it is asked, varied by a tenth.
	askBehindNAT = 2 * time.Minute
	askWithout   = 10 * time.Minute
	// askAgain is the least time between the begins of two rounds, whatever happens.
	askAgain = 10 * time.Second
	// settle is after what time of a round two answers are enough for a first word.
	settle = 2 * time.Second
	// unstable is how many rounds more than not see another mapping than the one before
	// until that is taken for the NAT's way.
	unstable = 3
	// maxServers are asked of a family.
	maxServers = 4
)

// carrierGrade is the address space between carriers' NATs and their customers (RFC 6598).
var carrierGrade = netip.MustParsePrefix("100.64.0.0/10")

// Config is what a Prober needs from outside.
type Config struct {
	// Transaction returns a new one, 96 bits that nobody can guess.
	Transaction func() [12]byte
	// Vary returns a random time below one.
	Vary func(time.Duration) time.Duration
}

// Request is a datagram to be sent, behind the non-ESP marker.
type Request struct {
	Local, Remote netip.AddrPort
	Message       []byte
	// Until is when its answer is of no use any more.
	Until time.Time
}

// Prober asks how addresses look from outside. It is for one goroutine.
type Prober struct {
	cfg     Config
	servers []netip.AddrPort
	sources []*source
}

// source is an address that is asked from.
type source struct {
	local netip.AddrPort
	asks  []*ask // of the round that goes on; none between rounds
	began time.Time
	due   time.Time
	early bool // the first word of this round was said

	seen  *swanherdv1.UplinkNat // in the last round that was answered; nil: none
	moves int                   // rounds that saw another one, less those that did not
	moved bool                  // moves was at unstable and not at 0 since
	known *swanherdv1.UplinkNat // what is told; nil: nothing is known
}

// ask is a request to one server.
type ask struct {
	server  netip.AddrPort
	id      [12]byte
	message []byte
	sent    int
	next    time.Time
	over    bool
	mapped  netip.AddrPort // zero: not answered
}

// NewProber returns a Prober that has nothing to do.
func NewProber(cfg Config) *Prober { return &Prober{cfg: cfg} }

// SetServers says whom to ask, in order of preference. Without any nothing is known.
func (p *Prober) SetServers(now time.Time, servers []netip.AddrPort) {
	if slices.Equal(servers, p.servers) {
		return
	}
	p.servers = slices.Clone(servers)
	for _, s := range p.sources {
		s.asks, s.due = nil, now
		if len(servers) == 0 {
			s.known, s.seen, s.moves, s.moved = nil, nil, 0, false
		}
	}
}

// SetSources says from where to ask: the addresses of the uplinks, and the port of IKE and
// ESP. What is known of one that was there before stays; known is what was known before the
// Prober was, by address.
func (p *Prober) SetSources(now time.Time, local []netip.AddrPort, known map[string]*swanherdv1.UplinkNat) {
	next := make([]*source, 0, len(local))
	for _, l := range local {
		i := slices.IndexFunc(p.sources, func(s *source) bool { return s.local == l })
		if i >= 0 {
			next = append(next, p.sources[i])
			continue
		}
		before := known[l.Addr().String()]
		next = append(next, &source{local: l, due: now, known: before, seen: before})
	}
	p.sources = next
}

// AskNow has all asked at once, or as soon as they may be.
func (p *Prober) AskNow(now time.Time) {
	for _, s := range p.sources {
		if len(s.asks) == 0 {
			s.due = now
			if again := s.began.Add(askAgain); !s.began.IsZero() && again.After(now) {
				s.due = again
			}
		}
	}
}

// Step returns what is to be sent now.
func (p *Prober) Step(now time.Time) []Request {
	var out []Request
	for _, s := range p.sources {
		if len(s.asks) == 0 && !now.Before(s.due) {
			p.begin(now, s)
		}
		for _, a := range s.asks {
			if a.over || now.Before(a.next) {
				continue
			}
			if a.sent == tries {
				a.over = true
				continue
			}
			wait := rto << a.sent
			if a.sent++; a.sent == tries {
				wait = lastWait * rto
			}
			a.next = now.Add(wait)
			out = append(out, Request{s.local, a.server, a.message, s.began.Add((1<<(tries-1) - 1 + lastWait) * rto)})
		}
		p.look(now, s)
	}
	return out
}

// begin begins a round.
func (p *Prober) begin(now time.Time, s *source) {
	for _, server := range p.servers {
		if server.Addr().Is4() != s.local.Addr().Is4() || len(s.asks) == maxServers {
			continue
		}
		id := p.cfg.Transaction()
		s.asks = append(s.asks, &ask{server: server, id: id, message: requestOf(id), next: now})
	}
	if len(s.asks) == 0 {
		s.due = now.Add(askWithout) // whom to ask is told by then, or nobody is there
		return
	}
	s.began, s.early = now, false
}

// Receive takes an answer.
func (p *Prober) Receive(now time.Time, answer []byte) {
	if len(answer) < 20 {
		return
	}
	for _, s := range p.sources {
		for _, a := range s.asks {
			if !a.over && a.id == [12]byte(answer[8:20]) {
				a.mapped, _ = mappedIn(answer)
				a.over = true
				p.look(now, s)
				return
			}
		}
	}
}

// look draws conclusions, when there are any.
func (p *Prober) look(now time.Time, s *source) {
	if len(s.asks) == 0 {
		return
	}
	mapped := s.answers()
	switch {
	case !slices.ContainsFunc(s.asks, func(a *ask) bool { return !a.over }):
		s.conclude(mapped)
		s.asks = nil
		wait := askBehindNAT
		if s.known.GetMapping() == swanherdv1.NatMapping_NAT_MAPPING_NONE {
			wait = askWithout
		}
		s.due = s.began.Add(wait - wait/10 + p.cfg.Vary(wait/5))
		if s.due.Before(now) {
			s.due = now
		}
	case !s.early && len(mapped) > 1 && !now.Before(s.began.Add(settle)):
		s.early = true
		if s.known == nil {
			s.known = classify(s.local, mapped)
		}
	}
}

// answers are those of the round that goes on.
func (s *source) answers() (mapped []netip.AddrPort) {
	for _, a := range s.asks {
		if a.mapped.IsValid() {
			mapped = append(mapped, a.mapped)
		}
	}
	return mapped
}

// conclude takes in what a round brought. One without an answer says nothing: UDP does not
// pass, or the controller is away.
func (s *source) conclude(mapped []netip.AddrPort) {
	if len(mapped) == 0 {
		return
	}
	now := classify(s.local, mapped)
	if s.seen != nil && !proto.Equal(now, s.seen) {
		s.moves = min(s.moves+1, unstable)
	} else {
		s.moves = max(s.moves-1, 0)
	}
	s.seen = now
	s.moved = s.moves == unstable || s.moved && s.moves > 0
	if !s.moved {
		s.known = now
		return
	}
	s.known = proto.Clone(s.known).(*swanherdv1.UplinkNat)
	s.known.Mapping, s.known.MappedPort = swanherdv1.NatMapping_NAT_MAPPING_ADDRESS_DEPENDENT, 0
}

// classify says what a NAT does that shows a socket so to different destinations (RFC
// 4787, Section 4.1). By one alone it cannot be told, unless there is no NAT.
func classify(local netip.AddrPort, mapped []netip.AddrPort) *swanherdv1.UplinkNat {
	n := &swanherdv1.UplinkNat{
		Address: local.Addr().String(), MappedAddress: mapped[0].Addr().String(), MappedPort: uint32(mapped[0].Port()),
		CarrierGrade: carrierGrade.Contains(local.Addr()),
	}
	different := slices.ContainsFunc(mapped, func(m netip.AddrPort) bool { return m != mapped[0] })
	switch {
	case different:
		n.Mapping, n.MappedPort = swanherdv1.NatMapping_NAT_MAPPING_ADDRESS_DEPENDENT, 0
	case mapped[0] == local:
		n.Mapping = swanherdv1.NatMapping_NAT_MAPPING_NONE
	case len(mapped) > 1:
		n.Mapping = swanherdv1.NatMapping_NAT_MAPPING_ENDPOINT_INDEPENDENT
	}
	return n
}

// Deadline is when Step has something to do; ok is false if that is never.
func (p *Prober) Deadline() (at time.Time, ok bool) {
	sooner := func(t time.Time) {
		if !ok || t.Before(at) {
			at, ok = t, true
		}
	}
	for _, s := range p.sources {
		if len(s.asks) == 0 {
			sooner(s.due)
			continue
		}
		if !s.early && len(s.answers()) > 1 {
			sooner(s.began.Add(settle))
		}
		for _, a := range s.asks {
			if !a.over {
				sooner(a.next)
			}
		}
	}
	return at, ok
}

// Known is what is known, in the order of the sources. Its messages are not changed.
func (p *Prober) Known() []*swanherdv1.UplinkNat {
	var out []*swanherdv1.UplinkNat
	for _, s := range p.sources {
		if s.known != nil {
			out = append(out, s.known)
		}
	}
	return out
}
