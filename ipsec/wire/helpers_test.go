package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// golden is an annotated hex dump. "#" starts a comment, and brackets mark the
// fields that hold a length or a count.
type golden struct {
	octets []byte
	fields [][2]int // offset and width of the marked fields
}

var comment = regexp.MustCompile(`#[^\n]*`)

func dump(t testing.TB, text string) golden {
	t.Helper()
	var g golden
	digits := strings.Join(strings.Fields(comment.ReplaceAllString(text, "")), "")
	var plain strings.Builder
	start := 0
	for _, c := range digits {
		switch c {
		case '[':
			start = plain.Len()
		case ']':
			g.fields = append(g.fields, [2]int{start / 2, (plain.Len() - start) / 2})
		default:
			plain.WriteRune(c)
		}
	}
	b, err := hex.DecodeString(plain.String())
	if err != nil {
		t.Fatalf("golden dump: %v", err)
	}
	g.octets = b
	return g
}

// testGolden demands that p has exactly this encoding, generic header
// included, that no proper prefix of it parses and that no marked field can be
// off by one without notice.
func testGolden(t *testing.T, p Payload, text string) {
	t.Helper()
	g := dump(t, text)
	first, out, err := AppendPayloads(nil, []Payload{p})
	if err != nil {
		t.Fatalf("AppendPayloads: %v", err)
	}
	if first != p.PayloadType() {
		t.Errorf("first payload type %v, want %v", first, p.PayloadType())
	}
	if !bytes.Equal(out, g.octets) {
		t.Errorf("AppendPayloads:\n got %x\nwant %x", out, g.octets)
	}
	got, err := ParsePayloads(first, g.octets)
	if err != nil {
		t.Fatalf("ParsePayloads: %v", err)
	}
	if want := []Payload{p}; !reflect.DeepEqual(got, want) {
		t.Errorf("ParsePayloads:\n got %+v\nwant %+v", got[0], p)
	}
	parse := func(b []byte) ([]byte, error) {
		ps, err := ParsePayloads(first, b)
		if err != nil {
			return nil, err
		}
		_, out, err := AppendPayloads(nil, ps)
		return out, err
	}
	testPrefixes(t, g.octets, parse)
	testOffByOne(t, g, parse)
}

// testPrefixes demands that parse fails on every proper prefix of b.
func testPrefixes(t *testing.T, b []byte, parse func([]byte) ([]byte, error)) {
	t.Helper()
	for n := range b {
		if _, err := parse(b[:n:n]); err == nil {
			t.Errorf("the first %d of %d octets parse", n, len(b))
		}
	}
}

// testOffByOne demands that a marked field off by one fails, or has a meaning
// and comes out as it went in.
func testOffByOne(t *testing.T, g golden, parse func([]byte) ([]byte, error)) {
	t.Helper()
	if len(g.fields) == 0 {
		t.Error("no length is marked in the golden dump")
	}
	for _, f := range g.fields {
		for _, delta := range []int{1, -1} {
			b := bytes.Clone(g.octets)
			addTo(b[f[0]:f[0]+f[1]], delta)
			out, err := parse(b)
			if err == nil && !bytes.Equal(out, b) {
				t.Errorf("field at octet %d off by %+d goes unnoticed", f[0], delta)
			}
		}
	}
}

// addTo adds delta to a big-endian number, modulo its width.
func addTo(field []byte, delta int) {
	carry := delta
	for i := len(field) - 1; i >= 0 && carry != 0; i-- {
		v := int(field[i]) + carry
		field[i] = byte(v)
		carry = v >> 8
	}
}

// testMalformed demands that the payload with this body fails to parse for a
// reason that contains the words.
func testMalformed(t *testing.T, kind PayloadType, words, text string) {
	t.Helper()
	body := dump(t, text).octets
	b := append(appendGenericHeader(nil, PayloadNone, false, len(body)), body...)
	_, err := ParsePayloads(kind, b)
	var parseErr *ParseError
	if !errors.As(err, &parseErr) {
		t.Errorf("%s: error %v, want a *ParseError with %q", text, err, words)
		return
	}
	if parseErr.Payload != kind || !strings.Contains(parseErr.Error(), words) {
		t.Errorf("%s: error %q, want the %s payload and %q", text, parseErr, kind, words)
	}
	if parseErr.Offset < 0 || parseErr.Offset > len(b) {
		t.Errorf("%s: offset %d is outside of the input", text, parseErr.Offset)
	}
}

// testUnsendable demands that p cannot be appended, for a reason that contains
// the words.
func testUnsendable(t *testing.T, p Payload, words string) {
	t.Helper()
	_, _, err := AppendPayloads(nil, []Payload{p})
	if err == nil || !strings.Contains(err.Error(), words) {
		t.Errorf("append %+v: error %v, want %q", p, err, words)
	}
}

// count returns n octets 00 01 02 ...
func count(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}
