package ike

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// The end that decides about addresses, and the announcement of addresses, which
// both ends do (RFC 4555, Sections 3.5, 3.6 and 3.10).

const (
	// maxUpdateTries is how often an update is sent anew that a NAT has spoilt
	// (RFC 4555, Section 3.9).
	maxUpdateTries = 5
	// homeInterval is how often the preferred path is tried again after it failed
	// (RFC 4555, Section 3.10).
	homeInterval = time.Minute
)

var (
	errCookie2  = errors.New("the answer does not bring the cookie back")
	errNoPath   = errors.New("there is no other pair of addresses of the same family")
	errRejected = errors.New("the peer accepts none of the addresses that there are")
)

// choose moves the IKE SA to p and has the peer told. The Child SAs go at once if
// the peer is known to be at that address, otherwise when it has answered there.
func (sa *ikeSA) choose(p route) {
	sa.t.moveAll(sa, p)
	sa.wantUpdate = true
	if p.remote == sa.placed.remote || sa.t.cfg.Mobility.TrustPeer {
		sa.settle()
	}
}

// updateTask tells the peer the path that this end has chosen (RFC 4555, Section
// 3.5).
type updateTask struct {
	sa     *ikeSA
	to     route
	cookie []byte
}

func (u *updateTask) start() {
	sa := u.sa
	sa.wantUpdate, sa.wantAnnounce = false, false
	u.to, u.cookie = sa.route, sa.m.random(cookie2Len)
	payloads := []wire.Payload{&wire.Notify{Kind: wire.NotifyUpdateSAAddresses}}
	if sa.natT {
		payloads = append(payloads, sa.natNow()...)
	}
	payloads = append(payloads, sa.noNATs(u.to)...)
	payloads = append(payloads, sa.allAdditional()...)
	payloads = append(payloads, &wire.Notify{Kind: wire.NotifyCookie2, Data: u.cookie})
	sa.ask(wire.ExchangeInformational, payloads, u.answered)
}

func (u *updateTask) abandon() {}

func (u *updateTask) answered(m *message) {
	sa := u.sa
	sa.finish()
	switch {
	case !sa.returned(m, u.cookie):
	case sa.route != u.to:
		// It has changed since: another update follows (RFC 4555, Section
		// 3.5).
	case m.notify(wire.NotifyUnexpectedNATDetected) != nil:
		sa.retryUpdate(m)
	case m.notify(wire.NotifyUnacceptableAddresses) != nil:
		sa.refusedBy(m)
	case !sa.answered.only(u.to):
		// It is not known which of its copies the peer has taken (RFC 4555,
		// Sections 3.6 and 3.7).
		sa.wantUpdate = true
	default:
		sa.updateTries, sa.refusedPaths = 0, nil
		if sa.natT && m.notify(wire.NotifyNATDetectionDestinationIP) != nil {
			sa.detectNAT(m, sa.forcesEncap())
		}
		sa.settle()
	}
}

// natNow are the NAT detection payloads of an INFORMATIONAL request (RFC 4555,
// Section 3.8).
func (sa *ikeSA) natNow() []wire.Payload {
	h := wire.Header{}
	sa.fillHeader(&h)
	return sa.m.natNotifies(h.InitiatorSPI, h.ResponderSPI, sa.local, sa.remote, sa.forcesEncap())
}

// retryUpdate sends an update anew whose addresses were changed on the way: maybe
// of that message only (RFC 4555, Section 3.9).
func (sa *ikeSA) retryUpdate(m *message) {
	if sa.updateTries++; sa.updateTries <= maxUpdateTries {
		sa.wantUpdate = true
		return
	}
	sa.updateTries = 0
	sa.refusedBy(m)
}

// refusedBy chooses another path after the peer refused this one, or makes a new
// IKE SA if there is none.
func (sa *ikeSA) refusedBy(m *message) {
	t := sa.t
	if len(sa.refusedPaths) < maxWays {
		sa.refusedPaths = append(sa.refusedPaths, sa.route)
	}
	refused := &Error{
		Op: "move to " + sa.local.String(), Kind: KindConfiguration, Exchange: m.Exchange,
		Notify: m.errorNotify().Kind, Remote: true, Err: errRejected,
		Remedy: "let the peer accept that address, or give this end one that it accepts",
	}
	if refused.Notify == wire.NotifyUnexpectedNATDetected {
		refused.Remedy = "allow NAT traversal at both ends, or give this end an address that no NAT changes"
	}
	for _, p := range sa.alternatives() {
		if !slices.Contains(sa.refusedPaths, p) {
			sa.choose(p)
			return
		}
	}
	sa.refusedPaths = nil
	t.report(refused)
	if t.mayInitiate() && t.wanted {
		t.initiate(sa)
	}
}

