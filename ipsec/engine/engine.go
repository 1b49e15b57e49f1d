package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// Engine runs the tunnels of a host.
type Engine struct {
	config   Config
	counters counters
	hub      hub
	pool     *cryptoPool
	streams  *streams
	stun     stunRequests
	keys     *keyLog
	writer   *planeWriter
	activity *activity
	heard    heard
	shards   []*shard
	front    *front
	// rejections limits what is logged about strangers, unknown what is said
	// to them.
	rejections *rateLimiter
	unknown    unknown
	keeper     *keeper          // nil without Config.Store
	tokens     *ike.TokenSecret // likewise
	tickets    *ike.TicketKeys  // likewise

	began   atomic.Bool
	started chan struct{} // closed when Run has begun
	closing chan struct{} // closed when Run begins to end
	// Set before started is closed.
	sender dataplane.IKESender
	socket *ikeSocket // nil without Config.IKEAddr

	applyMu sync.Mutex
	tunnels map[string]*entry // guarded by applyMu
	load    []int             // tunnels of each shard, guarded by applyMu
	looking *time.Timer       // whether outgoing tunnels may go, guarded by applyMu; nil: there are none
	index   atomic.Pointer[index]
}

// entry is what Apply knows of a tunnel.
type entry struct {
	tunnel *tunnel
	config *TunnelConfig       // shared, not to be changed
	former []suite.IKEProposal // before the last change of them, which the peer may not have
	local  netip.AddrPort      // completed
	wanted bool                // false: closing, or closed
	// outgoing is since when it is there only until others take its place; zero: it is not.
	outgoing time.Time
}

// index is what everybody may read: a copy of the tunnels that Apply made.
type index struct {
	byName  map[string]*tunnel
	sorted  []*tunnel
	matcher *matcher
}

// New checks config and makes an engine. Nothing runs before Run.
func New(config Config) (*Engine, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	e := &Engine{
		config:   config,
		started:  make(chan struct{}),
		closing:  make(chan struct{}),
		keys:     &keyLog{KeyLog: config.KeyLog, logger: config.Logger},
		pool:     newCryptoPool(config.Limits.Handshakes),
		writer:   newPlaneWriter(config.Plane),
		activity: newActivity(config.Plane),
		tunnels:  make(map[string]*entry),
		load:     make([]int, config.Shards),

		rejections: newRateLimiter(1, 4, 512),
		unknown:    newUnknown(),
	}
	e.hub.counters = &e.counters
	e.streams = newStreams(e)
	for i := range config.Shards {
		e.shards = append(e.shards, newShard(e, i))
	}
	if err := e.remember(); err != nil {
		return nil, err
	}
	front, err := newFront(e)
	if err != nil {
		return nil, err
	}
	e.front = front
	e.publishIndex()
	return e, nil
}

// Run listens and runs the tunnels until ctx ends. Then it closes them, with
// the peers' knowledge as far as Limits.CloseTimeout allows, and returns when
// nothing of the engine runs any more. It is called once. An error means that
// it could not begin.
func (e *Engine) Run(ctx context.Context) error {
	if !e.began.CompareAndSwap(false, true) {
		return errors.New("run engine: it ran before")
	}
	if err := e.listen(); err != nil {
		e.streams.close()
		close(e.closing)
		e.hub.close()
		return err
	}
	stop := make(chan struct{})
	var loops, writer, asked, receivers, keeper sync.WaitGroup
	if e.keeper != nil {
		keeper.Go(func() { e.keeper.run(stop) })
	}
	e.pool.start(e.config.Limits.CryptoWorkers)
	writer.Go(e.writer.run)
	asked.Go(e.activity.run)
	for _, s := range e.shards {
		loops.Go(func() { s.run(stop) })
	}
	loops.Go(func() { e.front.run(stop) })
	loops.Go(func() { e.runPlaneEvents(stop) })
	if e.socket != nil {
		receivers.Go(func() {
			e.socket.run(func(local, remote netip.AddrPort, b []byte) { e.receive(way{local, remote, false}, b) })
		})
	}
	close(e.started)

	<-ctx.Done()
	e.drain()
	close(stop)
	loops.Wait()
	e.streams.close()
	keeper.Wait()
	e.writer.close()
	writer.Wait()
	e.activity.close()
	asked.Wait()
	e.pool.close()
	if e.socket != nil {
		e.socket.close()
		receivers.Wait()
	}
	e.hub.close()
	return nil
}

func (e *Engine) listen() error {
	if e.config.IKEAddr.IsValid() {
		socket, err := listenIKE(e.config.IKEAddr, e.config.Mark)
		if err != nil {
			return err
		}
		e.socket = socket
	}
	sender, err := e.config.Plane.Listen(func(d dataplane.IKEDatagram) { e.receive(way{d.Local, d.Remote, false}, d.Data) })
	if err == nil {
		e.sender = sender
		err = e.streams.join(e.config.Plane)
	}
	if err == nil && e.config.TCPAddr.IsValid() {
		err = e.streams.listen(e.config.TCPAddr)
	}
	if err != nil && e.socket != nil {
		e.socket.close()
	}
	return err
}

