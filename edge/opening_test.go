package edge

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/swanherd/swanherd/edge/nat"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func TestOpenings(t *testing.T) {
	tunnel := func(name, uplink string, endpoints ...*swanherdv1.PeerEndpoint) *swanherdv1.TunnelIntent {
		return &swanherdv1.TunnelIntent{Name: name, Uplink: uplink, RemoteEndpoints: endpoints, OpenNat: true}
	}
	outside := &swanherdv1.PeerEndpoint{Address: "203.0.113.7", Port: 31022}
	inside := &swanherdv1.PeerEndpoint{Address: "10.0.0.7", Port: 4500}
	six := &swanherdv1.PeerEndpoint{Address: "2001:db8::7", Port: 4500}
	uplinks := []*swanherdv1.Uplink{
		{Name: "wan1", Addresses: []string{"fe80::1", "192.168.1.2", "192.168.1.3"}, Port: 4500},
		{Name: "wan2", Addresses: []string{"2001:db8:2::2", "192.168.2.2"}, Port: 4500},
		{Name: "wan3"},
	}
	got := openings([]*swanherdv1.TunnelIntent{
		tunnel("a", "wan1", outside, inside), tunnel("b", "wan2", six), tunnel("up", "wan1", outside),
		tunnel("c", "wan1", six), tunnel("d", "wan3", outside), tunnel("e", "wan1", &swanherdv1.PeerEndpoint{Address: "203.0.113.9"}),
	}, map[string]bool{"up": true, "a": false}, uplinks)
	at := netip.MustParseAddrPort
	want := []nat.Opening{
		{Tunnel: "a", Local: at("192.168.1.2:4500"), Remote: at("203.0.113.7:31022")},
		{Tunnel: "a", Local: at("192.168.1.2:4500"), Remote: at("10.0.0.7:4500")},
		{Tunnel: "b", Local: at("[2001:db8:2::2]:4500"), Remote: at("[2001:db8::7]:4500")},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
