package ike

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

func hmac256(key []byte, parts ...[]byte) []byte {
	mac := hmac.New(sha256.New, key)
	for _, p := range parts {
		mac.Write(p)
	}
	return mac.Sum(nil)
}

// wholeMessage opens the datagrams of one message and returns its first payload
// type and its plain text.
func wholeMessage(t *testing.T, sa *ikeSA, keys *suite.IKEKeys, datagrams []*packet) (first wire.PayloadType, plain []byte) {
	t.Helper()
	for i, p := range datagrams {
		m, err := wire.Parse(p.data)
		if err != nil {
			t.Fatal(err)
		}
		ek, ak := keys.Ei, keys.Ai
		if !m.FromInitiator() {
			ek, ak = keys.Er, keys.Ar
		}
		opener, err := suite.NewProtector(sa.suite, ek, ak)
		if err != nil {
			t.Fatal(err)
		}
		header, body, _ := m.Protected()
		if plain, err = opener.Open(plain, header, body); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			switch p := m.Payloads[0].(type) {
			case *wire.Encrypted:
				first = p.FirstInner
			case *wire.EncryptedFragment:
				first = p.FirstInner
			}
		}
	}
	return first, plain
}

// TestIntAuth computes IntAuth of RFC 9242, Section 3.3.2, from the datagrams and
// the keys of each generation, octet by octet, and with it AUTH of both ends.
func TestIntAuth(t *testing.T) {
	for _, methods := range []string{"ke1_ecp256", "ke1_mlkem768-ke2_ecp256", "ke2_mlkem1024-ke3_mlkem768-ke7_ecp384"} {
		t.Run(methods, func(t *testing.T) {
			w := pair(1, func(a, b *Config) {
				a.Proposals = mustIKE("aes128gcm16-prfsha256-x25519-" + methods)
				b.Proposals = a.Proposals
			})
			w.b.step(Connect{})
			w.a.step(Connect{})
			request := w.take(0)
			w.deliver(request)
			response := w.take(0)
			w.deliver(response)
			var chain [2][]byte
			exchanges := uint32(0)
			for {
				h, err := wire.ParseHeader(w.flight[0].data)
				if err != nil {
					t.Fatal(err)
				}
				if h.Exchange != wire.ExchangeIKEIntermediate {
					break
				}
				sa := w.a.t.sas[len(w.a.t.sas)-1] // still with the keys of this exchange
				keys := cloneKeys(sa.keys)
				spii, spir := sa.localSPI, sa.remoteSPI
				for side, p := range [][]byte{keys.Pi, keys.Pr} {
					datagrams := w.flight
					w.flight = nil
					first, plain := wholeMessage(t, sa, keys, datagrams)
					flags := []byte{0x08, 0x20}[side]
					octets := slices.Concat(spii[:], spir[:], []byte{46, 0x20, 43, flags})
					octets = binary.BigEndian.AppendUint32(octets, exchanges+1)
					octets = binary.BigEndian.AppendUint32(octets, uint32(28+4+len(plain)))
					octets = append(octets, byte(first), 0)
					octets = binary.BigEndian.AppendUint16(octets, uint16(4+len(plain)))
					chain[side] = hmac256(p, chain[side], octets, plain)
					slices.Reverse(datagrams) // in any order
					for _, d := range datagrams {
						w.deliver(d)
					}
				}
				exchanges++
			}
			want := slices.Concat(chain[0], chain[1], binary.BigEndian.AppendUint32(nil, exchanges+1))
			sa := w.a.t.sas[len(w.a.t.sas)-1]
			if got := sa.init.intAuth(); !bytes.Equal(got, want) {
				t.Fatalf("IntAuth is %x, want %x", got, want)
			}
			wantAuth(t, w, sa, request.data, response.data, want)
			w.settle()
			w.check(t)
		})
	}
}

