package xfrm

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// Remove takes away what a process that was killed has left in the kernel, for another
// data plane that is to have its interface's name, and those of labels. Where there is
// nothing of ours it changes nothing, as on a kernel without IPsec.
func Remove(name string, labels ...dataplane.Label) error {
	c, err := openConn()
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.close()
	for _, in := range append([]dataplane.Label{{Interface: name}}, labels...) {
		err = errors.Join(err, in.Within(func() error {
			dev, failed := netlink.LinkByName(in.Interface)
			if x, ours := dev.(*netlink.Xfrmi); failed != nil || !ours || x.Ifid != idOf(in.Name) {
				return nil // there is none, or one of somebody else
			}
			return errors.Join(c.flush(), netlink.LinkDel(dev))
		}))
	}
	if err != nil {
		return fmt.Errorf("remove what an earlier process left in the kernel: %w", err)
	}
	return nil
}

// leftovers are the states and policies of an earlier process that ended without
// Close. Until something takes their place they go on as they are: who has lost the
// process has not lost the protection. The policies are in Plane.spd, wanted by
// nobody.
type leftovers struct {
	states   map[stateID]uint32 // with their request IDs
	requests map[uint32]bool
	spis     map[uint32]bool
	until    time.Time // zero if there are none
}

// adopt finds them.
func (p *Plane) adopt(period time.Duration) error {
	p.left = leftovers{states: map[stateID]uint32{}, requests: map[uint32]bool{}, spis: map[uint32]bool{}}
	states, err := p.kernel.states()
	if err != nil {
		return err
	}
	for _, f := range states {
		if f.destination == trapAddress && ours(f.ifID, f.request) {
			if err := p.kernel.deleteStates(f.stateID); err != nil { // its socket is gone
				return err
			}
			continue
		}
		if ours(f.ifID, f.request) && f.spi != 0 {
			p.left.states[f.stateID], p.left.spis[f.spi] = f.request, true
			p.left.requests[f.request], p.given[f.request] = true, true
		}
	}
	policies, err := p.kernel.policies()
	if err != nil {
		return err
	}
	for _, q := range policies {
		if q.ours() {
			p.spd[slot{q.direction, q.ifID, q.selector}] = &entry{wanted: map[*child]policy{}, installed: q}
			p.given[q.template.request] = true
		}
	}
	if len(p.left.states)+len(p.spd) > 0 {
		p.left.until = time.Now().Add(period)
		p.logger.Info("an earlier process left SAs and policies, which go on until others take their place",
			"sas", len(p.left.states), "policies", len(p.spd), "until", p.left.until)
	}
	return nil
}

// inherit gives a child that is new what the earlier process had for traffic of the
// same selectors: the outbound SA, until the child has one, and the request ID of the
// inbound ones, so that those are received beside its own.
func (p *Plane) inherit(c *child) {
	if p.left.until.IsZero() || c.heir != nil || len(c.inbound)+len(c.outbound) > 0 {
		return
	}
	for _, s := range c.selectors {
		out := p.spd[slot{directionOut, c.interfaceID(), s}]
		if out == nil || len(out.wanted) > 0 || out.installed == nil || !p.left.requests[out.installed.template.request] {
			continue
		}
		t := out.installed.template
		c.heir, c.protocol = &t, t.protocol
		in := p.spd[slot{directionIn, c.interfaceID(), s.reversed()}]
		if in != nil && len(in.wanted) == 0 && in.installed != nil && p.left.requests[in.installed.template.request] {
			delete(p.given, c.request)
			c.request = in.installed.template.request
		}
		return
	}
}

// disinherit retires the outbound SA that a child inherited, now that it has its own.
func (p *Plane) disinherit(c *child) {
	if c.heir == nil {
		return
	}
	for id, request := range p.left.states {
		if request == c.heir.request && id.destination == c.heir.destination {
			p.retired = append(p.retired, retired{id, request, time.Now()})
			delete(p.left.states, id)
		}
	}
	delete(p.given, c.heir.request)
	delete(p.left.requests, c.heir.request)
	c.heir = nil
}

// endAdoption removes what nothing took the place of. A child that still lives on
// what it inherited waits for an SA from then on.
func (p *Plane) endAdoption() {
	p.left.until = time.Time{}
	var err error
	for _, c := range p.children {
		if c.heir != nil {
			c.heir = nil
			err = errors.Join(err, p.program(c))
		}
	}
	for id := range p.left.states {
		err = errors.Join(err, p.kernel.deleteStates(id))
	}
	var unwanted []slot
	for s, e := range p.spd {
		if len(e.wanted) == 0 {
			unwanted = append(unwanted, s)
		}
	}
	err = errors.Join(err, p.clear(unwanted))
	p.logger.Info("removed what an earlier process left and nothing took the place of", "sas", len(p.left.states), "policies", len(unwanted), "error", err)
	clear(p.left.states)
	clear(p.left.requests)
	clear(p.left.spis)
}
