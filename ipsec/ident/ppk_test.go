package ident

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestPPKValidate(t *testing.T) {
	key := PSK(bytes.Repeat([]byte{1}, 32))
	for name, p := range map[string]PPK{
		"no identifier":   {Key: key},
		"long identifier": {ID: make([]byte, 256), Key: key},
		"no key":          {ID: []byte("a")},
		"key of 248 bits": {ID: []byte("a"), Key: key[1:]},
	} {
		if err := p.Validate(); err == nil {
			t.Errorf("%s: valid", name)
		}
	}
	if err := (PPK{ID: []byte("a"), Key: key}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestPPKIsNeverPrinted(t *testing.T) {
	p := PPK{ID: []byte("site-7"), Key: PSK("swordfish swordfish swordfish swordfish")}
	text, _ := json.Marshal([]any{p, &p, struct{ P PPK }{p}})
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "ppk", p, "list", []PPK{p})
	for _, s := range []string{
		fmt.Sprint(p), fmt.Sprintf("%v %+v %#v %s %q %x %d", p, p, p, p, p, p, p), fmt.Sprintf("%+v", []PPK{p}), string(text), log.String(),
	} {
		if strings.Contains(s, "swordfish") || strings.Contains(s, fmt.Sprintf("%x", "swordfish")) {
			t.Errorf("the key is in %q", s)
		}
	}
	if !strings.Contains(fmt.Sprint(p), "site-7") {
		t.Errorf("%v does not name the key", p)
	}
}

func TestPPKSet(t *testing.T) {
	one, other := PSK(bytes.Repeat([]byte{1}, 32)), PSK(bytes.Repeat([]byte{2}, 32))
	a, b, again := PPK{[]byte("a"), one}, PPK{[]byte("b"), one}, PPK{[]byte("a"), other}
	s := NewPPKSet([]PPK{a, b}, nil, []PPK{again, a})
	if got := s.Find(a.WireID()); len(got) != 2 || !got[0].Equal(a) || !got[1].Equal(again) {
		t.Errorf("found %v", got)
	}
	if got := s.Find([]byte("a")); got != nil {
		t.Errorf("found %v without the type octet", got)
	}
	if got := s.Find([]byte{1, 'a'}); got != nil {
		t.Errorf("found %v for an opaque PPK_ID", got)
	}
	if NewPPKSet(nil) != nil || (*PPKSet)(nil).Find(a.WireID()) != nil {
		t.Error("an empty set is not nil, or finds something")
	}
	if id := a.WireID(); !bytes.Equal(id, []byte{2, 'a'}) { // RFC 8784, Section 5.1
		t.Errorf("PPK_ID is %x", id)
	}
}
