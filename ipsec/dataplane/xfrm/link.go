package xfrm

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// link is the XFRM interface: what is routed into it is matched with our policies
// alone.
type link struct {
	name   string
	handle *netlink.Handle
	dev    netlink.Link
}

// openLink makes the interface anew, so that nothing of an earlier one stays.
func openLink(name string, mtu int) (*link, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	l := &link{name: name, handle: h}
	if old, err := h.LinkByName(name); err == nil {
		if old.Type() != "xfrm" {
			return nil, errors.Join(fmt.Errorf("there is an interface %s that is not ours (%s): give another name", name, old.Type()), l.remove())
		}
		if err := h.LinkDel(old); err != nil {
			return nil, errors.Join(fmt.Errorf("remove the interface %s of an earlier process: %w", name, err), l.remove())
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	if err := h.LinkAdd(&netlink.Xfrmi{LinkAttrs: attrs, Ifid: interfaceID}); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			err = fmt.Errorf("%w: this kernel has no XFRM interfaces, or not the module xfrm_interface", err)
		}
		return nil, errors.Join(fmt.Errorf("make interface %s: %w", name, err), l.remove())
	}
	if l.dev, err = h.LinkByName(name); err == nil {
		err = h.LinkSetUp(l.dev)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start interface %s: %w", name, err), l.remove())
	}
	return l, nil
}

func (l *link) remove() error {
	defer l.handle.Close()
	if l.dev == nil {
		return nil
	}
	if err := l.handle.LinkDel(l.dev); err != nil {
		return fmt.Errorf("remove interface %s: %w", l.name, err)
	}
	return nil
}
