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

// openLink makes the interface, or takes over that of an earlier process with the
// routes into it, so that what they are for is not sent elsewhere in clear.
func openLink(name string, ifID uint32, mtu int) (_ *link, err error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	defer func() {
		if err != nil {
			h.Close()
		}
	}()
	l := &link{name: name, handle: h}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	err = h.LinkAdd(&netlink.Xfrmi{LinkAttrs: attrs, Ifid: ifID})
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = fmt.Errorf("%w: this kernel has no XFRM interfaces, or not the module xfrm_interface", err)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("make interface %s: %w", name, err)
	}
	if l.dev, err = h.LinkByName(name); err != nil {
		return nil, fmt.Errorf("find interface %s: %w", name, err)
	}
	if x, ok := l.dev.(*netlink.Xfrmi); !ok || x.Ifid != ifID {
		return nil, fmt.Errorf("there is an interface %s that is not ours (%s): give another name", name, l.dev.Type())
	}
	if l.dev.Attrs().MTU != mtu {
		err = h.LinkSetMTU(l.dev, mtu)
	}
	if err == nil {
		err = h.LinkSetUp(l.dev)
	}
	if err != nil {
		return nil, fmt.Errorf("start interface %s: %w", name, err)
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
	if err := l.handle.LinkDel(l.dev); err != nil {
		return fmt.Errorf("remove interface %s: %w", l.name, err)
	}
	return nil
}
