package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ike"
)

const (
	// dialTime is how long a connection may take to come about.
	dialTime = 10 * time.Second
	// acceptPause is how long the listener is left alone when it cannot accept,
	// for want of descriptors mostly.
	acceptPause = 50 * time.Millisecond
	// trialsPerSource is how many connections on trial one address may have, one
	// of a configured peer four times as many: many can be behind one NAT.
	trialsPerSource = 8
)

// streams are the TCP connections of an engine (RFC 9329). Those that a peer
// opened are on trial until an established IKE SA uses them: there is room for a
// bounded number, each has a short time, and if there are more the oldest goes.
type streams struct {
	engine  *Engine
	lack    error                   // why tunnels cannot use TCP
	receive dataplane.StreamReceive // of a plane that has packets handed to it
	taker   dataplane.StreamTaker   // nil unless the plane takes connections over
	running sync.WaitGroup
	ctx     context.Context // of dialling
	stop    context.CancelFunc

	mu        sync.RWMutex
	listeners []net.Listener
	closed    bool
	byWay     map[way]*stream
	trials    []*stream // in the order of their age
	sources   map[netip.Addr]int
}

func newStreams(e *Engine) *streams {
	s := &streams{engine: e, byWay: make(map[way]*stream), sources: make(map[netip.Addr]int)}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// join ties the connections to the data plane, if it can send ESP in them.
func (ss *streams) join(p dataplane.Plane) (err error) {
	switch plane := p.(type) {
	case dataplane.StreamPlane:
		ss.receive, err = plane.JoinStreams(ss.sendESP)
	case dataplane.StreamTaker:
		if ss.lack = plane.TakesStreams(); ss.lack == nil {
			ss.taker = plane
		}
	default:
		ss.lack = errors.ErrUnsupported
	}
	if ss.lack != nil {
		ss.lack = fmt.Errorf("the %s data plane sends no ESP in TCP: %w", p.Name(), ss.lack)
	}
	return err
}

// listen accepts connections at addr.
func (ss *streams) listen(addr netip.AddrPort) error {
	if ss.lack != nil {
		return fmt.Errorf("listen for TCP encapsulation: %w", ss.lack)
	}
	networks, address := []string{"tcp"}, addr.String()
	if a := addr.Addr(); a.Is6() && a.IsUnspecified() && ss.taker != nil {
		// To the plane a socket for both families is one of IPv6, to whatever peer.
		networks, address = []string{"tcp4", "tcp6"}, fmt.Sprintf(":%d", addr.Port())
	}
	for _, network := range networks {
		l, err := net.Listen(network, address)
		if network == "tcp6" && errors.Is(err, syscall.EAFNOSUPPORT) {
			continue // a host without IPv6
		}
		if err != nil {
			return fmt.Errorf("listen for TCP encapsulation: %w", err)
		}
		ss.listeners = append(ss.listeners, l)
		ss.running.Go(func() { ss.accept(l) })
	}
	return nil
}

func (ss *streams) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			time.Sleep(acceptPause)
		case !ss.admit(conn):
			ss.engine.counters.streamsRefused.Add(1)
			_ = conn.Close()
		}
	}
}

// admit takes a connection that a peer opened on trial.
func (ss *streams) admit(conn net.Conn) bool {
	local, remote := endsOf(conn)
	source := remote.Addr()
	most := trialsPerSource
	_, known := ss.engine.index.Load().matcher.peersAt[source]
	if known {
		most *= 4
	}
	s := &stream{
		way: way{local, remote, true}, conn: conn, table: ss, known: known, begun: time.Now(), wake: make(chan struct{}, 1),
	}
	ss.mu.Lock()
	if ss.sources[source] >= most || !ss.add(s) {
		ss.mu.Unlock()
		return false
	}
	ss.sources[source]++
	ss.trials = append(ss.trials, s)
	victim := ss.victim()
	ss.mu.Unlock()
	if victim != nil {
		ss.engine.counters.streamsRefused.Add(1)
		_ = victim.conn.Close()
	}
	return true
}

// victim takes a connection off the list if it is too long: the oldest of a
// stranger, or if there is none the oldest. The lock is held.
func (ss *streams) victim() *stream {
	if len(ss.trials) <= ss.engine.config.Limits.Streams {
		return nil
	}
	i := max(0, slices.IndexFunc(ss.trials, func(s *stream) bool { return !s.known }))
	s := ss.trials[i]
	ss.acquit(s)
	return s
}

// add registers a connection and begins to read and write. The lock is held.
func (ss *streams) add(s *stream) bool {
	if ss.closed || ss.byWay[s.way] != nil {
		return false
	}
	ss.byWay[s.way] = s
	ss.running.Go(s.write)
	ss.running.Go(func() {
		s.read()
		ss.remove(s)
	})
	return true
}

// acquit takes a connection off the list of those on trial. The lock is held.
func (ss *streams) acquit(s *stream) {
	i := slices.Index(ss.trials, s)
	if i < 0 {
		return
	}
	ss.trials = slices.Delete(ss.trials, i, i+1)
	if ss.sources[s.remote.Addr()]--; ss.sources[s.remote.Addr()] == 0 {
		delete(ss.sources, s.remote.Addr())
	}
}

