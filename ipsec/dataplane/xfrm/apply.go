package xfrm

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

const (
	// defaultWindow is the replay window where none is asked for, maxWindow the
	// largest that the kernel takes, outboundWindow what it wants of an outbound SA
	// whose direction it does not know.
	defaultWindow, maxWindow, outboundWindow = 1024, 4096, 32
)

// association is one SA.
type association struct {
	dataplane.SA
	request  uint32
	cpu      uint32             // that uses it, anyCPU if all do
	added    uint64             // when, as the kernel is told, in seconds since 1970; 0: the time of the call
	age      uint64             // that it has therefore when it is new, in seconds
	mark     uint32             // of what it sends
	counters dataplane.Counters // of the states before this one, but for packets and octets, which go on
	toldAt   time.Time          // when MappingChanged was last raised
}

// child is what belongs to one child of a tunnel.
type child struct {
	childKey
	request   uint32 // of inbound SAs
	idle      uint32 // of none: what its policies ask for while it has no outbound SA
	asked     bool   // an Acquire was raised for idle
	spec      dataplane.Policy
	selectors []selector // nil without a policy
	slots     []slot     // what it wants of the kernel's SPD
	outbound  []*association
	inbound   []*association
	heir      *template // of an earlier process: carries the traffic until there is an outbound SA
	trap      *trap     // nil while there is an outbound SA, and where there can be none
	kept      kept
	moving    bool  // its SAs are on the way to other addresses: nothing is sent
	place     uint8 // of its tunnel in the ranking
	uneven    bool  // a CPU has no outbound SA of its own, although one was installed
	// protocol and mode are those of the SAs, newest first.
	protocol uint8
	mode     dataplane.Mode
}

func keyOf(direction dataplane.Direction, tunnel string, spi uint32) saKey {
	if direction == dataplane.Inbound {
		tunnel = ""
	}
	return saKey{direction, tunnel, spi}
}

// Apply implements dataplane.Plane.
func (p *Plane) Apply(ops []dataplane.Op) []error {
	results := make([]error, len(ops))
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, op := range ops {
		results[i] = p.apply(op)
	}
	p.setTraps()
	return results
}

func (p *Plane) apply(op dataplane.Op) error {
	if p.closed {
		return dataplane.ErrClosed
	}
	var err error
	switch op := op.(type) {
	case dataplane.InstallSA:
		if err = p.install(op.SA); err != nil {
			err = fmt.Errorf("install %s SA %08x of %s/%s: %w", op.SA.Direction, op.SA.SPI, op.SA.Tunnel, op.SA.Child, err)
		}
	case dataplane.RemoveSA:
		if err = p.remove(op); err != nil {
			err = fmt.Errorf("remove %s SA %08x of %s: %w", op.Direction, op.SPI, op.Tunnel, err)
		}
	case dataplane.SetPolicy:
		if err = p.setPolicy(op.Policy); err != nil {
			err = fmt.Errorf("set policy of %s/%s: %w", op.Policy.Tunnel, op.Policy.Child, err)
		}
	case dataplane.RemovePolicy:
		if c := p.children[childKey{op.Tunnel, op.Child}]; c != nil {
			c.spec, c.selectors, c.heir = dataplane.Policy{}, nil, nil
			p.takeKept(c)
			err = p.program(c)
			p.forget(c)
		}
	case dataplane.UpdateEndpoints:
		if err = p.move(op); err != nil {
			err = fmt.Errorf("move SAs of %s: %w", op.Tunnel, err)
		}
	case dataplane.SetPathMTU:
		p.paths.set(op.Tunnel, op.MTU)
		p.tellPaths(op.Tunnel)
	default:
		err = fmt.Errorf("operation %T is not known", op)
	}
	return err
}

