package xfrm

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// monitor hears what the kernel says on its own.
type monitor struct {
	socket *nl.NetlinkSocket
	once   sync.Once
}

func openMonitor() (*monitor, error) {
	s, err := nl.Subscribe(unix.NETLINK_XFRM, nl.XFRMNLGRP_ACQUIRE, nl.XFRMNLGRP_EXPIRE, nl.XFRMNLGRP_MAPPING, nl.XFRMNLGRP_MIGRATE)
	if err != nil {
		return nil, fmt.Errorf("hear the kernel's IPsec events: %w", err)
	}
	s.SetReceiveBufferSize(4<<20, true) // without the right to, the default must do
	return &monitor{socket: s}, nil
}

func (m *monitor) stop() { m.once.Do(m.socket.Close) }

// run hands every notification to notice, until stop. What the kernel could not
// queue is lost: its cause lasts, or a later one tells of it.
func (m *monitor) run(notice func(kind uint16, b []byte)) {
	for {
		messages, from, err := m.socket.Receive()
		switch {
		case err == unix.ENOBUFS || err == unix.EINTR || err == unix.EAGAIN:
			continue
		case err != nil:
			return
		case from.Pid != nl.PidKernel:
			continue
		}
		for _, msg := range messages {
			notice(msg.Header.Type, msg.Data)
		}
	}
}

// The sizes of the messages, of include/uapi/linux/xfrm.h.
const (
	sizeofAcquire = nl.SizeofXfrmId + 16 + nl.SizeofXfrmSelector + nl.SizeofXfrmUserpolicyInfo + 4*4
	sizeofMapping = nl.SizeofXfrmUsersaId + 4 + 2*16 + 2*2
)

// notice makes an event of a notification that is about something of ours.
func (p *Plane) notice(kind uint16, b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed: // nothing is to be installed any more
	case kind == nl.XFRM_MSG_ACQUIRE && len(b) >= sizeofAcquire:
		p.acquire(b)
	case kind == nl.XFRM_MSG_EXPIRE && len(b) >= nl.SizeofXfrmUserExpire:
		e := nl.DeserializeXfrmUserExpire(b)
		info := &e.XfrmUsersaInfo
		id := stateID{address(&info.Id.Daddr, info.Family), swap32(info.Id.Spi), info.Id.Proto}
		if a := p.states[id]; a != nil {
			p.expired(a, e.Hard != 0, time.Now())
		}
	case kind == nl.XFRM_MSG_MAPPING && len(b) >= sizeofMapping:
		p.mapping(b)
	case kind == nl.XFRM_MSG_MIGRATE || kind == migrateState:
		p.migrated()
	}
}

// acquire tells of a packet for which there is no outbound SA.
func (p *Plane) acquire(b []byte) {
	packet := nl.DeserializeXfrmSelector(b[nl.SizeofXfrmId+16:])
	matched := nl.DeserializeXfrmUserpolicyInfo(b[nl.SizeofXfrmId+16+nl.SizeofXfrmSelector:])
	attrs := parseAttributes(b[sizeofAcquire:])
	c := p.policyOf(attrs.word(nl.XFRMA_IF_ID), decodeSelector(&matched.Sel))
	if c == nil {
		return // somebody else's
	}
	if cpu := attrs.cpu(); cpu != anyCPU {
		p.lacks(c, cpu)
		return
	}
	p.raise(dataplane.Event{
		Kind: dataplane.Acquire, Tunnel: c.tunnel, Child: c.name,
		Source: address(&packet.Saddr, packet.Family), Destination: address(&packet.Daddr, packet.Family),
	})
	if !c.asked {
		c.asked = true
		p.asking = append(p.asking, asking{c, time.Now().Add(askInterval)})
	}
}

// policyOf is whose outbound policy of a selector the kernel has.
func (p *Plane) policyOf(ifID uint32, s selector) *child {
	if e := p.spd[slot{directionOut, ifID, s}]; e != nil {
		return e.winner()
	}
	return nil
}

// mapping tells of an authentic packet that came from elsewhere.
func (p *Plane) mapping(b []byte) {
	id := nl.DeserializeXfrmUsersaId(b)
	a := p.states[stateID{address(&id.Daddr, id.Family), swap32(id.Spi), id.Proto}]
	if a == nil || time.Since(a.toldAt) < eventInterval {
		return
	}
	const fixed = nl.SizeofXfrmUsersaId + 4
	from := address(nl.DeserializeXfrmAddress(b[fixed+16:]), id.Family)
	ev := a.event(dataplane.MappingChanged)
	ev.Remote = netip.AddrPortFrom(from, binary.BigEndian.Uint16(b[fixed+34:]))
	ev.Local, ev.TCP = a.Local, a.TCP
	if p.raise(ev) {
		a.toldAt = time.Now()
	}
}
