package engine

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane/memory"
	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
)

// certify returns a function that gives nodes a certificate of one authority, and
// the authority.
func certify(t *testing.T) (func(id string) ident.Local, *ident.Roots) {
	t.Helper()
	issue := func(template, parent *x509.Certificate, by ed25519.PrivateKey) (*x509.Certificate, ed25519.PrivateKey) {
		public, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if by == nil {
			by = key
		}
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, public, by)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	self := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	authority, by := issue(self, self, nil)
	roots := ident.NewRoots(authority)
	serial := int64(1)
	return func(id string) ident.Local {
		serial++
		cert, key := issue(&x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: id}, DNSNames: []string{id},
			KeyUsage: x509.KeyUsageDigitalSignature,
		}, authority, by)
		return ident.Local{ID: mustID(t, id), Signer: key, Chain: []*x509.Certificate{cert}}
	}, roots
}

// A peer whose certificate is revoked loses its tunnel when the engine is told, and
// does not get it back; when it is revoked no longer, it does.
func TestRevokedPeerLosesItsTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		a, b := startNode(t, sw, "a.example", addrA), startNode(t, sw, "b.example", addrB)
		credentials, roots := certify(t)
		var revoked atomic.Bool
		configure := func(n, peer *node, c TunnelConfig) []TunnelConfig {
			c.Credentials = credentials(n.id)
			c.Peer = ident.Remote{ID: mustID(t, peer.id), Roots: roots}
			if n == b {
				c.Peer.CheckRevoked = func(*x509.Certificate) error {
					if revoked.Load() {
						return errors.New("it is on the list")
					}
					return nil
				}
			}
			return []TunnelConfig{c}
		}
		b.apply(configure(b, a, b.tunnelConfig("to-a", ike.RoleResponder, a, lan(2, 0), lan(1, 0))), Added)
		a.apply(configure(a, b, a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0))), Added)
		a.waitState("to-b", ike.StateUp, 10*time.Second)
		ping(t, a, b, lan(1, 0), lan(2, 0))
		before := b.status("to-a").IKE[0].LocalSPI

		b.Revalidate()
		synctest.Wait()
		if s := b.status("to-a"); s.State != ike.StateUp || s.IKE[0].LocalSPI != before {
			t.Fatalf("looked at again, nothing was revoked, and the tunnel is %s", s.State)
		}
		revoked.Store(true)
		b.Revalidate()
		within(t, time.Second, "no SA is left of a peer that was revoked", func() bool {
			return b.status("to-a").State != ike.StateUp && len(b.plane.SAs()) == 0 && len(a.plane.SAs()) == 0
		})
		time.Sleep(10 * time.Minute)
		if n := len(b.plane.SAs()); n != 0 {
			t.Fatalf("%d SAs with a peer that is revoked", n)
		}
		revoked.Store(false)
		a.waitState("to-b", ike.StateUp, 10*time.Minute)
		ping(t, a, b, lan(1, 0), lan(2, 0))
	})
}

// Reauthentication on demand makes a new IKE SA and new Child SAs before the old ones
// go. Two tunnels are between the same identities: neither is taken for the other's
// successor (RFC 7296, Section 2.4, INITIAL_CONTACT).
func TestReauthenticate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		a, b := pair(t, sw)
		first := a.status("to-b").IKE[0].LocalSPI
		a.apply([]TunnelConfig{
			a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0)),
			a.tunnelConfig("to-b-2", ike.RoleInitiator, b, lan(1, 1), lan(2, 1)),
		}, Changed, Added)
		b.apply([]TunnelConfig{
			b.tunnelConfig("to-a", ike.RoleResponder, a, lan(2, 0), lan(1, 0)),
			b.tunnelConfig("to-a-2", ike.RoleResponder, a, lan(2, 1), lan(1, 1)),
		}, Changed, Added)
		a.waitState("to-b-2", ike.StateUp, time.Minute)
		b.waitState("to-a-2", ike.StateUp, time.Minute)
		ping(t, a, b, lan(1, 1), lan(2, 1))
		ping(t, a, b, lan(1, 0), lan(2, 0))
		if got := a.status("to-b").IKE[0].LocalSPI; got != first {
			t.Error("the second tunnel of the same identities cost the first its IKE SA")
		}

		a.apply([]TunnelConfig{a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0))}, Changed, Removed)
		b.apply([]TunnelConfig{b.tunnelConfig("to-a", ike.RoleResponder, a, lan(2, 0), lan(1, 0))}, Changed, Removed)
		time.Sleep(time.Minute)
		if err := a.Reauthenticate("to-b"); err != nil {
			t.Fatal(err)
		}
		within(t, time.Minute, "another IKE SA, and none but it", func() bool {
			ping(t, a, b, lan(1, 0), lan(2, 0))
			ping(t, b, a, lan(2, 0), lan(1, 0))
			sa, sb := a.status("to-b").IKE, b.status("to-a").IKE
			return len(sa) == 1 && len(sb) == 1 && sa[0].LocalSPI != first && sb[0].RemoteSPI == sa[0].LocalSPI
		})
		if err := a.Reauthenticate("nobody"); err == nil {
			t.Error("a tunnel that does not exist was reauthenticated")
		}
	})
}