func check(sa *dataplane.SA) error {
	switch {
	case sa.Tunnel == "" || sa.Child == "":
		return errors.New("the SA has no tunnel and child as its owner")
	case sa.Direction != dataplane.Inbound && sa.Direction != dataplane.Outbound:
		return errors.New("the direction is neither in nor out")
	case sa.SPI < dataplane.MinSPI:
		return fmt.Errorf("SPI %d is reserved: assign one of %d or above", sa.SPI, dataplane.MinSPI)
	case len(sa.Key) != sa.Suite.KeyLen():
		return fmt.Errorf("key of %d octets, %s needs %d", len(sa.Key), sa.Suite, sa.Suite.KeyLen())
	case sa.TFC.Fill != 0:
		return errors.New("the kernel data plane sends no dummy packets: use userspace, or padding alone")
	case sa.ReplayWindow > maxWindow:
		return fmt.Errorf("replay window of %d packets: the kernel takes up to %d", sa.ReplayWindow, maxWindow)
	case len(sa.LocalTS) == 0 || len(sa.RemoteTS) == 0:
		return errors.New("there are no traffic selectors")
	}
	if err := errors.Join(sa.Suite.Validate(), sa.TFC.ValidateFor(sa), checkOuter(sa.Outer)); err != nil {
		return err
	}
	return checkEndpoints(sa.Local, sa.Remote, sa.TCP)
}

// checkOuter says what of the outer header the kernel leaves no choice about.
func checkOuter(o dataplane.Outer) error {
	switch {
	case o.FixDSCP && o.DSCP != 0:
		return fmt.Errorf("DSCP %d for all packets: the kernel can copy the inner one or set 0, use the userspace data plane", o.DSCP)
	case o.DF == dataplane.DFSet:
		return errors.New("DF set for all packets: the kernel can copy the inner bit or clear it, use the userspace data plane")
	}
	return o.Validate()
}

func checkEndpoints(local, remote netip.AddrPort, tcp bool) error {
	l, r := local.Addr().Unmap(), remote.Addr().Unmap()
	switch {
	case !l.IsValid() || !r.IsValid() || l.IsUnspecified() || r.IsUnspecified():
		return fmt.Errorf("outer addresses %s and %s: both must be known", local, remote)
	case l.Is4() != r.Is4():
		return fmt.Errorf("outer addresses %s and %s are of two families", local, remote)
	case (local.Port() == 0) != (remote.Port() == 0) || tcp && local.Port() == 0:
		return fmt.Errorf("ports of %s and %s: set both for UDP or TCP encapsulation, or none", local, remote)
	}
	return nil
}

func (p *Plane) install(sa dataplane.SA) error {
	if err := check(&sa); err != nil {
		return err
	}
	if err := errors.Join(p.checkLabel(sa.Label, sa.Mode), p.checkStream(&sa)); err != nil {
		return err
	}
	key := keyOf(sa.Direction, sa.Tunnel, sa.SPI)
	if old := p.sas[key]; old != nil {
		if old.Tunnel == sa.Tunnel && old.Child == sa.Child && old.Suite == sa.Suite && bytes.Equal(old.Key, sa.Key) {
			return nil
		}
		return fmt.Errorf("it is installed with another key or owner (tunnel %q)", old.Tunnel)
	}
	sa.Key = bytes.Clone(sa.Key)
	sa.LocalTS, sa.RemoteTS = slices.Clone(sa.LocalTS), slices.Clone(sa.RemoteTS)
	c := p.child(childKey{sa.Tunnel, sa.Child})
	a := &association{SA: sa, request: c.request, cpu: anyCPU, mark: p.mark, counters: dataplane.Counters{
		Tunnel: sa.Tunnel, Child: sa.Child, SPI: sa.SPI, Direction: sa.Direction,
	}}
	shares := sa.Direction == dataplane.Outbound && p.joins(c, a)
	if err := p.put(a, nil); err != nil {
		p.free(c, a)
		p.forget(c)
		return err
	}
	p.sas[key] = a
	p.watch(a)
	c.protocol, c.mode = a.protocol(), sa.Mode
	if sa.Direction == dataplane.Inbound {
		delete(p.reserved, sa.SPI)
		c.inbound = append(c.inbound, a)
	} else {
		c.outbound = append(c.outbound, a)
		if shares {
			p.renew(c)
		}
	}
	if err := p.program(c); err != nil {
		return errors.Join(err, p.drop(a))
	}
	if sa.Direction == dataplane.Outbound {
		p.disinherit(c)
		p.sendKept(c)
		if p.paths.set(sa.Tunnel, sa.PathMTU); sa.PathMTU != 0 {
			p.paths.tell() // another suite may have room for less
			p.tellPaths(sa.Tunnel)
		}
	}
	return nil
}

