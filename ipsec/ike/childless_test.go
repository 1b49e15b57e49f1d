package ike

import (
	"strings"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// TestChildlessNotAnnounced: a peer that asks for no Child SA where that was not
// announced gets INVALID_SYNTAX and is not let in (RFC 6023, Section 3), whether
// nobody on this host allows it or only this tunnel does not.
func TestChildlessNotAnnounced(t *testing.T) {
	for name, announced := range map[string]bool{"by nobody": false, "by another tunnel": true} {
		t.Run(name, func(t *testing.T) {
			w := pair(1, func(a, b *Config) { a.Childless, b.Childless = ChildlessForce, ChildlessNever })
			w.b.step(Connect{})
			w.a.step(Connect{})
			w.deliver(w.take(0))
			w.b.halves[0].sa.childless = announced
			// Somebody on the path announces it. AUTH would show that, but who asks
			// for what must not be asked for is refused before.
			answer := w.take(0)
			m, err := wire.Parse(answer.data)
			if err != nil {
				t.Fatal(err)
			}
			m.Payloads = append(m.Payloads, &wire.Notify{Kind: wire.NotifyChildlessIKEv2Supported})
			if answer.data, err = m.Append(nil); err != nil {
				t.Fatal(err)
			}
			w.deliver(answer)
			if got := w.render(w.flight[0].data); !strings.HasSuffix(got, "{IDi N(INITIAL_CONTACT) IDr AUTH}") {
				t.Fatalf("%s, want a request without a Child SA", got)
			}
			w.deliver(w.take(0))
			if got := w.render(w.flight[0].data); !strings.HasSuffix(got, "{N(INVALID_SYNTAX)}") && !strings.HasSuffix(got, "unreadable") {
				t.Errorf("answer %s, want INVALID_SYNTAX", got)
			}
			w.settle()
			if w.a.t.primary() != nil || w.b.t.primary() != nil {
				t.Errorf("the peer is in:\n%s%s", w.a.state(), w.b.state())
			}
			if got := strings.Join(w.a.events, "\n"); !strings.Contains(got, "INVALID_SYNTAX") {
				t.Errorf("the initiator hears %q, want INVALID_SYNTAX", got)
			}
		})
	}
}
