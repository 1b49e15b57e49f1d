package ike

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// maxInitRetries bounds how often a responder can make an initiator begin again
// with a cookie or another key exchange method: its answers are not
// authenticated (RFC 7296, Section 2.6).
const maxInitRetries = 6

// initiate begins a new IKE SA, by a ticket if there is one. If it replaces another
// one, that is deleted when the new one is established.
func (t *Tunnel) initiate(replaces *ikeSA) {
	if k := t.usableTicket(); k != nil && replaces == nil {
		b := beginning{route: route{remote: k.gateway}, ticket: k}
		if t.failures > 0 && len(t.pairs()) > 1 {
			b.route = t.nextPair() // it may be elsewhere
		}
		t.begin(b)
		return
	}
	t.begin(beginning{route: t.nextPair(), replaces: replaces})
}

// beginning is how an IKE SA is begun.
type beginning struct {
	route                // local is the configured one if zero
	replaces *ikeSA      // deleted when the new one is up
	ticket   *heldTicket // nil: with a key exchange and signatures
	// redirectedFrom is which gateway told us to (RFC 5685).
	redirectedFrom netip.Addr
}

func (t *Tunnel) begin(b beginning) {
	if !b.local.IsValid() {
		b.local = t.cfg.Local
	}
	r := b.route
	switch {
	case r.tcp || t.cfg.TCP.Mode == TCPOnly:
		r = t.byTCP(b.local.Addr(), b.remote.Addr())
	case r.remote.Port() == t.natPort:
		// What goes to that port has a non-ESP marker, and so comes from it (RFC
		// 7296, Section 2.23).
		r.local = netip.AddrPortFrom(r.local.Addr(), t.natPort)
	}
	for _, o := range t.sas {
		if o.state == stateListening {
			o.die() // of an attempt that has failed
		}
	}
	sa := &ikeSA{
		state: stateInit, initiator: true, localSPI: t.runtime.NewSPI(),
		path: path{route: r}, redirection: redirection{gateway: b.remote},
		natState: natState{beganEncap: r.local.Port() == t.natPort && !r.tcp, forced: r.tcp && b.remote.Port() == t.natPort},
		parties:  parties{localID: t.cfg.Credentials.ID}, lifetime: lifetime{begun: t.now},
	}
	t.add(sa)
	sa.init = &initState{ni: t.nonce(), replaces: b.replaces, resume: b.ticket, redirectedFrom: b.redirectedFrom}
	if r.tcp {
		sa.dialFirst()
		return
	}
	sa.beginFirst()
}

// beginFirst begins the first exchange, when it is known over which route.
func (sa *ikeSA) beginFirst() {
	if sa.init.resume != nil {
		sa.sendResume()
		return
	}
	sa.init.group = sa.t.cfg.Proposals[0].KeyExchange[0]
	sa.beginInit()
}

// nextPair is where the next attempt goes: each goes between another pair of
// addresses until all were tried (RFC 4555, Section 3.1).
func (t *Tunnel) nextPair() route {
	pairs := t.pairs()
	p := pairs[t.pair%len(pairs)]
	t.pair++
	return p
}

// pairTries is how often IKE_SA_INIT is repeated between one pair of addresses if
// there are others: seldom at first, once more in each round.
func (t *Tunnel) pairTries() int {
	n := len(t.pairs())
	if n == 1 {
		return t.timing.Handshake.Tries
	}
	return 2 + max(0, t.pair-1)/n
}

// pairs are the pairs of addresses to begin between, the configured one first.
func (t *Tunnel) pairs() []route {
	pairs := []route{{local: t.cfg.Local, remote: t.cfg.Remote}}
	var places []netip.AddrPort
	for _, remote := range distinct(append([]netip.Addr{t.cfg.Remote.Addr()}, t.cfg.Mobility.Remote...)) {
		places = append(places, netip.AddrPortFrom(remote, t.cfg.Remote.Port()))
	}
	for _, remote := range append(places, t.cfg.Further...) {
		for _, local := range t.localAddresses() {
			p := route{local: netip.AddrPortFrom(local, t.cfg.Local.Port()), remote: remote}
			if local.Is4() == remote.Addr().Is4() && !slices.Contains(pairs, p) && len(pairs) < maxWays {
				pairs = append(pairs, p)
			}
		}
	}
	return pairs
}

// beginInit makes the private value for init.group and sends IKE_SA_INIT.
func (sa *ikeSA) beginInit() {
	sa.makeKeyExchange(sa.init.group, ClassHandshake, func(ke *suite.KeyExchange, err error) {
		if err != nil {
			sa.fail(&Error{Kind: KindInternal, Exchange: wire.ExchangeIKESAInit, Payload: wire.PayloadKE, Err: err})
			return
		}
		sa.init.destroy()
		sa.init.ke = ke
		sa.sendInit()
	})
}

