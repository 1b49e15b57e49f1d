package ike

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

func prove(e *evilPeer, ps []rawPayload) []rawPayload { return e.proveAgain(ps) }

// selectors makes a TS payload's body of IPv4 ranges, first and last octets given.
func selectorsBody(ranges ...[2]uint32) []byte {
	b := []byte{byte(len(ranges)), 0, 0, 0}
	for _, r := range ranges {
		b = append(b, byte(wire.TSIPv4Range), 0, 0, 16, 0, 0, 0xff, 0xff)
		b = binary.BigEndian.AppendUint32(b, r[0])
		b = binary.BigEndian.AppendUint32(b, r[1])
	}
	return b
}

var (
	everywhere = selectorsBody([2]uint32{0, 0xffffffff})
	lanA       = [2]uint32{0x0a010000, 0x0a01ffff} // 10.1.0.0/16
	elsewhere  = selectorsBody([2]uint32{0xac100000, 0xac10ffff})
)

// inPieces cuts the message into pieces and has f spoil them.
func inPieces(count int, f func(e *evilPeer, h wire.Header, pieces []fragment) []fragment) func(*evilPeer, []byte) [][]byte {
	return func(e *evilPeer, b []byte) [][]byte {
		h, _ := wire.ParseHeader(b)
		first, plain := e.open(b)
		var pieces []fragment
		for c := range slices.Chunk(plain, (len(plain)+count-1)/count) {
			pieces = append(pieces, fragment{uint16(len(pieces) + 1), uint16(count), c})
		}
		return e.sealFragments(h, first, f(e, h, pieces))
	}
}

func flipLast(_ *evilPeer, b []byte) [][]byte {
	b[len(b)-1] ^= 1
	return [][]byte{b}
}

// inTheClear sends the payloads without encryption.
func inTheClear(ps ...wire.Payload) func(*evilPeer, []byte) [][]byte {
	return func(e *evilPeer, b []byte) [][]byte {
		h, _ := wire.ParseHeader(b)
		raw, err := (&wire.Message{Header: h, Payloads: ps}).Append(nil)
		if err != nil {
			e.t.Fatal(err)
		}
		return [][]byte{raw, b}
	}
}

