package ike

import (
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/suite"
)

// BenchmarkHandshake is a whole handshake, IKE_SA_INIT to installed Child SA,
// both ends on one core; what each of them spends is told apart.
func BenchmarkHandshake(b *testing.B) {
	ed, ec := newAuthority("Ed25519 CA", newEd25519), newAuthority("ECDSA CA", newECDSA)
	hybrid, err := suite.ParseIKE("aes256gcm16-prfsha384-x25519-ke1_mlkem768")
	if err != nil {
		b.Fatal(err)
	}
	for _, bench := range []struct {
		name   string
		change func(a, b *Config)
	}{
		{"PSK", nil},
		{"Ed25519", withCertificates(ed)},
		{"ECDSA", withCertificates(ec)},
		{"Ed25519 and ML-KEM-768", func(a, b *Config) {
			withCertificates(ed)(a, b)
			a.Proposals, b.Proposals = []suite.IKEProposal{hybrid}, []suite.IKEProposal{hybrid}
		}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			w := pair(1, bench.change)
			spent := map[*node]time.Duration{}
			b.ReportAllocs()
			for b.Loop() {
				w.a.restart()
				w.b.restart()
				w.b.step(Connect{})
				w.timed(spent, w.a, func() { w.a.step(Connect{}) })
				for len(w.flight) > 0 {
					p := w.flight[0]
					w.flight = w.flight[1:]
					w.timed(spent, p.to, func() { w.deliver(p) })
				}
				if len(w.a.out) != 1 || len(w.b.out) != 1 {
					b.Fatal("no Child SA")
				}
			}
			for name, n := range map[string]*node{"initiator-µs": w.a, "responder-µs": w.b} {
				b.ReportMetric(float64(spent[n].Microseconds())/float64(b.N), name)
			}
		})
	}
}

// timed adds the time that do takes to what n has spent.
func (w *world) timed(spent map[*node]time.Duration, n *node, do func()) {
	start := time.Now()
	do()
	spent[n] += time.Since(start)
}
