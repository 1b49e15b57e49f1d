package ike

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// A responder may send its peer to another gateway: instead of answering
// IKE_SA_INIT, after both have authenticated, or while an IKE SA is up (RFC 5685).
// The initiator goes only where its configuration says that the same peer can be.

const (
	// maxRedirects and redirectPeriod bound the redirects of one tunnel (RFC
	// 5685, Section 7).
	maxRedirects   = 5
	redirectPeriod = 300 * time.Second
	// redirectWait is how long an IKE SA stays whose peer was sent away and has
	// not deleted it (RFC 5685, Section 5).
	redirectWait = time.Minute
)

// redirection is what an IKE SA knows of gateways.
type redirection struct {
	gateway      netip.AddrPort // where the initiator began it
	redirectable bool           // the initiator can be sent to another one
	wantRedirect bool           // and is to be
}

// Gateway is a place where a peer answers: at an address, and by that name.
type Gateway struct {
	Addr netip.AddrPort
	Name string // a FQDN; empty if nobody calls it by one
}

func (g Gateway) isZero() bool { return g == Gateway{} }

func (g Gateway) String() string {
	switch {
	case g.Name != "":
		return g.Name
	case g.Addr.Port() == 0:
		return g.Addr.Addr().String()
	}
	return g.Addr.String()
}

// Gateway Identity Types (RFC 5685, Section 9.2).
const (
	gatewayIPv4 = 1
	gatewayIPv6 = 2
	gatewayFQDN = 3
)

// appendGateway encodes an address, or a name if there is one, as REDIRECT and
// REDIRECTED_FROM have it.
func appendGateway(b []byte, addr netip.Addr, name string) []byte {
	kind, identity := byte(gatewayFQDN), []byte(name)
	if name == "" {
		addr = addr.Unmap()
		kind, identity = gatewayIPv6, addr.AsSlice()
		if addr.Is4() {
			kind = gatewayIPv4
		}
	}
	return append(append(b, kind, byte(len(identity))), identity...)
}

// parseGateway reads a REDIRECT. rest is the nonce, if there is one.
func parseGateway(b []byte) (g Gateway, rest []byte, err error) {
	if len(b) < 2 || len(b) < 2+int(b[1]) {
		return g, nil, errors.New("REDIRECT is too short")
	}
	identity, rest := b[2:2+int(b[1])], b[2+int(b[1]):]
	switch {
	case b[0] == gatewayFQDN && len(identity) > 0:
		g.Name = string(identity)
	case b[0] == gatewayIPv4 && len(identity) == 4, b[0] == gatewayIPv6 && len(identity) == 16:
		addr, _ := netip.AddrFromSlice(identity)
		g.Addr = netip.AddrPortFrom(addr.Unmap(), 0)
	default:
		return g, nil, fmt.Errorf("REDIRECT to a gateway of type %d with %d octets", b[0], len(identity))
	}
	return g, rest, nil
}

// redirectNotice tells the peer where to go; nonce is that of its IKE_SA_INIT
// request, nil in all other exchanges (RFC 5685, Section 9.2).
func redirectNotice(to Gateway, nonce []byte) *wire.Notify {
	return &wire.Notify{Kind: wire.NotifyRedirect, Data: append(appendGateway(nil, to.Addr.Addr(), to.Name), nonce...)}
}

// acceptsRedirect is what a first request says about it.
func (sa *ikeSA) acceptsRedirect() []wire.Payload {
	switch from := sa.init.redirectedFrom; {
	case len(sa.t.cfg.Gateways) == 0:
		return nil
	case from.IsValid():
		return []wire.Payload{&wire.Notify{Kind: wire.NotifyRedirectedFrom, Data: appendGateway(nil, from, "")}}
	}
	return []wire.Payload{&wire.Notify{Kind: wire.NotifyRedirectSupported}}
}

// canRedirect reports whether the initiator said that it can be redirected.
func canRedirect(m *message) bool {
	return m.notify(wire.NotifyRedirectSupported) != nil || m.notify(wire.NotifyRedirectedFrom) != nil
}

// allowedGateway returns where to find the gateway that a peer names, if the
// configuration knows it.
func (c *Config) allowedGateway(named Gateway) (netip.AddrPort, bool) {
	for _, g := range append([]Gateway{{Addr: c.Remote}}, c.Gateways...) {
		if named.Name != "" && strings.EqualFold(named.Name, g.Name) || named.Name == "" && g.Addr.Addr().Unmap() == named.Addr.Addr() {
			return g.Addr, true
		}
	}
	return netip.AddrPort{}, false
}

