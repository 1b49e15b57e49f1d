package ike

import (
	"fmt"
	"testing"
	"time"
)

// upWithCertificates returns a world that is up, both ends proved by certificates.
func upWithCertificates(t *testing.T) *world {
	t.Helper()
	w := pair(1, func(a, b *Config) {
		for _, c := range []*Config{a, b} {
			configureAuth(t, c, "own", []string{"ed25519"})
			configureAuth(t, c, "accept", []string{"cert"})
		}
	})
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.settle()
	w.check(t)
	return w
}

// TestRevokedAtAnyTime revokes the certificate of one end after each message of
// exchanges that make other SAs: from then on the other end uses none of it, and
// in the end no IKE SA is left.
func TestRevokedAtAnyTime(t *testing.T) {
	both := func(in Input) func(*world) { return func(w *world) { w.a.step(in); w.b.step(in) } }
	for name, begin := range map[string]func(*world){
		"nothing":                 func(*world) {},
		"a rekeys the IKE SA":     func(w *world) { w.a.step(RekeyIKE{}) },
		"b rekeys the IKE SA":     func(w *world) { w.b.step(RekeyIKE{}) },
		"both rekey the IKE SA":   both(RekeyIKE{}),
		"a rekeys the Child SA":   func(w *world) { w.a.step(RekeyChild{}) },
		"b rekeys the Child SA":   func(w *world) { w.b.step(RekeyChild{}) },
		"both rekey the Child SA": both(RekeyChild{}),
		"one and the other":       func(w *world) { w.a.step(RekeyIKE{}); w.b.step(RekeyChild{}) },
	} {
		for messages := range 9 {
			t.Run(fmt.Sprintf("%s, %d messages", name, messages), func(t *testing.T) {
				w := upWithCertificates(t)
				begin(w)
				for range messages {
					if len(w.flight) > 0 {
						w.deliver(w.take(0))
					}
				}
				unused := func(when string) {
					t.Helper()
					if len(w.b.in)+len(w.b.out) > 0 {
						t.Fatalf("%s: in use are %v, %v\n%s", when, w.b.in, w.b.out, w.b.state())
					}
				}
				w.b.revoke(true)
				unused("at once")
				for len(w.flight) > 0 {
					w.deliver(w.take(0))
					unused("after a message")
				}
				w.advance(time.Minute, w.settle)
				unused("in the end")
				for _, n := range []*node{w.a, w.b} {
					if n.t.primary() != nil {
						t.Errorf("an IKE SA is left:\n%s", n.state())
					}
				}
				for _, sa := range w.b.t.sas {
					if sa.state.in(stateUsable) {
						t.Errorf("an IKE SA is left:\n%s", w.b.state())
					}
				}
			})
		}
	}
}

// TestVerifiedBesideRekeying: what is asked for while the IKE SA is being replaced
// is done, and what still holds is left alone.
func TestVerifiedBesideRekeying(t *testing.T) {
	for messages := range 6 {
		w := upWithCertificates(t)
		w.a.step(RekeyIKE{})
		for range messages {
			if len(w.flight) > 0 {
				w.deliver(w.take(0))
			}
		}
		w.a.step(Revalidate{})
		w.b.step(Revalidate{})
		w.settle()
		w.check(t)
		for _, n := range []*node{w.a, w.b} {
			for _, sa := range n.t.sas {
				if sa.wantVerify || sa.verifying {
					t.Errorf("%s: certificates are still to be verified after %d messages", n.name, messages)
				}
			}
		}
	}
}

// TestVerifiedAfterLoss: the job's IKE SA ends before the job does; the IKE SA that
// the peer has put in its place is looked at instead.
func TestVerifiedAfterLoss(t *testing.T) {
	w := upWithCertificates(t)
	w.b.t.cfg.Timing.DPD = -1
	old := w.b.t.primary()
	w.b.dropJobs = true
	w.b.revoke(true) // the job is never done
	if !old.verifying {
		t.Fatal("nothing is verified")
	}
	heir := old.heir(w.b.newSPI(), old.remoteSPI, old.suite, true)
	w.b.t.replaceIKE(old, heir)
	if !heir.wantVerify {
		t.Error("the IKE SA in its place is not to be verified")
	}
}