// alternatives are the other paths on which the peer may be reached, the preferred
// addresses first: what a request is repeated over when the path in use fails. The
// end that does not decide tries them only to announce its addresses (RFC 4555,
// Sections 3.6 and 3.10), or when it cannot leave for the address in use any more: what
// it had asked has to be answered before it can announce. They go by UDP; for TCP see
// tryTCP.
func (sa *ikeSA) alternatives() []route {
	_, announces := sa.active.(*announceTask)
	if !sa.mobike || !sa.decides() && !announces && !sa.stranded() || sa.t.cfg.TCP.Mode == TCPOnly {
		return nil
	}
	var out []route
	for _, remote := range sa.remoteAddresses() {
		for _, local := range sa.t.localAddresses() {
			p := sa.pathTo(local, remote)
			if local.Is4() == remote.Is4() && p != sa.route && len(out) < maxWays-1 {
				out = append(out, p)
			}
		}
	}
	return out
}

// pathTo is the path between two addresses, with the ports in use: a NAT in front
// of the peer has given it its port for the address in use only. It is one by UDP,
// which is tried first whatever was in use before (RFC 9329, Section 7.1).
func (sa *ikeSA) pathTo(local, remote netip.Addr) route {
	if sa.tcp {
		return route{local: netip.AddrPortFrom(local, sa.m.natPort), remote: netip.AddrPortFrom(remote, sa.m.natPort)}
	}
	port := sa.t.cfg.Remote.Port()
	switch {
	case remote == sa.remote.Addr():
		port = sa.remote.Port()
	case sa.local.Port() == sa.m.natPort || port == 0:
		port = sa.m.natPort
	}
	return route{local: netip.AddrPortFrom(local, sa.local.Port()), remote: netip.AddrPortFrom(remote, port)}
}

// answeredOver takes that an authentic answer came over p. If that is not the path
// in use, but one that the request was sent over because the other one failed, it
// is from now on (RFC 4555, Section 3.10).
func (sa *ikeSA) answeredOver(o *outstanding, p route) {
	if !sa.mobike || sa.state != stateEstablished || p == sa.route || !slices.Contains(o.ways, p) {
		return
	}
	_, announced := sa.active.(*announceTask)
	switch {
	case sa.decides() && (p != o.test || o.only(p)):
		sa.testAt = sa.m.now.Add(homeInterval)
		sa.choose(p)
	case !sa.decides() && !sa.left.isZero() && (announced && p.remote == sa.remote || sa.stranded()) && sa.t.isLocal(p.local.Addr()):
		// It had to leave its address; the one that it left for does not work,
		// this one does.
		sa.goFrom(p)
	}
}

// stranded reports whether this host has no address left from which the peer's
// address in use can be reached, as IPv4 or IPv6 has gone: only then does the end
// that does not decide go to another address of the peer.
func (sa *ikeSA) stranded() bool {
	return !slices.ContainsFunc(sa.t.localAddresses(), func(a netip.Addr) bool { return a.Is4() == sa.remote.Addr().Is4() })
}

// suspectPath takes that something that may be forged says the path fails: a
// request that is out is repeated over the others too, or one is sent (RFC 4555,
// Section 3.5).
func (sa *ikeSA) suspectPath() {
	now := sa.m.now
	if now.Before(sa.suspectAt) || sa.state != stateEstablished {
		return
	}
	sa.suspectAt = now.Add(hintInterval)
	if o := sa.window.outstanding; o != nil {
		o.silent = max(o.silent, suspectTries)
		sa.repeat(o)
		return
	}
	sa.wantProbe = true
}

// unreachable takes the hint that datagrams to remote do not arrive.
func (t *Tunnel) unreachable(remote netip.AddrPort) {
	for _, sa := range t.sas {
		if sa.remote == remote && sa.state == stateEstablished {
			sa.suspectPath()
		}
	}
}

// reachable takes that there is a way to the peer again, which may have given this end up
// meanwhile: it is asked now, and not when the request or the attempt that failed for want
// of a way is repeated. The host says so itself, so that it is not put off as a hint is.
func (t *Tunnel) reachable() {
	t.failures = 0
	if !t.connectAt.IsZero() {
		t.connectAt = t.now
	}
	for _, sa := range t.sas {
		if sa.state == stateEstablished {
			sa.suspectAt = time.Time{}
			sa.suspectPath()
		} else if o := sa.window.outstanding; o != nil && sa.state.in(stateInit|stateIntermediate|stateAuth) {
			sa.repeat(o)
		}
	}
}

// announceTask tells the peer which addresses this end has (RFC 4555, Section
// 3.6).
type announceTask struct {
	sa   *ikeSA
	from netip.Addr // that the list leaves out
}

func (a *announceTask) start() {
	sa := a.sa
	sa.wantAnnounce, a.from = false, sa.local.Addr()
	sa.ask(wire.ExchangeInformational, append(sa.allAdditional(), sa.noNATs(sa.route)...), a.answered)
}

func (a *announceTask) abandon() {}

func (a *announceTask) answered(m *message) {
	sa := a.sa
	sa.finish()
	switch {
	case m.notify(wire.NotifyUnexpectedNATDetected) != nil:
		sa.updateTries++
		sa.wantAnnounce = sa.updateTries <= maxUpdateTries
	case sa.answered.hasOtherSource(a.from):
		// The peer has taken one of them for the address that is not in the list,
		// and it may not be this one (RFC 4555, Section 3.6).
		sa.wantAnnounce = true
	default:
		sa.updateTries = 0
	}
}

