package server

import (
	"strings"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/history"
)

// sampler makes points of history from what the fleet is, off the path of the reports.
// It is for one goroutine.
type sampler struct {
	seen func() []fleet.Seen
	// last is what was counted at the look before, by tunnel.
	last map[string]counted
}

// counted are the counters of one end's SAs, by SPI, and what its probes showed.
type counted struct {
	edge    string
	sas     map[string]*swanherdv1.SaCounters
	quality *swanherdv1.PathQuality
}

// sample looks at each tunnel, and sums up each network.
func (s *sampler) sample(time.Time) map[string]history.Point {
	out, next := map[string]history.Point{}, map[string]counted{}
	for _, seen := range s.seen() {
		name := seen.Tunnel.GetName()
		var p history.Point
		if end := seen.End; end != nil {
			now := countersOf(end)
			p = grown(s.last[name], now)
			next[name] = now
		}
		switch seen.Tunnel.GetStatus() {
		case swanherdv1.TunnelStatus_TUNNEL_STATUS_UP, swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED:
			p.Samples, p.Up = 1, 1
		case swanherdv1.TunnelStatus_TUNNEL_STATUS_DOWN, swanherdv1.TunnelStatus_TUNNEL_STATUS_NEGOTIATING:
			p.Samples = 1
		default:
			continue // nobody knows
		}
		out[name] = p
		network, _, _ := strings.Cut(name, "/tunnels/")
		out[network] = out[network].Plus(p)
	}
	s.last = next
	return out
}

func countersOf(end *swanherdv1.TunnelEnd) counted {
	c := counted{edge: end.GetEdge(), sas: map[string]*swanherdv1.SaCounters{}, quality: end.GetReport().GetQuality()}
	for _, sa := range end.GetReport().GetChildSas() {
		c.sas[sa.GetSpiIn()] = sa.GetCounters()
	}
	return c
}

// grown is what was counted between two looks. Of an end that was not looked at before
// nobody knows how long it took; an SA that is new to one that was, counts whole.
func grown(before, now counted) history.Point {
	var p history.Point
	if before.edge != now.edge {
		return p
	}
	for spi, c := range now.sas {
		old := before.sas[spi]
		if c.GetPacketsIn() < old.GetPacketsIn() || c.GetPacketsOut() < old.GetPacketsOut() { // another SA by the same SPI
			old = nil
		}
		p.OctetsIn += less(c.GetOctetsIn(), old.GetOctetsIn())
		p.OctetsOut += less(c.GetOctetsOut(), old.GetOctetsOut())
		p.PacketsIn += less(c.GetPacketsIn(), old.GetPacketsIn())
		p.PacketsOut += less(c.GetPacketsOut(), old.GetPacketsOut())
		p.Drops += less(drops(c), drops(old))
		p.Missing += less(c.GetMissing(), old.GetMissing())
	}
	measured(&p, before.quality, now.quality)
	return p
}

// measured adds what probes showed since the look before. Figures that went back are of a
// path that is probed anew; of those that were not there before nobody knows how long it
// took.
func measured(p *history.Point, before, now *swanherdv1.PathQuality) {
	if before == nil {
		return
	}
	if now.GetProbes() < before.GetProbes() || now.GetProbesLost() < before.GetProbesLost() {
		before = nil
	}
	p.Probes = less(now.GetProbes(), before.GetProbes())
	p.ProbesLost = less(now.GetProbesLost(), before.GetProbesLost())
	p.RTT = less(now.GetRttSumUs(), before.GetRttSumUs())
	p.Jitter = less(now.GetJitterSumUs(), before.GetJitterSumUs())
	p.Jitters = less(now.GetJitterCount(), before.GetJitterCount())
}

// less is a - b; 0 if an edge counts backwards.
func less(a, b uint64) uint64 { return a - min(a, b) }

func drops(c *swanherdv1.SaCounters) uint64 {
	return c.GetReplayDrops() + c.GetIntegrityFailures() + c.GetPolicyDrops()
}
