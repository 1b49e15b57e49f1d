package ident

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// TestAnnouncementFormat: the three forms of RFC 9593, Section 3.2.
func TestAnnouncementFormat(t *testing.T) {
	list := []Announcement{
		{Method: wire.AuthSharedKey},
		{Method: wire.AuthNull},
		{Method: wire.AuthRSA, Authority: 2},
		{Method: wire.AuthECDSAP521},
		{Method: wire.AuthDigitalSignature, Authority: 1, Algorithm: schemes[0].identifiers[0]},
	}
	const want = "0202" + "020d" + "030102" + "030b00" + "0a0e01300506032b6570"
	data := appendAnnouncements(nil, list)
	if got := hex.EncodeToString(data); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	back, err := parseAnnouncements(data)
	if err != nil || !slices.Equal(back, list) {
		t.Errorf("got %v, %v", back, err)
	}
}

func TestMalformedAnnouncements(t *testing.T) {
	for _, data := range []string{"\x00", "\x01\x02", "\x02", "\x03\x01", "\x02\x02\x00", "\xff\x0e\x00" + strings.Repeat("x", 100)} {
		if list, err := parseAnnouncements([]byte(data)); err == nil {
			t.Errorf("%x is read as %v", data, list)
		}
		var a Announced
		a.Read([]wire.Payload{&wire.Notify{Kind: wire.NotifySupportedAuthMethods, Data: []byte(data)}})
		if a.Methods != nil {
			t.Errorf("%x is used", data)
		}
	}
	// Section 3.1: no data, the list comes later. Section 3.2: what is unknown
	// is ignored when something else is known, see TestChoice.
	if list, err := parseAnnouncements(nil); err != nil || list != nil {
		t.Errorf("empty: %v, %v", list, err)
	}
	if list, err := parseAnnouncements(bytes.Repeat([]byte{2, 77}, 1000)); err != nil || len(list) != maxAnnouncements {
		t.Errorf("%d kept of 1000, %v", len(list), err)
	}
}

func TestMethodsNotify(t *testing.T) {
	roots := NewRoots(newAuthority("root", nil).cert)
	for _, tt := range []struct {
		remote Remote
		want   []string
	}{
		{Remote{PSK: PSK("secret")}, []string{"PSK"}},
		{Remote{Roots: roots}, []string{
			"Ed25519", "ECDSA with SHA-256", "ECDSA with SHA-384", "ECDSA with SHA-512", "RSASSA-PSS with SHA-256", "RSA PKCS #1 v1.5 with SHA-256",
		}},
		{Remote{Roots: roots, PSK: PSK("secret"), Either: true, Legacy: []wire.AuthMethod{wire.AuthECDSAP384, wire.AuthRSA}}, []string{
			"Ed25519", "ECDSA with SHA-256", "ECDSA with SHA-384", "ECDSA with SHA-512", "RSASSA-PSS with SHA-256", "RSA PKCS #1 v1.5 with SHA-256",
			"RSA", "ECDSA_P384", "PSK",
		}},
	} {
		n := tt.remote.Methods().Notify()
		if n.Kind != wire.NotifySupportedAuthMethods || n.Protocol != 0 || len(n.SPI) != 0 {
			t.Errorf("got %+v", n)
		}
		var a Announced
		a.Read([]wire.Payload{n})
		var got []string
		for _, m := range a.Methods {
			got = append(got, m.String())
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("announces %q, want %q", got, tt.want)
		}
	}
	if m := MethodsOf(wire.AuthRSA, wire.AuthDigitalSignature); !m.Has(wire.AuthRSA) || m.Has(wire.AuthSharedKey) || m.Has(wire.AuthMethod(255)) {
		t.Errorf("set %b", m)
	}
}

// TestAnnouncedRead: lists of several payloads are one, a later message replaces
// an earlier one, and requests for something else than X.509 count for nothing.
func TestAnnouncedRead(t *testing.T) {
	methods := func(data ...byte) *wire.Notify {
		return &wire.Notify{Kind: wire.NotifySupportedAuthMethods, Data: data}
	}
	request := func(e wire.CertEncoding, hashes string) *wire.CertReq {
		return &wire.CertReq{Encoding: e, Data: []byte(hashes)}
	}
	a20, b20, c20 := strings.Repeat("a", 20), strings.Repeat("b", 20), strings.Repeat("c", 20)
	var a Announced
	a.Read([]wire.Payload{
		HashAlgorithmsNotify(), methods(2, 2), methods(2, 13),
		request(wire.CertX509Signature, a20+b20), request(wire.CertOCSPContent, c20), request(wire.CertX509Signature, "short"), request(wire.CertHashAndURL, c20),
	})
	if !a.Signatures || len(a.Methods) != 2 || a.Methods[1].Method != wire.AuthNull || !slices.Equal(a.Authorities, []string{a20, b20, c20}) {
		t.Errorf("got %+v", a)
	}
	a.Read([]wire.Payload{methods(3, 1, 1), request(wire.CertX509Signature, c20)})
	if !a.Signatures || len(a.Methods) != 1 || a.Methods[0].Authority != 1 || !slices.Equal(a.Authorities, []string{c20}) {
		t.Errorf("after another message: %+v", a)
	}
	a.Read([]wire.Payload{methods(), request(wire.CertX509Signature, strings.Repeat(a20, 300))})
	if len(a.Methods) != 1 || len(a.Authorities) != maxAuthorities {
		t.Errorf("%d methods, %d authorities", len(a.Methods), len(a.Authorities))
	}
}

// What a peer announces can be read or is refused, and what can be read is
// written the same unless its form does not fit its method.
func FuzzAnnouncements(f *testing.F) {
	f.Add(Remote{Roots: NewRoots(), PSK: PSK("x")}.Methods().Notify().Data)
	f.Add([]byte("\x02\x02\x03\x01\x00\x05\x0e\x01\x30\x00"))
	f.Add([]byte("\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := parseAnnouncements(data)
		if err != nil {
			return
		}
		for _, a := range list {
			_ = a.String()
		}
		back, err := parseAnnouncements(appendAnnouncements(nil, list))
		if err != nil || len(back) != len(list) {
			t.Fatalf("%x: %v read back as %v, %v", data, list, back, err)
		}
		for i := range list {
			if back[i].Method != list[i].Method {
				t.Errorf("%x: %v read back as %v", data, list[i], back[i])
			}
		}
	})
}
