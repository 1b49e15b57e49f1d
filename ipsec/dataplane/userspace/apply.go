package userspace

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/esp"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// Apply implements dataplane.Plane. It does not wait for packets in flight: they
// are handled by the state before or after a change, never by a part of it.
func (p *Plane) Apply(ops []dataplane.Op) []error {
	results := make([]error, len(ops))
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, op := range ops {
		if p.closed {
			results[i] = dataplane.ErrClosed
			continue
		}
		results[i] = p.apply(op)
	}
	return results
}

func (p *Plane) apply(op dataplane.Op) error {
	switch op := op.(type) {
	case dataplane.InstallSA:
		if err := p.installSA(op.SA); err != nil {
			return fmt.Errorf("install %s SA %08x of tunnel %s: %w", op.SA.Direction, op.SA.SPI, op.SA.Tunnel, err)
		}
	case dataplane.RemoveSA:
		p.removeSA(op)
	case dataplane.SetPolicy:
		if err := p.setPolicy(op.Policy); err != nil {
			return fmt.Errorf("set policy %s of tunnel %s: %w", op.Policy.Child, op.Policy.Tunnel, err)
		}
	case dataplane.RemovePolicy:
		p.removePolicy(childKey{op.Tunnel, op.Child})
	case dataplane.UpdateEndpoints:
		if err := p.updateEndpoints(op); err != nil {
			return fmt.Errorf("move tunnel %s: %w", op.Tunnel, err)
		}
	case dataplane.SetPathMTU:
		for _, sa := range p.sas {
			if sa.config.Tunnel == op.Tunnel {
				sa.endpoint.Load().prove(op.MTU, p.socket.probes)
			}
		}
	default:
		return fmt.Errorf("userspace data plane does not know the operation %T", op)
	}
	return nil
}

func keyOf(direction dataplane.Direction, tunnel string, spi uint32) saKey {
	if direction == dataplane.Inbound {
		tunnel = ""
	}
	return saKey{direction, tunnel, spi}
}

func (p *Plane) installSA(c dataplane.SA) error {
	if err := p.checkSA(&c); err != nil {
		return err
	}
	key := keyOf(c.Direction, c.Tunnel, c.SPI)
	if have := p.sas[key]; have != nil {
		if have.same(&c) {
			return nil
		}
		return errors.New("another SA has this SPI: remove it first")
	}
	in := p.insideOf(c.Label)
	config := esp.Config{SPI: c.SPI, Suite: c.Suite, Key: c.Key, ReplayWindow: c.ReplayWindow}
	e := p.endpoint(c.Local, c.Remote, c.TCP, c.Suite.AH)
	e.prove(c.PathMTU, p.socket.probes)
	if c.Direction == dataplane.Inbound {
		sa, err := newInboundSA(config)
		if err != nil {
			return err
		}
		sa.init(c, e)
		sa.inside = in
		p.sas[key] = &sa.association
		p.keepTime(key, &sa.association)
		delete(p.reserved, c.SPI)
		p.inbound.put(sa)
		return nil
	}
	config.ReplayWindow = 0
	sa, err := newOutboundSA(config)
	if err != nil {
		return err
	}
	sa.outer, sa.hidden = compileOuter(c.Outer), hidden{TFC: c.TFC}
	sa.init(c, e)
	sa.inside = in
	p.sas[key] = &sa.association
	p.keepTime(key, &sa.association)
	ch := p.child(childKey{c.Tunnel, c.Child})
	sa.child = ch
	ch.outbound = append(ch.outbound, sa)
	ch.chooseAnew()
	p.saArrived()
	if c.TFC.Fill != 0 {
		p.setFilled(append(slices.Clone(p.filledSAs()), sa))
	}
	return nil
}

// setFilled publishes which SAs send dummy packets, and wakes the transmitter, which
// may wait for a packet.
func (p *Plane) setFilled(list []*outboundSA) {
	p.filled.Store(&list)
	p.insides[0].device.wake()
}

