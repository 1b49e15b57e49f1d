package ike

import (
	"strings"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// TestProvenPeerEndsIKE has the responder prove itself and refuse the IKE SA in
// the same message: then there is none (RFC 7296, Section 2.21.2). strongSwan
// does so where it demands an IKE SA without a Child SA (RFC 6023).
func TestProvenPeerEndsIKE(t *testing.T) {
	for kind, up := range map[wire.NotifyType]bool{
		wire.NotifyInvalidSyntax: false, wire.NotifyAuthenticationFailed: false, wire.NotifyNoProposalChosen: true,
	} {
		t.Run(kind.String(), func(t *testing.T) {
			w := pair(1, func(*Config, *Config) {})
			w.b.step(Connect{})
			w.a.step(Connect{})
			for range 3 {
				w.deliver(w.take(0))
			}
			answer := w.take(0)
			m, err := wire.Parse(answer.data)
			if err != nil {
				t.Fatal(err)
			}
			inner, _ := w.peek(m, m.Payloads[0].(*wire.Encrypted).FirstInner)
			payloads := []wire.Payload{&wire.Notify{Kind: kind}}
			for _, p := range inner {
				switch p.(type) {
				case *wire.ID, *wire.Auth:
					payloads = append(payloads, p)
				}
			}
			sa := w.b.t.sas[0]
			datagrams, err := sa.protect(wire.Header{Exchange: m.Header.Exchange, MessageID: m.Header.MessageID, Flags: wire.FlagResponse}, payloads)
			if err != nil {
				t.Fatal(err)
			}
			answer.data = datagrams[0]
			w.deliver(answer)
			if got := w.a.t.primary() != nil; got != up {
				t.Errorf("the initiator has an IKE SA: %v, want %v\n%s", got, up, w.a.state())
			}
			if got := strings.Join(w.a.events, "\n"); !strings.Contains(got, kind.String()) {
				t.Errorf("the initiator hears %q, want %s", got, kind)
			}
		})
	}
}
