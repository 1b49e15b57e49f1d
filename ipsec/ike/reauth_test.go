package ike

import (
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/wire"
)

func reauthPair(t *testing.T, change func(a, b *Config)) *world {
	t.Helper()
	w := pair(1, change)
	w.log = t.Logf
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.settle()
	w.check(t)
	return w
}

// TestResponderEndsStaleAuthentication: a peer that does not know AUTH_LIFETIME is
// cut off when the time is over, and comes back by itself (RFC 4478, Section 4).
func TestResponderEndsStaleAuthentication(t *testing.T) {
	w := reauthPair(t, func(_, b *Config) { b.Timing.Reauth = 10 * time.Minute })
	first := w.a.t.primary()
	first.evidence.askedAt = time.Time{} // as if it had not understood
	w.advance(10*time.Minute, w.settle)
	if w.a.t.primary() != first {
		t.Fatal("the IKE SA ended before the time was over")
	}
	w.advance(2*time.Minute, w.settle)
	if w.a.t.primary() == nil || w.a.t.primary() == first || w.b.t.primary() == nil {
		t.Errorf("no other IKE SA after the time:\n%s%s", w.a.state(), w.b.state())
	}
	w.check(t)
}

// TestAuthLifetimeIsNoCommand: what a responder says cannot make an initiator work
// without end, an initiator cannot say it at all, and what is malformed is not
// read.
func TestAuthLifetimeIsNoCommand(t *testing.T) {
	for _, tt := range []struct {
		name   string
		from   func(w *world) *node
		data   []byte
		at     time.Duration // since the IKE SA was established
		want   time.Duration // when it is replaced at the earliest; 0: never
		latest time.Duration
	}{
		{"at once, when young", func(w *world) *node { return w.b }, []byte{0, 0, 0, 0}, time.Second, minReauth, minReauth},
		{"at once, later", func(w *world) *node { return w.b }, []byte{0, 0, 0, 0}, time.Minute, time.Minute, time.Minute},
		{"a second", func(w *world) *node { return w.b }, []byte{0, 0, 0, 1}, time.Second, minReauth, minReauth},
		{"an hour", func(w *world) *node { return w.b }, []byte{0, 0, 14, 16}, 0, 48 * time.Minute, 54 * time.Minute},
		{"for ever", func(w *world) *node { return w.b }, []byte{255, 255, 255, 255}, 0, 1 << 32 * time.Second / 10 * 8, 1 << 32 * time.Second},
		{"by the initiator", func(w *world) *node { return w.a }, []byte{0, 0, 0, 0}, time.Minute, 0, 0},
		{"short", func(w *world) *node { return w.b }, []byte{0, 0, 0}, time.Minute, 0, 0},
		{"long", func(w *world) *node { return w.b }, []byte{0, 0, 0, 0, 0}, time.Minute, 0, 0},
		{"empty", func(w *world) *node { return w.b }, nil, time.Minute, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := reauthPair(t, func(a, b *Config) { a.Role, b.Role = RoleEither, RoleResponder })
			w.advance(tt.at, w.settle)
			from := tt.from(w)
			sa := from.t.primary()
			datagrams, err := sa.protect(wire.Header{Exchange: wire.ExchangeInformational, MessageID: sa.window.nextSend}, []wire.Payload{
				&wire.Notify{Kind: wire.NotifyAuthLifetime, Data: tt.data},
			})
			if err != nil {
				t.Fatal(err)
			}
			to := from.peer()
			old := to.t.primary()
			to.receive(Datagram{Local: to.cfg.Local, Remote: from.cfg.Local, Data: datagrams[0]})
			at := time.Duration(0)
			if next := to.t.primary().authAt(); !next.IsZero() {
				at = next.Sub(old.established)
			} else if to.t.isReplacing(old) {
				at = w.now.Sub(old.established)
			}
			if at < tt.want || at > tt.latest {
				t.Errorf("authenticates anew after %s, want %s to %s", at, tt.want, tt.latest)
			}
		})
	}
}

// TestInitialContact: it is said by the first IKE SA of a tunnel alone, and not
// where another tunnel is between the same two identities (RFC 7296, Section
// 2.4).
func TestInitialContact(t *testing.T) {
	said := func(w *world) bool {
		t.Helper()
		found := false
		for len(w.flight) > 0 {
			p := w.take(0)
			if m, err := wire.Parse(p.data); err == nil && m.Exchange == wire.ExchangeIKEAuth {
				payloads, note := w.peek(m, m.Payloads[0].(*wire.Encrypted).FirstInner)
				if note != "" {
					t.Fatal(note)
				}
				found = found || (&message{payloads: payloads}).notify(wire.NotifyInitialContact) != nil
			}
			w.deliver(p)
		}
		return found
	}
	for _, shared := range []bool{false, true} {
		w := pair(1, func(a, _ *Config) { a.SharedIdentities = shared })
		w.b.step(Connect{})
		w.a.step(Connect{})
		if got := said(w); got == shared {
			t.Errorf("identities shared %v: the first IKE SA says INITIAL_CONTACT: %v", shared, got)
		}
		w.advance(time.Minute, w.settle)
		w.a.step(Reauthenticate{})
		if said(w) {
			t.Error("the IKE SA that replaces another says INITIAL_CONTACT")
		}
		w.check(t)
	}
}

// A responder that says INITIAL_CONTACT in its answer has lost what there was
// before.
func TestInitialContactOfResponder(t *testing.T) {
	w := reauthPair(t, nil)
	w.advance(time.Minute, w.settle)
	old := w.a.t.primary()
	fresh := &ikeSA{t: w.a.t, m: &w.a.t.machine, initiator: true, lifetime: lifetime{begun: w.now}}
	w.a.t.initialContact(fresh)
	if old.state != stateDead {
		t.Errorf("the IKE SA of before is %s", old.state)
	}
}

func TestReauthIntervalIsChecked(t *testing.T) {
	for _, d := range []time.Duration{-1, time.Second} {
		cfg := pair(1, nil).a.cfg
		cfg.Timing.Reauth = d
		if _, err := New(cfg); err == nil {
			t.Errorf("reauthentication after %s is accepted", d)
		}
	}
}
