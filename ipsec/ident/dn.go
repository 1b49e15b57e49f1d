package ident

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// dnAttribute is an attribute type of a distinguished name with its short name
// (RFC 4514, Section 3) and the string type that its values must have, 0 if
// any.
type dnAttribute struct {
	name string
	oid  asn1.ObjectIdentifier
	tag  int
}

var dnAttributes = []dnAttribute{
	{"CN", asn1.ObjectIdentifier{2, 5, 4, 3}, 0},
	{"O", asn1.ObjectIdentifier{2, 5, 4, 10}, 0},
	{"OU", asn1.ObjectIdentifier{2, 5, 4, 11}, 0},
	{"C", asn1.ObjectIdentifier{2, 5, 4, 6}, asn1.TagPrintableString},
	{"L", asn1.ObjectIdentifier{2, 5, 4, 7}, 0},
	{"ST", asn1.ObjectIdentifier{2, 5, 4, 8}, 0},
	{"STREET", asn1.ObjectIdentifier{2, 5, 4, 9}, 0},
	{"SERIALNUMBER", asn1.ObjectIdentifier{2, 5, 4, 5}, asn1.TagPrintableString},
	{"DC", asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}, asn1.TagIA5String},
	{"UID", asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}, 0},
	{"EMAILADDRESS", asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}, asn1.TagIA5String},
}

// parseDN encodes the text form of RFC 4514: the most specific part comes
// first in the text and last in the encoding.
func parseDN(s string) (ID, error) {
	parts, err := splitDN(s)
	if err != nil {
		return ID{}, err
	}
	slices.Reverse(parts)
	rdns := make(distinguishedName, 0, len(parts))
	for _, part := range parts {
		name, value, ok := strings.Cut(part, "=")
		if !ok {
			return ID{}, fmt.Errorf("%q of the distinguished name has no \"=\"", clip(part))
		}
		a, err := encodeAttribute(strings.TrimSpace(name), value)
		if err != nil {
			return ID{}, err
		}
		rdns = append(rdns, relativeNameSET{a})
	}
	der, err := asn1.Marshal(rdns)
	if err != nil {
		return ID{}, fmt.Errorf("encode distinguished name: %w", err)
	}
	if len(der) > maxIDLen {
		return ID{}, fmt.Errorf("the distinguished name has %d octets, at most %d are allowed", len(der), maxIDLen)
	}
	return ID{wire.IDDERDN, string(der)}, nil
}

// splitDN cuts at commas that are not escaped.
func splitDN(s string) ([]string, error) {
	var parts []string
	start, escaped := 0, false
	for i := 0; i < len(s); i++ {
		switch {
		case escaped:
			escaped = false
		case s[i] == '\\':
			escaped = true
		case s[i] == ',':
			parts = append(parts, s[start:i])
			start = i + 1
		case s[i] == '+' || s[i] == ';' || s[i] == '"':
			return nil, fmt.Errorf("%q in a distinguished name must be escaped with a backslash; names with several attributes at one level are not supported", s[i])
		}
	}
	if escaped {
		return nil, errors.New("the distinguished name ends with a backslash")
	}
	return append(parts, s[start:]), nil
}

func encodeAttribute(name, text string) (attributeValue, error) {
	i := slices.IndexFunc(dnAttributes, func(a dnAttribute) bool { return strings.EqualFold(a.name, name) })
	if i < 0 {
		return attributeValue{}, fmt.Errorf("unknown attribute %q of a distinguished name, known are %s", clip(name), attributeNames())
	}
	value, err := unescape(strings.TrimLeft(text, " "))
	if err != nil {
		return attributeValue{}, err
	}
	if value == "" || !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl) {
		return attributeValue{}, fmt.Errorf("attribute %s of the distinguished name is empty, not UTF-8, or holds a control character", name)
	}
	a := dnAttributes[i]
	tag := a.tag
	if tag == 0 {
		tag = asn1.TagUTF8String
		if isPrintable(value) {
			tag = asn1.TagPrintableString
		}
	}
	if tag != asn1.TagUTF8String && strings.ContainsFunc(value, func(r rune) bool { return r >= utf8.RuneSelf }) {
		return attributeValue{}, fmt.Errorf("attribute %s of a distinguished name holds ASCII only", a.name)
	}
	return attributeValue{a.oid, asn1.RawValue{Tag: tag, Bytes: []byte(value)}}, nil
}

func attributeNames() string {
	names := make([]string, len(dnAttributes))
	for i, a := range dnAttributes {
		names[i] = a.name
	}
	return strings.Join(names, ", ")
}

