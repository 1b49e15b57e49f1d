package engine

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane/memory"
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

// TestEqualTunnels holds that of several tunnels between the same two identities and
// addresses each finds its counterpart by what it is for: at first, and when the ends
// authenticate again while all of them are up.
func TestEqualTunnels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		a, b := startNode(t, sw, "a.example", addrA), startNode(t, sw, "b.example", addrB)
		const count = 3
		var as, bs []TunnelConfig
		for n := range count {
			bs = append(bs, b.tunnelConfig(fmt.Sprint("to-a-", n), ike.RoleResponder, a, lan(2, n), lan(1, n)))
			as = append(as, a.tunnelConfig(fmt.Sprint("to-b-", n), ike.RoleInitiator, b, lan(1, n), lan(2, n)))
		}
		b.apply(bs, Added, Added, Added)
		for n := count; n > 0; n-- { // the last one first
			a.Apply(as[n-1:])
			a.waitState(as[n-1].Name, ike.StateUp, 10*time.Second)
			time.Sleep(5 * time.Second)
		}
		spis := func() (list []string) {
			for _, c := range bs {
				b.waitState(c.Name, ike.StateUp, 10*time.Second)
				list = append(list, b.status(c.Name).IKE[0].RemoteSPI.String())
			}
			return list
		}
		for n := range count {
			before := spis()
			if err := a.Reauthenticate(as[n].Name); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			for i, now := range spis() {
				if (now != before[i]) != (i == n) {
					t.Errorf("%s was authenticated again: the IKE SA of %s was %s and is %s", as[n].Name, bs[i].Name, before[i], now)
				}
				ping(t, a, b, lan(1, i), lan(2, i))
				ping(t, b, a, lan(2, i), lan(1, i))
			}
		}
	})
}
