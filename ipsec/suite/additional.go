package suite

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// MaxAdditional is how many key exchanges can follow the first one: the
// transform types ADDKE1 to ADDKE7 of RFC 9370, Section 2.2.1.
const MaxAdditional = 7

// AdditionalOffers are the alternatives for each of ADDKE1 to ADDKE7. NONE (0)
// among others makes that key exchange optional; an empty list leaves it out,
// which means the same as NONE alone.
type AdditionalOffers [MaxAdditional][]wire.KeyExchangeID

// AdditionalMethods are the methods chosen for ADDKE1 to ADDKE7, NONE (0) for
// those that do not take place.
type AdditionalMethods [MaxAdditional]wire.KeyExchangeID

// maxMethodChoices bounds the combinations of key exchange methods that one
// proposal allows, because a responder may have to try them all.
const maxMethodChoices = 4096

// KeyExchanges returns the methods of s in the order in which they are
// performed: that of IKE_SA_INIT or CREATE_CHILD_SA, then the additional ones.
func (s IKESuite) KeyExchanges() []wire.KeyExchangeID {
	return methodsInOrder(s.KeyExchange, s.Additional)
}

// KeyExchanges returns the methods of s in the order in which they are
// performed, none if the exchange makes no key exchange of its own.
func (s ESPSuite) KeyExchanges() []wire.KeyExchangeID {
	return methodsInOrder(s.KeyExchange, s.Additional)
}

func methodsInOrder(first wire.KeyExchangeID, additional AdditionalMethods) []wire.KeyExchangeID {
	var out []wire.KeyExchangeID
	for _, m := range append([]wire.KeyExchangeID{first}, additional[:]...) {
		if m != wire.KeyExchangeNone {
			out = append(out, m)
		}
	}
	return out
}

// WithoutAdditional returns the proposals that can do with one key exchange,
// reduced to that: what a responder accepts if the initiator has not
// announced IKE_INTERMEDIATE, in which the others would be performed (RFC
// 9370, Section 2.2.1).
func WithoutAdditional(ps []IKEProposal) []IKEProposal {
	var out []IKEProposal
	for _, p := range ps {
		if p.Additional.optional() {
			p.Additional = AdditionalOffers{}
			out = append(out, p)
		}
	}
	return out
}

// optional reports whether none of the additional key exchanges must be made.
func (a AdditionalOffers) optional() bool {
	return !slices.ContainsFunc(a[:], func(methods []wire.KeyExchangeID) bool {
		return len(methods) > 0 && !slices.Contains(methods, wire.KeyExchangeNone)
	})
}

func (a AdditionalOffers) empty() bool {
	return !slices.ContainsFunc(a[:], func(methods []wire.KeyExchangeID) bool { return len(methods) > 0 })
}

// Allows reports whether s is one of the suites of p.
func (p IKEProposal) Allows(s IKESuite) bool {
	if !slices.Contains(p.Encryption, Encryption{s.Encryption, s.KeyBits}) || !slices.Contains(p.PRF, s.PRF) ||
		!slices.Contains(p.KeyExchange, s.KeyExchange) {
		return false
	}
	if s.Integrity == 0 && len(p.Integrity) > 0 || s.Integrity != 0 && !slices.Contains(p.Integrity, s.Integrity) {
		return false
	}
	for i, method := range s.Additional {
		if !slices.Contains(noneIfEmpty(p.Additional[i]), method) {
			return false
		}
	}
	return true
}

func noneIfEmpty(methods []wire.KeyExchangeID) []wire.KeyExchangeID {
	if len(methods) == 0 {
		return []wire.KeyExchangeID{wire.KeyExchangeNone}
	}
	return methods
}

// validate holds what RFC 9370, Section 2.2.1, demands: some choice in which
// no method is used twice. first are the methods of Transform Type 4.
func (a AdditionalOffers) validate(first []wire.KeyExchangeID) error {
	if a.empty() {
		return nil
	}
	choices := max(1, len(first))
	for i, methods := range a {
		k := kindAdditionalKE + kind(i)
		if err := checkEach(k, methods, testOptionalKeyExchange); err != nil {
			return err
		}
		if choices *= max(1, len(methods)); choices > maxMethodChoices {
			return fmt.Errorf("more than %d combinations of key exchange groups: remove some", maxMethodChoices)
		}
	}
	if len(first) == 0 {
		return errors.New("an additional key exchange without a first one: add one of " + keywords(kindKeyExchange))
	}
	if _, ok := chooseMethods(noneIfEmpty(first), a.lists()); !ok {
		return errors.New("each choice of key exchange groups makes the same one twice: remove it in one place")
	}
	return nil
}

func (a AdditionalOffers) lists() [][]wire.KeyExchangeID {
	lists := make([][]wire.KeyExchangeID, MaxAdditional)
	for i := range a {
		lists[i] = noneIfEmpty(a[i])
	}
	return lists
}