func (p *Plane) filledSAs() []*outboundSA {
	if list := p.filled.Load(); list != nil {
		return *list
	}
	return nil
}

func (p *Plane) checkSA(c *dataplane.SA) error {
	switch {
	case c.Tunnel == "":
		return errors.New("the SA has no tunnel as its owner")
	case c.Direction != dataplane.Inbound && c.Direction != dataplane.Outbound:
		return errors.New("the direction is neither in nor out")
	case p.insideOf(c.Label) == nil:
		return dataplane.NoLabel(c.Label)
	}
	if err := errors.Join(c.Outer.Validate(), c.TFC.ValidateFor(c)); err != nil {
		return err
	}
	if err := p.checkEndpoints(c.Local, c.Remote, c.TCP, c.Suite.AH); err != nil {
		return err
	}
	if err := checkSelectors(c.LocalTS, c.RemoteTS); err != nil || c.Mode != dataplane.Transport {
		return err
	}
	return checkTransport(c)
}

func (p *Plane) checkEndpoints(local, remote netip.AddrPort, tcp, ah bool) error {
	native := !tcp && local.Port() == 0 && remote.Port() == 0
	switch {
	case !remote.Addr().IsValid():
		return errors.New("the remote outer address is missing")
	case ah && !native:
		return errors.New("AH goes in neither UDP nor TCP (RFC 7296, Section 2.23): no NAT may be on its way")
	case ah && (!local.Addr().IsValid() || local.Addr().IsUnspecified()):
		return errors.New("AH covers the outer addresses: the local one must be known")
	case native:
		_, err := p.raw.to(remote.Addr().Unmap(), ah)
		return err
	case local.Port() == 0 || remote.Port() == 0:
		return fmt.Errorf("ports of %s and %s: set both for UDP or TCP encapsulation, or none", local, remote)
	case tcp && p.streams.Load() == nil:
		return errors.New("no TCP connections were joined to this data plane")
	case !tcp && !p.socket.reaches(remote.Addr()):
		return fmt.Errorf("no way to remote %s: the NAT traversal port listens on %s", remote, p.socket.local)
	}
	return nil
}

