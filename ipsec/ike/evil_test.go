package ike

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// evil is a third party that sees the traffic of two ends and sends what it
// likes, from any address.
type evil struct {
	*world
	t    *testing.T
	seen []*packet
}

// newEvil returns a world that is up, after a rekeying of each kind, with every
// message recorded.
func newEvil(t *testing.T) *evil {
	e := &evil{world: pair(7, nil), t: t}
	e.trace = func(_ *world, p *packet) { e.seen = append(e.seen, p) }
	e.b.step(Connect{})
	e.a.step(Connect{})
	e.settle()
	for _, in := range []Input{RekeyChild{}, RekeyIKE{}} {
		e.a.step(in)
		e.settle()
		e.b.step(in)
		e.settle()
	}
	e.advance(time.Minute, e.settle)
	e.check(t)
	return e
}

// harmless has do attack, and wants both ends as they were.
func (e *evil) harmless(do func()) {
	e.t.Helper()
	before := e.a.state() + e.b.state()
	events := len(e.a.events) + len(e.b.events)
	do()
	e.flight = nil // whatever was provoked goes nowhere
	if after := e.a.state() + e.b.state(); after != before {
		e.t.Errorf("state changed from\n%s\nto\n%s", before, after)
	}
	if got := len(e.a.events) + len(e.b.events); got != events {
		e.t.Errorf("%d events: %v %v", got-events, e.a.events, e.b.events)
	}
	e.check(e.t)
}

var strangerAddr = netip.MustParseAddrPort("203.0.113.66:4500")

func (e *evil) inject(n *node, data []byte) {
	n.receive(Datagram{Local: n.cfg.Local, Remote: strangerAddr, Data: data})
}

func TestEvilReplay(t *testing.T) {
	e := newEvil(t)
	e.harmless(func() {
		for _, p := range e.seen {
			if h, _ := wire.ParseHeader(p.data); h.Exchange == wire.ExchangeIKESAInit && !h.IsResponse() {
				continue // begins a new half-open IKE SA, see TestEvilHalfOpen
			}
			e.inject(p.to, p.data)
			e.inject(p.from, p.data) // reflected
		}
	})
}

func TestEvilGarbage(t *testing.T) {
	e := newEvil(t)
	r := rand.New(rand.NewPCG(1, 2))
	e.harmless(func() {
		for range 3000 {
			p := e.seen[r.IntN(len(e.seen))]
			data := bytes.Clone(p.data)
			switch r.IntN(4) {
			case 0: // truncated
				data = data[:r.IntN(len(data)+1)]
			case 1: // longer
				data = append(data, byte(r.IntN(256)))
			case 2: // some octets changed
				for range 1 + r.IntN(4) {
					data[r.IntN(len(data))] ^= byte(1 + r.IntN(255))
				}
			case 3: // noise
				for i := range data {
					data[i] = byte(r.IntN(256))
				}
			}
			if h, err := wire.ParseHeader(data); err == nil && h.ResponderSPI.IsZero() {
				continue // begins a half-open IKE SA, see TestEvilHalfOpen
			}
			e.inject(p.to, data)
		}
	})
}

