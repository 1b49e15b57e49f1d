package ident

import (
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"testing"
)

func BenchmarkAuth(b *testing.B) {
	root := newAuthority("root", nil)
	name, err := ParseID("edge1.example")
	if err != nil {
		b.Fatal(err)
	}
	for _, k := range []struct {
		name string
		key  crypto.Signer
	}{{"Ed25519", ed25519Key()}, {"P-256", ecdsaKey(elliptic.P256())}, {"P-384", ecdsaKey(elliptic.P384())}} {
		leaf := root.issue(k.key, nil)
		local := Local{ID: name, Signer: k.key, Chain: []*x509.Certificate{leaf}}
		remote := Remote{ID: name, Roots: NewRoots(root.cert)}
		proof, err := Sign(local, octets, modern, nil, rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(k.name+"/sign", func(b *testing.B) {
			for b.Loop() {
				if _, err := Sign(local, octets, modern, nil, rand.Reader); err != nil {
					b.Fatal(err)
				}
			}
		})
		// With the path of one certificate under a P-256 authority.
		b.Run(k.name+"/verify", func(b *testing.B) {
			for b.Loop() {
				if _, err := Verify(remote, Claim{name, proof.Method, proof.Data, octets, local.Chain, true}, now); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("PSK/sign", func(b *testing.B) {
		local := Local{ID: name, PSK: PSK("0123456789abcdef")}
		for b.Loop() {
			if _, err := Sign(local, octets, Announced{}, nil, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}