// chooseMethods returns one method of first and of each of the additional
// lists, the best by their order, such that none but NONE is there twice (RFC
// 9370, Section 2.2.1), and that there is no additional one without a first.
func chooseMethods(first []wire.KeyExchangeID, additional [][]wire.KeyExchangeID) ([]wire.KeyExchangeID, bool) {
	lists := append([][]wire.KeyExchangeID{first}, additional...)
	chosen := make([]wire.KeyExchangeID, 0, len(lists))
	var choose func() bool
	choose = func() bool {
		if len(chosen) == len(lists) {
			return true
		}
		for _, m := range lists[len(chosen)] {
			if m != wire.KeyExchangeNone && (slices.Contains(chosen, m) || len(chosen) > 0 && chosen[0] == wire.KeyExchangeNone) {
				continue
			}
			chosen = append(chosen, m)
			if choose() {
				return true
			}
			chosen = chosen[:len(chosen)-1]
		}
		return false
	}
	return chosen, choose()
}

// keyExchanges chooses the methods of all key exchanges. An answer names a
// transform type if and only if the offer does; types that the offer leaves
// out count as NONE (RFC 9370, Section 2.2.1).
func (m *matcher) keyExchanges(ours, offer wire.Proposal) {
	common := make([][]wire.KeyExchangeID, 1+MaxAdditional)
	for i := range common {
		common[i] = commonMethods(ours, offer, keyExchangeType(i))
	}
	chosen, ok := chooseMethods(common[0], common[1:])
	if !ok {
		m.failed = true
		return
	}
	for i, method := range chosen {
		if t := keyExchangeType(i); len(ofType(offer, t)) > 0 {
			m.chosen = append(m.chosen, wire.Transform{Type: t, ID: uint16(method)})
		}
	}
}

// keyExchangeType returns the transform type of the key exchange with that
// number: Transform Type 4 for the first, then ADDKE1 and so on.
func keyExchangeType(i int) wire.TransformType {
	if i == 0 {
		return wire.TransformKeyExchange
	}
	return wire.TransformAdditionalKE1 + wire.TransformType(i-1)
}

// commonMethods returns what both proposals have of a transform type, in the
// order of ours. To leave the type out is to propose NONE.
func commonMethods(ours, offer wire.Proposal, t wire.TransformType) []wire.KeyExchangeID {
	none := []wire.Transform{{Type: t}}
	wants, offers := ofType(ours, t), ofType(offer, t)
	if len(wants) == 0 {
		wants = none
	}
	if len(offers) == 0 {
		offers = none
	}
	var out []wire.KeyExchangeID
	for _, tr := range wants {
		if slices.Contains(offers, tr) {
			out = append(out, wire.KeyExchangeID(tr.ID))
		}
	}
	return out
}

func (a AdditionalOffers) transforms() []wire.Transform {
	var ts []wire.Transform
	for i, methods := range a {
		for _, id := range methods {
			ts = append(ts, wire.Transform{Type: keyExchangeType(i + 1), ID: uint16(id)})
		}
	}
	return ts
}

// additionalKeyword is the keyword of a method in ADDKE1 to ADDKE7, counted
// from 0, such as "ke1_mlkem768".
func additionalKeyword(i int, id wire.KeyExchangeID) string {
	word := keywordNone
	if id != wire.KeyExchangeNone {
		word = groupKeyword(id)
	}
	return fmt.Sprintf("ke%d_%s", i+1, word)
}

// lookupAdditional finds the method of a keyword like "ke1_mlkem768".
func lookupAdditional(w string) (k kind, id uint16, ok bool) {
	number, method, found := strings.Cut(w, "_")
	if !found || len(number) != 3 || number[:2] != "ke" || number[2] < '1' || number[2] > '0'+MaxAdditional {
		return 0, 0, false
	}
	k = kindAdditionalKE + kind(number[2]-'1')
	if method == keywordNone {
		return k, 0, true
	}
	if alias, found := aliases[method]; found {
		method = alias
	}
	for _, g := range groups {
		if g.keyword == method {
			return k, uint16(g.id), true
		}
	}
	return 0, 0, false
}

func (a AdditionalOffers) keywords() []string {
	var ws []string
	for i, methods := range a {
		for _, id := range methods {
			ws = append(ws, additionalKeyword(i, id))
		}
	}
	return ws
}

func (m AdditionalMethods) offers() AdditionalOffers {
	var a AdditionalOffers
	for i, id := range m {
		if id != wire.KeyExchangeNone {
			a[i] = []wire.KeyExchangeID{id}
		}
	}
	return a
}

func (m *AdditionalMethods) set(t wire.Transform) {
	if t.Type.IsAdditionalKE() {
		m[t.Type-wire.TransformAdditionalKE1] = wire.KeyExchangeID(t.ID)
	}
}

func (a *AdditionalOffers) add(k kind, id uint16) {
	i := k - kindAdditionalKE
	a[i] = append(a[i], wire.KeyExchangeID(id))
}
