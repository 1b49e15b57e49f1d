package ike

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/ident"
)

// An agent reads its authorities anew with every intent. The same ones are no
// other credentials, whatever else changes with them.
func TestAuthoritiesReadAnewAreTheSame(t *testing.T) {
	ca := newAuthority("Test CA", newEd25519)
	w := pair(1, withCertificates(ca))
	w.log = t.Logf
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.settle()
	before := w.a.state() + w.b.state()

	again, err := x509.ParseCertificate(ca.cert.Raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []*node{w.a, w.b} {
		cfg := *n.t.cfg
		cfg.Peer.Roots = ident.NewRoots(again)
		cfg.Role = RoleResponder
		n.step(Reconfigure{cfg})
	}
	w.advance(2*redundantTime, w.settle)
	if after := w.a.state() + w.b.state(); after != before {
		t.Errorf("the SAs are\n%swere\n%s", after, before)
	}
	w.check(t)
}

// An attempt that is under way goes on when its end is told to leave the
// beginning to the peer: the peer may count on it already.
func TestAttemptSurvivesChangeOfRole(t *testing.T) {
	ca := newAuthority("Test CA", newEd25519)
	for _, steps := range []int{0, 1, 2, 3} {
		w := pair(1, withCertificates(ca))
		w.log = t.Logf
		w.b.step(Connect{})
		w.a.step(Connect{})
		for range steps {
			p := w.flight[0]
			w.flight = w.flight[1:]
			w.deliver(p)
		}
		cfg := *w.a.t.cfg
		cfg.Role = RoleResponder
		w.a.step(Reconfigure{cfg})
		w.settle()
		w.advance(time.Second, w.settle)
		if w.a.t.primary() == nil || w.b.t.primary() == nil {
			t.Errorf("after %d messages the attempt was given up:\n%s%s", steps, w.a.state(), w.b.state())
		}
		w.check(t)
	}
}
