package engine

import (
	"crypto/x509"
	"net/netip"
	"testing"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
)

// TestWelcomeUnitesRoots holds that a stranger is asked for certificates of all
// authorities of the tunnels that it may be, and of no others.
func TestWelcomeUnitesRoots(t *testing.T) {
	root := func(s string) *ident.Roots {
		return ident.NewRoots(&x509.Certificate{Raw: []byte(s), RawSubjectPublicKeyInfo: []byte(s)})
	}
	one, two, three := root("one"), root("two"), root("three")
	known, other := netip.MustParseAddrPort("192.0.2.1:500"), netip.MustParseAddrPort("192.0.2.9:500")
	tunnel := func(role ike.Role, remote netip.AddrPort, id string, roots *ident.Roots) target {
		c := TunnelConfig{Role: role, Remote: remote, Peer: ident.Remote{Roots: roots}}
		if id != "" {
			c.Peer.ID = mustID(t, id)
		}
		return target{config: &c}
	}
	m := newMatcher([]target{
		tunnel(ike.RoleResponder, known, "", one),
		tunnel(ike.RoleResponder, netip.AddrPort{}, "b.example", two),
		tunnel(ike.RoleResponder, netip.AddrPort{}, "c.example", two),
		tunnel(ike.RoleInitiator, other, "d.example", three),
	}, ike.Runtime{})
	for at, want := range map[netip.Addr]*ident.Roots{
		known.Addr(): ident.UnionRoots(one, two),
		other.Addr(): two,
	} {
		if got := m.welcome(at).config.Roots; !got.Equal(want) {
			t.Errorf("welcome of %s asks for %v, want %v", at, got.Request(), want.Request())
		}
	}
	if w := newMatcher([]target{tunnel(ike.RoleResponder, known, "", nil)}, ike.Runtime{}).welcome(known.Addr()).config; w.Roots != nil {
		t.Errorf("a tunnel with a pre-shared key asks for certificates of %v", w.Roots.Request())
	}
}