func (sa *ikeSA) makeKeyExchange(group wire.KeyExchangeID, class Class, then func(*suite.KeyExchange, error)) {
	rand := sa.m.runtime.Rand
	runJob(sa, class, func() (*suite.KeyExchange, error) { return suite.NewKeyExchange(group, rand) }, then)
}

// sendInit sends the IKE_SA_INIT request, with the cookie first if there is one
// (RFC 7296, Section 2.6). Its message ID is 0 each time (Section 2.2).
func (sa *ikeSA) sendInit() {
	i := sa.init
	var payloads []wire.Payload
	if i.cookie != nil {
		payloads = append(payloads, &wire.Notify{Kind: wire.NotifyCookie, Data: i.cookie})
	}
	payloads = append(payloads,
		&wire.SA{Proposals: suite.OfferIKE(sa.t.ikeOffer(), nil)},
		&wire.KE{Group: i.ke.Group(), Data: i.ke.Public()},
		&wire.Nonce{Data: i.ni})
	payloads = append(payloads, sa.natOffer()...)
	payloads = append(payloads, initCapabilities()...)
	payloads = append(payloads, &wire.Notify{Kind: wire.NotifyIntermediateExchangeSupported})
	payloads = append(payloads, offerPPK(sa.t.cfg.PPKs)...)
	payloads = append(payloads, sa.acceptsRedirect()...)
	sa.sendFirst(wire.ExchangeIKESAInit, payloads)
}

// sendFirst sends the first request of an IKE SA.
func (sa *ikeSA) sendFirst(exchange wire.ExchangeType, payloads []wire.Payload) {
	i := sa.init
	h := wire.Header{Exchange: exchange}
	sa.fillHeader(&h)
	raw, err := (&wire.Message{Header: h, Payloads: payloads}).Append(nil)
	if err != nil {
		sa.fail(&Error{Op: "encode " + exchange.String(), Kind: KindInternal, Exchange: exchange, Err: err})
		return
	}
	i.request = raw
	sa.noteSent(h, payloads, [][]byte{raw})
	sa.window.nextSend = 0
	sa.sendRequest(exchange, [][]byte{raw}, nil)
}

// initCapabilities are the notifications that both ends put into IKE_SA_INIT.
func initCapabilities() []wire.Payload {
	return []wire.Payload{
		ident.HashAlgorithmsNotify(),
		&wire.Notify{Kind: wire.NotifyFragmentationSupported},
	}
}

// handleInitResponse takes the response to IKE_SA_INIT. Nothing in it is
// authenticated: an error is a hint unless the RFC says what to do about it (RFC
// 7296, Section 2.21.1), and our repetitions go on.
func (sa *ikeSA) handleInitResponse(m *message) {
	if !m.route.tcp {
		sa.init.heard = m.route.remote
	}
	if n := m.notify(wire.NotifyCookie); n != nil {
		sa.retryWithCookie(n.Data)
		return
	}
	if n := m.notify(wire.NotifyInvalidKEPayload); n != nil {
		sa.retryWithGroup(n.Data)
		return
	}
	if n := m.notify(wire.NotifyRedirect); n != nil {
		sa.redirectedInit(n)
		return
	}
	if n := m.errorNotify(); n != nil {
		sa.m.stats.Hints++
		sa.init.hint = &Error{Exchange: m.Exchange, Notify: n.Kind, Remote: true}
	} else if err := sa.acceptInit(m); err != nil {
		sa.m.stats.Hints++
		sa.init.hint = &Error{Exchange: m.Exchange, Err: err}
	}
	if sa.tcp && sa.init.hint != nil {
		// Nothing better comes by the same connection (RFC 9329, Section 6.4).
		sa.fail(sa.init.hint)
	}
}

func (sa *ikeSA) retryWithCookie(cookie []byte) {
	if len(cookie) == 0 || len(cookie) > 64 || !sa.mayRetry() {
		sa.m.stats.Hints++
		sa.init.hint = &Error{
			Kind: KindCookie, Exchange: wire.ExchangeIKESAInit, Payload: wire.PayloadNotify, Notify: wire.NotifyCookie, Remote: true,
			Err: fmt.Errorf("none of %d beginnings was good enough", maxInitRetries+1),
		}
		return
	}
	sa.init.cookie = cookie
	sa.state, sa.window.outstanding = stateInit, nil
	if sa.init.resume != nil {
		sa.sendResume()
		return
	}
	sa.sendInit()
}

