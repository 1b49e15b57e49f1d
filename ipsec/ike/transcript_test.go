package ike

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/notation"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// everyPayload is one payload of each type that can be kept.
func everyPayload() []wire.Payload {
	v6 := netip.MustParseAddr("2001:db8::1")
	list := mustTS("10.1.0.0/16", "10.3.0.0/16[tcp/443]")
	list = append(list, ts.Selector{First: v6, Last: v6, EndPort: 65535})
	return []wire.Payload{
		&wire.SA{Proposals: suite.OfferIKE(suite.DefaultIKE(), nil)},
		&wire.SA{Proposals: suite.OfferESP(suite.DefaultESP(), put32(0x1234))},
		&wire.KE{Group: wire.KeyExchangeECP256, Data: make([]byte, 64)},
		&wire.Nonce{Data: make([]byte, 32)},
		&wire.ID{Initiator: true, Kind: wire.IDFQDN, Data: []byte("a.example")},
		&wire.ID{Kind: wire.IDIPv4, Data: []byte{192, 0, 2, 1}},
		&wire.Cert{Encoding: wire.CertX509Signature, Data: make([]byte, 300)},
		&wire.CertReq{Encoding: wire.CertX509Signature, Data: make([]byte, 40)},
		&wire.Auth{Method: wire.AuthSharedKey, Data: make([]byte, 32)},
		&wire.Notify{Kind: wire.NotifyCookie, Data: make([]byte, 20)},
		&wire.Notify{Kind: wire.NotifyRekeySA, Protocol: wire.ProtocolESP, SPI: put32(77)},
		&wire.Notify{Kind: wire.NotifyInvalidKEPayload, Data: []byte{0, 31}},
		&wire.Delete{Protocol: wire.ProtocolIKE},
		&wire.Delete{Protocol: wire.ProtocolESP, SPIs: [][]byte{put32(1), put32(2)}},
		ts.ToWire(true, list), ts.ToWire(false, list[:1]),
		&wire.CP{Kind: wire.CPRequest, Attributes: []wire.CPAttribute{{Kind: wire.CPInternalIP4Address, Value: []byte{1, 2, 3, 4}}}},
		&wire.VendorID{Data: []byte("vendor")},
		&wire.EAP{Data: []byte{1, 2, 3, 4}},
		&wire.Unknown{Kind: 200, Critical: true, Data: []byte{1}},
		&wire.Unknown{Kind: 201},
	}
}

// TestRedact holds that what is kept of a payload prints like the payload, and
// that whatever the room, no more is kept than fits and the rest is told missing.
func TestRedact(t *testing.T) {
	h := wire.Header{Exchange: wire.ExchangeIKEAuth, MessageID: 7}
	for _, p := range everyPayload() {
		b := redact(nil, []wire.Payload{p}, 1<<15)
		got, cut := restore(b)
		if cut || len(got) != 1 || notation.Detailed(h, got) != notation.Detailed(h, []wire.Payload{p}) {
			t.Errorf("%s is kept as %s", notation.Detailed(h, []wire.Payload{p}), notation.Detailed(h, got))
		}
	}
	whole := len(redact(nil, everyPayload(), 1<<15))
	rng := rand.New(rand.NewPCG(1, 1))
	for limit := range maxRecord {
		payloads := everyPayload()
		rng.Shuffle(len(payloads), func(i, j int) { payloads[i], payloads[j] = payloads[j], payloads[i] })
		b := redact(nil, payloads, limit)
		got, cut := restore(b)
		if len(b) > max(limit, 1) || cut == (len(b) == whole) || len(got) > len(payloads) {
			t.Fatalf("room for %d octets: %d are kept, %d payloads, cut %v", limit, len(b), len(got), cut)
		}
		for i, p := range got {
			if p.PayloadType() != payloads[i].PayloadType() {
				t.Fatalf("room for %d octets: payload %d is %s, was %s", limit, i, p.PayloadType(), payloads[i].PayloadType())
			}
		}
	}
}

