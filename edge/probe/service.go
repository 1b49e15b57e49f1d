package probe

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv6"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// Port is where probes are answered (RFC 8762, Section 4.1), SenderPort where they come
	// from: the next one, so that one traffic selector, and one of the kernel's policies,
	// holds both and nothing else.
	Port       = 862
	SenderPort = 863
	// gatherTime is how long a probe is held back so that several leave together, and
	// what has come so that several are taken up: when that was, the kernel tells.
	gatherTime = 20 * time.Millisecond
	// The counters of what was received are read each readInterval at most, while somebody
	// asks, and that takes one part in readShare of the time at most.
	readInterval = 50 * time.Millisecond
	readShare    = 10
	// retryInterval is how often sockets that cannot be opened are tried again.
	retryInterval = 30 * time.Second
	// batchSize is how many packets one call of the kernel moves.
	batchSize = 64
	// maxPayload is more than any probe has; what is longer is cut.
	maxPayload = 128
)

// Config is what a Service needs.
type Config struct {
	// Interface is the tunnel interface: probes leave by it, and what did not come by it
	// is not seen.
	Interface string
	// Up returns the tunnels that carry traffic.
	Up func() map[string]bool
	// Received returns how many packets each tunnel's SAs have received; nil: that is not
	// known. It is called while a path with alternatives is suspect.
	Received func() map[string]uint64
	Logger   *slog.Logger
}

// Service probes paths and answers probes over sockets. Its methods may be called from any
// goroutine.
type Service struct {
	cfg     Config
	changed chan struct{}
	turned  chan struct{}

	mu     sync.Mutex
	prober *Prober
	paths  int
	// stretched says that there are more paths than can be probed as often as wanted, so
	// that the probes of peers matter too.
	stretched atomic.Bool

	reflecting sync.Mutex
	reflector  *Reflector
}

// New returns a Service that has nothing to do yet.
func New(cfg Config) *Service {
	var seed [32]byte
	_, _ = crand.Read(seed[:]) // never fails
	return &Service{cfg: cfg, changed: make(chan struct{}, 1), turned: make(chan struct{}, 1), prober: NewProber(seed), reflector: NewReflector()}
}

// Set makes paths those to be probed while they are up, and those whose peers are
// answered.
func (s *Service) Set(paths []Path) {
	s.mu.Lock()
	s.prober.Set(time.Now(), paths)
	s.paths = len(paths)
	s.mu.Unlock()
	s.reflecting.Lock()
	s.reflector.Set(paths)
	s.reflecting.Unlock()
	signal(s.changed)
}

// Quality is what is known of a tunnel's path; nil: nothing.
func (s *Service) Quality(tunnel string) *swanherdv1.PathQuality {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.prober.Quality(time.Now(), tunnel)
}

// Answered is Prober.Answered.
func (s *Service) Answered(tunnel string) (last time.Time, every time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.prober.Answered(tunnel)
}

// Violations are the limits that the path of a tunnel is over.
func (s *Service) Violations(tunnel string) []*swanherdv1.SlaViolation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.prober.Violations(tunnel)
}

// Turned is sent to when a path with alternatives became alive, suspect or dead, or begins
// to be probed or ceases to.
func (s *Service) Turned() <-chan struct{} { return s.turned }

// Lives is Prober.Lives.
func (s *Service) Lives() map[string]Life {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.prober.Lives(time.Now())
}

// Use is Prober.Use.
func (s *Service) Use(inUse func(tunnel string) bool) {
	s.mu.Lock()
	s.prober.Use(time.Now(), inUse)
	s.mu.Unlock()
	signal(s.changed)
}

// signal tells of a change to who has not heard of one before.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run probes and answers until ctx ends. A host on which it cannot is logged, and tried
// again: tunnels do not depend on it.
func (s *Service) Run(ctx context.Context) {
	said := ""
	for ctx.Err() == nil {
		if !s.wanted() {
			select {
			case <-ctx.Done():
			case <-s.changed:
			}
			continue
		}
		err := s.serve(ctx)
		if err != nil && err.Error() != said {
			said = err.Error()
			s.cfg.Logger.Warn("cannot probe tunnels; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryInterval):
		}
	}
}

func (s *Service) wanted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.paths > 0
}

// serve opens the sockets and has them served until one fails or ctx ends.
func (s *Service) serve(ctx context.Context) error {
	sender, err := open(ctx, s.cfg.Interface, SenderPort)
	if err != nil {
		return err
	}
	reflector, err := open(ctx, s.cfg.Interface, Port)
	if err != nil {
		sender.Close()
		return fmt.Errorf("%w; if another program answers STAMP or TWAMP there, bind it to other interfaces", err)
	}
	return s.serveOver(ctx, sender, reflector)
}

