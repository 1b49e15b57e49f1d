package ike

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// rekeyIKETask replaces an IKE SA (RFC 7296, Sections 1.3.2, 2.8 and 2.18). The
// new one inherits the Child SAs. Until the answer is there the peer may do the
// same; the nonces decide (Section 2.8.2).
type rekeyIKETask struct {
	old *ikeSA
	// spi is that of the new one on our side; zero: another has it now. It is ours from
	// the first request on: the peer may use the new IKE SA before we have the answer and
	// the keys, and must not get our word, and the proof, that we have lost it.
	spi     wire.SPI
	ni      []byte
	offer   []suite.IKEProposal
	ke      *suite.KeyExchange
	retries int
	// passive is what the peer's rekeying made meanwhile; its nonce counts even
	// if the peer has deleted it again.
	passive      *ikeSA
	passiveNonce []byte
	// series is the peer's rekeying while key exchanges of it are still to come,
	// answer our own from the answer to CREATE_CHILD_SA on (RFC 9370, Section
	// 2.2.4).
	series *peerSeries
	answer *keySeries[*suite.IKEKeys]
}

func (r *rekeyIKETask) start() {
	r.old.rekey = r
	r.spi = r.old.m.runtime.NewSPI()
	r.old.t.emit(RegisterSPI{r.spi})
	r.ni, r.offer = r.old.m.nonce(), r.old.t.ikeOffer()
	r.begin(r.old.groupToRekey())
}

// groupToRekey is the key exchange method that the peer agreed to last time, so
// that it need not ask for it again, unless it is no longer configured.
func (sa *ikeSA) groupToRekey() wire.KeyExchangeID {
	group := sa.suite.KeyExchange
	for _, p := range sa.t.cfg.Proposals {
		if slices.Contains(p.KeyExchange, group) {
			return group
		}
	}
	return sa.t.cfg.Proposals[0].KeyExchange[0]
}

func (r *rekeyIKETask) begin(group wire.KeyExchangeID) {
	r.old.makeKeyExchange(group, ClassEstablished, func(ke *suite.KeyExchange, err error) {
		if err != nil {
			r.fail(&Error{Op: "rekey IKE SA", Kind: KindInternal, Exchange: wire.ExchangeCreateChildSA, Payload: wire.PayloadKE, Err: err})
			return
		}
		r.ke = ke
		r.old.ask(wire.ExchangeCreateChildSA, []wire.Payload{
			&wire.SA{Proposals: suite.OfferIKE(r.offer, r.spi[:])},
			&wire.Nonce{Data: r.ni},
			&wire.KE{Group: ke.Group(), Data: ke.Public()},
		}, r.answered)
	})
}

func (r *rekeyIKETask) abandon() {
	r.old.rekey = nil
	r.destroyKE()
	r.answer.abandon()
	if !r.spi.IsZero() {
		r.old.t.emit(UnregisterSPI{r.spi})
		r.spi = wire.SPI{}
	}
}

func (r *rekeyIKETask) destroyKE() {
	if r.ke != nil {
		r.ke.Destroy()
		r.ke = nil
	}
}

func (r *rekeyIKETask) answered(m *message) {
	if n := m.notify(wire.NotifyInvalidKEPayload); n != nil {
		r.retry(n.Data)
		return
	}
	if n := m.errorNotify(); n != nil && find[*wire.SA](m) == nil {
		r.fail(&Error{Op: "rekey IKE SA", Exchange: m.Exchange, Notify: n.Kind, Remote: true})
		return
	}
	fresh, nr, err := r.read(m)
	if err != nil {
		r.fail(&Error{Op: "rekey IKE SA", Exchange: m.Exchange, Err: err})
		return
	}
	if len(fresh.suite.KeyExchanges()) > 1 && r.lost(fresh.lowestNonce) {
		return
	}
	r.derive(m, fresh, nr)
}

// lost is what rekeyChildTask.lost is, for IKE SAs.
func (r *rekeyIKETask) lost(nonce []byte) bool {
	old, passive := r.old, r.passive
	if r.series == nil && (passive == nil || !passive.alive()) {
		return false
	}
	if bytes.Compare(nonce, r.passiveNonce) > 0 {
		if r.series != nil {
			r.series.drop()
		}
		return false
	}
	pending := r.series != nil
	r.abandon()
	old.finish()
	if pending {
		old.rekeyAt = old.m.afterSeries()
	} else {
		old.t.replaceIKE(old, passive)
	}
	return true
}