// redirectTo begins an IKE SA with the gateway that the peer at from names; if it is
// established, it replaces another one. The error says why not.
func (t *Tunnel) redirectTo(named Gateway, from netip.Addr, replaces *ikeSA) error {
	to, ok := t.cfg.allowedGateway(named)
	switch {
	case len(t.cfg.Gateways) == 0 || !ok:
		return fmt.Errorf("peer redirects to %s, which is none of the gateways that are configured", named.String())
	case to.Addr() == from:
		return fmt.Errorf("peer redirects to %s, where it is already", named.String())
	}
	kept := t.redirects[:0]
	for _, at := range t.redirects {
		if t.now.Sub(at) < redirectPeriod {
			kept = append(kept, at)
		}
	}
	if t.redirects = kept; len(t.redirects) >= maxRedirects {
		return fmt.Errorf("peer redirects to %s, after %d redirects in %s: the gateways may redirect in a circle", named.String(), maxRedirects, redirectPeriod)
	}
	t.redirects = append(t.redirects, t.now)
	t.begin(beginning{route: route{remote: to}, replaces: replaces, redirectedFrom: from})
	return nil
}

// redirectedInit takes a REDIRECT in the response to IKE_SA_INIT. Only who has seen
// the request knows the nonce (RFC 5685, Section 3).
func (sa *ikeSA) redirectedInit(n *wire.Notify) {
	named, nonce, err := parseGateway(n.Data)
	if err != nil || sa.state != stateInit || !bytes.Equal(nonce, sa.init.ni) || len(sa.t.cfg.Gateways) == 0 {
		sa.m.stats.Hints++
		return
	}
	if err := sa.t.redirectTo(named, sa.remote.Addr(), sa.init.replaces); err != nil {
		sa.m.stats.Hints++
		sa.init.hint = &Error{Kind: KindConfiguration, Exchange: wire.ExchangeIKESAInit, Payload: wire.PayloadNotify, Notify: wire.NotifyRedirect, Remote: true, Err: err}
		return
	}
	sa.die()
}

// redirectedAuth takes a REDIRECT in the response to IKE_AUTH, which is verified
// (RFC 5685, Section 6). It reports whether there was one: then the IKE SA has no
// Child SA and ends.
func (a *authTask) redirectedAuth(m *message) bool {
	sa, t := a.sa, a.sa.t
	n := m.notify(wire.NotifyRedirect)
	if n == nil || find[*wire.SA](m) != nil {
		return false
	}
	named, _, err := parseGateway(n.Data)
	sa.abandonTask()
	sa.state, sa.established, sa.replaced = stateEstablished, t.now, true
	sa.end(ReasonRedirected)
	if err == nil {
		err = t.redirectTo(named, sa.remote.Addr(), sa.init.replaces)
	}
	if err != nil {
		t.failures++
		t.report(&Error{Kind: KindConfiguration, Exchange: m.Exchange, Payload: wire.PayloadNotify, Notify: wire.NotifyRedirect, Remote: true, Err: err})
	}
	sa.init.destroy()
	sa.init = nil
	return true
}

// redirectedActive takes a REDIRECT of an authenticated responder (RFC 5685,
// Section 5). The new IKE SA is made before this one is deleted.
func (sa *ikeSA) redirectedActive(m *message) {
	n := m.notify(wire.NotifyRedirect)
	if n == nil || !sa.initiator || !sa.alive() || sa != sa.t.primary() {
		return // only the original responder can redirect (Section 10)
	}
	named, _, err := parseGateway(n.Data)
	if err == nil {
		err = sa.t.redirectTo(named, sa.remote.Addr(), sa)
	}
	if err != nil {
		sa.t.report(&Error{Kind: KindConfiguration, Exchange: m.Exchange, Payload: wire.PayloadNotify, Notify: wire.NotifyRedirect, Remote: true, Err: err})
	}
}

// redirects reports whether the peer of sa is to be sent to another gateway.
func (sa *ikeSA) redirects() bool {
	return sa.redirectable && !sa.initiator && !sa.t.cfg.RedirectTo.isZero()
}

// redirectTask sends the peer away (RFC 5685, Section 5). It is to delete the IKE SA
// when the new one is there.
type redirectTask struct{ sa *ikeSA }

func (r *redirectTask) start() {
	sa := r.sa
	sa.wantRedirect = false
	sa.ask(wire.ExchangeInformational, []wire.Payload{redirectNotice(sa.t.cfg.RedirectTo, nil)}, func(*message) {
		sa.finish()
		sa.sentAway()
	})
}

func (r *redirectTask) abandon() {}

// sentAway bounds how long an IKE SA stays whose peer is to go.
func (sa *ikeSA) sentAway() {
	if sa.alive() {
		sa.reason, sa.endAt = ReasonRedirected, sa.m.now.Add(redirectWait)
	}
}

// redirectAll sends away the peers that are here when that is configured.
func (t *Tunnel) redirectAll(old *Config) {
	if t.cfg.RedirectTo == old.RedirectTo {
		return
	}
	for _, sa := range t.sas {
		if sa.alive() {
			sa.wantRedirect = sa.redirects()
		}
	}
}

// redirectInit answers a first request with another gateway, if the initiator can
// be redirected, and reports whether it did. Nothing is kept (RFC 5685, Section 3).
func (h *HalfOpen) redirectInit(m *message) bool {
	if h.cfg.RedirectTo.isZero() || !canRedirect(m) || m.Exchange != wire.ExchangeIKESAInit {
		return false
	}
	n := redirectNotice(h.cfg.RedirectTo, find[*wire.Nonce](m).Data)
	h.refuseInit(m, n.Kind, n.Data)
	return true
}