// TestEvilHeader tries every combination of exchange, flags and message ID
// around the expected ones on the SPIs of the established IKE SA, with a body that
// cannot be authentic and with cleartext payloads.
func TestEvilHeader(t *testing.T) {
	e := newEvil(t)
	kinds := []wire.NotifyType{
		wire.NotifyInvalidIKESPI, wire.NotifyAuthenticationFailed, wire.NotifyInvalidSyntax,
		wire.NotifyNoProposalChosen, wire.NotifyInvalidMajorVersion, wire.NotifyRedirect, wire.NotifyInitialContact,
	}
	e.harmless(func() {
		for _, n := range []*node{e.a, e.b} {
			sa := n.t.primary()
			for exchange := wire.ExchangeIKESAInit; exchange <= wire.ExchangeIKEFollowupKE; exchange++ {
				for flags := range 64 {
					for id := range uint32(12) {
						h := wire.Header{
							InitiatorSPI: sa.localSPI, ResponderSPI: sa.remoteSPI, Major: 2,
							Exchange: exchange, Flags: wire.Flags(flags), MessageID: id,
						}
						if !sa.initiator {
							h.InitiatorSPI, h.ResponderSPI = sa.remoteSPI, sa.localSPI
						}
						e.forge(n, h, []wire.Payload{&wire.Encrypted{FirstInner: wire.PayloadDelete, Body: make([]byte, 40)}})
						e.forge(n, h, []wire.Payload{&wire.Delete{Protocol: wire.ProtocolIKE}})
						e.forge(n, h, []wire.Payload{&wire.Notify{Kind: kinds[int(id)%len(kinds)]}})
						e.forge(n, h, nil)
					}
				}
			}
			n.t.primary().wantProbe = false
			n.t.primary().probeAt = time.Time{}
		}
		e.quiet()
	})
}

// quiet takes back the liveness checks that were provoked: they are allowed.
func (e *evil) quiet() {
	for range 3 {
		e.settle()
	}
}

func (e *evil) forge(n *node, h wire.Header, payloads []wire.Payload) {
	raw, err := (&wire.Message{Header: h, Payloads: payloads}).Append(nil)
	if err != nil {
		e.t.Fatal(err)
	}
	raw[19] = byte(h.Flags) // also those that are never sent
	e.inject(n, raw)
}

// TestEvilHint: an unauthenticated complaint causes one liveness check in ten
// seconds and nothing else (RFC 7296, Section 2.21.4).
func TestEvilHint(t *testing.T) {
	e := newEvil(t)
	sa := e.a.t.primary()
	sent := e.a.t.stats.Sent
	complain := func() {
		h := wire.Header{
			InitiatorSPI: sa.localSPI, ResponderSPI: sa.remoteSPI, Major: 2, Exchange: wire.ExchangeInformational,
			MessageID: sa.window.nextReceive,
		}
		if !sa.initiator {
			h.InitiatorSPI, h.ResponderSPI = sa.remoteSPI, sa.localSPI
			h.Flags = wire.FlagInitiator
		}
		e.forge(e.a, h, []wire.Payload{&wire.Notify{Kind: wire.NotifyInvalidIKESPI}})
		e.settle()
	}
	for range 100 {
		complain()
	}
	if got := e.a.t.stats.Sent - sent; got != 1 {
		t.Errorf("%d messages sent after 100 complaints, want 1", got)
	}
	e.advance(11*time.Second, e.settle)
	complain()
	if got := e.a.t.stats.Sent - sent; got != 2 {
		t.Errorf("%d messages sent after another complaint, want 2", got)
	}
	e.check(t)
}