func (r *rekeyIKETask) retry(data []byte) {
	group, ok := offeredGroup(data, r.offer)
	if !ok || r.retries >= maxKERetries || r.passive != nil {
		r.fail(groupError("rekey IKE SA", wire.ExchangeCreateChildSA, data))
		return
	}
	r.retries++
	r.destroyKE()
	r.begin(group)
}

// read checks an answer that grants the new IKE SA.
func (r *rekeyIKETask) read(m *message) (*ikeSA, []byte, error) {
	answer, ke, nr := find[*wire.SA](m), find[*wire.KE](m), find[*wire.Nonce](m)
	if answer == nil || ke == nil || nr == nil || len(answer.Proposals) != 1 {
		return nil, nil, errors.New("answer does not hold one proposal, key exchange and nonce")
	}
	if err := m.contradiction(); err != nil {
		return nil, nil, err
	}
	p := answer.Proposals[0]
	chosen, err := suite.AcceptIKE(p, r.offer)
	if err != nil {
		return nil, nil, err
	}
	var spi wire.SPI
	copy(spi[:], p.SPI)
	switch {
	case len(p.SPI) != len(spi) || spi.IsZero():
		return nil, nil, errors.New("SPI of the new IKE SA is missing or zero")
	case chosen.KeyExchange != ke.Group || ke.Group != r.ke.Group():
		return nil, nil, fmt.Errorf("key exchange %s does not fit the suite %s", ke.Group, chosen)
	case bytes.Equal(nr.Data, r.ni):
		return nil, nil, errors.New("nonce is our own")
	}
	if err := checkLink(m, len(chosen.KeyExchanges())-1); err != nil {
		return nil, nil, err
	}
	fresh := r.old.heir(r.spi, spi, chosen, true)
	fresh.lowestNonce = lower(r.ni, nr.Data)
	fresh.keepTokens(m)
	fresh.wantToken = fresh.m.runtime.Tokens != nil
	return fresh, nr.Data, nil
}

// heir returns the IKE SA that replaces sa, still without keys. Who begins the
// rekeying is the original initiator of the new one (RFC 7296, Section 1.3.2).
func (sa *ikeSA) heir(local, remote wire.SPI, s suite.IKESuite, initiator bool) *ikeSA {
	fresh := &ikeSA{
		m: sa.m, t: sa.t, state: stateEstablished, initiator: initiator,
		localSPI: local, remoteSPI: remote, parties: sa.parties, natState: sa.natState,
		path:          path{route: sa.route, link: sa.link.heir(), placed: sa.placed, movedAt: sa.movedAt, left: sa.left},
		mobileState:   mobileState{mobike: sa.mobike, testAt: sa.testAt},
		protection:    protection{suite: s, fragment: sa.fragment},
		internalState: internalState{internal: sa.internal},
		lifetime:      lifetime{begun: sa.m.now},
		rivalry:       rivalry{origin: sa.origin},
	}
	fresh.inherit(sa)
	return fresh
}

// derive makes the key exchanges that are left and computes the keys.
func (r *rekeyIKETask) derive(m *message, fresh *ikeSA, nr []byte) {
	ni, prf := r.ni, r.old.suite.PRF
	r.answer = &keySeries[*suite.IKEKeys]{
		sa: r.old, op: "rekey IKE SA", ke: r.ke,
		derive: func(skD []byte, secrets [][]byte) (*suite.IKEKeys, error) {
			return suite.RekeyIKEKeys(fresh.suite, prf, skD, ni, nr, secrets, fresh.localSPI, fresh.remoteSPI)
		},
		done: func(keys *suite.IKEKeys, _ bool, err *Error) {
			if err == nil {
				if e := fresh.useKeys(keys); e != nil {
					err = &Error{Op: "rekey IKE SA", Kind: KindInternal, Exchange: m.Exchange, Err: e}
				}
			}
			if err != nil {
				r.fail(err)
				return
			}
			r.succeed(fresh)
		},
	}
	r.ke = nil // the series' from here on
	r.answer.begin(m, fresh.suite.KeyExchanges())
}

