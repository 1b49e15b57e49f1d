package ike

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// testTokens is the secret of a node of the tests.
func testTokens(name string) *TokenSecret {
	t, err := NewTokenSecret(bytes.Repeat([]byte(name), minTokenSecret))
	if err != nil {
		panic(err)
	}
	return t
}

func withTokens(a, b *Config) { a.Runtime.Tokens, b.Runtime.Tokens = testTokens("a"), testTokens("b") }

func TestTokenSecret(t *testing.T) {
	if _, err := NewTokenSecret(make([]byte, minTokenSecret-1)); err == nil {
		t.Error("a short secret is accepted")
	}
	x, y := testTokens("a"), testTokens("b")
	one, two := wire.SPI{1}, wire.SPI{2}
	seen := map[string]string{}
	for _, c := range []struct {
		name  string
		token []byte
	}{
		{"initiator", x.token(true, one, two)},
		{"responder", x.token(false, one, two)},
		{"other way about", x.token(true, two, one)},
		{"other secret", y.token(true, one, two)},
	} {
		if len(c.token) < 16 || len(c.token) > 128 { // RFC 6290, Section 5
			t.Errorf("%s: %d octets", c.name, len(c.token))
		}
		if other, ok := seen[string(c.token)]; ok {
			t.Errorf("%s has the token of %s", c.name, other)
		}
		seen[string(c.token)] = c.name
	}
	if !bytes.Equal(x.token(true, one, two), testTokens("a").token(true, one, two)) {
		t.Error("the token does not survive a restart")
	}
}

// TestAnswerUnknown holds what may be answered outside of an IKE SA (RFC 7296,
// Section 2.21.4).
func TestAnswerUnknown(t *testing.T) {
	request := func(change func(b []byte)) []byte {
		b := make([]byte, 57) // the shortest there is: no payload, AES-GCM
		b[0], b[8], b[16], b[17], b[18], b[19] = 1, 2, byte(wire.PayloadSK), 0x20, byte(wire.ExchangeInformational), byte(wire.FlagInitiator)
		binary.BigEndian.PutUint32(b[20:], 7)
		binary.BigEndian.PutUint32(b[24:], uint32(len(b)))
		change(b)
		return b
	}
	tests := []struct {
		name   string
		change func([]byte)
		want   bool
	}{
		{"request", func([]byte) {}, true},
		{"request of the responder", func(b []byte) { b[19] = 0 }, true},
		{"fragment", func(b []byte) { b[16] = byte(wire.PayloadSKF) }, true},
		{"response", func(b []byte) { b[19] |= byte(wire.FlagResponse) }, false},
		{"in the clear", func(b []byte) { b[16] = byte(wire.PayloadNotify) }, false},
		{"other version", func(b []byte) { b[17] = 0x30 }, false},
		{"no initiator", func(b []byte) { b[0] = 0 }, false},
		{"no responder", func(b []byte) { b[8] = 0 }, false},
	}
	for _, test := range tests {
		for _, secret := range []*TokenSecret{nil, testTokens("a")} {
			b := request(test.change)
			answer := secret.AnswerUnknown(b)
			if got := answer != nil; got != test.want {
				t.Errorf("%s: answered %v, want %v", test.name, got, test.want)
			}
			if answer == nil {
				continue
			}
			m, err := wire.Parse(answer)
			if err != nil {
				t.Fatalf("%s: %v", test.name, err)
			}
			if !m.IsResponse() || m.MessageID != 7 || m.Exchange != wire.ExchangeInformational ||
				!bytes.Equal(answer[:16], b[:16]) || m.FromInitiator() == (b[19]&byte(wire.FlagInitiator) != 0) {
				t.Errorf("%s: answer's header is %+v", test.name, m.Header)
			}
			if want := map[bool]int{true: 1, false: 2}[secret == nil]; len(m.Payloads) != want {
				t.Errorf("%s: %d payloads, want %d", test.name, len(m.Payloads), want)
			}
			if 4*len(answer) > 5*len(b) {
				t.Errorf("%s: answer of %d octets to %d", test.name, len(answer), len(b))
			}
		}
	}
	if testTokens("a").AnswerUnknown(request(func([]byte) {})[:40]) != nil {
		t.Error("a datagram too short for a request is answered with more than it has")
	}
}