// remove forgets a connection that has ended, and tells who used it.
func (ss *streams) remove(s *stream) {
	s.finish()
	_ = s.conn.Close()
	ss.mu.Lock()
	if ss.byWay[s.way] == s {
		delete(ss.byWay, s.way)
	}
	ss.acquit(s)
	owner := s.owner
	s.owner = nil
	ss.mu.Unlock()
	if owner != nil {
		owner.shard.post(func() { owner.step(time.Now(), ike.StreamClosed{Local: s.local, Remote: s.remote}) })
	}
}

func endsOf(conn net.Conn) (local, remote netip.AddrPort) {
	end := func(a net.Addr) netip.AddrPort {
		ap := a.(*net.TCPAddr).AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
	}
	return end(conn.LocalAddr()), end(conn.RemoteAddr())
}

// dial opens a connection for a tunnel, and answers the machine that asked.
func (ss *streams) dial(t *tunnel, d ike.Dial) {
	m := t.machine
	ss.mu.RLock()
	defer ss.mu.RUnlock()
	if ss.closed {
		return
	}
	ss.running.Go(func() {
		s, err := ss.connect(t, d)
		answer := ike.Dialed{Token: d.Token, Err: err}
		if err == nil {
			answer.Local, answer.Remote = s.local, s.remote
		}
		posted := t.shard.post(func() {
			if t.machine == m {
				t.step(time.Now(), answer)
			} else if s != nil {
				s.finish()
			}
		})
		if !posted && s != nil {
			s.finish()
		}
	})
}

func (ss *streams) connect(t *tunnel, d ike.Dial) (*stream, error) {
	dialer := net.Dialer{Timeout: dialTime}
	if specified(d.Local) {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(d.Local, 0))
	}
	conn, err := ss.engine.config.Dial(ss.ctx, &dialer, d.Remote.String())
	if err != nil {
		return nil, err
	}
	local, remote := endsOf(conn)
	s := &stream{
		way: way{local, remote, true}, conn: conn, table: ss, ours: true, begun: time.Now(),
		wake: make(chan struct{}, 1), owner: t,
	}
	_ = conn.SetWriteDeadline(s.begun.Add(prefixTime))
	_, err = io.WriteString(conn, streamPrefix)
	if err == nil {
		err = s.begin()
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if !ss.add(s) {
		_ = conn.Close()
		return nil, ErrClosed
	}
	return s, nil
}

// keep notes that an established IKE SA of t uses a connection.
func (ss *streams) keep(t *tunnel, w way) {
	ss.mu.Lock()
	s := ss.byWay[w]
	if s != nil {
		ss.acquit(s)
		s.owner = t
		s.trusted.Store(true)
	}
	ss.mu.Unlock()
	if s == nil { // it has ended meanwhile
		t.shard.tryPost(func() { t.step(time.Now(), ike.StreamClosed{Local: w.local, Remote: w.remote}) })
	}
}

// drop notes that t no longer uses a connection. Who opened it closes it; the
// other end does if that does not happen (RFC 9329, Section 6.1).
func (ss *streams) drop(t *tunnel, w way) {
	ss.mu.Lock()
	s := ss.byWay[w]
	if s == nil || s.owner != t {
		ss.mu.Unlock()
		return
	}
	s.owner = nil
	ss.mu.Unlock()
	if s.ours {
		s.finish()
		return
	}
	time.AfterFunc(strayTime, func() {
		ss.mu.RLock()
		used := s.owner != nil
		ss.mu.RUnlock()
		if !used {
			s.finish()
		}
	})
}

// cut closes a corrupt connection at once (RFC 9329, Section 6.1). Its reader tells
// who used it.
func (ss *streams) cut(w way) {
	if s := ss.find(w); s != nil {
		_ = s.conn.Close()
	}
}

// abandon drops all connections of a tunnel that is gone.
func (ss *streams) abandon(t *tunnel) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	for _, s := range ss.byWay {
		if s.owner == t {
			s.owner = nil
			s.finish()
		}
	}
}

func (ss *streams) find(w way) *stream {
	ss.mu.RLock()
	defer ss.mu.RUnlock()
	return ss.byWay[w]
}

// sendIKE sends an IKE message.
func (ss *streams) sendIKE(w way, b []byte) error {
	s := ss.find(w)
	if s == nil {
		return errNoStream
	}
	return s.send(true, b, queueIKE)
}

// sendESP sends an ESP packet for the data plane.
func (ss *streams) sendESP(local, remote netip.AddrPort, packet []byte) error {
	err := errNoStream
	if s := ss.find(way{local, remote, true}); s != nil {
		err = s.send(false, packet, queueESP)
	}
	if err != nil {
		ss.engine.counters.streamDrops.Add(1)
	}
	return err
}

func (ss *streams) count() int {
	ss.mu.RLock()
	defer ss.mu.RUnlock()
	return len(ss.byWay)
}

// close ends all connections, after the last messages are written, and waits for
// that.
func (ss *streams) close() {
	ss.stop()
	ss.mu.Lock()
	ss.closed = true
	for _, l := range ss.listeners {
		_ = l.Close()
	}
	for _, s := range ss.byWay {
		s.owner = nil
		s.finish()
	}
	ss.mu.Unlock()
	ss.running.Wait()
}
