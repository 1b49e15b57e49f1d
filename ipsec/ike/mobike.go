package ike

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// MOBIKE (RFC 4555) lets an IKE SA and its Child SAs move to other addresses. The
// end that began the first IKE SA decides over which: it notices changes of its
// own addresses and paths that fail, tries others, and tells the peer by
// UPDATE_SA_ADDRESSES. The other end only says which addresses it has. This file
// is what both have in common and what the other end does; task_mobike.go is the
// deciding end.

const (
	// cookie2Len is the length of the cookies that check an address (RFC 4555,
	// Section 4.2.5: 8 to 64 octets).
	cookie2Len                   = 16
	minCookie2Len, maxCookie2Len = 8, 64
	// maxAdditional bounds the addresses that are announced, maxPeerAddresses
	// those that are kept of the peer.
	maxAdditional, maxPeerAddresses = 8, 16
	// maxPatientInterval is the longest interval between repetitions beyond those
	// of the schedule.
	maxPatientInterval = 20 * time.Second
)

// mobileState is what an IKE SA has still to say or to find out about addresses.
type mobileState struct {
	mobike       bool // both ends support it (RFC 4555)
	wantUpdate   bool // the peer is to learn the path of this SA
	wantAnnounce bool // the peer is to learn this end's other addresses
	wantHome     bool // the preferred path is to be tried again
	updateTries  int  // that a NAT has spoilt
	refusedPaths []route
	testAt       time.Time // when the preferred path is tried again
	// mapped is the hash of where the peer saw the last message that told it.
	mapped []byte
}

// Mobility is about the addresses of the two ends.
type Mobility struct {
	// Disable keeps the IKE SA where it began: MOBIKE (RFC 4555) is neither
	// announced nor accepted. NATs are followed all the same. So it is where a Child
	// SA is in transport mode.
	Disable bool
	// Local are further addresses of this host that IKE may leave from, and
	// Remote further ones of the peer, each in order of preference: an initiator
	// tries them when those in Config lead nowhere, and MOBIKE moves the IKE SA
	// there when its path fails.
	Local, Remote []netip.Addr
	// TrustPeer takes the peer's new address as soon as it says or shows that it
	// is there. By default the peer is asked there first, before any packet of a
	// Child SA is sent to it (RFC 4555, Section 3.7).
	TrustPeer bool
	// Within are where the peer may move to, anywhere if empty. It is told
	// UNACCEPTABLE_ADDRESSES elsewhere. A NAT is followed wherever it goes.
	Within []netip.Prefix
	// ProhibitNAT does without NAT traversal and protects the addresses instead: a
	// peer whose address a NAT has changed is refused (RFC 4555, Section 3.9). For
	// paths that are known to have no NAT.
	ProhibitNAT bool
}

func (m Mobility) validate() error {
	for _, list := range [][]netip.Addr{m.Local, m.Remote} {
		for _, a := range list {
			if !usable(a.Unmap()) {
				return fmt.Errorf("mobility: %s is no address that a host can have", a)
			}
		}
	}
	for _, p := range m.Within {
		if !p.IsValid() {
			return errors.New("mobility: a prefix in Within is not valid")
		}
	}
	return nil
}

// mobile reports whether IKE SAs may move: the selectors of transport mode are the
// addresses (RFC 4555, Section 1.2).
func (c *Config) mobile() bool {
	return !c.Mobility.Disable && !slices.ContainsFunc(c.Children, func(ch ChildConfig) bool { return ch.Mode == dataplane.Transport })
}

// decides reports whether this end decides about addresses: it is the initiator
// in the sense of RFC 4555, Section 1.3.
func (sa *ikeSA) decides() bool { return sa.origin.initiator }

