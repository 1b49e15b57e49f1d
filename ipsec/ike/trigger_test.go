package ike

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// TestProposedSelectors: the packet that wants a Child SA comes first, within what
// is configured; nothing is proposed twice, or beyond the configuration.
func TestProposedSelectors(t *testing.T) {
	for _, c := range []struct {
		name                string
		local, remote       string
		source, destination string
		single              bool
		want                string
	}{
		{
			name: "packet", local: "10.1.0.0/16", remote: "10.2.0.0/16,10.4.0.0/16", source: "10.1.0.5", destination: "10.4.0.9",
			want: "[10.1.0.5/32 10.1.0.0/16] [10.4.0.9/32 10.2.0.0/16 10.4.0.0/16]",
		},
		{
			name: "IPv6", local: "2001:db8:1::/48", remote: "2001:db8:2::/48", source: "2001:db8:1::5", destination: "2001:db8:2::9",
			want: "[2001:db8:1::5/128 2001:db8:1::/48] [2001:db8:2::9/128 2001:db8:2::/48]",
		},
		{
			name: "packet of a host that is configured", local: "10.1.0.0/16,10.9.0.1/32", remote: "10.2.0.9/32", source: "10.9.0.1", destination: "10.2.0.9",
			want: "[10.9.0.1/32 10.1.0.0/16] [10.2.0.9/32]",
		},
		{
			name: "single pair", local: "10.1.0.0/16", remote: "10.2.0.0/16", source: "10.1.0.5", destination: "10.2.0.9", single: true,
			want: "[10.1.0.5/32] [10.2.0.9/32]",
		},
		{
			name: "single pair without a packet", local: "10.1.0.5/32,10.1.0.0/16", remote: "10.2.0.9/32,10.2.0.0/16", single: true,
			want: "[10.1.0.5/32] [10.2.0.9/32]",
		},
		{name: "no packet", local: "10.1.0.0/16", remote: "10.2.0.0/16", want: "[10.1.0.0/16] [10.2.0.0/16]"},
		{
			name: "packet of another policy", local: "10.1.0.0/16", remote: "10.2.0.0/16", source: "10.8.0.5", destination: "10.2.0.9", single: true,
			want: "[10.1.0.0/16] [10.2.0.0/16]",
		},
		{
			name: "packet of another family", local: "10.1.0.0/16", remote: "10.2.0.0/16", source: "2001:db8::1", destination: "2001:db8::2",
			want: "[10.1.0.0/16] [10.2.0.0/16]",
		},
	} {
		tunnel := pair(1, nil).a.t
		s := tunnel.slot("net")
		s.single = c.single
		if c.source != "" {
			s.source, s.destination = netip.MustParseAddr(c.source), netip.MustParseAddr(c.destination)
		}
		local, remote := tunnel.proposedTS("net", mustTS(strings.Split(c.local, ",")...), mustTS(strings.Split(c.remote, ",")...))
		if got := fmt.Sprint(local, " ", remote); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestProposalHoldsPacket: so it goes out in IKE_AUTH, and in CREATE_CHILD_SA when the
// IKE SA is there.
func TestProposalHoldsPacket(t *testing.T) {
	const want = "[10.1.0.5/32 10.1.0.0/16] [10.2.0.9/32 10.2.0.0/16]"
	acquire := PlaneEvent{dataplane.Event{
		Kind: dataplane.Acquire, Tunnel: "t", Child: "net",
		Source: netip.MustParseAddr("10.1.0.5"), Destination: netip.MustParseAddr("10.2.0.9"),
	}}
	w := pair(1, func(a, b *Config) { a.Children[0].Start, b.Children[0].Start = StartOnTraffic, StartOnTraffic })
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.a.step(acquire)
	for len(w.flight) > 0 {
		if sa := w.a.t.sas[0]; sa.state == stateAuth {
			a := sa.active.(*authTask)
			if got := fmt.Sprint(a.localTS, " ", a.remoteTS); got != want {
				t.Errorf("IKE_AUTH proposes %s, want %s", got, want)
			}
		}
		p := w.flight[0]
		w.flight = w.flight[1:]
		w.deliver(p)
	}
	w.check(t)
	w.a.t.dropChild(w.a.t.liveChild("net"))
	w.b.t.dropChild(w.b.t.liveChild("net"))
	w.flight = nil
	w.a.step(acquire)
	d := Datagram{Local: w.b.cfg.Local, Remote: w.a.cfg.Local, Data: w.flight[len(w.flight)-1].data}
	h, err := wire.ParseHeader(d.Data)
	if err != nil {
		t.Fatal(err)
	}
	o, err := w.b.t.primary().open(h, d)
	if err != nil {
		t.Fatal(err)
	}
	payloads, err := wire.ParsePayloads(o.first, o.plain)
	if err != nil {
		t.Fatal(err)
	}
	m := &message{payloads: payloads}
	local, _ := selectors(m, true)
	remote, _ := selectors(m, false)
	if got := fmt.Sprint(local, " ", remote); got != want {
		t.Errorf("%s proposes %s, want %s", h.Exchange, got, want)
	}
}
