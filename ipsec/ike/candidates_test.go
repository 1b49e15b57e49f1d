package ike

import (
	"testing"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// addIntruder adds somebody on the path who knows everything about b but what b
// proves itself with.
func (w *world) addIntruder() {
	cfg := w.b.cfg
	cfg.Credentials.PSK, cfg.Peer.PSK = ident.PSK("guess"), ident.PSK("guess")
	w.intruder = w.newNode("e", cfg)
	w.intruder.step(Connect{})
}

// hears reports whether a packet is for an IKE SA of the intruder.
func (n *node) hears(p *packet) bool {
	h, err := wire.ParseHeader(p.data)
	return err == nil && h.FromInitiator() && n.registered[h.ResponderSPI]
}

// TestManyCandidates: however many responses an attacker makes up, few are
// followed, the peer's among them if it comes early, and nothing of the others is
// left.
func TestManyCandidates(t *testing.T) {
	w := pair(1, nil)
	w.b.step(Connect{})
	w.a.step(Connect{})
	request := w.take(0)
	w.deliver(request)
	answer := w.take(0)
	for i := range 2 * maxCandidates {
		m, err := wire.Parse(answer.data)
		if err != nil {
			t.Fatal(err)
		}
		m.ResponderSPI = wire.SPI{99, byte(i)}
		forged := *answer
		if forged.data, err = m.Append(nil); err != nil {
			t.Fatal(err)
		}
		w.deliver(&forged)
		if i == 1 {
			w.deliver(answer)
		}
	}
	larval := 0
	for _, sa := range w.a.t.sas {
		if sa.state.in(stateLarval &^ stateListening) {
			larval++
		}
	}
	if larval != maxCandidates {
		t.Errorf("%d candidates are followed, want %d", larval, maxCandidates)
	}
	w.settle()
	w.check(t)
	if len(w.a.reserved) != len(w.a.in) {
		t.Errorf("%d SPIs are reserved for %d inbound SAs", len(w.a.reserved), len(w.a.in))
	}
}