// TestTranscriptHoldsNoSecret looks in transcripts for what must not be there:
// keys, and of the messages also what everybody on the path has seen but that
// helps to attack them later.
func TestTranscriptHoldsNoSecret(t *testing.T) {
	w := pair(1, withCertificates(newAuthority("CA", newEd25519)))
	w.b.cookies, _ = NewCookieSecret(w.now, w.b)
	secrets := map[string][][]byte{}
	keep := func(what string, b []byte) { secrets[what] = append(secrets[what], bytes.Clone(b)) }
	w.trace = func(w *world, p *packet) {
		for _, p := range w.plain(p.data) {
			switch p := p.(type) {
			case *wire.KE:
				keep("key exchange", p.Data)
			case *wire.Nonce:
				keep("nonce", p.Data)
			case *wire.Auth:
				keep("AUTH", p.Data)
			case *wire.Notify:
				if p.Kind == wire.NotifyCookie {
					keep("cookie", p.Data[4:]) // after the number of its secret
				}
			}
		}
		for _, sa := range w.allSAs() {
			if k := sa.keys; k != nil {
				for what, key := range map[string][]byte{"SK_d": k.D, "SK_ei": k.Ei, "SK_er": k.Er, "SK_pi": k.Pi, "SK_pr": k.Pr} {
					keep(what, key)
				}
			}
		}
	}
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.settle()
	for _, in := range []Input{RekeyChild{}, RekeyIKE{}, RekeyChild{}, Disconnect{}} {
		w.a.step(in)
		w.settle()
		for _, n := range []*node{w.a, w.b} {
			for _, sa := range n.in {
				keep("ESP key", sa.Key)
			}
		}
	}
	for _, what := range []string{"key exchange", "nonce", "AUTH", "cookie", "SK_d", "SK_ei", "SK_er", "SK_pi", "SK_pr", "ESP key"} {
		if len(secrets[what]) < 2 {
			t.Errorf("the test saw %d of %s", len(secrets[what]), what)
		}
	}
	for _, n := range []*node{w.a, w.b} {
		text := fmt.Sprint(n.t.Transcript())
		if !strings.Contains(text, "CREATE_CHILD_SA") || !strings.Contains(text, "IKE_AUTH") {
			t.Fatalf("%s remembers too little:\n%s", n.name, text)
		}
		for what, list := range secrets {
			for _, secret := range list {
				if holdsPart(n.t.transcript.log, text, secret) {
					t.Errorf("%s: the transcript holds part of %s", n.name, what)
				}
			}
		}
	}
}

// holdsPart reports whether six octets of the secret are in the log, or as
// hexadecimal in the text.
func holdsPart(log []byte, text string, secret []byte) bool {
	for i := 0; i+6 <= len(secret); i++ {
		w := secret[i : i+6]
		if bytes.Contains(log, w) || strings.Contains(text, hex.EncodeToString(w)) {
			return true
		}
	}
	return false
}

// plain returns the payloads of a message in the clear.
func (w *world) plain(data []byte) []wire.Payload {
	m, err := wire.Parse(data)
	if err != nil || len(m.Payloads) == 0 {
		return nil
	}
	if p, ok := m.Payloads[len(m.Payloads)-1].(*wire.Encrypted); ok {
		payloads, _ := w.peek(m, p.FirstInner)
		return payloads
	}
	return m.Payloads
}

// TestTranscriptIsBounded holds that neither a long life nor strangers make it
// large, and that strangers push nothing out of it.
func TestTranscriptIsBounded(t *testing.T) {
	w := pair(1, func(a, b *Config) {
		a.Timing.DPD, a.Timing.RekeyChild, a.Timing.RekeyIKE = 30*time.Second, time.Hour, 4*time.Hour
	})
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.settle()
	before := len(w.a.t.transcript.log)
	for i := range 1000 {
		garbage := bytes.Repeat([]byte{byte(i)}, i)
		w.a.receive(Datagram{Local: w.a.cfg.Local, Remote: netip.AddrPortFrom(w.b.cfg.Local.Addr(), uint16(i)), Data: garbage})
		forged := bytes.Clone(w.a.t.sas[0].localSPI[:])
		forged = append(forged, w.a.t.sas[0].remoteSPI[:]...)
		forged = append(forged, 46, 0x20, byte(wire.ExchangeInformational), 0x20, 0, 0, 0, byte(i), 0, 0, 0, 40)
		w.a.receive(Datagram{Local: w.a.cfg.Local, Remote: w.b.cfg.Local, Data: append(forged, make([]byte, 40-28)...)})
	}
	if n := len(w.a.t.transcript.log); n != before {
		t.Errorf("strangers made the transcript grow from %d to %d octets", before, n)
	}
	if text := fmt.Sprint(w.a.t.Transcript()); strings.Count(text, " x ") < 2 || !strings.Contains(text, "1000, the last from") {
		t.Errorf("drops are not told:\n%s", text)
	}
	for range 50 {
		w.advance(2*time.Hour, w.settle)
		if n := len(w.a.t.transcript.log); n > maxTranscript || cap(w.a.t.transcript.log) > maxTranscript*3/2 {
			t.Fatalf("%d octets, room for %d", n, cap(w.a.t.transcript.log))
		}
	}
	entries := w.a.t.Transcript()
	if len(entries) < 20 {
		t.Errorf("after a long life it has %d entries", len(entries))
	}
	for i, e := range entries[1:] {
		if e.Time.Before(entries[i].Time) {
			t.Errorf("entry %d is before the one before it", i+1)
		}
	}
}

// BenchmarkTranscript is what one message costs the transcript.
func BenchmarkTranscript(b *testing.B) {
	w := pair(1, nil)
	w.b.step(Connect{})
	w.a.step(Connect{})
	m, err := wire.Parse(w.flight[0].data)
	if err != nil {
		b.Fatal(err)
	}
	var tr transcript
	datagrams := [][]byte{w.flight[0].data}
	b.ReportAllocs()
	for b.Loop() {
		tr.sent(epoch, wire.SPI{1}, m.Header, m.Payloads, datagrams)
	}
}
