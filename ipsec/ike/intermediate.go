package ike

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// Between IKE_SA_INIT and IKE_AUTH the additional key exchanges of the chosen
// suite take place, each in an IKE_INTERMEDIATE exchange and each followed by
// new keys (RFC 9370, Section 2.2.2). Both ends know from the suite which ones
// they are, so their number is bounded and their order fixed; until the last one
// is done the exchange table knows no IKE_AUTH, and after it IKE_INTERMEDIATE only
// with nothing to agree on, a few times.

// proceed begins what comes next for the initiator of an IKE SA in the making. If
// the peer has established an IKE SA with us meanwhile, ours is dropped instead.
func (sa *ikeSA) proceed() {
	if sa.t.primary() != nil && sa.init.replaces == nil {
		sa.die()
		return
	}
	if len(sa.init.pending) > 0 {
		sa.beginIntermediate()
		return
	}
	sa.sign()
}

// beginIntermediate makes the private value for the next key exchange and sends
// it.
func (sa *ikeSA) beginIntermediate() {
	sa.state = stateIntermediate
	if sa.init.pending[0] == wire.KeyExchangeNone {
		sa.askIntermediate(sa.ppkProofs())
		return
	}
	sa.makeKeyExchange(sa.init.pending[0], ClassHandshake, func(ke *suite.KeyExchange, err error) {
		if err != nil {
			sa.fail(&Error{Kind: KindInternal, Exchange: wire.ExchangeIKEIntermediate, Payload: wire.PayloadKE, Err: err})
			return
		}
		sa.init.ke = ke
		sa.askIntermediate(append([]wire.Payload{&wire.KE{Group: ke.Group(), Data: ke.Public()}}, sa.ppkProofs()...))
	})
}

func (sa *ikeSA) askIntermediate(payloads []wire.Payload) {
	h := wire.Header{Exchange: wire.ExchangeIKEIntermediate, MessageID: sa.window.nextSend}
	covered, err := sa.coveredOctets(h, payloads)
	if err != nil {
		sa.fail(&Error{Op: "encode IKE_INTERMEDIATE", Kind: KindInternal, Exchange: wire.ExchangeIKEIntermediate, Err: err})
		return
	}
	sa.addIntAuth(true, covered)
	sa.ask(wire.ExchangeIKEIntermediate, payloads, sa.intermediateAnswered)
}

// intermediateAnswered computes the shared secret and the new keys.
func (sa *ikeSA) intermediateAnswered(m *message) {
	i := sa.init
	if n := m.errorNotify(); n != nil {
		sa.fail(&Error{Exchange: m.Exchange, Notify: n.Kind, Remote: true})
		return
	}
	update := sa.keyUpdate()
	theirs, err := exchangeData(m, update.method)
	if err != nil {
		sa.fail(&Error{Exchange: m.Exchange, Payload: wire.PayloadKE, Err: err})
		return
	}
	if i.ppk, err = sa.chosenPPK(m); err != nil {
		sa.fail(&Error{Exchange: m.Exchange, Payload: wire.PayloadNotify, Err: err})
		return
	}
	i.peer.Read(m.payloads)
	sa.addIntAuth(false, m.covered)
	ke, ppk := i.ke, i.ppk
	i.ke = nil // the job's from here on
	runJob(sa, ClassHandshake, func() (respondResult, error) {
		defer clear(update.skD)
		if ke == nil {
			keys, err := update.derive(nil, ppk)
			return respondResult{keys: keys}, err
		}
		defer ke.Destroy()
		shared, err := ke.Shared(theirs)
		if err != nil {
			return respondResult{}, err
		}
		defer clear(shared)
		keys, err := update.derive(shared, ppk)
		return respondResult{keys: keys}, err
	}, func(r respondResult, err error) {
		if err == nil {
			err = sa.replaceKeys(r.keys)
		}
		if err != nil {
			sa.fail(&Error{Exchange: m.Exchange, Payload: wire.PayloadKE, Err: err})
			return
		}
		i.pending = i.pending[1:]
		sa.proceed()
	})
}

// exchangeData returns the Key Exchange Data of a message in which it is the turn
// of method; NONE has none.
func exchangeData(m *message, method wire.KeyExchangeID) ([]byte, error) {
	ke := find[*wire.KE](m)
	switch {
	case method == wire.KeyExchangeNone && ke == nil:
		return nil, nil
	case ke == nil || ke.Group != method:
		return nil, errWrongMethod(method, ke)
	}
	return ke.Data, nil
}

// errWrongMethod says that a KE payload is missing or for another method than
// the one whose turn it is.
func errWrongMethod(want wire.KeyExchangeID, got *wire.KE) error {
	if got == nil {
		return fmt.Errorf("key exchange data of %s is missing", want)
	}
	return fmt.Errorf("key exchange data of %s, it is the turn of %s", got.Group, want)
}

