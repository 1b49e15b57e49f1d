package suite

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// NoProposalError means that an offer and the local policy have nothing in
// common; the answer is NO_PROPOSAL_CHOSEN (RFC 7296, Section 2.7). Both sides
// are in it so that a person sees what to change.
type NoProposalError struct {
	Protocol wire.ProtocolID
	Offered  []string // what the peer offered, one entry for each proposal
	Accepted []string // the local policy, in order of preference
}

func (e *NoProposalError) Error() string {
	return fmt.Sprintf("no common %s proposal: the peer offers %s; accepted here is %s; add one of the peer's to the profile, or the reverse",
		e.Protocol, strings.Join(e.Offered, " or "), strings.Join(e.Accepted, " or "))
}

// Cause is Error without the two sides and the remedy.
func (e *NoProposalError) Cause() string { return fmt.Sprintf("no common %s proposal", e.Protocol) }

// ErrInvalidAnswer means that a responder answered an SA payload with
// something that was not offered. The exchange must end (RFC 7296, Section
// 3.3.6).
var ErrInvalidAnswer = errors.New("answer is not a subset of the offer")

// ChooseIKE picks a suite for the responder of an IKE SA. The order of policy
// decides, then the order inside its proposals; the order of the offer only
// decides between proposals of it that are equally good. The answer holds one
// transform of each type in the chosen proposal, its number, and no SPI: the
// caller adds its own when rekeying. The error is a *NoProposalError if
// nothing fits.
func ChooseIKE(offered []wire.Proposal, policy []IKEProposal) (IKESuite, wire.Proposal, error) {
	candidates := usable(offered, wire.ProtocolIKE)
	for _, p := range policy {
		if p.Validate() != nil {
			continue // an algorithm that fails its self-test is not accepted
		}
		for _, o := range candidates {
			if chosen, ok := p.match(o); ok {
				return ikeSuite(chosen), answerTo(o, chosen), nil
			}
		}
	}
	return IKESuite{}, wire.Proposal{}, noProposal(wire.ProtocolIKE, offered, policy)
}

// ChooseESP picks a suite for the responder of a Child SA, by the rules of
// ChooseIKE. In IKE_AUTH policy must come from WithoutKeyExchange.
func ChooseESP(offered []wire.Proposal, policy []ESPProposal) (ESPSuite, wire.Proposal, error) {
	candidates := append(usable(offered, wire.ProtocolESP), usable(offered, wire.ProtocolAH)...)
	for _, p := range policy {
		if p.Validate() != nil {
			continue
		}
		for _, o := range candidates {
			if chosen, ok := p.match(o); ok {
				answer := answerTo(o, chosen)
				return espSuite(answer), answer, nil
			}
		}
	}
	return ESPSuite{}, wire.Proposal{}, noProposal(wire.ProtocolESP, offered, policy)
}

// AcceptIKE checks the answer of a responder against the offer that OfferIKE
// made of offered: the number of one of the proposals, exactly one transform
// of each type in it, nothing else. Its error wraps ErrInvalidAnswer.
func AcceptIKE(answer wire.Proposal, offered []IKEProposal) (IKESuite, error) {
	if err := checkAnswer(answer, OfferIKE(offered, nil)); err != nil {
		return IKESuite{}, err
	}
	s := ikeSuite(answer.Transforms)
	return s, s.validate()
}

// AcceptESP checks the answer of a responder against the offer that OfferESP
// made of offered. Its error wraps ErrInvalidAnswer.
func AcceptESP(answer wire.Proposal, offered []ESPProposal) (ESPSuite, error) {
	if err := checkAnswer(answer, OfferESP(offered, nil)); err != nil {
		return ESPSuite{}, err
	}
	s := espSuite(answer)
	return s, s.Validate()
}

// ProposalSPI returns the SPI of the proposal with that number: the
// initiator's SPI that belongs to an answer. It is nil if there is none.
func ProposalSPI(offered []wire.Proposal, number uint8) []byte {
	for _, o := range offered {
		if o.Number == number {
			return o.SPI
		}
	}
	return nil
}

func checkAnswer(answer wire.Proposal, offers []wire.Proposal) error {
	i := slices.IndexFunc(offers, func(o wire.Proposal) bool { return o.Number == answer.Number })
	if i < 0 {
		return fmt.Errorf("%w: proposal number %d, %d were offered", ErrInvalidAnswer, answer.Number, len(offers))
	}
	offer := offers[i]
	if answer.Protocol != offer.Protocol {
		return fmt.Errorf("%w: protocol %s, offered %s", ErrInvalidAnswer, answer.Protocol, offer.Protocol)
	}
	if !spiFits(answer) {
		return fmt.Errorf("%w: SPI of %d octets for %s", ErrInvalidAnswer, len(answer.SPI), answer.Protocol)
	}
	for t := wire.TransformEncryption; t <= wire.TransformAdditionalKE7; t++ {
		want := min(1, len(ofType(offer, t)))
		got := len(ofType(answer, t))
		if got == 0 && offersNone(offer, t) {
			continue // the same as NONE, which strongSwan leaves out
		}
		if got != want {
			return fmt.Errorf("%w: %d transforms of type %s, want %d", ErrInvalidAnswer, got, t, want)
		}
	}
	for _, t := range answer.Transforms {
		if !slices.Contains(offer.Transforms, t) {
			return fmt.Errorf("%w: transform %s was not offered in proposal %d", ErrInvalidAnswer, transformName(t), answer.Number)
		}
	}
	return nil
}

