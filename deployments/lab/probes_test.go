package lab_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/deployments/lab/wan"
)

// pathQuality is what the tests read of a tunnel's quality.
type pathQuality struct {
	Probes  int `json:"window_probes"`
	Lost    int `json:"window_lost"`
	LostOut int `json:"window_lost_out"`
	LostIn  int `json:"window_lost_in"`
	RTT     int `json:"rtt_avg_us"`
	P50     int `json:"rtt_p50_us"`
	Jitter  int `json:"jitter_out_us"`
}

func (q pathQuality) answered() int { return q.Probes - q.Lost }

// TestEdgesProbe has two edges measure what a line between them does to their tunnel: with
// probes in it, and by the gaps in what arrives.
func TestEdgesProbe(t *testing.T) {
	lab.Require(t, "ip")
	if testing.Short() {
		return // the agent is built without the race detector, and it waits for figures
	}
	p := newEdgePair(t, "psk")
	p.probed = "{maxLatency: 0.08s}"
	line := p.over()
	const ms = time.Millisecond
	line.Set(wan.Conditions{Delay: 20 * ms}, wan.Conditions{Delay: 10 * ms})
	p.start(0)
	p.start(1)
	p.check("at first")
	for i := range p.edges {
		s := p.awaitQuality(i, "figures", func(s tunnelStatus) bool { return s.Quality.answered() >= 20 })
		if s.Quality.P50 < 30_000 || s.Quality.P50 > 60_000 || len(s.Violations) != 0 {
			t.Errorf("over a line of 30 ms edge %d measures %+v", i, s)
		}
	}

	line.Set(wan.Conditions{Delay: 20 * ms, Jitter: 20 * ms, Loss: 0.3}, wan.Conditions{Delay: 10 * ms})
	p.awaitQuality(0, "loss out", func(s tunnelStatus) bool { return s.Quality.LostOut > s.Quality.LostIn && s.Quality.Jitter > 2000 })
	p.awaitQuality(1, "loss in", func(s tunnelStatus) bool {
		missing := 0
		for _, c := range s.ChildSAs {
			missing += c.Counters.Missing
		}
		return s.Quality.LostIn > s.Quality.LostOut && missing > 0
	})

	line.Set(wan.Conditions{Delay: 150 * ms}, wan.Conditions{Delay: 10 * ms})
	for i := range p.edges {
		p.awaitQuality(i, "a round trip over the SLA", func(s tunnelStatus) bool {
			return len(s.Violations) == 1 && s.Violations[0].Metric == "SLA_METRIC_LATENCY" && s.State == "TUNNEL_STATE_ESTABLISHED"
		})
	}
}

// over has the two hosts joined by a line in the place of their cable.
func (p *edgePair) over() *wan.Line {
	p.t.Helper()
	if out, err := p.edges[0].Run(p.ctx, "ip", "link", "del", "wan1"); err != nil {
		p.t.Fatalf("take the cable away: %v: %s", err, out)
	}
	n := lab.New()
	p.t.Cleanup(func() { n.Close() })
	between, err := n.Add("line")
	p.must(err)
	for i, port := range []string{"a", "b"} {
		address := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 24)
		p.must(n.Link(lab.End{Host: p.edges[i], Interface: "wan1", Addresses: []netip.Prefix{address}}, lab.End{Host: between, Interface: port}))
	}
	var line *wan.Line
	p.must(between.Do(func() error {
		line, err = wan.Join("a", "b", 1)
		return err
	}))
	p.t.Cleanup(func() { p.must(line.Close()) })
	return line
}

// awaitQuality waits until a status of the tunnel at an edge is as wanted, and returns it.
func (p *edgePair) awaitQuality(i int, what string, want func(tunnelStatus) bool) (last tunnelStatus) {
	p.t.Helper()
	for p.ctx.Err() == nil {
		if tunnels := p.tunnels(i); len(tunnels) == 1 {
			if last = tunnels[0]; want(last) {
				return last
			}
		}
	}
	p.t.Fatalf("edge %d shows no %s: %+v\n%s", i, what, last, p.status(i, "table"))
	return last
}
