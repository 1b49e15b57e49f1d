package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// SetLocal makes all addresses of an IPv6 prefix this host's own, on the interface, as if
// it had each of them; the zero Prefix: none. What was before goes.
func (h *Host) SetLocal(name string, want netip.Prefix) error {
	var have []netlink.Route
	like := netlink.Route{Protocol: RouteProtocol, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL}
	if err := h.eachRoute(netlink.FAMILY_V6, like, func(r *netlink.Route) { have = append(have, *r) }); err != nil {
		return fmt.Errorf("list local prefixes: %w", err)
	}
	var errs []error
	if want.IsValid() {
		link, err := h.nl.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find interface %s: %w", name, err)
		}
		err = h.nl.RouteReplace(&netlink.Route{
			LinkIndex: link.Attrs().Index, Dst: ipNet(want), Family: netlink.FAMILY_V6,
			Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Protocol: RouteProtocol, Priority: priority6,
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("make %s local on %s: %w", want, name, privileged(err)))
		}
	}
	for _, r := range have {
		if p, ok := prefixOf(r.Dst, netlink.FAMILY_V6); ok && p == want {
			continue
		}
		if err := h.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("make %s local no more: %w", r.Dst, privileged(err)))
		}
	}
	return errors.Join(errs...)
}

// HasIPv6 says whether the interface has IPv6: a host may be without it, or its operator
// may have switched it off.
func (h *Host) HasIPv6(name string) bool {
	b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6")
	return err == nil && strings.TrimSpace(string(b)) == "0"
}
