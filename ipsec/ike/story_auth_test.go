package ike

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"sync"
	"testing"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// storyCA issues the certificates of the stories.
var storyCA = sync.OnceValue(func() *authority { return newAuthority("Story CA", newEd25519) })

// storyKeys make the keys that a story can name.
var storyKeys = map[string]func() crypto.Signer{
	"ed25519": newEd25519,
	"p256":    newECDSA,
	"p384": func() crypto.Signer {
		key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		if err != nil {
			panic(err)
		}
		return key
	},
	"rsa": sync.OnceValue(func() crypto.Signer {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		return key
	}),
}

// credential makes the credential that a story calls by the kind of its key.
func storyCredential(t testing.TB, id ident.ID, kind string) ident.Credential {
	t.Helper()
	if kind == "psk" {
		return ident.Credential{PSK: ident.PSK("correct horse battery staple")}
	}
	newKey := storyKeys[kind]
	if newKey == nil {
		t.Fatalf("unknown kind of key %q", kind)
	}
	key := newKey()
	return ident.Credential{Signer: key, Chain: storyCA().issueFor(id.String(), key)}
}

// configureAuth applies the keys about authentication:
//
//	own=KIND or own=(KIND,...)  what the node can prove itself by: psk,
//	                     ed25519, p256, p384, rsa, in order of preference
//	accept=(psk,cert)    what it accepts of its peer
//	legacy=(METHOD,...)  older methods that it makes and accepts
//	padding=pkcs1        what its RSA key prefers
func configureAuth(t testing.TB, c *Config, key string, vals []string) {
	t.Helper()
	switch key {
	case "own":
		first := storyCredential(t, c.Credentials.ID, vals[0])
		c.Credentials.Signer, c.Credentials.Chain, c.Credentials.PSK = first.Signer, first.Chain, first.PSK
		c.Credentials.Alternatives = nil
		for _, kind := range vals[1:] {
			c.Credentials.Alternatives = append(c.Credentials.Alternatives, storyCredential(t, c.Credentials.ID, kind))
		}
	case "accept":
		c.Peer.PSK, c.Peer.Roots, c.Peer.Either = nil, nil, len(vals) > 1
		for _, v := range vals {
			if v == "cert" {
				c.Peer.Roots = ident.NewRoots(storyCA().cert)
			} else {
				c.Peer.PSK = storyCredential(t, c.Credentials.ID, "psk").PSK
			}
		}
	case "legacy":
		methods := map[string]wire.AuthMethod{"rsa": wire.AuthRSA, "p256": wire.AuthECDSAP256, "p384": wire.AuthECDSAP384}
		for _, v := range vals {
			c.Credentials.Legacy = append(c.Credentials.Legacy, methods[v])
			c.Peer.Legacy = append(c.Peer.Legacy, methods[v])
		}
	case "padding":
		c.Credentials.RSA = ident.RSAPaddingPKCS1v15
	}
}

// who prints how the peer of either end has proved itself.
func (w *world) who() {
	for _, n := range []*node{w.a, w.b} {
		for _, sa := range n.t.Status().IKE {
			w.log("%s: %s %s by %s\n", n.name, short(sa), sa.RemoteID, sa.RemoteAuth)
		}
	}
}
