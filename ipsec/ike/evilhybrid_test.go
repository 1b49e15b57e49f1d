package ike

import (
	"slices"
	"testing"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// hybrid has both ends prefer an additional key exchange and accept none.
func hybrid(a, b *Config) {
	a.Proposals = slices.Concat(mustIKE("aes128gcm16-prfsha256-x25519-ke1_mlkem768"), mustIKE("aes128gcm16-prfsha256-x25519"))
	b.Proposals = a.Proposals
}

// withoutAdditional takes the additional key exchanges out of an offer or an
// answer.
func withoutAdditional(_ *evilPeer, ps []rawPayload) []rawPayload {
	i := indexRaw(ps, wire.PayloadSA)
	payloads, err := wire.ParsePayloads(wire.PayloadSA, append([]byte{0, 0, byte((len(ps[i].body) + 4) >> 8), byte(len(ps[i].body) + 4)}, ps[i].body...))
	if err != nil {
		panic(err)
	}
	proposals := payloads[0].(*wire.SA).Proposals
	for n := range proposals {
		proposals[n].Transforms = slices.DeleteFunc(proposals[n].Transforms, func(t wire.Transform) bool {
			return t.Type >= wire.TransformAdditionalKE1 && t.Type <= wire.TransformAdditionalKE7
		})
	}
	ps[i].body = sa(proposals...)
	return ps
}

var (
	inIntermediate  = misdeed{exchange: wire.ExchangeIKEIntermediate}
	inIntermediated = misdeed{exchange: wire.ExchangeIKEIntermediate, response: true}
)

func (m misdeed) byAnother() misdeed { m.meddling = true; return m }

// freshKE is another proper ML-KEM value of the same length.
func freshKE(e *evilPeer, ps []rawPayload) []rawPayload {
	ke, err := suite.NewKeyExchange(wire.KeyExchangeMLKEM768, e.evil)
	if err != nil {
		e.t.Fatal(err)
	}
	return body(wire.PayloadKE, func(b []byte) []byte { return append(b[:4:4], ke.Public()...) })(e, ps)
}

// TestEvilHybrid attacks the key exchanges beside the first one: a
// downgrade by somebody on the way, and an end that lies about what it sent.
func TestEvilHybrid(t *testing.T) {
	for _, c := range []misdeedCase{
		{name: "offer stripped on the way", initiator: true, misdeed: inInit.with(withoutAdditional).byAnother(), want: "accepted; down"},
		{name: "answer stripped on the way", misdeed: inInitReply.with(withoutAdditional).byAnother(), want: "nothing; down"},
		{name: "support taken out of the request on the way", initiator: true, misdeed: inInit.with(func(_ *evilPeer, ps []rawPayload) []rawPayload {
			return slices.DeleteFunc(ps, func(p rawPayload) bool {
				return p.kind == wire.PayloadNotify && wire.NotifyType(int(p.body[2])<<8|int(p.body[3])) == wire.NotifyIntermediateExchangeSupported
			})
		}).byAnother(), want: "accepted; down"},
		{name: "payload that AUTH does not cover", initiator: true, misdeed: inIntermediate.with(more(1, unknownPayload)), want: "accepted; down"},
		{name: "payload that AUTH does not cover, in the answer", misdeed: inIntermediated.with(more(1, unknownPayload)), want: "IKE_AUTH request; down"},
		{name: "another value", initiator: true, misdeed: inIntermediate.with(freshKE), want: "accepted; down"},
		{name: "no KE", initiator: true, misdeed: inIntermediate.with(without(wire.PayloadKE)), want: "INVALID_SYNTAX; down"},
		{name: "short KE", initiator: true, misdeed: inIntermediate.with(body(wire.PayloadKE, func(b []byte) []byte { return b[:100] })), want: "INVALID_SYNTAX; down"},
		{name: "KE whose coefficients are too large", initiator: true, misdeed: inIntermediate.with(body(wire.PayloadKE, func(b []byte) []byte {
			for i := range b[4:] {
				b[4+i] = 0xff
			}
			return b
		})), want: "INVALID_SYNTAX; down"},
		{name: "KE of another method", initiator: true, misdeed: inIntermediate.with(octet(wire.PayloadKE, 1, 1)), want: "INVALID_SYNTAX; down"},
		{name: "spoilt ciphertext", misdeed: inIntermediated.with(octet(wire.PayloadKE, 100, 1)), want: "IKE_AUTH request; down"},
		{name: "no KE in the answer", misdeed: inIntermediated.with(without(wire.PayloadKE)), want: "nothing; down"},
		{name: "error in the answer", misdeed: inIntermediated.with(only(rawNotify(wire.NotifyNoProposalChosen, 0, nil, nil))), want: "nothing; down"},
		{name: "IKE_AUTH before it", initiator: true, misdeed: inIntermediate.withDatagram(otherHeader(func(h *wire.Header) { h.Exchange = wire.ExchangeIKEAuth })), want: "nothing; down"},
		{name: "twice", initiator: true, misdeed: inIntermediate.withDatagram(func(e *evilPeer, b []byte) [][]byte {
			h, _ := wire.ParseHeader(b)
			first, plain := e.open(b)
			h.MessageID++
			return [][]byte{b, e.seal(h, first, plain)}
		}), want: "accepted; up"},
		{name: "changed on the way", initiator: true, misdeed: inIntermediate.withDatagram(flipLast), want: "nothing; down"},
		{name: "unknown critical payload", initiator: true, misdeed: inIntermediate.with(more(1, criticalPayload)), want: "UNSUPPORTED_CRITICAL_PAYLOAD; down"},
	} {
		c.change = func(a, b *Config) {
			hybrid(a, b)
			a.FragmentSize, b.FragmentSize = 4000, 4000 // misdeeds are done to whole messages
		}
		t.Run(c.name, c.run)
	}
}
