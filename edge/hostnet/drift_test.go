package hostnet

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What somebody else does to the interface or to the routes is told, and what the edge does
// is not.
func TestDrift(t *testing.T) {
	h := inNamespace(t)
	wan := iface(t, h, "eth0", "192.0.2.2/24")
	defaultVia(t, h, wan, "192.0.2.1", 0)
	iface(t, h, "lan0", "10.1.0.1/24")
	tun := iface(t, h, "swan0")
	routes := []Route{
		{Prefix: netip.MustParsePrefix("10.2.0.0/24"), Source: netip.MustParseAddr("10.1.0.1")},
		{Prefix: netip.MustParsePrefix("2001:db8:2::/48")},
	}
	site := netip.MustParsePrefix("10.1.0.0/24")
	way := Default{From: []netip.Prefix{site, netip.MustParsePrefix("2001:db8:1::/48")}, Except: []netip.Prefix{site}}
	rule := func(family int) *netlink.Rule {
		list, err := h.defaultRules(family)
		must(t, err)
		return &list[0]
	}
	bring := func() {
		must(t, h.SetLink("swan0", 1400), h.SetRoutes("swan0", routes), h.SetDefault("swan0", way))
	}
	for name, tt := range map[string]struct {
		harm func() error
		want []string
	}{
		"nothing": {func() error { return nil }, nil},
		"a route is deleted": {
			func() error { return h.nl.RouteDel(message(tun, routes[0])) }, []string{"route 10.2.0.0/24 was gone"},
		},
		"a route is added in the edge's name": {
			func() error { return h.nl.RouteAdd(message(tun, Route{Prefix: netip.MustParsePrefix("10.9.0.0/16")})) },
			[]string{"route 10.9.0.0/16 was too many"},
		},
		"the source of a route": {
			func() error {
				return h.nl.RouteReplace(message(tun, Route{Prefix: routes[0].Prefix, Source: netip.MustParseAddr("192.0.2.2")}))
			},
			[]string{"route 10.2.0.0/24 had the source 192.0.2.2, not 10.1.0.1"},
		},
		"a guard is deleted": {
			func() error { return h.nl.RouteDel(guard(routes[0].Prefix)) }, []string{"the guard of route 10.2.0.0/24 was gone"},
		},
		"a rule is deleted": {
			func() error { return h.nl.RuleDel(rule(unix.AF_INET)) }, []string{"the rule for what comes from 10.1.0.0/24 was gone"},
		},
		"a rule of IPv6 is deleted": {
			func() error { return h.nl.RuleDel(rule(unix.AF_INET6)) }, []string{"the rule for what comes from 2001:db8:1::/48 was gone"},
		},
		"an exception of the default route is deleted": {
			func() error {
				return h.nl.RouteDel(&netlink.Route{Dst: ipNet(site), Table: defaultTable, Type: unix.RTN_THROW, Protocol: RouteProtocol})
			}, []string{"route 10.1.0.0/24 of table 21336 was gone"},
		},
		"the MTU": {func() error { return h.nl.LinkSetMTU(tun, 1300) }, []string{"interface swan0 had an MTU of 1300, not 1400"}},
		"the interface goes down, and its routes with it": {
			func() error { return h.nl.LinkSetDown(tun) },
			[]string{
				"interface swan0 was down", "route 10.2.0.0/24 was gone", "route 2001:db8:2::/48 was gone",
				"route 0.0.0.0/0 of table 21336 was gone", "route ::/0 of table 21336 was gone",
			},
		},
		"a route of somebody else": {
			func() error {
				return h.nl.RouteAdd(&netlink.Route{LinkIndex: tun.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("10.8.0.0/16"))})
			}, nil,
		},
	} {
		bring()
		must(t, tt.harm())
		if got, err := h.Drift("swan0", 1400, routes, way); err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, %v, want %q", name, got, err, tt.want)
		}
		bring()
		if got, err := h.Drift("swan0", 1400, routes, way); err != nil || len(got) > 0 {
			t.Errorf("%s, repaired: %q, %v", name, got, err)
		}
	}
}
