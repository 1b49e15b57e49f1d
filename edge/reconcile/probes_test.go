package reconcile

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/swanherd/swanherd/edge/hostnet"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// probedIntent is goodIntent with probes.
func probedIntent() *swanherdv1.EdgeIntent {
	i := goodIntent()
	if i.Settings == nil {
		i.Settings = &swanherdv1.EdgeSettings{}
	}
	i.Settings.Probes = &swanherdv1.ProbeSettings{NetworkPrefix: "fd12:3456:789a::/48", LocalPrefix: "fd12:3456:789a:1::/96"}
	i.Tunnels[0].Probe = &swanherdv1.ProbeIntent{
		LocalAddress: "fd12:3456:789a:1::7", RemoteAddress: "fd12:3456:789a:2::7", Interval: durationpb.New(time.Second),
		Sla: &swanherdv1.PathSla{MaxLossPercent: proto.Float64(1)},
	}
	return i
}

// A tunnel that is probed carries the probes beside its traffic, and one route leads those
// of all tunnels there.
func TestProbes(t *testing.T) {
	h := &host{}
	r := newTestReconciler(t, h)
	if err := r.Apply(probedIntent()); err != nil {
		t.Fatal(err)
	}
	if len(h.paths) != 1 || h.paths[0].Tunnel != tunnelName || h.paths[0].Interval != time.Second || h.paths[0].SLA.GetMaxLossPercent() != 1 ||
		h.paths[0].Local.String() != "fd12:3456:789a:1::7" || h.paths[0].Remote.String() != "fd12:3456:789a:2::7" {
		t.Errorf("paths %+v", h.paths)
	}
	if h.local.String() != "fd12:3456:789a:1::/96" {
		t.Errorf("local %s", h.local)
	}
	child := h.tunnels[0].Children[0]
	local, remote := child.LocalTS[len(child.LocalTS)-1], child.RemoteTS[len(child.RemoteTS)-1]
	if local.String() != "fd12:3456:789a:1::7/128[udp/862-863]" || remote.String() != "fd12:3456:789a:2::7/128[udp/862-863]" {
		t.Errorf("selectors %s and %s", local, remote)
	}
	var prefixes []string
	for _, route := range h.routes {
		prefixes = append(prefixes, route.Prefix.String())
	}
	if !slices.Contains(prefixes, "fd12:3456:789a::/48") || slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasSuffix(p, "/128") }) {
		t.Errorf("routes to %v", prefixes)
	}
	if err := r.Apply(goodIntent()); err != nil || len(h.paths) != 0 || h.local.IsValid() {
		t.Errorf("without probes: %v, paths %v, local %s", err, h.paths, h.local)
	}
}

// A host that cannot probe has tunnels all the same.
func TestProbesNeedIPv6(t *testing.T) {
	for name, h := range map[string]*host{"no IPv6": {noIPv6: true}, "not allowed": {noLocal: errors.New("no")}} {
		r := newTestReconciler(t, h)
		if err := r.Apply(probedIntent()); err != nil || len(h.paths) != 0 || len(h.tunnels) != 1 {
			t.Errorf("%s: %v, paths %v", name, err, h.paths)
		}
		probed := slices.ContainsFunc(h.routes, func(r hostnet.Route) bool { return r.Prefix == netip.MustParsePrefix("fd12:3456:789a::/48") })
		if h.noIPv6 && (probed || len(h.tunnels[0].Children[0].LocalTS) != len(goodIntent().Tunnels[0].Children[0].LocalTs)) {
			t.Errorf("%s: routes %v, selectors %v", name, h.routes, h.tunnels[0].Children[0].LocalTS)
		}
	}
}

func TestProbeMistakes(t *testing.T) {
	for want, change := range map[string]func(*swanherdv1.EdgeIntent){
		"settings: probes.network_prefix: fd12:3456:789a::1/48 is not a prefix": func(i *swanherdv1.EdgeIntent) {
			i.Settings.Probes.NetworkPrefix = "fd12:3456:789a::1/48"
		},
		"probes.local_prefix: fd13::/96 is not a part of": func(i *swanherdv1.EdgeIntent) { i.Settings.Probes.LocalPrefix = "fd13::/96" },
		"probe: there are no addresses":                   func(i *swanherdv1.EdgeIntent) { i.Settings.Probes = nil },
		"probe.local_address: \"fd12:3456:789a:3::7\" is not in": func(i *swanherdv1.EdgeIntent) {
			i.Tunnels[0].Probe.LocalAddress = "fd12:3456:789a:3::7"
		},
		"probe.remote_address: \"fd12:3456:789a:1::8\" is not another edge's": func(i *swanherdv1.EdgeIntent) {
			i.Tunnels[0].Probe.RemoteAddress = "fd12:3456:789a:1::8"
		},
		"probe.interval": func(i *swanherdv1.EdgeIntent) { i.Tunnels[0].Probe.Interval = durationpb.New(time.Millisecond) },
		"probe: no child in tunnel mode": func(i *swanherdv1.EdgeIntent) {
			c := i.Tunnels[0].Children[0]
			c.Mode = swanherdv1.IpsecMode_IPSEC_MODE_TRANSPORT
			c.LocalTs, c.RemoteTs = []string{"192.0.2.1/32"}, []string{"198.51.100.2/32"}
		},
	} {
		i := probedIntent()
		change(i)
		err := newTestReconciler(t, &host{}).Apply(i)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