// mobikeNotifies are the notifications of IKE_AUTH (RFC 4555, Sections 3.2, 3.4
// and 3.9). request is what is answered, nil for an initiator.
func (sa *ikeSA) mobikeNotifies(request *message) []wire.Payload {
	if !sa.t.cfg.mobile() || request != nil && request.notify(wire.NotifyMOBIKESupported) == nil {
		return nil
	}
	out := []wire.Payload{&wire.Notify{Kind: wire.NotifyMOBIKESupported}}
	out = append(out, sa.additionalAddresses()...)
	if request == nil {
		out = append(out, sa.noNATs(sa.route)...)
	}
	return out
}

// readMobike reads those of the peer.
func (sa *ikeSA) readMobike(m *message) {
	sa.mobike = sa.t.cfg.mobile() && m.notify(wire.NotifyMOBIKESupported) != nil
	sa.t.peerAddresses = nil
	if sa.mobike {
		sa.t.peerAddresses, _ = peerAddresses(m)
	}
}

// additionalAddresses announces the addresses of this end beside the one in use.
func (sa *ikeSA) additionalAddresses() []wire.Payload {
	var out []wire.Payload
	for _, a := range sa.t.localAddresses() {
		if a == sa.local.Addr() || !routed(a) || len(out) == maxAdditional {
			continue
		}
		kind := wire.NotifyAdditionalIP6Address
		if a.Is4() {
			kind = wire.NotifyAdditionalIP4Address
		}
		out = append(out, &wire.Notify{Kind: kind, Data: a.AsSlice()})
	}
	return out
}

// allAdditional is additionalAddresses for INFORMATIONAL, where no address has to
// be said as well (RFC 4555, Section 3.6).
func (sa *ikeSA) allAdditional() []wire.Payload {
	if out := sa.additionalAddresses(); len(out) > 0 {
		return out
	}
	return []wire.Payload{&wire.Notify{Kind: wire.NotifyNoAdditionalAddresses}}
}

// peerAddresses reads the addresses that the peer announces; listed is false if
// it announces nothing. Addresses that nobody can be at are left out.
func peerAddresses(m *message) (addresses []netip.Addr, listed bool) {
	for _, p := range m.payloads {
		n, ok := p.(*wire.Notify)
		if !ok {
			continue
		}
		switch n.Kind {
		case wire.NotifyNoAdditionalAddresses:
			listed = true
		case wire.NotifyAdditionalIP4Address, wire.NotifyAdditionalIP6Address:
			listed = true
			a, ok := netip.AddrFromSlice(n.Data)
			if ok && a.Is4() == (n.Kind == wire.NotifyAdditionalIP4Address) && routed(a) && len(addresses) < maxPeerAddresses {
				addresses = append(addresses, a)
			}
		}
	}
	return addresses, listed
}

// routed reports whether others can reach a host at the address, as far as the
// address itself tells: what is announced, and believed of an announcement.
func routed(a netip.Addr) bool {
	return usable(a) && !a.IsLoopback() && !a.IsLinkLocalUnicast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// usable reports whether a host can have the address.
func usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.Is4In6()
}

// localAddresses are those of this host that IKE may leave from, the preferred one
// first.
func (t *Tunnel) localAddresses() []netip.Addr { return t.cfg.localAddresses() }

func (c *Config) localAddresses() []netip.Addr {
	return distinct(append([]netip.Addr{c.Local.Addr()}, c.Mobility.Local...))
}

// remoteAddresses are those at which the peer may be: where it is now, where it
// was last proved to be, where it is known to be, and where it says it is.
func (sa *ikeSA) remoteAddresses() []netip.Addr {
	all := append([]netip.Addr{sa.remote.Addr(), sa.placed.remote.Addr()}, sa.knownAddresses()...)
	return distinct(append(all, sa.t.peerAddresses...))
}

