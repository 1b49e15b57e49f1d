package hostnet

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Drift says how an interface and the edge's routes through it differ from what SetLink,
// with that MTU unless it is 0, SetRoutes and SetDefault made of them: a sentence for each
// difference, none if it is all as it was. What the kernel chooses it may choose otherwise.
func (h *Host) Drift(name string, mtu int, routes []Route, way Default) ([]string, error) {
	link, err := h.nl.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find interface %s: %w", name, err)
	}
	var out []string
	if has := link.Attrs().MTU; mtu != 0 && has != mtu {
		out = append(out, fmt.Sprintf("interface %s had an MTU of %d, not %d", name, has, mtu))
	}
	if mtu != 0 && link.Attrs().Flags&net.FlagUp == 0 {
		out = append(out, fmt.Sprintf("interface %s was down", name))
	}
	have, err := h.own(link)
	if err != nil {
		return nil, err
	}
	for _, want := range slices.SortedFunc(slices.Values(routes), compareRoutes) {
		got, ok := have[want.Prefix]
		switch {
		case !ok:
			out = append(out, fmt.Sprintf("route %s was gone", want.Prefix))
		case want.Source.IsValid() && got.Source != want.Source:
			out = append(out, fmt.Sprintf("route %s had the source %s, not %s", want.Prefix, got.Source, want.Source))
		}
		delete(have, want.Prefix)
	}
	for prefix := range have {
		out = append(out, fmt.Sprintf("route %s was too many", prefix))
	}
	guards, err := h.guards()
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		if !guards[r.Prefix] {
			out = append(out, fmt.Sprintf("the guard of route %s was gone", r.Prefix))
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		more, err := h.driftOfDefault(name, family, allOf[family], way)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}

// driftOfDefault is of the rules and the table of one family.
func (h *Host) driftOfDefault(name string, family int, all netip.Prefix, way Default) (out []string, err error) {
	from, routes, err := way.of(h, name, all)
	if err != nil {
		return nil, err
	}
	rules, err := h.defaultRules(family)
	if err != nil {
		return nil, err
	}
	for _, p := range from {
		if !slices.ContainsFunc(rules, func(r netlink.Rule) bool { return comesFrom(r, p) }) {
			out = append(out, fmt.Sprintf("the rule for what comes from %s was gone", p))
		}
	}
	have, err := h.tableRoutes(family)
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		if _, there := have[identify(r, family)]; !there {
			out = append(out, fmt.Sprintf("route %s of table %d was gone", r.Dst, defaultTable))
		}
	}
	return out, nil
}
