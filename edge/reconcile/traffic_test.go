package reconcile

import (
	"fmt"
	"slices"
	"testing"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ts"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// TestTrafficClasses: users and servers of a service see the same traffic, each from its
// side, and what only a code point tells is of either direction.
func TestTrafficClasses(t *testing.T) {
	classes := trafficClasses([]*swanherdv1.TrafficClass{{
		Id: "voice", Matches: []*swanherdv1.TrafficMatch{
			{Dscp: []uint32{46, 34}},
			{Protocol: swanherdv1.TrafficMatch_PROTOCOL_UDP, Ports: []*swanherdv1.PortRange{{First: 5060}, {First: 16384, Last: 32767}}},
		},
	}, {
		Id: "erp", Matches: []*swanherdv1.TrafficMatch{{
			Prefixes: []string{"10.9.0.0/16", "2001:db8:9::/48"}, Protocol: swanherdv1.TrafficMatch_PROTOCOL_TCP, Ports: []*swanherdv1.PortRange{{First: 443}},
		}, {
			Prefixes: []string{"10.9.0.1/32", "2001:db8:9::1/128"}, Protocol: swanherdv1.TrafficMatch_PROTOCOL_ICMP,
		}},
	}})
	r := dataplane.Ranking{}
	var names []string
	for _, c := range classes {
		for _, m := range c.Matches {
			r.Classes, names = append(r.Classes, m), append(names, c.ID)
		}
	}
	names = append(names, "none")
	if err := r.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		packet string
		dscp   uint8
		want   string
	}{
		{"10.1.0.1[udp/40000] 10.2.0.1[udp/5060]", 0, "voice"},
		{"10.1.0.1[udp/5060] 10.2.0.1[udp/40000]", 0, "voice"},
		{"10.1.0.1[udp/5061] 10.2.0.1[udp/5061]", 0, "none"},
		{"10.1.0.1[udp/5061] 10.2.0.1[udp/5061]", 34, "voice"},
		{"2001:db8::1[udp/40000] 2001:db8::2[udp/32767]", 0, "voice"},
		{"10.1.0.1[tcp/5060] 10.2.0.1[tcp/5060]", 0, "none"},
		{"10.1.0.1[tcp/40000] 10.9.7.1[tcp/443]", 0, "erp"},
		{"10.9.7.1[tcp/443] 10.1.0.1[tcp/40000]", 0, "erp"},
		{"10.9.7.1[tcp/40000] 10.1.0.1[tcp/443]", 0, "none"},
		{"2001:db8:9::5[tcp/443] 2001:db8::1[tcp/1]", 0, "erp"},
		{"10.1.0.1[tcp/1] 10.9.7.1[tcp/80]", 46, "voice"},
		{"10.9.0.1[icmp/8] 10.1.0.1[icmp/8]", 0, "erp"},
		{"2001:db8::1[ipv6-icmp/128] 2001:db8:9::1[ipv6-icmp/128]", 0, "erp"},
		{"10.9.0.2[icmp/8] 10.1.0.1[icmp/8]", 0, "none"},
	} {
		var from, to string
		if _, err := fmt.Sscan(tt.packet, &from, &to); err != nil {
			t.Fatal(err)
		}
		source, err := ts.Parse(from)
		if err != nil {
			t.Fatal(err)
		}
		destination, err := ts.Parse(to)
		if err != nil {
			t.Fatal(err)
		}
		got := names[r.Class(ts.Packet{
			Source: source.First, Destination: destination.First, Protocol: source.Protocol,
			SourcePort: source.StartPort, DestinationPort: destination.StartPort,
		}, tt.dscp)]
		if got != tt.want {
			t.Errorf("%s of DSCP %d is of class %s, want %s", tt.packet, tt.dscp, got, tt.want)
		}
	}
	if n := len(slices.Concat(classes[0].Matches, classes[1].Matches)); n != 7 {
		t.Errorf("%d matches, want one of the code points and two of each service", n)
	}
}
