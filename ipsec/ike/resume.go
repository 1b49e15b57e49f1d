package ike

import (
	"bytes"
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// Session resumption (RFC 5723): the initiator keeps a ticket and SK_d of its IKE
// SA, and makes a new one of them after a failure, without key exchange and
// signatures. The resumed IKE SA is only as secret as the ticket's key, so it is
// rekeyed soon, with a key exchange, at a time when not everybody does so, and its
// Child SAs after it.

const (
	// resumeTries is how often a request of a resumption is repeated before it is
	// given up for the whole exchange.
	resumeTries = 2
	// resumedLife is how long a resumed IKE SA is used before it is rekeyed; half
	// of it is random.
	resumedLife = 10 * time.Minute
	// ticketRetry is when to ask again for a ticket that could not be had at once.
	ticketRetry = 30 * time.Second
	// maxIssued is how many tickets of one IKE SA are remembered.
	maxIssued = 4
)

// resumption is what an IKE SA has to do with tickets.
type resumption struct {
	client, resumed bool // it asks for tickets; it came out of one
	wantTicket      bool
	ticketAt        time.Time  // a new ticket is asked for then
	issued          []ticketID // those that the peer got
	proved          time.Time  // when the peer last proved its identity
}

// Ticket is what is to be given back in Runtime.Ticket when the tunnel begins
// anew; nil State is for nothing. It holds keys and is to be kept as such.
type Ticket struct{ State []byte }

func (Ticket) effect() {}

// heldTicket is a ticket of the peer and the session that it is for.
type heldTicket struct {
	*session
	ticket  []byte
	gateway netip.AddrPort // where the session was begun: it is resumed there
}

func (k *heldTicket) append() []byte {
	var b []byte
	for _, field := range [][]byte{k.ticket, []byte(k.gateway.String())} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(field)))
		b = append(b, field...)
	}
	return k.session.append(b)
}

// restoreTicket reads what append wrote; what cannot be read is no loss but of time.
func restoreTicket(state []byte) *heldTicket {
	r := sessionReader{b: state}
	k := &heldTicket{ticket: r.field()}
	gateway, err := netip.ParseAddrPort(string(r.field()))
	if err != nil || len(k.ticket) == 0 {
		return nil
	}
	k.gateway = gateway
	if k.session, err = parseSession(r.b); err != nil {
		return nil
	}
	return k
}

// askForTicket is the request for a ticket, by the initiator of IKE_AUTH.
func (sa *ikeSA) askForTicket() []wire.Payload {
	if !sa.client {
		return nil
	}
	return []wire.Payload{&wire.Notify{Kind: wire.NotifyTicketRequest}}
}

// ticketAnswer is the answer to a request for a ticket (RFC 5723, Section 4.1).
func (sa *ikeSA) ticketAnswer(request *message) []wire.Payload {
	keys := sa.m.runtime.Tickets
	if keys == nil || !sa.t.cfg.Resume || request.notify(wire.NotifyTicketRequest) == nil {
		return nil
	}
	now := sa.m.outside(sa.m.now)
	expires := now.Add(ticketLife)
	limits := []time.Time{sa.proved.Add(sessionLife)}
	if sa.evidence != nil && !sa.evidence.expires.IsZero() {
		limits = append(limits, sa.evidence.expires)
	}
	for _, limit := range limits {
		if limit.Before(expires) {
			expires = limit
		}
	}
	s := sa.newSession(expires)
	defer s.destroy()
	ticket, err := keys.seal(now, s)
	life := expires.Sub(now) / time.Second
	if err != nil || life < leastTicketLife/time.Second {
		return []wire.Payload{&wire.Notify{Kind: wire.NotifyTicketNack}}
	}
	if len(sa.issued) == maxIssued {
		sa.issued = slices.Delete(sa.issued, 0, 1)
	}
	sa.issued = append(sa.issued, idOf(ticket))
	data := binary.BigEndian.AppendUint32(nil, uint32(life)) // RFC 5723, Section 7.1
	return []wire.Payload{&wire.Notify{Kind: wire.NotifyTicketLTOpaque, Data: append(data, ticket...)}}
}

