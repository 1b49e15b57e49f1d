package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// Mark is on what a data plane in user space sends outside ("SW"), so that it
	// is not intercepted.
	Mark = 0x5357
	// interceptTable is the routing table of those who are intercepted, and
	// interceptPriority the place of its rule, before that of the main table.
	interceptTable    = 0x5357
	interceptPriority = 5357
)

// Intercept leads what the host itself says to the addresses into the interface, for
// transport mode of a data plane in user space, whose own packets, which carry [Mark], go
// to the same addresses. Behind each route is a guard, as behind others. Who is not in to
// is intercepted no more. It goes on after an error and returns all of them.
func (h *Host) Intercept(name string, to []netip.Addr) error {
	have, err := h.intercepting()
	if err != nil || len(to)+len(have) == 0 {
		return err
	}
	var errs []error
	for _, a := range to {
		errs = append(errs, h.intercept(name, a))
	}
	for _, r := range have {
		if p, ok := prefixOf(r.Dst, r.Family); ok && slices.Contains(to, p.Addr()) {
			continue
		}
		if err := h.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("intercept what is for %s no more: %w", r.Dst, privileged(err)))
		}
	}
	return errors.Join(append(errs,
		h.setInterceptRule(unix.AF_INET, slices.ContainsFunc(to, netip.Addr.Is4)),
		h.setInterceptRule(unix.AF_INET6, slices.ContainsFunc(to, netip.Addr.Is6)))...)
}

// intercept sets the routes to one address.
func (h *Host) intercept(name string, a netip.Addr) error {
	link, err := h.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	behind := guard(netip.PrefixFrom(a, a.BitLen()))
	into := message(link, Route{Prefix: netip.PrefixFrom(a, a.BitLen())})
	for _, r := range []*netlink.Route{behind, into} {
		r.Table = interceptTable
		if err := h.nl.RouteReplace(r); err != nil {
			return fmt.Errorf("intercept what is for %s: %w", a, privileged(err))
		}
	}
	return nil
}

// intercepting returns the routes of those who are intercepted, and their guards.
func (h *Host) intercepting() (list []netlink.Route, err error) {
	like := netlink.Route{Protocol: RouteProtocol, Table: interceptTable}
	err = h.eachRoute(netlink.FAMILY_ALL, like, func(r *netlink.Route) { list = append(list, *r) })
	if err != nil {
		return nil, fmt.Errorf("list intercepted addresses: %w", err)
	}
	return list, nil
}

// setInterceptRule has a family's table of the intercepted be asked, or not.
func (h *Host) setInterceptRule(family int, want bool) error {
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Table = family, interceptPriority, interceptTable
	rule.Mark, rule.Invert, rule.Protocol = Mark, true, RouteProtocol
	do, done := h.nl.RuleDel, unix.ENOENT
	if want {
		do, done = h.nl.RuleAdd, unix.EEXIST
	}
	if err := do(rule); err != nil && !errors.Is(err, done) && (want || !errors.Is(err, unix.EAFNOSUPPORT)) {
		return fmt.Errorf("set the rule that intercepts, priority %d: %w", interceptPriority, privileged(err))
	}
	return nil
}