// knownAddresses are those of the peer by configuration, the preferred one first;
// or that of the gateway which the peer has sent this end to (RFC 5685).
func (sa *ikeSA) knownAddresses() []netip.Addr {
	known := distinct(append([]netip.Addr{sa.t.cfg.Remote.Addr()}, sa.t.cfg.Mobility.Remote...))
	if at := sa.gateway.Addr().Unmap(); usable(at) && !slices.Contains(known, at) {
		return []netip.Addr{at}
	}
	return known
}

func distinct(addresses []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range addresses {
		if a = a.Unmap(); usable(a) && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// noNATs is NO_NATS_ALLOWED for a message over p: it protects the addresses where
// NAT traversal is not in use (RFC 4555, Section 3.9).
func (sa *ikeSA) noNATs(p route) []wire.Payload {
	if sa.natT || p.tcp {
		return nil
	}
	return []wire.Payload{&wire.Notify{Kind: wire.NotifyNoNATsAllowed, Data: addressesOf(p)}}
}

// addressesOf is the content of NO_NATS_ALLOWED (RFC 4555, Section 4.2.6).
func addressesOf(p route) []byte {
	b := append(p.local.Addr().Unmap().AsSlice(), p.remote.Addr().Unmap().AsSlice()...)
	for _, port := range []uint16{p.local.Port(), p.remote.Port()} {
		b = append(b, byte(port>>8), byte(port))
	}
	return b
}

// translated reports whether a NAT changed the addresses of a message that must
// not pass one: the peer says so, or this end does (RFC 4555, Section 3.9). By TCP
// it may (RFC 9329, Section 7.1).
func (sa *ikeSA) translated(m *message) bool {
	if m.tcp {
		return false
	}
	n := m.notify(wire.NotifyNoNATsAllowed)
	if n == nil {
		return sa.t.cfg.Mobility.ProhibitNAT
	}
	return !bytes.Equal(n.Data, addressesOf(route{local: m.remote, remote: m.local}))
}

// refuseTranslated refuses the IKE_AUTH of an authentic peer whose addresses were
// changed on the way and must not be (RFC 4555, Section 3.9).
func (sa *ikeSA) refuseTranslated(m *message) bool {
	if !sa.t.cfg.mobile() || m.notify(wire.NotifyMOBIKESupported) == nil || !sa.translated(m) {
		return false
	}
	sa.refuse(m, wire.NotifyUnexpectedNATDetected, nil)
	sa.t.report(&Error{
		Exchange: m.Exchange, Kind: KindConfiguration, Notify: wire.NotifyUnexpectedNATDetected,
		Remedy: "allow NAT traversal at both ends, or take the NAT out of the path",
		Err:    fmt.Errorf("the message came from %s to %s, which is not how it left", m.remote, m.local),
	})
	sa.linger()
	return true
}

// mobility carries out what an INFORMATIONAL request says about addresses, and
// returns what the answer says.
func (sa *ikeSA) mobility(m *message) []wire.Payload {
	if !sa.mobike {
		return nil
	}
	reply := sa.echo(m)
	addresses, listed := peerAddresses(m)
	update := m.notify(wire.NotifyUpdateSAAddresses) != nil && !sa.decides()
	switch {
	case !update && !listed:
		return reply
	case sa.translated(m):
		return append(reply, &wire.Notify{Kind: wire.NotifyUnexpectedNATDetected})
	case update && !sa.t.acceptable(m.remote.Addr()):
		return append(reply, &wire.Notify{Kind: wire.NotifyUnacceptableAddresses})
	}
	if listed {
		sa.t.peerAddresses = addresses
	}
	if update {
		sa.peerMoves(m)
	} else if sa.decides() && sa == sa.t.primary() {
		sa.reconsider(m.route)
	}
	return reply
}

// echo returns the cookie of a request, and where it was seen to come from if the
// peer wants to know (RFC 4555, Sections 3.7 and 3.8).
func (sa *ikeSA) echo(m *message) []wire.Payload {
	var reply []wire.Payload
	if m.notify(wire.NotifyNATDetectionDestinationIP) != nil && sa.natT {
		reply = sa.m.natNotifies(m.InitiatorSPI, m.ResponderSPI, m.local, m.remote, sa.forcesEncap())
	}
	if n := m.notify(wire.NotifyCookie2); n != nil && len(n.Data) >= minCookie2Len && len(n.Data) <= maxCookie2Len {
		reply = append(reply, &wire.Notify{Kind: wire.NotifyCookie2, Data: bytes.Clone(n.Data)})
	}
	return reply
}

// returned reports whether an answer brings back the cookie of its request, if it
// had one. If not, the IKE SA is closed: the peer has not seen the request (RFC
// 4555, Section 3.7). A refusal, which moves nothing, may do without (Section 3.5).
func (sa *ikeSA) returned(m *message, cookie []byte) bool {
	if cookie == nil || m.notify(wire.NotifyCookie2) == nil && m.errorNotify() != nil {
		return true
	}
	if n := m.notify(wire.NotifyCookie2); n != nil && bytes.Equal(n.Data, cookie) {
		return true
	}
	sa.t.report(&Error{
		Op: "check the peer's address", Exchange: m.Exchange, Kind: KindProtocol, Payload: wire.PayloadNotify,
		Remedy: "look into the peer's log: it answered a request that it had not received, or it does not return cookies (RFC 4555, Section 3.7)",
		Err:    errCookie2,
	})
	sa.end(ReasonProtocol)
	return false
}

// acceptable reports whether policy lets the peer be at that address (RFC 4555,
// Section 3.5): within Mobility.Within, and where it was configured if nothing
// but its address identifies it.
func (t *Tunnel) acceptable(a netip.Addr) bool {
	a = a.Unmap()
	if !usable(a) {
		return false
	}
	if t.cfg.Peer.ID.IsZero() && t.cfg.Remote.Addr().IsValid() {
		return a == t.cfg.Remote.Addr().Unmap() || slices.Contains(distinct(t.cfg.Mobility.Remote), a)
	}
	return len(t.cfg.Mobility.Within) == 0 ||
		slices.ContainsFunc(t.cfg.Mobility.Within, func(p netip.Prefix) bool { return p.Contains(a) })
}

// peerMoves moves the SA to where UPDATE_SA_ADDRESSES came from, and its Child SAs
// once the peer was found there (RFC 4555, Section 3.5).
func (sa *ikeSA) peerMoves(m *message) {
	if sa.natT && m.notify(wire.NotifyNATDetectionSourceIP) != nil {
		sa.detectNAT(m, sa.forcesEncap())
	}
	sa.left = route{}
	sa.t.moveAll(sa, m.route)
	if sa == sa.t.primary() {
		sa.unproved = route{} // whatever it was, this is newer
		sa.proveOrSettle(sa.route)
	}
}

// moveAll moves sa, and with it the other IKE SAs of the tunnel that went the same
// way: those that are replaced and wait for their deletion, or are about to take
// over. What is known of NATs on the way is known to all.
func (t *Tunnel) moveAll(sa *ikeSA, to route) {
	from := sa.route
	for _, o := range t.sas {
		if o == sa || o.route == from && o.state.in(stateUsable) {
			o.move(to)
			o.localNAT, o.remoteNAT, o.encap = sa.localNAT, sa.remoteNAT, sa.encap
		}
	}
}

// patient reports whether a request without an answer is not given up yet: the end
// that does not decide gives the other one time to find another path (RFC 4555,
// Section 3.11), unless it can make a new IKE SA itself.
func (sa *ikeSA) patient(o *outstanding) bool {
	t := sa.t
	if !sa.mobike || sa.decides() || !sa.alive() || sa.redundant || t.wanted && (t.mayInitiate() || t.mayTakeOver()) {
		return false
	}
	o.interval = min(o.interval, maxPatientInterval)
	return sa.m.now.Before(o.begun.Add(sa.m.timing.Patience))
}
