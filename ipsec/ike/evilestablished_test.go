package ike

import (
	"bytes"
	"slices"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// otherHeader sends the message under another header first, sealed properly.
func otherHeader(f func(h *wire.Header)) func(*evilPeer, []byte) [][]byte {
	return func(e *evilPeer, b []byte) [][]byte {
		h, _ := wire.ParseHeader(b)
		first, plain := e.open(b)
		k := e.keysOf(h)
		p := e.protector(k, h)
		f(&h)
		head, err := h.AppendEncrypted(nil, first, p.SealedLen(len(plain)))
		if err != nil {
			e.t.Fatal(err)
		}
		return [][]byte{p.Seal(head, head, plain)}
	}
}

// evilChildSPI is the SPI that the evil end receives on.
func evilChildSPI(e *evilPeer) []byte {
	for _, c := range e.evil.t.children {
		if c.live() {
			return put32(c.inbound)
		}
	}
	e.t.Fatal("no Child SA")
	return nil
}

func addDelete(f func(e *evilPeer) rawPayload) change {
	return func(e *evilPeer, ps []rawPayload) []rawPayload { return append(ps, f(e)) }
}

// TestEvilRequest has a peer that has proved itself ask for what it must not.
func TestEvilRequest(t *testing.T) {
	spi := func(b ...byte) []byte { return b }
	rekeySA := func(protocol wire.ProtocolID, spi []byte) change {
		return func(_ *evilPeer, ps []rawPayload) []rawPayload {
			ps[indexRaw(ps, wire.PayloadNotify)] = rawNotify(wire.NotifyRekeySA, protocol, spi, nil)
			return ps
		}
	}
	for _, c := range []misdeedCase{
		{name: "unknown payload", begin: evilInforms, misdeed: inInform.with(more(1, unknownPayload)), want: "accepted; up"},
		{name: "unknown critical payload", begin: evilInforms, misdeed: inInform.with(more(1, criticalPayload)), want: "UNSUPPORTED_CRITICAL_PAYLOAD; up"},
		{name: "unknown status notification", begin: evilInforms, misdeed: inInform.with(more(1, rawNotify(40000, 0, nil, nil))), want: "accepted; up"},
		{name: "unknown error notification", begin: evilInforms, misdeed: inInform.with(more(1, rawNotify(8000, 0, nil, nil))), want: "accepted; up"},
		{name: "AUTHENTICATION_FAILED", begin: evilInforms, misdeed: inInform.with(more(1, rawNotify(wire.NotifyAuthenticationFailed, 0, nil, nil))), want: "accepted; down"},
		{name: "INVALID_SYNTAX", begin: evilInforms, misdeed: inInform.with(more(1, rawNotify(wire.NotifyInvalidSyntax, 0, nil, nil))), want: "accepted; down"},
		{name: "TEMPORARY_FAILURE", begin: evilInforms, misdeed: inInform.with(more(1, rawNotify(wire.NotifyTemporaryFailure, 0, nil, nil))), want: "accepted; up"},
		{name: "SA in it", begin: evilInforms, misdeed: inInform.with(more(1, rawPayload{kind: wire.PayloadSA, body: proposal(1, goodENCR)})), want: "INVALID_SYNTAX; down"},
		{name: "AUTH in it", begin: evilInforms, misdeed: inInform.with(more(1, rawPayload{kind: wire.PayloadAuth, body: make([]byte, 36)})), want: "INVALID_SYNTAX; down"},
		{name: "deletes an SPI of nobody", begin: evilInforms, misdeed: inInform.with(more(1, rawDelete(wire.ProtocolESP, 4, spi(1, 2, 3, 4)))), want: "accepted; up"},
		{name: "deletes SPI 0", begin: evilInforms, misdeed: inInform.with(more(1, rawDelete(wire.ProtocolESP, 4, spi(0, 0, 0, 0)))), want: "accepted; up"},
		{name: "deletes no SPI", begin: evilInforms, misdeed: inInform.with(more(1, rawDelete(wire.ProtocolESP, 4))), want: "accepted; up"},
		{name: "deletes by an SPI of 8 octets", begin: evilInforms, misdeed: inInform.with(more(1, rawDelete(wire.ProtocolESP, 8, make([]byte, 8)))), want: "INVALID_SYNTAX; down"},
		{name: "deletes of protocol 0", begin: evilInforms, misdeed: inInform.with(more(1, rawDelete(0, 4, spi(1, 2, 3, 4)))), want: "accepted; up"},
		{name: "deletes AH", begin: evilInforms, misdeed: inInform.with(more(1, rawDelete(wire.ProtocolAH, 4, spi(1, 2, 3, 4)))), want: "accepted; up"},
		{name: "claims more SPIs than there are", begin: evilInforms, misdeed: inInform.with(more(1, rawPayload{kind: wire.PayloadDelete, body: []byte{3, 4, 0xff, 0xff}})), want: "INVALID_SYNTAX; down"},
		{name: "deletes the Child SA twice", begin: evilInforms, misdeed: inInform.with(addDelete(func(e *evilPeer) rawPayload {
			return rawDelete(wire.ProtocolESP, 4, evilChildSPI(e), evilChildSPI(e))
		})), want: "accepted, CREATE_CHILD_SA request; up"},
		{name: "deletes by our SPI", begin: evilInforms, misdeed: inInform.with(addDelete(func(e *evilPeer) rawPayload {
			return rawDelete(wire.ProtocolESP, 4, put32(e.good.t.children[0].inbound))
		})), want: "accepted; up"},
		{name: "20 deletes", begin: evilInforms, misdeed: inInform.with(more(20, rawDelete(wire.ProtocolESP, 4, spi(1, 2, 3, 4)))), want: "accepted; up"},
		{name: "21 deletes", begin: evilInforms, misdeed: inInform.with(more(21, rawDelete(wire.ProtocolESP, 4, spi(1, 2, 3, 4)))), want: "INVALID_SYNTAX; down"},
		{name: "deletes IKE SA and Child SA", begin: evilInforms, misdeed: inInform.with(addDelete(func(e *evilPeer) rawPayload {
			return rawDelete(wire.ProtocolESP, 4, evilChildSPI(e))
		})), want: "accepted, CREATE_CHILD_SA request; up"},
		{name: "in the clear first", begin: evilInforms, misdeed: inInform.withDatagram(inTheClear(&wire.Delete{Protocol: wire.ProtocolIKE})), want: "nothing; up"},
		{name: "message ID ahead", begin: evilInforms, misdeed: inInform.withDatagram(otherHeader(func(h *wire.Header) { h.MessageID += 2 })), want: "nothing; up"},
		{name: "message ID behind", begin: evilInforms, misdeed: inInform.withDatagram(otherHeader(func(h *wire.Header) { h.MessageID -= 1 })), want: "nothing; up"},
		{name: "greatest message ID", begin: evilInforms, misdeed: inInform.withDatagram(otherHeader(func(h *wire.Header) { h.MessageID = 0xffffffff })), want: "nothing; up"},
		{name: "other Initiator flag", begin: evilInforms, misdeed: inInform.withDatagram(otherHeader(func(h *wire.Header) { h.Flags ^= wire.FlagInitiator })), want: "nothing; up"},
		{name: "Response flag", begin: evilInforms, misdeed: inInform.withDatagram(otherHeader(func(h *wire.Header) { h.Flags |= wire.FlagResponse })), want: "nothing; up"},
		{name: "minor version", begin: evilInforms, misdeed: inInform.withDatagram(otherHeader(func(h *wire.Header) { h.Minor = 9 })), want: "accepted; up"},
		{name: "IKE_AUTH again", begin: evilInforms, misdeed: inInform.withDatagram(otherHeader(func(h *wire.Header) { h.Exchange = wire.ExchangeIKEAuth })), want: "nothing; up"},
		{name: "IKE_INTERMEDIATE late", begin: evilInforms, misdeed: inInform.withDatagram(otherHeader(func(h *wire.Header) { h.Exchange = wire.ExchangeIKEIntermediate })), want: "nothing; up"},
		{name: "IKE_FOLLOWUP_KE of nothing", begin: evilInforms, misdeed: inInform.withDatagram(func(e *evilPeer, b []byte) [][]byte {
			h, _ := wire.ParseHeader(b)
			h.Exchange = wire.ExchangeIKEFollowupKE
			first, plain := packRaw([]rawPayload{
				{kind: wire.PayloadKE, body: append([]byte{0, 31, 0, 0}, bytes.Repeat([]byte{9}, 32)...)},
				rawNotify(wire.NotifyAdditionalKeyExchange, 0, nil, []byte{1, 2, 3, 4}),
			})
			return [][]byte{e.seal(h, first, plain)}
		}), want: "STATE_NOT_FOUND; up"},
		{name: "exchange that is none", begin: evilInforms, misdeed: inInform.withDatagram(otherHeader(func(h *wire.Header) { h.Exchange = 250 })), want: "nothing; up"},

		{name: "rekeying with wider TSi", begin: evilRekeysChild, misdeed: inCreate.with(swap(wire.PayloadTSi, everywhere)), want: "accepted; up"},
		{name: "rekeying with wider TSr", begin: evilRekeysChild, misdeed: inCreate.with(swap(wire.PayloadTSr, everywhere)), want: "accepted; up"},
		{name: "rekeying with narrower TSi", begin: evilRekeysChild, misdeed: inCreate.with(swap(wire.PayloadTSi, selectorsBody([2]uint32{0x0a020000, 0x0a0200ff}))), want: "TS_UNACCEPTABLE; up"},
		{name: "rekeying with other TSi", begin: evilRekeysChild, misdeed: inCreate.with(swap(wire.PayloadTSi, elsewhere)), want: "TS_UNACCEPTABLE; up"},
		{name: "rekeying in transport mode", begin: evilRekeysChild, misdeed: inCreate.with(more(1, rawNotify(wire.NotifyUseTransportMode, 0, nil, nil))), want: "accepted; up"},
		{name: "rekeying protocol 0", begin: evilRekeysChild, misdeed: inCreate.with(rekeySA(0, spi(1, 2, 3, 4))), want: "CHILD_SA_NOT_FOUND; up"},
		{name: "rekeying protocol IKE", begin: evilRekeysChild, misdeed: inCreate.with(rekeySA(wire.ProtocolIKE, make([]byte, 8))), want: "CHILD_SA_NOT_FOUND; up"},
		{name: "rekeying AH", begin: evilRekeysChild, misdeed: inCreate.with(rekeySA(wire.ProtocolAH, spi(1, 2, 3, 4))), want: "CHILD_SA_NOT_FOUND; up"},
		{name: "rekeying an SPI of nobody", begin: evilRekeysChild, misdeed: inCreate.with(rekeySA(wire.ProtocolESP, spi(1, 2, 3, 4))), want: "CHILD_SA_NOT_FOUND; up"},
		{name: "rekeying an SPI of 3 octets", begin: evilRekeysChild, misdeed: inCreate.with(rekeySA(wire.ProtocolESP, spi(1, 2, 3))), want: "INVALID_SYNTAX; down"},
		{name: "rekeying nothing by name", begin: evilRekeysChild, misdeed: inCreate.with(without(wire.PayloadNotify)), want: "accepted; up"},
		{name: "no nonce", begin: evilRekeysChild, misdeed: inCreate.with(without(wire.PayloadNonce)), want: "INVALID_SYNTAX; down"},
		{name: "short nonce", begin: evilRekeysChild, misdeed: inCreate.with(body(wire.PayloadNonce, resize(15))), want: "INVALID_SYNTAX; down"},
		{name: "no KE", begin: evilRekeysChild, misdeed: inCreate.with(without(wire.PayloadKE)), want: "INVALID_KE_PAYLOAD; up"},
		{name: "KE of order one", begin: evilRekeysChild, misdeed: inCreate.with(body(wire.PayloadKE, func(b []byte) []byte { clear(b[4:]); return b })), want: "INVALID_SYNTAX; down"},
		{name: "KE of another method", begin: evilRekeysChild, misdeed: inCreate.with(octet(wire.PayloadKE, 1, 12)), want: "INVALID_KE_PAYLOAD; up"},
		{name: "no selectors", begin: evilRekeysChild, misdeed: inCreate.with(all(without(wire.PayloadTSi), without(wire.PayloadTSr))), want: "INVALID_SYNTAX; down"},
		{name: "no proposal", begin: evilRekeysChild, misdeed: inCreate.with(empty(wire.PayloadSA)), want: "INVALID_SYNTAX; down"},
		{name: "ESP with SPI 0", begin: evilRekeysChild, misdeed: inCreate.with(body(wire.PayloadSA, func(b []byte) []byte { clear(b[8:12]); return b })), want: "NO_PROPOSAL_CHOSEN; up"},
		{name: "SA twice", begin: evilRekeysChild, misdeed: inCreate.with(twice(wire.PayloadSA)), want: "INVALID_SYNTAX; down"},
		{name: "rekeying in 3 pieces, one twice", begin: evilRekeysChild, misdeed: inCreate.withDatagram(inPieces(3, func(_ *evilPeer, _ wire.Header, p []fragment) []fragment {
			return []fragment{p[1], p[0], p[1], p[2]}
		})), want: "nothing; up"},
		{name: "rekeys the IKE SA to SPI 0", begin: evilRekeysIKE, misdeed: inCreate.with(body(wire.PayloadSA, func(b []byte) []byte { clear(b[8:16]); return b })), want: "NO_PROPOSAL_CHOSEN; up"},
		{name: "rekeys the IKE SA to the SPI that it has", begin: evilRekeysIKE, misdeed: inCreate.with(func(e *evilPeer, ps []rawPayload) []rawPayload {
			mine := e.evil.t.primary().localSPI
			return body(wire.PayloadSA, func(b []byte) []byte { copy(b[8:16], mine[:]); return b })(e, ps)
		}), want: "NO_PROPOSAL_CHOSEN; up"},
		{name: "rekeys the IKE SA without KE", begin: evilRekeysIKE, misdeed: inCreate.with(without(wire.PayloadKE)), want: "INVALID_SYNTAX; down"},
		{name: "rekeys the IKE SA with a KE of order one", begin: evilRekeysIKE, misdeed: inCreate.with(body(wire.PayloadKE, func(b []byte) []byte { clear(b[4:]); return b })), want: "INVALID_SYNTAX; down"},
		{name: "rekeys the IKE SA to 3DES", begin: evilRekeysIKE, misdeed: inCreate.with(swap(wire.PayloadSA, sa(wire.Proposal{
			Number: 1, Protocol: wire.ProtocolIKE, SPI: []byte("12345678"), Transforms: []wire.Transform{weakENCR, goodPRF, goodKE},
		}))), want: "NO_PROPOSAL_CHOSEN; up"},
		{name: "rekeys the IKE SA with selectors", begin: evilRekeysIKE, misdeed: inCreate.with(all(
			more(1, rawPayload{kind: wire.PayloadTSi, body: everywhere}), more(1, rawPayload{kind: wire.PayloadTSr, body: everywhere}),
		)), want: "accepted; up"},
	} {
		t.Run(c.name, c.run)
	}
}

// TestEvilAnswer has a peer that has proved itself answer what it must not.
func TestEvilAnswer(t *testing.T) {
	notify := func(kind wire.NotifyType, data ...byte) change { return only(rawNotify(kind, 0, nil, data)) }
	for _, c := range []misdeedCase{
		{name: "answers a liveness check with a Delete", begin: goodInforms, misdeed: inInformed.with(more(1, rawDelete(wire.ProtocolIKE, 0))), want: "nothing; up"},
		{name: "answers a liveness check with an error", begin: goodInforms, misdeed: inInformed.with(more(1, rawNotify(wire.NotifyAuthenticationFailed, 0, nil, nil))), want: "nothing; up"},
		{name: "answers with an unknown critical payload", begin: goodInforms, misdeed: inInformed.with(more(1, criticalPayload)), want: "nothing; down"},
		{name: "answers another exchange", begin: goodInforms, misdeed: inInformed.withDatagram(otherHeader(func(h *wire.Header) { h.Exchange = wire.ExchangeCreateChildSA })), want: "nothing; up"},
		{name: "answers another message", begin: goodInforms, misdeed: inInformed.withDatagram(otherHeader(func(h *wire.Header) { h.MessageID++ })), want: "nothing; up"},
		{name: "answers changed on the way", begin: goodInforms, misdeed: inInformed.withDatagram(flipLast), want: "nothing; up"},
		{name: "wider TSr", begin: goodRekeysChild, misdeed: inCreated.with(swap(wire.PayloadTSr, everywhere)), want: "INFORMATIONAL request; up"},
		{name: "narrower TSr", begin: goodRekeysChild, misdeed: inCreated.with(swap(wire.PayloadTSr, selectorsBody([2]uint32{0x0a020000, 0x0a0200ff}))), want: "INFORMATIONAL request; up"},
		{name: "our nonce", begin: goodRekeysChild, misdeed: inCreated.with(func(e *evilPeer, ps []rawPayload) []rawPayload {
			return swap(wire.PayloadNonce, e.nonceOfGood())(e, ps)
		}), want: "INFORMATIONAL request; up"},
		{name: "no nonce", begin: goodRekeysChild, misdeed: inCreated.with(without(wire.PayloadNonce)), want: "nothing; down"},
		{name: "no KE", begin: goodRekeysChild, misdeed: inCreated.with(without(wire.PayloadKE)), want: "INFORMATIONAL request; up"},
		{name: "KE of order one", begin: goodRekeysChild, misdeed: inCreated.with(body(wire.PayloadKE, func(b []byte) []byte { clear(b[4:]); return b })), want: "INFORMATIONAL request; down"},
		{name: "SPI 0", begin: goodRekeysChild, misdeed: inCreated.with(body(wire.PayloadSA, func(b []byte) []byte { clear(b[8:12]); return b })), want: "INFORMATIONAL request; up"},
		{name: "another proposal number", begin: goodRekeysChild, misdeed: inCreated.with(octet(wire.PayloadSA, 4, 7)), want: "INFORMATIONAL request; up"},
		{name: "transport mode imposed", begin: goodRekeysChild, misdeed: inCreated.with(more(1, rawNotify(wire.NotifyUseTransportMode, 0, nil, nil))), want: "INFORMATIONAL request; up"},
		{name: "nothing", begin: goodRekeysChild, misdeed: inCreated.with(only()), want: "nothing; down"},
		{name: "TEMPORARY_FAILURE for ever", begin: goodRekeysChild, misdeed: inCreated.with(notify(wire.NotifyTemporaryFailure)).each(), want: "nothing; up"},
		{name: "CHILD_SA_NOT_FOUND", begin: goodRekeysChild, misdeed: inCreated.with(notify(wire.NotifyChildSANotFound)), want: "CREATE_CHILD_SA request; up"},
		{name: "NO_ADDITIONAL_SAS", begin: goodRekeysChild, misdeed: inCreated.with(notify(wire.NotifyNoAdditionalSAs)), want: "nothing; up"},
		{name: "unknown error", begin: goodRekeysChild, misdeed: inCreated.with(notify(8000)), want: "nothing; up"},
		{name: "unknown error beside the Child SA", begin: goodRekeysChild, misdeed: inCreated.with(more(1, rawNotify(8000, 0, nil, nil))), want: "INFORMATIONAL request; up"},
		{name: "unknown error beside the new IKE SA", begin: goodRekeysIKE, misdeed: inCreated.with(more(1, rawNotify(8000, 0, nil, nil))), want: "nothing; up"},
		{name: "INVALID_KE_PAYLOAD for a weak method", begin: goodRekeysChild, misdeed: inCreated.with(notify(wire.NotifyInvalidKEPayload, 0, 2)), want: "nothing; up"},
		{name: "INVALID_KE_PAYLOAD for ever", begin: goodRekeysChild, misdeed: inCreated.with(notify(wire.NotifyInvalidKEPayload, 0, 31)).each(), want: "CREATE_CHILD_SA request; up"},
		{name: "INVALID_SYNTAX", begin: goodRekeysChild, misdeed: inCreated.with(notify(wire.NotifyInvalidSyntax)), want: "nothing; down"},
		{name: "new IKE SA with SPI 0", begin: goodRekeysIKE, misdeed: inCreated.with(body(wire.PayloadSA, func(b []byte) []byte { clear(b[8:16]); return b })), want: "nothing; up"},
		{name: "new IKE SA without KE", begin: goodRekeysIKE, misdeed: inCreated.with(without(wire.PayloadKE)), want: "nothing; down"},
		{name: "new IKE SA with another KE", begin: goodRekeysIKE, misdeed: inCreated.with(octet(wire.PayloadKE, 1, 12)), want: "nothing; up"},
		{name: "new IKE SA of what was not offered", begin: goodRekeysIKE, misdeed: inCreated.with(swap(wire.PayloadSA, sa(wire.Proposal{
			Number: 1, Protocol: wire.ProtocolIKE, SPI: []byte("12345678"), Transforms: []wire.Transform{weakENCR, goodPRF, goodKE},
		}))), want: "nothing; up"},
		{name: "INVALID_KE_PAYLOAD for ever to a new IKE SA", begin: goodRekeysIKE, misdeed: inCreated.with(func(e *evilPeer, _ []rawPayload) []rawPayload {
			return []rawPayload{rawNotify(wire.NotifyInvalidKEPayload, 0, nil, []byte{0, []byte{31, 19}[e.seen%2]})}
		}).each(), want: "CREATE_CHILD_SA request; up"},
	} {
		t.Run(c.name, c.run)
	}
}

// nonceOfGood is the nonce of the request that the good end waits for an answer
// to.
func (e *evilPeer) nonceOfGood() []byte {
	switch task := e.good.t.primary().active.(type) {
	case *rekeyChildTask:
		return slices.Clone(task.x.ni)
	}
	e.t.Fatal("the good end is not rekeying")
	return nil
}