// answerIntermediate is the responder's part. Nobody is authenticated yet, so a
// peer that breaks the rules is told once and forgotten (RFC 9242, Section 3.4).
func (sa *ikeSA) answerIntermediate(m *message) {
	update := sa.keyUpdate()
	theirs, err := exchangeData(m, update.method)
	if err != nil {
		sa.refuse(m, wire.NotifyInvalidSyntax, nil)
		sa.fail(&Error{Exchange: m.Exchange, Payload: wire.PayloadKE, Notify: wire.NotifyInvalidSyntax, Err: err})
		return
	}
	var ppks *ident.PPKSet
	if sa.init.takesPPK() {
		ppks = sa.init.ppks
	}
	rand := sa.m.runtime.Rand
	runJob(sa, ClassHandshake, func() (r intermediateResult, err error) {
		defer clear(update.skD)
		r.ppk = provenPPK(m, update, ppks)
		var shared []byte
		if update.method != wire.KeyExchangeNone {
			if r.public, shared, err = suite.Respond(update.method, theirs, rand); err != nil {
				return r, err
			}
			defer clear(shared)
		}
		r.keys, err = update.derive(shared, r.ppk)
		return r, err
	}, func(r intermediateResult, err error) {
		if err != nil {
			sa.refuse(m, wire.NotifyInvalidSyntax, nil)
			sa.fail(&Error{Exchange: m.Exchange, Payload: wire.PayloadKE, Notify: wire.NotifyInvalidSyntax, Err: err})
			return
		}
		sa.respondIntermediate(m, r.payloads(update.method, sa.init.lateMethods()), r)
	})
}

// mostSpare bounds what answerSpare does for a peer that is not authenticated.
const mostSpare = 4

// answerSpare answers an exchange in which there is nothing left to agree on. RFC
// 9242 leaves to others what the exchange is for, and some initiators make one
// whenever both ends announce it (libreswan does). AUTH covers it as any other.
func (sa *ikeSA) answerSpare(m *message) {
	if sa.init.spare == 0 {
		sa.refuse(m, wire.NotifyInvalidSyntax, nil)
		sa.fail(&Error{Exchange: m.Exchange, Notify: wire.NotifyInvalidSyntax, Err: errSpare})
		return
	}
	sa.init.spare--
	sa.respondIntermediate(m, sa.init.lateMethods(), intermediateResult{ppk: sa.init.ppk})
}

var errSpare = errors.New("peer goes on with IKE_INTERMEDIATE exchanges when there is nothing left to agree on")

// intermediateResult is what the responder's job for IKE_INTERMEDIATE computes.
type intermediateResult struct {
	respondResult
	ppk *ident.PPK
}

func (r intermediateResult) payloads(method wire.KeyExchangeID, more []wire.Payload) []wire.Payload {
	var out []wire.Payload
	if method != wire.KeyExchangeNone {
		out = append(out, &wire.KE{Group: method, Data: r.public})
	}
	if r.ppk != nil {
		out = append(out, &wire.Notify{Kind: wire.NotifyPPKIdentity, Data: r.ppk.WireID()})
	}
	return append(out, more...)
}

// respondIntermediate answers under the keys of the request, then takes the new
// ones (RFC 9242, Section 3.3.1).
func (sa *ikeSA) respondIntermediate(m *message, payloads []wire.Payload, r intermediateResult) {
	h := wire.Header{Exchange: m.Exchange, MessageID: m.MessageID, Flags: wire.FlagResponse}
	covered, err := sa.coveredOctets(h, payloads)
	if err != nil {
		r.Destroy()
		sa.fail(&Error{Op: "encode IKE_INTERMEDIATE response", Kind: KindInternal, Exchange: m.Exchange, Err: err})
		return
	}
	sa.addIntAuth(true, m.covered)
	sa.addIntAuth(false, covered)
	sa.respond(m, payloads)
	if sa.state == stateDead {
		r.Destroy()
		return
	}
	if err := sa.replaceKeys(r.keys); err != nil {
		sa.fail(&Error{Kind: KindInternal, Exchange: m.Exchange, Err: err})
		return
	}
	sa.init.ppk = r.ppk
	if len(sa.init.pending) > 0 {
		sa.init.pending = sa.init.pending[1:]
	}
	sa.awaitInitiator()
}

// awaitInitiator has the responder expect what the initiator must send next.
func (sa *ikeSA) awaitInitiator() {
	sa.state = stateHalfOpen
	if len(sa.init.pending) > 0 {
		sa.state = stateIntermediate
	}
}

