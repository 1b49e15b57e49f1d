package xfrm

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

const (
	// maxPriority is the largest priority of a policy. The kernel's own number has
	// below it the length of the prefix, and whether an SA is there.
	maxPriority = 1<<23 - 1
	// bypassPriority is below that of every other policy, and marks those of
	// bypassIKE as ours.
	bypassPriority = 0x10

	// Of ICMPv6 (RFC 4861, Sections 4.3 and 4.4).
	neighborSolicitation, neighborAdvertisement = 135, 136
)

// slot is a place in the kernel's SPD, which has one policy in it.
type slot struct {
	direction uint8
	ifID      uint32
	selector  selector
}

// entry is what is in a slot: the policies of all children that want it, and the one
// that the kernel has, which is that of the lowest priority and, of equal ones, of the
// tunnel that goes first in the ranking.
type entry struct {
	wanted    map[*child]policy
	installed *policy
}

func (e *entry) winner() *child {
	var first *child
	for c, q := range e.wanted {
		if first == nil || cmp.Or(cmp.Compare(q.priority, e.wanted[first].priority), cmp.Compare(c.place, first.place), cmp.Compare(c.request, first.request)) < 0 {
			first = c
		}
	}
	return first
}

// program brings the kernel's policies of a child to what they should be, in one
// call. What is new is there before what is old goes.
func (p *Plane) program(c *child) error {
	p.aboutTrap(c)
	wanted, err := c.policies(p.everyCPU(c))
	if err != nil {
		return err
	}
	before := c.slots
	c.slots = slices.Collect(maps.Keys(wanted))
	for s, q := range wanted {
		e := p.spd[s]
		if e == nil {
			e = &entry{wanted: map[*child]policy{}}
			p.spd[s] = e
		}
		e.wanted[c] = q
	}
	for _, s := range before {
		if _, still := wanted[s]; !still {
			delete(p.spd[s].wanted, c)
		}
	}
	return p.settle(slices.Concat(c.slots, before))
}

// settle has the kernel have the right policies in slots, and compares what it has
// made of them.
func (p *Plane) settle(slots []slot) error {
	var set, old []slot
	var requests []request
	done := make(map[slot]bool, len(slots))
	for _, s := range slots {
		e := p.spd[s]
		if e == nil || done[s] {
			continue
		}
		done[s] = true
		q := e.choice(s)
		switch {
		case q == nil:
			old = append(old, s)
		case e.installed == nil || *e.installed != *q:
			set = append(set, s)
			requests = append(requests, q.set(), q.ask(nl.XFRM_MSG_GETPOLICY))
		}
	}
	var failed error
	answers := p.kernel.send(requests...)
	for i, s := range set {
		failed = errors.Join(failed, p.spd[s].confirm(s, answers[2*i], answers[2*i+1]))
	}
	return errors.Join(failed, p.clear(old))
}

// clear empties slots that no child wants.
func (p *Plane) clear(slots []slot) error {
	requests := make([]request, 0, len(slots))
	for _, s := range slots {
		q := policy{selector: s.selector, direction: s.direction, ifID: s.ifID}
		requests = append(requests, q.ask(nl.XFRM_MSG_DELPOLICY))
	}
	var failed error
	for i, a := range p.kernel.send(requests...) {
		if a.err != nil && !errors.Is(a.err, unix.ENOENT) {
			failed = errors.Join(failed, fmt.Errorf("remove policy from %s to %s: %w", slots[i].selector.source, slots[i].selector.destination, a.err))
			continue
		}
		delete(p.spd, slots[i])
	}
	return failed
}

// choice is the policy for a slot, nil for none. Where several children want it,
// packets that were received on the SAs of any are accepted.
func (e *entry) choice(s slot) *policy {
	c := e.winner()
	if c == nil {
		return nil
	}
	q := e.wanted[c]
	if len(e.wanted) > 1 && s.direction != directionOut {
		q.template.request = 0
	}
	return &q
}

// confirm notes what the kernel answered to a policy and to the question for it.
func (e *entry) confirm(s slot, set, have answer) error {
	err := errors.Join(set.err, have.err)
	if set.err == nil {
		e.installed = e.choice(s)
	}
	var q *policy
	if err == nil {
		q, err = decodePolicy(have.body)
	}
	if err == nil && *q != *e.installed {
		err = errors.New("the kernel has made something else of it")
	}
	if err != nil {
		return fmt.Errorf("policy from %s to %s: %w", s.selector.source, s.selector.destination, err)
	}
	return nil
}

