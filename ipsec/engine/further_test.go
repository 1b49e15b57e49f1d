package engine

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane/memory"
	"github.com/swanherd/swanherd/ipsec/ike"
)

// A peer that is not where it is tried first is tried at its further endpoints, each with its
// own port: one that NATs make.
func TestFurtherEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		outside := netip.MustParseAddrPort("203.0.113.7:31022")
		a, b := startNode(t, sw, "a.example", addrA), startNode(t, sw, "b.example", addrB)
		tried := map[netip.AddrPort]bool{}
		sw.SetFilter(func(d *memory.Datagram) []time.Duration {
			if d.From == addrA {
				tried[d.To] = true
			}
			switch { // a NAT in front of b
			case d.To == outside:
				d.To = addrB
			case d.From == addrB:
				d.From = outside
			case d.From == addrA:
				return nil
			}
			return []time.Duration{0}
		})
		b.apply([]TunnelConfig{b.tunnelConfig("to-a", ike.RoleResponder, a, lan(2, 0), lan(1, 0))}, Added)
		c := a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0))
		c.Further = []netip.AddrPort{netip.MustParseAddrPort("203.0.113.9:1"), outside}
		a.apply([]TunnelConfig{c}, Added)
		a.waitState("to-b", ike.StateUp, time.Minute)
		if s := a.status("to-b").IKE[0]; s.Remote != outside || !s.RemoteNAT {
			t.Errorf("connected with %+v", s)
		}
		if !tried[addrB] || !tried[c.Further[0]] {
			t.Errorf("tried %v", tried)
		}
		ping(t, a, b, lan(1, 0), lan(2, 0))
		ping(t, b, a, lan(2, 0), lan(1, 0))
		c.Further = []netip.AddrPort{netip.MustParseAddrPort("203.0.113.9:0")}
		if r := a.Apply([]TunnelConfig{c}); r[0].Err == nil {
			t.Error("an endpoint without a port is taken")
		}
	})
}
