package xfrm

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// move gives the SAs of a tunnel other endpoints.
func (p *Plane) move(op dataplane.UpdateEndpoints) error {
	if err := checkEndpoints(op.Local, op.Remote, op.TCP); err != nil {
		return err
	}
	moved, err := p.toMove(op)
	if err != nil || len(moved) == 0 {
		return err
	}
	p.paths.set(op.Tunnel, 0)
	return p.rebuild(moved, func(a *association) error { return p.remake(a, a.stateID(), op) })
}

// rebuild makes states anew, since the kernel identifies a state by its addresses.
// Meanwhile the policies of their children block: nothing goes out in clear, and no
// packet asks for an SA.
func (p *Plane) rebuild(moved []*association, remake func(*association) error) error {
	err := p.removals.begin()
	if err != nil {
		return err
	}
	defer p.removals.end()
	sending := map[*child][]*association{}
	for _, a := range moved {
		if c := p.children[childKey{a.Tunnel, a.Child}]; !c.moving {
			sending[c], c.outbound, c.moving = c.outbound, nil, true
			err = errors.Join(err, p.program(c))
		}
	}
	for _, a := range moved {
		if failed := remake(a); failed != nil {
			err = errors.Join(err, fmt.Errorf("%s SA %08x: %w", a.Direction, a.SPI, failed))
		}
	}
	for c, outbound := range sending {
		c.outbound, c.moving = outbound, false
		err = errors.Join(err, p.program(c))
	}
	return err
}

// toMove are the SAs of the tunnel that are not there yet.
func (p *Plane) toMove(op dataplane.UpdateEndpoints) ([]*association, error) {
	var moved []*association
	for _, a := range p.sas {
		if a.Tunnel != op.Tunnel || a.Local == op.Local && a.Remote == op.Remote && a.TCP == op.TCP {
			continue
		}
		if a.Suite.AH && op.Local.Port() != 0 {
			return nil, fmt.Errorf("AH of %s/%s passes no NAT: use ESP", a.Tunnel, a.Child)
		}
		there := a.SA
		if there.TCP = op.TCP; there.TCP {
			if err := p.checkStream(&there); err != nil {
				return nil, fmt.Errorf("%s/%s: %w", a.Tunnel, a.Child, err)
			}
		}
		moved = append(moved, a)
	}
	return moved, nil
}

// remake takes out the state of a, which the kernel has as id, and makes it anew at
// other endpoints. A sequence number that was used twice
// under one key would give the key away (RFC 4106, Section 3.1), and packets may be
// under way in the kernel until the state is gone. So the number to go on from is the
// one that the kernel tells with the removal, after which it gives out no more of
// them. An SA whose last number is not known, or that cannot be put back, is over.
func (p *Plane) remake(a *association, id stateID, to dataplane.UpdateEndpoints) error {
	err := p.kernel.askOf(nl.XFRM_MSG_DELSA, id)[0].err
	if errors.Is(err, unix.ESRCH) {
		a.place(to)
		return nil // at its hard limit, of which an event tells
	}
	if err != nil {
		return err
	}
	f, err := p.removals.of(id)
	if err == nil {
		a.counters = a.with(f)
		delete(p.states, a.stateID())
		a.place(to)
		p.states[a.stateID()] = a
		err = p.put(a, f)
	}
	if err != nil {
		p.expired(a, true, time.Now())
	}
	return err
}

// place gives a other endpoints.
func (a *association) place(to dataplane.UpdateEndpoints) {
	a.Local, a.Remote, a.TCP = to.Local, to.Remote, to.TCP
}

// migrated puts back the states that somebody else has given other addresses
// (XFRM_MSG_MIGRATE, XFRM_MSG_MIGRATE_STATE). The machine of the tunnel does not know
// about that.
func (p *Plane) migrated() {
	states, err := p.kernel.states()
	type name struct{ spi, request uint32 }
	own := make(map[name]*association, len(p.sas))
	for _, a := range p.sas {
		own[name{a.SPI, a.request}] = a
	}
	moved := map[*association]stateID{}
	for _, f := range states {
		if a := own[name{f.spi, f.request}]; a != nil && (f.stateID != a.stateID() || f.source != a.source()) {
			moved[a] = f.stateID
		}
	}
	if err == nil && len(moved) > 0 {
		err = p.rebuild(slices.Collect(maps.Keys(moved)), func(a *association) error {
			return p.remake(a, moved[a], dataplane.UpdateEndpoints{Local: a.Local, Remote: a.Remote, TCP: a.TCP})
		})
	}
	if err != nil || len(moved) > 0 {
		d := dataplane.Drift{Message: fmt.Sprintf("%d SAs were at other addresses", len(moved)), Repaired: err == nil}
		if err != nil {
			d.Message += ": " + err.Error()
		}
		p.tellDrift(d)
	}
}

// removals hears which states the kernel removes, from begin to end. It is a socket
// of its own, as the kernel tells about all states, those of others too.
type removals struct{ *conn }

func openRemovals() (*removals, error) {
	c, err := openConn()
	return &removals{c}, err
}

// begin forgets what an earlier time left unread, so that no number of then is taken
// for one of now.
func (r *removals) begin() error {
	for {
		_, _, err := unix.Recvfrom(r.fd, r.buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("hear of removed states: %w", err)
		}
	}
	clear(r.buf)
	if err := unix.SetsockoptInt(r.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, nl.XFRMNLGRP_SA); err != nil {
		return fmt.Errorf("hear of removed states: %w", err)
	}
	return nil
}

func (r *removals) end() {
	unix.SetsockoptInt(r.fd, unix.SOL_NETLINK, unix.NETLINK_DROP_MEMBERSHIP, nl.XFRMNLGRP_SA)
}

// of waits for the removal of a state and returns how it ended. The kernel has told
// it before it acknowledged.
func (r *removals) of(id stateID) (*facts, error) {
	var found *facts
	for found == nil {
		var bad error
		err := r.receive(func(h header, body []byte) {
			if h.kind != nl.XFRM_MSG_DELSA || len(body) < nl.SizeofXfrmUsersaId {
				return
			}
			named := nl.DeserializeXfrmUsersaId(body)
			if (stateID{address(&named.Daddr, named.Family), swap32(named.Spi), named.Proto}) != id {
				return
			}
			attrs := parseAttributes(body[nl.SizeofXfrmUsersaId:])
			info := attrs[nl.XFRMA_SA]
			if len(info) < nl.SizeofXfrmUsersaInfo || len(attrs[nl.XFRMA_REPLAY_ESN_VAL]) < nl.SizeofXfrmReplayStateEsn {
				bad = errors.New("the kernel does not tell it")
				return
			}
			found = decodeFacts(nl.DeserializeXfrmUsersaInfo(slices.Clone(info)), attrs)
		})
		if err = errors.Join(err, bad); err != nil {
			return nil, fmt.Errorf("its last sequence number is not known, so that it cannot go on: %w", err)
		}
	}
	return found, nil
}
