package ike

import (
	"testing"
	"time"
)

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

// TestSuccessorsAreNamed: the data plane is told which inbound SA a new one takes over
// from, by either end, when a Child SA is rekeyed and when the IKE SA is made anew.
func TestSuccessorsAreNamed(t *testing.T) {
	w := pair(1, func(a, b *Config) {
		a.Timing.Reauth, b.Timing.Reauth = time.Hour, 0
		a.Children[0].Queues, b.Children[0].Queues = 2, 2
	})
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.settle()
	inbound := func(n *node) map[string]uint32 {
		spis := map[string]uint32{}
		for _, c := range n.t.children {
			if c.live() {
				spis[c.name] = c.inbound
			}
		}
		return spis
	}
	for _, tt := range []struct {
		what    string
		replace func()
		of      []string // a further one is made when the old IKE SA has gone
	}{
		{"rekeyed by a", func() { w.a.step(RekeyChild{}); w.settle() }, []string{"net", "net#1"}},
		{"rekeyed by b", func() { w.b.step(RekeyChild{}); w.settle() }, []string{"net", "net#1"}},
		{"made anew", func() { w.advance(time.Hour, w.settle) }, []string{"net"}},
	} {
		before := [2]map[string]uint32{inbound(w.a), inbound(w.b)}
		tt.replace()
		w.check(t)
		for i, n := range w.nodes() {
			after := inbound(n)
			if len(after) != 2 {
				t.Errorf("%s: %s has %v, want two Child SAs", tt.what, n.name, after)
			}
			for _, name := range tt.of {
				if spi, old := after[name], before[i][name]; old == 0 || spi == old || !succeeds(n, spi, old) {
					t.Errorf("%s: %s of %s is %08x after %08x, to replace %08x", tt.what, name, n.name, spi, old, n.succeed[spi])
				}
			}
		}
	}
}

// succeeds reports whether an SA was made to take over from old, or from what did.
func succeeds(n *node, spi, old uint32) bool {
	for ; spi != 0; spi = n.succeed[spi] {
		if spi == old {
			return true
		}
	}
	return false
}