// unescape undoes the escapes of RFC 4514, Section 2.4. An unescaped space at
// the end does not belong to the value.
func unescape(s string) (string, error) {
	var b strings.Builder
	kept := 0 // octets of b that trimming may not touch
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c != '\\' {
			b.WriteByte(c)
			continue
		}
		if i+1 >= len(s) {
			return "", errors.New("the distinguished name ends with a backslash")
		}
		if hi, lo := unhexDigit(s[i+1]), -1; hi >= 0 {
			if i+2 < len(s) {
				lo = unhexDigit(s[i+2])
			}
			if lo < 0 {
				return "", errors.New("a backslash in a distinguished name is followed by one hexadecimal digit, want two")
			}
			b.WriteByte(byte(hi<<4 | lo))
			i += 2
		} else {
			b.WriteByte(s[i+1])
			i++
		}
		kept = b.Len()
	}
	out := b.String()
	return out[:kept] + strings.TrimRight(out[kept:], " "), nil
}

func unhexDigit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// isPrintable reports whether s fits PrintableString (X.680, Section 41.4).
func isPrintable(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(" '()+,-./:=?", c) >= 0) {
			return false
		}
	}
	return true
}

// attributeValue keeps the encoding of a value, which crypto/x509/pkix would
// lose.
type attributeValue struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

// relativeNameSET is one level of a name. encoding/asn1 takes it for a SET by
// the end of its name.
type relativeNameSET []attributeValue

type distinguishedName []relativeNameSET

// parseRDNs reads a DER distinguished name that fills b.
func parseRDNs(b []byte) (distinguishedName, error) {
	var d distinguishedName
	rest, err := asn1.Unmarshal(b, &d)
	if err != nil || len(rest) != 0 || len(d) == 0 {
		return nil, errors.New("is not the DER encoding of a distinguished name")
	}
	for _, r := range d {
		if len(r) == 0 {
			return nil, errors.New("holds an empty part in a distinguished name")
		}
	}
	return d, nil
}

// String prints the form of RFC 4514.
func (d distinguishedName) String() string {
	var seq pkix.RDNSequence
	for _, r := range d {
		var set pkix.RelativeDistinguishedNameSET
		for _, a := range r {
			set = append(set, pkix.AttributeTypeAndValue{Type: a.Type, Value: a.text()})
		}
		seq = append(seq, set)
	}
	return seq.String()
}

// text is the value for people: strings as they are, anything else in
// hexadecimal.
func (a attributeValue) text() string {
	if s, ok := a.str(); ok {
		return s
	}
	return fmt.Sprintf("#%x", a.Value.FullBytes)
}

// str returns a value of one of the string types that hold ASCII or UTF-8.
func (a attributeValue) str() (string, bool) {
	if a.Value.Class != asn1.ClassUniversal || !utf8.Valid(a.Value.Bytes) {
		return "", false
	}
	switch a.Value.Tag {
	case asn1.TagUTF8String, asn1.TagPrintableString, asn1.TagIA5String:
		return string(a.Value.Bytes), true
	}
	return "", false
}

// equalDN compares two encoded names part by part (RFC 5280, Section 7.1):
// letter case, string type and repeated spaces do not count.
func equalDN(x, y []byte) bool {
	a, err := parseRDNs(x)
	if err != nil {
		return false
	}
	b, err := parseRDNs(y)
	if err != nil || len(a) != len(b) {
		return false
	}
	for i := range a {
		if !equalRDN(a[i], b[i]) {
			return false
		}
	}
	return true
}

// equalRDN compares the attributes of one level as a set.
func equalRDN(a, b relativeNameSET) bool {
	if len(a) != len(b) {
		return false
	}
	for _, v := range a {
		if !slices.ContainsFunc(b, v.equal) {
			return false
		}
	}
	for _, v := range b {
		if !slices.ContainsFunc(a, v.equal) {
			return false
		}
	}
	return true
}

// key is the same for names that equalDN finds equal.
func (d distinguishedName) key() string {
	var b strings.Builder
	for _, r := range d {
		var parts []string
		for _, a := range r {
			parts = append(parts, a.Type.String()+"="+a.key())
		}
		slices.Sort(parts)
		fmt.Fprintf(&b, "%q", slices.Compact(parts))
	}
	return b.String()
}

// key folds letters as strings.EqualFold does: to the least of each set of
// letters that it takes for the same.
func (a attributeValue) key() string {
	s, ok := a.str()
	if !ok {
		return string(a.Value.FullBytes)
	}
	return strings.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, strings.Join(strings.Fields(s), " "))
}

func (a attributeValue) equal(b attributeValue) bool {
	if !a.Type.Equal(b.Type) {
		return false
	}
	s, ok1 := a.str()
	t, ok2 := b.str()
	if ok1 && ok2 {
		return strings.EqualFold(strings.Join(strings.Fields(s), " "), strings.Join(strings.Fields(t), " "))
	}
	return bytes.Equal(a.Value.FullBytes, b.Value.FullBytes)
}
