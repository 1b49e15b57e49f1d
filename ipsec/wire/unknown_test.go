package wire

import (
	"errors"
	"testing"
)

func TestUnknownGolden(t *testing.T) {
	testGolden(t, &Unknown{Kind: PayloadGSPM, Data: []byte{1, 2}}, "00 00 [0006] 0102")
	testGolden(t, &Unknown{Kind: 255}, "00 00 [0004]")
}

// RFC 7296, Section 2.5.
func TestUnknownCritical(t *testing.T) {
	for _, kind := range []PayloadType{1, 32, PayloadKD, 54, 200} {
		ps := []Payload{&Notify{Kind: NotifyCookie}, &Unknown{Kind: kind, Critical: true, Data: []byte{1}}}
		first, b, err := AppendPayloads(nil, ps)
		if err != nil {
			t.Fatal(err)
		}
		_, err = ParsePayloads(first, b)
		var critical *UnsupportedCriticalError
		if !errors.As(err, &critical) || critical.Payload != kind {
			t.Errorf("error %v, want critical payload %d", err, kind)
		}
	}
}

// The critical bit of a known payload is ignored (RFC 7296, Section 3.2), and
// so are the reserved ones.
func TestKnownCriticalIgnored(t *testing.T) {
	if _, err := ParsePayloads(PayloadVendorID, dump(t, "00ff0005 01").octets); err != nil {
		t.Error(err)
	}
}

func TestUnknownIsUnknown(t *testing.T) {
	for _, kind := range []PayloadType{PayloadNone, PayloadSA, PayloadSK, PayloadEAP, PayloadSKF} {
		p := &Unknown{Kind: kind}
		if p.check() == nil {
			t.Errorf("payload type %s passes for unknown", kind)
		}
	}
}
