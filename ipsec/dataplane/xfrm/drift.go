package xfrm

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

const (
	driftBuffer = 16
	// auditInterval is the least time between two looks at all that is ours in the kernel.
	auditInterval = time.Second
)

// others hears what other programs do to the kernel's states and policies.
type others struct {
	*conn
	file *os.File // of the same socket
}

// openOthers leaves out what own does, by its number.
func openOthers(own *conn) (*others, error) {
	c, err := openConn()
	if err != nil {
		return nil, err
	}
	err = errors.Join(unix.SetNonblock(c.fd, true), c.leaveOut(own.port))
	for _, group := range []int{nl.XFRMNLGRP_SA, nl.XFRMNLGRP_POLICY} {
		err = errors.Join(err, unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group))
	}
	if err != nil {
		c.close()
		return nil, fmt.Errorf("hear what others do to SAs and policies: %w", err)
	}
	return &others{c, os.NewFile(uintptr(c.fd), "xfrm")}, nil
}

// leaveOut has the kernel tell what can harm, unless port did it.
func (c *conn) leaveOut(port uint32) error {
	const portAt, kindAt = 12, 4 // in struct nlmsghdr
	harmful := []uint16{nl.XFRM_MSG_DELSA, nl.XFRM_MSG_FLUSHSA, nl.XFRM_MSG_NEWPOLICY, nl.XFRM_MSG_UPDPOLICY, nl.XFRM_MSG_DELPOLICY, nl.XFRM_MSG_FLUSHPOLICY}
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: portAt, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: swap32(port), SkipTrue: uint8(len(harmful)) + 1},
		bpf.LoadAbsolute{Off: kindAt, Size: 2},
	}
	for i, kind := range harmful {
		program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(swap16(kind)), SkipTrue: uint8(len(harmful) - i)})
	}
	program = append(program, bpf.RetConstant{Val: 0}, bpf.RetConstant{Val: ^uint32(0)})
	raw, err := bpf.Assemble(program)
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return unix.SetsockoptSockFprog(c.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

// Drifts implements dataplane.DriftingPlane.
func (p *Plane) Drifts() <-chan dataplane.Drift { return p.drifts }

// hearOthers looks after what is ours whenever others have changed some of it, until the
// plane is closed.
func (p *Plane) hearOthers() {
	raw, err := p.others.file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(uintptr) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.closed {
			p.disturbed = p.heardOfOurs() || p.disturbed
			p.audit(time.Now())
			p.setTraps()
		}
		return p.closed
	})
}

// heardOfOurs reads what others did and reports whether it was to something of ours.
func (p *Plane) heardOfOurs() (ours bool) {
	for {
		err := p.others.receive(func(h header, body []byte) { ours = ours || p.concerns(h.kind, body) })
		switch {
		case errors.Is(err, unix.ENOBUFS):
			ours = true // it may have been
		case err != nil:
			return ours
		}
	}
}

func (p *Plane) concerns(kind uint16, body []byte) bool {
	switch {
	case kind == nl.XFRM_MSG_FLUSHSA || kind == nl.XFRM_MSG_FLUSHPOLICY:
		return true
	case kind == nl.XFRM_MSG_DELSA && len(body) >= nl.SizeofXfrmUsersaId:
		id := nl.DeserializeXfrmUsersaId(body)
		state := stateID{address(&id.Daddr, id.Family), swap32(id.Spi), id.Proto}
		return p.states[state] != nil || state.destination == trapAddress
	case kind == nl.XFRM_MSG_DELPOLICY && len(body) >= nl.SizeofXfrmUserpolicyId:
		id := nl.DeserializeXfrmUserpolicyId(body)
		// Of one that was deleted by its index, the selector is not told.
		return id.Index != 0 || p.has(id.Dir, decodeSelector(&id.Sel))
	case len(body) >= nl.SizeofXfrmUserpolicyInfo: // a policy that is new or changed
		q, err := decodePolicy(body)
		return err == nil && (q.ours() || p.has(q.direction, q.selector))
	}
	return false
}

func (p *Plane) has(direction uint8, s selector) bool {
	there := p.spd[slot{direction, 0, s}] != nil
	for _, l := range p.links {
		there = there || p.spd[slot{direction, l.ifID, s}] != nil
	}
	return there
}

// audit compares what is ours in the kernel with what it should be, if somebody changed
// it, and mends it: policies are set again. An SA that is gone is over, since its last
// sequence number is not known, so that another one is asked for.
func (p *Plane) audit(now time.Time) {
	if !p.disturbed || now.Sub(p.audited) < auditInterval {
		return
	}
	p.disturbed, p.audited = false, now
	found, err := p.mendPolicies()
	gone, failed := p.missStates(now)
	found = append(found, gone...)
	if err = errors.Join(err, failed); err == nil && len(found) == 0 {
		return
	}
	d := dataplane.Drift{Message: strings.Join(found, ", "), Repaired: err == nil}
	if err != nil {
		d.Message += ": " + err.Error()
	}
	p.tellDrift(d)
}

func (p *Plane) tellDrift(d dataplane.Drift) {
	p.logger.Warn("somebody else has changed what is ours in the kernel", "repaired", d.Repaired, "drift", d.Message)
	select {
	case p.drifts <- d:
	default:
	}
}

// mendPolicies says what of the policies was not as it should be.
func (p *Plane) mendPolicies() (found []string, err error) {
	policies, err := p.kernel.policies()
	if err != nil {
		return nil, err
	}
	have := make(map[slot]*policy, len(policies))
	var gone, changed, more []slot
	for _, q := range policies {
		at := slot{q.direction, q.ifID, q.selector}
		have[at] = q
		if p.spd[at] == nil && q.ours() {
			p.spd[at] = &entry{wanted: map[*child]policy{}}
			more = append(more, at)
		}
	}
	for at, e := range p.spd {
		q := have[at]
		switch {
		case e.installed == nil || q != nil && *q == *e.installed:
			continue
		case q == nil:
			gone = append(gone, at)
		default:
			changed = append(changed, at)
		}
		e.installed = nil
	}
	for said, slots := range map[string][]slot{"%d policies were gone": gone, "%d policies were changed": changed, "%d policies were too many": more} {
		if len(slots) > 0 {
			found = append(found, fmt.Sprintf(said, len(slots)))
		}
	}
	slices.Sort(found)
	return found, p.settle(slices.Concat(gone, changed, more))
}

// missStates says what of the states is gone.
func (p *Plane) missStates(now time.Time) ([]string, error) {
	states, err := p.kernel.states()
	if err != nil {
		return nil, err
	}
	have := make(map[stateID]bool, len(states))
	for _, f := range states {
		have[f.stateID] = true
	}
	gone := 0
	for id, a := range p.states {
		if e := p.expiring[a]; !have[id] && (e == nil || !e.hard) {
			gone++
			p.expired(a, true, now)
		}
	}
	for _, c := range p.children {
		if c.trap != nil && !have[c.trap.stateID] {
			p.closeTrap(c)
			err = errors.Join(err, p.program(c))
		}
	}
	for id := range p.left.states {
		if !have[id] {
			delete(p.left.states, id)
		}
	}
	if gone == 0 {
		return nil, err
	}
	return []string{fmt.Sprintf("%d SAs were gone", gone)}, err
}
