package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// tunnel is one tunnel and its machine. All fields below status belong to the
// loop of its shard.
type tunnel struct {
	timed
	name   string
	shard  *shard
	status atomic.Pointer[TunnelStatus]

	machine *ike.Tunnel // nil after a panic and once closed
	spis    []wire.SPI  // that lead to it
	// unreachable and tooLong are where a datagram or a probe could not be sent to,
	// until the machine is told.
	unreachable, tooLong netip.AddrPort
	plane                inventory

	refused   *ike.Error
	lastWords []ike.Entry // of a machine that panicked
	closing   bool
	closeBy   time.Time
	successor *ike.Config // starts when this one is closed

	gone atomic.Bool // closed for good; read by Apply and Status
}

// inventory is what a tunnel asked the data plane to hold or to reserve, so that
// it can be taken away when the machine no longer can say so. These are few.
type inventory struct {
	sas      []dataplane.RemoveSA
	policies []dataplane.RemovePolicy
}

func (inv *inventory) note(ops []dataplane.Op) {
	for _, op := range ops {
		switch op := op.(type) {
		case dataplane.InstallSA:
			add(&inv.sas, dataplane.RemoveSA{Tunnel: op.SA.Tunnel, SPI: op.SA.SPI, Direction: op.SA.Direction})
		case dataplane.RemoveSA:
			remove(&inv.sas, op)
		case dataplane.SetPolicy:
			add(&inv.policies, dataplane.RemovePolicy{Tunnel: op.Policy.Tunnel, Child: op.Policy.Child})
		case dataplane.RemovePolicy:
			remove(&inv.policies, op)
		}
	}
}

// removeSAs takes the SAs out of the inventory as operations.
func (inv *inventory) removeSAs() []dataplane.Op {
	var ops []dataplane.Op
	for _, op := range inv.sas {
		ops = append(ops, op)
	}
	inv.sas = nil
	return ops
}

func (inv *inventory) removeAll() []dataplane.Op {
	ops := inv.removeSAs()
	for _, op := range inv.policies {
		ops = append(ops, op)
	}
	inv.policies = nil
	return ops
}

// add puts v into a short list that has each value once.
func add[T comparable](list *[]T, v T) {
	if !slices.Contains(*list, v) {
		*list = append(*list, v)
	}
}

// remove takes v out of it.
func remove[T comparable](list *[]T, v T) {
	if i := slices.Index(*list, v); i >= 0 {
		*list = slices.Delete(*list, i, i+1)
	}
}

func newTunnel(name string, s *shard) *tunnel {
	t := &tunnel{name: name, shard: s}
	t.status.Store(&TunnelStatus{Status: ike.Status{Name: name}})
	return t
}

// allocateSPI remembers what it reserves: an SPI that the machine no longer gets
// to use or to give back is still released.
func (t *tunnel) allocateSPI(replaces uint32) (uint32, error) {
	spi, err := t.shard.engine.config.Plane.AllocateSPI(replaces)
	if err == nil {
		add(&t.plane.sas, dataplane.RemoveSA{Tunnel: t.name, SPI: spi, Direction: dataplane.Inbound})
	}
	return spi, err
}

// start begins with the machine m of config, at once or after what the tunnel
// was before has closed.
func (t *tunnel) start(now time.Time, m *ike.Tunnel, config *ike.Config) {
	if t.closing {
		t.successor = config
		return
	}
	t.gone.Store(false)
	t.shard.tunnels[t.name] = t
	t.begin(now, m)
}

func (t *tunnel) begin(now time.Time, m *ike.Tunnel) {
	t.machine = m
	t.closing, t.closeBy = false, time.Time{}
	t.publish()
	t.step(now, ike.Connect{})
}

// adopt takes over a half-open responder whose peer means this tunnel.
func (t *tunnel) adopt(now time.Time, h *ike.HalfOpen, spi wire.SPI) {
	e := t.shard.engine
	defer t.recoverPanic()
	err := fmt.Errorf("tunnel %s is closed", t.name)
	if t.machine != nil {
		err = t.machine.Adopt(now, h)
	}
	if err == nil {
		t.drain(now)
		return
	}
	e.counters.drop(DropHandshake)
	t.shard.unregister(spi)
	h.Reject(now, err)
	for {
		eff, ok := h.Next()
		if !ok {
			return
		}
		switch eff := eff.(type) {
		case ike.Send:
			e.send(eff)
		case ike.Failed:
			e.refused(now, h.Remote(), eff.Err)
		}
	}
}