// wantAuth holds that the AUTH payloads of both ends are those of RFC 7296,
// Section 2.15, with intAuth at the end of what is signed.
func wantAuth(t *testing.T, w *world, sa *ikeSA, request, response, intAuth []byte) {
	t.Helper()
	keys, ni, nr := cloneKeys(sa.keys), bytes.Clone(sa.init.ni), bytes.Clone(sa.init.nr)
	padded := hmac256(w.a.cfg.Credentials.PSK, []byte("Key Pad for IKEv2"))
	for _, end := range []struct {
		message, nonce, skP []byte
		initiator           bool
	}{{request, nr, keys.Pi, true}, {response, ni, keys.Pr, false}} {
		datagrams := w.flight
		w.flight = nil
		first, plain := wholeMessage(t, sa, keys, datagrams)
		payloads, err := wire.ParsePayloads(first, plain)
		if err != nil {
			t.Fatal(err)
		}
		m := &message{payloads: payloads}
		want := hmac256(padded, end.message, end.nonce, hmac256(end.skP, m.id(end.initiator).Body()), intAuth)
		if got := find[*wire.Auth](m).Data; !bytes.Equal(got, want) {
			t.Errorf("AUTH of initiator %v is %x, want %x", end.initiator, got, want)
		}
		for _, d := range datagrams {
			w.deliver(d)
		}
	}
}

// TestReceivedOctets holds which octets of a received message count: the reserved
// bits as they came, and what stands in the clear before the Encrypted payload.
func TestReceivedOctets(t *testing.T) {
	header := slices.Concat(bytes.Repeat([]byte{1}, 16), []byte{43, 0x2f, 43, 0xff}, []byte{0, 0, 0, 5}, []byte{9, 9, 9, 9})
	vendor := []byte{53, 0x7f, 0, 6, 0xaa, 0xbb}
	fragment := []byte{34, 0x55, 7, 7}
	plain := []byte("payloads")
	got := receivedOctets(slices.Concat(header, vendor, fragment), plain)
	want := slices.Concat(bytes.Repeat([]byte{1}, 16), []byte{43, 0x2f, 43, 0xff}, []byte{0, 0, 0, 5}, []byte{0, 0, 0, 28 + 6 + 4 + 8},
		[]byte{46, 0x7f, 0, 6, 0xaa, 0xbb}, []byte{34, 0x55, 0, 12}, plain)
	if !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
}

// impostor is somebody between two ends who has broken the first key exchange: it
// has the keys that come from it.
func impostor(w *world, keys *suite.IKEKeys) *ikeSA {
	half := w.b.halves[0].sa
	twin := &ikeSA{m: half.m, initiator: true, localSPI: half.remoteSPI, remoteSPI: half.localSPI, protection: protection{suite: half.suite, fragment: true}}
	twin.remote = half.remote
	if err := twin.useKeys(cloneKeys(keys)); err != nil {
		panic(err)
	}
	return twin
}

// halfway is a handshake with two additional key exchanges, both ends with the
// keys of IKE_SA_INIT, the first request in flight.
func halfway(seed uint64) *world {
	w := pair(seed, func(a, b *Config) {
		a.Proposals = mustIKE("aes128gcm16-prfsha256-x25519-ke1_ecp256-ke2_mlkem768")
		b.Proposals = a.Proposals
	})
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.deliver(w.take(0))
	w.deliver(w.take(0))
	return w
}

// TestEvilIntAuth: whoever has broken the first key exchange, and so can change
// IKE_INTERMEDIATE, is found out by AUTH even if the keys agree after it (RFC
// 9242, Section 5).
func TestEvilIntAuth(t *testing.T) {
	for name, direction := range map[string]string{"request": "a>b", "response": "b>a"} {
		t.Run(name, func(t *testing.T) {
			w := halfway(1)
			keys := w.a.t.sas[len(w.a.t.sas)-1].keys
			twin := impostor(w, keys)
			if direction == "b>a" {
				w.deliver(w.take(0))
				twin.initiator, twin.localSPI, twin.remoteSPI = false, twin.remoteSPI, twin.localSPI
				twin.sealer, twin.opener = twin.opener, twin.sealer
			}
			p := w.take(0)
			m, err := wire.Parse(p.data)
			if err != nil {
				t.Fatal(err)
			}
			payloads, _ := w.peek(m, m.Payloads[0].(*wire.Encrypted).FirstInner)
			payloads = append(payloads, &wire.VendorID{Data: []byte("nothing to see here")})
			h := wire.Header{Exchange: m.Exchange, MessageID: m.MessageID, Flags: m.Flags & wire.FlagResponse}
			changed, err := twin.protect(h, payloads)
			if err != nil {
				t.Fatal(err)
			}
			p.data = changed[0]
			w.deliver(p)
			w.settle()
			if w.a.t.primary() != nil || w.b.t.primary() != nil {
				t.Fatalf("an IKE SA is up although IKE_INTERMEDIATE was changed:\n%s%s", w.a.state(), w.b.state())
			}
			if !slices.ContainsFunc(w.b.events, func(s string) bool { return bytes.Contains([]byte(s), []byte("AUTHENTICATION_FAILED")) }) {
				t.Errorf("events %v, want AUTHENTICATION_FAILED", w.b.events)
			}
		})
	}
}