// free gives back what an outbound SA had that is none of c any more.
func (p *Plane) free(c *child, a *association) {
	if a.Direction == dataplane.Outbound && !slices.ContainsFunc(c.outbound, a.shares) {
		delete(p.given, a.request)
	}
}

// put makes the state of an SA, which goes on from what from says unless that is nil.
func (p *Plane) put(a *association, from *facts) error {
	s, err := a.state(from)
	if err != nil {
		return err
	}
	if p.able.direction {
		s.direct()
	}
	if err := p.deleteRetired(func(r retired) bool { return r.stateID == s.stateID }); err != nil {
		return err
	}
	if s.device = p.device(a); s.device != 0 {
		err := p.make(s)
		if err == nil {
			return nil
		}
		p.logger.Debug("the network interface does not take an SA: the processor does it", "tunnel", a.Tunnel, "direction", a.Direction, "interface", s.device, "error", err)
		s.device = 0
	}
	return explain(p.make(s), a)
}

// make has the kernel make a state, and compares what it has made of it.
func (p *Plane) make(s *state) error {
	answers := p.kernel.send(s.newState(), s.ask(nl.XFRM_MSG_GETSA))
	defer clear(answers[1].body) // it has the keys
	if err := answers[0].err; err != nil {
		return err
	}
	f, err := decodeState(answers[1].body)
	if answers[1].err != nil {
		err = answers[1].err
	}
	if err == nil {
		err = s.differs(f)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("read the state back: %w", err), p.kernel.deleteStates(s.stateID))
	}
	return nil
}

// explain adds what to do about an error of the kernel.
func explain(err error, a *association) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("this kernel lacks an algorithm of %s, or its module: use another proposal or the userspace data plane: %w", a.Suite, err)
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("the kernel has an SA of this SPI to %s: of two peers behind one address only one can have it: %w", a.stateID().destination, err)
	}
	return err
}

// differs reports what an old kernel has left out without saying so.
func (s *state) differs(f *facts) error {
	switch {
	case f.flags != s.flags() || f.extraFlags != s.extraFlags() || f.limits != s.limits:
		return fmt.Errorf("the kernel has flags %#x, want %#x, or other limits", f.flags, s.flags())
	case f.source != s.source || f.mode != s.mode || f.request != s.request || f.ifID != s.ifID || f.mark != s.mark:
		return errors.New("the kernel has other addresses, another mode, another mark or another owner")
	case f.direction != s.direction || f.cpu != s.cpu:
		return fmt.Errorf("the kernel has the direction %d and the CPU %d, want %d and %d", f.direction, int32(f.cpu), s.direction, int32(s.cpu))
	case f.cipherName != s.cipher.name || f.authorName != s.integrity.name:
		return fmt.Errorf("the kernel has the algorithms %q and %q", f.cipherName, f.authorName)
	case f.padTo != s.padTo:
		return fmt.Errorf("the kernel pads to %d octets, want %d", f.padTo, s.padTo)
	case f.replay.window != s.replay.window:
		return fmt.Errorf("the kernel has a replay window of %d packets, want %d", f.replay.window, s.replay.window)
	case (f.encap == nil) != (s.encap == nil) || f.encap != nil && *f.encap != *s.encap:
		return errors.New("the kernel has another encapsulation in UDP or TCP")
	}
	return nil
}

func (a *association) protocol() uint8 {
	if a.Suite.AH {
		return unix.IPPROTO_AH
	}
	return unix.IPPROTO_ESP
}

func (a *association) stateID() stateID {
	id := stateID{a.Remote.Addr().Unmap(), a.SPI, a.protocol()}
	if a.Direction == dataplane.Inbound {
		id.destination = a.Local.Addr().Unmap()
	}
	return id
}

// source is where the kernel has packets on a come from.
func (a *association) source() netip.Addr {
	if a.Direction == dataplane.Inbound {
		return a.Remote.Addr().Unmap()
	}
	return a.Local.Addr().Unmap()
}

