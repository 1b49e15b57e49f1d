package hostnet

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// RouteProtocol marks the edge's routes ("S" for Swanherd; unassigned in
// rtnetlink's list of routing protocols).
const RouteProtocol = 0x53

// priority6 is the metric of IPv6 routes, before the kernel's default of 1024.
// IPv4 routes have none, which comes first.
const priority6 = 1

// Route leads a prefix into the tunnel interface.
type Route struct {
	Prefix netip.Prefix
	// Source is preferred for packets of the host itself; zero: the kernel's
	// choice.
	Source netip.Addr
	// MTU is how long packets may be, in octets, where that is less than what the
	// interface takes; 0: it takes what is right.
	MTU int
}

// SetRoutes makes want the edge's routes through the interface, and puts a guard behind
// each: first what is new or different is set, then what is too many is removed. It goes
// on after an error and returns all of them.
func (h *Host) SetRoutes(name string, want []Route) error {
	link, err := h.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	have, err := h.own(link)
	if err != nil {
		return err
	}
	guards, err := h.guards()
	if err != nil {
		return err
	}
	errs := []error{h.setGuards(guards, want)}
	wanted := map[netip.Prefix]bool{}
	for _, r := range slices.SortedFunc(slices.Values(want), compareRoutes) {
		wanted[r.Prefix] = true
		r.limit(link)
		if old, ok := have[r.Prefix]; ok && old == r {
			continue
		} else if err := h.set(link, r, ok); err != nil {
			errs = append(errs, err)
		}
	}
	for prefix, r := range have {
		if wanted[prefix] {
			continue
		}
		if err := h.nl.RouteDel(message(link, r)); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route %s dev %s: %w", prefix, name, privileged(err)))
		}
	}
	return errors.Join(append(errs, h.removeGuards(guards, wanted))...)
}

// Flush removes the edge's routes through the interface, and its local prefix, and leaves
// the guards. It is no error if there is no such interface: its routes went with it.
func (h *Host) Flush(name string) error {
	link, err := h.nl.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	have, err := h.own(link)
	for prefix, r := range have {
		if e := h.nl.RouteDel(message(link, r)); e != nil && !errors.Is(e, unix.ESRCH) {
			err = errors.Join(err, fmt.Errorf("remove route %s dev %s: %w", prefix, name, privileged(e)))
		}
	}
	return errors.Join(err, h.SetLocal(name, netip.Prefix{}))
}

// own returns the edge's routes through the interface.
func (h *Host) own(link netlink.Link) (map[netip.Prefix]Route, error) {
	out := map[netip.Prefix]Route{}
	like := netlink.Route{Protocol: RouteProtocol, LinkIndex: link.Attrs().Index, Table: unix.RT_TABLE_MAIN}
	err := h.eachRoute(netlink.FAMILY_ALL, like, func(r *netlink.Route) {
		if prefix, ok := prefixOf(r.Dst, r.Family); ok {
			source, _ := netip.AddrFromSlice(r.Src)
			out[prefix] = Route{Prefix: prefix, Source: source.Unmap(), MTU: r.MTU}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return out, nil
}

// set adds a route, or replaces our own one.
func (h *Host) set(link netlink.Link, r Route, ours bool) error {
	do := h.nl.RouteAdd
	if ours {
		do = h.nl.RouteReplace
	}
	err := do(message(link, r))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("route %s exists already (%s); remove it, traffic to that prefix belongs into the tunnel", r.Prefix, h.describe(r.Prefix))
	}
	return fmt.Errorf("set route %s dev %s: %w", r.Prefix, link.Attrs().Name, privileged(err))
}

// describe names the route of somebody else that is in the way.
func (h *Host) describe(p netip.Prefix) string {
	list, err := h.nl.RouteListFiltered(family(p), &netlink.Route{Dst: ipNet(p)}, netlink.RT_FILTER_DST)
	if err != nil || len(list) == 0 {
		return "by somebody else"
	}
	link, err := h.nl.LinkByIndex(list[0].LinkIndex)
	if err != nil {
		return fmt.Sprintf("proto %s", list[0].Protocol)
	}
	return fmt.Sprintf("dev %s proto %s", link.Attrs().Name, list[0].Protocol)
}

func message(link netlink.Link, r Route) *netlink.Route {
	m := &netlink.Route{
		LinkIndex: link.Attrs().Index,
		Dst:       ipNet(r.Prefix),
		Protocol:  RouteProtocol,
		Table:     unix.RT_TABLE_MAIN,
		Family:    family(r.Prefix),
	}
	if r.Prefix.Addr().Is4() {
		m.Scope = unix.RT_SCOPE_LINK
	} else {
		m.Priority = priority6
	}
	if r.Source.IsValid() {
		m.Src = r.Source.AsSlice()
	}
	// Of IPv6 the kernel goes by the MTU of a route for packets that it forwards only if
	// it is locked. Of IPv4 that would take DF from what the host itself sends.
	m.MTU, m.MTULock = r.MTU, r.MTU != 0 && r.Prefix.Addr().Is6()
	return m
}

// leastMTU6 is what every link has to take of IPv6 (RFC 8200, Section 5). No sender goes
// below that, and the kernel tells it no less.
const leastMTU6 = 1280

// limit makes the MTU one that the route can have: it would go before that of the
// interface.
func (r *Route) limit(link netlink.Link) {
	if r.MTU != 0 && r.Prefix.Addr().Is6() {
		r.MTU = max(r.MTU, leastMTU6)
	}
	if r.MTU >= link.Attrs().MTU {
		r.MTU = 0
	}
}

func compareRoutes(a, b Route) int {
	return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
}

func family(p netip.Prefix) int {
	if p.Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefixOf(n *net.IPNet, fam int) (netip.Prefix, bool) {
	if n == nil { // the default route
		if fam == unix.AF_INET6 {
			return netip.PrefixFrom(netip.IPv6Unspecified(), 0), true
		}
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0), true
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	bits, size := n.Mask.Size()
	if size == 32 {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, bits), ok
}
