package ike

import (
	"errors"
	"fmt"
	"slices"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// childPayloads is the part of a request that asks for a Child SA. nonce and ke
// are nil in IKE_AUTH (RFC 7296, Section 1.2).
func childPayloads(offer []suite.ESPProposal, spi uint32, nonce []byte, ke *suite.KeyExchange, local, remote []ts.Selector, cfg *ChildConfig) []wire.Payload {
	payloads := []wire.Payload{&wire.SA{Proposals: suite.OfferESP(offer, put32(spi))}}
	if nonce != nil {
		payloads = append(payloads, &wire.Nonce{Data: nonce})
	}
	if ke != nil {
		payloads = append(payloads, &wire.KE{Group: ke.Group(), Data: ke.Public()})
	}
	payloads = append(payloads, labelled(ts.ToWire(true, local), cfg.Label), labelled(ts.ToWire(false, remote), cfg.Label))
	return appendMode(payloads, cfg.Mode)
}

// answerPayloads is the part of a response that grants one.
func answerPayloads(spec childSpec, answer wire.Proposal, nonce, public []byte) []wire.Payload {
	answer.SPI = put32(spec.inbound)
	payloads := append(spec.internal, &wire.SA{Proposals: []wire.Proposal{answer}})
	if nonce != nil {
		payloads = append(payloads, &wire.Nonce{Data: nonce})
	}
	if public != nil {
		payloads = append(payloads, &wire.KE{Group: spec.suite.KeyExchange, Data: public})
	}
	payloads = append(payloads, labelled(ts.ToWire(true, spec.remoteTS), spec.label), labelled(ts.ToWire(false, spec.localTS), spec.label))
	return append(appendMode(payloads, spec.mode), spec.resourceInfo()...)
}

func appendMode(payloads []wire.Payload, mode dataplane.Mode) []wire.Payload {
	if mode == dataplane.Transport {
		payloads = append(payloads, &wire.Notify{Kind: wire.NotifyUseTransportMode})
	}
	return payloads
}

// readChildAnswer reads the answer to a request made by childPayloads with the
// same offer, of which so many proposals are the present ones. inbound, nonces and keys are the caller's to fill in.
func (sa *ikeSA) readChildAnswer(m *message, cfg *ChildConfig, offer []suite.ESPProposal, present int, local, remote []ts.Selector) (childSpec, error) {
	spec := childSpec{cfg: cfg, initiator: true, label: cfg.Label}
	if err := m.contradiction(); err != nil {
		return spec, err
	}
	answer := find[*wire.SA](m)
	if answer == nil || len(answer.Proposals) != 1 {
		return spec, errors.New("answer does not hold exactly one proposal")
	}
	chosen, err := suite.AcceptESP(answer.Proposals[0], offer)
	if err != nil {
		return spec, err
	}
	spec.suite, spec.outbound = chosen, be32(answer.Proposals[0].SPI)
	spec.former = fellBack(answer, present)
	if spec.outbound < dataplane.MinSPI {
		return spec, fmt.Errorf("SPI %d of the answer is reserved", spec.outbound)
	}
	if spec.localTS, err = selectors(m, true); err != nil {
		return spec, err
	}
	if spec.remoteTS, err = selectors(m, false); err != nil {
		return spec, err
	}
	if err := checkLabel(m, cfg.Label); err != nil {
		return spec, err
	}
	transport := m.notify(wire.NotifyUseTransportMode) != nil
	if transport {
		spec.localTS, spec.remoteTS = sa.seen(spec.localTS, spec.remoteTS)
	}
	// RFC 7296, Section 2.9: the answer may narrow and never widen.
	if !within(spec.localTS, local) || !within(spec.remoteTS, remote) {
		return spec, &mismatch{
			kind: KindSelectors, ours: []string{selectorText(local, remote)}, theirs: []string{selectorText(spec.localTS, spec.remoteTS)},
			text: "traffic selectors of the answer are empty or wider than the offer",
		}
	}
	// RFC 7296, Section 1.3.1: a responder may decline transport mode, then
	// this end may delete the SA. It cannot impose it.
	if transport != (cfg.Mode == dataplane.Transport) {
		theirs := dataplane.Tunnel
		if transport {
			theirs = dataplane.Transport
		}
		return spec, modeMismatch(cfg.Mode, theirs, fmt.Sprintf("peer answers with another mode than %s", cfg.Mode))
	}
	spec.mode, spec.noTFC, spec.shared = cfg.Mode, refusesTFC(m), cfg.shares() && sharesResource(m)
	return spec, nil
}

// answeredProtocol is what an answer that cannot be used made the Child SA for.
func answeredProtocol(m *message) wire.ProtocolID {
	if sa := find[*wire.SA](m); sa != nil && len(sa.Proposals) > 0 && sa.Proposals[0].Protocol == wire.ProtocolAH {
		return wire.ProtocolAH
	}
	return wire.ProtocolESP
}

func selectors(m *message, initiator bool) ([]ts.Selector, error) {
	for _, p := range m.payloads {
		if t, ok := p.(*wire.TS); ok && t.Initiator == initiator {
			return ts.FromWire(t)
		}
	}
	return nil, errors.New("traffic selectors are missing")
}

func within(answer, offer []ts.Selector) bool {
	return len(answer) > 0 && ts.Covers(offer, answer)
}

// chooseChild chooses the suite of a Child SA that a request is for, as reduce leaves the
// proposals.
func (sa *ikeSA) chooseChild(m *message, spec *childSpec, reduce func([]suite.ESPProposal) []suite.ESPProposal) (wire.Proposal, error) {
	chosen, answer, err := sa.chooseESP(m, reduce(spec.cfg.Proposals))
	if former := sa.t.formerESP(spec.cfg.Name); err != nil && former != nil {
		if s, a, e := sa.chooseESP(m, reduce(former)); e == nil {
			chosen, answer, err, spec.former = s, a, nil, true
		}
	}
	spec.suite = chosen
	return answer, err
}

// chooseESP chooses a suite by policy: AH only on a path that it passes.
func (sa *ikeSA) chooseESP(m *message, policy []suite.ESPProposal) (suite.ESPSuite, wire.Proposal, error) {
	passing := policy
	if sa.encapsulates() {
		passing = slices.DeleteFunc(slices.Clone(policy), func(p suite.ESPProposal) bool { return p.AH })
	}
	chosen, answer, err := suite.ChooseESP(find[*wire.SA](m).Proposals, passing)
	var none *suite.NoProposalError
	if errors.As(err, &none) && len(passing) < len(policy) {
		err = ahOnPath(texts(policy), none.Offered)
	}
	return chosen, answer, err
}

// checkPasses is the same for an answer.
func (sa *ikeSA) checkPasses(s suite.ESPSuite) error {
	if s.AH && sa.encapsulates() {
		return ahOnPath(nil, nil)
	}
	return nil
}

// encapsulates reports whether ESP goes in UDP or TCP, as through a NAT. There is
// no such thing for AH, which protects the addresses too (RFC 3715, Section 2.1).
func (sa *ikeSA) encapsulates() bool { return sa.endpoints().local.Port() != 0 }

func ahOnPath(ours, theirs []string) error {
	return &mismatch{
		kind: KindProposals, payload: wire.PayloadSA, ours: ours, theirs: theirs,
		text:   "AH passes no NAT and is never encapsulated, which this path needs",
		remedy: "propose ESP; or, where there is no NAT, begin on UDP port 500 and do not force encapsulation",
	}
}

// readChildOffer chooses the configured Child SA that a request is for and
// narrows its selectors (RFC 7296, Section 2.9). old is the SA being rekeyed, nil for a
// new one. Suite and SPIs are the caller's to fill in.
func (sa *ikeSA) readChildOffer(m *message, old *childSA) (childSpec, *Error) {
	t := sa.t
	unacceptable := func(err error) *Error {
		return &Error{Op: "create Child SA", Exchange: m.Exchange, Notify: wire.NotifyTSUnacceptable, Err: err}
	}
	remote, err := selectors(m, true)
	if err != nil {
		return childSpec{}, unacceptable(err)
	}
	local, err := selectors(m, false)
	if err != nil {
		return childSpec{}, unacceptable(err)
	}
	best, taken := sa.bestChild(m, old, local, remote)
	if best.cfg == nil && taken {
		return best, &Error{Op: "create Child SA", Exchange: m.Exchange, Notify: wire.NotifyTSMaxQueue, Err: errEnough}
	}
	if best.cfg == nil {
		return best, unacceptable(&mismatch{
			kind: KindSelectors, ours: t.selectorTexts(old), theirs: []string{selectorText(local, remote)},
			text: "no Child SA is configured for " + selectorText(local, remote) + labelSuffix(m),
		})
	}
	// It may have been configured anew since; RFC 9478, Section 3.1: a rekeying keeps the label.
	if old != nil && best.label != old.label {
		return best, unacceptable(&mismatch{
			kind: KindSelectors, ours: []string{labelText(old.label)}, theirs: []string{labelText(best.label)},
			text: "rekeying would change the label",
		})
	}
	best.shared = best.cfg.shares() && sharesResource(m)
	// RFC 7296, Section 2.9.2: rekeying does not narrow.
	if old != nil && !(ts.Covers(best.localTS, old.localTS) && ts.Covers(best.remoteTS, old.remoteTS)) {
		return best, unacceptable(&mismatch{
			kind: KindSelectors, ours: []string{selectorText(old.localTS, old.remoteTS)}, theirs: []string{selectorText(local, remote)},
			text: "rekeying would narrow the selectors",
		})
	}
	transport := m.notify(wire.NotifyUseTransportMode) != nil
	if best.cfg.Mode == dataplane.Transport && !transport {
		return best, &Error{Op: "create Child SA", Exchange: m.Exchange, Notify: wire.NotifyNoProposalChosen, Err: errTransportRefused}
	}
	best.mode = best.cfg.Mode // a request for transport mode may be declined
	best.noTFC = refusesTFC(m)
	return best, nil
}

// bestChild returns the configured Child SA that fits a request best, with the selectors
// narrowed to it; that of old, if it is being rekeyed. taken says that another one, of
// several for the same selectors, would have done if it were not there already.
func (sa *ikeSA) bestChild(m *message, old *childSA, local, remote []ts.Selector) (best childSpec, taken bool) {
	t := sa.t
	for i := range t.cfg.Children {
		cfg := &t.cfg.Children[i]
		if old != nil && old.name != cfg.Name || old == nil && !mayBe(m, cfg) {
			continue
		}
		l, r := sa.seenFor(cfg, local, remote)
		l, r = ts.Narrow(l, sa.narrowed(cfg.LocalTS, false)), ts.Narrow(r, sa.narrowed(cfg.RemoteTS, true))
		switch {
		case len(l) == 0 || len(r) == 0 || !asksFor(m, cfg.Label):
		case old == nil && cfg.queue > 0 && sa.further(cfg.Name) != nil:
			taken = true
		// Prefer what fits wholly, and what has no SA yet.
		case best.cfg == nil || t.fit(cfg, l, r) > t.fit(best.cfg, best.localTS, best.remoteTS):
			best = childSpec{cfg: cfg, localTS: l, remoteTS: r, label: cfg.Label}
		}
	}
	return best, taken
}

// refusesTFC reports whether the peer takes no TFC padding on the Child SA that m
// makes. This host does (RFC 7296, Section 1.3.1).
func refusesTFC(m *message) bool { return m.notify(wire.NotifyESPTFCPaddingNotSupported) != nil }

var errEnough = errors.New("peer wants more Child SAs for the same selectors than this end has queues")

var errTransportRefused = modeMismatch(dataplane.Transport, dataplane.Tunnel, "peer does not ask for transport mode, which is configured")

func (t *Tunnel) fit(cfg *ChildConfig, local, remote []ts.Selector) int {
	score := 0
	if ts.Covers(local, cfg.LocalTS) && ts.Covers(remote, cfg.RemoteTS) {
		score += 2
	}
	if !t.hasLive(cfg.Name) {
		score++
	}
	return score
}

// outboundSPI returns the SPI that the initiator of an exchange gave to the
// proposal with that number.
func outboundSPI(m *message, number uint8) (uint32, *Error) {
	spi := suite.ProposalSPI(find[*wire.SA](m).Proposals, number)
	if len(spi) != 4 || be32(spi) < dataplane.MinSPI {
		return 0, &Error{
			Op: "create Child SA", Exchange: m.Exchange, Payload: wire.PayloadSA,
			Notify: wire.NotifyNoProposalChosen, Err: errors.New("SPI is missing or reserved"),
		}
	}
	return be32(spi), nil
}
