package hostnet

import (
	"errors"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// eachRoute calls f for the routes of a family, or all, that are in the table of like, and
// have its protocol, type and interface where it names one. Tens of thousands are never
// all in memory, and the kernel leaves out what is not asked for.
func (h *Host) eachRoute(family int, like netlink.Route, f func(*netlink.Route)) error {
	mask := netlink.RT_FILTER_TABLE
	if like.Protocol != 0 {
		mask |= netlink.RT_FILTER_PROTOCOL
	}
	if like.Type != 0 {
		mask |= netlink.RT_FILTER_TYPE
	}
	if like.LinkIndex != 0 {
		mask |= netlink.RT_FILTER_OIF
	}
	err := h.lister.RouteListFilteredIter(family, &like, mask, func(r netlink.Route) bool { f(&r); return true })
	if errors.Is(err, unix.ENOENT) {
		return nil // there is no such table
	}
	return err
}
