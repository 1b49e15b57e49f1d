package ike

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// Post-quantum preshared keys are mixed into the keys of an IKE SA in one of two
// ways. With RFC 8784 it happens in IKE_AUTH, which names the key, and covers
// what comes after: Child SAs and rekeyed IKE SAs. With RFC 9867 it happens at
// the end of IKE_INTERMEDIATE and covers IKE_AUTH as well. The responder chooses
// between the two if the initiator offers both.

// ppkUse is what both ends announced in IKE_SA_INIT.
type ppkUse uint8

const (
	ppkNone         ppkUse = iota
	ppkAuth                // RFC 8784
	ppkIntermediate        // RFC 9867
)

// maxOfferedPPKs bounds the keys of one tunnel: an initiator offers them all in
// one message, under RFC 9867.
const maxOfferedPPKs = 8

func (c Config) validatePPKs() error {
	if len(c.PPKs) > maxOfferedPPKs {
		return fmt.Errorf("%d post-quantum preshared keys, at most %d are allowed", len(c.PPKs), maxOfferedPPKs)
	}
	if c.PPKRequired && len(c.PPKs) == 0 {
		return errors.New("a post-quantum preshared key is required and none is configured: add one")
	}
	for i, p := range c.PPKs {
		if err := p.Validate(); err != nil {
			return err
		}
		if slices.ContainsFunc(c.PPKs[:i], func(o ident.PPK) bool { return string(o.ID) == string(p.ID) }) {
			return fmt.Errorf("two keys with the identifier of %s: rename one", p)
		}
	}
	return nil
}

// offerPPK are the notifications of an initiator that has such keys (RFC 8784,
// Section 3; RFC 9867).
func offerPPK(ppks []ident.PPK) []wire.Payload {
	if len(ppks) == 0 {
		return nil
	}
	return []wire.Payload{&wire.Notify{Kind: wire.NotifyUsePPK}, &wire.Notify{Kind: wire.NotifyUsePPKInt}}
}

// agreePPK chooses how a responder that has keys for somebody takes one, and
// returns the notification that says so.
func (h *HalfOpen) agreePPK(m *message) []wire.Payload {
	i := h.sa.init
	switch {
	case h.cfg.PPKs == nil:
		return nil
	case m.notify(wire.NotifyUsePPKInt) != nil && m.notify(wire.NotifyIntermediateExchangeSupported) != nil:
		i.ppkUse, i.ppks = ppkIntermediate, h.cfg.PPKs
		return []wire.Payload{&wire.Notify{Kind: wire.NotifyUsePPKInt}}
	case m.notify(wire.NotifyUsePPK) != nil:
		i.ppkUse = ppkAuth
		return []wire.Payload{&wire.Notify{Kind: wire.NotifyUsePPK}}
	}
	return nil
}

// agreedPPK reads the responder's choice. That there is none is an error if a
// key is required: like anything in that response, it may come from an attacker,
// so the initiator waits for another (RFC 8784, Section 6).
func (c *Config) agreedPPK(m *message) (ppkUse, error) {
	intermediate := m.notify(wire.NotifyUsePPKInt) != nil
	switch {
	case len(c.PPKs) == 0:
		return ppkNone, nil
	case intermediate && m.notify(wire.NotifyIntermediateExchangeSupported) == nil:
		return ppkNone, errors.New("USE_PPK_INT without the IKE_INTERMEDIATE exchange that it needs")
	case intermediate:
		return ppkIntermediate, nil
	case m.notify(wire.NotifyUsePPK) != nil:
		return ppkAuth, nil
	case c.PPKRequired:
		return ppkNone, errPPKMissing
	}
	return ppkNone, nil
}

var errPPKMissing = &mismatch{
	kind: KindConfiguration, payload: wire.PayloadNotify,
	remedy: "give both ends the same post-quantum preshared key under the same identifier, or do not require it",
	text:   "the peer uses no post-quantum preshared key, and one is required",
}

// rounds are the methods of the key exchanges in IKE_INTERMEDIATE. NONE is for an
// exchange that only agrees on a key of RFC 9867; with others that is done in the
// last one.
func (i *initState) rounds(s suite.IKESuite) []wire.KeyExchangeID {
	methods := s.KeyExchanges()[1:]
	if len(methods) == 0 && i.ppkUse == ppkIntermediate {
		return []wire.KeyExchangeID{wire.KeyExchangeNone}
	}
	return methods
}

// takesPPK reports whether the IKE_INTERMEDIATE exchange under way agrees on a
// key.
func (i *initState) takesPPK() bool { return i.ppkUse == ppkIntermediate && len(i.pending) == 1 }

// ppkProofs are the notifications by which an initiator says which keys it has:
// identifier and PPK Confirmation of each, the preferred one first (RFC 9867).
func (sa *ikeSA) ppkProofs() []wire.Payload {
	i := sa.init
	if !i.takesPPK() {
		return nil
	}
	var out []wire.Payload
	for _, p := range sa.t.cfg.PPKs {
		data := append(p.WireID(), suite.PPKConfirmation(sa.suite.PRF, p.Key, i.ni, i.nr, sa.localSPI, sa.remoteSPI)...)
		out = append(out, &wire.Notify{Kind: wire.NotifyPPKIdentityKey, Data: data})
	}
	return out
}

