package hostnet

import (
	"cmp"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// maxNear bounds the routes of an uplink's near table. A host that has more by its uplinks
// has them from a routing protocol, whose choice is not copied.
const maxNear = 1024

// exit is what leaves by one uplink's interface, of one family.
type exit struct {
	// near are the destinations that the main table has by uplinks, each as this one reaches
	// it, and in them what is not outside at all, which is thrown back. Out is everything
	// else, with a guard behind it.
	near, out []*netlink.Route
	// routed: there is a router behind the interface. Without one, nothing says that what
	// leaves from its addresses leaves by it.
	routed bool
	// tooMany: near was left out for its size.
	tooMany bool
}

// mainRoutes are those of the main table of one family.
type mainRoutes struct {
	// outside are the ones by uplinks.
	outside []netlink.Route
	// inside are the destinations of all others but the default route: there may be ten
	// thousand of them.
	inside []netip.Prefix
}

func (h *Host) mainRoutes(fam int, uplinks map[int]bool) (m mainRoutes, err error) {
	err = h.eachRoute(fam, netlink.Route{Table: unix.RT_TABLE_MAIN}, func(r *netlink.Route) {
		if hopBy(r, func(l int) bool { return uplinks[l] }) != nil {
			m.outside = append(m.outside, *r)
		} else if prefix, ok := prefixOf(r.Dst, r.Family); ok && prefix.Bits() > 0 {
			m.inside = append(m.inside, prefix)
		}
	})
	return m, err
}

// exitBy makes, of the main table's routes, what leaves by the interface link. All addresses
// of the family are in all.
func exitBy(link int, main mainRoutes, all netip.Prefix) exit {
	var e exit
	near := map[netip.Prefix]*netlink.Route{}
	var gateway *netlink.Route // of the preferred default route
	for _, r := range byMetric(main.outside) {
		prefix, ok := outside(&r, all)
		hop := hopBy(&r, func(l int) bool { return l == link })
		if !ok || hop == nil {
			continue
		}
		c := copyBy(&r, hop, prefix)
		e.routed = e.routed || hop.Gw != nil || hop.Via != nil
		switch {
		case prefix.Bits() > 0 && near[prefix] == nil:
			near[prefix] = c
		case prefix.Bits() == 0:
			if gateway == nil {
				gateway = c
			}
			if !slices.ContainsFunc(e.out, func(o *netlink.Route) bool { return o.Priority == c.Priority }) {
				e.out = append(e.out, c)
			}
		}
	}
	overOthers(near, gateway, link, main.outside, all)
	if throwBack(near, main.inside); len(near) > maxNear {
		near, e.tooMany = nil, true
	}
	for _, r := range near {
		e.near = append(e.near, r)
	}
	e.out = append(e.out, guard(all))
	return e
}

// overOthers leads to what the main table has by other uplinks, over this one: by its
// default route, or nowhere.
func overOthers(near map[netip.Prefix]*netlink.Route, gateway *netlink.Route, link int, byUplinks []netlink.Route, all netip.Prefix) {
	for i := range byUplinks {
		r := &byUplinks[i]
		prefix, ok := outside(r, all)
		if !ok || prefix.Bits() == 0 || near[prefix] != nil || hopBy(r, func(l int) bool { return l != link }) == nil {
			continue
		}
		over := guard(prefix)
		if gateway != nil {
			c := *gateway
			c.Dst, c.Priority, over = ipNet(prefix), 0, &c
		}
		near[prefix] = over
	}
}

// throwBack leaves to the main table what is inside of a near destination and by no uplink:
// LANs, and what is routed into tunnels.
func throwBack(near map[netip.Prefix]*netlink.Route, inside []netip.Prefix) {
	wide := slices.Collect(maps.Keys(near))
	for _, prefix := range inside {
		if len(near) > maxNear || !slices.ContainsFunc(wide, func(w netip.Prefix) bool { return w.Bits() < prefix.Bits() && w.Contains(prefix.Addr()) }) {
			continue
		}
		back := guard(prefix)
		back.Type, back.Priority = unix.RTN_THROW, 0
		near[prefix] = back
	}
}

// byMetric returns routes with the preferred ones first.
func byMetric(routes []netlink.Route) []netlink.Route {
	return slices.SortedStableFunc(slices.Values(routes), func(a, b netlink.Route) int { return cmp.Compare(a.Priority, b.Priority) })
}

// outside returns a route's destination; not ok for what is of the link alone, and what
// leads nowhere.
func outside(r *netlink.Route, all netip.Prefix) (netip.Prefix, bool) {
	prefix, ok := prefixOf(r.Dst, r.Family)
	addr := prefix.Addr()
	return prefix, ok && r.Type == unix.RTN_UNICAST && r.Protocol != RouteProtocol && addr.Is4() == all.Addr().Is4() &&
		!addr.IsLinkLocalUnicast() && !addr.IsMulticast()
}

// hopBy returns the first next hop of a route by an interface that is, nil if none is.
func hopBy(r *netlink.Route, is func(link int) bool) *netlink.NexthopInfo {
	if len(r.MultiPath) == 0 && is(r.LinkIndex) {
		return &netlink.NexthopInfo{LinkIndex: r.LinkIndex, Gw: r.Gw, Via: r.Via, Flags: r.Flags}
	}
	for _, hop := range r.MultiPath {
		if is(hop.LinkIndex) {
			return hop
		}
	}
	return nil
}

// copyBy is a route over one of its hops.
func copyBy(r *netlink.Route, hop *netlink.NexthopInfo, prefix netip.Prefix) *netlink.Route {
	c := &netlink.Route{
		LinkIndex: hop.LinkIndex, Gw: hop.Gw, Via: hop.Via, Flags: hop.Flags & unix.RTNH_F_ONLINK,
		Dst: ipNet(prefix), Family: family(prefix), Type: unix.RTN_UNICAST, Protocol: RouteProtocol,
		Scope: r.Scope, Priority: r.Priority, MTU: r.MTU, MTULock: r.MTULock, AdvMSS: r.AdvMSS,
	}
	if c.Family == unix.AF_INET && c.Gw != nil {
		c.Flags |= unix.RTNH_F_ONLINK // the main table has the way to it, and may lose it before the route
	}
	return c
}

// sameExit reports whether a route of a table is as it is wanted.
func sameExit(have, want *netlink.Route) bool {
	if have.Type != unix.RTN_UNICAST { // those of IPv6 are of the loopback interface
		return have.Type == want.Type
	}
	return have.Type == want.Type && have.LinkIndex == want.LinkIndex && have.Gw.Equal(want.Gw) && sameVia(have.Via, want.Via) &&
		have.MTU == want.MTU && have.MTULock == want.MTULock && have.AdvMSS == want.AdvMSS
}

func sameVia(a, b netlink.Destination) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return a.Equal(b)
}

// hostPrefix is one address.
func hostPrefix(a netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(a, a.BitLen())) }