// takeTicket reads the answer to the request for a ticket.
func (sa *ikeSA) takeTicket(m *message) {
	t := sa.t
	if !sa.client {
		return
	}
	n := m.notify(wire.NotifyTicketLTOpaque)
	if n == nil || len(n.Data) <= 4 || len(n.Data) > 4+maxForeignTicket {
		if m.notify(wire.NotifyTicketAck) != nil {
			sa.ticketAt = sa.m.now.Add(ticketRetry + sa.m.jitter(ticketRetry))
		}
		return
	}
	life := min(time.Duration(binary.BigEndian.Uint32(n.Data))*time.Second, sessionLife)
	now := sa.m.outside(sa.m.now)
	t.dropTicket(false)
	t.ticket = &heldTicket{sa.newSession(now.Add(life)), bytes.Clone(n.Data[4:]), sa.gateway}
	sa.ticketAt = sa.m.now.Add(life/2 + sa.m.jitter(life/4))
	t.emit(Ticket{t.ticket.append()})
}

// maxForeignTicket bounds the ticket of a peer, which goes into a datagram.
const maxForeignTicket = 1024

// dropTicket forgets the ticket, and has it forgotten if tell is set.
func (t *Tunnel) dropTicket(tell bool) {
	if t.ticket == nil {
		return
	}
	t.ticket.destroy()
	t.ticket = nil
	if tell {
		t.emit(Ticket{})
	}
}

// ticketTask asks for a ticket in an exchange of its own (RFC 5723, Section 4.1).
type ticketTask struct{ sa *ikeSA }

func (k *ticketTask) start() {
	sa := k.sa
	sa.wantTicket = false
	sa.ask(wire.ExchangeInformational, sa.askForTicket(), func(m *message) {
		sa.finish()
		sa.takeTicket(m)
	})
}

func (k *ticketTask) abandon() {}

// endTickets ends the tickets of an IKE SA that was deleted or replaced. Those of
// one that was lost are what tickets are for (RFC 5723, Sections 6.2 and 9.8).
func (sa *ikeSA) endTickets(why Reason) {
	if why == ReasonPeerDead || why == ReasonPeerRestarted {
		return
	}
	t := sa.t
	if t.ticket != nil && sa.initiator && t.ticket.spii == sa.localSPI {
		t.dropTicket(true)
	}
	for _, id := range sa.issued {
		sa.m.runtime.Tickets.spend(id)
	}
	sa.issued = nil
}

// inheritTickets has the IKE SA that replaces sa by rekeying ask for a new ticket
// (RFC 5723, Section 6.2), and if sa was resumed, its Child SAs rekeyed as well.
func (sa *ikeSA) inheritTickets(fresh *ikeSA) {
	fresh.wantTicket = fresh.client
	if !sa.resumed || !fresh.initiator {
		return
	}
	for _, c := range sa.t.childrenOf(fresh) {
		c.wantRekey = c.wantRekey || c.state == childInstalled && !c.redundant
	}
}

// usableTicket returns the ticket if it fits the configuration of today.
func (t *Tunnel) usableTicket() *heldTicket {
	k := t.ticket
	if k == nil || !t.cfg.Resume {
		return nil
	}
	_, known := t.cfg.allowedGateway(Gateway{Addr: k.gateway})
	fits := known && t.cfg.allows(k.session) && k.idi.Equal(t.cfg.Credentials.ID) && (t.cfg.Peer.ID.IsZero() || k.idr.Equal(t.cfg.Peer.ID))
	if !fits || !t.outside(t.now).Before(k.expires) {
		t.dropTicket(true)
		return nil
	}
	return k
}

