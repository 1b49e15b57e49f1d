package hostnet

import (
	"fmt"
	"io"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// maxDescribed is how many routes of a family are written, of which a router may have a
// million.
const maxDescribed = 2000

// Describe writes, for a person, what interfaces, addresses, rules and routes there are.
func (h *Host) Describe(w io.Writer) error {
	links, err := h.nl.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	for _, link := range links {
		a := link.Attrs()
		fmt.Fprintf(w, "interface %d %s type %s mtu %d state %s flags %s\n", a.Index, a.Name, link.Type(), a.MTU, a.OperState, a.Flags)
		if s := a.Statistics; s != nil {
			fmt.Fprintf(w, "  received %d packets %d octets %d errors %d dropped, sent %d %d %d %d\n",
				s.RxPackets, s.RxBytes, s.RxErrors, s.RxDropped, s.TxPackets, s.TxBytes, s.TxErrors, s.TxDropped)
		}
		addrs, err := h.nl.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("list addresses of %s: %w", a.Name, err)
		}
		for _, addr := range addrs {
			fmt.Fprintf(w, "  address %s\n", addr.IPNet)
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := h.nl.RuleList(family)
		if err != nil {
			return fmt.Errorf("list rules: %w", err)
		}
		for _, rule := range rules {
			fmt.Fprintf(w, "%s\n", rule)
		}
		if err := h.describeRoutes(w, family); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) describeRoutes(w io.Writer, family int) error {
	n := 0
	err := h.eachRoute(family, netlink.Route{Table: unix.RT_TABLE_UNSPEC}, func(r *netlink.Route) {
		if n++; n <= maxDescribed {
			fmt.Fprintf(w, "route %s\n", r)
		}
	})
	if n > maxDescribed {
		fmt.Fprintf(w, "and %d routes more\n", n-maxDescribed)
	}
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	return nil
}
