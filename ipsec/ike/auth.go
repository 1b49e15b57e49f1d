package ike

import (
	"errors"
	"time"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// authTask is the initiator's IKE_AUTH with the first Child SA (RFC 7296,
// Section 1.2).
type authTask struct {
	sa      *ikeSA
	cfg     *ChildConfig // nil: without a Child SA
	spi     uint32
	offer   []suite.ESPProposal
	present int // so many of the offer are the present proposals

	localTS, remoteTS []ts.Selector
}

func (a *authTask) start() {}

func (a *authTask) abandon() {
	if a.cfg != nil {
		a.sa.t.releaseSPI(a.spi)
	}
}

// chooseChild decides which Child SA is to be made with the IKE SA.
func (a *authTask) chooseChild() *Error {
	cfg, failure := a.sa.childForAuth()
	if cfg == nil {
		return failure
	}
	spi, err := a.sa.t.allocateSPI(cfg)
	if err != nil {
		return &Error{Op: "allocate SPI", Kind: KindDataPlane, Exchange: wire.ExchangeIKEAuth, Err: err}
	}
	a.cfg, a.spi, a.offer = cfg, spi, suite.WithoutKeyExchange(a.sa.t.childOffer(cfg))
	a.present = len(suite.WithoutKeyExchange(cfg.Proposals))
	return nil
}

// claim is what a peer says about itself, to be verified by a job, which reads
// the certificates.
type claim struct {
	ident.Claim
	certs []*wire.Cert
}

// verify is for a job: reading certificates of a peer that is not authenticated
// takes long enough to keep the others waiting.
func (c claim) verify(remote ident.Remote, now time.Time) (*ident.VerifiedPeer, error) {
	chain, err := ident.ParseCertificates(c.certs)
	if err != nil {
		return nil, err
	}
	c.Chain = chain
	return ident.Verify(remote, c.Claim, now)
}

// signedOctets are what one end signs. idBody is its ID payload less the generic
// header.
func (sa *ikeSA) signedOctets(initiator bool, idBody []byte) ident.Octets {
	i := sa.init
	message, peerNonce := i.request, i.nr
	if !initiator {
		message, peerNonce = i.response, i.ni
	}
	return ident.SignedOctets(message, peerNonce, sa.suite.PRF, sa.skP(initiator), idBody, i.intAuth())
}

// readClaim reads the identity, certificates and AUTH of a message.
func (sa *ikeSA) readClaim(m *message) (claim, error) {
	idp, auth := m.id(!sa.initiator), find[*wire.Auth](m)
	id, err := ident.FromPayload(idp)
	if err != nil {
		return claim{}, err
	}
	var certs []*wire.Cert
	for _, p := range m.payloads {
		if c, ok := p.(*wire.Cert); ok {
			certs = append(certs, c)
		}
	}
	return claim{ident.Claim{
		ID: id, Method: auth.Method, Data: auth.Data, Octets: sa.signedOctets(!sa.initiator, idp.Body()), Signatures: sa.init.peer.Signatures,
	}, certs}, nil
}

// authError says that the peer did not prove to be who it claims to be.
func (sa *ikeSA) authError(err error, c claim) *Error {
	e := &Error{Exchange: wire.ExchangeIKEAuth, Notify: wire.NotifyAuthenticationFailed, Err: err}
	if c.Method != 0 {
		e.Theirs = []string{c.String()}
	}
	var credentials *ident.Error
	if errors.As(err, &credentials) && credentials.Reason == ident.ReasonSignature {
		e.Remedy = credentials.Remedy + sa.init.alsoPPK()
	}
	if credentials == nil || credentials.Reason == ident.ReasonIdentity {
		e.Payload = wire.PayloadIDi
		if sa.initiator {
			e.Payload = wire.PayloadIDr
		}
	}
	return e
}

// answered verifies the responder, and then makes the first Child SA.
func (a *authTask) answered(m *message) {
	sa := a.sa
	if find[*wire.Auth](m) == nil {
		kind := wire.NotifyInvalidSyntax
		if n := m.errorNotify(); n != nil {
			kind = n.Kind
		}
		sa.abandonTask()
		sa.fail(sa.refusedAuth(kind))
		return
	}
	if a.cfg == nil && find[*wire.SA](m) != nil {
		sa.fail(&Error{Exchange: m.Exchange, Payload: wire.PayloadSA, Notify: wire.NotifyInvalidSyntax, Err: errors.New("a Child SA that was not asked for")})
		return
	}
	if sa.init.resume != nil {
		a.resumed(m)
		return
	}
	if err := sa.settlePPK(m); err != nil {
		a.reject(&Error{Exchange: m.Exchange, Payload: wire.PayloadNotify, Notify: wire.NotifyAuthenticationFailed, Err: err})
		return
	}
	c, err := sa.readClaim(m)
	if err != nil {
		a.reject(sa.authError(err, c))
		return
	}
	remote, now := sa.t.cfg.Peer, sa.m.outside(sa.m.now)
	runJob(sa, ClassHandshake, func() (*ident.VerifiedPeer, error) {
		return c.verify(remote, now)
	}, func(peer *ident.VerifiedPeer, err error) {
		if err != nil {
			a.reject(sa.authError(err, c))
			return
		}
		if n := m.errorNotify(); n != nil && endsIKE(n.Kind) {
			// It can prove itself, and for all that has no IKE SA.
			sa.abandonTask()
			sa.fail(sa.refusedAuth(n.Kind))
			return
		}
		sa.believe(peer, c.certs)
		a.established(m)
	})
}

// reject tells the responder that it could not prove itself, in an exchange of
// its own (RFC 7296, Section 2.21.2), and gives up.
func (a *authTask) reject(err *Error) {
	sa := a.sa
	t := sa.t
	sa.abandonTask()
	if t.rivals(sa) {
		sa.die()
		return
	}
	t.listenOn(sa)
	t.failures++
	t.report(err)
	t.retryReauth(sa)
	t.doubtPeer(err)
	sa.init.destroy()
	sa.init = nil
	sa.state, sa.wantDelete, sa.replaced = stateEstablished, true, true
	sa.reason, sa.farewell = ReasonProtocol, wire.NotifyAuthenticationFailed
}

// established is the end of a successful IKE_AUTH. A Child SA that was refused
// does not end the IKE SA (RFC 7296, Section 1.2).
func (a *authTask) established(m *message) {
	sa, t := a.sa, a.sa.t
	i := sa.init
	t.decided(sa)
	if a.redirectedAuth(m) {
		return
	}
	sa.readAuthExtras(m)
	if m.notify(wire.NotifyInitialContact) != nil {
		t.initialContact(sa)
	}
	t.establish(sa)
	sa.takeInternal(m)
	sa.obeyLifetime(m)
	if a.cfg == nil {
		a.childlessAnswered(i)
		return
	}
	neg, err := a.readChild(m)
	if err != nil {
		t.releaseSPI(a.spi)
		sa.finish()
		a.settle(i)
		t.childFailed(a.cfg.Name, err)
		if find[*wire.SA](m) != nil {
			sa.orphan(answeredProtocol(m), a.spi) // the peer has it
		}
		return
	}
	t.install(sa, neg, !t.hasSender(a.cfg.Name), func(c *childSA, err error) {
		sa.finish()
		if err != nil {
			t.childFailed(a.cfg.Name, &Error{Op: "install Child SA", Kind: KindDataPlane, Exchange: m.Exchange, Err: err})
			sa.orphan(neg.suite.Protocol(), neg.inbound)
		} else {
			t.childUp(c)
		}
		a.settle(i)
	})
}

// settle forgets the secrets of the initial exchanges and decides between this
// IKE SA and others.
func (a *authTask) settle(i *initState) {
	sa := a.sa
	i.destroy()
	sa.init = nil
	if !sa.alive() {
		return
	}
	sa.t.resolveDuplicates(sa)
}

// readChild reads the responder's half of the first Child SA.
func (a *authTask) readChild(m *message) (childSpec, *Error) {
	sa := a.sa
	if n := m.errorNotify(); n != nil && find[*wire.SA](m) == nil {
		return childSpec{}, &Error{Op: "create Child SA", Exchange: m.Exchange, Notify: n.Kind, Remote: true}
	}
	if err := sa.checkInternal(); err != nil {
		return childSpec{}, &Error{Op: "create Child SA", Exchange: m.Exchange, Err: err}
	}
	spec, err := sa.readChildAnswer(m, a.cfg, a.offer, a.present, a.localTS, a.remoteTS)
	if err == nil {
		err = sa.checkPasses(spec.suite)
	}
	if err == nil {
		spec.inbound = a.spi
		spec.lowestNonce = sa.lowestNonce
		spec.keys, err = suite.DeriveChildKeys(sa.suite, sa.keys.D, nil, sa.init.ni, sa.init.nr, spec.suite)
	}
	if err != nil {
		return childSpec{}, &Error{Op: "create Child SA", Exchange: m.Exchange, Err: err}
	}
	return spec, nil
}

// identify is the responder's first look at IKE_AUTH: who the peer claims to
// be. The tunnel that fits it goes on with authenticate.
func (sa *ikeSA) identify(m *message) {
	if sa.refuseChildless(m) {
		return
	}
	id, err := ident.FromPayload(m.id(true))
	if err != nil {
		sa.refuse(m, wire.NotifyAuthenticationFailed, nil)
		sa.fail(&Error{Exchange: m.Exchange, Payload: wire.PayloadIDi, Notify: wire.NotifyAuthenticationFailed, Err: err})
		return
	}
	sa.remoteID = id
	if p := m.id(false); p != nil {
		if wanted, err := ident.FromPayload(p); err == nil {
			sa.localID = wanted
		}
	}
	m.raw, m.head = nil, nil // the caller's
	sa.init.auth, sa.init.authID = m, m.MessageID
	sa.state = stateIdentified
}

// authResult is what the responder's IKE_AUTH job computes.
type authResult struct {
	peer  *ident.VerifiedPeer
	proof *ident.Proof
}

// authenticate verifies the initiator and signs our answer, in one job.
func (sa *ikeSA) authenticate() {
	m, i, t := sa.init.auth, sa.init, sa.t
	if sa.refuseChildless(m) {
		return
	}
	if i.session != nil {
		sa.authenticateResumed()
		return
	}
	without, err := sa.agreePPKInAuth(m)
	if err != nil {
		sa.rejectInitiator(&Error{Exchange: m.Exchange, Payload: wire.PayloadNotify, Notify: wire.NotifyAuthenticationFailed, Err: err})
		return
	}
	c, err := sa.readClaim(m)
	if err != nil {
		sa.rejectInitiator(sa.authError(err, c))
		return
	}
	if without != nil {
		c.Data = without
	}
	i.peer.Read(m.payloads)
	local, remote, now, rand, accepts := t.cfg.Credentials, t.cfg.Peer, sa.m.outside(sa.m.now), sa.m.runtime.Rand, i.peer
	ours := sa.signedOctets(false, local.Payload(false).Body())
	runJob(sa, ClassHandshake, func() (authResult, error) {
		peer, err := c.verify(remote, now)
		if err != nil {
			return authResult{}, err
		}
		proof, err := ident.Sign(local, ours, accepts, remote.Roots, rand)
		return authResult{peer, proof}, err
	}, func(r authResult, err error) {
		if err != nil {
			sa.rejectInitiator(sa.authError(err, c))
			return
		}
		sa.believe(r.peer, c.certs)
		sa.localID = local.ID
		if !sa.refuseTranslated(m) {
			sa.acceptInitiator(m, r)
		}
	})
}

// rejectInitiator refuses a peer that did not prove its identity. It learns
// nothing but that (RFC 7296, Section 2.21.2).
func (sa *ikeSA) rejectInitiator(err *Error) {
	m := sa.init.auth
	sa.refuse(m, wire.NotifyAuthenticationFailed, nil)
	sa.t.report(err)
	sa.t.doubtPeer(err)
	sa.linger()
}

// acceptInitiator establishes the IKE SA and makes the first Child SA before it
// answers.
func (sa *ikeSA) acceptInitiator(m *message, r authResult) {
	t := sa.t
	head := []wire.Payload{t.cfg.Credentials.Payload(false)}
	for _, c := range r.proof.Certificates {
		head = append(head, c)
	}
	head = append(head, &wire.Auth{Method: r.proof.Method, Data: r.proof.Data})
	head = append(head, sa.init.ppkAnswer()...)
	sa.readAuthExtras(m)
	head = append(head, sa.authExtras(m)...)
	if m.notify(wire.NotifyInitialContact) != nil {
		t.initialContact(sa)
	}
	i := sa.init
	t.establish(sa)
	done := func(c *childSA, tail []wire.Payload) {
		i.destroy()
		sa.init = nil
		sa.respond(m, append(head, tail...))
		if c != nil {
			t.childUp(c)
		}
		t.resolveDuplicates(sa)
	}
	if sa.redirects() {
		sa.redundant = true // nothing is begun on it
		done(nil, []wire.Payload{redirectNotice(t.cfg.RedirectTo, nil)})
		sa.sentAway()
		return
	}
	if find[*wire.SA](m) == nil {
		done(nil, sa.childlessInternal(m)) // RFC 6023, Section 5
		return
	}
	spec, tail, err := t.answerFirstChild(sa, m)
	if err != nil {
		t.childFailed("", err)
		done(nil, []wire.Payload{&wire.Notify{Kind: err.Notify}})
		return
	}
	t.install(sa, spec, !t.sendsElsewhere(sa, spec.cfg.Name), func(c *childSA, err error) {
		if err != nil {
			t.childFailed(spec.cfg.Name, &Error{
				Op: "install Child SA", Kind: KindDataPlane, Exchange: m.Exchange, Notify: wire.NotifyTemporaryFailure, Err: err,
			})
			done(nil, []wire.Payload{&wire.Notify{Kind: wire.NotifyTemporaryFailure}})
			return
		}
		done(c, tail)
	})
}

// isFirst reports whether sa, which is in the making, is the only IKE SA with the
// peer as far as this end knows, so that INITIAL_CONTACT may say so (RFC 7296,
// Section 2.4). Not where other tunnels are between the same two identities: by
// those the notification means them too.
func (t *Tunnel) isFirst(sa *ikeSA) bool {
	for _, o := range t.sas {
		if o != sa && o.state.in(stateUsable) {
			return false
		}
	}
	return !t.cfg.SharedIdentities
}

// initialContact drops what the peer no longer has (RFC 7296, Section 2.4). IKE
// SAs that the other end was beginning at the same time are left for
// resolveDuplicates: the peer sent the notification before it knew of them.
func (t *Tunnel) initialContact(fresh *ikeSA) {
	for _, old := range t.sas {
		if old == fresh || !old.state.in(stateUsable) || old.origin.initiator != fresh.initiator && !old.origin.established.Before(fresh.begun) {
			continue
		}
		t.ikeDown(old, ReasonPeerRestarted)
	}
}

// answerFirstChild chooses the answer to the Child SA part of IKE_AUTH.
func (t *Tunnel) answerFirstChild(sa *ikeSA, m *message) (childSpec, []wire.Payload, *Error) {
	if err := t.refuseFirstChild(m); err != nil {
		return childSpec{}, nil, err
	}
	internal, err := sa.answerInternal(m)
	if err != nil {
		return childSpec{}, nil, err
	}
	offer, err := sa.readChildOffer(m, nil)
	if err != nil {
		return childSpec{}, nil, err
	}
	offer.internal = internal
	answer, e := sa.chooseChild(m, &offer, suite.WithoutKeyExchange)
	if e != nil {
		return childSpec{}, nil, &Error{Op: "create Child SA", Exchange: m.Exchange, Notify: wire.NotifyNoProposalChosen, Err: e}
	}
	offer.lowestNonce = sa.lowestNonce
	if offer.outbound, err = outboundSPI(m, answer.Number); err != nil {
		return childSpec{}, nil, err
	}
	if offer.inbound, e = t.allocateSPI(offer.cfg); e != nil {
		return childSpec{}, nil, &Error{Op: "allocate SPI", Kind: KindDataPlane, Exchange: m.Exchange, Notify: wire.NotifyTemporaryFailure, Err: e}
	}
	offer.keys, e = suite.DeriveChildKeys(sa.suite, sa.keys.D, nil, sa.init.ni, sa.init.nr, offer.suite)
	if e != nil {
		t.releaseSPI(offer.inbound)
		return childSpec{}, nil, &Error{Op: "create Child SA", Exchange: m.Exchange, Notify: wire.NotifyNoProposalChosen, Err: e}
	}
	return offer, answerPayloads(offer, answer, nil, nil), nil
}
