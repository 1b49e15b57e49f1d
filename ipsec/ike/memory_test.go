package ike

import (
	"runtime"
	"testing"
)

// maxEstablished is what an established tunnel may take, in octets: the machine with
// its IKE SA and one Child SA, and without the configuration, which is its user's.
const maxEstablished = 11 << 10

// withDefaultsAndCertificates is what two of our edges have between them: the hybrid
// key exchange and Ed25519 certificates.
func withDefaultsAndCertificates() func(a, b *Config) {
	certificates := withCertificates(newAuthority("CA", newEd25519))
	return func(a, b *Config) {
		certificates(a, b)
		for _, c := range []*Config{a, b} {
			c.Proposals, c.Timing, c.Mobility = nil, Timing{}, Mobility{}
			c.Children[0].Proposals = nil
		}
	}
}

// manyUp returns both ends of count tunnels, and nothing else of them.
func manyUp(tb testing.TB, w *world, count int) []*Tunnel {
	tb.Helper()
	kept := make([]*Tunnel, 0, 2*count)
	for range count {
		w.a.restart()
		w.b.restart()
		w.b.step(Connect{})
		w.a.step(Connect{})
		w.settle()
		if len(w.a.out) != 1 || len(w.b.out) != 1 {
			tb.Fatal("no Child SA")
		}
		kept = append(kept, w.a.t, w.b.t)
		w.a.events, w.b.events = nil, nil
	}
	return kept
}

// TestEstablishedMemory measures what an established tunnel takes, the mean of both
// ends.
func TestEstablishedMemory(t *testing.T) {
	w := pair(1, withDefaultsAndCertificates())
	runtime.KeepAlive(manyUp(t, w, 1)) // what is there once
	const count = 200
	before := heap()
	kept := manyUp(t, w, count)
	each := (heap() - before) / (2 * count)
	runtime.KeepAlive(kept)
	t.Logf("%d octets", each)
	if each > maxEstablished {
		t.Errorf("an established tunnel takes %d octets, at most %d are allowed", each, maxEstablished)
	}
}

// BenchmarkEstablished holds many tunnels, each with an IKE SA and a Child SA: the
// memory of the IKE layer for each, without engine and configuration.
func BenchmarkEstablished(b *testing.B) {
	w := pair(1, withDefaultsAndCertificates())
	const count = 5000
	for b.Loop() {
		before := heap()
		kept := manyUp(b, w, count)
		b.ReportMetric(float64(heap()-before)/(2*count), "B/tunnel")
		runtime.KeepAlive(kept)
	}
}
