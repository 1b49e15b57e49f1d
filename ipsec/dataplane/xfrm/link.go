package xfrm

import (
	"errors"
	"fmt"
	"time"

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
func openLink(name string, ifID uint32, mtu int) (*link, error) {
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
	if err := h.LinkAdd(&netlink.Xfrmi{LinkAttrs: attrs, Ifid: ifID}); err != nil {
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

// Failed gets an error when the plane can move packets no more, because somebody
// removed its interface. There is no way on but to close it and to make another one.
func (p *Plane) Failed() <-chan error { return p.failed }

// watchLink looks whether the interface is still there.
func (p *Plane) watchLink() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-tick.C:
		}
		if _, err := p.link.handle.LinkByIndex(p.link.dev.Attrs().Index); errors.As(err, &netlink.LinkNotFoundError{}) {
			p.logger.Error("data plane has failed", "interface", p.link.name, "error", err)
			p.failed <- fmt.Errorf("interface %s: %w", p.link.name, err)
			return
		}
	}
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
