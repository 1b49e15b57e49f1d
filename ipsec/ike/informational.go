package ike

import (
	"encoding/binary"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// handleInformational answers an INFORMATIONAL request: deletions, notifications,
// or nothing at all, which asks whether we live (RFC 7296, Section 1.4).
func (sa *ikeSA) handleInformational(m *message) {
	if sa.deletesIKE(m) {
		sa.peerDeletes(m)
		return
	}
	if n := m.errorNotify(); n != nil && endsIKE(n.Kind) {
		sa.respond(m, nil)
		sa.t.report(&Error{Exchange: m.Exchange, Notify: n.Kind, Remote: true})
		sa.t.endIKE(sa, ReasonProtocol)
		sa.linger()
		return
	}
	sa.keepTokens(m)
	sa.obeyLifetime(m)
	if m.errorNotify() != nil {
		sa.m.stats.Hints++ // such as INVALID_SPI: no SA is changed by it (RFC 7296, Section 2.21.4)
	}
	var reply []wire.Payload
	var ours []childSPI
	for _, p := range m.payloads {
		if d, ok := p.(*wire.Delete); ok && d.Protocol != wire.ProtocolIKE {
			ours = append(ours, sa.peerDeletesChildren(d)...)
		}
	}
	reply = append(reply, sa.ticketAnswer(m)...)
	reply = append(reply, deletes(ours)...)
	reply = append(reply, sa.configure(m)...)
	reply = append(reply, sa.mobility(m)...)
	sa.respond(m, reply)
	sa.redirectedActive(m)
}

// endsIKE reports whether a notification ends the IKE SA without a Delete payload
// (RFC 7296, Section 2.21.2).
func endsIKE(kind wire.NotifyType) bool {
	return kind == wire.NotifyAuthenticationFailed || kind == wire.NotifyInvalidSyntax
}

func (sa *ikeSA) deletesIKE(m *message) bool {
	for _, p := range m.payloads {
		if d, ok := p.(*wire.Delete); ok && d.Protocol == wire.ProtocolIKE {
			return true
		}
	}
	return false
}

// peerDeletes ends the IKE SA at the peer's request. A Delete or rekeying of
// our own that is under way is forgotten (RFC 7296, Section 2.25.2). If the
// peer rekeyed the IKE SA and did not see that we were doing so too, its new one
// takes the Child SAs (Section 2.8.2).
func (sa *ikeSA) peerDeletes(m *message) {
	t := sa.t
	sa.respond(m, nil)
	if sa.lostTo != nil {
		sa.lostTo.confirm()
	}
	if r := sa.rekey; r != nil && r.passive != nil && r.passive.alive() {
		t.replaceIKE(sa, r.passive)
	}
	why := ReasonDeletedByPeer
	if m.errorNotify() != nil {
		why = ReasonProtocol
	}
	t.endIKE(sa, why)
	sa.linger()
}

// peerDeletesChildren ends Child SAs at the peer's request and returns the SPIs
// of the other direction for the answer. An SA that we are deleting ourselves is
// not among them (RFC 7296, Section 1.4.1).
func (sa *ikeSA) peerDeletesChildren(d *wire.Delete) []childSPI {
	var ours []childSPI
	t := sa.t
	for _, b := range d.SPIs {
		if len(b) != 4 {
			continue
		}
		spi := be32(b)
		c := t.peersChild(childSPI{d.Protocol, spi})
		if c == nil {
			t.noteEarlyDelete(sa, spi)
			continue
		}
		if c.state != childDeleting {
			ours = append(ours, childSPI{d.Protocol, c.inbound})
		}
		t.peerDeletesChild(c)
	}
	return ours
}

func (t *Tunnel) peerDeletesChild(c *childSA) {
	if p := c.passive; p != nil && p.child != nil {
		// The peer rekeyed c and did not see that we were doing so too, or it
		// won: its new SA takes over (RFC 7296, Section 2.8.1).
		c.replaceWith(p.child)
	}
	why := c.reason
	if why == 0 {
		why = ReasonDeletedByPeer
	}
	t.lingerOrRemove(c, why)
}

// noteEarlyDelete remembers an SPI that the peer deleted and that we do not
// know. If it is that of an SA whose creation is still under way, the SA is
// gone before we learn of it.
func (t *Tunnel) noteEarlyDelete(sa *ikeSA, spi uint32) {
	type earlyDeleter interface{ deletedEarly(uint32) }
	if e, ok := sa.active.(earlyDeleter); ok {
		e.deletedEarly(spi)
	}
}

func be32(b []byte) uint32 { return binary.BigEndian.Uint32(b) }

func put32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