// TestEvilAuthRequest misbehaves in IKE_AUTH as the initiator: it has keys, and
// nobody knows yet who it is.
func TestEvilAuthRequest(t *testing.T) {
	longID := append([]byte{byte(wire.IDFQDN), 0, 0, 0}, make([]byte, 3000)...)
	for _, c := range []misdeedCase{
		{name: "AUTH of another", misdeed: inAuth.with(octet(wire.PayloadAuth, 10, 1)), want: "AUTHENTICATION_FAILED; down"},
		{name: "empty AUTH", misdeed: inAuth.with(body(wire.PayloadAuth, func(b []byte) []byte { return b[:4] })), want: "INVALID_SYNTAX; down"},
		{name: "no AUTH", misdeed: inAuth.with(without(wire.PayloadAuth)), want: "INVALID_SYNTAX; down"},
		{name: "AUTH twice", misdeed: inAuth.with(twice(wire.PayloadAuth)), want: "INVALID_SYNTAX; down"},
		{name: "NULL authentication", misdeed: inAuth.with(body(wire.PayloadAuth, func(b []byte) []byte { b[0] = 13; return b })), want: "AUTHENTICATION_FAILED; down"},
		{name: "the secret as a signature", misdeed: inAuth.with(body(wire.PayloadAuth, func(b []byte) []byte { b[0] = 14; return b })), want: "AUTHENTICATION_FAILED; down"},
		{name: "the secret as an RSA signature", misdeed: inAuth.with(body(wire.PayloadAuth, func(b []byte) []byte { b[0] = 1; return b })), want: "AUTHENTICATION_FAILED; down"},
		{name: "another identity", misdeed: inAuth.with(octet(wire.PayloadIDi, 4, 1)), want: "AUTHENTICATION_FAILED; down"},
		{name: "another identity, proved", misdeed: inAuth.with(all(octet(wire.PayloadIDi, 4, 1), prove)), want: "AUTHENTICATION_FAILED; down"},
		{name: "the same identity, proved again", misdeed: inAuth.with(prove), want: "accepted; up"},
		{name: "no identity", misdeed: inAuth.with(without(wire.PayloadIDi)), want: "INVALID_SYNTAX; down"},
		{name: "identity of no octets", misdeed: inAuth.with(body(wire.PayloadIDi, func(b []byte) []byte { return b[:4] })), want: "INVALID_SYNTAX; down"},
		{name: "identity of 3000 octets", misdeed: inAuth.with(all(swap(wire.PayloadIDi, longID), prove)), want: "AUTHENTICATION_FAILED; down"},
		{name: "identity of an unknown kind", misdeed: inAuth.with(all(body(wire.PayloadIDi, func(b []byte) []byte { b[0] = 99; return b }), prove)), want: "AUTHENTICATION_FAILED; down"},
		{name: "another responder wanted", misdeed: inAuth.with(octet(wire.PayloadIDr, 4, 1)), want: "AUTHENTICATION_FAILED; down"},
		{name: "certificate that is none", misdeed: inAuth.with(more(1, rawPayload{kind: wire.PayloadCert, body: []byte{4, 0x30, 0x80}})), want: "AUTHENTICATION_FAILED; down"},
		{name: "certificate by URL", misdeed: inAuth.with(more(1, rawPayload{kind: wire.PayloadCert, body: append([]byte{12}, "http://203.0.113.66/"...)})), want: "AUTHENTICATION_FAILED; down"},
		{name: "padded with certificates", misdeed: inAuth.with(more(8, rawPayload{kind: wire.PayloadCert, body: make([]byte, 5000)})), want: "AUTHENTICATION_FAILED; down"},
		{name: "EAP", misdeed: inAuth.with(all(without(wire.PayloadAuth), more(1, rawPayload{kind: wire.PayloadEAP, body: []byte{3, 1, 0, 4}}))), want: "INVALID_SYNTAX; down"},
		{name: "no selectors", misdeed: inAuth.with(all(without(wire.PayloadTSi), without(wire.PayloadTSr))), want: "INVALID_SYNTAX; down"},
		{name: "no TSr", misdeed: inAuth.with(without(wire.PayloadTSr)), want: "INVALID_SYNTAX; down"},
		{name: "0 selectors", misdeed: inAuth.with(swap(wire.PayloadTSi, []byte{0, 0, 0, 0})), want: "INVALID_SYNTAX; down"},
		{name: "255 selectors", misdeed: inAuth.with(swap(wire.PayloadTSi, selectorsBody(slices.Repeat([][2]uint32{lanA}, 255)...))), want: "accepted; up"},
		{name: "more selectors than there are", misdeed: inAuth.with(octet(wire.PayloadTSi, 0, 6)), want: "INVALID_SYNTAX; down"},
		{name: "selector that ends before it begins", misdeed: inAuth.with(swap(wire.PayloadTSi, selectorsBody([2]uint32{9, 3}))), want: "INVALID_SYNTAX; down"},
		{name: "selectors of everything", misdeed: inAuth.with(all(swap(wire.PayloadTSi, everywhere), swap(wire.PayloadTSr, everywhere))), want: "accepted; up"},
		{name: "selectors of something else", misdeed: inAuth.with(swap(wire.PayloadTSi, elsewhere)), want: "TS_UNACCEPTABLE; up without Child SA"},
		{name: "ESP without encryption", misdeed: inAuth.with(swap(wire.PayloadSA, sa(wire.Proposal{
			Number: 1, Protocol: wire.ProtocolESP, SPI: []byte("1234"),
			Transforms: []wire.Transform{noENCR, {Type: wire.TransformSequenceNumbers}},
		}))), want: "NO_PROPOSAL_CHOSEN; up without Child SA"},
		{name: "ESP with SPI 0", misdeed: inAuth.with(body(wire.PayloadSA, func(b []byte) []byte { clear(b[8:12]); return b })), want: "NO_PROPOSAL_CHOSEN; up without Child SA"},
		{name: "unknown payload", misdeed: inAuth.with(more(1, unknownPayload)), want: "accepted; up"},
		{name: "unknown critical payload", misdeed: inAuth.with(more(1, criticalPayload)), want: "UNSUPPORTED_CRITICAL_PAYLOAD; down"},
		{name: "critical bit everywhere", misdeed: inAuth.with(flags(0x80)), want: "accepted; up"},
		{name: "any order", misdeed: inAuth.with(reversed), want: "accepted; up"},
		{name: "SA shorter than it is", misdeed: inAuth.with(lie(wire.PayloadSA, -1)), want: "INVALID_SYNTAX; down"},
		{name: "Delete in it", misdeed: inAuth.with(more(1, rawDelete(wire.ProtocolIKE, 0))), want: "INVALID_SYNTAX; down"},
		{name: "encrypted payload in it", misdeed: inAuth.with(more(1, rawPayload{kind: wire.PayloadSK, body: make([]byte, 32)})), want: "INVALID_SYNTAX; down"},
		{name: "nothing in it", misdeed: inAuth.withPlain(func([]byte) []byte { return nil }), want: "INVALID_SYNTAX; down"},
		{name: "noise in it", misdeed: inAuth.withPlain(func(b []byte) []byte { return make([]byte, len(b)) }), want: "INVALID_SYNTAX; down"},
		{name: "cut off", misdeed: inAuth.withPlain(func(b []byte) []byte { return b[:len(b)-3] }), want: "INVALID_SYNTAX; down"},
		{name: "changed on the way", misdeed: inAuth.withDatagram(flipLast), want: "nothing; down"},
		{name: "first in the clear", misdeed: inAuth.withDatagram(inTheClear(&wire.Notify{Kind: wire.NotifyAuthenticationFailed})), want: "nothing; up"},
		{name: "message ID 2", misdeed: inAuth.withDatagram(func(e *evilPeer, b []byte) [][]byte {
			h, _ := wire.ParseHeader(b)
			first, plain := e.open(b)
			h.MessageID = 2
			return [][]byte{e.seal(h, first, plain), b}
		}), want: "nothing; up"},
		{name: "CREATE_CHILD_SA instead", misdeed: inAuth.withDatagram(func(e *evilPeer, b []byte) [][]byte {
			h, _ := wire.ParseHeader(b)
			first, plain := e.open(b)
			h.Exchange = wire.ExchangeCreateChildSA
			return [][]byte{e.seal(h, first, plain), b}
		}), want: "nothing; up"},
		{name: "in pieces", misdeed: inAuth.withDatagram(inPieces(3, func(_ *evilPeer, _ wire.Header, p []fragment) []fragment { return p })), want: "nothing; up"},
		{name: "in pieces, backwards and twice", misdeed: inAuth.withDatagram(inPieces(3, func(_ *evilPeer, _ wire.Header, p []fragment) []fragment {
			return []fragment{p[2], p[2], p[1], p[1], p[0], p[0]}
		})), want: "nothing; up"},
		{name: "in 64 pieces", misdeed: inAuth.withDatagram(inPieces(64, func(_ *evilPeer, _ wire.Header, p []fragment) []fragment {
			for i := range p {
				p[i].total = uint16(len(p))
			}
			return p
		})), want: "nothing; up"},
		{name: "of 65535 pieces", misdeed: inAuth.withDatagram(inPieces(2, func(_ *evilPeer, _ wire.Header, p []fragment) []fragment {
			p[0].total, p[1].total = 65535, 65535
			return p
		})), want: "nothing; down"},
		{name: "piece 0", misdeed: inAuth.withDatagram(inPieces(2, func(_ *evilPeer, _ wire.Header, p []fragment) []fragment {
			p[0].number = 0
			return p
		})), want: "nothing; down"},
		{name: "piece 3 of 2", misdeed: inAuth.withDatagram(inPieces(2, func(_ *evilPeer, _ wire.Header, p []fragment) []fragment {
			p[1].number = 3
			return p
		})), want: "nothing; down"},
		{name: "of 0 pieces", misdeed: inAuth.withDatagram(inPieces(2, func(_ *evilPeer, _ wire.Header, p []fragment) []fragment {
			p[0].total, p[1].total = 0, 0
			return p
		})), want: "nothing; down"},
		{name: "pieces of different totals", misdeed: inAuth.withDatagram(inPieces(3, func(_ *evilPeer, _ wire.Header, p []fragment) []fragment {
			p[1].total = 2
			return p
		})), want: "nothing; down"},
		{name: "empty pieces between", misdeed: inAuth.withDatagram(inPieces(2, func(_ *evilPeer, _ wire.Header, p []fragment) []fragment {
			return []fragment{{1, 3, p[0].content}, {2, 3, nil}, {3, 3, p[1].content}}
		})), want: "nothing; up"},
		{name: "last piece missing", misdeed: inAuth.withDatagram(inPieces(3, func(_ *evilPeer, _ wire.Header, p []fragment) []fragment { return p[:2] })), want: "nothing; down"},
		{name: "pieces of another message", misdeed: inAuth.withDatagram(func(e *evilPeer, b []byte) [][]byte {
			h, _ := wire.ParseHeader(b)
			first, plain := e.open(b)
			other := h
			other.MessageID = 5
			out := e.sealFragments(other, first, []fragment{{1, 2, plain[:40]}})
			return append(out, e.sealFragments(h, first, []fragment{{2, 2, plain[40:]}})...)
		}), want: "nothing; down"},
		{name: "too much in pieces", misdeed: inAuth.withDatagram(inPieces(1, func(_ *evilPeer, _ wire.Header, p []fragment) []fragment {
			var out []fragment
			for i := range uint16(60) {
				out = append(out, fragment{i + 1, 60, make([]byte, 2000)})
			}
			return out
		})), want: "nothing; down"},
	} {
		c.initiator = true
		t.Run(c.name, c.run)
	}
}