// reconsider takes the peer's announcement that came over p. If that is not where
// the peer was, this end goes there: the peer had a reason to leave (RFC 4555,
// Section 3.5).
func (sa *ikeSA) reconsider(p route) {
	if sa.remote.Addr() != p.remote.Addr() {
		sa.choose(p)
	}
}

// readdress follows a change of this host's addresses, or of where the peer is
// configured to be.
func (t *Tunnel) readdress(sa *ikeSA, old, fresh *Config) {
	gone := !t.isLocal(sa.local.Addr())
	listed := !slices.Equal(old.localAddresses(), fresh.localAddresses())
	elsewhere := old.Remote != fresh.Remote
	if elsewhere && fresh.Remote.IsValid() {
		sa.gateway = fresh.Remote
	}
	if !sa.decides() {
		switch back := sa.left; {
		case gone:
			sa.leave()
		case !back.isZero() && t.isLocal(back.local.Addr()):
			sa.left = route{}
			sa.goFrom(back)
		}
		sa.wantAnnounce = sa.wantAnnounce || gone || listed
		return
	}
	if gone || elsewhere || old.Local.Addr() != fresh.Local.Addr() {
		p, ok := sa.preferred(elsewhere)
		switch {
		case ok && fresh.TCP.Mode == TCPOnly:
			sa.reconnect()
			return
		case ok && p != sa.route && !gone && !elsewhere:
			sa.testAt = sa.m.now // the path in use still works
		case ok && p != sa.route:
			sa.choose(p)
			return
		case !ok && gone:
			t.report(&Error{
				Op: "leave " + sa.local.Addr().String(), Kind: KindConfiguration,
				Err: fmt.Errorf("%w: here %v, the peer %v", errNoPath, t.localAddresses(), sa.remoteAddresses()),
			})
		}
	}
	sa.wantAnnounce = sa.wantAnnounce || listed
}

// isLocal reports whether the host has that address, as far as is known: it may
// have any if its address is left to routing.
func (t *Tunnel) isLocal(a netip.Addr) bool {
	return !usable(t.cfg.Local.Addr().Unmap()) || slices.Contains(t.localAddresses(), a.Unmap())
}

// preferred is the path between the first local address and the first of the peer
// that are of one family: the peer's present one, or with elsewhere the one that it
// is configured to have.
func (sa *ikeSA) preferred(elsewhere bool) (route, bool) {
	remotes := sa.remoteAddresses()
	if elsewhere {
		remotes = distinct(append(sa.knownAddresses(), remotes...))
	}
	for _, local := range sa.t.localAddresses() {
		for _, remote := range remotes {
			if local.Is4() == remote.Is4() {
				return sa.pathTo(local, remote), true
			}
		}
	}
	return route{}, false
}

// leave moves the end that does not decide off an address that it no longer has:
// the one case in which it moves Child SAs by itself (RFC 4555, Section 3.5). It
// comes back when it has that address again, for the peer may still be using it.
func (sa *ikeSA) leave() {
	if sa.tcp {
		return // the originator connects again
	}
	if sa.left.isZero() {
		sa.left = sa.route
	}
	for _, local := range sa.t.localAddresses() {
		if local.Is4() == sa.remote.Addr().Is4() {
			sa.goFrom(sa.pathTo(local, sa.remote.Addr()))
			return
		}
	}
}

// homeAt is when the preferred path is tried again, after it failed.
func (sa *ikeSA) homeAt() time.Time {
	if sa.testAt.IsZero() || !sa.mobike || !sa.decides() || sa.state != stateEstablished || sa.window.outstanding != nil {
		return time.Time{}
	}
	return sa.testAt
}

// goHome tests the preferred path, if it is not in use.
func (sa *ikeSA) goHome() {
	p, ok := sa.preferred(true)
	if !ok || p == sa.route || sa != sa.t.primary() || sa.t.cfg.TCP.Mode == TCPOnly {
		sa.testAt = time.Time{}
		return
	}
	sa.testAt = sa.m.now.Add(homeInterval)
	sa.wantHome = true
}

// homeTask tests whether the preferred path works again; answeredOver takes it
// if it does.
type homeTask struct{ sa *ikeSA }

func (h *homeTask) start() {
	h.sa.wantHome = false
	p, ok := h.sa.preferred(true)
	if !ok || p == h.sa.route {
		h.sa.finish()
		return
	}
	h.sa.askOver(p, wire.ExchangeInformational, nil, func(*message) { h.sa.finish() })
}

func (h *homeTask) abandon() {}

// remapped takes the answer to a liveness check: if the peer sees this end at
// another place than before, a NAT has changed its mapping (RFC 4555, Section
// 3.8). If there is another answer than before to whether the peer is behind one,
// that is found out anew as well.
func (sa *ikeSA) remapped(m *message) {
	n := m.notify(wire.NotifyNATDetectionDestinationIP)
	if n != nil && (!bytes.Equal(n.Data, sa.mapped) || sa.peerTranslated(m) != sa.remoteNAT) {
		sa.wantUpdate = true
	}
}