// TestEvilDowngrade: an attacker takes the additional key exchange away, by the
// offer or by the capability, and repairs the answer. AUTH covers both messages
// (RFC 7296, Section 2.15).
func TestEvilDowngrade(t *testing.T) {
	drop := func(kind wire.NotifyType) func(m *wire.Message) {
		return func(m *wire.Message) {
			m.Payloads = slices.DeleteFunc(m.Payloads, func(p wire.Payload) bool {
				n, ok := p.(*wire.Notify)
				return ok && n.Kind == kind
			})
		}
	}
	number := func(n uint8) func(m *wire.Message) {
		return func(m *wire.Message) { find[*wire.SA](&message{payloads: m.Payloads}).Proposals[0].Number = n }
	}
	for name, attack := range map[string]struct{ request, response func(m *wire.Message) }{
		"offer": {func(m *wire.Message) {
			sa := find[*wire.SA](&message{payloads: m.Payloads})
			sa.Proposals = sa.Proposals[1:]
			sa.Proposals[0].Number = 1
		}, number(2)},
		"capability": {drop(wire.NotifyIntermediateExchangeSupported), func(*wire.Message) {}},
	} {
		t.Run(name, func(t *testing.T) {
			w := pair(1, func(a, b *Config) {
				a.Proposals = mustIKE("aes128gcm16-prfsha256-x25519-ke1_mlkem768", "aes128gcm16-prfsha256-x25519")
				b.Proposals = a.Proposals
			})
			w.b.step(Connect{})
			w.a.step(Connect{})
			for _, change := range []func(*wire.Message){attack.request, attack.response} {
				p := w.take(0)
				m, err := wire.Parse(p.data)
				if err != nil {
					t.Fatal(err)
				}
				change(m)
				if p.data, err = m.Append(nil); err != nil {
					t.Fatal(err)
				}
				w.deliver(p)
			}
			if h, _ := wire.ParseHeader(w.flight[0].data); h.Exchange != wire.ExchangeIKEAuth {
				t.Fatalf("the attack does not get as far as IKE_AUTH: %s", w.render(w.flight[0].data))
			}
			w.deliver(w.take(0))
			w.deliver(w.take(0))
			if w.a.t.primary() != nil || w.b.t.primary() != nil {
				t.Errorf("the downgrade succeeds:\n%s%s", w.a.state(), w.b.state())
			}
		})
	}
}

