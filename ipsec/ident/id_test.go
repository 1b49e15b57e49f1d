package ident

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/swanherd/swanherd/ipsec/wire"
)

func TestParseID(t *testing.T) {
	for _, tt := range []struct {
		text string
		kind wire.IDType
		data string // "" for not compared
		back string // "" for the same
	}{
		{"192.0.2.1", wire.IDIPv4, "\xc0\x00\x02\x01", ""},
		{"::ffff:192.0.2.1", wire.IDIPv4, "\xc0\x00\x02\x01", "192.0.2.1"},
		{"2001:DB8::1", wire.IDIPv6, "", "2001:db8::1"},
		{"edge1.example", wire.IDFQDN, "edge1.example", ""},
		{"edge1", wire.IDFQDN, "edge1", ""},
		{"fqdn:192.0.2.1", wire.IDFQDN, "192.0.2.1", ""},
		{"fqdn:a@b", wire.IDFQDN, "a@b", ""},
		{"fqdn:edge1.example", wire.IDFQDN, "edge1.example", "edge1.example"},
		{"noc@example.com", wire.IDRFC822, "noc@example.com", ""},
		{"email:a=b@example.com", wire.IDRFC822, "a=b@example.com", ""},
		{"keyid:00ff61", wire.IDKeyID, "\x00\xffa", ""},
		{"CN=edge1", wire.IDDERDN, "\x30\x10\x31\x0e\x30\x0c\x06\x03\x55\x04\x03\x13\x05edge1", ""},
		{"CN=edge1,O=Example,C=DE", wire.IDDERDN, "", ""},
		{"cn=edge1 , o = Example, c=DE", wire.IDDERDN, "", "CN=edge1,O=Example,C=DE"},
		{`CN=Doe\, John,O=A\+B`, wire.IDDERDN, "", ""},
		{`CN=\4a\c3\b6rg`, wire.IDDERDN, "", "CN=Jörg"},
		{"dn:UID=1,DC=example,DC=com", wire.IDDERDN, "", ""},
	} {
		got, err := ParseID(tt.text)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		if got.Kind != tt.kind || tt.data != "" && got.Data != tt.data {
			t.Errorf("%s: %v %x", tt.text, got.Kind, got.Data)
		}
		back := tt.back
		if back == "" {
			back = tt.text
		}
		// Attributes without a short name in the standard library
		// print as OIDs.
		if s := got.String(); s != back && !strings.HasPrefix(tt.text, "dn:UID") {
			t.Errorf("%s prints as %s, want %s", tt.text, s, back)
		}
		if p := got.Payload(true); !p.Initiator || p.Kind != tt.kind || string(p.Data) != got.Data {
			t.Errorf("%s: payload %+v", tt.text, p)
		}
	}
}

func TestParseIDErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "is empty",
		"edge 1":                          "only printable ASCII",
		"edge\x001":                       "only printable ASCII",
		"jörg.example":                    "xn--",
		"@example":                        "user@domain",
		"user@":                           "user@domain",
		"email:nobody":                    "user@domain",
		"fqdn:":                           "has 0 characters",
		"keyid:":                          "hexadecimal",
		"keyid:xyz":                       "hexadecimal",
		"fe80::1%eth0":                    "no zone",
		"CN=":                             "empty",
		"CN=a,,O=b":                       `has no "="`,
		"X=a":                             "known are CN, O",
		"CN=a+O=b":                        "escaped",
		`CN=a\`:                           "backslash",
		`CN=a\4`:                          "want two",
		"C=Ö":                             "ASCII only",
		`CN=a\00b`:                        "control character",
		strings.Repeat("a", 3000):         "at most",
		strings.Repeat("a", 1500):         "want 1 to",
		"CN=" + strings.Repeat("a", 1500): "at most",
	} {
		if got, err := ParseID(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, error %v, want %q in it", clip(text), got, err, want)
		}
	}
}

func TestEqual(t *testing.T) {
	der := func(vs ...asn1.RawValue) ID {
		var d distinguishedName
		for _, v := range vs {
			d = append(d, relativeNameSET{{asn1.ObjectIdentifier{2, 5, 4, 3}, v}})
		}
		b, err := asn1.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		return ID{wire.IDDERDN, string(b)}
	}
	utf8String := asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte("Edge  One ")}
	octetString := asn1.RawValue{Tag: asn1.TagOctetString, Bytes: []byte("edge1")}
	for _, tt := range []struct {
		a, b ID
		want bool
	}{
		{id(t, "Edge1.Example"), id(t, "edge1.example"), true},
		{id(t, "edge1.example"), id(t, "edge1.example."), false},
		{id(t, "k.example"), ID{wire.IDFQDN, "\u212a.example"}, false}, // Kelvin sign
		{id(t, "edge1.example"), ID{wire.IDKeyID, "edge1.example"}, false},
		{id(t, "noc@EXAMPLE.com"), id(t, "noc@example.com"), true},
		{id(t, "NOC@example.com"), id(t, "noc@example.com"), false},
		{id(t, "192.0.2.1"), id(t, "192.0.2.2"), false},
		{id(t, "keyid:61"), id(t, "keyid:41"), false},
		{id(t, "CN=edge1,O=Example"), id(t, "CN=EDGE1,O=example"), true},
		{id(t, "CN=edge1,O=Example"), id(t, "O=Example,CN=edge1"), false},
		{id(t, "CN=edge1,O=Example"), id(t, "CN=edge1"), false},
		{id(t, "CN=edge1"), id(t, "O=edge1"), false},
		{der(utf8String), id(t, "CN=edge one"), true},
		{der(octetString), id(t, "CN=edge1"), false},
		{der(octetString), der(octetString), true},
		{ID{wire.IDDERDN, "\x30\x00"}, ID{wire.IDDERDN, "\x30\x80"}, false},
	} {
		if tt.a.Equal(tt.b) != tt.want || tt.b.Equal(tt.a) != tt.want {
			t.Errorf("%s == %s is %v, want %v", tt.a, tt.b, !tt.want, tt.want)
		}
		if tt.want && tt.a.Key() != tt.b.Key() {
			t.Errorf("%s and %s are equal, but not their keys %q and %q", tt.a, tt.b, tt.a.Key(), tt.b.Key())
		}
	}
}

// The attributes of one level are a set: neither their order nor a repeated
// one makes a difference that an attacker could use.
func TestEqualMultiValued(t *testing.T) {
	attribute := func(last int, v string) attributeValue {
		return attributeValue{asn1.ObjectIdentifier{2, 5, 4, last}, asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(v)}}
	}
	a := relativeNameSET{attribute(3, "x"), attribute(10, "y")}
	for name, tt := range map[string]struct {
		b    relativeNameSET
		want bool
	}{
		"reversed": {relativeNameSET{a[1], a[0]}, true},
		"repeated": {relativeNameSET{a[0], a[0]}, false},
		"shorter":  {relativeNameSET{a[0]}, false},
	} {
		if equalRDN(a, tt.b) != tt.want || equalRDN(tt.b, a) != tt.want {
			t.Errorf("%s: want %v", name, tt.want)
		}
	}
}

func TestFromPayload(t *testing.T) {
	for _, s := range []string{"192.0.2.1", "2001:db8::1", "edge1.example", "a@b", "CN=edge1", "keyid:00"} {
		want := id(t, s)
		got, err := FromPayload(want.Payload(false))
		if err != nil || got != want {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for name, p := range map[string]*wire.ID{
		"IPv4 of 5":       {Kind: wire.IDIPv4, Data: make([]byte, 5)},
		"IPv6 of 4":       {Kind: wire.IDIPv6, Data: make([]byte, 4)},
		"empty":           {Kind: wire.IDFQDN},
		"terminated":      {Kind: wire.IDFQDN, Data: []byte("edge1\x00")},
		"escape sequence": {Kind: wire.IDFQDN, Data: []byte("\x1b[31m")},
		"no domain":       {Kind: wire.IDRFC822, Data: []byte("nobody")},
		"no DER":          {Kind: wire.IDDERDN, Data: []byte("CN=edge1")},
		"trailing DER":    {Kind: wire.IDDERDN, Data: append([]byte(id(t, "CN=edge1").Data), 0)},
		"empty name":      {Kind: wire.IDDERDN, Data: []byte{0x30, 0}},
		"empty level":     {Kind: wire.IDDERDN, Data: []byte{0x30, 2, 0x31, 0}},
		"too long":        {Kind: wire.IDKeyID, Data: make([]byte, maxIDLen+1)},
		"NULL":            {Kind: wire.IDNull},
		"general name":    {Kind: wire.IDDERGN, Data: []byte{1}},
		"unassigned":      {Kind: 200, Data: []byte{1}},
		"kind 0":          {Data: []byte{1}},
	} {
		if got, err := FromPayload(p); err == nil {
			t.Errorf("%s: accepted as %s", name, got)
		}
	}
}

func TestStringIsSafe(t *testing.T) {
	for _, v := range []ID{
		{wire.IDFQDN, "\x1b[31mred\n"},
		{wire.IDRFC822, "\n"},
		{wire.IDDERDN, "junk\n"},
		{wire.IDIPv4, "123"},
		{77, "\n"},
		{},
		FromSubject(newAuthority("line\nbreak\x1b", nil).cert),
	} {
		if s := v.String(); s == "" || strings.ContainsAny(s, "\n\x1b") {
			t.Errorf("%v %x prints as %q", v.Kind, v.Data, s)
		}
	}
}

// The name that a certificate was issued for equals the text that people
// write.
func TestSubjectText(t *testing.T) {
	ca := newAuthority("root", nil)
	cert := ca.issue(ed25519Key(), func(c *x509.Certificate) {
		c.Subject = pkix.Name{Country: []string{"DE"}, Organization: []string{"Example, Inc."}, OrganizationalUnit: []string{"NOC"}, CommonName: "edge 1"}
	})
	subject := FromSubject(cert)
	if got := id(t, subject.String()); !got.Equal(subject) {
		t.Errorf("%s does not equal %s", got, subject)
	}
}

func TestIDProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &wire.ID{
			Kind: rapid.SampledFrom([]wire.IDType{1, 2, 3, 5, 9, 11}).Draw(t, "kind"),
			Data: rapid.SliceOfN(rapid.Byte(), 1, 20).Draw(t, "data"),
		}
		v, err := FromPayload(p)
		if err != nil {
			return
		}
		back, err := ParseID(v.String())
		if v.Kind != wire.IDDERDN && (err != nil || back != v) {
			t.Fatalf("%v %q prints as %s, which is %v, %v", v.Kind, v.Data, v, back, err)
		}
		if !v.Equal(v) {
			t.Fatalf("%s does not equal itself", v)
		}
	})
}

func FuzzParseID(f *testing.F) {
	for _, s := range []string{"192.0.2.1", "edge1.example", "a@b", "CN=edge1,O=Example", `CN=a\,b\20`, "keyid:00ff", "dn:CN=x", "fqdn:1.2.3.4", "email:a=b@c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := ParseID(s)
		if err != nil {
			return
		}
		back, err := ParseID(v.String())
		if err == nil && !back.Equal(v) || err != nil && v.Kind != wire.IDDERDN {
			t.Errorf("%q is %x, prints as %q, which is %x, %v", s, v.Data, v, back.Data, err)
		}
		if got, err := FromPayload(v.Payload(true)); err != nil || got != v {
			t.Errorf("%q does not survive the wire: %v", s, err)
		}
	})
}

func FuzzFromPayload(f *testing.F) {
	for _, s := range []string{"192.0.2.1", "2001:db8::1", "edge1.example", "a@b", "CN=edge1,O=Example", "keyid:00"} {
		v, _ := ParseID(s)
		f.Add(uint8(v.Kind), []byte(v.Data))
	}
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		v, err := FromPayload(&wire.ID{Kind: wire.IDType(kind), Data: data})
		if err != nil {
			return
		}
		if !v.Equal(v) || v.String() == "" {
			t.Errorf("%d %x is not itself", kind, data)
		}
	})
}