// TestAnswerVersion: the answer to a later major version has our own in its header
// and everything else from the request (RFC 7296, Section 1.5).
func TestAnswerVersion(t *testing.T) {
	request := func(change func(b []byte)) []byte {
		b := make([]byte, 60)
		b[0], b[16], b[17], b[18], b[19] = 1, byte(wire.PayloadSA), 0x31, byte(wire.ExchangeIKESAInit), byte(wire.FlagInitiator)
		binary.BigEndian.PutUint32(b[20:], 7)
		change(b)
		return b
	}
	for _, c := range []struct {
		name   string
		change func([]byte)
		want   bool
	}{
		{"version 3", func([]byte) {}, true},
		{"version 15", func(b []byte) { b[17] = 0xf0 }, true},
		{"of the responder", func(b []byte) { b[8], b[19] = 2, 0 }, true},
		{"version 2", func(b []byte) { b[17] = 0x2f }, false},
		{"version 1", func(b []byte) { b[17] = 0x10 }, false},
		{"version 0", func(b []byte) { b[17] = 0 }, false},
		{"response", func(b []byte) { b[19] |= byte(wire.FlagResponse) }, false},
		{"no SPI", func(b []byte) { b[0] = 0 }, false},
	} {
		b := request(c.change)
		answer := AnswerVersion(b)
		if (answer != nil) != c.want {
			t.Errorf("%s: answered %v, want %v", c.name, answer != nil, c.want)
		}
		if answer == nil {
			continue
		}
		m, err := wire.Parse(answer)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		n, _ := m.Payloads[0].(*wire.Notify)
		if m.Major != 2 || m.Minor != 0 || !m.IsResponse() || m.MessageID != 7 || m.Exchange != wire.ExchangeIKESAInit ||
			!bytes.Equal(answer[:16], b[:16]) || m.FromInitiator() == (b[19]&byte(wire.FlagInitiator) != 0) ||
			len(m.Payloads) != 1 || n == nil || n.Kind != wire.NotifyInvalidMajorVersion {
			t.Errorf("%s: answered with %+v", c.name, m)
		}
	}
	for n := range wire.HeaderLen + 8 {
		if AnswerVersion(request(func([]byte) {})[:n]) != nil {
			t.Errorf("%d octets are answered with more", n)
		}
	}
}

// TestEvilToken: nobody gets the token of a living IKE SA, and without it nobody
// ends one.
func TestEvilToken(t *testing.T) {
	w := pair(3, withTokens)
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.settle()
	e := &evil{world: w, t: t}
	real := map[string]bool{}
	for _, n := range []*node{w.a, w.b} {
		for _, token := range n.t.primary().tokens {
			real[string(token)] = true
		}
	}
	if len(real) != 2 {
		t.Fatalf("%d tokens were exchanged, want 2", len(real))
	}
	// Every way to ask about the SPIs of the living IKE SA.
	sa := w.a.t.primary()
	spis := []wire.SPI{sa.localSPI, sa.remoteSPI, {9}}
	e.harmless(func() {
		for _, n := range []*node{w.a, w.b} {
			for _, i := range spis {
				for _, r := range spis {
					for _, flags := range []wire.Flags{0, wire.FlagInitiator} {
						h := wire.Header{InitiatorSPI: i, ResponderSPI: r, Major: 2, Exchange: wire.ExchangeInformational, Flags: flags, MessageID: 1}
						b, err := h.AppendEncrypted(nil, wire.PayloadNone, 40)
						if err != nil {
							t.Fatal(err)
						}
						e.inject(n, append(b, make([]byte, 40)...))
					}
				}
			}
		}
		answers := 0
		for _, p := range w.flight {
			m, err := wire.Parse(p.data)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range (&message{payloads: m.Payloads}).all(wire.NotifyQuickCrashDetection) {
				answers++
				if real[string(n.Data)] {
					t.Errorf("the token of a living IKE SA was given away to %+v", m.Header)
				}
			}
		}
		if answers == 0 {
			t.Error("no question was answered: the test asks nothing")
		}
		w.flight = nil
	})
	// Forged tokens, replayed ones of the other direction, and many at once.
	e.harmless(func() {
		for _, data := range [][]byte{nil, make([]byte, tokenLen), w.b.t.primary().tokens[0], bytes.Repeat([]byte{1}, 128)} {
			e.inject(w.a, clearMessage(t, sa, data))
			e.inject(w.a, clearMessage(t, sa, slices.Repeat([][]byte{data}, 8)...))
		}
	})
}

// clearMessage is what a peer that has lost sa would say, with these tokens.
func clearMessage(t *testing.T, sa *ikeSA, tokens ...[]byte) []byte {
	t.Helper()
	m := wire.Message{Header: wire.Header{
		InitiatorSPI: sa.localSPI, ResponderSPI: sa.remoteSPI, Major: 2, Exchange: wire.ExchangeInformational,
		Flags: wire.FlagResponse, MessageID: 77,
	}, Payloads: []wire.Payload{&wire.Notify{Kind: wire.NotifyInvalidIKESPI}}}
	for _, token := range tokens {
		m.Payloads = append(m.Payloads, &wire.Notify{Kind: wire.NotifyQuickCrashDetection, Data: token})
	}
	b, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestTokenAmongFour: a token counts from any address, with any message ID, and
// as one of four (RFC 6290, Sections 3 and 4.5).
func TestTokenAmongFour(t *testing.T) {
	w := pair(3, withTokens)
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.settle()
	sa := w.a.t.primary()
	other := make([]byte, tokenLen)
	b := clearMessage(t, sa, other, other, other, bytes.Clone(sa.tokens[0]))
	w.a.receive(Datagram{Local: w.a.cfg.Local, Remote: strangerAddr, Data: b})
	if sa.state != stateDead || len(w.a.in) != 0 {
		t.Errorf("the IKE SA is %s after its token was shown, %d inbound SAs are left", sa.state, len(w.a.in))
	}
	if len(w.flight) != 1 {
		t.Fatalf("%d messages, want the next attempt's first alone", len(w.flight))
	}
	w.settle()
	w.check(t)
}