// succeed puts the new IKE SA in charge, or deletes it again if the peer's one
// won.
func (r *rekeyIKETask) succeed(fresh *ikeSA) {
	old, t := r.old, r.old.t
	series := r.series
	r.spi = wire.SPI{} // fresh has it
	r.abandon()
	old.finish()
	t.join(old, fresh)
	if series != nil {
		if bytes.Compare(fresh.lowestNonce, r.passiveNonce) < 0 {
			// The peer's has won and is still to be made.
			fresh.redundant, fresh.replaced = true, true
			fresh.end(ReasonRedundant)
			old.rekeyAt = t.afterSeries()
			return
		}
		series.drop()
	}
	passive := r.passive
	if passive != nil && !passive.alive() {
		passive = nil // the peer has deleted it: it lost
	}
	if passive != nil && bytes.Compare(fresh.lowestNonce, r.passiveNonce) < 0 {
		fresh.redundant, fresh.replaced = true, true
		fresh.end(ReasonRedundant)
		t.replaceIKE(old, passive)
		return
	}
	if passive != nil {
		passive.replaced = true
		passive.endAt = t.now.Add(redundantTime)
	}
	t.replaceIKE(old, fresh)
	old.end(ReasonReplaced)
}

// join adds an IKE SA that was made by rekeying old.
func (t *Tunnel) join(old, fresh *ikeSA) {
	t.add(fresh)
	fresh.established = t.now
	fresh.hears(t.now)
	t.setIKELifetime(fresh)
	if old.wantDelete && (old.reason == ReasonDeletedByUs || old.redundant) {
		fresh.end(old.reason) // Disconnect came meanwhile, or another one is in charge
	}
}

// replaceIKE makes fresh inherit everything from old (RFC 7296, Section 2.8).
func (t *Tunnel) replaceIKE(old, fresh *ikeSA) {
	before := old.status()
	fresh.rivalry.inherit(&old.rivalry)
	fresh.proofState.inherit(&old.proofState)
	fresh.internalState = old.internalState
	if !t.agreedOn(fresh) {
		fresh.wantRekey = old.wantRekey // for proposals that came meanwhile
	}
	fresh.endAt, fresh.renewAt, fresh.outdated = old.endAt, old.renewAt, old.outdated
	fresh.orphans = append(fresh.orphans, old.orphans...)
	old.orphans = nil
	old.dropSeries()
	old.state, old.reason = stateRekeyed, ReasonReplaced
	old.rekeyAt, old.expireAt, old.renewAt = time.Time{}, time.Time{}, time.Time{}
	old.endAt = t.now.Add(redundantTime)
	for _, c := range t.childrenOf(old) {
		c.ike = fresh
	}
	old.endTickets(ReasonReplaced)
	old.inheritTickets(fresh)
	for _, sa := range t.sas {
		if sa.init != nil && sa.init.replaces == old {
			sa.init.replaces = fresh
		}
	}
	fresh.inheritPath(old)
	t.recovered("")
	t.emit(IKERekeyed{Old: before, New: fresh.status()})
}

func (r *rekeyIKETask) fail(err *Error) {
	old, t := r.old, r.old.t
	passive, pending := r.passive, r.series != nil
	r.abandon()
	old.finish()
	old.distrust(err)
	switch {
	case pending:
		old.rekeyAt = t.afterSeries() // the peer is replacing it
	case passive != nil && passive.alive():
		// The peer finished its own rekeying without seeing ours (RFC 7296,
		// Section 2.8.2).
		t.replaceIKE(old, passive)
	case err.Remote && err.Notify == wire.NotifyTemporaryFailure:
		old.rekeyAt = t.now.Add(t.retryDelay())
		old.refusedForNow(err)
	case t.outgrown(old, err):
		old.rekeyAt = t.now.Add(t.retryDelay())
	default:
		t.report(err)
		old.rekeyAt = t.now.Add(t.retryDelay())
	}
}

// forgetPassive tells a rekeying that the peer has deleted what it made.
func (t *Tunnel) forgetPassive(gone *ikeSA) {
	for _, sa := range t.sas {
		if sa.rekey != nil && sa.rekey.passive == gone {
			sa.rekey.passive = nil
		}
	}
}