// offersNone reports whether a transform type is optional in the offer, by a
// transform that stands for its absence (RFC 7296, Section 3.3.2; RFC 9370,
// Section 2.2.1).
func offersNone(offer wire.Proposal, t wire.TransformType) bool {
	if t != wire.TransformIntegrity && t != wire.TransformKeyExchange && !t.IsAdditionalKE() {
		return false
	}
	return slices.ContainsFunc(ofType(offer, t), func(tr wire.Transform) bool { return tr.ID == 0 })
}

// Bounds on the work that an offer causes before its sender is known. The
// longest offers in use have some 60 transforms in a proposal, and few
// proposals.
const (
	maxTransforms      = 512 // in all proposals that are looked at
	maxNamedTransforms = 32  // of a proposal, in an error
	maxNamedProposals  = 8
)

// usable keeps the proposals that obey RFC 7296, Sections 3.3.1 to 3.3.6. One
// that does not is skipped as if it were not there; the others are still
// considered. One whose number breaks the sequence makes answers ambiguous, so
// it ends the list, and so does one that exceeds maxTransforms.
func usable(offered []wire.Proposal, protocol wire.ProtocolID) []wire.Proposal {
	var out []wire.Proposal
	transforms := 0
	for i, o := range offered {
		transforms += len(o.Transforms)
		if int(o.Number) != i+1 || transforms > maxTransforms {
			break
		}
		if o.Protocol == protocol && spiFits(o) && !hasDuplicates(o) && onlyTypesOf(protocol, o) {
			out = append(out, o)
		}
	}
	return out
}

// spiFits holds the SPI sizes of RFC 7296, Section 3.3.1. Whether an IKE SPI
// belongs there depends on the exchange and is checked by the caller.
func spiFits(p wire.Proposal) bool {
	if p.Protocol == wire.ProtocolIKE {
		return len(p.SPI) == 0 || len(p.SPI) == len(wire.SPI{})
	}
	return len(p.SPI) == 4
}

func hasDuplicates(p wire.Proposal) bool {
	for i, t := range p.Transforms {
		if slices.Contains(p.Transforms[:i], t) {
			return true
		}
	}
	return false
}

// onlyTypesOf reports whether each transform type is one that the protocol has
// (RFC 7296, Section 3.3.3; RFC 9370, Section 2.2.1). A type that is not
// understood makes the whole proposal unacceptable (RFC 7296, Section 3.3.6).
func onlyTypesOf(protocol wire.ProtocolID, p wire.Proposal) bool {
	for _, t := range p.Transforms {
		switch t.Type {
		case wire.TransformIntegrity, wire.TransformKeyExchange:
		case wire.TransformEncryption:
			if protocol == wire.ProtocolAH {
				return false
			}
		case wire.TransformPRF:
			if protocol != wire.ProtocolIKE {
				return false
			}
		case wire.TransformSequenceNumbers:
			if protocol == wire.ProtocolIKE {
				return false
			}
		default:
			if !t.Type.IsAdditionalKE() {
				return false
			}
		}
	}
	return true
}

func ofType(p wire.Proposal, t wire.TransformType) []wire.Transform {
	var out []wire.Transform
	for _, tr := range p.Transforms {
		if tr.Type == t {
			out = append(out, tr)
		}
	}
	return out
}

// match returns one transform of each type of offer, the best by the order of
// p, or false.
func (p IKEProposal) match(offer wire.Proposal) ([]wire.Transform, bool) {
	ours := p.Wire(0, nil)
	var m matcher
	m.ciphers(ours, offer)
	m.exactlyOne(ours, offer, wire.TransformPRF)
	m.keyExchanges(ours, offer)
	return m.chosen, !m.failed
}

func (p ESPProposal) match(offer wire.Proposal) ([]wire.Transform, bool) {
	ours := p.Wire(0, nil)
	var m matcher
	switch {
	case ours.Protocol != offer.Protocol:
		m.failed = true
	case p.AH:
		m.exactlyOne(ours, offer, wire.TransformIntegrity)
	default:
		m.ciphers(ours, offer)
	}
	m.keyExchanges(ours, offer)
	m.exactlyOne(ours, offer, wire.TransformSequenceNumbers)
	return m.chosen, !m.failed
}

// matcher collects one transform for each type and remembers a miss.
type matcher struct {
	chosen []wire.Transform
	failed bool
}

func (m *matcher) exactlyOne(ours, offer wire.Proposal, t wire.TransformType) {
	offers := ofType(offer, t)
	for _, tr := range ofType(ours, t) {
		if slices.Contains(offers, tr) {
			m.chosen = append(m.chosen, tr)
			return
		}
	}
	m.failed = true
}

