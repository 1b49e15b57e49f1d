package ike

import (
	"encoding/binary"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

func setOctet(at int, v byte) func([]byte)     { return func(b []byte) { b[at] = v } }
func flipOctet(at int, bits byte) func([]byte) { return func(b []byte) { b[at] ^= bits } }
func resize(n int) func([]byte) []byte         { return func([]byte) []byte { return make([]byte, n) } }

// stretchMessage changes the Length field of the header.
func stretchMessage(by int) func([]byte) {
	return func(b []byte) { binary.BigEndian.PutUint32(b[24:], uint32(len(b)+by)) }
}

// proposal makes an SA payload of one proposal for IKE out of transforms.
func proposal(number byte, transforms ...wire.Transform) []byte {
	return sa(wire.Proposal{Number: number, Protocol: wire.ProtocolIKE, Transforms: transforms})
}

func sa(ps ...wire.Proposal) []byte {
	_, b, err := wire.AppendPayloads(nil, []wire.Payload{&wire.SA{Proposals: ps}})
	if err != nil {
		panic(err)
	}
	return b[4:]
}

func swap(kind wire.PayloadType, with []byte) change {
	return body(kind, func([]byte) []byte { return with })
}

var (
	goodENCR = wire.Transform{Type: wire.TransformEncryption, ID: uint16(wire.EncryptionAESGCM16), KeyLength: 128}
	bareENCR = wire.Transform{Type: wire.TransformEncryption, ID: uint16(wire.EncryptionAESGCM16)}
	longENCR = wire.Transform{Type: wire.TransformEncryption, ID: uint16(wire.EncryptionAESGCM16), KeyLength: 65535}
	weakENCR = wire.Transform{Type: wire.TransformEncryption, ID: uint16(wire.Encryption3DES)}
	noENCR   = wire.Transform{Type: wire.TransformEncryption, ID: uint16(wire.EncryptionNull)}
	goodPRF  = wire.Transform{Type: wire.TransformPRF, ID: uint16(wire.PRFHMACSHA256)}
	goodKE   = wire.Transform{Type: wire.TransformKeyExchange, ID: uint16(wire.KeyExchangeCurve25519)}
	otherKE  = wire.Transform{Type: wire.TransformKeyExchange, ID: uint16(wire.KeyExchangeECP256)}
	oddType  = wire.Transform{Type: 200, ID: 1}
)

var (
	unknownPayload  = rawPayload{kind: 200, body: []byte("what is this")}
	criticalPayload = rawPayload{kind: 200, flags: 0x80, body: []byte("what is this")}
)

// TestEvilInitiator misbehaves in the first request, before anybody is known.
func TestEvilInitiator(t *testing.T) {
	ke := func(group uint16, n int) []byte {
		return append(binary.BigEndian.AppendUint16(nil, group), make([]byte, n+2)...)
	}
	for _, c := range []misdeedCase{
		{name: "minor version", misdeed: inInit.withHeader(setOctet(17, 0x2f)), want: "accepted; up"},
		{name: "major version 3", misdeed: inInit.withHeader(setOctet(17, 0x30)), want: "nothing; down"},
		{name: "major version 1", misdeed: inInit.withHeader(setOctet(17, 0x10)), want: "nothing; down"},
		{name: "reserved flags", misdeed: inInit.withHeader(flipOctet(19, 0xc7)), want: "accepted; up"},
		{name: "Response flag", misdeed: inInit.withHeader(flipOctet(19, 0x20)), want: "nothing; down"},
		{name: "no Initiator flag", misdeed: inInit.withHeader(flipOctet(19, 0x08)), want: "nothing; down"},
		{name: "message ID 1", misdeed: inInit.withHeader(setOctet(23, 1)), want: "nothing; down"},
		{name: "responder's SPI", misdeed: inInit.withHeader(setOctet(8, 1)), want: "nothing; down"},
		{name: "no initiator's SPI", misdeed: inInit.withHeader(func(b []byte) { clear(b[:8]) }), want: "nothing; down"},
		{name: "Length one more", misdeed: inInit.withHeader(stretchMessage(1)), want: "nothing; down"},
		{name: "Length one less", misdeed: inInit.withHeader(stretchMessage(-1)), want: "nothing; down"},
		{name: "unknown payload", misdeed: inInit.with(more(1, unknownPayload)), want: "accepted; up"},
		{name: "unknown critical payload", misdeed: inInit.with(more(1, criticalPayload)), want: "UNSUPPORTED_CRITICAL_PAYLOAD; down"},
		{name: "critical bit everywhere", misdeed: inInit.with(flags(0x80)), want: "accepted; up"},
		{name: "reserved bits everywhere", misdeed: inInit.with(flags(0x7f)), want: "accepted; up"},
		{name: "any order", misdeed: inInit.with(reversed), want: "accepted; up"},
		{name: "SA longer than it is", misdeed: inInit.with(lie(wire.PayloadSA, 1)), want: "nothing; down"},
		{name: "SA shorter than it is", misdeed: inInit.with(lie(wire.PayloadSA, -1)), want: "nothing; down"},
		{name: "KE of no length", misdeed: inInit.with(all(lie(wire.PayloadKE, -40))), want: "nothing; down"},
		{name: "nothing", misdeed: inInit.with(only()), want: "nothing; down"},
		{name: "no SA", misdeed: inInit.with(without(wire.PayloadSA)), want: "nothing; down"},
		{name: "no KE", misdeed: inInit.with(without(wire.PayloadKE)), want: "nothing; down"},
		{name: "no nonce", misdeed: inInit.with(without(wire.PayloadNonce)), want: "nothing; down"},
		{name: "SA twice", misdeed: inInit.with(twice(wire.PayloadSA)), want: "nothing; down"},
		{name: "KE twice", misdeed: inInit.with(twice(wire.PayloadKE)), want: "nothing; down"},
		{name: "nonce twice", misdeed: inInit.with(twice(wire.PayloadNonce)), want: "nothing; down"},
		{name: "empty SA", misdeed: inInit.with(empty(wire.PayloadSA)), want: "nothing; down"},
		{name: "empty KE", misdeed: inInit.with(empty(wire.PayloadKE)), want: "nothing; down"},
		{name: "nonce of 15 octets", misdeed: inInit.with(body(wire.PayloadNonce, resize(15))), want: "nothing; down"},
		{name: "nonce of 257 octets", misdeed: inInit.with(body(wire.PayloadNonce, resize(257))), want: "nothing; down"},
		{name: "KE of another length", misdeed: inInit.with(swap(wire.PayloadKE, ke(31, 31))), want: "nothing; down"},
		{name: "KE of order one", misdeed: inInit.with(swap(wire.PayloadKE, ke(31, 32))), want: "nothing; down"},
		{name: "KE of an offered method that was not chosen", misdeed: inInit.with(swap(wire.PayloadKE, ke(19, 64))), want: "INVALID_KE_PAYLOAD; down"},
		{name: "KE of a private method", misdeed: inInit.with(swap(wire.PayloadKE, ke(1025, 32))), want: "INVALID_KE_PAYLOAD; down"},
		{name: "proposal without key exchange", misdeed: inInit.with(swap(wire.PayloadSA, proposal(1, goodENCR, goodPRF))), want: "NO_PROPOSAL_CHOSEN; down"},
		{name: "proposal without key length", misdeed: inInit.with(swap(wire.PayloadSA, proposal(1, bareENCR, goodPRF, goodKE))), want: "NO_PROPOSAL_CHOSEN; down"},
		{name: "proposal with odd key length", misdeed: inInit.with(swap(wire.PayloadSA, proposal(1, longENCR, goodPRF, goodKE))), want: "NO_PROPOSAL_CHOSEN; down"},
		{name: "proposal of 3DES", misdeed: inInit.with(swap(wire.PayloadSA, proposal(1, weakENCR, goodPRF, goodKE))), want: "NO_PROPOSAL_CHOSEN; down"},
		{name: "proposal of no encryption", misdeed: inInit.with(swap(wire.PayloadSA, proposal(1, noENCR, goodPRF, goodKE))), want: "NO_PROPOSAL_CHOSEN; down"},
		{name: "unknown transform type", misdeed: inInit.with(swap(wire.PayloadSA, proposal(1, goodENCR, goodPRF, goodKE, oddType))), want: "NO_PROPOSAL_CHOSEN; down"},
		{name: "transform twice", misdeed: inInit.with(swap(wire.PayloadSA, proposal(1, goodENCR, goodENCR, goodPRF, goodKE))), want: "NO_PROPOSAL_CHOSEN; down"},
		{name: "proposal number 2 first", misdeed: inInit.with(swap(wire.PayloadSA, proposal(2, goodENCR, goodPRF, goodKE))), want: "NO_PROPOSAL_CHOSEN; down"},
		{name: "proposal with an SPI", misdeed: inInit.with(swap(wire.PayloadSA, sa(wire.Proposal{
			Number: 1, Protocol: wire.ProtocolIKE, SPI: []byte("12345678"), Transforms: []wire.Transform{goodENCR, goodPRF, goodKE},
		}))), want: "NO_PROPOSAL_CHOSEN; down"},
		{name: "proposal for ESP", misdeed: inInit.with(swap(wire.PayloadSA, sa(wire.Proposal{
			Number: 1, Protocol: wire.ProtocolESP, SPI: []byte("1234"), Transforms: []wire.Transform{goodENCR},
		}))), want: "NO_PROPOSAL_CHOSEN; down"},
		{name: "AUTH in it", misdeed: inInit.with(more(1, rawPayload{kind: wire.PayloadAuth, body: make([]byte, 36)})), want: "nothing; down"},
		{name: "20 vendor IDs", misdeed: inInit.with(more(20, rawPayload{kind: wire.PayloadVendorID, body: []byte("vendor")})), want: "accepted; up"},
		{name: "21 vendor IDs", misdeed: inInit.with(more(21, rawPayload{kind: wire.PayloadVendorID, body: []byte("vendor")})), want: "nothing; down"},
		{name: "unknown status notification", misdeed: inInit.with(more(1, rawNotify(40000, 0, nil, []byte("x")))), want: "accepted; up"},
		{name: "unknown error notification", misdeed: inInit.with(more(1, rawNotify(8000, 0, nil, nil))), want: "accepted; up"},
		{name: "notification whose SPI is longer than it", misdeed: inInit.with(more(1, rawPayload{kind: wire.PayloadNotify, body: []byte{1, 200, 0x40, 0}})), want: "nothing; down"},
		{name: "no NAT detection", misdeed: inInit.with(without(wire.PayloadNotify)), want: "accepted; up"},
	} {
		c.initiator = true
		t.Run(c.name, c.run)
	}
}

// TestEvilResponder misbehaves in the first answer, which nobody has proved.
func TestEvilResponder(t *testing.T) {
	for _, c := range []misdeedCase{
		{name: "unknown payload", misdeed: inInitReply.with(more(1, unknownPayload)), want: "IKE_AUTH request; up"},
		{name: "unknown critical payload", misdeed: inInitReply.with(more(1, criticalPayload)), want: "nothing; down"},
		{name: "critical bit everywhere", misdeed: inInitReply.with(flags(0x80)), want: "IKE_AUTH request; up"},
		{name: "any order", misdeed: inInitReply.with(reversed), want: "IKE_AUTH request; up"},
		{name: "no KE", misdeed: inInitReply.with(without(wire.PayloadKE)), want: "nothing; down"},
		{name: "KE of order one", misdeed: inInitReply.with(body(wire.PayloadKE, func(b []byte) []byte { clear(b[4:]); return b })), want: "nothing; down"},
		{name: "KE of another method", misdeed: inInitReply.with(octet(wire.PayloadKE, 1, 12)), want: "nothing; down"},
		{name: "short KE", misdeed: inInitReply.with(body(wire.PayloadKE, func(b []byte) []byte { return b[:20] })), want: "nothing; down"},
		{name: "the initiator's nonce", misdeed: inInitReply.with(func(e *evilPeer, ps []rawPayload) []rawPayload {
			m, _ := wire.Parse(e.request)
			return swap(wire.PayloadNonce, find[*wire.Nonce](&message{payloads: m.Payloads}).Data)(e, ps)
		}), want: "nothing; down"},
		{name: "no SPI", misdeed: inInitReply.withHeader(func(b []byte) { clear(b[8:16]) }), want: "nothing; down"},
		{name: "two transforms of a type", misdeed: inInitReply.with(swap(wire.PayloadSA, proposal(1, goodENCR, goodPRF, goodKE, otherKE))), want: "nothing; down"},
		{name: "what was not offered", misdeed: inInitReply.with(swap(wire.PayloadSA, proposal(1, weakENCR, goodPRF, goodKE))), want: "nothing; down"},
		{name: "another key length", misdeed: inInitReply.with(swap(wire.PayloadSA, proposal(1, longENCR, goodPRF, goodKE))), want: "nothing; down"},
		{name: "no key exchange", misdeed: inInitReply.with(swap(wire.PayloadSA, proposal(1, goodENCR, goodPRF))), want: "nothing; down"},
		{name: "another proposal number", misdeed: inInitReply.with(swap(wire.PayloadSA, proposal(7, goodENCR, goodPRF, goodKE))), want: "nothing; down"},
		{name: "two proposals", misdeed: inInitReply.with(swap(wire.PayloadSA, sa(
			wire.Proposal{Number: 1, Protocol: wire.ProtocolIKE, Transforms: []wire.Transform{goodENCR, goodPRF, goodKE}},
			wire.Proposal{Number: 2, Protocol: wire.ProtocolIKE, Transforms: []wire.Transform{goodENCR, goodPRF, goodKE}},
		))), want: "nothing; down"},
		{name: "INVALID_KE_PAYLOAD for a weak method", misdeed: inInitReply.with(only(rawNotify(wire.NotifyInvalidKEPayload, 0, nil, []byte{0, 2}))), want: "nothing; down"},
		{name: "INVALID_KE_PAYLOAD of one octet", misdeed: inInitReply.with(only(rawNotify(wire.NotifyInvalidKEPayload, 0, nil, []byte{0}))), want: "nothing; down"},
		{name: "INVALID_KE_PAYLOAD for ever", misdeed: inInitReply.with(func(e *evilPeer, _ []rawPayload) []rawPayload {
			next := []byte{0, 19}
			if e.seen%2 == 0 {
				next = []byte{0, 31}
			}
			return []rawPayload{rawNotify(wire.NotifyInvalidKEPayload, 0, nil, next)}
		}).each(), want: "IKE_SA_INIT request; down"},
		{name: "a cookie for ever", misdeed: inInitReply.with(func(e *evilPeer, _ []rawPayload) []rawPayload {
			return []rawPayload{rawNotify(wire.NotifyCookie, 0, nil, []byte{byte(e.seen)})}
		}).each(), want: "COOKIE; down"},
		{name: "empty cookie", misdeed: inInitReply.with(only(rawNotify(wire.NotifyCookie, 0, nil, nil))), want: "nothing; down"},
		{name: "cookie of 65 octets", misdeed: inInitReply.with(only(rawNotify(wire.NotifyCookie, 0, nil, make([]byte, 65)))), want: "nothing; down"},
		{name: "NO_PROPOSAL_CHOSEN", misdeed: inInitReply.with(only(rawNotify(wire.NotifyNoProposalChosen, 0, nil, nil))), want: "nothing; down"},
		{name: "AUTHENTICATION_FAILED", misdeed: inInitReply.with(only(rawNotify(wire.NotifyAuthenticationFailed, 0, nil, nil))), want: "nothing; down"},
		{name: "REDIRECT that was not asked for", misdeed: inInitReply.with(only(rawNotify(wire.NotifyRedirect, 0, nil, []byte{1, 4, 203, 0, 113, 66}))), want: "nothing; down"},
	} {
		t.Run(c.name, c.run)
	}
}