// TestEvilInit forges answers to IKE_SA_INIT: each is a hint at most, and the
// true answer still counts.
func TestEvilInit(t *testing.T) {
	w := pair(3, nil)
	w.b.step(Connect{})
	w.a.step(Connect{})
	sa := w.a.t.sas[0]
	e := &evil{world: w, t: t}
	h := wire.Header{InitiatorSPI: sa.localSPI, Major: 2, Exchange: wire.ExchangeIKESAInit, Flags: wire.FlagResponse}
	full := h
	full.ResponderSPI = wire.SPI{1}
	for _, p := range [][]wire.Payload{
		{&wire.Notify{Kind: wire.NotifyNoProposalChosen}},
		{&wire.Notify{Kind: wire.NotifyAuthenticationFailed}},
		{&wire.Notify{Kind: wire.NotifyInvalidKEPayload, Data: []byte{0, 2}}},  // MODP 1024 was not offered
		{&wire.Notify{Kind: wire.NotifyInvalidKEPayload, Data: []byte{0, 31}}}, // what was sent already
		{&wire.Notify{Kind: wire.NotifyInvalidKEPayload, Data: []byte{31}}},
		{&wire.Notify{Kind: wire.NotifyCookie, Data: make([]byte, 65)}},
		{&wire.Notify{Kind: wire.NotifyRedirect, Data: []byte{1, 4, 1, 2, 3, 4}}},
		nil,
	} {
		e.forge(w.a, h, p)
		e.forge(w.a, full, p)
	}
	weak := &wire.SA{Proposals: []wire.Proposal{{Number: 1, Protocol: wire.ProtocolIKE, Transforms: []wire.Transform{
		{Type: wire.TransformEncryption, ID: uint16(wire.Encryption3DES)},
		{Type: wire.TransformPRF, ID: uint16(wire.PRFHMACMD5)},
		{Type: wire.TransformKeyExchange, ID: uint16(wire.KeyExchangeCurve25519)},
	}}}}
	good := &wire.SA{Proposals: []wire.Proposal{{Number: 1, Protocol: wire.ProtocolIKE, Transforms: []wire.Transform{
		{Type: wire.TransformEncryption, ID: uint16(wire.EncryptionAESGCM16), KeyLength: 128},
		{Type: wire.TransformPRF, ID: uint16(wire.PRFHMACSHA256)},
		{Type: wire.TransformKeyExchange, ID: uint16(wire.KeyExchangeCurve25519)},
	}}}}
	ke := &wire.KE{Group: wire.KeyExchangeCurve25519, Data: make([]byte, 32)}
	nonce := &wire.Nonce{Data: make([]byte, 32)}
	e.forge(w.a, full, []wire.Payload{weak, ke, nonce})                                   // not offered
	e.forge(w.a, h, []wire.Payload{good, ke, nonce})                                      // no SPI
	e.forge(w.a, full, []wire.Payload{good, ke, &wire.Nonce{Data: sa.init.ni}})           // our nonce
	e.forge(w.a, full, []wire.Payload{good, &wire.KE{Group: 19, Data: []byte{1}}, nonce}) // another group
	w.settle()
	w.check(t)
}

// TestEvilHalfOpen: whoever completes IKE_SA_INIT but is not the peer gets
// AUTHENTICATION_FAILED and disturbs nothing, and before IKE_AUTH nothing but
// IKE_AUTH is heard.
func TestEvilHalfOpen(t *testing.T) {
	e := newEvil(t)
	impostor := pair(99, func(a, _ *Config) { a.Credentials.PSK, a.Peer.PSK = []byte("guess"), []byte("guess") })
	impostor.now = e.now
	m := impostor.a
	e.harmless(func() {
		for range 20 {
			m.restart()
			m.step(Connect{})
			for range 10 {
				flight := impostor.flight
				impostor.flight = nil
				for _, p := range flight {
					e.inject(e.b, p.data)
				}
				replies := e.flight
				e.flight = nil
				for _, p := range replies {
					m.receive(Datagram{Local: m.cfg.Local, Remote: m.cfg.Remote, Data: p.data})
				}
			}
			if m.t.primary() != nil {
				t.Fatal("the impostor is in")
			}
		}
		e.b.events = e.b.events[:len(e.b.events)-20]
		e.advance(time.Minute, e.settle)
	})
}