// state describes a to the kernel, with sequence numbers, window and use that go on
// after from.
func (a *association) state(from *facts) (*state, error) {
	cipher, integrity, err := algorithmNames(a.Suite)
	if err != nil {
		return nil, err
	}
	n := a.Suite.EncryptionKeyLen()
	s := &state{
		stateID: a.stateID(), source: a.source(), request: a.request, cpu: a.cpu, limits: a.limits(),
		inbound: a.Direction == dataplane.Inbound,
		esn:     a.Suite.ESN, aead: !a.Suite.AH && a.Suite.AEAD(), mode: modeTransport,
		cipher:    algorithm{cipher, a.Key[:n], a.Suite.ICVLen()},
		integrity: algorithm{integrity, a.Key[n:], a.Suite.ICVLen()},
	}
	if a.Mode == dataplane.Tunnel {
		s.mode, s.ifID = modeTunnel, idOf(a.Label)
	}
	if a.Direction == dataplane.Outbound {
		s.mark = a.mark
		if a.Mode == dataplane.Tunnel {
			s.outer = a.Outer
		}
		if s.padTo = uint32(a.TFC.PadTo); a.TFC.PadTo == dataplane.PadToPath {
			s.padTo = math.MaxUint16 // the kernel stops at what passes the path
		}
	}
	if from != nil {
		s.replay, s.used = from.replay, &from.used
	} else if a.added != 0 {
		s.used = &nl.XfrmLifetimeCur{AddTime: a.added}
	}
	sender, receiver := a.Local, a.Remote
	s.replay.window = outboundWindow
	if a.Direction == dataplane.Inbound {
		sender, receiver = a.Remote, a.Local
		s.replay.window = a.ReplayWindow
		if a.ReplayWindow == 0 {
			s.replay.window = defaultWindow
		}
	}
	if a.Local.Port() != 0 {
		s.encap = &encap{encapESPInUDP, sender.Port(), receiver.Port()}
		if a.TCP {
			s.encap.kind = encapESPInTCP
		}
	}
	return s, nil
}

// direct names the direction, by which the kernel refuses an SA that is used the other
// way. An outbound one must have no replay window then.
func (s *state) direct() {
	s.direction = saIn
	if !s.inbound {
		s.direction, s.replay.window = saOut, 0
	}
}

// limits are those of the kernel. Without ESN the last sequence number is a limit
// too, so that its use is told (RFC 4303, Section 3.3.3).
func (a *association) limits() nl.XfrmLifetimeCfg {
	l := a.Limits
	packets := cmp.Or(l.HardPackets, nl.XFRM_INF)
	if a.Direction == dataplane.Outbound && !a.Suite.ESN {
		packets = min(packets, math.MaxUint32)
	}
	return nl.XfrmLifetimeCfg{
		SoftByteLimit: cmp.Or(l.SoftBytes, nl.XFRM_INF), HardByteLimit: cmp.Or(l.HardBytes, nl.XFRM_INF),
		SoftPacketLimit: cmp.Or(l.SoftPackets, nl.XFRM_INF), HardPacketLimit: packets,
		SoftAddExpiresSeconds: a.ageAfter(l.SoftTime), HardAddExpiresSeconds: a.ageAfter(l.HardTime),
	}
}

// ageAfter is how old the kernel takes a for after d, in seconds. It rounds up, as 0 is
// no limit.
func (a *association) ageAfter(d time.Duration) uint64 {
	if d == 0 {
		return 0
	}
	return a.age + uint64((d+time.Second-1)/time.Second)
}

// newRequest goes round, so that an ID does not come back soon.
func (p *Plane) newRequest() uint32 {
	for {
		p.requests = (p.requests + 1) & requestMask
		if id := requestTag | p.requests; p.requests != 0 && !p.given[id] {
			p.given[id] = true
			return id
		}
	}
}

func (p *Plane) child(key childKey) *child {
	c := p.children[key]
	if c == nil {
		c = &child{childKey: key, request: p.newRequest(), idle: p.newRequest(), place: p.place(key.tunnel), protocol: unix.IPPROTO_ESP}
		p.children[key] = c
	}
	return c
}

