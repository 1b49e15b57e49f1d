package engine

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane/memory"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// manyNetworks makes IKE_AUTH too long for one datagram.
func manyNetworks(c *TunnelConfig, site int) {
	for i := range 100 {
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(site), byte(2 * i), 0}), 24)
		c.Children[0].LocalTS = append(c.Children[0].LocalTS, ts.FromPrefix(prefix))
	}
}

// Fragments of strangers that never become a message take no more room than
// there is, and do not keep out those whose messages come whole (RFC 7383, Section
// 5). What they take is given back when they are given up.
func TestReassemblyIsBoundedForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		const room = 1000
		b := startNode(t, sw, "b.example", addrB, func(c *Config) { c.Limits.Reassembly = room })
		a := startNode(t, sw, "a.example", addrA)
		c := startNode(t, sw, "c.example", netip.MustParseAddrPort("192.0.2.3:4500"))
		var configs []TunnelConfig
		for _, peer := range []*node{a, c} {
			configs = append(configs, b.tunnelConfig("to-"+peer.id, ike.RoleResponder, peer, lan(2, 0), lan(1, 0)))
		}
		b.apply(configs, Added, Added)
		sw.SetFilter(func(d *memory.Datagram) []time.Duration {
			if h, err := wire.ParseHeader(d.IKE); err == nil && h.NextPayload == wire.PayloadSKF && d.IKE[33] == 1 {
				return nil // the first of the fragments is lost, each time
			}
			return []time.Duration{0}
		})
		long := a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0))
		manyNetworks(&long, 1)
		a.apply([]TunnelConfig{long}, Added)
		within(t, time.Minute, "fragments find no room", func() bool { return b.Counters().Drops[DropReassembly] > 0 })
		whole := c.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0))
		whole.Proposals = suite.DefaultIKE()[1:] // ML-KEM does not fit one datagram
		c.apply([]TunnelConfig{whole}, Added)
		c.waitState("to-b", ike.StateUp, time.Minute)

		a.stop()
		within(t, 2*time.Minute, "nothing is half open", func() bool { return b.Counters().HalfOpen == 0 })
		b.stop()
		if b.front.held != 0 {
			t.Errorf("%d octets are accounted for nobody", b.front.held)
		}
	})
}

// The same message arrives when nothing is lost.
func TestLongMessageInFragments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		a, b := startNode(t, sw, "a.example", addrA), startNode(t, sw, "b.example", addrB)
		b.apply([]TunnelConfig{b.tunnelConfig("to-a", ike.RoleResponder, a, lan(2, 0), lan(1, 0))}, Added)
		long := a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0))
		manyNetworks(&long, 1)
		a.apply([]TunnelConfig{long}, Added)
		a.waitState("to-b", ike.StateUp, 5*time.Second)
	})
}