// policies returns what a child needs in the kernel: for all that its policy
// matches, that it is protected; for what the newest outbound SA is for, that SA; and
// for what each inbound SA is for, that it is accepted, for this host or to be
// forwarded (RFC 4301, Sections 5.1 and 5.2). With perCPU, several outbound SAs serve
// the same policies.
func (c *child) policies(perCPU bool) (map[slot]policy, error) {
	all := map[slot]policy{}
	if c.spec.Action == dataplane.Discard {
		for _, s := range c.selectors {
			c.put(all, policy{direction: directionOut, selector: s, action: actionBlock}, 1)
			c.put(all, policy{direction: directionIn, selector: s.reversed(), action: actionBlock}, 1)
			c.put(all, policy{direction: directionForward, selector: s.reversed(), action: actionBlock}, 1)
		}
		return all, nil
	}
	for _, s := range c.selectors {
		if c.moving {
			c.put(all, policy{direction: directionOut, selector: s, action: actionBlock}, 1)
			continue
		}
		if c.heir != nil && len(c.outbound) == 0 {
			c.put(all, policy{direction: directionOut, selector: s, template: *c.heir}, 0)
			continue
		}
		c.put(all, policy{direction: directionOut, selector: s, template: c.toTrap()}, 1)
	}
	if a := c.carrier(); a != nil && c.selectors != nil {
		selectors, err := outboundSelectors(a.LocalTS, a.RemoteTS)
		if err != nil {
			return nil, err
		}
		for _, s := range append(selectors, c.withinLonger(selectors)...) {
			c.put(all, policy{
				direction: directionOut, selector: s, perCPU: perCPU,
				template: c.template(a.Local.Addr().Unmap(), a.Remote.Addr().Unmap(), a.request),
			}, 0)
		}
	}
	for _, a := range c.inbound {
		selectors, err := outboundSelectors(a.LocalTS, a.RemoteTS)
		if err != nil {
			return nil, err
		}
		for _, s := range selectors {
			any := c.template(netip.Addr{}, netip.Addr{}, c.request)
			if c.mode == dataplane.Transport {
				any.family = familyOf(s.source.Addr()) // the outer header is the inner one
			}
			for _, direction := range []uint8{directionIn, directionForward} {
				c.put(all, policy{direction: direction, selector: s.reversed(), template: any, ifID: a.interfaceID()}, 0)
			}
		}
	}
	if c.mode == dataplane.Transport {
		bypassIKE(all)
	}
	return all, nil
}

// withinLonger returns what an SA's selectors have in common with those of the policy whose
// remote prefix is longer, which would go first without being of the SA.
func (c *child) withinLonger(selectors []selector) []selector {
	var out []selector
	for _, of := range selectors {
		for _, s := range c.selectors {
			if s.destination.Bits() <= of.destination.Bits() {
				continue
			}
			if both, ok := s.intersect(of); ok {
				out = append(out, both)
			}
		}
	}
	return out
}

// put fills in q what all policies of a child have, and adds it.
func (c *child) put(all map[slot]policy, q policy, rank uint32) {
	remote := q.selector.destination
	if q.direction != directionOut {
		remote = q.selector.source
	}
	q.priority = c.spec.Priority<<9 | uint32(0xff-prefixLen(remote))<<1 | rank
	if q.ifID == 0 {
		q.ifID = c.interfaceID()
	}
	all[slot{q.direction, q.ifID, q.selector}] = q
}

// interfaceID is that of its policies: transport mode has no interface.
func (c *child) interfaceID() uint32 {
	if c.mode == dataplane.Transport {
		return 0
	}
	return idOf(c.spec.Label)
}

// interfaceID is that of the SA.
func (a *association) interfaceID() uint32 {
	if a.Mode == dataplane.Transport {
		return 0
	}
	return idOf(a.Label)
}

// carrier is the outbound SA that carries the traffic, nil if there is none: the newest, if
// it is of the label of the policy.
func (c *child) carrier() *association {
	n := len(c.outbound)
	if n == 0 || c.outbound[n-1].Label != c.spec.Label {
		return nil
	}
	return c.outbound[n-1]
}

// toTrap is for what has no outbound SA: it is of its trap, or of nothing.
func (c *child) toTrap() template {
	return template{
		source: trapAddress, destination: trapAddress, family: unix.AF_INET, protocol: unix.IPPROTO_ESP, mode: modeTunnel, request: c.idle,
	}
}

func (c *child) template(source, destination netip.Addr, request uint32) template {
	t := template{source: source, destination: destination, family: unix.AF_INET, protocol: c.protocol, mode: modeTunnel, request: request}
	if destination.IsValid() {
		t.family = familyOf(destination)
	}
	if c.mode == dataplane.Transport {
		t.mode = modeTransport
	}
	return t
}

// bypassIKE adds the policies that let IKE pass between the addresses of transport
// mode, which has no interface that would keep the two apart, and that by which IPv6
// neighbours find each other: no SA can come about before that.
func bypassIKE(all map[slot]policy) {
	var more []policy
	for s := range all {
		for _, port := range []uint16{500, DefaultPort} {
			q := policy{direction: s.direction, selector: s.selector, priority: bypassPriority}
			q.selector.protocol = unix.IPPROTO_UDP
			q.selector.sourcePort, q.selector.destinationPort = maskedPort{port, 0xffff}, maskedPort{}
			if s.direction != directionOut {
				q.selector.sourcePort, q.selector.destinationPort = maskedPort{}, maskedPort{port, 0xffff}
			}
			more = append(more, q)
		}
		if s.selector.source.Addr().Is4() {
			continue
		}
		for _, kind := range []uint16{neighborSolicitation, neighborAdvertisement} {
			q := policy{direction: s.direction, selector: s.selector, priority: bypassPriority}
			q.selector.protocol = unix.IPPROTO_ICMPV6
			q.selector.sourcePort, q.selector.destinationPort = maskedPort{kind, 0xffff}, maskedPort{}
			more = append(more, q)
		}
	}
	for _, q := range more {
		all[slot{q.direction, q.ifID, q.selector}] = q
	}
}

// prefixLen is the length of a prefix, as if it were one of IPv6.
func prefixLen(p netip.Prefix) int { return p.Bits() + 128 - p.Addr().BitLen() }
