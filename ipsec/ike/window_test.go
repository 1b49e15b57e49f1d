package ike

import (
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// TestMessageIDsDoNotWrap: an IKE SA is rekeyed long before its message IDs are used
// up, and ends if it was not (RFC 7296, Section 2.2).
func TestMessageIDsDoNotWrap(t *testing.T) {
	up := func(next uint32) (*world, *ikeSA) {
		w := pair(5, nil)
		w.b.step(Connect{})
		w.a.step(Connect{})
		w.settle()
		a, b := w.a.t.primary(), w.b.t.primary()
		a.window.nextSend, b.window.nextReceive = next, next
		return w, a
	}
	w, old := up(manyMessageIDs - 1)
	old.wantProbe = true
	w.a.step(Tick{})
	w.settle()
	w.check(t)
	if sa := w.a.t.primary(); sa == nil || sa == old || sa.window.nextSend > 2 {
		t.Errorf("not rekeyed with half of the message IDs used up: %+v", w.a.t.Status())
	}

	w, old = up(lastMessageID)
	old.wantProbe = true
	w.a.step(Tick{})
	if e := w.a.failed; e == nil || !errors.Is(e.Err, errMessageIDs) {
		t.Errorf("a request after the last one: %v", e)
	}
	w.settle()
	if sa := w.a.t.primary(); sa == old {
		t.Error("the IKE SA goes on without message IDs")
	}
}

func TestJudge(t *testing.T) {
	h := func(id uint32, flags wire.Flags) wire.Header {
		return wire.Header{Exchange: wire.ExchangeInformational, MessageID: id, Flags: flags}
	}
	raw := []byte("request")
	after := func(id uint32) *window { // that request was accepted
		w := &window{nextReceive: id}
		w.accept(sha256.Sum256(raw))
		return w
	}
	awaiting := &window{outstanding: &outstanding{id: 4, exchange: wire.ExchangeInformational}}
	for _, c := range []struct {
		name string
		w    *window
		h    wire.Header
		raw  []byte
		want verdict
	}{
		{"next request", after(6), h(7, 0), raw, verdictFresh},
		{"the same again", after(6), h(6, 0), raw, verdictRepeated},
		{"another with its ID", after(6), h(6, 0), []byte("forged"), verdictDrop},
		{"an older one", after(6), h(5, 0), raw, verdictDrop},
		{"one ahead", after(6), h(8, 0), raw, verdictDrop},
		{"the last ID", after(lastMessageID - 1), h(lastMessageID, 0), []byte("last"), verdictDrop},
		{"the first after the last", after(lastMessageID - 1), h(0, 0), raw, verdictDrop},
		{"response", awaiting, h(4, wire.FlagResponse), raw, verdictFresh},
		{"response to another request", awaiting, h(3, wire.FlagResponse), raw, verdictDrop},
		{"response to nothing", after(6), h(4, wire.FlagResponse), raw, verdictDrop},
	} {
		if got := c.w.judge(c.h, c.raw); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}