// TestEvilPeer has an authenticated peer break the rules: requests with missing
// payloads are refused, none panics, and SAs that it does not own stay.
func TestEvilPeer(t *testing.T) {
	deletes := func(spis ...uint32) *wire.Delete {
		d := &wire.Delete{Protocol: wire.ProtocolESP}
		for _, s := range spis {
			d.SPIs = append(d.SPIs, put32(s))
		}
		return d
	}
	notify := func(kind wire.NotifyType, spi []byte) *wire.Notify {
		return &wire.Notify{Protocol: wire.ProtocolESP, SPI: spi, Kind: kind}
	}
	ke := &wire.KE{Group: wire.KeyExchangeCurve25519, Data: make([]byte, 32)} // the point of order one
	nonce := &wire.Nonce{Data: make([]byte, 32)}
	esp := &wire.SA{Proposals: suite.OfferESP(mustESP("aes128gcm16-x25519-esn"), []byte{0, 0, 9, 9})}
	ike := &wire.SA{Proposals: suite.OfferIKE(mustIKE("aes128gcm16-prfsha256-x25519"), []byte("12345678"))}
	ikeZero := &wire.SA{Proposals: suite.OfferIKE(mustIKE("aes128gcm16-prfsha256-x25519"), make([]byte, 8))}
	tsi := &wire.TS{Initiator: true, Selectors: []wire.TrafficSelector{{
		Kind: wire.TSIPv4Range, EndPort: 65535,
		First: netip.MustParseAddr("172.16.0.0"), Last: netip.MustParseAddr("172.16.255.255"),
	}}}
	tsr := &wire.TS{Selectors: tsi.Selectors}
	tests := []struct {
		name     string
		exchange wire.ExchangeType
		payloads []wire.Payload
		want     string // the answer
		fatal    bool
	}{
		{"unknown child SPIs", wire.ExchangeInformational, []wire.Payload{deletes(1, 2, 3, 1)}, "{}", false},
		{"many deletes", wire.ExchangeInformational, []wire.Payload{deletes(5), deletes(5), deletes(5)}, "{}", false},
		{"status only", wire.ExchangeInformational, []wire.Payload{&wire.Notify{Kind: wire.NotifyInitialContact}}, "{}", false},
		{"rekey of nothing", wire.ExchangeCreateChildSA, []wire.Payload{notify(wire.NotifyRekeySA, []byte{0, 0, 0, 9}), esp, nonce, ke, tsi, tsr}, "{N(CHILD_SA_NOT_FOUND)}", false},
		{"rekey without SPI", wire.ExchangeCreateChildSA, []wire.Payload{&wire.Notify{Kind: wire.NotifyRekeySA}, esp, nonce, ke, tsi, tsr}, "{N(CHILD_SA_NOT_FOUND)}", false},
		{"foreign selectors", wire.ExchangeCreateChildSA, []wire.Payload{esp, nonce, ke, tsi, tsr}, "{N(TS_UNACCEPTABLE)}", false},
		{"IKE rekey with bad public value", wire.ExchangeCreateChildSA, []wire.Payload{ike, nonce, ke}, "{N(INVALID_SYNTAX)}", true},
		{"IKE rekey with zero SPI", wire.ExchangeCreateChildSA, []wire.Payload{ikeZero, nonce, ke}, "{N(NO_PROPOSAL_CHOSEN)}", false},
		{"no nonce", wire.ExchangeCreateChildSA, []wire.Payload{esp, ke, tsi, tsr}, "{N(INVALID_SYNTAX)}", true},
		{"ESP without selectors", wire.ExchangeCreateChildSA, []wire.Payload{esp, nonce, ke}, "{N(INVALID_SYNTAX)}", true},
		{"AUTH again", wire.ExchangeInformational, []wire.Payload{&wire.Auth{Method: wire.AuthSharedKey, Data: []byte{1}}}, "{N(INVALID_SYNTAX)}", true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := newEvil(t)
			sa := e.b.t.primary()
			datagrams, err := sa.protect(wire.Header{Exchange: test.exchange, MessageID: sa.window.nextSend}, test.payloads)
			if err != nil {
				t.Fatal(err)
			}
			e.a.receive(Datagram{Local: e.a.cfg.Local, Remote: e.b.cfg.Local, Data: datagrams[0]})
			if len(e.flight) != 1 {
				t.Fatalf("%d answers", len(e.flight))
			}
			if got := e.render(e.flight[0].data); !bytes.HasSuffix([]byte(got), []byte(test.want)) {
				t.Errorf("answer %s, want %s", got, test.want)
			}
			if up := e.a.t.primary() != nil; up == test.fatal {
				t.Errorf("IKE SA up: %v, fatal: %v", up, test.fatal)
			}
			if in := len(e.a.in); in != 1 && !test.fatal {
				t.Errorf("%d inbound SAs, want 1", in)
			}
		})
	}
}

