package ike

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

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

// storyCredential makes the credential that a story calls by the kind of its key.
func storyCredential(t testing.TB, id ident.ID, kind string) ident.Credential {
	t.Helper()
	kind, life, _ := strings.Cut(kind, "/")
	if kind == "psk" {
		return ident.Credential{PSK: ident.PSK("correct horse battery staple")}
	}
	newKey := storyKeys[kind]
	if newKey == nil {
		t.Fatalf("unknown kind of key %q", kind)
	}
	key := newKey()
	var end time.Time
	if life != "" {
		d, err := time.ParseDuration(life)
		if err != nil {
			t.Fatal(err)
		}
		end = epoch.Add(d)
	}
	return ident.Credential{Signer: key, Chain: storyCA().issueUntil(id.String(), key, end)}
}

// configureAuth applies the keys about authentication:
//
//	own=KIND or own=(KIND,...)  what the node can prove itself by: psk,
//	                     ed25519, p256, p384, rsa, in order of preference;
//	                     KIND/10m is a certificate that expires then
//	accept=(psk,cert)    what it accepts of its peer
//	legacy=(METHOD,...)  older methods that it makes and accepts
//	padding=pkcs1        what its RSA key prefers
//	expiry=ends          an IKE SA ends with the peer's certificate
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
	case "expiry":
		c.EndWithCertificate = true
	case "padding":
		c.Credentials.RSA = ident.RSAPaddingPKCS1v15
	}
}

// revoke tells the node by a CRL that the certificate of its peer is revoked;
// the tunnel hears of it at once, or only when it authenticates next.
func (n *node) revoke(now bool) {
	chain := n.peer().t.cfg.Credentials.Chain
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: n.w.now, NextUpdate: n.w.now.Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: chain[0].SerialNumber, RevocationTime: n.w.now, ReasonCode: 1}},
	}, storyCA().cert, storyCA().key)
	if err != nil {
		panic(err)
	}
	parsed, err := x509.ParseRevocationList(list)
	if err != nil {
		panic(err)
	}
	cfg := *n.t.cfg
	cfg.Peer.Revocations, err = ident.NewRevocations(ident.RevocationRelaxed, []*x509.RevocationList{parsed}, nil)
	if err != nil {
		panic(err)
	}
	if !now {
		n.t.configure(&cfg)
		return
	}
	n.step(Reconfigure{cfg})
}

// who prints how the peer of either end has proved itself.
func (w *world) who() {
	for _, n := range []*node{w.a, w.b} {
		for _, sa := range n.t.Status().IKE {
			w.log("%s: %s %s by %s\n", n.name, short(sa), sa.RemoteID, sa.RemoteAuth)
		}
	}
}