// step is the only other way into the machine.
func (t *tunnel) step(now time.Time, in ike.Input) {
	if t.machine == nil {
		return
	}
	defer t.recoverPanic()
	t.machine.Step(now, in)
	t.drain(now)
}

// drain carries out what the machine wants, and publishes its status if it
// wanted anything or something other than a stranger's datagram may have
// changed it.
func (t *tunnel) drain(now time.Time) {
	changed := false
	for t.machine != nil {
		eff, ok := t.machine.Next()
		if !ok && t.unreachable.IsValid() {
			// The machine limits how often it does something about it.
			remote := t.unreachable
			t.unreachable = netip.AddrPort{}
			t.machine.Step(now, ike.Unreachable{Remote: remote})
			continue
		}
		if !ok && t.tooLong.IsValid() {
			remote := t.tooLong
			t.tooLong = netip.AddrPort{}
			t.machine.Step(now, ike.TooLong{Remote: remote})
			continue
		}
		if !ok {
			break
		}
		changed = true
		t.carryOut(now, eff)
	}
	t.setTimer(now)
	if changed {
		t.publish()
	}
}

func (t *tunnel) carryOut(now time.Time, eff ike.Effect) {
	e := t.shard.engine
	switch eff := eff.(type) {
	case ike.Send:
		switch err := e.send(eff); {
		case isUnreachable(err):
			t.unreachable = eff.Remote
		case errors.Is(err, dataplane.ErrTooLong):
			t.tooLong = eff.Remote
		}
	case ike.KeepAlive:
		e.keepAlive(eff)
	case ike.HeardByUDP:
		e.heard.note(pathOf(eff.Local, eff.Remote), now)
	case ike.IKEKeys:
		e.keys.ike(eff)
	case ike.Dial:
		e.streams.dial(t, eff)
	case ike.KeepStream:
		e.streams.keep(t, way{eff.Local, eff.Remote, true})
	case ike.CloseStream:
		e.streams.cut(way{eff.Local, eff.Remote, true})
	case ike.DropStream:
		e.streams.drop(t, way{eff.Local, eff.Remote, true})
	case ike.StartJob:
		t.startJob(eff)
	case ike.Plane:
		t.changePlane(eff)
	case ike.AskActivity:
		t.askActivity(eff)
	case ike.RegisterSPI:
		add(&t.spis, eff.SPI)
		t.shard.register(eff.SPI, t)
	case ike.UnregisterSPI:
		remove(&t.spis, eff.SPI)
		t.shard.unregister(eff.SPI)
	case ike.Ticket:
		if k := e.keeper; k != nil {
			k.keepTicket(t.name, eff.State)
		}
	case ike.Closed:
		t.announce(now, eff)
		t.finish(now)
	default:
		t.announce(now, eff)
	}
}

func (t *tunnel) startJob(job ike.StartJob) {
	m, s := t.machine, t.shard
	class := jobEstablished
	if job.Class == ike.ClassHandshake {
		class = jobHandshake
	}
	s.engine.pool.submit(class, func() {
		result, panicked := runJob(job.Run)
		posted := s.post(func() {
			switch {
			case t.machine != m: // closed since
				result.Destroy()
			case panicked != nil:
				t.panicked(panicked, nil)
			default:
				t.step(time.Now(), ike.JobDone{Token: job.Token, Result: result})
			}
		})
		if !posted {
			result.Destroy()
		}
	})
}

// runJob keeps a panic from ending the process.
func runJob(run func() ike.JobResult) (result ike.JobResult, panicked any) {
	defer func() {
		if r := recover(); r != nil {
			panicked = fmt.Sprintf("job: %v\n%s", r, debug.Stack())
		}
	}()
	return run(), nil
}

