package ike

import "testing"

func TestHandshakeRekeyDelete(t *testing.T) {
	w := pair(1, nil)
	w.log = t.Logf
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.settle()
	for _, in := range []Input{RekeyChild{}, RekeyIKE{}} {
		for _, n := range []*node{w.a, w.b} {
			n.step(in)
			w.settle()
			w.check(t)
		}
	}
	w.a.step(Disconnect{})
	w.settle()
	if !w.a.closed || len(w.a.in)+len(w.a.out)+len(w.a.policies) != 0 {
		t.Errorf("a is not clean after Disconnect: %d inbound, %d outbound SAs, %d policies", len(w.a.in), len(w.a.out), len(w.a.policies))
	}
	if len(w.b.out) != 0 {
		t.Errorf("b still sends after the peer's Delete")
	}
}
