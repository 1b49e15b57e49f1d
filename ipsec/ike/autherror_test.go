package ike

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"strings"
	"testing"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// TestProvenPeerEndsIKE has the responder prove itself and refuse the IKE SA in
// the same message: then there is none (RFC 7296, Section 2.21.2). strongSwan
// does so where it demands an IKE SA without a Child SA (RFC 6023).
func TestProvenPeerEndsIKE(t *testing.T) {
	for kind, up := range map[wire.NotifyType]bool{
		wire.NotifyInvalidSyntax: false, wire.NotifyAuthenticationFailed: false, wire.NotifyNoProposalChosen: true,
	} {
		t.Run(kind.String(), func(t *testing.T) {
			w := pair(1, func(*Config, *Config) {})
			w.b.step(Connect{})
			w.a.step(Connect{})
			for range 3 {
				w.deliver(w.take(0))
			}
			answer := w.take(0)
			m, err := wire.Parse(answer.data)
			if err != nil {
				t.Fatal(err)
			}
			inner, _ := w.peek(m, m.Payloads[0].(*wire.Encrypted).FirstInner)
			payloads := []wire.Payload{&wire.Notify{Kind: kind}}
			for _, p := range inner {
				switch p.(type) {
				case *wire.ID, *wire.Auth:
					payloads = append(payloads, p)
				}
			}
			sa := w.b.t.sas[0]
			datagrams, err := sa.protect(wire.Header{Exchange: m.Header.Exchange, MessageID: m.Header.MessageID, Flags: wire.FlagResponse}, payloads)
			if err != nil {
				t.Fatal(err)
			}
			answer.data = datagrams[0]
			w.deliver(answer)
			if got := w.a.t.primary() != nil; got != up {
				t.Errorf("the initiator has an IKE SA: %v, want %v\n%s", got, up, w.a.state())
			}
			if got := strings.Join(w.a.events, "\n"); !strings.Contains(got, kind.String()) {
				t.Errorf("the initiator hears %q, want %s", got, kind)
			}
		})
	}
}

// TestRefusedProofIsExplained holds that who is refused, and who refuses, learns of all
// that goes into a proof, and not only of identities and keys.
func TestRefusedProofIsExplained(t *testing.T) {
	rsaKey := func() crypto.Signer {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		return key
	}
	ppks := func(a, b *Config) { a.PPKs, b.PPKs = storyPPKs([]string{"shared:x"}), storyPPKs([]string{"shared:y"}) }
	untrusted := func(newKey func() crypto.Signer) func(a, b *Config) {
		return func(a, b *Config) {
			withCertificates(newAuthority("CA", newKey))(a, b)
			b.Peer.Roots = ident.NewRoots(newAuthority("Other CA", newKey).cert)
		}
	}
	for name, c := range map[string]struct {
		change  func(a, b *Config)
		atA     string
		atB     string
		neither string
	}{
		"PPK of another value": {ppks, `the post-quantum preshared key "shared"`, `the post-quantum preshared key "shared"`, "RSA"},
		"PPK required": {func(a, b *Config) {
			ppks(a, b)
			a.PPKRequired, b.PPKRequired = true, true
		}, `the post-quantum preshared key "shared"`, `the post-quantum preshared key "shared"`, "RSA"},
		"PPK and certificates": {func(a, b *Config) {
			withCertificates(newAuthority("CA", newEd25519))(a, b)
			ppks(a, b)
		}, `the post-quantum preshared key "shared"`, `the post-quantum preshared key "shared"`, "RSA"},
		"RSA":     {untrusted(rsaKey), "PKCS #1 v1.5", "add its authority", "post-quantum"},
		"Ed25519": {untrusted(newEd25519), "compare the identities", "add its authority", "PKCS"},
		"PKCS": {func(a, b *Config) {
			untrusted(rsaKey)(a, b)
			a.Credentials.RSA = ident.RSAPaddingPKCS1v15
		}, "RSASSA-PSS", "add its authority", "post-quantum"},
	} {
		t.Run(name, func(t *testing.T) {
			w := pair(1, c.change)
			w.a.without = wire.NotifyUsePPKInt // RFC 9867 would find the key out before
			w.b.step(Connect{})
			w.a.step(Connect{})
			w.settle()
			for _, side := range []struct {
				n    *node
				want string
			}{{w.a, c.atA}, {w.b, c.atB}} {
				if side.n.failed == nil {
					t.Fatalf("%s does not fail", side.n.name)
				}
				if got := side.n.failed.Remedy; !strings.Contains(got, side.want) || strings.Contains(got, c.neither) {
					t.Errorf("%s is told to %q; that should name %q and not %q", side.n.name, got, side.want, c.neither)
				}
			}
		})
	}
}