// drain closes all tunnels and waits for them.
func (e *Engine) drain() {
	e.applyMu.Lock() // an Apply that runs ends first; later ones are refused
	close(e.closing)
	e.applyMu.Unlock()
	for _, s := range e.shards {
		done := make(chan struct{})
		if s.post(func() { s.drain(time.Now(), done) }) {
			defer func() { <-done }()
		}
	}
}

// isClosing reports whether Run has begun to end.
func (e *Engine) isClosing() bool {
	select {
	case <-e.closing:
		return true
	default:
		return false
	}
}

// Stalled reports whether a loop, or the writer of the data plane, has been at
// one thing for longer than limit. Loops never block, so for them a second is
// long; the writer waits for the kernel. A watchdog should end a process in
// which this lasts.
func (e *Engine) Stalled(limit time.Duration) bool {
	then := time.Now().Add(-limit)
	for _, s := range e.shards {
		if s.stalled(then) {
			return true
		}
	}
	return e.front.stalled(then) || e.writer.stalled(then)
}

// runPlaneEvents brings the data plane's events to their tunnels.
func (e *Engine) runPlaneEvents(stop <-chan struct{}) {
	for {
		select {
		case ev, ok := <-e.config.Plane.Events():
			if !ok {
				return
			}
			if ev.Kind == dataplane.UnknownSPI {
				e.receivedUnknownSPI(time.Now(), ev)
				continue
			}
			t := e.index.Load().byName[ev.Tunnel]
			if t == nil || !t.shard.post(func() { t.step(time.Now(), ike.PlaneEvent{Event: ev}) }) {
				e.counters.planeEventsLost.Add(1)
			}
		case <-stop:
			return
		}
	}
}

// receive takes a message from a socket or a connection, and reports whether it
// may be for somebody. It runs on the receiving goroutines and never waits. The
// data is valid only during the call.
func (e *Engine) receive(w way, b []byte) (known bool) {
	select {
	case <-e.started:
	default:
		return true
	}
	e.counters.received.Add(1)
	if isSTUN(b) && !w.tcp {
		e.receiveSTUN(w, b)
		return false
	}
	where, ours, reason := classify(b)
	switch where {
	case routeDrop:
		e.counters.drop(reason)
	case routeInit:
		e.admit(time.Now(), w, b)
	case routeSPI:
		return e.offer(ours, w, b)
	case routeComplaint:
		e.complain(time.Now(), w.remote, b)
	case routeVersion:
		e.receiveVersion(time.Now(), w, b)
	}
	return where != routeDrop && where != routeVersion
}

// offer puts a copy of a datagram into the mailbox of the loop that owns the
// SPI, and reports whether there is one.
func (e *Engine) offer(ours wire.SPI, w way, b []byte) (known bool) {
	var owner *mailbox
	if table := e.tableOf(ours); table != nil {
		owner = table.owner(ours)
	}
	switch {
	case owner == nil:
		e.receiveUnknown(time.Now(), w, b)
	case !owner.offer(datagram{way: w, ours: ours, data: slices.Clone(b)}):
		e.counters.drop(DropMailboxFull)
	}
	return owner != nil
}

// send sends what a machine wants. A datagram that the host refuses is as good
// as lost in the network: the machine sends it again.
// The error is the last one, nil if all are on their way.
func (e *Engine) send(eff ike.Send) error {
	var failed error
	for _, b := range eff.Datagrams {
		var err error
		if eff.TCP {
			err = e.streams.sendIKE(way{eff.Local, eff.Remote, true}, b)
		} else {
			err = e.sendDatagram(eff, b)
		}
		e.countSend(err, eff.Remote)
		if err != nil {
			failed = err
		}
	}
	return failed
}

func (e *Engine) sendDatagram(eff ike.Send, b []byte) error {
	switch natPort := eff.NATPort || e.socket == nil; {
	case natPort && eff.Probe:
		return e.sender.SendProbe(eff.Local, eff.Remote, b)
	case natPort:
		return e.sender.SendIKE(eff.Local, eff.Remote, b)
	default:
		return e.socket.send(eff.Local, eff.Remote, b, eff.Probe)
	}
}