// retryWithGroup begins again with the key exchange method that the responder
// wants, if it is one that we offered (RFC 7296, Section 1.2). The offer stays
// the same, so nobody can talk us into a weaker one.
func (sa *ikeSA) retryWithGroup(data []byte) {
	group, ok := offeredGroup(data, sa.t.ikeOffer())
	repeated := ok && group == sa.init.group // on the way when we began again
	if !ok || repeated || !sa.mayRetry() {
		sa.m.stats.Hints++
		if !repeated {
			sa.init.hint = groupError("", wire.ExchangeIKESAInit, data)
		}
		return
	}
	sa.init.group = group
	sa.state, sa.window.outstanding = stateInit, nil
	sa.beginInit()
}

// groupError says that the peer wants a key exchange method that it cannot have,
// with the data of its INVALID_KE_PAYLOAD.
func groupError(op string, x wire.ExchangeType, data []byte) *Error {
	e := &Error{Op: op, Exchange: x, Notify: wire.NotifyInvalidKEPayload, Remote: true}
	if len(data) == 2 {
		e.Theirs = []string{wire.KeyExchangeID(binary.BigEndian.Uint16(data)).String()}
	}
	return e
}

func (sa *ikeSA) mayRetry() bool {
	sa.init.retries++
	return sa.init.retries <= maxInitRetries
}

// offeredGroup reads the data of INVALID_KE_PAYLOAD.
func offeredGroup(data []byte, proposals []suite.IKEProposal) (wire.KeyExchangeID, bool) {
	if len(data) != 2 {
		return 0, false
	}
	group := wire.KeyExchangeID(binary.BigEndian.Uint16(data))
	for _, p := range proposals {
		if slices.Contains(p.KeyExchange, group) {
			return group, true
		}
	}
	return 0, false
}

// acceptInit checks a response that accepts, and derives the keys.
func (sa *ikeSA) acceptInit(m *message) error {
	i := sa.init
	answer, ke, nr := find[*wire.SA](m), find[*wire.KE](m), find[*wire.Nonce](m)
	switch {
	case m.ResponderSPI.IsZero():
		return errors.New("responder's SPI is zero")
	case answer == nil || ke == nil || nr == nil:
		return errors.New("neither an acceptance nor an error")
	case len(answer.Proposals) != 1 || len(answer.Proposals[0].SPI) != 0:
		return errors.New("answer does not hold exactly one proposal without SPI")
	case string(nr.Data) == string(i.ni):
		return errors.New("nonce is our own")
	}
	chosen, err := suite.AcceptIKE(answer.Proposals[0], sa.t.ikeOffer())
	if err != nil {
		return err
	}
	if chosen.KeyExchange != ke.Group || ke.Group != i.ke.Group() {
		return fmt.Errorf("key exchange %s does not fit the suite %s", ke.Group, chosen)
	}
	if len(chosen.KeyExchanges()) > 1 && m.notify(wire.NotifyIntermediateExchangeSupported) == nil {
		return fmt.Errorf("suite %s without the IKE_INTERMEDIATE exchange that it needs", chosen)
	}
	use, err := sa.t.cfg.agreedPPK(m)
	if err != nil {
		return err
	}
	fresh := sa.fork(m.ResponderSPI)
	if fresh == nil {
		return nil
	}
	i = fresh.init
	fresh.suite = chosen
	i.nr, i.response, i.ppkUse = nr.Data, m.raw, use
	fresh.lowestNonce = lower(i.ni, i.nr)
	fresh.readCapabilities(m)
	fresh.natFound(m)
	fresh.deriveInitial(ke.Data)
	return nil
}

// readCapabilities reads what the peer announces in IKE_SA_INIT.
func (sa *ikeSA) readCapabilities(m *message) {
	sa.init.peer.Read(m.payloads)
	sa.fragment = m.notify(wire.NotifyFragmentationSupported) != nil
	sa.redirectable = !sa.initiator && canRedirect(m)
	if sa.initiator {
		sa.childless = m.notify(wire.NotifyChildlessIKEv2Supported) != nil
	}
}

// deriveInitial computes the keys that IKE_SA_INIT gives.
func (sa *ikeSA) deriveInitial(peerPublic []byte) {
	i, s, spii, spir := sa.init, sa.suite, sa.localSPI, sa.remoteSPI
	ke, ni, nr := i.shared, i.ni, i.nr
	i.shared = nil // the job's from here on
	runJob(sa, ClassHandshake, func() (respondResult, error) {
		defer ke.release()
		shared, err := ke.Shared(peerPublic)
		if err != nil {
			return respondResult{}, err
		}
		defer clear(shared)
		keys, err := suite.DeriveIKEKeys(s, ni, nr, shared, spii, spir)
		return respondResult{keys: keys}, err
	}, func(r respondResult, err error) {
		if err == nil {
			err = sa.useKeys(r.keys)
		}
		if err != nil {
			sa.fail(&Error{Exchange: wire.ExchangeIKESAInit, Err: err})
			return
		}
		i.pending = i.rounds(s)
		sa.proceed()
	})
}

