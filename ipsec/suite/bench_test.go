package suite

import (
	"crypto/rand"
	"fmt"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

func BenchmarkKeyExchange(b *testing.B) {
	for _, g := range groups {
		peer, err := NewKeyExchange(g.id, rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(g.keyword+"/generate", func(b *testing.B) {
			for b.Loop() {
				if _, err := NewKeyExchange(g.id, rand.Reader); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(g.keyword+"/shared", func(b *testing.B) {
			own, _ := NewKeyExchange(g.id, rand.Reader)
			for b.Loop() {
				if _, err := own.Shared(peer.Public()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDeriveIKEKeys(b *testing.B) {
	for _, p := range []PRF{PRFHMACSHA256, PRFHMACSHA384, PRFHMACSHA512} {
		b.Run(p.String(), func(b *testing.B) {
			s := IKESuite{Encryption: wire.EncryptionAESGCM16, KeyBits: 256, PRF: p, KeyExchange: wire.KeyExchangeCurve25519}
			shared := make([]byte, 32)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := DeriveIKEKeys(s, testNi, testNr, shared, wire.SPI{1}, wire.SPI{2}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkProtector(b *testing.B) {
	header := make([]byte, 32)
	for _, s := range suitesForProtection() {
		if s.Integrity > wire.IntegrityHMACSHA256 {
			continue
		}
		p := protectorFor(b, s, 1)
		for _, n := range []int{80, 1200} {
			text := make([]byte, n)
			sealed := p.Seal(nil, header, text)
			b.Run(fmt.Sprintf("%s/%d/seal", s, n), func(b *testing.B) {
				b.SetBytes(int64(n))
				b.ReportAllocs()
				buf := make([]byte, 0, 2*n+100)
				for b.Loop() {
					p.Seal(buf, header, text)
				}
			})
			b.Run(fmt.Sprintf("%s/%d/open", s, n), func(b *testing.B) {
				b.SetBytes(int64(n))
				b.ReportAllocs()
				buf := make([]byte, 0, 2*n+100)
				for b.Loop() {
					if _, err := p.Open(buf, header, sealed); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkChooseIKE(b *testing.B) {
	offer := OfferIKE(DefaultIKE(), nil)
	policy := DefaultIKE()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := ChooseIKE(offer, policy); err != nil {
			b.Fatal(err)
		}
	}
}
