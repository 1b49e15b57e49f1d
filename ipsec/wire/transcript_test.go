package wire_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/swanherd/swanherd/ipsec/ipsectest"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// Messages of another implementation parse, mean what they should, and come out
// as they went in, and no prefix of them parses.
// After a reviewed change "go test -rewrite" writes the expected output anew.
func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata/transcripts", func(t *testing.T, path string) {
		var last *wire.Message
		var first wire.PayloadType // inside of the last encryption
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			b, err := hex.DecodeString(strings.Join(strings.Fields(d.Input), ""))
			if err != nil {
				d.Fatalf(t, "hexadecimal: %v", err)
			}
			switch d.Cmd {
			case "message":
				last = transcriptMessage(t, d, b)
				first = firstInner(first, last.Payloads)
				return ipsectest.Dump(last.Header, last.Payloads)
			case "content":
				return ipsectest.Dump(last.Header, transcriptContent(t, d, first, b))
			default:
				d.Fatalf(t, "unknown command %q, want message or content", d.Cmd)
				return ""
			}
		})
	})
}

// firstInner returns what an Encrypted payload, or the first fragment of one,
// says about its content, and otherwise what was known before.
func firstInner(known wire.PayloadType, ps []wire.Payload) wire.PayloadType {
	for _, p := range ps {
		switch p := p.(type) {
		case *wire.Encrypted:
			return p.FirstInner
		case *wire.EncryptedFragment:
			if p.Number == 1 {
				return p.FirstInner
			}
		}
	}
	return known
}

func transcriptMessage(t *testing.T, d *datadriven.TestData, b []byte) *wire.Message {
	m, err := wire.Parse(b)
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	out, err := m.Append(nil)
	if err != nil || !bytes.Equal(out, b) {
		t.Errorf("%s: appended\n%x, %v, parsed\n%x", d.Pos, out, err, b)
	}
	for n := range b {
		if _, err := wire.Parse(b[:n]); err == nil {
			t.Errorf("%s: the first %d of %d octets parse", d.Pos, n, len(b))
		}
	}
	return m
}

func transcriptContent(t *testing.T, d *datadriven.TestData, first wire.PayloadType, b []byte) []wire.Payload {
	ps, err := wire.ParsePayloads(first, b)
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	_, out, err := wire.AppendPayloads(nil, ps)
	if err != nil || !bytes.Equal(out, b) {
		t.Errorf("%s: appended\n%x, %v, parsed\n%x", d.Pos, out, err, b)
	}
	for n := range b {
		if _, err := wire.ParsePayloads(first, b[:n]); err == nil {
			t.Errorf("%s: the first %d of %d octets parse", d.Pos, n, len(b))
		}
	}
	return ps
}