func (t *tunnel) changePlane(eff ike.Plane) {
	m, s := t.machine, t.shard
	t.plane.note(eff.Ops)
	s.engine.keys.esp(eff.Ops)
	s.engine.writer.submit(planeChange{ops: eff.Ops, done: func(results []error) {
		s.engine.countPlaneErrors(t.name, eff.Ops, results)
		errs := append([]error(nil), results...)
		s.post(func() {
			if t.machine == m {
				t.step(time.Now(), ike.PlaneResult{Token: eff.Token, Errs: errs})
			}
		})
	}})
}

// setTimer moves the tunnel in the loop's heap. A deadline that has passed is
// given a moment, so that a machine that does not move it cannot spin.
func (t *tunnel) setTimer(now time.Time) {
	var due time.Time
	ok := false
	if t.machine != nil {
		due, ok = t.machine.Deadline()
	}
	if ok && !due.After(now) {
		due = now.Add(time.Millisecond)
	}
	if t.closing && (!ok || t.closeBy.Before(due)) {
		due, ok = t.closeBy, true
	}
	t.shard.timers.set(t, due, ok)
}

// wake is called when the deadline has come.
func (t *tunnel) wake(now time.Time) {
	if t.closing && !now.Before(t.closeBy) {
		t.finish(now)
		return
	}
	t.step(now, ike.Tick{})
}

// disconnect closes the tunnel with the peer's knowledge, or without it after
// the limit.
func (t *tunnel) disconnect(now time.Time) {
	t.successor = nil
	if t.closing || t.gone.Load() {
		return
	}
	if t.machine == nil {
		t.finish(now)
		return
	}
	t.closing, t.closeBy = true, now.Add(t.shard.engine.config.Limits.CloseTimeout)
	t.step(now, ike.Disconnect{})
}

// finish lets go of everything that the tunnel had, and begins what is to
// come after it.
func (t *tunnel) finish(now time.Time) {
	t.release(t.plane.removeAll())
	t.closing = false
	if next := t.successor; next != nil {
		t.successor = nil
		if m, err := ike.New(*next); err == nil { // Apply made it once already
			t.begin(now, m)
			return
		}
	}
	delete(t.shard.tunnels, t.name)
	t.gone.Store(true)
	t.shard.checkDrained()
}

// release forgets the machine and undoes what it had outside.
func (t *tunnel) release(ops []dataplane.Op) {
	t.machine = nil
	for _, spi := range t.spis {
		t.shard.unregister(spi)
	}
	t.spis = nil
	t.shard.engine.streams.abandon(t)
	t.shard.timers.set(t, time.Time{}, false)
	if len(ops) > 0 {
		t.shard.engine.writer.submit(planeChange{ops: ops, done: func(results []error) {
			t.shard.engine.countPlaneErrors(t.name, ops, results)
		}})
	}
}

func (t *tunnel) recoverPanic() {
	if r := recover(); r != nil {
		t.panicked(r, debug.Stack())
	}
}

// panicked closes this tunnel and no other. The policies stay: what was to be
// protected must not leave in clear because of a defect.
func (t *tunnel) panicked(value any, stack []byte) {
	e := t.shard.engine
	e.countPanic("tunnel", t.name, value, stack)
	now := time.Now()
	closing := t.closing
	t.rescueTranscript()
	t.release(t.plane.removeSAs())
	status := &TunnelStatus{Status: ike.Status{Name: t.name}, Panicked: fmt.Sprint(value)}
	t.status.Store(status)
	t.announce(now, Panicked{Value: fmt.Sprint(value)})
	if closing {
		t.finish(now)
	}
}

func (t *tunnel) publish() {
	if t.machine != nil {
		s := &TunnelStatus{Status: t.machine.Status(), Refused: t.refused}
		if s.State == ike.StateUp {
			s.Refused, t.refused = nil, nil
		}
		t.status.Store(s)
	}
}

// noteRefused remembers why somebody at the peer's address was not let in, while
// the tunnel is not up.
func (t *tunnel) noteRefused(err *ike.Error) {
	t.refused = err
	t.publish()
}

// announce tells subscribers and the log.
func (t *tunnel) announce(now time.Time, what any) {
	t.publish() // so that who reads the event finds a status that agrees
	t.shard.engine.hub.publish(Event{Time: now, Tunnel: t.name, What: what})
	logEvent(t.shard.engine.config.Logger, t.name, what)
}
