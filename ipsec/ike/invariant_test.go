package ike

import (
	"bytes"
	"testing"
)

// check holds what must be true when nothing is in flight and both ends are up:
// one IKE SA and one Child SA for each configured one, and both ends agree on SPIs and
// keys.
func (w *world) check(t testing.TB) {
	t.Helper()
	pa, pb := w.a.t.primary(), w.b.t.primary()
	if pa == nil || pb == nil {
		t.Fatalf("no IKE SA:\n%s%s", w.a.state(), w.b.state())
	}
	if pa.localSPI != pb.remoteSPI || pa.remoteSPI != pb.localSPI || !bytes.Equal(pa.keys.D, pb.keys.D) {
		t.Errorf("ends do not agree on the IKE SA:\n%s%s", w.a.state(), w.b.state())
	}
	for _, n := range []*node{w.a, w.b} {
		n.checkAlone(t)
		peer := n.peer()
		for spi, out := range n.out {
			in, ok := peer.in[spi]
			switch {
			case !ok:
				t.Errorf("%s sends on %x, which %s does not have:\n%s%s", n.name, spi, peer.name, w.a.state(), w.b.state())
			case !bytes.Equal(in.Key, out.Key) || in.Suite != out.Suite:
				t.Errorf("ends do not agree on the key of %x", spi)
			}
		}
	}
}

// checkAlone holds what must be true of one end at rest.
func (n *node) checkAlone(t testing.TB) {
	t.Helper()
	established := 0
	for _, sa := range n.t.sas {
		if sa.state.in(stateUsable) {
			established++
		}
		if !n.registered[sa.localSPI] {
			t.Errorf("%s: IKE SPI %s is not registered", n.name, sa.localSPI)
		}
	}
	if established != 1 {
		t.Errorf("%s has %d IKE SAs, want 1:\n%s", n.name, established, n.state())
	}
	for _, ch := range n.t.cfg.Children {
		live := 0
		for _, c := range n.t.children {
			if c.name == ch.Name && c.known() {
				live++
			}
		}
		if live != 1 || !n.t.hasSender(ch.Name) {
			t.Errorf("%s has %d Child SAs %s, want 1 that sends:\n%s", n.name, live, ch.Name, n.state())
		}
	}
	if len(n.out) != len(n.t.cfg.Children) {
		t.Errorf("%s has %d outbound SAs in the data plane, want %d:\n%s", n.name, len(n.out), len(n.t.cfg.Children), n.state())
	}
	if len(n.registered) != len(n.t.sas) {
		t.Errorf("%s: %d SPIs are registered for %d IKE SAs", n.name, len(n.registered), len(n.t.sas))
	}
	if len(n.t.waits) != 0 {
		t.Errorf("%s waits for %d answers at rest", n.name, len(n.t.waits))
	}
}
