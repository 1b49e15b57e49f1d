package lab

import (
	"context"
	"net/netip"
	"testing"
	"time"
)

// udpPair is two hosts with a wire between them, and flows from the first to the
// second.
func udpPair(t *testing.T) (a, b *Namespace, flows []UDPFlow) {
	t.Helper()
	Require(t)
	n := New()
	t.Cleanup(func() { n.Close() })
	var hosts [2]*Namespace
	for i, name := range []string{"a", "b"} {
		ns, err := n.Add(name)
		if err != nil {
			t.Fatal(err)
		}
		hosts[i] = ns
	}
	p := func(s ...string) (out []netip.Prefix) {
		for _, s := range s {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	err := n.Link(End{hosts[0], "eth0", p("192.0.2.1/24", "192.0.2.3/24")}, End{hosts[1], "eth0", p("192.0.2.2/24", "192.0.2.4/24")})
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr
	if _, err := hosts[0].Ping(t.Context(), addr("192.0.2.1"), addr("192.0.2.2"), 3); err != nil { // the link is up
		t.Fatal(err)
	}
	return hosts[0], hosts[1], []UDPFlow{{addr("192.0.2.1"), addr("192.0.2.2")}, {addr("192.0.2.3"), addr("192.0.2.4")}}
}

// Datagrams arrive at the rate that was asked for, each once, with either address.
func TestNetnsUDPLoad(t *testing.T) {
	a, b, flows := udpPair(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	got, err := UDPLoad{From: a, To: b, Flows: flows, Size: 100, Rate: 5000, Window: 100}.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got.Received != got.Sent || got.Late != 0 || got.Loss() != 0 {
		t.Errorf("of a flow that leaves room for itself, not each datagram arrived once and in order: %+v", got)
	}
	if l := &got.Latency; l.Count != got.Received || l.Quantile(0.5) <= 0 || l.Quantile(1) > got.Took+time.Minute {
		t.Errorf("latency of %d of %d datagrams, %v at most", l.Count, got.Received, l.Quantile(1))
	}
	if most := uint64(5000 * got.Took.Seconds()); got.Sent == 0 || got.Sent > most+1 {
		t.Errorf("%d datagrams were sent in %v, want %d at most", got.Sent, got.Took, most)
	}
}

// What is lost is counted.
func TestNetnsUDPLoadIsLost(t *testing.T) {
	a, b, flows := udpPair(t)
	flows[1].Destination = netip.MustParseAddr("198.51.100.1")
	if err := a.Route(netip.MustParsePrefix("198.51.100.0/24"), netip.MustParseAddr("192.0.2.2")); err != nil { // who has no way on
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	got, err := UDPLoad{From: a, To: b, Flows: flows, Size: 100, Rate: 5000}.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got.Sent < 2 || got.Received != (got.Sent+1)/2 {
		t.Errorf("half of the datagrams have nowhere to go, yet %d of %d arrived", got.Received, got.Sent)
	}
}
