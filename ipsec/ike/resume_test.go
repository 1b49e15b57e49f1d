package ike

import (
	"bytes"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

func testSession(expires time.Time) *session {
	s := &session{
		skD: bytes.Repeat([]byte{7}, 32), idi: mustID("a.example"), idr: mustID("b.example"),
		spii: wire.SPI{1}, spir: wire.SPI{2}, tunnel: TagOf("t"), method: "psk", ppk: "key", psk: bytes.Repeat([]byte{9}, 32),
		proved: epoch.Add(-time.Minute), expires: expires,
	}
	s.suite = suite.IKESuite{Encryption: wire.EncryptionAESGCM16, KeyBits: 256, PRF: suite.PRF(wire.PRFHMACSHA256), KeyExchange: wire.KeyExchangeCurve25519}
	s.suite.Additional[0] = wire.KeyExchangeMLKEM768
	return s
}

func newTestTicketKeys(t testing.TB, saved []byte) *TicketKeys {
	t.Helper()
	k, err := NewTicketKeys(rand.NewChaCha8([32]byte{1}), saved, nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSessionEncoding(t *testing.T) {
	for name, change := range map[string]func(*session){
		"pre-shared key": func(*session) {},
		"certificates":   func(s *session) { s.psk, s.chain = nil, [][]byte{{1, 2, 3}, {4}} },
		"other identity": func(s *session) { s.idi, s.idr = mustID("192.0.2.1"), mustID("b@example.com") },
	} {
		want := testSession(epoch.Add(time.Hour))
		change(want)
		b := want.append(nil)
		got, err := parseSession(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !got.proved.Equal(want.proved) || !got.expires.Equal(want.expires) {
			t.Errorf("%s: times %s and %s", name, got.proved, got.expires)
		}
		got.proved, got.expires = want.proved, want.expires
		if len(got.psk) == 0 {
			got.psk = nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
		for cut := range len(b) {
			if _, err := parseSession(b[:cut]); err == nil && !bytes.Equal(b[:cut], want.append(nil)[:cut]) {
				t.Errorf("%s: %d of %d octets are a session", name, cut, len(b))
			}
		}
	}
	if restoreTicket(nil) != nil || restoreTicket([]byte{0, 9, 1}) != nil || restoreTicket([]byte{0, 1, 1, 0, 0, 2}) != nil {
		t.Error("garbage is a ticket")
	}
}

func FuzzSession(f *testing.F) {
	f.Add(testSession(epoch).append(nil))
	f.Add((&heldTicket{testSession(epoch), []byte("ticket"), strangerAddr}).append())
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseSession(b); err == nil {
			if _, err := parseSession(s.append(nil)); err != nil {
				t.Errorf("what was read cannot be read again: %v", err)
			}
		}
		restoreTicket(b)
	})
}

func TestTicketKeys(t *testing.T) {
	k := newTestTicketKeys(t, nil)
	changes := 0
	k.changed = func() { changes++ }
	now := epoch
	ticket, err := k.seal(now, testSession(now.Add(ticketLife)))
	if err != nil {
		t.Fatal(err)
	}
	if len(ticket) > maxTicket || bytes.Contains(ticket, []byte("example")) {
		t.Errorf("ticket of %d octets %q", len(ticket), ticket)
	}
	open := func(k *TicketKeys, at time.Time, ticket []byte) error {
		s, err := k.open(at, ticket)
		if err == nil && !bytes.Equal(s.skD, testSession(now).skD) {
			t.Error("another session")
		}
		return err
	}
	if err := open(k, now.Add(ticketLife-time.Second), ticket); err != nil {
		t.Errorf("a good ticket: %v", err)
	}
	if err := open(k, now.Add(ticketLife), ticket); !errors.Is(err, errTicketExpired) {
		t.Errorf("an expired ticket: %v", err)
	}
	for i := range ticket {
		forged := bytes.Clone(ticket)
		forged[i] ^= 1
		if err := open(k, now, forged); !errors.Is(err, errTicketUnknown) {
			t.Fatalf("a ticket changed at %d: %v", i, err)
		}
		if err := open(k, now, ticket[:i]); !errors.Is(err, errTicketUnknown) {
			t.Fatalf("a ticket of %d octets: %v", i, err)
		}
	}
	if err := open(newTestTicketKeys(t, nil), now, ticket); !errors.Is(err, errTicketUnknown) {
		t.Errorf("a ticket of another host: %v", err)
	}
	if err := open(newTestTicketKeys(t, k.Save()), now, ticket); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	if changes != 1 {
		t.Errorf("%d changes, want 1", changes)
	}

	// Keys are replaced and forgotten.
	for i := 1; i <= 5; i++ {
		if _, err := k.seal(now.Add(time.Duration(i)*ticketLife), testSession(now)); err != nil {
			t.Fatal(err)
		}
	}
	if changes != 6 || len(k.keys) > 2 {
		t.Errorf("%d changes and %d keys after five lifetimes", changes, len(k.keys))
	}
	if err := open(k, now, ticket); !errors.Is(err, errTicketUnknown) {
		t.Errorf("a ticket under a key of five lifetimes ago: %v", err)
	}
	if _, err := NewTicketKeys(nil, []byte("garbage"), nil); err == nil || strings.Contains(err.Error(), "garbage") {
		t.Errorf("garbage instead of keys: %v", err)
	}

	// Used tickets are remembered, a bounded number of them.
	ticket, _ = k.seal(now.Add(6*ticketLife), testSession(now.Add(7*ticketLife)))
	if !k.spend(idOf(ticket)) || k.spend(idOf(ticket)) {
		t.Error("a ticket can be spent twice, or not at all")
	}
	if err := open(k, now.Add(6*ticketLife), ticket); !errors.Is(err, errTicketSpent) {
		t.Errorf("a used ticket: %v", err)
	}
	for i := range 2 * maxSpent {
		k.spend(ticketID{byte(i), byte(i >> 8), 1})
	}
	if len(k.spent) > maxSpent || len(k.order) > maxSpent {
		t.Errorf("%d used tickets are remembered", len(k.spent))
	}
	big := testSession(now)
	big.chain = [][]byte{make([]byte, maxTicket)}
	if _, err := k.seal(now, big); err == nil {
		t.Error("a ticket too large for the first message")
	}
}

// resumable returns a world in which a has a ticket and has lost everything else.
func resumable(t *testing.T, change func(a, b *Config)) *world {
	w := pair(1, func(a, b *Config) {
		if change != nil {
			change(a, b)
		}
		a.Resume, b.Resume = true, true
	})
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.settle()
	if w.a.cfg.Runtime.Ticket == nil {
		t.Fatal("no ticket")
	}
	w.a.restart()
	return w
}

// TestResumeWithCertificates: what the peers proved with certificates is verified
// again when they resume, at both ends.
func TestResumeWithCertificates(t *testing.T) {
	revoked := errors.New("revoked")
	for _, test := range []struct {
		name     string
		a, b     error
		resumes  bool
		comesUp  bool
		exchange string
	}{
		{"good", nil, nil, true, true, ""},
		{"the initiator's is revoked", nil, revoked, false, false, "AUTHENTICATION_FAILED"},
		{"the responder's is revoked", revoked, nil, false, false, "revoked"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var now [2]error
			w := resumable(t, func(a, b *Config) {
				withCertificates(newAuthority("CA", newEd25519))(a, b)
				a.Peer.CheckRevoked = func(*x509.Certificate) error { return now[0] }
				b.Peer.CheckRevoked = func(*x509.Certificate) error { return now[1] }
			})
			now = [2]error{test.a, test.b}
			w.a.step(Connect{})
			if got := w.render(w.flight[0].data); !strings.HasPrefix(got, "IKE_SESSION_RESUME") {
				t.Fatalf("%s, want a resumption", got)
			}
			w.settle()
			sa := w.a.t.primary()
			if up := sa != nil; up != test.comesUp || up && sa.resumed != test.resumes {
				t.Errorf("up %v, want %v; resumed %v", up, test.comesUp, test.resumes)
			}
			if test.comesUp {
				if sa.remoteAuth != "Ed25519" || len(sa.evidence.chain) == 0 {
					t.Errorf("peer authenticated by %q with %d certificates", sa.remoteAuth, len(sa.evidence.chain))
				}
				w.check(t)
			} else if w.a.t.ticket != nil {
				t.Error("the ticket is kept")
			}
		})
	}
}

// TestResumeRefused: what is bound to a session cannot be another thing.
func TestResumeRefused(t *testing.T) {
	for name, change := range map[string]func(b *Config){
		"not resumed by this tunnel": func(b *Config) { b.Resume = false },
		"other identity":             func(b *Config) { b.Credentials.ID = mustID("c.example") },
		"other peer":                 func(b *Config) { b.Peer.ID = mustID("c.example") },
		"other key":                  func(b *Config) { b.Credentials.PSK, b.Peer.PSK = []byte("other"), []byte("other") },
		"key required":               func(b *Config) { b.PPKs, b.PPKRequired = storyPPKs([]string{"one"}), true },
		"other suite":                func(b *Config) { b.Proposals = mustIKE("aes256gcm16-prfsha256-x25519") },
	} {
		t.Run(name, func(t *testing.T) {
			w := resumable(t, nil)
			old := w.b.t.primary()
			change(w.b.t.cfg)
			change(&w.b.cfg)
			w.a.step(Connect{})
			if got := w.render(w.flight[0].data); !strings.HasPrefix(got, "IKE_SESSION_RESUME") {
				t.Fatalf("%s, want a resumption", got)
			}
			w.settle()
			if sa := w.b.t.primary(); sa != old && sa.resumed || old.state != stateEstablished && name != "not resumed by this tunnel" {
				t.Errorf("the session was resumed:\n%s", w.b.state())
			}
			if sa := w.a.t.primary(); sa != nil && sa.resumed {
				t.Errorf("the session was resumed:\n%s", w.a.state())
			}
		})
	}
}

// TestEvilTicket: a ticket is sent in the clear. Who has seen it and does not have
// the keys of its IKE SA gets nothing, and does not spend it either (RFC 5723,
// Section 9.1).
func TestEvilTicket(t *testing.T) {
	w := resumable(t, nil)
	w.a.step(Connect{})
	request := w.take(0).data
	e := &evil{world: w, t: t}
	before := w.b.state()
	for i := range 20 {
		m, err := wire.Parse(request)
		if err != nil {
			t.Fatal(err)
		}
		m.InitiatorSPI = wire.SPI{byte(i + 1), 99}
		b, err := m.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		e.inject(w.b, b)
		if len(w.flight) != 1 {
			t.Fatalf("%d answers, want 1", len(w.flight))
		}
		answer, err := wire.Parse(w.take(0).data)
		if err != nil {
			t.Fatal(err)
		}
		// IKE_AUTH under keys that are guessed.
		h := wire.Header{InitiatorSPI: answer.InitiatorSPI, ResponderSPI: answer.ResponderSPI, Major: 2, Exchange: wire.ExchangeIKEAuth, Flags: wire.FlagInitiator, MessageID: 1}
		forged, err := h.AppendEncrypted(nil, wire.PayloadIDi, 64)
		if err != nil {
			t.Fatal(err)
		}
		e.inject(w.b, append(forged, make([]byte, 64)...))
	}
	if len(w.flight) != 0 || w.b.state() != before {
		t.Errorf("%d answers to forged IKE_AUTH:\n%s", len(w.flight), w.b.state())
	}
	e.inject(w.b, request) // the owner's, from wherever
	w.settle()
	w.advance(time.Minute, w.settle)
	if sa := w.a.t.primary(); sa == nil || !sa.resumed {
		t.Errorf("the owner cannot resume:\n%s", w.a.state())
	}
	w.check(t)
}

// TestResumeIsSmall: the first message of a resumption and its answer go into one
// packet on any path, and the answer is no amplifier.
func TestResumeIsSmall(t *testing.T) {
	w := resumable(t, withCertificates(newAuthority("CA", newEd25519)))
	w.a.step(Connect{})
	request := w.take(0)
	if len(request.data) > 1280-48 {
		t.Errorf("request of %d octets", len(request.data))
	}
	w.deliver(request)
	if answer := w.flight[0].data; len(answer) > len(request.data) {
		t.Errorf("answer of %d octets to %d", len(answer), len(request.data))
	}
	// Tickets that are none are refused in even less, and nothing is kept.
	w.flight = nil
	garbage := bytes.Clone(request.data)
	garbage[0] = 77 // another SPI
	garbage[bytes.Index(garbage, w.a.t.ticket.ticket)+ticketHead] ^= 1
	halves := len(w.b.halves)
	w.b.receive(Datagram{Local: w.b.cfg.Local, Remote: strangerAddr, Data: garbage})
	if len(w.flight) != 1 || !strings.HasSuffix(w.render(w.flight[0].data), "{N(TICKET_NACK)}") || len(w.b.halves) != halves {
		t.Errorf("%d answers to a forged ticket, %d half open", len(w.flight), len(w.b.halves)-halves)
	}
}

// TestTicketsAreZeroed: the keys of a session do not outlive its ticket.
func TestTicketsAreZeroed(t *testing.T) {
	w := resumable(t, nil)
	kept := w.a.t.ticket.skD
	if bytes.Equal(kept, make([]byte, len(kept))) {
		t.Fatal("no keys")
	}
	w.a.step(Connect{})
	w.settle()
	if !bytes.Equal(kept, make([]byte, len(kept))) {
		t.Error("the keys of a used ticket are still there")
	}
	kept = w.a.t.ticket.skD
	w.a.step(Disconnect{})
	w.settle()
	if !bytes.Equal(kept, make([]byte, len(kept))) || w.a.cfg.Runtime.Ticket != nil {
		t.Error("the keys of a deleted IKE SA's ticket are still there")
	}
}