// forget drops a child that has nothing any more.
func (p *Plane) forget(c *child) {
	if c.selectors == nil && len(c.outbound) == 0 && len(c.inbound) == 0 {
		delete(p.children, c.childKey)
		delete(p.given, c.request)
		delete(p.given, c.idle)
	}
}

func (p *Plane) remove(op dataplane.RemoveSA) error {
	a := p.sas[keyOf(op.Direction, op.Tunnel, op.SPI)]
	if a == nil || a.Tunnel != op.Tunnel {
		if a == nil && op.Direction == dataplane.Inbound {
			delete(p.reserved, op.SPI)
		}
		return nil // for this tunnel it is absent
	}
	return p.drop(a)
}

// drop removes an SA: an outbound one after its traffic has gone to the one before
// it.
func (p *Plane) drop(a *association) error {
	c := p.children[childKey{a.Tunnel, a.Child}]
	delete(p.sas, keyOf(a.Direction, a.Tunnel, a.SPI))
	is := func(o *association) bool { return o == a }
	c.inbound, c.outbound = slices.DeleteFunc(c.inbound, is), slices.DeleteFunc(c.outbound, is)
	p.unwatch(a)
	if a.Direction == dataplane.Outbound && len(c.outbound) == 0 {
		p.askAnew(c)
	}
	err := p.program(c)
	clear(a.Key)
	p.free(c, a)
	if a.Direction == dataplane.Outbound {
		p.retired = append(p.retired, retired{a.stateID(), a.request, time.Now()})
		if c.misses(a) {
			err = errors.Join(err, p.deleteRetired(func(r retired) bool { return r.request == a.request }))
		}
	} else {
		err = errors.Join(err, p.kernel.deleteStates(a.stateID()))
	}
	p.forget(c)
	return err
}

// with are the counters of a, with what the kernel has now.
func (a *association) with(f *facts) dataplane.Counters {
	c := a.counters
	c.Packets, c.Bytes = f.used.Packets, f.used.Bytes
	c.ReplayDrops += f.replayed
	c.AuthFailures += f.unauthentic
	if last := max(f.lastUsed, f.used.UseTime); last != 0 && int64(last) > c.LastUsed.Unix() {
		c.LastUsed = time.Unix(int64(last), 0)
	}
	if a.Direction == dataplane.Inbound {
		c.Missing = f.replay.missing(c.Packets)
	}
	return c
}

// missing is how many numbers the window has moved past unseen, if so many packets
// were accepted.
func (r *replay) missing(accepted uint64) uint64 {
	within := uint64(0)
	for _, w := range r.seen {
		within += uint64(bits.OnesCount32(w))
	}
	open := min(uint64(r.window), r.in) - min(within, uint64(r.window), r.in)
	return r.in - min(r.in, accepted+open)
}

func (a *association) event(kind dataplane.EventKind) dataplane.Event {
	return dataplane.Event{Kind: kind, Tunnel: a.Tunnel, Child: a.Child, SPI: a.SPI, Direction: a.Direction}
}

func (p *Plane) setPolicy(spec dataplane.Policy) error {
	switch {
	case spec.Tunnel == "" || spec.Child == "":
		return errors.New("the policy has no tunnel and child as its owner")
	case spec.Action == dataplane.Bypass:
		return errors.New("what comes to the interface cannot leave it in clear: route those destinations elsewhere")
	case spec.Priority > maxPriority:
		return fmt.Errorf("priority %d: the kernel data plane takes up to %d", spec.Priority, maxPriority)
	}
	if err := p.checkLabel(spec.Label, spec.Mode); err != nil {
		return err
	}
	selectors, err := outboundSelectors(spec.LocalTS, spec.RemoteTS)
	if err != nil {
		return err
	}
	spec.LocalTS, spec.RemoteTS = slices.Clone(spec.LocalTS), slices.Clone(spec.RemoteTS)
	c := p.child(childKey{spec.Tunnel, spec.Child})
	if c.selectors != nil && reflect.DeepEqual(c.spec, spec) {
		return nil
	}
	c.spec, c.selectors, c.mode = spec, selectors, spec.Mode
	p.inherit(c)
	return p.program(c)
}
