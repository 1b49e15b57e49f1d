package wire

import (
	"bytes"
	"testing"
)

func TestEncryptedFragmentGolden(t *testing.T) {
	g := dump(t, `
		0102030405060708 1112131415161718
		35 20 25 08         # next is SKF, version 2.0, INFORMATIONAL, Initiator
		00000002            # Message ID
		[00000038]          # length 56
		2a 00 [001c]        # first inner payload is Delete, length 28
		[0001] [0002]       # fragment 1 of 2
		0000000000000001    # initialization vector
		aabbccdd            # ciphertext
		0001020304050607    # integrity check value
	`)
	testProtected(t, g, &EncryptedFragment{FirstInner: PayloadDelete, Number: 1, Total: 2, Body: g.octets[36:]}, 36)
	testPrefixes(t, g.octets, reparse)

	out, err := protectedHeader.AppendEncryptedFragment(nil, PayloadDelete, 1, 2, 20)
	if err != nil || !bytes.Equal(out, g.octets[:36]) {
		t.Errorf("AppendEncryptedFragment %x, %v, want %x", out, err, g.octets[:36])
	}
	// Only the first fragment names the first inner payload.
	out, err = protectedHeader.AppendEncryptedFragment(nil, PayloadDelete, 2, 2, 20)
	if err != nil || out[HeaderLen] != 0 || out[HeaderLen+5] != 2 {
		t.Errorf("AppendEncryptedFragment 2 of 2: %x, %v", out, err)
	}
}

func TestEncryptedFragmentMalformed(t *testing.T) {
	message := func(body string) []byte {
		b := dump(t, body).octets
		out, err := protectedHeader.appendProtected(nil, genericHeaderLen+len(b))
		if err != nil {
			t.Fatal(err)
		}
		out[16] = uint8(PayloadSKF)
		return append(appendGenericHeader(out, PayloadNone, false, len(b)), b...)
	}
	testParseFails(t, message("000100"), PayloadSKF, "needed")
	testParseFails(t, message("00000001 aa"), PayloadSKF, "fragment number 0 of 1")
	testParseFails(t, message("00010000 aa"), PayloadSKF, "fragment number 1 of 0")
	testParseFails(t, message("00030002 aa"), PayloadSKF, "fragment number 3 of 2")

	for _, p := range []*EncryptedFragment{
		{Number: 0, Total: 1},
		{Number: 2, Total: 1},
		{Number: 2, Total: 2, FirstInner: PayloadSA},
		{Number: 1, Total: 2, FirstInner: PayloadSKF},
	} {
		if _, err := (&Message{Header: protectedHeader, Payloads: []Payload{p}}).Append(nil); err == nil {
			t.Errorf("%+v is appended", p)
		}
	}
	if _, err := protectedHeader.AppendEncryptedFragment(nil, PayloadSA, 3, 2, 20); err == nil {
		t.Error("fragment 3 of 2 is appended")
	}
	if _, err := protectedHeader.AppendEncryptedFragment(nil, PayloadSA, 1, 2, MaxMessageLen); err == nil {
		t.Error("a fragment beyond the limit is appended")
	}
}

// A next payload in a later fragment has no meaning and is dropped.
func TestEncryptedFragmentLaterNextPayload(t *testing.T) {
	b, err := protectedHeader.AppendEncryptedFragment(nil, PayloadNone, 2, 2, 1)
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, 0xaa)
	b[HeaderLen] = uint8(PayloadNotify)
	m, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if p := m.Payloads[0].(*EncryptedFragment); p.FirstInner != PayloadNone {
		t.Errorf("first inner payload %s of fragment 2", p.FirstInner)
	}
}
