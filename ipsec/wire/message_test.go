package wire

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// reparse parses a message and appends it again.
func reparse(b []byte) ([]byte, error) {
	m, err := Parse(b)
	if err != nil {
		return nil, err
	}
	return m.Append(nil)
}

// testParseFails demands a *ParseError about this payload with these words.
func testParseFails(t *testing.T, b []byte, payload PayloadType, words string) {
	t.Helper()
	_, err := Parse(b)
	var parseErr *ParseError
	if !errors.As(err, &parseErr) || parseErr.Payload != payload || !strings.Contains(parseErr.Error(), words) {
		t.Errorf("%x: error %v, want the %s payload and %q", b[:min(len(b), 64)], err, payload, words)
	}
}

// An IKE_SA_INIT request as an initiator of this project sends it.
const saInitDump = `
	0102030405060708 0000000000000000  # SPIs; the responder has none yet
	21 20 22 08                        # next is SA, version 2.0, IKE_SA_INIT, Initiator
	00000000 [000000c0]                # Message ID 0, length 192

	22 00 [0028]                       # SA, next is KE, length 40
	00 00 [0024] 01 01 [00] [03]       # last proposal, number 1, IKE, 3 transforms
	03 00 [000c] 01 00 0014 800e 0100  # ENCR_AES_GCM_16, 256 bits
	03 00 [0008] 02 00 0006            # PRF_HMAC_SHA2_384
	00 00 [0008] 04 00 001f            # Curve25519

	28 00 [0028] 001f 0000             # KE, next is Nonce, length 40, Curve25519
	000102030405060708090a0b0c0d0e0f
	101112131415161718191a1b1c1d1e1f

	29 00 [0024]                       # Nonce, next is Notify, length 36
	000102030405060708090a0b0c0d0e0f
	101112131415161718191a1b1c1d1e1f

	29 00 [001c] 00 [00] 4004          # N(NAT_DETECTION_SOURCE_IP), length 28
	000102030405060708090a0b0c0d0e0f10111213

	00 00 [0014] 00 [00] 402f          # N(SIGNATURE_HASH_ALGORITHMS), length 20
	0002 0003 0004 0005 0001 0000
`

func saInitMessage() *Message {
	return &Message{
		Header: Header{InitiatorSPI: SPI{1, 2, 3, 4, 5, 6, 7, 8}, Major: 2, Exchange: ExchangeIKESAInit, Flags: FlagInitiator},
		Payloads: []Payload{
			&SA{Proposals: []Proposal{{Number: 1, Protocol: ProtocolIKE, Transforms: []Transform{
				{Type: TransformEncryption, ID: uint16(EncryptionAESGCM16), KeyLength: 256},
				{Type: TransformPRF, ID: uint16(PRFHMACSHA384)},
				{Type: TransformKeyExchange, ID: uint16(KeyExchangeCurve25519)},
			}}}},
			&KE{Group: KeyExchangeCurve25519, Data: count(32)},
			&Nonce{Data: count(32)},
			&Notify{Kind: NotifyNATDetectionSourceIP, Data: count(20)},
			&Notify{Kind: NotifySignatureHashAlgorithms, Data: []byte{0, 2, 0, 3, 0, 4, 0, 5, 0, 1, 0, 0}},
		},
	}
}

func TestMessageGolden(t *testing.T) {
	g := dump(t, saInitDump)
	m := saInitMessage()
	out, err := m.Append([]byte("before"))
	if err != nil {
		t.Fatal(err)
	}
	if want := append([]byte("before"), g.octets...); !bytes.Equal(out, want) {
		t.Errorf("Append:\n got %x\nwant %x", out, want)
	}
	got, err := Parse(g.octets)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.Payloads, m.Payloads) {
		t.Errorf("Parse:\n got %+v\nwant %+v", got.Payloads, m.Payloads)
	}
	if &got.Raw[0] != &g.octets[0] || got.NextPayload != PayloadSA || got.Length != 192 {
		t.Errorf("parsed header %+v", got.Header)
	}
	testPrefixes(t, g.octets, reparse)
	testOffByOne(t, g, reparse)
}

func TestMessageTrailing(t *testing.T) {
	b := append(dump(t, saInitDump).octets, 0)
	testParseFails(t, b, PayloadNone, "length field says 192, the message has 193 octets")
	b[27]++
	testParseFails(t, b, PayloadNotify, "1 trailing octets")
}