// TestEvilAuthAnswer misbehaves in IKE_AUTH as the responder.
func TestEvilAuthAnswer(t *testing.T) {
	espSA := func(number byte, spi string, ts ...wire.Transform) []byte {
		return sa(wire.Proposal{Number: number, Protocol: wire.ProtocolESP, SPI: []byte(spi), Transforms: ts})
	}
	esn := wire.Transform{Type: wire.TransformSequenceNumbers, ID: uint16(wire.SequenceNumbersExtended)}
	for _, c := range []misdeedCase{
		{name: "AUTH of another", misdeed: inAuthReply.with(octet(wire.PayloadAuth, 10, 1)), want: "AUTHENTICATION_FAILED; down"},
		{name: "no AUTH", misdeed: inAuthReply.with(without(wire.PayloadAuth)), want: "nothing; down"},
		{name: "no AUTH, a notification", misdeed: inAuthReply.with(all(without(wire.PayloadAuth), more(1, rawNotify(wire.NotifyInitialContact, 0, nil, nil)))), want: "nothing; down"},
		{name: "another method", misdeed: inAuthReply.with(body(wire.PayloadAuth, func(b []byte) []byte { b[0] = 13; return b })), want: "AUTHENTICATION_FAILED; down"},
		{name: "another identity", misdeed: inAuthReply.with(octet(wire.PayloadIDr, 4, 1)), want: "AUTHENTICATION_FAILED; down"},
		{name: "another identity, proved", misdeed: inAuthReply.with(all(octet(wire.PayloadIDr, 4, 1), prove)), want: "AUTHENTICATION_FAILED; down"},
		{name: "no identity", misdeed: inAuthReply.with(without(wire.PayloadIDr)), want: "nothing; down"},
		{name: "wider TSr", misdeed: inAuthReply.with(swap(wire.PayloadTSr, everywhere)), want: "INFORMATIONAL request; up without Child SA"},
		{name: "wider TSi", misdeed: inAuthReply.with(swap(wire.PayloadTSi, everywhere)), want: "INFORMATIONAL request; up without Child SA"},
		{name: "other TSi", misdeed: inAuthReply.with(swap(wire.PayloadTSi, elsewhere)), want: "INFORMATIONAL request; up without Child SA"},
		{name: "narrower TSi", misdeed: inAuthReply.with(swap(wire.PayloadTSi, selectorsBody([2]uint32{0x0a010000, 0x0a0100ff}))), want: "nothing; up"},
		{name: "no selectors", misdeed: inAuthReply.with(all(without(wire.PayloadTSi), without(wire.PayloadTSr))), want: "nothing; down"},
		{name: "no SA", misdeed: inAuthReply.with(without(wire.PayloadSA)), want: "nothing; down"},
		{name: "ESP that was not offered", misdeed: inAuthReply.with(swap(wire.PayloadSA, espSA(1, "1234", noENCR, esn))), want: "INFORMATIONAL request; up without Child SA"},
		{name: "ESP with a key exchange", misdeed: inAuthReply.with(swap(wire.PayloadSA, espSA(1, "1234", goodENCR, goodKE, esn))), want: "INFORMATIONAL request; up without Child SA"},
		{name: "ESP of another number", misdeed: inAuthReply.with(swap(wire.PayloadSA, espSA(2, "1234", goodENCR, esn))), want: "INFORMATIONAL request; up without Child SA"},
		{name: "ESP with SPI 0", misdeed: inAuthReply.with(swap(wire.PayloadSA, espSA(1, "\x00\x00\x00\x00", goodENCR, esn))), want: "INFORMATIONAL request; up without Child SA"},
		{name: "transport mode imposed", misdeed: inAuthReply.with(more(1, rawNotify(wire.NotifyUseTransportMode, 0, nil, nil))), want: "INFORMATIONAL request; up without Child SA"},
		{name: "AUTHENTICATION_FAILED beside the proof", misdeed: inAuthReply.with(more(1, rawNotify(wire.NotifyAuthenticationFailed, 0, nil, nil))), want: "nothing; down"},
		{name: "NO_ADDITIONAL_SAS beside the Child SA", misdeed: inAuthReply.with(more(1, rawNotify(wire.NotifyNoAdditionalSAs, 0, nil, nil))), want: "nothing; up"},
		{name: "unknown error beside the Child SA", misdeed: inAuthReply.with(more(1, rawNotify(8000, 0, nil, nil))), want: "INFORMATIONAL request; up without Child SA"},
		{name: "unknown critical payload", misdeed: inAuthReply.with(more(1, criticalPayload)), want: "nothing; down"},
		{name: "unknown payload", misdeed: inAuthReply.with(more(1, unknownPayload)), want: "nothing; up"},
		{name: "configuration that was not asked for", misdeed: inAuthReply.with(more(1, rawPayload{kind: wire.PayloadCP, body: []byte{2, 0, 0, 0, 0, 1, 0, 4, 10, 9, 9, 9}})), want: "nothing; up"},
		{name: "changed on the way", misdeed: inAuthReply.withDatagram(flipLast), want: "nothing; down"},
		{name: "AUTHENTICATION_FAILED in the clear first", misdeed: inAuthReply.withDatagram(inTheClear(&wire.Notify{Kind: wire.NotifyAuthenticationFailed})), want: "nothing; up"},
		{name: "noise", misdeed: inAuthReply.withPlain(func(b []byte) []byte { return make([]byte, len(b)) }), want: "nothing; down"},
	} {
		t.Run(c.name, c.run)
	}
}