// TestEvilIntermediate: an initiator that has the keys of IKE_SA_INIT, because
// anybody may have them, breaks the rules of what follows. It is forgotten, or not
// heard at all.
func TestEvilIntermediate(t *testing.T) {
	ecp, err := suite.NewKeyExchange(wire.KeyExchangeECP256, pair(1, nil).a)
	if err != nil {
		t.Fatal(err)
	}
	good := &wire.KE{Group: wire.KeyExchangeECP256, Data: ecp.Public()}
	ignored, refused := "", "IKE_INTERMEDIATE resp 1 {N(INVALID_SYNTAX)}"
	for name, test := range map[string]struct {
		exchange wire.ExchangeType
		id       uint32
		payloads []wire.Payload
		want     string
	}{
		"no key exchange":        {wire.ExchangeIKEIntermediate, 1, nil, refused},
		"the second one first":   {wire.ExchangeIKEIntermediate, 1, []wire.Payload{&wire.KE{Group: wire.KeyExchangeMLKEM768, Data: make([]byte, 1184)}}, refused},
		"the first one again":    {wire.ExchangeIKEIntermediate, 1, []wire.Payload{&wire.KE{Group: wire.KeyExchangeCurve25519, Data: make([]byte, 32)}}, refused},
		"not on the curve":       {wire.ExchangeIKEIntermediate, 1, []wire.Payload{&wire.KE{Group: wire.KeyExchangeECP256, Data: make([]byte, 64)}}, refused},
		"short public value":     {wire.ExchangeIKEIntermediate, 1, []wire.Payload{&wire.KE{Group: wire.KeyExchangeECP256, Data: ecp.Public()[1:]}}, refused},
		"a foreign payload":      {wire.ExchangeIKEIntermediate, 1, []wire.Payload{good, &wire.Delete{Protocol: wire.ProtocolIKE}}, refused},
		"skips a message ID":     {wire.ExchangeIKEIntermediate, 2, []wire.Payload{good}, ignored},
		"repeats a message ID":   {wire.ExchangeIKEIntermediate, 0, []wire.Payload{good}, ignored},
		"IKE_AUTH is too early":  {wire.ExchangeIKEAuth, 1, []wire.Payload{good}, ignored},
		"CREATE_CHILD_SA":        {wire.ExchangeCreateChildSA, 1, []wire.Payload{good}, ignored},
		"IKE_FOLLOWUP_KE":        {wire.ExchangeIKEFollowupKE, 1, []wire.Payload{good}, ignored},
		"INFORMATIONAL":          {wire.ExchangeInformational, 1, []wire.Payload{&wire.Delete{Protocol: wire.ProtocolIKE}}, ignored},
		"unasked for PPK proofs": {wire.ExchangeIKEIntermediate, 1, []wire.Payload{&wire.Notify{Kind: wire.NotifyPPKIdentityKey, Data: []byte{2}}}, refused},
	} {
		t.Run(name, func(t *testing.T) {
			w := halfway(3)
			half := w.b.halves[0].sa
			twin := impostor(w, half.keys)
			datagrams, err := twin.protect(wire.Header{Exchange: test.exchange, MessageID: test.id}, test.payloads)
			if err != nil {
				t.Fatal(err)
			}
			flight := w.flight
			w.flight = nil
			for _, d := range datagrams {
				(&evil{world: w, t: t}).inject(w.b, d)
			}
			got := ""
			if len(w.flight) > 0 {
				got = w.render(w.flight[0].data)
			}
			if test.want == ignored {
				if got != "" || half.state != stateIntermediate {
					t.Fatalf("answer %q, state %s: want it ignored", got, half.state)
				}
				w.flight = flight
				w.settle()
				w.check(t)
				return
			}
			// Its keys are gone, so the answer can only be told by those kept here.
			if len(w.flight) != 1 || half.state != stateDead {
				t.Fatalf("%d answers, state %s: want one refusal and the end", len(w.flight), half.state)
			}
			m, err := wire.Parse(w.flight[0].data)
			if err != nil {
				t.Fatal(err)
			}
			header, body, _ := m.Protected()
			plain, err := twin.opener.Open(nil, header, body)
			if err != nil {
				t.Fatal(err)
			}
			payloads, err := wire.ParsePayloads(m.Payloads[0].(*wire.Encrypted).FirstInner, plain)
			if err != nil || len(payloads) != 1 || payloads[0].(*wire.Notify).Kind != wire.NotifyInvalidSyntax {
				t.Errorf("answer %v, %v, want INVALID_SYNTAX", payloads, err)
			}
		})
	}
}