func checkSelectors(local, remote []ts.Selector) error {
	if len(local) == 0 || len(remote) == 0 {
		return errors.New("traffic selectors are missing on one side")
	}
	for _, s := range slices.Concat(local, remote) {
		if err := s.Validate(); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plane) child(key childKey) *child {
	c := p.children[key]
	if c == nil {
		c = &child{tunnel: key.tunnel, name: key.name}
		c.ranked.Store(p.ranking.find(key.tunnel))
		p.children[key] = c
	}
	return c
}

// release forgets a child that has nothing left.
func (p *Plane) release(c *child) {
	if c.policy == nil && len(c.outbound) == 0 {
		delete(p.children, childKey{c.tunnel, c.name})
	}
}

func (p *Plane) removeSA(op dataplane.RemoveSA) {
	key := keyOf(op.Direction, op.Tunnel, op.SPI)
	sa := p.sas[key]
	if op.Direction == dataplane.Inbound && sa == nil {
		delete(p.reserved, op.SPI)
		return
	}
	if sa == nil || sa.config.Tunnel != op.Tunnel {
		return
	}
	delete(p.sas, key)
	if op.Direction == dataplane.Inbound {
		p.inbound.remove(op.SPI)
		return
	}
	if sa.config.TFC.Fill != 0 {
		p.setFilled(slices.DeleteFunc(slices.Clone(p.filledSAs()), func(o *outboundSA) bool { return &o.association == sa }))
	}
	c := p.child(childKey{sa.config.Tunnel, sa.config.Child})
	c.outbound = slices.DeleteFunc(c.outbound, func(o *outboundSA) bool { return &o.association == sa })
	c.chooseAnew()
	p.release(c)
}

func (p *Plane) setPolicy(spec dataplane.Policy) error {
	if spec.Tunnel == "" {
		return errors.New("the policy has no tunnel as its owner")
	}
	if spec.Action == dataplane.Bypass {
		return errors.New("what comes to the interface cannot leave it in clear: route those destinations elsewhere")
	}
	in := p.insideOf(spec.Label)
	if in == nil {
		return dataplane.NoLabel(spec.Label)
	}
	if err := checkSelectors(spec.LocalTS, spec.RemoteTS); err != nil {
		return err
	}
	spec.LocalTS, spec.RemoteTS = slices.Clone(spec.LocalTS), slices.Clone(spec.RemoteTS)
	c := p.child(childKey{spec.Tunnel, spec.Child})
	if c.policy != nil && reflect.DeepEqual(c.spec, spec) {
		return nil
	}
	root := in.spd.Load().root
	if c.policy != nil && c.inside != in {
		c.inside.setRoot(c.withdrawn(c.inside.spd.Load().root))
	} else {
		root = c.withdrawn(root)
	}
	c.spec, c.inside = spec, in
	c.policy = &policy{
		child: c, priority: spec.Priority,
		selectors: selectors{local: compileSelectors(spec.LocalTS), remote: compileSelectors(spec.RemoteTS)},
	}
	for _, x := range remotePrefixes(spec.RemoteTS) {
		root = root.insert(x.prefix, x.bits, c.policy)
	}
	c.choose()
	in.setRoot(root)
	return nil
}

// withdrawn returns a policy database without the policy of c.
func (c *child) withdrawn(from *spdNode) *spdNode {
	if c.policy == nil {
		return from
	}
	for _, x := range remotePrefixes(c.spec.RemoteTS) {
		from = from.remove(x.prefix, x.bits, c.policy)
	}
	return from
}

func (p *Plane) removePolicy(key childKey) {
	c := p.children[key]
	if c == nil || c.policy == nil {
		return
	}
	c.inside.setRoot(c.withdrawn(c.inside.spd.Load().root))
	c.policy, c.spec, c.inside = nil, dataplane.Policy{}, nil
	c.choose()
	p.release(c)
}

// updateEndpoints moves all SAs of a tunnel.
func (p *Plane) updateEndpoints(op dataplane.UpdateEndpoints) error {
	if err := p.checkMove(op); err != nil {
		return err
	}
	for _, sa := range p.sas {
		if sa.config.Tunnel == op.Tunnel {
			e := p.endpoint(op.Local, op.Remote, op.TCP, sa.config.Suite.AH)
			e.prove(0, p.socket.probes)
			sa.endpoint.Store(e)
		}
	}
	return nil
}

// checkMove reports why an SA of the tunnel cannot have these endpoints.
func (p *Plane) checkMove(op dataplane.UpdateEndpoints) error {
	err := p.checkEndpoints(op.Local, op.Remote, op.TCP, false)
	for _, sa := range p.sas {
		if sa.config.Tunnel != op.Tunnel || err != nil {
			continue
		}
		if sa.config.Suite.AH {
			err = p.checkEndpoints(op.Local, op.Remote, op.TCP, true)
		}
		if sa.transport && (op.Local.Addr().Unmap() != sa.config.Local.Addr().Unmap() || op.Remote.Addr().Unmap() != sa.config.Remote.Addr().Unmap()) {
			err = errors.New("SAs in transport mode stay with their addresses (RFC 4555, Section 1.2)")
		}
	}
	return err
}

// prefixBits is a prefix in the form of the policy database.
type prefixBits struct {
	prefix address
	bits   int
}

// remotePrefixes covers selectors with prefixes, each once.
func remotePrefixes(selectors []ts.Selector) []prefixBits {
	var out []prefixBits
	for _, s := range selectors {
		for _, prefix := range ts.Prefixes(s) {
			n := prefix.Bits()
			if prefix.Addr().Is4() {
				n += mappedBits
			}
			x := prefixBits{addressOf(prefix.Addr()).masked(n), n}
			if !slices.Contains(out, x) {
				out = append(out, x)
			}
		}
	}
	return out
}