// sendResume sends the IKE_SESSION_RESUME request (RFC 5723, Section 4.3.2). It
// behaves as IKE_SA_INIT does.
func (sa *ikeSA) sendResume() {
	i := sa.init
	payloads := []wire.Payload{
		&wire.Nonce{Data: i.ni},
		&wire.Notify{Kind: wire.NotifyTicketOpaque, Data: i.resume.ticket},
	}
	if i.cookie != nil {
		payloads = slices.Insert(payloads, 0, wire.Payload(&wire.Notify{Kind: wire.NotifyCookie, Data: i.cookie}))
	}
	payloads = append(payloads, sa.natOffer()...)
	payloads = append(payloads, &wire.Notify{Kind: wire.NotifyFragmentationSupported})
	payloads = append(payloads, sa.acceptsRedirect()...)
	sa.sendFirst(wire.ExchangeIKESessionResume, payloads)
}

// handleResumeResponse takes the response. None of it is authenticated: a refusal
// costs a whole exchange at the most.
func (sa *ikeSA) handleResumeResponse(m *message) {
	if n := m.notify(wire.NotifyCookie); n != nil {
		sa.retryWithCookie(n.Data)
		return
	}
	if m.notify(wire.NotifyTicketNack) != nil {
		if sa.state == stateInit {
			sa.fail(&Error{Exchange: m.Exchange, Notify: wire.NotifyTicketNack, Remote: true})
		}
		return
	}
	nr := find[*wire.Nonce](m)
	if nr == nil || m.ResponderSPI.IsZero() || bytes.Equal(nr.Data, sa.init.ni) {
		sa.m.stats.Hints++
		return
	}
	fresh := sa.fork(m.ResponderSPI)
	if fresh == nil {
		return
	}
	i := fresh.init
	fresh.suite = i.resume.suite
	i.nr, i.response = nr.Data, m.raw
	fresh.lowestNonce = lower(i.ni, i.nr)
	fresh.readCapabilities(m)
	fresh.natFound(m)
	fresh.deriveResumed(i.resume.session, sa.t.cfg.Peer, i.resume.idr, func() {
		proof := &ident.Proof{Method: wire.AuthSharedKey}
		i.authID = fresh.window.nextSend
		proof.Data = fresh.signedOctets(true, fresh.t.cfg.Credentials.Payload(true).Body()).ResumedAuth(fresh.skP(true))
		fresh.sendAuth(proofs{auth: proof})
	})
}

// resumedResult is what the job of a resumption computes.
type resumedResult struct {
	keys *suite.IKEKeys
	peer *ident.VerifiedPeer
}

// Destroy zeroes the keys.
func (r resumedResult) Destroy() { r.keys.Destroy() }

// deriveResumed checks that the peer would still be believed and computes the keys
// (RFC 5723, Section 5.1).
func (sa *ikeSA) deriveResumed(s *session, remote ident.Remote, peer ident.ID, then func()) {
	i, skD, now := sa.init, bytes.Clone(s.skD), sa.m.outside(sa.m.now)
	spii, spir := sa.localSPI, sa.remoteSPI
	runJob(sa, ClassHandshake, func() (resumedResult, error) {
		defer clear(skD)
		believed, err := s.stillBelieved(remote, peer, now)
		if err != nil {
			return resumedResult{}, err
		}
		keys, err := suite.ResumeIKEKeys(s.suite, skD, i.ni, i.nr, spii, spir)
		return resumedResult{keys, believed}, err
	}, func(r resumedResult, err error) {
		if err == nil {
			err = sa.useKeys(r.keys)
		}
		if err != nil {
			sa.fail(&Error{Exchange: wire.ExchangeIKESessionResume, Err: err})
			return
		}
		sa.evidence = &evidence{chain: s.chain, expires: r.peer.Expires}
		then()
	})
}

