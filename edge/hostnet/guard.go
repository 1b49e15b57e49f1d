package hostnet

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// guardPriority is the metric of guards: behind every other route.
const guardPriority = 1 << 30

// A guard is a route of the type unreachable behind one into the tunnel interface. When
// the interface goes, and its routes with it, it keeps packets that were to be protected
// from the default gateway (RFC 4301, Section 5.1).

// setGuards adds what is missing of the guards of routes.
func (h *Host) setGuards(have map[netip.Prefix]bool, routes []Route) error {
	var errs []error
	for _, r := range routes {
		if have[r.Prefix] {
			continue
		}
		if err := h.nl.RouteReplace(guard(r.Prefix)); err != nil {
			errs = append(errs, fmt.Errorf("set guard of route %s: %w", r.Prefix, privileged(err)))
		}
	}
	return errors.Join(errs...)
}

// Release removes all guards, intercepts nobody and leads nothing any more, at an orderly
// end.
func (h *Host) Release(name string) error {
	have, err := h.guards()
	return errors.Join(err, h.removeGuards(have, nil), h.Intercept(name, nil), h.SetDefault(name, Default{}))
}

func (h *Host) removeGuards(have, but map[netip.Prefix]bool) error {
	var errs []error
	for prefix := range have {
		if but[prefix] {
			continue
		}
		if err := h.nl.RouteDel(guard(prefix)); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove guard of route %s: %w", prefix, privileged(err)))
		}
	}
	return errors.Join(errs...)
}

// guards returns the prefixes that have one, also of an earlier run.
func (h *Host) guards() (map[netip.Prefix]bool, error) {
	out := map[netip.Prefix]bool{}
	like := netlink.Route{Protocol: RouteProtocol, Type: unix.RTN_UNREACHABLE, Table: unix.RT_TABLE_MAIN}
	err := h.eachRoute(netlink.FAMILY_ALL, like, func(r *netlink.Route) {
		if prefix, ok := prefixOf(r.Dst, r.Family); ok {
			out[prefix] = true
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list guards of routes: %w", err)
	}
	return out, nil
}

func guard(p netip.Prefix) *netlink.Route {
	return &netlink.Route{
		Dst: ipNet(p), Family: family(p), Table: unix.RT_TABLE_MAIN,
		Type: unix.RTN_UNREACHABLE, Protocol: RouteProtocol, Priority: guardPriority,
	}
}
