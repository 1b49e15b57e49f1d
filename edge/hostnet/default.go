package hostnet

import (
	"cmp"
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
	for family, all := range allOf {
		if err := h.setDefault(name, family, all, want); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// allOf are the addresses of each family.
var allOf = map[int]netip.Prefix{
	unix.AF_INET:  netip.PrefixFrom(netip.IPv4Unspecified(), 0),
	unix.AF_INET6: netip.PrefixFrom(netip.IPv6Unspecified(), 0),
}

// of is the part of one family, whose addresses all are: for whom there are rules, and the
// routes of the table.
func (d Default) of(h *Host, name string, all netip.Prefix) (from []netip.Prefix, routes []*netlink.Route, err error) {
	ofFamily := func(list []netip.Prefix) []netip.Prefix {
		return slices.DeleteFunc(slices.Clone(list), func(p netip.Prefix) bool { return p.Addr().Is4() != all.Addr().Is4() })
	}
	if from = ofFamily(d.From); len(from) == 0 {
		return nil, nil, nil
	}
	link, err := h.nl.LinkByName(name)
	if err != nil {
		return nil, nil, fmt.Errorf("find interface %s: %w", name, err)
	}
	into := Route{Prefix: all, MTU: d.MTU}
	into.limit(link)
	routes = append(routes, guard(all), message(link, into))
	for _, p := range ofFamily(d.Except) {
		except := guard(p)
		except.Type, except.Priority = unix.RTN_THROW, 0
		routes = append(routes, except)
	}
	for _, r := range routes {
		r.Table, r.Type = defaultTable, cmp.Or(r.Type, unix.RTN_UNICAST)
	}
	return from, routes, nil
}

// setDefault does so for one family, whose addresses all are.
func (h *Host) setDefault(name string, family int, all netip.Prefix, want Default) error {
	from, routes, err := want.of(h, name, all)
	if err != nil {
		return err
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

// defaultRoute identifies one of the table.
type defaultRoute struct {
	prefix netip.Prefix
	kind   int
}

func identify(r *netlink.Route, family int) defaultRoute {
	prefix, _ := prefixOf(r.Dst, family)
	return defaultRoute{prefix, r.Type}
}

// tableRoutes returns those of the table, also of an earlier run.
func (h *Host) tableRoutes(family int) (map[defaultRoute]netlink.Route, error) {
	have := map[defaultRoute]netlink.Route{}
	like := netlink.Route{Protocol: RouteProtocol, Table: defaultTable}
	err := h.eachRoute(family, like, func(r *netlink.Route) { have[identify(r, family)] = *r })
	if err != nil {
		return nil, fmt.Errorf("list the default routes of tunnels: %w", err)
	}
	return have, nil
}

// setDefaultRoutes makes want the routes of the table.
func (h *Host) setDefaultRoutes(family int, want []*netlink.Route) error {
	have, err := h.tableRoutes(family)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range want {
		delete(have, identify(r, family))
		if err := h.nl.RouteReplace(r); err != nil {
			errs = append(errs, fmt.Errorf("set route %s of table %d: %w", r.Dst, defaultTable, privileged(err)))
		}
	}
	for _, r := range have {
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
