package ike

import "testing"

// TestRekeyBeginsWithNegotiatedGroup holds that only the first exchange with a
// peer of other preferences costs a round trip for the key exchange method.
func TestRekeyBeginsWithNegotiatedGroup(t *testing.T) {
	w := pair(1, func(a, b *Config) {
		a.Proposals = mustIKE("aes128gcm16-prfsha256-x25519-ecp256")
		b.Proposals = mustIKE("aes128gcm16-prfsha256-ecp256-x25519")
		a.Children[0].Proposals = mustESP("aes128gcm16-x25519-ecp256")
		b.Children[0].Proposals = mustESP("aes128gcm16-ecp256-x25519")
	})
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.settle()
	w.a.step(RekeyChild{}) // IKE_AUTH has left the method of the Child SA open
	w.settle()
	for name, in := range map[string]Input{"IKE SA": RekeyIKE{}, "Child SA": RekeyChild{}} {
		before := w.lastID
		w.a.step(in)
		w.settle()
		w.check(t)
		// Request and answer, then Delete and its answer.
		if got := w.lastID - before; got != 4 {
			t.Errorf("rekeying the %s took %d messages, want 4", name, got)
		}
	}
	w.b.cfg.Proposals, w.a.cfg.Proposals = mustIKE("aes128gcm16-prfsha256-x25519"), mustIKE("aes128gcm16-prfsha256-x25519")
	w.b.step(Reconfigure{w.b.cfg})
	w.a.step(Reconfigure{w.a.cfg})
	w.settle()
	w.check(t)
	if s := w.a.t.Status(); s.State != StateUp || s.LastError != nil {
		t.Errorf("after the method was taken out: %s, %v", s.State, s.LastError)
	}
}
