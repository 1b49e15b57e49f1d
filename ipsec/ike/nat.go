package ike

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"net/netip"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/wire"
)

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

// detectNAT compares the hashes of the peer with the addresses that its message
// came with.
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
			if bytes.Equal(n.Data, to) {
				destinationMatches++
			}
		}
	}
	supported := sources > 0 && destinations > 0
	sa.remoteNAT = supported && sourceMatches == 0
	sa.localNAT = supported && destinationMatches == 0
	sa.encap = supported && (sa.remoteNAT || sa.localNAT || force) || sa.local.Port() == sa.m.natPort || sa.tcp
}

// floatPort moves an initiator that found a NAT to the NAT traversal ports (RFC
// 7296, Section 2.23).
func (sa *ikeSA) floatPort() {
	if !sa.encap || sa.tcp || sa.local.Port() == sa.m.natPort {
		return // TCP passes NATs as it is (RFC 9329, Section 6.5)
	}
	sa.move(route{local: netip.AddrPortFrom(sa.local.Addr(), sa.m.natPort), remote: netip.AddrPortFrom(sa.remote.Addr(), sa.m.natPort)})
}

// moveEndpoints moves the Child SAs to where their IKE SA went, all as one (RFC
// 7296, Section 2.23).
func (t *Tunnel) moveEndpoints(sa *ikeSA) {
	if len(t.childrenOf(sa)) == 0 {
		return
	}
	local, remote := sa.endpoints()
	t.apply(nil, []dataplane.Op{dataplane.UpdateEndpoints{Tunnel: t.cfg.Name, Local: local, Remote: remote, TCP: sa.tcp}}, func(errs []error) {
		if err := firstError(errs); err != nil {
			t.report(&Error{Op: "move Child SAs to " + remote.String(), Kind: KindDataPlane, Err: err})
		}
	})
}

// mappingChanged follows the peer's NAT when an authentic packet of a Child SA
// came from another address.
func (t *Tunnel) mappingChanged(c *childSA, e dataplane.Event) {
	sa, remote := c.ike, e.Remote
	if e.TCP || sa.tcp {
		sa.followStream(route{e.Local, e.Remote, e.TCP})
		return
	}
	if sa.localNAT || !sa.encap || !sa.alive() || !remote.IsValid() || remote == sa.remote {
		return
	}
	sa.move(route{local: sa.local, remote: remote})
	t.moveEndpoints(sa)
}
