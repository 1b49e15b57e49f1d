package engine

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane/memory"
	"github.com/swanherd/swanherd/ipsec/ike"
)

// TestRedirect: a hub that is about to be shut down sends its peers to another one,
// those that are up and those that come; traffic goes on (RFC 5685).
func TestRedirect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		a := startNode(t, sw, "a.example", addrA)
		b := startNode(t, sw, "b.example", addrB)
		twin := startNode(t, sw, "b.example", netip.MustParseAddrPort("192.0.2.9:4500"))
		hub := func(n *node, to ike.Gateway) []TunnelConfig {
			c := n.tunnelConfig("to-a", ike.RoleResponder, a, lan(2, 0), lan(1, 0))
			c.RedirectTo = to
			return []TunnelConfig{c}
		}
		there := ike.Gateway{Addr: twin.addr}
		b.apply(hub(b, ike.Gateway{}), Added)
		twin.apply(hub(twin, ike.Gateway{}), Added)
		ca := a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0))
		ca.Gateways = []ike.Gateway{there}
		a.apply([]TunnelConfig{ca}, Added)
		a.waitState("to-b", ike.StateUp, 10*time.Second)
		ping(t, a, b, lan(1, 0), lan(2, 0))

		b.apply(hub(b, there), Changed)
		within(t, time.Second, "a is at the other hub", func() bool {
			s := a.status("to-b")
			return s.State == ike.StateUp && s.IKE[len(s.IKE)-1].Remote == twin.addr
		})
		within(t, time.Minute, "the hub has no SAs left", func() bool { return len(b.plane.SAs()) == 0 })
		ping(t, a, twin, lan(1, 0), lan(2, 0))
		ping(t, twin, a, lan(2, 0), lan(1, 0))

		// Who comes anew is sent on before it costs anything.
		begun := b.Counters().Handshakes
		a.apply(nil, Removed)
		within(t, time.Minute, "the tunnel is closed", func() bool { return len(a.plane.SAs()) == 0 })
		a.apply([]TunnelConfig{ca}, Added)
		a.waitState("to-b", ike.StateUp, time.Minute)
		ping(t, a, twin, lan(1, 0), lan(2, 0))
		if c := b.Counters(); c.HalfOpen != 0 || c.Handshakes != begun+1 {
			t.Errorf("%d half open, %d handshakes begun for a peer that was sent on", c.HalfOpen, c.Handshakes-begun)
		}
	})
}
