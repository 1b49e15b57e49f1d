package wire

import (
	"bytes"
	"errors"
	"testing"
)

var headerDump = `
	0102030405060708  # initiator's SPI
	1112131415161718  # responder's SPI
	00                # no payload
	20                # version 2.0
	25                # INFORMATIONAL
	28                # Response, Initiator
	00000007          # Message ID
	[0000001c]        # length 28
`

func TestHeaderGolden(t *testing.T) {
	g := dump(t, headerDump)
	want := Header{
		InitiatorSPI: SPI{1, 2, 3, 4, 5, 6, 7, 8}, ResponderSPI: SPI{0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18},
		Major: 2, Exchange: ExchangeInformational, Flags: FlagInitiator | FlagResponse, MessageID: 7, Length: 28,
	}
	got, err := ParseHeader(g.octets)
	if err != nil || got != want {
		t.Errorf("ParseHeader %+v, %v, want %+v", got, err, want)
	}
	if !got.IsResponse() || !got.FromInitiator() {
		t.Errorf("flags %s", got.Flags)
	}
	out, err := (&Message{Header: want}).Append(nil)
	if err != nil || !bytes.Equal(out, g.octets) {
		t.Errorf("Append %x, %v, want %x", out, err, g.octets)
	}
	testPrefixes(t, g.octets, reparse)
	testOffByOne(t, g, reparse)
	for n := range HeaderLen {
		var parseErr *ParseError
		if _, err := ParseHeader(g.octets[:n]); !errors.As(err, &parseErr) {
			t.Errorf("header of %d octets: error %v", n, err)
		}
	}
}

func TestHeaderMalformed(t *testing.T) {
	for _, c := range []struct {
		words  string
		change func(b []byte)
	}{
		{"major version 1", func(b []byte) { b[17] = 0x10 }},
		{"major version 3", func(b []byte) { b[17] = 0x30 }},
		{"SPI is zero", func(b []byte) { clear(b[:8]) }},
		{"says 4294967295", func(b []byte) { copy(b[24:], "\xff\xff\xff\xff") }},
		{"says 0,", func(b []byte) { clear(b[24:]) }},
	} {
		b := dump(t, headerDump).octets
		c.change(b)
		testParseFails(t, b, PayloadNone, c.words)
		// The answer INVALID_MAJOR_VERSION still needs the header.
		if _, err := ParseHeader(b); err != nil {
			t.Errorf("%s: ParseHeader: %v", c.words, err)
		}
	}
}

// Minor version and undefined flags are ignored on receipt and not sent
// (RFC 7296, Section 3.1).
func TestHeaderIgnored(t *testing.T) {
	b := dump(t, headerDump).octets
	b[17], b[19] = 0x2f, 0xff
	m, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	out, err := m.Append(nil)
	if err != nil || out[19] != 0x28 {
		t.Errorf("flags sent %#02x, %v, want 0x28", out[19], err)
	}
	if _, err := (&Message{Header: Header{Major: 2, Minor: 16, InitiatorSPI: SPI{1}}}).Append(nil); err == nil {
		t.Error("a minor version of five bits is appended")
	}
}

func TestHeaderStrings(t *testing.T) {
	for got, want := range map[string]string{
		SPI{0: 1, 7: 0xff}.String():            "01000000000000ff",
		ExchangeIKEFollowupKE.String():         "IKE_FOLLOWUP_KE",
		ExchangeType(240).String():             "ExchangeType(240)",
		Flags(0).String():                      "-",
		(FlagInitiator | FlagVersion).String(): "I|V",
		(FlagResponse | 1).String():            "R|0x01",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := (SPI{0: 1, 7: 0xff}).Uint64(); got != 0x01000000000000ff {
		t.Errorf("Uint64 %#x", got)
	}
}