// provenPPK is for a job: it returns the first of the keys that both ends have,
// nil if there is none.
func provenPPK(m *message, u keyUpdate, ours *ident.PPKSet) *ident.PPK {
	for _, payload := range m.payloads {
		n, ok := payload.(*wire.Notify)
		if !ok || n.Kind != wire.NotifyPPKIdentityKey || len(n.Data) < suite.PPKConfirmationLen {
			continue
		}
		cut := len(n.Data) - suite.PPKConfirmationLen
		for _, p := range ours.Find(n.Data[:cut]) {
			if subtle.ConstantTimeCompare(n.Data[cut:], suite.PPKConfirmation(u.suite.PRF, p.Key, u.ni, u.nr, u.spii, u.spir)) == 1 {
				return &p
			}
		}
	}
	return nil
}

// chosenPPK reads which of our keys the responder has taken.
func (sa *ikeSA) chosenPPK(m *message) (*ident.PPK, error) {
	if !sa.init.takesPPK() {
		return nil, nil
	}
	cfg := sa.t.cfg
	n := m.notify(wire.NotifyPPKIdentity)
	switch {
	case n == nil && cfg.PPKRequired:
		return nil, errPPKMissing
	case n == nil:
		return nil, nil
	}
	if p := ppkByID(cfg.PPKs, n.Data); p != nil {
		return p, nil
	}
	return nil, &mismatch{
		kind: KindProtocol, payload: wire.PayloadNotify, remedy: remedyPeerDefect,
		text: "the peer has taken a post-quantum preshared key that was not offered",
	}
}

func ppkByID(ppks []ident.PPK, id []byte) *ident.PPK {
	for i := range ppks {
		if string(ppks[i].WireID()) == string(id) {
			return &ppks[i]
		}
	}
	return nil
}

// refusesPPK says why a tunnel does not want a peer that has agreed on a key, or
// on none, in IKE_INTERMEDIATE. A resumed session has the one of its ticket
// (RFC 8784, Section 3: it is not mixed in again).
func (t *Tunnel) refusesPPK(i *initState) error {
	switch {
	case i.session != nil:
	case i.ppk != nil && !slices.ContainsFunc(t.cfg.PPKs, i.ppk.Equal):
		return &mismatch{
			kind: KindConfiguration, payload: wire.PayloadNotify, remedy: errPPKMissing.remedy,
			text: fmt.Sprintf("tunnel %s does not have the %s", t.cfg.Name, i.ppk),
		}
	case i.ppk == nil && i.ppkUse != ppkAuth && t.cfg.PPKRequired:
		return errPPKMissing
	}
	return nil
}

// mixPPK makes the keys depend on a key of RFC 8784. Those before are kept until
// it is known that the peer does the same.
func (sa *ikeSA) mixPPK(p *ident.PPK) {
	sa.init.ppk, sa.init.unmixed = p, sa.keys.MixPPK(sa.suite.PRF, p.Key)
}

// unmixPPK takes mixPPK back.
func (sa *ikeSA) unmixPPK() {
	sa.keys.Restore(sa.init.unmixed)
	sa.init.ppk, sa.init.unmixed = nil, nil
}

// agreePPKInAuth finds the key that an initiator names in IKE_AUTH and mixes it
// in. If it may be done without, it returns the initiator's AUTH data that goes
// without it (RFC 8784, Section 3, Table 1).
func (sa *ikeSA) agreePPKInAuth(m *message) (without []byte, err error) {
	cfg := sa.t.cfg
	if sa.init.ppkUse != ppkAuth {
		return nil, nil
	}
	n, fallback := m.notify(wire.NotifyPPKIdentity), m.notify(wire.NotifyNoPPKAuth)
	if n == nil {
		return nil, &mismatch{
			kind: KindProtocol, payload: wire.PayloadNotify, remedy: remedyPeerDefect,
			text: "PPK_IDENTITY is missing, and USE_PPK was agreed on",
		}
	}
	if p := ppkByID(cfg.PPKs, n.Data); p != nil {
		sa.mixPPK(p)
		return nil, nil
	}
	if cfg.PPKRequired || fallback == nil {
		return nil, &mismatch{
			kind: KindConfiguration, payload: wire.PayloadNotify,
			remedy: errPPKMissing.remedy, text: fmt.Sprintf("the peer names a post-quantum preshared key that tunnel %s does not have", cfg.Name),
		}
	}
	return fallback.Data, nil
}

// ppkAnswer tells the initiator that its key is in use.
func (i *initState) ppkAnswer() []wire.Payload {
	if i.ppkUse != ppkAuth || i.ppk == nil {
		return nil
	}
	return []wire.Payload{&wire.Notify{Kind: wire.NotifyPPKIdentity}}
}

// settlePPK reads in the answer to IKE_AUTH whether the responder has mixed in
// our key (RFC 8784, Section 3).
func (sa *ikeSA) settlePPK(m *message) error {
	i := sa.init
	switch {
	case i.unmixed == nil || m.notify(wire.NotifyPPKIdentity) != nil:
		return nil
	case sa.t.cfg.PPKRequired:
		return errPPKMissing
	}
	sa.unmixPPK()
	return nil
}

// notePPK keeps the name of the key for people to see.
func (sa *ikeSA) notePPK() {
	if p := sa.init.ppk; p != nil {
		sa.ppk = string(p.ID)
	}
}
