package session

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// The reports of an edge with ten thousand tunnels fit the controller's bound on
// messages (4 MiB), and hold each tunnel once.
func TestReportsOfManyTunnels(t *testing.T) {
	const n = 10000
	var tunnels []*swanherdv1.TunnelReport
	var counters []*swanherdv1.TunnelCounters
	var removed []string
	for i := range n {
		name := fmt.Sprintf("networks/production/tunnels/edge-%05d-broadband--hub-lte", i)
		sa := &swanherdv1.ChildSa{Name: "lan", SpiIn: "c0ffee00", SpiOut: "deadbeef", Suite: "AES_GCM_16_256/CURVE_25519/ESN"}
		for j := range 8 {
			sa.LocalTs = append(sa.LocalTs, fmt.Sprintf("2001:db8:%x:%x::/64", i, j))
			sa.RemoteTs = append(sa.RemoteTs, fmt.Sprintf("2001:db8:ffff:%x::/64", j))
		}
		tunnels = append(tunnels, &swanherdv1.TunnelReport{Tunnel: name, ChildSas: []*swanherdv1.ChildSa{sa}})
		counters = append(counters, &swanherdv1.TunnelCounters{Tunnel: name, Children: []*swanherdv1.ChildCounters{{
			SpiIn: sa.SpiIn, Counters: &swanherdv1.SaCounters{OctetsIn: 1 << 60, OctetsOut: 1 << 60, PacketsIn: 1 << 50, PacketsOut: 1 << 50},
		}}})
		removed = append(removed, name)
	}
	if whole := proto.Size(&swanherdv1.StatusReport{Tunnels: tunnels}); whole <= 4<<20 {
		t.Fatalf("the reports together have %d octets: too few to show anything", whole)
	}

	reported, gone := 0, 0
	for i, r := range splitReport(true, tunnels, removed) {
		if size := proto.Size(r); size > maxReportBytes+16 || size == 0 {
			t.Errorf("report %d has %d octets", i, size)
		}
		if r.GetFull() != (i == 0) {
			t.Errorf("report %d: full = %v", i, r.GetFull())
		}
		for _, m := range r.GetTunnels() {
			if m != tunnels[reported] {
				t.Fatalf("report %d: %s out of order", i, m.GetTunnel())
			}
			reported++
		}
		gone += len(r.GetRemoved())
	}
	if reported != n || gone != n {
		t.Errorf("%d tunnels reported and %d removed, want %d of each", reported, gone, n)
	}

	counted := 0
	for i, r := range splitCounters(counters) {
		if size := proto.Size(r); size > maxReportBytes {
			t.Errorf("counters %d have %d octets", i, size)
		}
		counted += len(r.GetTunnels())
	}
	if counted != n {
		t.Errorf("counters of %d tunnels, want %d", counted, n)
	}
}

// An edge without tunnels says so, and has no counters to send.
func TestReportsOfNoTunnels(t *testing.T) {
	if r := splitReport(true, nil, nil); len(r) != 1 || !r[0].GetFull() {
		t.Errorf("reports = %v, want one full and empty", r)
	}
	if r := splitCounters(nil); len(r) != 0 {
		t.Errorf("counters = %v, want none", r)
	}
}