// proofs is our AUTH, and under RFC 8784 one more for a responder that does not
// have the post-quantum preshared key.
type proofs struct{ auth, withoutPPK *ident.Proof }

// sign computes our AUTH, then sends IKE_AUTH.
func (sa *ikeSA) sign() {
	i, cfg, rand := sa.init, sa.t.cfg, sa.m.runtime.Rand
	i.authID = sa.window.nextSend
	local, roots, peer, id := cfg.Credentials, cfg.Peer.Roots, i.peer, cfg.Credentials.Payload(true).Body()
	octets, plain := sa.signedOctets(true, id), ident.Octets{}
	mixed := i.ppkUse == ppkAuth
	if mixed {
		sa.mixPPK(&cfg.PPKs[0])
		octets, plain = sa.signedOctets(true, id), octets
	}
	twice := mixed && !cfg.PPKRequired
	runJob(sa, ClassHandshake, func() (p proofs, err error) {
		if p.auth, err = ident.Sign(local, octets, peer, roots, rand); err == nil && twice {
			p.withoutPPK, err = ident.Sign(local, plain, peer, roots, rand)
		}
		return p, err
	}, func(p proofs, err error) {
		if err != nil {
			sa.fail(&Error{Exchange: wire.ExchangeIKEAuth, Payload: wire.PayloadAuth, Err: err})
			return
		}
		sa.sendAuth(p)
	})
}

// payloads are the AUTH payload and what goes with it (RFC 8784, Section 3).
func (p proofs) payloads(i *initState) []wire.Payload {
	out := []wire.Payload{&wire.Auth{Method: p.auth.Method, Data: p.auth.Data}}
	if i.unmixed != nil {
		out = append(out, &wire.Notify{Kind: wire.NotifyPPKIdentity, Data: i.ppk.WireID()})
	}
	if p.withoutPPK != nil {
		out = append(out, &wire.Notify{Kind: wire.NotifyNoPPKAuth, Data: p.withoutPPK.Data})
	}
	return out
}

// sendAuth sends the IKE_AUTH request. If the peer has established another IKE SA
// with us meanwhile, ours is dropped instead, before anything depends on it: also
// one that is to replace an older one, for that is done.
func (sa *ikeSA) sendAuth(proof proofs) {
	t := sa.t
	if other := t.primary(); other != nil && other != sa.init.replaces {
		sa.die()
		return
	}
	sa.init.provedBy = proof.auth.By
	a := &authTask{sa: sa}
	if err := a.chooseChild(); err != nil {
		sa.fail(err)
		return
	}
	payloads := []wire.Payload{t.cfg.Credentials.Payload(true)}
	for _, c := range proof.auth.Certificates {
		payloads = append(payloads, c)
	}
	if t.isFirst(sa) {
		payloads = append(payloads, &wire.Notify{Kind: wire.NotifyInitialContact})
	}
	if t.cfg.Peer.Roots != nil && sa.init.resume == nil {
		payloads = append(payloads, t.cfg.Peer.Roots.Request())
	}
	payloads = append(payloads, t.cfg.Peer.Methods().Notify())
	if !t.cfg.Peer.ID.IsZero() {
		payloads = append(payloads, t.cfg.Peer.ID.Payload(false))
	}
	payloads = append(payloads, proof.payloads(sa.init)...)
	sa.client = t.cfg.Resume
	payloads = append(payloads, sa.authExtras(nil)...)
	payloads = append(payloads, sa.requestInternal()...)
	if cfg := a.cfg; cfg != nil {
		a.localTS, a.remoteTS = t.proposedTS(cfg.Name, cfg.LocalTS, cfg.RemoteTS)
		payloads = append(payloads, childPayloads(a.offer, a.spi, nil, nil, a.localTS, a.remoteTS, cfg)...)
		payloads = append(payloads, resourceInfo(cfg)...)
	}
	sa.state = stateAuth
	sa.active = a
	sa.ask(wire.ExchangeIKEAuth, payloads, a.answered)
}

// firstChild is the Child SA that IKE_AUTH negotiates.
func (t *Tunnel) firstChild() *ChildConfig {
	for i := range t.cfg.Children {
		if ch := &t.cfg.Children[i]; ch.Start == StartNow || t.slots[i].acquired {
			return ch
		}
	}
	return &t.cfg.Children[0]
}