// TestEvilLateResults: answers with unknown tokens are ignored, and so are jobs
// that end after their IKE SA.
func TestEvilLateResults(t *testing.T) {
	e := newEvil(t)
	e.harmless(func() {
		for token := range Token(200) {
			e.a.step(JobDone{Token: token, Result: JobResult{value: 7}})
			e.a.step(PlaneResult{Token: token})
		}
	})
	w := pair(1, nil)
	w.a.dropJobs = true
	w.a.step(Connect{})
	waiting := w.a.t.waits[len(w.a.t.waits)-1].token
	w.a.step(Disconnect{})
	w.a.step(JobDone{Token: waiting})
	if len(w.flight) != 0 || len(w.a.t.sas) != 0 {
		t.Errorf("a late result was used")
	}
}

func TestCookieSecret(t *testing.T) {
	w := pair(1, nil)
	now := w.now
	c, err := NewCookieSecret(now, w.a)
	if err != nil {
		t.Fatal(err)
	}
	addr, spi, nonce := netip.MustParseAddr("192.0.2.9"), wire.SPI{1}, make([]byte, 16)
	cookie, _ := c.Make(now, addr, spi, nonce)
	if len(cookie) == 0 || len(cookie) > 64 {
		t.Fatalf("cookie of %d octets", len(cookie))
	}
	tests := []struct {
		name  string
		after time.Duration
		addr  netip.Addr
		spi   wire.SPI
		nonce []byte
		want  bool
	}{
		{"same", 0, addr, spi, nonce, true},
		{"mapped address", 0, netip.AddrFrom16(addr.As16()), spi, nonce, true},
		{"other address", 0, addr.Next(), spi, nonce, false},
		{"other SPI", 0, addr, wire.SPI{2}, nonce, false},
		{"other nonce", 0, addr, spi, append([]byte{1}, nonce[1:]...), false},
		{"next secret", cookieLife + time.Second, addr, spi, nonce, true},
		{"after two secrets", 2*cookieLife + 2*time.Second, addr, spi, nonce, false},
	}
	for _, test := range tests {
		if got := c.Check(now.Add(test.after), cookie, test.addr, test.spi, test.nonce); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
	if c.Check(now, nil, addr, spi, nonce) || c.Check(now, binary.BigEndian.AppendUint32(nil, c.version), addr, spi, nonce) {
		t.Error("a truncated cookie is accepted")
	}
}

// TestEvilAuthenticGarbage has the authenticated peer send requests of which
// some octets are wrong, and answers likewise: none panics, memory stays bounded, and
// the ends find together again.
func TestEvilAuthenticGarbage(t *testing.T) {
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := pair(seed, func(a, b *Config) { a.Timing.DPD, b.Timing.DPD = 10*time.Second, 10*time.Second })
		w.b.step(Connect{})
		w.a.step(Connect{})
		w.settle()
		request := []Input{RekeyChild{}, RekeyIKE{}, Disconnect{}}[r.IntN(3)]
		w.b.step(request)
		if r.IntN(2) == 0 {
			w.deliver(w.take(0)) // spoil the answer instead
		}
		p := w.take(0)
		p.data = spoil(t, w, p, r)
		w.deliver(p)
		w.settle()
		if request != Input(Disconnect{}) {
			w.b.step(RekeyChild{}) // still alive, if only to notice that it is not
			w.advance(5*time.Minute, w.settle)
			w.broken = nil // a spoilt nonce makes keys that differ, for a while
			w.check(t)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// spoil decrypts a message, changes some octets of its payloads, and encrypts it
// again as its sender would.
func spoil(t *testing.T, w *world, p *packet, r *rand.Rand) []byte {
	m, err := wire.Parse(p.data)
	if err != nil {
		t.Fatal(err)
	}
	payloads, note := w.peek(m, m.Payloads[0].(*wire.Encrypted).FirstInner)
	if note != "" {
		return p.data // the answer to a Delete: the keys are gone
	}
	first, plain, err := wire.AppendPayloads(nil, payloads)
	if err != nil {
		t.Fatal(err)
	}
	for range 1 + r.IntN(4) {
		if len(plain) > 0 {
			plain[r.IntN(len(plain))] ^= byte(1 + r.IntN(255))
		}
	}
	for _, sa := range p.from.t.sas {
		if sa.sealer == nil || sa.localSPI != m.InitiatorSPI && sa.localSPI != m.ResponderSPI {
			continue
		}
		b, err := m.Header.AppendEncrypted(nil, first, sa.sealer.SealedLen(len(plain)))
		if err != nil {
			t.Fatal(err)
		}
		return sa.sealer.Seal(b, b, plain)
	}
	return p.data
}

// TestEvilRekeying has an authenticated peer rekey without ever deleting what it
// replaced: what that costs us is bounded, and when it stops all is well again.
func TestEvilRekeying(t *testing.T) {
	for name, request := range map[string]Input{"IKE SA": RekeyIKE{}, "Child SA": RekeyChild{}} {
		t.Run(name, func(t *testing.T) {
			w := pair(1, nil)
			w.b.step(Connect{})
			w.a.step(Connect{})
			w.settle()
			for range 60 {
				w.b.step(request)
				for len(w.flight) > 0 {
					p := w.take(0)
					if h, _ := wire.ParseHeader(p.data); h.Exchange == wire.ExchangeCreateChildSA {
						w.deliver(p)
					}
				}
				// The Delete is not sent, so the next request may be.
				for _, sa := range w.b.t.sas {
					sa.window.nextSend -= min(1, uint32(len(pending(sa))))
					sa.window.outstanding, sa.active = nil, nil
				}
			}
			if n := len(w.a.t.sas); n > 2*maxReplaced {
				t.Errorf("%d IKE SAs are kept", n)
			}
			if n := len(w.a.t.children); n > 16 {
				t.Errorf("%d Child SAs are kept", n)
			}
			w.advance(10*time.Minute, w.settle)
			w.check(t)
		})
	}
}

func pending(sa *ikeSA) [][]byte {
	if sa.window.outstanding == nil {
		return nil
	}
	return sa.window.outstanding.datagrams[:1]
}

// TestInitAnswerIsNoAmplifier: whoever forges a source address gets nothing sent
// there for a malformed request, and for a good one hardly more than it costs.
func TestInitAnswerIsNoAmplifier(t *testing.T) {
	for name, change := range map[string]func(a, b *Config){"PSK": nil, "certificates": withCertificates(newAuthority("CA", newEd25519))} {
		t.Run(name, func(t *testing.T) {
			w := pair(1, change)
			w.b.step(Connect{})
			w.a.step(Connect{})
			request := w.take(0).data
			e := &evil{world: w, t: t}
			for cut := range request {
				e.inject(w.b, request[:cut])
				short := bytes.Clone(request[:cut])
				if cut >= wire.HeaderLen {
					binary.BigEndian.PutUint32(short[24:], uint32(cut))
					e.inject(w.b, short)
				}
			}
			if len(w.flight) != 0 {
				t.Fatalf("%d answers to malformed requests", len(w.flight))
			}
			e.inject(w.b, request)
			if len(w.flight) != 1 {
				t.Fatalf("%d answers, want 1", len(w.flight))
			}
			if answer := w.flight[0].data; 4*len(answer) > 5*len(request) {
				t.Errorf("answer of %d octets to a request of %d", len(answer), len(request))
			}
		})
	}
}
