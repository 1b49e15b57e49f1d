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
	// defaultTable is the routing table of what a tunnel is the way out for, and
	// defaultPriority the place of its rules, before that of the main table.
	defaultTable    = 0x5358
	defaultPriority = 5358
)

// Default leads all that comes from some prefixes into the tunnel interface, as the
// default route of those alone. What the host itself sends from other addresses, so that
// tunnels and controller are reached, goes the way that it always goes.
//
// It comes before the main table, whose routes therefore lead none of it past the tunnel:
// not the host's default route, nor others that somebody on the way out may have given it
// by DHCP.
type Default struct {
	From []netip.Prefix
	// Except are where the main table decides all the same: the site, and what other
	// routes lead into tunnels.
	Except []netip.Prefix
	MTU    int // as in Route
}

// SetDefault makes want the edge's default route into the interface, with a guard behind
// it; the zero Default is none. New rules come after the routes that they need, and go
// before them. It goes on after an error and returns all of them.
func (h *Host) SetDefault(name string, want Default) error {
	var errs []error
	for family, all := range map[int]netip.Prefix{
		unix.AF_INET:  netip.PrefixFrom(netip.IPv4Unspecified(), 0),
		unix.AF_INET6: netip.PrefixFrom(netip.IPv6Unspecified(), 0),
	} {
		if err := h.setDefault(name, family, all, want); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// setDefault does so for one family, whose addresses all are.
func (h *Host) setDefault(name string, family int, all netip.Prefix, want Default) error {
	ofFamily := func(list []netip.Prefix) []netip.Prefix {
		return slices.DeleteFunc(slices.Clone(list), func(p netip.Prefix) bool { return p.Addr().Is4() != all.Addr().Is4() })
	}
	from, routes := ofFamily(want.From), []*netlink.Route(nil)
	if len(from) > 0 {
		link, err := h.nl.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find interface %s: %w", name, err)
		}
		into := Route{Prefix: all, MTU: want.MTU}
		into.limit(link)
		routes = append(routes, guard(all), message(link, into))
		for _, p := range ofFamily(want.Except) {
			except := guard(p)
			except.Type, except.Priority = unix.RTN_THROW, 0
			routes = append(routes, except)
		}
	}
	rules, err := h.defaultRules(family)
	if err != nil {
		return err
	}
	errs := []error{h.removeDefaultRules(rules, from)}
	errs = append(errs, h.setDefaultRoutes(family, routes))
	for _, p := range from {
		if errors.Join(errs...) == nil && !slices.ContainsFunc(rules, func(r netlink.Rule) bool { return comesFrom(r, p) }) {
			errs = append(errs, h.addDefaultRule(family, p))
		}
	}
	return errors.Join(errs...)
}

// setDefaultRoutes makes want the routes of the table.
func (h *Host) setDefaultRoutes(family int, want []*netlink.Route) error {
	var have []netlink.Route
	like := netlink.Route{Protocol: RouteProtocol, Table: defaultTable}
	err := h.eachRoute(family, like, func(r *netlink.Route) { have = append(have, *r) })
	if err != nil {
		return fmt.Errorf("list the default routes of tunnels: %w", err)
	}
	var errs []error
	type identity struct {
		prefix netip.Prefix
		kind   int
	}
	identify := func(r *netlink.Route) identity {
		prefix, _ := prefixOf(r.Dst, family)
		return identity{prefix, r.Type}
	}
	wanted := map[identity]bool{}
	for _, r := range want {
		if r.Type == 0 {
			r.Type = unix.RTN_UNICAST
		}
		r.Table = defaultTable
		wanted[identify(r)] = true
		if err := h.nl.RouteReplace(r); err != nil {
			errs = append(errs, fmt.Errorf("set route %s of table %d: %w", r.Dst, defaultTable, privileged(err)))
		}
	}
	for _, r := range have {
		if wanted[identify(&r)] {
			continue
		}
		if err := h.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route %s of table %d: %w", r.Dst, defaultTable, privileged(err)))
		}
	}
	return errors.Join(errs...)
}

// defaultRules returns the rules that lead to the table, also of an earlier run.
func (h *Host) defaultRules(family int) ([]netlink.Rule, error) {
	filter := netlink.NewRule()
	filter.Priority, filter.Table = defaultPriority, defaultTable
	list, err := h.nl.RuleListFiltered(family, filter, netlink.RT_FILTER_PRIORITY|netlink.RT_FILTER_TABLE)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, nil // a host without IPv6
	}
	if err != nil {
		return nil, fmt.Errorf("list routing rules: %w", err)
	}
	return list, nil
}

func comesFrom(r netlink.Rule, p netip.Prefix) bool {
	source, ok := prefixOf(r.Src, r.Family)
	return ok && source == p
}

func (h *Host) removeDefaultRules(rules []netlink.Rule, but []netip.Prefix) error {
	var errs []error
	for _, r := range rules {
		if slices.ContainsFunc(but, func(p netip.Prefix) bool { return comesFrom(r, p) }) {
			continue
		}
		if err := h.nl.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove the rule for what comes from %s: %w", r.Src, privileged(err)))
		}
	}
	return errors.Join(errs...)
}

func (h *Host) addDefaultRule(family int, from netip.Prefix) error {
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Table, rule.Protocol = family, defaultPriority, defaultTable, RouteProtocol
	rule.Src = ipNet(from)
	if err := h.nl.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add the rule for what comes from %s, priority %d: %w", from, defaultPriority, privileged(err))
	}
	return nil
}