// answerIKERekey makes the IKE SA that the peer wants to replace sa with. Not
// while a Child SA of ours is in the making or going (RFC 7296, Section 2.25.1).
func (sa *ikeSA) answerIKERekey(m *message) {
	t := sa.t
	switch sa.active.(type) {
	case *createChildTask, *rekeyChildTask, *deleteChildTask:
		sa.refuse(m, wire.NotifyTemporaryFailure, nil)
		return
	}
	if r := sa.rekey; r != nil && (r.passive != nil || r.answer != nil) || t.replacedSAs() >= maxReplaced {
		// With an answer, further key exchanges of ours are under way (RFC 9370,
		// Section 2.2.4).
		sa.refuse(m, wire.NotifyTemporaryFailure, nil)
		return
	}
	ke := find[*wire.KE](m)
	offered := find[*wire.SA](m).Proposals
	chosen, answer, err := suite.ChooseIKE(offered, t.ikeOffer())
	if err != nil {
		sa.refuseChild(m, &Error{Op: "rekey IKE SA", Exchange: m.Exchange, Notify: wire.NotifyNoProposalChosen, Err: err})
		return
	}
	if ke == nil || ke.Group != chosen.KeyExchange {
		sa.refuse(m, wire.NotifyInvalidKEPayload, binary.BigEndian.AppendUint16(nil, uint16(chosen.KeyExchange)))
		return
	}
	var spi wire.SPI
	if theirs := suite.ProposalSPI(offered, answer.Number); len(theirs) == len(spi) {
		copy(spi[:], theirs)
	}
	if spi.IsZero() || slices.ContainsFunc(t.sas, func(o *ikeSA) bool { return o.remoteSPI == spi && o.state != stateDead }) {
		sa.refuseChild(m, &Error{
			Op: "rekey IKE SA", Exchange: m.Exchange, Payload: wire.PayloadSA,
			Notify: wire.NotifyNoProposalChosen, Err: errors.New("SPI is missing, zero or in use"),
		})
		return
	}
	fresh := sa.heir(sa.m.runtime.NewSPI(), spi, chosen, false)
	sa.deriveHeir(m, fresh, answer, ke.Data)
}

// replacedSAs is how many IKE SAs wait for the peer to delete them.
func (t *Tunnel) replacedSAs() int {
	n := 0
	for _, sa := range t.sas {
		if sa.state == stateRekeyed {
			n++
		}
	}
	return n
}

// deriveHeir computes the keys of the new IKE SA and answers.
func (sa *ikeSA) deriveHeir(m *message, fresh *ikeSA, answer wire.Proposal, theirs []byte) {
	ni, nr := find[*wire.Nonce](m).Data, sa.m.nonce()
	fresh.lowestNonce = lower(ni, nr)
	if len(fresh.suite.KeyExchanges()) > 1 {
		sa.beginIKESeries(m, fresh, answer, ni, nr)
		return
	}
	prf, skD, rand := sa.suite.PRF, bytes.Clone(sa.keys.D), sa.m.runtime.Rand
	s, spii, spir := fresh.suite, fresh.remoteSPI, fresh.localSPI
	runJob(sa, ClassEstablished, func() (respondResult, error) {
		defer clear(skD)
		public, shared, err := suite.Respond(s.KeyExchange, theirs, rand)
		if err != nil {
			return respondResult{}, err
		}
		defer clear(shared)
		keys, err := suite.RekeyIKEKeys(s, prf, skD, ni, nr, [][]byte{shared}, spii, spir)
		return respondResult{public, keys}, err
	}, func(r respondResult, err error) {
		if err == nil {
			err = fresh.useKeys(r.keys)
		}
		if err != nil {
			sa.refuseKeyExchange(m, "rekey IKE SA", err)
			return
		}
		sa.t.join(sa, fresh)
		sa.respond(m, heirPayloads(fresh, answer, nr, r.public))
		sa.t.peerRekeyedIKE(sa, fresh)
	})
}

// heirPayloads is the answer to CREATE_CHILD_SA that grants a new IKE SA.
func heirPayloads(fresh *ikeSA, answer wire.Proposal, nonce, public []byte) []wire.Payload {
	answer.SPI = fresh.localSPI[:]
	return append([]wire.Payload{
		&wire.SA{Proposals: []wire.Proposal{answer}},
		&wire.Nonce{Data: nonce},
		&wire.KE{Group: fresh.suite.KeyExchange, Data: public},
	}, fresh.ownToken()...)
}

// peerRekeyedIKE notes that the peer made fresh to replace old. If we are
// rekeying old too, which one stays is decided when our answer is there.
func (t *Tunnel) peerRekeyedIKE(old, fresh *ikeSA) {
	if r := old.rekey; r != nil {
		fresh.redundant, fresh.replaced = true, true
		r.passive, r.passiveNonce = fresh, fresh.lowestNonce
		return
	}
	t.replaceIKE(old, fresh)
}
