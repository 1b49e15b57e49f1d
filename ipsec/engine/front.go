package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"time"

	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// tombstoneTime is how long a repeated IKE_SA_INIT request of a handshake that
// is over is still known, so that it does not begin another one.
const tombstoneTime = 30 * time.Second

// handOverAgain is how long a half-open responder waits for room in the loop of
// its tunnel.
const handOverAgain = 50 * time.Millisecond

// front is the loop of the half-open responders, before their tunnel is known.
type front struct {
	*mailbox
	engine    *Engine
	admission *admission
	made      *spiTable // the SPIs that newSPI returned, also of those handed over

	// Owned by the loop.
	bySPI  map[wire.SPI]*half
	byInit map[initKey]*half
	timers timers[*half]
	held   int // octets that all half-open responders keep of unfinished messages
}

// initKey recognises an IKE_SA_INIT request that is repeated (RFC 7296, Section
// 2.1).
type initKey struct {
	remote netip.AddrPort
	tcp    bool
	spi    wire.SPI
}

// half is a half-open responder, or the memory of one: then machine is nil.
type half struct {
	timed
	machine *ike.HalfOpen
	key     initKey
	local   netip.AddrPort
	spi     wire.SPI // ours; zero if it was refused
	held    int      // octets that the machine keeps of unfinished messages
}

func newFront(e *Engine) (*front, error) {
	a, err := newAdmission(e.config, &e.counters, e.pool.backlog)
	if err != nil {
		return nil, fmt.Errorf("make cookie secret: %w", err)
	}
	return &front{
		mailbox:   newMailbox(e.config.Limits.Mailbox),
		engine:    e,
		admission: a,
		made:      newSPITable(),
		bySPI:     make(map[wire.SPI]*half),
		byInit:    make(map[initKey]*half),
	}, nil
}

func (f *front) run(stop <-chan struct{}) { f.mailbox.run(stop, f.wake, f.receive) }

func (f *front) wake(now time.Time) (time.Time, bool) {
	for {
		h, ok := f.timers.pop(now)
		if !ok {
			return f.timers.next()
		}
		if h.machine == nil {
			delete(f.byInit, h.key)
			continue
		}
		f.step(h, now, ike.Tick{})
	}
}

func (f *front) receive(d datagram) {
	now := time.Now()
	in := ike.Datagram{Local: d.local, Remote: d.remote, TCP: d.tcp, Data: d.data}
	if d.ours.IsZero() {
		if !f.receiveInit(now, in) {
			f.engine.counters.halfOpen.Add(-1)
		}
		return
	}
	if h := f.bySPI[d.ours]; h != nil {
		if f.fullFor(d.data) {
			f.engine.counters.drop(DropReassembly)
			return
		}
		f.step(h, now, in)
		return
	}
	// It may have been handed over while this datagram was in the mailbox.
	if f.made.owner(d.ours) == f.mailbox {
		f.engine.counters.drop(DropUnknownSPI)
		return
	}
	f.engine.offer(d.ours, d.way, d.data)
}

// receiveInit reports whether the request made a half-open responder.
func (f *front) receiveInit(now time.Time, in ike.Datagram) bool {
	key := initKey{in.Remote, in.TCP, wire.SPI(in.Data[:8])}
	if h := f.byInit[key]; h != nil {
		if h.machine != nil {
			f.step(h, now, in)
		}
		return false
	}
	w := f.engine.index.Load().matcher.welcome(in.Remote.Addr())
	if w == nil {
		f.engine.counters.drop(DropNoTunnel)
		return false
	}
	machine, err := f.newHalfOpen(now, w, in)
	if err != nil {
		f.engine.counters.drop(DropInitMalformed)
		return false
	}
	h := &half{machine: machine, key: key, local: in.Local}
	f.byInit[key] = h
	f.engine.counters.handshakes.Add(1)
	defer f.recoverPanic(h)
	f.settle(h, now)
	return true
}

