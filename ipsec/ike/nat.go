package ike

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// natState is what is known of NATs between the ends of an IKE SA. One that replaces
// it begins with the same.
type natState struct {
	natT                bool // both ends do NAT traversal
	localNAT, remoteNAT bool // which end is behind a NAT
	encap               bool // ESP is to go in UDP
	beganEncap          bool // it always is: the SA began on the NAT traversal port
	forced              bool // or would have, had it not begun by TCP
}

// natHash is the content of a NAT detection notification. SHA-1 is what RFC 7296,
// Section 2.23, fixes; nothing secret depends on it.
func natHash(spii, spir wire.SPI, addr netip.AddrPort) []byte {
	h := sha1.New()
	h.Write(spii[:])
	h.Write(spir[:])
	h.Write(addr.Addr().Unmap().AsSlice())
	h.Write(binary.BigEndian.AppendUint16(nil, addr.Port()))
	return h.Sum(nil)
}

// natNotifies returns the NAT detection payloads of an IKE_SA_INIT message.
// With force the source hash matches nothing, so that the peer finds a NAT.
func (m *machine) natNotifies(spii, spir wire.SPI, local, remote netip.AddrPort, force bool) []wire.Payload {
	source := natHash(spii, spir, local)
	if force {
		source = m.random(sha1.Size)
	}
	return []wire.Payload{
		&wire.Notify{Kind: wire.NotifyNATDetectionSourceIP, Data: source},
		&wire.Notify{Kind: wire.NotifyNATDetectionDestinationIP, Data: natHash(spii, spir, remote)},
	}
}

// natOffer is natNotifies of an initiator's first request, or nothing where NATs are
// prohibited.
func (sa *ikeSA) natOffer() []wire.Payload {
	if sa.t.cfg.Mobility.ProhibitNAT {
		return nil
	}
	return sa.m.natNotifies(sa.localSPI, wire.SPI{}, sa.local, sa.remote, sa.forcesEncap())
}

// natFound reads the responder's, and moves to the ports that follow from it.
func (sa *ikeSA) natFound(m *message) {
	if !sa.t.cfg.Mobility.ProhibitNAT {
		sa.detectNAT(m, sa.forcesEncap())
	}
	sa.floatPort()
}

// natAnswer is natNotifies of a responder's first response, if both ends do NAT
// traversal.
func (h *HalfOpen) natAnswer(m *message) []wire.Payload {
	if !h.sa.natT {
		return nil
	}
	return h.natNotifies(h.sa.remoteSPI, h.sa.localSPI, m.local, m.remote, h.cfg.ForceEncap)
}

// peerTranslated reports whether a NAT has changed the address of the peer on a
// message with NAT detection payloads.
func (sa *ikeSA) peerTranslated(m *message) bool {
	from := natHash(m.InitiatorSPI, m.ResponderSPI, m.remote)
	return !slices.ContainsFunc(m.payloads, func(p wire.Payload) bool {
		n, ok := p.(*wire.Notify)
		return ok && n.Kind == wire.NotifyNATDetectionSourceIP && bytes.Equal(n.Data, from)
	})
}

// detectNAT compares the hashes of the peer with the addresses that its message
// came with. Without hashes the peer does not do NAT traversal.
func (sa *ikeSA) detectNAT(m *message, force bool) {
	var sources, destinations, sourceMatches, destinationMatches int
	from := natHash(m.InitiatorSPI, m.ResponderSPI, m.remote)
	to := natHash(m.InitiatorSPI, m.ResponderSPI, m.local)
	for _, p := range m.payloads {
		n, ok := p.(*wire.Notify)
		switch {
		case !ok:
		case n.Kind == wire.NotifyNATDetectionSourceIP:
			sources++
			if bytes.Equal(n.Data, from) {
				sourceMatches++
			}
		case n.Kind == wire.NotifyNATDetectionDestinationIP:
			destinations++
			sa.mapped = bytes.Clone(n.Data)
			if bytes.Equal(n.Data, to) {
				destinationMatches++
			}
		}
	}
	sa.natT = sources > 0 && destinations > 0
	sa.remoteNAT = sa.natT && sourceMatches == 0
	sa.localNAT = sa.natT && destinationMatches == 0
	sa.encap = sa.natT && (sa.remoteNAT || sa.localNAT || force) || sa.beganEncap
}

// forcesEncap reports whether ESP is to go in UDP without a NAT.
func (sa *ikeSA) forcesEncap() bool { return sa.t.cfg.ForceEncap || sa.forced }

// floatPort moves an initiator to the NAT traversal ports if it found a NAT (RFC
// 7296, Section 2.23), or if both ends do NAT traversal and this one MOBIKE: so
// that there is no need for it later (RFC 4555, Section 3.3).
func (sa *ikeSA) floatPort() {
	mobile := sa.natT && sa.t.cfg.mobile()
	if !sa.encap && !mobile || sa.tcp || sa.local.Port() == sa.m.natPort {
		return // TCP passes NATs as it is (RFC 9329, Section 6.5)
	}
	sa.move(route{local: netip.AddrPortFrom(sa.local.Addr(), sa.m.natPort), remote: netip.AddrPortFrom(sa.remote.Addr(), sa.m.natPort)})
}

// follow takes that an authentic, fresh message came over p. The responder
// follows as long as it does not know the initiator, who may move to the NAT
// traversal port at IKE_AUTH.
func (sa *ikeSA) follow(p route) {
	switch {
	case p == sa.route:
		if !sa.mobike && sa.unproved != p {
			sa.unproved = route{} // it is where it was
		}
	case sa.unidentified():
		sa.move(p)
	case p.tcp || sa.tcp:
		sa.followStream(p)
	case sa.state.in(stateLarval):
		// A response comes from where its request went (RFC 7296, Section 2.11).
	case sa.mobike:
		// RFC 4555, Section 3.8: an exchange that does not update addresses
		// changes nothing, so that it can test a path.
	default:
		sa.sighted(p)
	}
}

// mappingChanged takes that the newest authentic packet of a Child SA came from
// another address than the peer's. With MOBIKE the end that decides about
// addresses takes it for a hint that something is wrong, the other one follows as
// without (RFC 4555, Section 3.8).
func (t *Tunnel) mappingChanged(c *childSA, e dataplane.Event) {
	sa, remote := c.ike, e.Remote
	if e.TCP || sa.tcp {
		sa.followStream(route{e.Local, e.Remote, e.TCP})
		return
	}
	if !remote.IsValid() || remote.Port() == 0 || !sa.alive() || sa != t.primary() || remote == sa.placed.remote {
		return
	}
	sa.strayAt = t.now
	switch {
	case !sa.placed.encap:
		// No NAT is on the way, so no mapping has changed.
	case sa.mobike && sa.decides():
		sa.suspectPath()
	default:
		sa.sighted(route{local: sa.local, remote: remote})
	}
}

// sighted follows a peer that was seen at another address by the newest authentic
// packet: the mapping of its NAT has changed (RFC 7296, Section 2.23). Anybody on
// the path could have sent that packet on from elsewhere, so the peer is asked
// there first.
//
// An end behind a NAT itself does not follow, as a single forged packet would cut
// it off; if the peer is behind one as well it does, once it has asked.
func (sa *ikeSA) sighted(p route) {
	switch {
	case sa != sa.t.primary():
		sa.move(p)
	case sa.localNAT && !sa.remoteNAT || p == sa.unproved || !sa.mayLook():
	case sa.localNAT:
		sa.countLook()
		sa.prove(p)
	default:
		sa.countLook()
		sa.proveOrSettle(p)
	}
}
