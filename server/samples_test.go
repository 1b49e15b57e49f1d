package server

import (
	"testing"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/history"
)

// end is a tunnel's end with SAs that have counted so much, by SPI.
func end(edge string, octets map[string]uint64) *swanherdv1.TunnelEnd {
	r := &swanherdv1.TunnelReport{}
	for spi, n := range octets {
		r.ChildSas = append(r.ChildSas, &swanherdv1.ChildSa{SpiIn: spi, Counters: &swanherdv1.SaCounters{
			OctetsIn: n, PacketsIn: n / 100, OctetsOut: 2 * n, PacketsOut: n / 50, ReplayDrops: n / 1000, PolicyDrops: n / 1000,
		}})
	}
	return &swanherdv1.TunnelEnd{Edge: edge, Report: r}
}

// Whatever becomes of SAs and sessions, what went through is counted once, and what may
// have gone through before somebody looked is not.
func TestSamples(t *testing.T) {
	const (
		name   = "networks/demo/tunnels/t"
		up     = swanherdv1.TunnelStatus_TUNNEL_STATUS_UP
		down   = swanherdv1.TunnelStatus_TUNNEL_STATUS_DOWN
		stale  = swanherdv1.TunnelStatus_TUNNEL_STATUS_STALE
		octets = 5000
	)
	var now *fleet.Seen
	s := &sampler{seen: func() []fleet.Seen {
		if now == nil {
			return nil
		}
		return []fleet.Seen{*now}
	}}
	for _, step := range []struct {
		what        string
		status      swanherdv1.TunnelStatus
		end         *swanherdv1.TunnelEnd
		gone        bool
		samples, up uint64
		in          uint64
	}{
		{what: "first seen", status: up, end: end("a", map[string]uint64{"1": 7000}), samples: 1, up: 1},
		{what: "idle", status: up, end: end("a", map[string]uint64{"1": 7000}), samples: 1, up: 1},
		{what: "busy", status: up, end: end("a", map[string]uint64{"1": 9000}), samples: 1, up: 1, in: 2000},
		{what: "rekeyed, both there", status: up, end: end("a", map[string]uint64{"1": 10000, "2": 500}), samples: 1, up: 1, in: 1500},
		{what: "rekeyed", status: up, end: end("a", map[string]uint64{"2": 1500}), samples: 1, up: 1, in: 1000},
		{what: "an SPI again", status: up, end: end("a", map[string]uint64{"2": 300}), samples: 1, up: 1, in: 300},
		{what: "down", status: down, end: end("a", nil), samples: 1},
		{what: "the other end counts", status: up, end: end("b", map[string]uint64{"9": octets}), samples: 1, up: 1},
		{what: "and goes on", status: up, end: end("b", map[string]uint64{"9": octets + 100}), samples: 1, up: 1, in: 100},
		{what: "nobody knows", status: stale},
		{what: "after a while", status: up, end: end("b", map[string]uint64{"9": 90000}), samples: 1, up: 1},
		{what: "with another replica", gone: true},
		{what: "and back", status: up, end: end("b", map[string]uint64{"9": 99000}), samples: 1, up: 1},
	} {
		now = nil
		if !step.gone {
			now = &fleet.Seen{Tunnel: &swanherdv1.Tunnel{Name: name, Status: step.status}, End: step.end}
		}
		got := s.sample(time.Time{})
		want := history.Point{Samples: step.samples, Up: step.up, OctetsIn: step.in, OctetsOut: 2 * step.in, PacketsIn: step.in / 100, PacketsOut: step.in / 50}
		have := got[name]
		have.Drops = 0
		if have != want || got["networks/demo"] != got[name] {
			t.Errorf("%s: %+v, want %+v; the network %+v", step.what, have, want, got["networks/demo"])
		}
	}
}

// What probes show is counted once too, also when a path is probed anew.
func TestSamplesOfProbes(t *testing.T) {
	const name = "networks/demo/tunnels/t"
	var e *swanherdv1.TunnelEnd
	s := &sampler{seen: func() []fleet.Seen {
		return []fleet.Seen{{Tunnel: &swanherdv1.Tunnel{Name: name, Status: swanherdv1.TunnelStatus_TUNNEL_STATUS_UP}, End: e}}
	}}
	for _, step := range []struct {
		what          string
		edge          string
		probes, lost  uint64
		missing       uint64
		want          history.Point
		withoutProbes bool
	}{
		{what: "first seen", edge: "a", probes: 1000, lost: 10, missing: 7},
		{what: "more", edge: "a", probes: 1100, lost: 12, missing: 9, want: history.Point{Missing: 2, Probes: 100, ProbesLost: 2, RTT: 98000, Jitter: 9800, Jitters: 98}},
		{what: "anew", edge: "a", probes: 20, lost: 1, missing: 9, want: history.Point{Probes: 20, ProbesLost: 1, RTT: 19000, Jitter: 1900, Jitters: 19}},
		{what: "none", edge: "a", missing: 9, withoutProbes: true},
		{what: "and again", edge: "a", probes: 5000, missing: 9},
		{what: "the other end", edge: "b", probes: 9000},
	} {
		e = end(step.edge, map[string]uint64{"1": 0})
		e.Report.ChildSas[0].Counters.Missing = step.missing
		if !step.withoutProbes {
			answers := step.probes - step.lost
			e.Report.Quality = &swanherdv1.PathQuality{
				Probes: step.probes, ProbesLost: step.lost, RttSumUs: 1000 * answers, JitterSumUs: 100 * answers, JitterCount: answers,
			}
		}
		step.want.Samples, step.want.Up = 1, 1
		if got := s.sample(time.Time{})[name]; got != step.want {
			t.Errorf("%s: %+v, want %+v", step.what, got, step.want)
		}
	}
}