// keyUpdate is what the keys after an additional key exchange are made of,
// beside its result.
type keyUpdate struct {
	suite      suite.IKESuite
	method     wire.KeyExchangeID
	skD        []byte // a copy, to be cleared
	ni, nr     []byte
	spii, spir wire.SPI
}

func (sa *ikeSA) keyUpdate() keyUpdate {
	i := sa.init
	u := keyUpdate{sa.suite, i.pending[0], bytes.Clone(sa.keys.D), i.ni, i.nr, sa.localSPI, sa.remoteSPI}
	if !sa.initiator {
		u.spii, u.spir = u.spir, u.spii
	}
	return u
}

// derive returns the keys after a key exchange with that result, if there was
// one, and then with that key mixed in, if there is one; nil if they stay.
func (u keyUpdate) derive(shared []byte, ppk *ident.PPK) (keys *suite.IKEKeys, err error) {
	skD := u.skD
	if u.method != wire.KeyExchangeNone {
		if keys, err = suite.UpdateIKEKeys(u.suite, u.method, skD, u.ni, u.nr, shared, u.spii, u.spir); err != nil {
			return nil, err
		}
		skD = keys.D
	}
	if ppk == nil {
		return keys, nil
	}
	mixed, err := suite.PPKIKEKeys(u.suite, ppk.Key, skD, u.ni, u.nr, u.spii, u.spir)
	if keys != nil {
		keys.Destroy()
	}
	return mixed, err
}

// replaceKeys makes the SA use other keys, unless there are none, and destroys
// the ones before. A
// responder keeps those that protect messages until the next request: its answer
// under the old keys may be lost, and asked for in other fragments.
func (sa *ikeSA) replaceKeys(keys *suite.IKEKeys) error {
	if keys == nil {
		return nil
	}
	old, sealer, opener := sa.keys, sa.sealer, sa.opener
	if err := sa.useKeys(keys); err != nil {
		return err
	}
	old.Destroy()
	before := protectors{sealer, opener}
	if sa.initiator {
		before.destroy()
	} else {
		sa.window.before = before
	}
	return nil
}

// coveredOctets is what AUTH covers of an IKE_INTERMEDIATE message of ours: the
// octets IntAuth_[i/r]A and IntAuth_[i/r]P of RFC 9242, Section 3.3.2. They are
// the IKE header and the header of the Encrypted payload, with lengths as if
// nothing but the payloads in the clear followed, and those payloads. Whether
// the message is sent in fragments makes no difference.
func (sa *ikeSA) coveredOctets(h wire.Header, payloads []wire.Payload) ([]byte, error) {
	sa.fillHeader(&h)
	first, plain, err := wire.AppendPayloads(nil, payloads)
	if err != nil {
		return nil, err
	}
	b, err := h.AppendEncrypted(make([]byte, 0, encryptedHeadLen+len(plain)), first, len(plain))
	return append(b, plain...), err
}

// encryptedHeadLen is the length of the IKE header and of the generic header of
// the Encrypted or Encrypted Fragment payload.
const encryptedHeadLen = wire.HeaderLen + 4

// receivedOctets is the same for a received message. head is the start of its
// datagram, or of that of its first fragment, up to the generic header of the
// encrypted payload: all that is in there counts as it came, reserved bits and
// payloads in the clear included; only lengths and the type of the Encrypted
// payload are adjusted.
func receivedOctets(head, plain []byte) []byte {
	out := slices.Concat(head, plain)
	next, at := 16, wire.HeaderLen // where the type of the payload at at stands
	for at+4 < len(head) {
		next, at = at, at+int(binary.BigEndian.Uint16(head[at+2:]))
	}
	out[next] = byte(wire.PayloadSK)
	binary.BigEndian.PutUint32(out[24:], uint32(len(out)))
	binary.BigEndian.PutUint16(out[len(head)-2:], uint16(4+len(plain)))
	return out
}

// addIntAuth extends the chain of one end by an IKE_INTERMEDIATE message of
// its: IntAuth_n = prf(SK_p, IntAuth_n-1 | A | P), with the keys from before
// the exchange (RFC 9242, Section 3.3.2).
func (sa *ikeSA) addIntAuth(initiator bool, covered []byte) {
	chain := &sa.init.intAuthR
	if initiator {
		chain = &sa.init.intAuthI
	}
	*chain = sa.suite.PRF.Sum(sa.skP(initiator), *chain, covered)
}

// intAuth is IntAuth_iN | IntAuth_rN | IKE_AUTH_MID of RFC 9242, Section
// 3.3.2: what both ends sign besides the rest. It is empty without
// IKE_INTERMEDIATE.
func (i *initState) intAuth() []byte {
	if i.intAuthI == nil {
		return nil
	}
	return binary.BigEndian.AppendUint32(bytes.Join([][]byte{i.intAuthI, i.intAuthR}, nil), i.authID)
}
