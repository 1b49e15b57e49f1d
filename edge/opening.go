package edge

import (
	"context"
	"net/netip"
	"time"

	"github.com/swanherd/swanherd/edge/nat"
	"github.com/swanherd/swanherd/edge/state"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// openInterval is how often it is looked which tunnels wait for their peers.
const openInterval = time.Second

// openNATs sends to the peers of tunnels that wait for these behind a NAT of this edge, until
// ctx ends.
func (a *agent) openNATs(ctx context.Context) {
	var opener nat.Opener
	var known *state.Intent
	var tunnels []*swanherdv1.TunnelIntent
	tick := time.NewTicker(openInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if i := a.runner.Running(); i != known {
				known, tunnels = i, openedBy(i)
			}
			if len(tunnels) == 0 {
				continue
			}
			opener.Set(now, openings(tunnels, a.tracker.Established(), a.uplinks.Current()))
			for _, o := range opener.Step(now) {
				if err := a.engine.SendKeepAlive(o.Local, o.Remote); err != nil {
					a.cfg.Logger.Debug("cannot open the NAT for a peer", "tunnel", o.Tunnel, "remote", o.Remote, "error", err)
				}
			}
		}
	}
}

// openedBy are the tunnels of an intent whose NAT this edge opens.
func openedBy(i *state.Intent) (out []*swanherdv1.TunnelIntent) {
	for _, t := range i.EdgeIntent().GetTunnels() {
		if t.GetOpenNat() {
			out = append(out, t)
		}
	}
	return out
}

// openings are where to send for those tunnels that are down, from the uplink of each.
func openings(tunnels []*swanherdv1.TunnelIntent, up map[string]bool, uplinks []*swanherdv1.Uplink) (out []nat.Opening) {
	for _, t := range tunnels {
		if up[t.GetName()] {
			continue
		}
		for _, e := range t.GetRemoteEndpoints() {
			addr, err := netip.ParseAddr(e.GetAddress())
			if err != nil || e.GetPort() == 0 {
				continue
			}
			if local, ok := localOf(uplinks, t.GetUplink(), addr); ok {
				out = append(out, nat.Opening{Tunnel: t.GetName(), Local: local, Remote: netip.AddrPortFrom(addr, uint16(e.GetPort()))})
			}
		}
	}
	return out
}

// localOf is an uplink's first address of the peer's family, and the port of IKE and ESP.
func localOf(uplinks []*swanherdv1.Uplink, name string, peer netip.Addr) (netip.AddrPort, bool) {
	for _, up := range uplinks {
		for _, text := range up.GetAddresses() {
			addr, err := netip.ParseAddr(text)
			if err == nil && up.GetName() == name && addr.Is4() == peer.Is4() && addr.IsGlobalUnicast() {
				return netip.AddrPortFrom(addr, uint16(up.GetPort())), true
			}
		}
	}
	return netip.AddrPort{}, false
}