// orNone handles a type that may be left out: absent and NONE mean the same,
// but an answer names the type if and only if the offer does (RFC 7296,
// Section 2.7).
func (m *matcher) orNone(ours, offer wire.Proposal, t wire.TransformType) {
	none := wire.Transform{Type: t}
	offers, wants := ofType(offer, t), ofType(ours, t)
	if len(wants) == 0 {
		wants = []wire.Transform{none}
	}
	if len(offers) == 0 {
		m.failed = m.failed || !slices.Contains(wants, none)
		return
	}
	for _, tr := range wants {
		if slices.Contains(offers, tr) {
			m.chosen = append(m.chosen, tr)
			return
		}
	}
	m.failed = true
}

// ciphers chooses cipher and integrity algorithm. A combined-mode cipher goes
// only with no integrity algorithm or NONE as the single one (RFC 7296,
// Section 3.3).
func (m *matcher) ciphers(ours, offer wire.Proposal) {
	m.exactlyOne(ours, offer, wire.TransformEncryption)
	if len(ofType(ours, wire.TransformIntegrity)) != 0 {
		m.exactlyOne(ours, offer, wire.TransformIntegrity)
		return
	}
	if len(ofType(offer, wire.TransformIntegrity)) > 1 {
		m.failed = true
		return
	}
	m.orNone(ours, offer, wire.TransformIntegrity)
}

func answerTo(offer wire.Proposal, chosen []wire.Transform) wire.Proposal {
	return wire.Proposal{Number: offer.Number, Protocol: offer.Protocol, Transforms: chosen}
}

func ikeSuite(ts []wire.Transform) IKESuite {
	var s IKESuite
	for _, t := range ts {
		switch t.Type {
		case wire.TransformEncryption:
			s.Encryption, s.KeyBits = wire.EncryptionID(t.ID), t.KeyLength
		case wire.TransformPRF:
			s.PRF = PRF(t.ID)
		case wire.TransformIntegrity:
			s.Integrity = wire.IntegrityID(t.ID)
		case wire.TransformKeyExchange:
			s.KeyExchange = wire.KeyExchangeID(t.ID)
		default:
			s.Additional.set(t)
		}
	}
	return s
}

func espSuite(p wire.Proposal) ESPSuite {
	s := ESPSuite{AH: p.Protocol == wire.ProtocolAH}
	for _, t := range p.Transforms {
		switch t.Type {
		case wire.TransformEncryption:
			s.Encryption, s.KeyBits = wire.EncryptionID(t.ID), t.KeyLength
		case wire.TransformIntegrity:
			s.Integrity = wire.IntegrityID(t.ID)
		case wire.TransformKeyExchange:
			s.KeyExchange = wire.KeyExchangeID(t.ID)
		case wire.TransformSequenceNumbers:
			s.ESN = wire.SequenceNumbersID(t.ID) == wire.SequenceNumbersExtended
		default:
			s.Additional.set(t)
		}
	}
	return s
}

func noProposal[P fmt.Stringer](protocol wire.ProtocolID, offered []wire.Proposal, policy []P) error {
	e := &NoProposalError{Protocol: protocol}
	for i, o := range offered {
		if i == maxNamedProposals {
			e.Offered = append(e.Offered, fmt.Sprintf("%d more", len(offered)-i))
			break
		}
		e.Offered = append(e.Offered, Describe(o))
	}
	for _, p := range policy {
		e.Accepted = append(e.Accepted, p.String())
	}
	return e
}

// Describe prints a proposal in keywords as far as they are known, and its
// protocol if that is neither IKE nor ESP.
func Describe(p wire.Proposal) string {
	var ws []string
	for i, t := range p.Transforms {
		if i == maxNamedTransforms {
			ws = append(ws, fmt.Sprintf("(%d more)", len(p.Transforms)-i))
			break
		}
		ws = append(ws, transformName(t))
	}
	switch {
	case len(ws) == 0:
		return p.Protocol.String() + " without transforms"
	case p.Protocol != wire.ProtocolIKE && p.Protocol != wire.ProtocolESP:
		return p.Protocol.String() + " " + strings.Join(ws, "-")
	}
	return strings.Join(ws, "-")
}

func transformName(t wire.Transform) string {
	switch t.Type {
	case wire.TransformEncryption:
		return Encryption{wire.EncryptionID(t.ID), t.KeyLength}.String()
	case wire.TransformPRF:
		return PRF(t.ID).String()
	case wire.TransformIntegrity:
		return integrityKeyword(wire.IntegrityID(t.ID))
	case wire.TransformKeyExchange:
		return groupKeyword(wire.KeyExchangeID(t.ID))
	case wire.TransformSequenceNumbers:
		return sequenceNumbersKeyword(wire.SequenceNumbersID(t.ID))
	default:
		if t.Type.IsAdditionalKE() {
			return additionalKeyword(int(t.Type-wire.TransformAdditionalKE1), wire.KeyExchangeID(t.ID))
		}
		return fmt.Sprintf("%s/%d", t.Type, t.ID)
	}
}