// resumed verifies the responder of a resumed IKE SA, and then makes the first
// Child SA.
func (a *authTask) resumed(m *message) {
	sa := a.sa
	k := sa.init.resume
	if err := sa.verifyResumed(m, k.idr); err != nil {
		sa.fail(&Error{Exchange: m.Exchange, Payload: wire.PayloadAuth, Notify: wire.NotifyAuthenticationFailed, Err: err})
		return
	}
	sa.continueSession(k.session, k.idr)
	sa.t.dropTicket(true) // it is for one use (RFC 5723, Section 4.3.1)
	a.established(m)
}

// verifyResumed checks identity and AUTH of the other end (RFC 5723, Section
// 4.3.3).
func (sa *ikeSA) verifyResumed(m *message, want ident.ID) error {
	idp, auth := m.id(!sa.initiator), find[*wire.Auth](m)
	id, err := ident.FromPayload(idp)
	switch {
	case err != nil:
		return err
	case !id.Equal(want):
		return errors.New("identity is another one than that of the session")
	case auth.Method != wire.AuthSharedKey:
		return errors.New("a resumed IKE SA is authenticated by method 2")
	}
	octets := sa.signedOctets(!sa.initiator, idp.Body())
	if !hmac.Equal(octets.ResumedAuth(sa.skP(!sa.initiator)), auth.Data) {
		return errors.New("AUTH is wrong: the other end does not have the session's keys")
	}
	return nil
}

// continueSession notes what the IKE SA has from the session before.
func (sa *ikeSA) continueSession(s *session, peer ident.ID) {
	sa.remoteID, sa.remoteAuth = peer, s.method
	sa.resumed, sa.proved, sa.ppk = true, s.proved, s.ppk
}

// refreshSoon sets when a resumed IKE SA gets keys of a key exchange.
func (sa *ikeSA) refreshSoon() {
	if !sa.resumed {
		return
	}
	life := resumedLife - sa.m.jitter(resumedLife/2)
	if !sa.initiator {
		life = resumedLife + resumedLife/4 // in case that the initiator does not
	}
	if at := sa.m.now.Add(life); sa.rekeyAt.IsZero() || at.Before(sa.rekeyAt) {
		sa.rekeyAt = at
	}
}

// resumeFailed goes on with the whole exchange (RFC 5723, Section 4.3.2), at the same
// place: the request with the ticket may have been too large for the path. A ticket
// that was refused is of no use any more; one that was not answered may be when the
// peer is back.
func (t *Tunnel) resumeFailed(sa *ikeSA, why Reason) {
	if why != ReasonPeerDead {
		t.dropTicket(true)
	}
	t.decided(sa)
	local := netip.AddrPortFrom(sa.local.Addr(), t.cfg.Local.Port())
	b := beginning{route: route{local, sa.gateway, sa.tcp}, replaces: sa.init.replaces}
	sa.die()
	t.begin(b)
}

// answerResume is the responder's part of IKE_SESSION_RESUME. Until the ticket is
// open nothing is kept.
func (h *HalfOpen) answerResume(m *message) {
	refuse := func(err error) {
		h.refuseInit(m, wire.NotifyTicketNack, nil)
		h.failed(&Error{Exchange: m.Exchange, Payload: wire.PayloadNotify, Notify: wire.NotifyTicketNack, Err: err})
	}
	ticket := m.notify(wire.NotifyTicketOpaque)
	if h.runtime.Tickets == nil || ticket == nil {
		refuse(errTicketUnknown)
		return
	}
	s, err := h.runtime.Tickets.open(h.outside(h.now), ticket.Data)
	if err == nil && !slices.ContainsFunc(h.cfg.Proposals, func(p suite.IKEProposal) bool { return p.Allows(s.suite) }) {
		s.destroy()
		err = errors.New("the session's suite is no longer allowed")
	}
	if err != nil {
		refuse(err)
		return
	}
	sa := h.sa
	h.begin(m, s.suite)
	sa.init.session, sa.init.ticket = s, idOf(ticket.Data)
	skD := bytes.Clone(s.skD)
	i, spii, spir := sa.init, sa.remoteSPI, sa.localSPI
	runJob(sa, ClassHandshake, func() (respondResult, error) {
		defer clear(skD)
		keys, err := suite.ResumeIKEKeys(s.suite, skD, i.ni, i.nr, spii, spir)
		return respondResult{keys: keys}, err
	}, func(r respondResult, err error) {
		if err == nil {
			err = sa.useKeys(r.keys)
		}
		if err != nil {
			h.stats.Malformed++
			h.failed(&Error{Exchange: m.Exchange, Payload: wire.PayloadNonce, Err: err})
			sa.die()
			return
		}
		h.sendResumeResponse(m)
	})
}