// isUnreachable reports whether a datagram could not be sent because the host has
// no way to its destination now, or not from that address: not because a buffer is
// full.
func isUnreachable(err error) bool {
	for _, e := range []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN, unix.EADDRNOTAVAIL, unix.EINVAL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (e *Engine) keepAlive(eff ike.KeepAlive) {
	e.countSend(e.sender.SendKeepAlive(eff.Local, eff.Remote), eff.Remote)
}

func (e *Engine) countSend(err error, remote netip.AddrPort) {
	if err == nil {
		e.counters.sent.Add(1)
		return
	}
	e.counters.sendErrors.Add(1)
	e.config.Logger.Debug("send failed", "remote", remote, "error", err)
}

func (e *Engine) countPlaneErrors(tunnel string, ops []dataplane.Op, results []error) {
	for i, err := range results {
		if err != nil {
			e.counters.planeErrors.Add(1)
			e.config.Logger.Warn("data plane refused an operation", "tunnel", tunnel, "operation", opName(ops[i]), "error", err)
		}
	}
}

// countPanic reports a defect. What panicked is closed, and nothing else.
func (e *Engine) countPanic(what, which string, value any, stack []byte) {
	e.counters.panics.Add(1)
	e.config.Logger.Error("a machine panicked and is closed", "what", what, "which", which, "panic", fmt.Sprint(value), "stack", string(stack))
}

// refused tells why a peer was not let in: the log, and the tunnel whose peer
// has that address. Strangers can cause it, so it is limited for each source.
func (e *Engine) refused(now time.Time, remote netip.AddrPort, err *ike.Error) {
	if !e.rejections.allow(remote.Addr(), now) {
		return
	}
	t := e.index.Load().matcher.at(remote.Addr())
	name := ""
	if t != nil {
		name = t.name
		t.shard.tryPost(func() { t.noteRefused(err) })
	}
	e.config.Logger.Warn("peer refused", append([]any{"remote", remote, "tunnel", name}, failureAttrs(err)...)...)
}

// failureAttrs are what the log says about a failure.
func failureAttrs(err *ike.Error) []any {
	attrs := []any{"error", err.Cause(), "kind", err.Kind, "side", err.Side()}
	if err.Exchange != 0 {
		attrs = append(attrs, "exchange", err.Exchange)
	}
	if err.Ours != nil {
		attrs = append(attrs, "ours", err.Ours)
	}
	if err.Theirs != nil {
		attrs = append(attrs, "theirs", err.Theirs)
	}
	return append(attrs, "remedy", err.Remedy)
}

// opName names an operation without its keys.
func opName(op dataplane.Op) string {
	switch op.(type) {
	case dataplane.InstallSA:
		return "install SA"
	case dataplane.RemoveSA:
		return "remove SA"
	case dataplane.SetPolicy:
		return "set policy"
	case dataplane.RemovePolicy:
		return "remove policy"
	case dataplane.UpdateEndpoints:
		return "update endpoints"
	case dataplane.SetPathMTU:
		return "set path MTU"
	}
	return "unknown"
}

// logEvent writes an event for people. Identities and addresses are not
// secret; keys are in none of them.
func logEvent(l *slog.Logger, tunnel string, what any) {
	switch ev := what.(type) {
	case ike.IKEUp:
		l.Info("IKE SA up", "tunnel", tunnel, "peer", ev.SA.RemoteID, "remote", ev.SA.Remote, "suite", ev.SA.Suite, "spi", ev.SA.LocalSPI)
	case ike.IKEDown:
		l.Info("IKE SA down", "tunnel", tunnel, "reason", ev.Reason, "spi", ev.SA.LocalSPI)
	case ike.IKEMoved:
		l.Info("IKE SA moved", "tunnel", tunnel, "local", ev.SA.Local, "remote", ev.SA.Remote,
			"from_local", ev.FromLocal, "from_remote", ev.FromRemote, "spi", ev.SA.LocalSPI)
	case ike.IKESuspect:
		if ev.SA.Suspect {
			l.Warn("peer does not answer", "tunnel", tunnel, "remote", ev.SA.Remote, "spi", ev.SA.LocalSPI)
		} else {
			l.Info("peer answers again", "tunnel", tunnel, "remote", ev.SA.Remote, "spi", ev.SA.LocalSPI)
		}
	case ike.PathMTU:
		if ev.MTU == 0 {
			l.Info("the host is right about the path MTU", "tunnel", tunnel, "remote", ev.Remote)
		} else {
			l.Info("datagrams that the host takes for short enough do not arrive", "tunnel", tunnel, "remote", ev.Remote, "path_mtu", ev.MTU)
		}
	case ike.IKERekeyed:
		l.Info("IKE SA rekeyed", "tunnel", tunnel, "old", ev.Old.LocalSPI, "new", ev.New.LocalSPI)
	case ike.ChildUp:
		l.Info("Child SA up", "tunnel", tunnel, "child", ev.SA.Name, "suite", ev.SA.Suite, "spi", spiText(ev.SA.InboundSPI))
	case ike.ChildDown:
		l.Info("Child SA down", "tunnel", tunnel, "child", ev.SA.Name, "reason", ev.Reason, "spi", spiText(ev.SA.InboundSPI))
	case ike.ChildRekeyed:
		l.Info("Child SA rekeyed", "tunnel", tunnel, "child", ev.New.Name, "old", spiText(ev.Old.InboundSPI), "new", spiText(ev.New.InboundSPI))
	case ike.Configured:
		l.Info("internal configuration", "tunnel", tunnel, "spi", ev.SA.LocalSPI, "internal", ev.SA.Internal)
	case ike.Failed:
		l.Warn("negotiation failed", append([]any{"tunnel", tunnel, "child", ev.Child}, failureAttrs(ev.Err)...)...)
	case ike.Closed:
		l.Info("tunnel closed", "tunnel", tunnel)
	}
}

func spiText(spi uint32) string { return fmt.Sprintf("%08x", spi) }
