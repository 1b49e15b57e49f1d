package wire

import (
	"bytes"
	"testing"
)

var protectedHeader = Header{
	InitiatorSPI: SPI{1, 2, 3, 4, 5, 6, 7, 8}, ResponderSPI: SPI{0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18},
	Major: 2, Exchange: ExchangeInformational, Flags: FlagInitiator, MessageID: 2,
}

func TestEncryptedGolden(t *testing.T) {
	g := dump(t, `
		0102030405060708 1112131415161718
		2e 20 25 08         # next is SK, version 2.0, INFORMATIONAL, Initiator
		00000002            # Message ID
		[00000034]          # length 52
		2a 00 [0018]        # first inner payload is Delete, length 24
		0000000000000001    # initialization vector
		aabbccdd            # ciphertext
		0001020304050607    # integrity check value
	`)
	testProtected(t, g, &Encrypted{FirstInner: PayloadDelete, Body: g.octets[32:]}, 32)
	testPrefixes(t, g.octets, reparse)
	testOffByOne(t, g, reparse)

	out, err := protectedHeader.AppendEncrypted([]byte("x"), PayloadDelete, 20)
	if err != nil || !bytes.Equal(out, append([]byte("x"), g.octets[:32]...)) {
		t.Errorf("AppendEncrypted %x, %v, want %x", out, err, g.octets[:32])
	}
}

// testProtected demands that the message is a header with p only, and that
// the first n octets are the associated data.
func testProtected(t *testing.T, g golden, p Payload, n int) {
	t.Helper()
	m := &Message{Header: protectedHeader, Payloads: []Payload{p}}
	out, err := m.Append(nil)
	if err != nil || !bytes.Equal(out, g.octets) {
		t.Errorf("Append:\n got %x, %v\nwant %x", out, err, g.octets)
	}
	m, err = Parse(g.octets)
	if err != nil {
		t.Fatal(err)
	}
	associated, body, ok := m.Protected()
	if !ok || !bytes.Equal(associated, g.octets[:n]) || !bytes.Equal(body, g.octets[n:]) {
		t.Errorf("Protected %x, %x, %t", associated, body, ok)
	}
	if cap(associated) != n {
		t.Error("appending to the associated data would overwrite the body")
	}
}

func TestEncryptedIsLast(t *testing.T) {
	m := &Message{Header: protectedHeader, Payloads: []Payload{
		&Notify{Kind: NotifyCookie}, &Encrypted{FirstInner: PayloadNotify, Body: count(30)},
	}}
	b, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(b); err != nil {
		t.Errorf("Notify before SK: %v", err)
	}
	// The payload that SK announces is inside of it, so octets behind are wrong.
	b = append(b, appendGenericHeader(nil, PayloadNone, false, 0)...)
	b[27] += 4
	testParseFails(t, b, PayloadSK, "trailing")

	m.Payloads[0], m.Payloads[1] = m.Payloads[1], m.Payloads[0]
	if _, err := m.Append(nil); err == nil {
		t.Error("a payload after SK is appended")
	}
	if _, _, ok := m.Protected(); ok {
		t.Error("a message that is not parsed has protected octets")
	}
	if _, _, ok := (&Message{}).Protected(); ok {
		t.Error("a message without payloads has protected octets")
	}
}

// RFC 7296, Section 3.1.
func TestEncryptedInsideEncrypted(t *testing.T) {
	sk := &Encrypted{Body: count(30)}
	skf := &EncryptedFragment{Number: 1, Total: 1, Body: count(30)}
	for _, p := range []Payload{sk, skf} {
		testUnsendable(t, p, "inside an encrypted payload")
		b := appendGenericHeader(nil, PayloadNone, false, p.size())
		b = p.appendTo(b)
		if _, err := ParsePayloads(p.PayloadType(), b); err == nil {
			t.Errorf("%s is parsed as an inner payload", p.PayloadType())
		}
	}
	for _, inner := range []PayloadType{PayloadSK, PayloadSKF} {
		if _, err := protectedHeader.AppendEncrypted(nil, inner, 20); err == nil {
			t.Errorf("SK with %s inside is appended", inner)
		}
		b, err := (&Message{Header: protectedHeader, Payloads: []Payload{sk}}).Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		b[HeaderLen] = uint8(inner)
		testParseFails(t, b, PayloadSK, "inside an encrypted payload")
	}
}

func TestAppendEncryptedBounds(t *testing.T) {
	for _, n := range []int{-5, MaxMessageLen - HeaderLen - 3, 1 << 40} {
		if _, err := protectedHeader.AppendEncrypted(nil, PayloadNone, n); err == nil {
			t.Errorf("a body of %d octets is appended", n)
		}
	}
	if _, err := (Header{Major: 2}).AppendEncrypted(nil, PayloadNone, 20); err == nil {
		t.Error("a zero initiator's SPI is appended")
	}
	if _, err := protectedHeader.AppendEncrypted(nil, PayloadNone, MaxMessageLen-HeaderLen-4); err != nil {
		t.Error(err)
	}
}
