package wire

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

// sampleMessages are typed values of every kind, the seeds of the fuzz tests.
func sampleMessages() []*Message {
	samples := []*Message{
		saInitMessage(), ikeAuthMessage(),
		{Header: protectedHeader},
		{Header: protectedHeader, Payloads: []Payload{&Encrypted{FirstInner: PayloadDelete, Body: count(28)}}},
		{Header: protectedHeader, Payloads: []Payload{&EncryptedFragment{Number: 2, Total: 3, Body: count(28)}}},
		{Header: protectedHeader, Payloads: []Payload{&Unknown{Kind: 200, Critical: true, Data: count(3)}}},
		{Header: protectedHeader, Payloads: []Payload{
			&Delete{Protocol: ProtocolESP, SPIs: [][]byte{count(4), count(4)}}, &Delete{Protocol: ProtocolIKE},
			&EAP{Data: []byte{1, 7, 0, 5, 1}}, &VendorID{Data: count(16)}, &CertReq{Encoding: CertX509Signature, Data: count(20)},
			&CP{Kind: CPReply, Attributes: []CPAttribute{{Kind: CPInternalIP4Address, Value: count(4)}, {Kind: CPInternalIP4DNS}}},
			&TS{Selectors: []TrafficSelector{{Kind: TSSecurityLabel, Opaque: "label"}}},
		}},
	}
	message := rapid.Custom(generateMessage)
	for seed := range 30 {
		samples = append(samples, message.Example(seed))
	}
	return samples
}

func FuzzMessage(f *testing.F) {
	for _, m := range sampleMessages() {
		b, err := m.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			fuzzError(t, err, len(b))
			return
		}
		out, err := m.Append(nil)
		if err != nil {
			t.Fatalf("a parsed message cannot be appended: %v", err)
		}
		if len(out) != m.size() || len(out) != len(b) {
			t.Fatalf("appended %d octets, size says %d, parsed were %d", len(out), m.size(), len(b))
		}
		again, err := reparse(out)
		if err != nil || !bytes.Equal(again, out) {
			t.Fatalf("not a fixed point:\n%x\n%x, %v", out, again, err)
		}
		if associated, body, ok := m.Protected(); ok && !bytes.Equal(append(associated, body...), b) {
			t.Fatal("protected octets are not the message")
		}
	})
}

func FuzzPayloads(f *testing.F) {
	for _, m := range sampleMessages() {
		ps := m.Payloads
		if len(ps) > 0 && payloadIsProtected(ps[len(ps)-1]) {
			ps = ps[:len(ps)-1]
		}
		first, b, err := AppendPayloads(nil, ps)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(first), b)
	}
	f.Fuzz(func(t *testing.T, first uint8, b []byte) {
		ps, err := ParsePayloads(PayloadType(first), b)
		if err != nil {
			fuzzError(t, err, len(b))
			return
		}
		next, out, err := AppendPayloads(nil, ps)
		if err != nil {
			t.Fatalf("parsed payloads cannot be appended: %v", err)
		}
		if next != PayloadType(first) || len(out) != len(b) || len(out) != chainSize(ps) {
			t.Fatalf("appended %d octets of %s, parsed were %d of %d", len(out), next, len(b), first)
		}
		again, err := ParsePayloads(next, out)
		if err != nil {
			t.Fatalf("appended payloads cannot be parsed: %v", err)
		}
		_, out2, err := AppendPayloads(nil, again)
		if err != nil || !bytes.Equal(out, out2) {
			t.Fatalf("not a fixed point:\n%x\n%x, %v", out, out2, err)
		}
	})
}

func payloadIsProtected(p Payload) bool {
	return p.PayloadType() == PayloadSK || p.PayloadType() == PayloadSKF
}

// fuzzError demands that parsing fails with one of the documented errors.
func fuzzError(t *testing.T, err error, n int) {
	t.Helper()
	var parseErr *ParseError
	var critical *UnsupportedCriticalError
	switch {
	case errors.As(err, &parseErr):
		if parseErr.Offset < 0 || parseErr.Offset > n || parseErr.Reason == "" {
			t.Fatalf("error %q with offset %d of %d octets", parseErr, parseErr.Offset, n)
		}
	case errors.As(err, &critical):
	default:
		t.Fatalf("undocumented error %T: %v", err, err)
	}
}
