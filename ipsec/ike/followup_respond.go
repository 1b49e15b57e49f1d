package ike

import (
	"bytes"
	"errors"
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

const (
	// followupTime is how long the state of the peer's key exchanges waits for
	// the next one: RFC 9370, Section 2.2.4, finds 5 to 20 seconds appropriate.
	followupTime = 20 * time.Second
	// maxPeerSeries bounds the states of one IKE SA. The window is one, so a
	// peer with more of them has given up the first.
	maxPeerSeries = 4
)

// followups are the key exchanges that the peer of an IKE SA has begun with
// CREATE_CHILD_SA and not ended yet.
type followups struct {
	series    []*peerSeries
	lastLink  uint32 // that was given to one
	forgotten int    // how often in a row the peer has lost a series of ours
}

// peerSeries is what the responder keeps of a CREATE_CHILD_SA exchange whose
// other key exchanges are still to come. Exactly one of spec and heir is set.
type peerSeries struct {
	sa      *ikeSA
	link    []byte // that the next request must have
	pending []wire.KeyExchangeID
	secrets [][]byte
	ni, nr  []byte
	until   time.Time

	spec *childSpec // of the Child SA to be made
	heir *ikeSA     // the IKE SA to be made, still without keys
	// crossed is a Child SA that this end made for the same purpose meanwhile.
	crossed *childSA
}

// keep stores a series under a new link and returns the notification that tells
// it to the peer.
func (sa *ikeSA) keep(s *peerSeries) *wire.Notify {
	sa.lastLink++
	s.link, s.until = put32(sa.lastLink), sa.m.now.Add(followupTime)
	if !slices.Contains(sa.series, s) {
		if len(sa.series) >= maxPeerSeries {
			sa.series[0].drop()
		}
		sa.series = append(sa.series, s)
	}
	return &wire.Notify{Kind: wire.NotifyAdditionalKeyExchange, Data: s.link}
}

func (sa *ikeSA) forgetSeries(s *peerSeries) {
	sa.series = slices.DeleteFunc(sa.series, func(o *peerSeries) bool { return o == s })
}

// drop forgets a series that comes to nothing.
func (s *peerSeries) drop() {
	s.sa.forgetSeries(s)
	clearAll(s.secrets)
	s.secrets = nil
	if s.spec == nil {
		if r := s.sa.rekey; r != nil && r.series == s {
			r.series = nil
		}
		return
	}
	s.sa.t.releaseSPI(s.spec.inbound)
	if old := s.spec.replaces; old != nil && old.passive != nil && old.passive.series == s {
		old.passive = nil
	}
}

func (sa *ikeSA) dropSeries() {
	for len(sa.series) > 0 {
		sa.series[0].drop()
	}
}

// tickSeries drops the series that the peer does not continue.
func (sa *ikeSA) tickSeries() {
	for _, s := range slices.Clone(sa.series) {
		if sa.m.due(s.until) {
			s.drop()
		}
	}
}

// afterSeries is when this end rekeys after all, if the peer does not go on with
// the series that ours has given way to.
func (m *machine) afterSeries() time.Time { return m.now.Add(followupTime + m.retryDelay()) }

// peerRekeysIKE reports whether the peer is in the middle of rekeying sa. What
// this end wants of it waits, so that nothing is under way when the new IKE SA
// takes over (RFC 7296, Section 2.25.1).
func (sa *ikeSA) peerRekeysIKE() bool {
	return slices.ContainsFunc(sa.series, func(s *peerSeries) bool { return s.heir != nil })
}

// peerMakesChild reports whether the peer is in the middle of making a Child SA
// of that name which replaces none.
func (sa *ikeSA) peerMakesChild(name string) bool {
	return slices.ContainsFunc(sa.series, func(s *peerSeries) bool {
		return s.spec != nil && s.spec.replaces == nil && s.spec.cfg.Name == name
	})
}

// exchangeResult is the responder's half of one key exchange.
type exchangeResult struct{ public, secret []byte }

// Destroy zeroes the secret.
func (r exchangeResult) Destroy() { clear(r.secret) }

// respondExchange does the responder's half of a key exchange that is not the
// last one of its series.
func (sa *ikeSA) respondExchange(method wire.KeyExchangeID, theirs []byte, then func(exchangeResult, error)) {
	rand := sa.m.runtime.Rand
	runJob(sa, ClassEstablished, func() (exchangeResult, error) {
		public, secret, err := suite.Respond(method, theirs, rand)
		return exchangeResult{public, secret}, err
	}, then)
}

// beginChildSeries answers CREATE_CHILD_SA for a Child SA with several key
// exchanges.
func (sa *ikeSA) beginChildSeries(m *message, spec childSpec, answer wire.Proposal, ni, nr []byte) {
	methods := spec.suite.KeyExchanges()
	sa.respondExchange(methods[0], find[*wire.KE](m).Data, func(r exchangeResult, err error) {
		if err != nil {
			sa.releaseReserved()
			sa.refuseKeyExchange(m, "create Child SA", err)
			return
		}
		sa.reserved = 0 // the series' from here on
		s := &peerSeries{sa: sa, pending: methods[1:], secrets: [][]byte{r.secret}, ni: bytes.Clone(ni), nr: nr, spec: &spec}
		if old := spec.replaces; old != nil && old.known() {
			if p := old.passive; p != nil && p.series != nil {
				p.series.drop() // the peer begins anew
			}
			old.passive = &passiveRekey{series: s, nonce: spec.lowestNonce}
		} else {
			spec.replaces = nil
		}
		sa.respond(m, append(answerPayloads(spec, answer, nr, r.public), sa.keep(s)))
	})
}

// beginIKESeries answers CREATE_CHILD_SA for an IKE SA with several key
// exchanges.
func (sa *ikeSA) beginIKESeries(m *message, fresh *ikeSA, answer wire.Proposal, ni, nr []byte) {
	methods := fresh.suite.KeyExchanges()
	sa.respondExchange(methods[0], find[*wire.KE](m).Data, func(r exchangeResult, err error) {
		if err != nil {
			sa.refuseKeyExchange(m, "rekey IKE SA", err)
			return
		}
		for _, o := range slices.Clone(sa.series) {
			if o.heir != nil {
				o.drop() // the peer begins anew
			}
		}
		s := &peerSeries{sa: sa, pending: methods[1:], secrets: [][]byte{r.secret}, ni: bytes.Clone(ni), nr: nr, heir: fresh}
		if sa.rekey != nil {
			sa.rekey.series, sa.rekey.passiveNonce = s, fresh.lowestNonce
		}
		sa.respond(m, append(heirPayloads(fresh, answer, nr, r.public), sa.keep(s)))
	})
}

// handleFollowup takes the next key exchange of a series of the peer's.
func (sa *ikeSA) handleFollowup(m *message) {
	link, ke := m.notify(wire.NotifyAdditionalKeyExchange), find[*wire.KE](m)
	switch {
	case link == nil:
		sa.refuseMalformed(m, errors.New("IKE_FOLLOWUP_KE: ADDITIONAL_KEY_EXCHANGE is missing"))
		return
	case sa.state != stateEstablished || sa.wantDelete || sa.redundant:
		// As in handleCreateChild: it is going.
		sa.dropSeries()
		sa.refuse(m, wire.NotifyTemporaryFailure, nil)
		return
	}
	i := slices.IndexFunc(sa.series, func(s *peerSeries) bool { return bytes.Equal(s.link, link.Data) })
	if i < 0 {
		sa.refuse(m, wire.NotifyStateNotFound, nil)
		return
	}
	s := sa.series[i]
	if method := s.pending[0]; ke.Group != method {
		s.refuse(m, errWrongMethod(method, ke))
		return
	}
	if len(s.pending) > 1 {
		s.next(m, ke)
		return
	}
	s.until = time.Time{} // it is at work
	if s.heir != nil {
		s.finishHeir(m, ke)
		return
	}
	s.finishChild(m, ke)
}

func (s *peerSeries) op() string {
	if s.heir != nil {
		return "rekey IKE SA"
	}
	return "create Child SA"
}

// refuse ends a series whose key exchange the peer has spoilt.
func (s *peerSeries) refuse(m *message, err error) {
	s.drop()
	s.sa.refuseKeyExchange(m, s.op(), err)
}

// next answers a key exchange that others follow.
func (s *peerSeries) next(m *message, ke *wire.KE) {
	sa := s.sa
	sa.respondExchange(ke.Group, ke.Data, func(r exchangeResult, err error) {
		if err != nil {
			s.refuse(m, err)
			return
		}
		s.secrets, s.pending = append(s.secrets, r.secret), s.pending[1:]
		sa.respond(m, []wire.Payload{&wire.KE{Group: ke.Group, Data: r.public}, sa.keep(s)})
	})
}

// finishChild makes the Child SA with the last key exchange.
func (s *peerSeries) finishChild(m *message, ke *wire.KE) {
	sa, spec := s.sa, *s.spec
	secrets, ni, nr, rand := s.secrets, s.ni, s.nr, sa.m.runtime.Rand
	s.secrets = nil // the job's from here on
	ikeSuite, skD := sa.suite, bytes.Clone(sa.keys.D)
	runJob(sa, ClassEstablished, func() (r childResult, err error) {
		defer clear(skD)
		defer func() { clearAll(secrets) }()
		public, secret, err := suite.Respond(ke.Group, ke.Data, rand)
		if err != nil {
			return r, err
		}
		secrets = append(secrets, secret)
		r.public = public
		r.keys, err = suite.DeriveChildKeys(ikeSuite, skD, secrets, ni, nr, spec.suite)
		return r, err
	}, func(r childResult, err error) {
		if err != nil {
			s.refuse(m, err)
			return
		}
		sa.forgetSeries(s)
		spec.keys, spec.crossed = r.keys, s.crossed
		if old := spec.replaces; old != nil && old.passive != nil && old.passive.series == s {
			old.passive = nil
		}
		sa.installAndAnswer(m, spec, []wire.Payload{&wire.KE{Group: ke.Group, Data: r.public}})
	})
}

// finishHeir makes the new IKE SA with the last key exchange.
func (s *peerSeries) finishHeir(m *message, ke *wire.KE) {
	sa, fresh := s.sa, s.heir
	secrets, ni, nr, rand := s.secrets, s.ni, s.nr, sa.m.runtime.Rand
	s.secrets = nil // the job's from here on
	prf, skD := sa.suite.PRF, bytes.Clone(sa.keys.D)
	runJob(sa, ClassEstablished, func() (respondResult, error) {
		defer clear(skD)
		defer func() { clearAll(secrets) }()
		public, secret, err := suite.Respond(ke.Group, ke.Data, rand)
		if err != nil {
			return respondResult{}, err
		}
		secrets = append(secrets, secret)
		keys, err := suite.RekeyIKEKeys(fresh.suite, prf, skD, ni, nr, secrets, fresh.remoteSPI, fresh.localSPI)
		return respondResult{public, keys}, err
	}, func(r respondResult, err error) {
		if err == nil {
			err = fresh.useKeys(r.keys)
		}
		if err != nil {
			s.refuse(m, err)
			return
		}
		sa.forgetSeries(s)
		if r := sa.rekey; r != nil && r.series == s {
			r.series = nil
		}
		sa.t.join(sa, fresh)
		sa.respond(m, []wire.Payload{&wire.KE{Group: ke.Group, Data: r.public}})
		sa.t.peerRekeyedIKE(sa, fresh)
	})
}
