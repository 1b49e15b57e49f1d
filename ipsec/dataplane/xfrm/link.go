package xfrm

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// link is an XFRM interface: what is routed into it is matched with policies of its ID
// alone, and what was received on SAs of its ID comes out of it. That of a label may be in
// another network namespace than the SAs.
type link struct {
	label  string
	name   string
	ifID   uint32
	handle *netlink.Handle
	dev    netlink.Link
	packet int // a socket that sends into it, -1 if the host does not let us have it
}

// openLink makes the interface without a label, or takes over that of an earlier process
// with the routes into it, so that what they are for is not sent elsewhere in clear.
func openLink(name string, ifID uint32, mtu int) (*link, error) {
	return openLinkIn(dataplane.Label{Interface: name}, ifID, mtu)
}

// openLinkIn does so with that of a label, in the label's network namespace.
func openLinkIn(in dataplane.Label, ifID uint32, mtu int) (l *link, err error) {
	l = &link{label: in.Name, name: in.Interface, ifID: ifID, packet: -1}
	var namespace *os.File
	err = in.Within(func() error {
		if l.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return fmt.Errorf("open netlink socket: %w", err)
		}
		l.openPacket()
		namespace, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		l.close()
		return nil, err
	}
	defer namespace.Close()
	if err = l.find(); errors.As(err, &netlink.LinkNotFoundError{}) {
		if err = l.create(in, int(namespace.Fd()), mtu); err == nil {
			err = l.find()
		}
	}
	if err == nil && l.dev.Attrs().MTU != mtu {
		err = l.handle.LinkSetMTU(l.dev, mtu)
	}
	if err == nil {
		err = l.handle.LinkSetUp(l.dev)
	}
	if err != nil {
		l.close()
		return nil, fmt.Errorf("interface %s: %w", l.name, err)
	}
	return l, nil
}

// find looks for the interface by its name.
func (l *link) find() (err error) {
	if l.dev, err = l.handle.LinkByName(l.name); err != nil {
		return err
	}
	if x, ok := l.dev.(*netlink.Xfrmi); !ok || x.Ifid != l.ifID {
		return fmt.Errorf("there is one that is not ours (%s): give another name", l.dev.Type())
	}
	return nil
}

// create makes the interface where the SAs are, to which it belongs from then on, and moves
// it to the network namespace of its label under a name that nobody has there.
func (l *link) create(in dataplane.Label, namespace, mtu int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = l.name, mtu
	if in.Enter != nil {
		attrs.Name = fmt.Sprintf("swan%08x", l.ifID)
	}
	home, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	defer home.Close()
	switch err = home.LinkAdd(&netlink.Xfrmi{LinkAttrs: attrs, Ifid: l.ifID}); {
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: this kernel has no XFRM interfaces, or not the module xfrm_interface", err)
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%w: another one has the ID %#x, in this or another network namespace: remove it", err, l.ifID)
	case err != nil || in.Enter == nil:
		return err
	}
	made, err := home.LinkByName(attrs.Name)
	if err != nil {
		return err
	}
	if err = home.LinkSetNsFd(made, namespace); err != nil {
		return errors.Join(fmt.Errorf("move to the network namespace of label %s: %w", l.label, err), home.LinkDel(made))
	}
	if made, err = l.handle.LinkByName(attrs.Name); err == nil {
		err = l.handle.LinkSetName(made, l.name)
	}
	return err
}

// Failed gets an error when the plane can move packets no more, because somebody
// removed an interface of its. There is no way on but to close it and to make another one.
func (p *Plane) Failed() <-chan error { return p.failed }

// watchLinks looks whether the interfaces are still there.
func (p *Plane) watchLinks() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-tick.C:
		}
		for _, l := range p.links {
			if _, err := l.handle.LinkByIndex(l.dev.Attrs().Index); errors.As(err, &netlink.LinkNotFoundError{}) {
				p.logger.Error("data plane has failed", "interface", l.name, "label", l.label, "error", err)
				p.failed <- fmt.Errorf("interface %s: %w", l.name, err)
				return
			}
		}
	}
}

func (l *link) remove() error {
	defer l.close()
	if err := l.handle.LinkDel(l.dev); err != nil {
		return fmt.Errorf("remove interface %s: %w", l.name, err)
	}
	return nil
}

func (l *link) close() {
	if l.handle != nil {
		l.handle.Close()
	}
	if l.packet >= 0 {
		unix.Close(l.packet)
	}
}
