package plan

import (
	"net/netip"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Both ends of a tunnel know the same two addresses, no two tunnels have the same pair,
// and each is where its edge says that its own are.
func TestProbeAddresses(t *testing.T) {
	p := Make(fullMeshOf(30).snapshot())
	pairs := map[[2]string]string{}
	locals := map[string]netip.Prefix{}
	for row := range p.Intents.All() {
		settings := row.Value.Resources.Get("settings").GetSettings().GetProbes()
		network, local := netip.MustParsePrefix(settings.GetNetworkPrefix()), netip.MustParsePrefix(settings.GetLocalPrefix())
		if network.Bits() != 48 || local.Bits() != 96 || !network.Contains(local.Addr()) || !local.Addr().IsPrivate() {
			t.Errorf("%s probes from %s in %s", row.Name, local, network)
		}
		for name, other := range locals {
			if other.Overlaps(local) {
				t.Errorf("%s and %s probe from %s and %s", row.Name, name, local, other)
			}
		}
		locals[row.Name] = local
		for r := range row.Value.Resources.All() {
			probe := r.GetTunnel().GetProbe()
			if r.GetTunnel() == nil {
				continue
			}
			if !local.Contains(netip.MustParseAddr(probe.GetLocalAddress())) || !network.Contains(netip.MustParseAddr(probe.GetRemoteAddress())) {
				t.Errorf("%s at %s: %v", r.GetName(), row.Name, probe)
			}
			ends := [2]string{probe.GetLocalAddress(), probe.GetRemoteAddress()}
			if other, ok := pairs[ends]; ok {
				t.Errorf("%s and %s have the addresses %v", r.GetName(), other, ends)
			}
			pairs[ends] = r.GetName()
		}
	}
	if len(pairs) != 30*29 {
		t.Fatalf("%d ends", len(pairs))
	}
	for ends, name := range pairs {
		if pairs[[2]string{ends[1], ends[0]}] != name {
			t.Errorf("%s: the other end has other addresses than %v", name, ends)
		}
	}
}

// The slower uplink of both ends says how often there are probes, unless the profile does.
func TestProbeIntervals(t *testing.T) {
	lte, satellite, metered := uplink("wan1", "198.18.0.1"), uplink("wan1", "198.18.0.1"), uplink("wan1", "198.18.0.1")
	lte.TransportClass, satellite.TransportClass = swanherdv1.TransportClass_TRANSPORT_CLASS_LTE, swanherdv1.TransportClass_TRANSPORT_CLASS_SATELLITE
	metered.Metered = true
	probe := func(u *swanherdv1.Uplink, change func(*swanherdv1.Profile)) *swanherdv1.ProbeIntent {
		b := fullMeshOf(2)
		if b.uplinks("site-00000"); u != nil {
			b.uplinks("site-00000", u)
		}
		profile := &swanherdv1.Profile{Name: "networks/demo/profiles/default"}
		change(profile)
		put(b, &b.Profiles, profile.GetName(), profile)
		p := Make(b.snapshot())
		a, z := p.tunnelIntent(edgeName("site-00000"), names2(p)[0]).GetProbe(), p.tunnelIntent(edgeName("site-00001"), names2(p)[0]).GetProbe()
		if !proto.Equal(a.GetInterval(), z.GetInterval()) || !proto.Equal(a.GetSla(), z.GetSla()) {
			t.Errorf("the ends differ: %v and %v", a, z)
		}
		return a
	}
	none := func(*swanherdv1.Profile) {}
	for name, c := range map[string]struct {
		uplink *swanherdv1.Uplink
		want   time.Duration
	}{
		"wired": {uplink("wan1", "198.18.0.1"), 500 * time.Millisecond}, "none known": {nil, 500 * time.Millisecond},
		"LTE": {lte, time.Second}, "satellite": {satellite, 2 * time.Second}, "metered": {metered, 10 * time.Second},
	} {
		if got := probe(c.uplink, none).GetInterval().AsDuration(); got != c.want {
			t.Errorf("%s: each %s, want %s", name, got, c.want)
		}
	}
	own := func(p *swanherdv1.Profile) { p.Probing = &swanherdv1.Probing{Interval: durationpb.New(time.Minute)} }
	if got := probe(metered, own).GetInterval().AsDuration(); got != time.Minute {
		t.Errorf("as the profile says: each %s", got)
	}
	off := func(p *swanherdv1.Profile) { p.Probing = &swanherdv1.Probing{Disabled: true} }
	if got := probe(lte, off); got != nil {
		t.Errorf("disabled: %v", got)
	}
	voice := func(p *swanherdv1.Profile) {
		p.Sla = &swanherdv1.PathSla{TrafficClass: swanherdv1.PathSla_TRAFFIC_CLASS_VOICE, MaxLatency: durationpb.New(time.Second)}
	}
	want := &swanherdv1.PathSla{MaxLossPercent: proto.Float64(1), MaxLatency: durationpb.New(time.Second), MaxJitter: durationpb.New(30 * time.Millisecond)}
	if got := probe(lte, voice).GetSla(); !proto.Equal(got, want) {
		t.Errorf("the limits of a class, one of them changed: %v, want %v", got, want)
	}
}

// Other limits do not touch SAs; to be probed or not changes what they carry.
func TestProbesInPreview(t *testing.T) {
	b := fullMeshOf(2)
	before := b.snapshot()
	for effect, change := range map[swanherdv1.TunnelChange_Effect]*swanherdv1.Profile{
		swanherdv1.TunnelChange_EFFECT_UPDATED: {Sla: &swanherdv1.PathSla{MaxLossPercent: proto.Float64(3)}},
		swanherdv1.TunnelChange_EFFECT_REKEYED: {Probing: &swanherdv1.Probing{Disabled: true}},
	} {
		change.Name = "networks/demo/profiles/default"
		put(b, &b.Profiles, change.GetName(), change)
		got := Preview(before, b.snapshot()).GetTunnels()
		if len(got) != 1 || got[0].GetEffect() != effect || len(got[0].GetReasons()) != 1 || got[0].GetReasons()[0] != "probe" {
			t.Errorf("%v: %v", change, got)
		}
	}
}