func (h *HalfOpen) sendResumeResponse(m *message) {
	sa := h.sa
	payloads := []wire.Payload{&wire.Nonce{Data: sa.init.nr}}
	payloads = append(payloads, h.natAnswer(m)...)
	payloads = append(payloads, &wire.Notify{Kind: wire.NotifyFragmentationSupported})
	if sa.childless {
		payloads = append(payloads, &wire.Notify{Kind: wire.NotifyChildlessIKEv2Supported})
	}
	header := wire.Header{Exchange: m.Exchange, Flags: wire.FlagResponse}
	sa.fillHeader(&header)
	raw, err := (&wire.Message{Header: header, Payloads: payloads}).Append(nil)
	h.respondFirst(m, header, payloads, raw, err)
}

// authenticateResumed verifies the initiator of a resumed IKE SA: it has the keys
// of the session, is who it was, and would still be let in.
func (sa *ikeSA) authenticateResumed() {
	m, i, t := sa.init.auth, sa.init, sa.t
	s := i.session
	err := sa.verifyResumed(m, s.idi)
	switch {
	case err != nil:
	case !t.cfg.Resume:
		err = errors.New("this tunnel resumes no sessions")
	case !t.cfg.allows(s):
		err = errors.New("the session's algorithms or post-quantum preshared key are no longer allowed")
	case !s.idr.Equal(t.cfg.Credentials.ID):
		err = errors.New("our identity is another one than that of the session")
	case !sa.m.runtime.Tickets.spend(i.ticket):
		err = errTicketSpent
	}
	if err != nil {
		sa.rejectInitiator(&Error{Exchange: m.Exchange, Payload: wire.PayloadAuth, Notify: wire.NotifyAuthenticationFailed, Err: err})
		return
	}
	remote, now := t.cfg.Peer, sa.m.outside(sa.m.now)
	runJob(sa, ClassHandshake, func() (*ident.VerifiedPeer, error) {
		return s.stillBelieved(remote, s.idi, now)
	}, func(peer *ident.VerifiedPeer, err error) {
		if err != nil {
			sa.rejectInitiator(&Error{Exchange: m.Exchange, Notify: wire.NotifyAuthenticationFailed, Err: err})
			return
		}
		sa.continueSession(s, s.idi)
		sa.evidence, sa.localID = &evidence{chain: s.chain, expires: peer.Expires}, s.idr
		t.dropResumed(sa, s)
		ours := sa.signedOctets(false, t.cfg.Credentials.Payload(false).Body())
		sa.acceptInitiator(m, authResult{proof: &ident.Proof{Method: wire.AuthSharedKey, Data: ours.ResumedAuth(sa.skP(false))}})
	})
}

// dropResumed ends the IKE SA that the session is of, silently (RFC 5723, Section
// 4.3.4).
func (t *Tunnel) dropResumed(fresh *ikeSA, s *session) {
	for _, o := range t.sas {
		if o != fresh && o.state.in(stateUsable) && !o.initiator && o.remoteSPI == s.spii && o.localSPI == s.spir {
			t.ikeDown(o, ReasonPeerRestarted)
		}
	}
}

// Resumes returns which tunnel's session the peer resumes, by its tag; false if it
// is none.
func (h *HalfOpen) Resumes() (TunnelTag, bool) {
	if h.sa.init == nil || h.sa.init.session == nil {
		return TunnelTag{}, false
	}
	return h.sa.init.session.tunnel, true
}