// TestEvilFollowup has an authenticated peer break the rules of IKE_FOLLOWUP_KE.
func TestEvilFollowup(t *testing.T) {
	link := func(b ...byte) *wire.Notify {
		return &wire.Notify{Kind: wire.NotifyAdditionalKeyExchange, Data: b}
	}
	ecp := &wire.KE{Group: wire.KeyExchangeECP256, Data: make([]byte, 64)} // not on the curve
	first := link(0, 0, 0, 1)
	for name, test := range map[string]struct {
		payloads []wire.Payload
		want     string
		fatal    bool
	}{
		"unknown link":       {[]wire.Payload{ecp, link(0, 0, 0, 9)}, "{N(STATE_NOT_FOUND)}", false},
		"empty link":         {[]wire.Payload{ecp, link()}, "{N(STATE_NOT_FOUND)}", false},
		"longer link":        {[]wire.Payload{ecp, link(0, 0, 0, 1, 0)}, "{N(STATE_NOT_FOUND)}", false},
		"no link":            {[]wire.Payload{ecp, &wire.Notify{Kind: wire.NotifyInitialContact}}, "{N(INVALID_SYNTAX)}", true},
		"no key exchange":    {[]wire.Payload{first}, "{N(INVALID_SYNTAX)}", true},
		"another method":     {[]wire.Payload{&wire.KE{Group: wire.KeyExchangeECP384, Data: make([]byte, 96)}, first}, "{N(NO_PROPOSAL_CHOSEN)}", false},
		"bad public value":   {[]wire.Payload{ecp, first}, "{N(INVALID_SYNTAX)}", true},
		"nothing but a name": {nil, "{N(INVALID_SYNTAX)}", true},
	} {
		t.Run(name, func(t *testing.T) {
			w := pair(1, func(a, b *Config) {
				a.Children[0].Proposals = mustESP("aes128gcm16-x25519-ke1_ecp256-esn")
				b.Children[0].Proposals = a.Children[0].Proposals
			})
			w.b.step(Connect{})
			w.a.step(Connect{})
			w.settle()
			w.b.step(RekeyChild{})
			w.deliver(w.take(0))
			if len(w.a.t.primary().series) != 1 || len(w.a.reserved) != 2 {
				t.Fatalf("%d series, %d SPIs", len(w.a.t.primary().series), len(w.a.reserved))
			}
			w.flight = nil
			sa := w.b.t.primary()
			datagrams, err := sa.protect(wire.Header{Exchange: wire.ExchangeIKEFollowupKE, MessageID: sa.window.nextSend}, test.payloads)
			if err != nil {
				t.Fatal(err)
			}
			w.a.receive(Datagram{Local: w.a.cfg.Local, Remote: w.b.cfg.Local, Data: datagrams[0]})
			if len(w.flight) != 1 {
				t.Fatalf("%d answers", len(w.flight))
			}
			if got := w.render(w.flight[0].data); !bytes.HasSuffix([]byte(got), []byte(test.want)) {
				t.Errorf("answer %s, want %s", got, test.want)
			}
			if up := w.a.t.primary() != nil; up == test.fatal {
				t.Fatalf("IKE SA up: %v, fatal: %v", up, test.fatal)
			}
			if !test.fatal {
				w.flight = nil
				w.advance(followupTime, nil)
				if n, spis := len(w.a.t.primary().series), len(w.a.reserved); n != 0 || spis != 1 {
					t.Errorf("%d series and %d SPIs are left after the timeout, want 0 and 1", n, spis)
				}
			}
		})
	}
}

// TestSeriesIsBounded: a peer that begins one series after the other is given room
// for a few, and the SPIs of those before are given back.
func TestSeriesIsBounded(t *testing.T) {
	w := pair(1, func(a, b *Config) {
		a.Children[0].Proposals = mustESP("aes128gcm16-x25519-ke1_ecp256-esn")
		b.Children[0].Proposals = a.Children[0].Proposals
	})
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.settle()
	sa := w.b.t.primary()
	for i := range uint32(30) {
		ke, err := suite.NewKeyExchange(wire.KeyExchangeCurve25519, w.b)
		if err != nil {
			t.Fatal(err)
		}
		cfg := w.b.cfg.Children[0]
		payloads := childPayloads(cfg.Proposals, 0x9000+i, w.b.nonce(), ke, cfg.LocalTS, cfg.RemoteTS, &cfg)
		datagrams, err := sa.protect(wire.Header{Exchange: wire.ExchangeCreateChildSA, MessageID: sa.window.nextSend + i}, payloads)
		if err != nil {
			t.Fatal(err)
		}
		w.a.receive(Datagram{Local: w.a.cfg.Local, Remote: w.b.cfg.Local, Data: datagrams[0]})
	}
	if n := len(w.a.t.primary().series); n != maxPeerSeries {
		t.Errorf("%d series are kept, want %d", n, maxPeerSeries)
	}
	if n := len(w.a.reserved); n != 1+maxPeerSeries {
		t.Errorf("%d SPIs are reserved, want %d", n, 1+maxPeerSeries)
	}
}

// TestSeriesSecretsAreZeroed holds that the shared secrets of key exchanges that
// come to nothing do not stay in memory.
func TestSeriesSecretsAreZeroed(t *testing.T) {
	w := pair(1, func(a, b *Config) {
		a.Children[0].Proposals = mustESP("aes128gcm16-x25519-ke1_ecp256-esn")
		b.Children[0].Proposals = a.Children[0].Proposals
	})
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.settle()
	w.a.step(RekeyChild{})
	w.deliver(w.take(0))
	w.deliver(w.take(0))
	ours := w.a.t.children[0].rekey.x.series.secrets
	theirs := w.b.t.primary().series[0].secrets
	if !bytes.Equal(ours[0], theirs[0]) {
		t.Fatalf("the ends have different secrets: %x and %x", ours, theirs)
	}
	w.a.step(Disconnect{})
	w.a.t.ikeDown(w.a.t.sas[0], ReasonPeerDead)
	w.b.t.ikeDown(w.b.t.primary(), ReasonPeerDead)
	wantZero(t, "secrets of a series", ours[0], theirs[0])
}