// newHalfOpen turns a panic of the machine into an error: there is nothing yet
// that could be taken down.
func (f *front) newHalfOpen(now time.Time, w *welcome, in ike.Datagram) (m *ike.HalfOpen, err error) {
	defer func() {
		if r := recover(); r != nil {
			f.engine.countPanic("half-open responder", in.Remote.String(), r, debug.Stack())
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return ike.NewHalfOpen(now, w.config, in)
}

// runtime is what the machines of half-open responders get.
func (f *front) runtime() ike.Runtime {
	return ike.Runtime{
		Rand: f.engine.config.Rand, NewSPI: f.newSPI, AllocateSPI: f.engine.config.Plane.AllocateSPI,
		Tickets: f.engine.tickets, LogKeys: f.engine.keys.IKE != nil,
	}
}

func (f *front) newSPI() wire.SPI { return newSPI(f.engine.config.Rand, frontShard, f.made) }

func (f *front) step(h *half, now time.Time, in ike.Input) {
	defer f.recoverPanic(h)
	h.machine.Step(now, in)
	f.settle(h, now)
}

// fullFor reports whether b is a fragment and there is no room for more of them:
// whoever completes IKE_SA_INIT can send fragments that never become a message
// (RFC 7383, Section 5). Initiators whose message comes whole go on.
func (f *front) fullFor(b []byte) bool {
	h, err := wire.ParseHeader(b)
	return err == nil && h.NextPayload == wire.PayloadSKF && f.held+len(b) > f.engine.config.Limits.Reassembly
}

// account notes how much a half-open responder keeps now.
func (f *front) account(h *half) {
	held := 0
	if h.machine != nil {
		held = h.machine.Held()
	}
	f.held += held - h.held
	h.held = held
}

// settle carries out what the machine wants and sees how far it is.
func (f *front) settle(h *half, now time.Time) {
	defer f.account(h)
	f.drain(h)
	if h.machine != nil && h.machine.Identified() {
		f.handOver(h, now)
		f.drain(h)
	}
	switch {
	case h.machine == nil:
	case h.machine.Done():
		f.engine.counters.drop(DropHandshake)
		if h.spi.IsZero() {
			// It was refused, maybe with INVALID_KE_PAYLOAD: the initiator may
			// begin again under the same SPI (RFC 7296, Section 1.2).
			f.forget(h)
			return
		}
		f.bury(h, now)
	case h.machine.Identified():
		f.timers.set(h, now.Add(handOverAgain), true)
	default:
		due, ok := h.machine.Deadline()
		f.timers.set(h, due, ok)
	}
}

func (f *front) drain(h *half) {
	for h.machine != nil {
		eff, ok := h.machine.Next()
		if !ok {
			return
		}
		switch eff := eff.(type) {
		case ike.Send:
			f.engine.send(eff)
		case ike.RegisterSPI:
			h.spi = eff.SPI
			f.bySPI[eff.SPI] = h
			f.made.set(eff.SPI, f.mailbox)
		case ike.UnregisterSPI:
			delete(f.bySPI, eff.SPI)
			f.made.remove(eff.SPI, f.mailbox)
		case ike.StartJob:
			f.startJob(h, eff)
		case ike.IKEKeys:
			f.engine.keys.ike(eff)
		case ike.CloseStream:
			f.engine.streams.cut(way{eff.Local, eff.Remote, true})
		case ike.Failed:
			f.engine.refused(time.Now(), h.machine.Remote(), eff.Err)
		}
	}
}

// startJob gives work that a stranger caused to the pool. If there is too much
// of it, the handshake is forgotten: the initiator will try again.
func (f *front) startJob(h *half, job ike.StartJob) {
	m := h.machine
	queued := f.engine.pool.submitStranger(func() {
		result, panicked := runJob(job.Run)
		posted := f.post(func() {
			switch {
			case h.machine != m:
				result.Destroy()
			case panicked != nil:
				f.panicked(h, panicked, nil)
			default:
				f.step(h, time.Now(), ike.JobDone{Token: job.Token, Result: result})
			}
		})
		if !posted {
			result.Destroy()
		}
	})
	if !queued {
		f.engine.counters.jobsRefused.Add(1)
		f.forget(h)
	}
}

// handOver gives a half-open responder to the tunnel that the peer means. If its
// loop has no room the responder stays Identified, and it is tried again.
func (f *front) handOver(h *half, now time.Time) {
	m, e := h.machine, f.engine
	matcher := e.index.Load().matcher
	t := matcher.resumed(m, h.local.Addr())
	if t == nil {
		t = matcher.pick(claimOf(m, h.local.Addr()))
	}
	if t == nil {
		e.counters.drop(DropNoTunnel)
		m.Reject(now, errors.New("no tunnel is for this peer, these identities and these addresses"))
		return
	}
	spi := h.spi
	f.made.set(spi, t.shard.mailbox)
	if !t.shard.tryPost(func() { t.adopt(time.Now(), m, spi) }) {
		f.made.set(spi, f.mailbox)
		return
	}
	f.bury(h, now)
}

// bury lets go of the machine and keeps the memory of its request.
func (f *front) bury(h *half, now time.Time) {
	f.release(h)
	f.timers.set(h, now.Add(tombstoneTime), true)
}

// forget lets go of everything, so that the same request can begin again.
func (f *front) forget(h *half) {
	f.release(h)
	delete(f.byInit, h.key)
	f.timers.set(h, time.Time{}, false)
}

func (f *front) release(h *half) {
	if h.machine == nil {
		return
	}
	h.machine = nil
	f.account(h)
	delete(f.bySPI, h.spi)
	f.made.remove(h.spi, f.mailbox)
	f.engine.counters.halfOpen.Add(-1)
}

func (f *front) recoverPanic(h *half) {
	if r := recover(); r != nil {
		f.panicked(h, r, debug.Stack())
	}
}

func (f *front) panicked(h *half, value any, stack []byte) {
	f.engine.countPanic("half-open responder", h.key.remote.String(), value, stack)
	f.forget(h)
}