func TestMessageLimits(t *testing.T) {
	m := saInitMessage()
	m.Payloads = append(m.Payloads, &KE{Group: 19, Data: count(64)})
	if _, err := m.Append(nil); err == nil {
		t.Error("two KE payloads are appended")
	}
	if _, err := Parse(make([]byte, MaxMessageLen+1)); err == nil {
		t.Error("a message beyond the limit is parsed")
	}
	if _, err := ParsePayloads(PayloadNotify, make([]byte, MaxMessageLen+1)); err == nil {
		t.Error("payloads beyond the limit are parsed")
	}
	m.Payloads = []Payload{&Cert{Encoding: 4, Data: make([]byte, 40000)}, &Cert{Encoding: 4, Data: make([]byte, 25530)}}
	if _, err := m.Append(nil); err == nil {
		t.Error("a message beyond the limit is appended")
	}
	m.Payloads = []Payload{&Cert{Encoding: 4, Data: make([]byte, MaxMessageLen-HeaderLen-5)}}
	b, err := m.Append(nil)
	if err != nil || len(b) != MaxMessageLen {
		t.Fatalf("the largest message: %d octets, %v", len(b), err)
	}
	if _, err := Parse(b); err != nil {
		t.Error(err)
	}
}

// chain encodes payloads that AppendPayloads would refuse.
func chain(kind PayloadType, n int, body []byte) []byte {
	var b []byte
	for i := range n {
		next := kind
		if i == n-1 {
			next = PayloadNone
		}
		b = append(appendGenericHeader(b, next, false, len(body)), body...)
	}
	return b
}

func TestPayloadLimits(t *testing.T) {
	for _, c := range []struct {
		kind PayloadType
		most int
		body []byte
	}{
		{PayloadNonce, 1, count(16)},
		{PayloadTSi, 1, dump(t, "01000000 07000010 0000ffff c0000201 c0000201").octets},
		{PayloadCert, 8, count(2)},
		{PayloadCertReq, 20, count(1)},
		{PayloadNotify, 20, dump(t, "00004000").octets},
		{PayloadDelete, 20, dump(t, "01000000").octets},
		{PayloadVendorID, 20, nil},
		{200, MaxPayloads, nil},
	} {
		ps, err := ParsePayloads(c.kind, chain(c.kind, c.most, c.body))
		if err != nil || len(ps) != c.most {
			t.Fatalf("%d %s payloads: %d, %v", c.most, c.kind, len(ps), err)
		}
		if _, _, err := AppendPayloads(nil, ps); err != nil {
			t.Errorf("append %d %s payloads: %v", c.most, c.kind, err)
		}
		if _, err := ParsePayloads(c.kind, chain(c.kind, c.most+1, c.body)); err == nil {
			t.Errorf("%d %s payloads are parsed", c.most+1, c.kind)
		}
		if _, _, err := AppendPayloads(nil, append(ps, ps[0])); err == nil {
			t.Errorf("%d %s payloads are appended", c.most+1, c.kind)
		}
	}
}

func TestPayloadsEmpty(t *testing.T) {
	ps, err := ParsePayloads(PayloadNone, nil)
	if err != nil || len(ps) != 0 {
		t.Errorf("ParsePayloads of nothing: %v, %v", ps, err)
	}
	first, out, err := AppendPayloads(nil, nil)
	if first != PayloadNone || len(out) != 0 || err != nil {
		t.Errorf("AppendPayloads of nothing: %v, %x, %v", first, out, err)
	}
	if _, err := ParsePayloads(PayloadNone, []byte{0}); err == nil {
		t.Error("octets without a payload are parsed")
	}
	if _, err := ParsePayloads(PayloadNotify, nil); err == nil {
		t.Error("a payload without octets is parsed")
	}
	for n := range genericHeaderLen {
		if _, err := ParsePayloads(PayloadVendorID, []byte{0, 0, 0, byte(n)}); err == nil {
			t.Errorf("a payload length of %d is parsed", n)
		}
	}
}

func TestErrorsNameTheirPlace(t *testing.T) {
	b := dump(t, saInitDump).octets
	b[28+40+2] = 0xff // length of the KE payload
	_, err := Parse(b)
	if want := "parse KE payload at octet 72: 65316 octets needed, 120 left"; err == nil || err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
	_, err = Parse(b[:20])
	if want := "parse IKE header at octet 20: 4 octets needed, 0 left"; err == nil || err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
	err = &UnsupportedCriticalError{Payload: 99}
	if want := "payload type 99 is marked critical and not supported"; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
}