// serveOver has the sockets served, and closes them.
func (s *Service) serveOver(ctx context.Context, sender, reflector *ipv6.PacketConn) error {
	ctx, stop := context.WithCancelCause(ctx)
	var parts sync.WaitGroup
	part := func(do func() error) {
		parts.Go(func() { stop(do()) })
	}
	part(func() error { return s.take(sender) })
	part(func() error { return s.reflect(reflector) })
	part(func() error { return s.probe(ctx, sender) })
	<-ctx.Done()
	sender.Close()
	reflector.Close()
	parts.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// open binds a socket to the interface. The addresses of probes are not on it, but routed
// to the host as a whole prefix; the socket may send from them all the same.
func open(ctx context.Context, name string, port int) (*ipv6.PacketConn, error) {
	lc := net.ListenConfig{Control: bind(name)}
	c, err := lc.ListenPacket(ctx, "udp6", fmt.Sprintf("[::]:%d", port))
	if err != nil {
		return nil, fmt.Errorf("open a socket for probes on %s: %w", name, err)
	}
	return ipv6.NewPacketConn(c), nil
}

// probe sends what is due, and looks at the paths now and then.
func (s *Service) probe(ctx context.Context, conn *ipv6.PacketConn) error {
	look := time.NewTicker(judgeInterval)
	defer look.Stop()
	next := time.NewTimer(0)
	defer next.Stop()
	s.look()
	var read reading
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.changed:
			s.look()
		case <-look.C:
			s.look()
		case <-next.C:
		}
		now := time.Now()
		s.mu.Lock()
		packets := s.prober.Due(now)
		s.mu.Unlock()
		if err := write(conn, packets); err != nil {
			return err
		}
		reading := s.listen(now, &read)
		s.mu.Lock()
		due, turned := s.prober.Next(), s.prober.Turned()
		s.mu.Unlock()
		if turned {
			signal(s.turned)
		}
		if due.IsZero() || !reading.IsZero() && reading.Before(due) {
			due = reading
		}
		if due.IsZero() {
			next.Stop()
		} else {
			next.Reset(max(time.Until(due), gatherTime))
		}
	}
}

// reading is when the counters were read last, and how long that took.
type reading struct {
	at   time.Time
	took time.Duration
}

// listen has the prober told what was received, if it asks; otherwise, or if it was told
// only just, when that is to be tried again.
func (s *Service) listen(now time.Time, last *reading) (again time.Time) {
	s.mu.Lock()
	asks := s.prober.Asks()
	s.mu.Unlock()
	if !asks {
		return time.Time{}
	}
	// A data plane with very many SAs takes a while to tell.
	if again = last.at.Add(max(readInterval, readShare*last.took)); now.Before(again) {
		return again
	}
	var received map[string]uint64
	if s.cfg.Received != nil {
		received = s.cfg.Received()
	}
	last.at, last.took = now, time.Since(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prober.Hear(time.Now(), received)
	if s.prober.Asks() {
		return now.Add(readInterval)
	}
	return time.Time{}
}

func (s *Service) look() {
	up, now := s.cfg.Up(), time.Now()
	s.mu.Lock()
	s.prober.Follow(now, func(tunnel string) bool { return up[tunnel] })
	s.prober.Judge(now)
	s.stretched.Store(s.prober.stretch > 1)
	s.mu.Unlock()
}

// write sends probes. One that the host does not send, such as for want of a route, is
// one that is lost.
func write(conn *ipv6.PacketConn, packets []Packet) error {
	messages := make([]ipv6.Message, len(packets))
	for i, p := range packets {
		messages[i] = message(p.Local, p.Remote, Port, p.Payload)
	}
	for len(messages) > 0 {
		n, err := conn.WriteBatch(messages[:min(batchSize, len(messages))], 0)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		messages = messages[max(n, 1):]
	}
	return nil
}

func message(from, to netip.Addr, port int, payload []byte) ipv6.Message {
	return ipv6.Message{
		Buffers: [][]byte{payload},
		OOB:     (&ipv6.ControlMessage{Src: from.AsSlice()}).Marshal(),
		Addr:    &net.UDPAddr{IP: to.AsSlice(), Port: port},
	}
}

// take takes in answers until the socket is closed.
func (s *Service) take(conn *ipv6.PacketConn) error {
	return receive(conn, func(m *received) *ipv6.Message {
		s.mu.Lock()
		defer s.mu.Unlock()
		if m.from.Port() == Port {
			s.prober.Take(m.at, m.to, m.from.Addr(), m.payload)
		}
		return nil
	})
}

// reflect answers probes until the socket is closed.
func (s *Service) reflect(conn *ipv6.PacketConn) error {
	return receive(conn, func(m *received) *ipv6.Message {
		s.reflecting.Lock()
		defer s.reflecting.Unlock()
		reply := s.reflector.Answer(m.at, time.Now(), m.to, m.from.Addr(), m.hopLimit, m.payload)
		if reply == nil {
			return nil
		}
		if s.stretched.Load() {
			s.mu.Lock()
			s.prober.Heard(m.at, m.to, m.from.Addr())
			s.mu.Unlock()
		}
		out := message(m.to, m.from.Addr(), int(m.from.Port()), reply)
		return &out
	})
}

// received is a datagram; its payload is good until the next one.
type received struct {
	from     netip.AddrPort
	to       netip.Addr
	at       time.Time // when it came
	hopLimit uint8
	payload  []byte
}

// receive calls handle with each datagram, and sends what it returns, until the socket is
// closed.
func receive(conn *ipv6.PacketConn, handle func(*received) *ipv6.Message) error {
	messages := make([]ipv6.Message, batchSize)
	for i := range messages {
		messages[i].Buffers = [][]byte{make([]byte, maxPayload)}
		messages[i].OOB = make([]byte, controlSpace)
	}
	replies := make([]ipv6.Message, 0, batchSize)
	for {
		n, err := conn.ReadBatch(messages, 0)
		now := time.Now()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("receive probes: %w", err)
		}
		replies = replies[:0]
		for i := range messages[:n] {
			if m, ok := parse(&messages[i], now); ok {
				if reply := handle(m); reply != nil {
					replies = append(replies, *reply)
				}
			}
		}
		for sent := 0; sent < len(replies); {
			n, err := conn.WriteBatch(replies[sent:], 0)
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			sent += max(n, 1)
		}
		if n < batchSize {
			time.Sleep(gatherTime)
		}
	}
}

func parse(m *ipv6.Message, now time.Time) (*received, bool) {
	from, ok := m.Addr.(*net.UDPAddr)
	if !ok {
		return nil, false
	}
	r := &received{from: from.AddrPort(), at: now, payload: m.Buffers[0][:m.N]}
	r.control(m.OOB[:m.NN])
	return r, r.to.IsValid()
}
