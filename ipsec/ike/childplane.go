package ike

import (
	"math"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// What a Child SA is to the data plane.

// takeOutbound returns the operations that move outgoing traffic of this name
// to c.
func (c *childSA) takeOutbound() []dataplane.Op {
	if c.sending || c.outboundKey == nil {
		return nil
	}
	ops := []dataplane.Op{dataplane.InstallSA{SA: c.plane(dataplane.Outbound, c.outboundKey)}}
	c.outboundKey, c.sending = nil, true
	for _, o := range c.t.children {
		if o != c && o.name == c.name && o.sending {
			o.sending = false
			ops = append(ops, dataplane.RemoveSA{Tunnel: c.t.cfg.Name, SPI: o.outbound, Direction: dataplane.Outbound})
		}
	}
	return ops
}

// plane describes one direction of c.
func (c *childSA) plane(d dataplane.Direction, key []byte) dataplane.SA {
	at := c.ike.endpoints()
	sa := dataplane.SA{
		Tunnel: c.t.cfg.Name, Child: c.first, Queue: c.queue, Direction: d, Mode: c.mode,
		Local: at.local, Remote: at.remote, TCP: at.tcp, Suite: c.suite, Key: key,
		LocalTS: c.localTS, RemoteTS: c.remoteTS, Label: c.label, SPI: c.inbound, PeerSPI: c.outbound,
	}
	sa.PathMTU = c.t.pathMTU.at(c.ike.placed.route)
	sa.Translated = c.mode == dataplane.Transport && (c.ike.localNAT || c.ike.remoteNAT)
	if d == dataplane.Outbound {
		sa.SPI, sa.PeerSPI = c.outbound, c.inbound
	}
	if cfg := c.t.cfg.child(c.name); cfg != nil {
		sa.LocalTS, sa.RemoteTS = cfg.carried(sa.LocalTS, sa.RemoteTS)
		sa.ReplayWindow = cfg.ReplayWindow
		sa.Limits = c.t.limits(cfg)
		if d == dataplane.Outbound && c.mode == dataplane.Tunnel {
			c.appearance(&sa, cfg)
		}
	}
	return sa
}

// appearance has the packets of sa look as configured. Nothing is hidden from who
// looks at AH, nor with padding that the peer does not take (RFC 7296, Section 1.3.1);
// dummy packets every receiver must (RFC 4303, Section 2.6).
func (c *childSA) appearance(sa *dataplane.SA, cfg *ChildConfig) {
	sa.Outer = cfg.Outer
	if c.suite.AH {
		return
	}
	sa.TFC = cfg.TFC
	if c.noTFC {
		sa.TFC.PadTo = 0
	}
}

// limits are those of volume; a tenth more is allowed while the SA is being
// replaced.
func (t *Tunnel) limits(cfg *ChildConfig) dataplane.Limits {
	vary := func(n uint64) uint64 { return n - uint64(t.fraction()*t.timing.Jitter*float64(n)) }
	over := func(n uint64) uint64 {
		if n > math.MaxUint64-n/10 {
			return math.MaxUint64
		}
		return n + n/10
	}
	return dataplane.Limits{
		SoftBytes: vary(cfg.RekeyBytes), HardBytes: over(cfg.RekeyBytes),
		SoftPackets: vary(cfg.RekeyPackets), HardPackets: over(cfg.RekeyPackets),
	}
}
