package engine

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane/memory"
	"github.com/swanherd/swanherd/ipsec/ike"
)

// A peer behind a NAT comes from an address that nobody configured; when the
// NAT forgets its mapping the responder follows, IKE and data plane as one, on
// the evidence of the first packet that passes authentication (RFC 7296,
// Section 2.23). With MOBIKE that is a packet of a Child SA, or the initiator
// learns of it when it asks for a sign of life (RFC 4555, Section 3.8).
func TestPeerBehindNAT(t *testing.T) {
	first := netip.MustParseAddrPort("198.51.100.7:32001")
	second := netip.MustParseAddrPort("198.51.100.8:40000")
	traffic := func(t *testing.T, a, b *node) { ping(t, a, b, lan(1, 0), lan(2, 0)) }
	for name, test := range map[string]struct {
		mobike  bool
		limit   time.Duration
		provoke func(t *testing.T, a, b *node)
	}{
		"found by traffic":             {false, time.Second, traffic},
		"found by traffic with MOBIKE": {true, time.Second, traffic},
		"found by IKE": {false, time.Second, func(t *testing.T, a, _ *node) {
			if err := a.RekeyChild("to-b", ""); err != nil {
				t.Fatal(err)
			}
		}},
		"found by a liveness check": {true, 40 * time.Second, func(*testing.T, *node, *node) {}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sw := memory.NewSwitch()
				sw.SetFilter(memory.NAT(addrA, first))
				a := startNode(t, sw, "a.example", addrA)
				b := startNode(t, sw, "b.example", addrB)
				cb := b.tunnelConfig("to-a", ike.RoleResponder, a, lan(2, 0), lan(1, 0))
				cb.Remote = netip.AddrPort{}
				b.apply([]TunnelConfig{cb}, Added)
				ca := a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0))
				ca.Mobility.Disable = !test.mobike
				a.apply([]TunnelConfig{ca}, Added)
				a.waitState("to-b", ike.StateUp, time.Minute)
				b.waitState("to-a", ike.StateUp, time.Minute)
				if s := b.status("to-a").IKE[0]; s.Remote != first || !s.RemoteNAT || s.LocalNAT {
					t.Errorf("the responder sees %+v", s)
				}
				if s := a.status("to-b").IKE[0]; !s.LocalNAT || s.RemoteNAT {
					t.Errorf("the initiator sees %+v", s)
				}
				ping(t, a, b, lan(1, 0), lan(2, 0))
				ping(t, b, a, lan(2, 0), lan(1, 0))
				spi := b.status("to-a").IKE[0].LocalSPI

				sw.SetFilter(memory.NAT(addrA, second))
				test.provoke(t, a, b)
				within(t, test.limit, "the responder follows", func() bool { return b.plane.SAs()[0].Remote == second })
				if got := b.status("to-a").IKE[0].Remote; got != second {
					t.Errorf("the data plane moved, and IKE is at %s", got)
				}
				for _, sa := range b.plane.SAs() {
					if sa.Remote != second {
						t.Errorf("the data plane still sends to %s", sa.Remote)
					}
				}
				ping(t, b, a, lan(2, 0), lan(1, 0))
				ping(t, a, b, lan(1, 0), lan(2, 0))
				if got := b.status("to-a").IKE[0].LocalSPI; got != spi {
					t.Error("the move cost the IKE SA")
				}
			})
		})
	}
}

func TestCloseDoesNotWaitForADeadPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		a, b := pair(t, sw)
		sw.SetFilter(memory.Lose)
		a.apply(nil, Removed)
		within(t, 3*time.Second, "the tunnel is gone", func() bool { return len(a.Status()) == 0 })
		if n := len(a.plane.SAs()) + len(a.plane.Policies()); n != 0 {
			t.Errorf("%d SAs and policies left in the data plane", n)
		}
		start := time.Now()
		b.stop()
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("Run took %v to end", took)
		}
	})
}
