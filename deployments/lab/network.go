package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A Network is a set of namespaces that were made together and go together.
type Network struct {
	namespaces []*Namespace
}

// New returns an empty network.
func New() *Network { return &Network{} }

// Close releases the namespaces. Programs started in them keep theirs alive
// until they end.
func (n *Network) Close() error {
	var errs []error
	for _, ns := range n.namespaces {
		ns.handle.Close()
		errs = append(errs, ns.fd.Close())
	}
	n.namespaces = nil
	return errors.Join(errs...)
}

// A Namespace is one host of a network.
type Namespace struct {
	Name   string
	fd     netns.NsHandle
	handle *netlink.Handle
}

// Add makes a namespace with its loopback up and packet forwarding on.
func (n *Network) Add(name string) (*Namespace, error) {
	fd, err := newNamespace()
	if err != nil {
		return nil, fmt.Errorf("make network namespace %s: %w", name, err)
	}
	handle, err := netlink.NewHandleAt(fd)
	if err != nil {
		fd.Close()
		return nil, fmt.Errorf("open netlink in %s: %w", name, err)
	}
	ns := &Namespace{Name: name, fd: fd, handle: handle}
	n.namespaces = append(n.namespaces, ns)
	if err := ns.Up("lo"); err != nil {
		return nil, err
	}
	return ns, ns.forward()
}

// Path is where programs can open the namespace, as long as this one has it.
func (ns *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(ns.fd)) }

// newNamespace makes a namespace without moving the caller into it.
func newNamespace() (netns.NsHandle, error) {
	type result struct {
		fd  netns.NsHandle
		err error
	}
	c := make(chan result)
	go func() {
		// The thread is left locked, so it ends with this goroutine and no
		// other goroutine ever runs in the new namespace by accident.
		runtime.LockOSThread()
		fd, err := netns.New()
		c <- result{fd, err}
	}()
	r := <-c
	return r.fd, r.err
}

// Do runs f on a thread that is in the namespace. Sockets that f opens and
// programs that it starts belong to it.
func (ns *Namespace) Do(f func() error) error {
	c := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(ns.fd); err != nil {
			c <- fmt.Errorf("enter network namespace %s: %w", ns.Name, err)
			return
		}
		c <- f()
	}()
	return <-c
}

// forward turns the host into a router and reverse-path filtering off, which
// would drop what arrives through a tunnel.
func (ns *Namespace) forward() error {
	return ns.Do(func() error {
		for file, value := range map[string]string{
			"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1",
			"ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0",
			// Addresses are usable at once: no duplicate address detection.
			"ipv6/conf/default/accept_dad": "0",
		} {
			if err := os.WriteFile("/proc/sys/net/"+file, []byte(value), 0o644); err != nil {
				return fmt.Errorf("set sysctl in %s: %w", ns.Name, err)
			}
		}
		return nil
	})
}

// Up sets a link up.
func (ns *Namespace) Up(link string) error {
	l, err := ns.handle.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find %s in %s: %w", link, ns.Name, err)
	}
	if err := ns.handle.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up in %s: %w", link, ns.Name, err)
	}
	return nil
}

// Down sets a link down.
func (ns *Namespace) Down(link string) error {
	l, err := ns.handle.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find %s in %s: %w", link, ns.Name, err)
	}
	if err := ns.handle.LinkSetDown(l); err != nil {
		return fmt.Errorf("set %s down in %s: %w", link, ns.Name, err)
	}
	return nil
}

// End is one end of a link: a host, the interface's name, its addresses.
type End struct {
	Host      *Namespace
	Interface string
	Addresses []netip.Prefix
}

// Link joins two hosts by a virtual cable.
func (n *Network) Link(a, b End) error {
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: a.Interface, MTU: 1500},
		PeerName:      b.Interface,
		PeerNamespace: netlink.NsFd(b.Host.fd),
	}
	if err := a.Host.handle.LinkAdd(veth); err != nil {
		return fmt.Errorf("link %s with %s: %w", a.Host.Name, b.Host.Name, err)
	}
	for _, end := range []End{a, b} {
		for _, address := range end.Addresses {
			if err := end.Host.Address(end.Interface, address); err != nil {
				return err
			}
		}
		if err := end.Host.Up(end.Interface); err != nil {
			return err
		}
	}
	return nil
}

// Address adds an address to a link.
func (ns *Namespace) Address(link string, address netip.Prefix) error {
	l, err := ns.handle.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find %s in %s: %w", link, ns.Name, err)
	}
	parsed, err := netlink.ParseAddr(address.String())
	if err != nil {
		return err
	}
	if err := ns.handle.AddrAdd(l, parsed); err != nil {
		return fmt.Errorf("add %s to %s in %s: %w", address, link, ns.Name, err)
	}
	return nil
}

// Route sends what is for dst to via. The default route has dst 0.0.0.0/0 or ::/0.
func (ns *Namespace) Route(dst netip.Prefix, via netip.Addr) error {
	parsed, err := netlink.ParseIPNet(dst.Masked().String())
	if err != nil {
		return err
	}
	if err := ns.handle.RouteAdd(&netlink.Route{Dst: parsed, Gw: via.AsSlice()}); err != nil {
		return fmt.Errorf("add route to %s via %s in %s: %w", dst, via, ns.Name, err)
	}
	return nil
}

// Default is another default route, behind those of a lower metric.
func (ns *Namespace) Default(via netip.Addr, metric int) error {
	all := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	if err := ns.handle.RouteAdd(&netlink.Route{Dst: all, Gw: via.AsSlice(), Priority: metric}); err != nil {
		return fmt.Errorf("add default route via %s in %s: %w", via, ns.Name, err)
	}
	return nil
}

// RouteDevice sends what is for dst into a link.
func (ns *Namespace) RouteDevice(dst netip.Prefix, link string) error {
	l, err := ns.handle.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find %s in %s: %w", link, ns.Name, err)
	}
	parsed, err := netlink.ParseIPNet(dst.Masked().String())
	if err != nil {
		return err
	}
	if err := ns.handle.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: parsed}); err != nil {
		return fmt.Errorf("route %s to %s in %s: %w", dst, link, ns.Name, err)
	}
	return nil
}

// Intercept leads what the host says to one address into an interface, but for what
// has a mark.
func (ns *Namespace) Intercept(to netip.Addr, link string, mark uint32) error {
	const table = 100
	l, err := ns.handle.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find %s in %s: %w", link, ns.Name, err)
	}
	host, err := netlink.ParseIPNet(netip.PrefixFrom(to, to.BitLen()).String())
	if err != nil {
		return err
	}
	rule := netlink.NewRule()
	rule.Dst, rule.Mark, rule.Invert, rule.Table = host, mark, true, table
	if err := ns.handle.RuleAdd(rule); err != nil {
		return fmt.Errorf("rule for %s in %s: %w", to, ns.Name, err)
	}
	if err := ns.handle.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: host, Table: table}); err != nil {
		return fmt.Errorf("route %s to %s in %s: %w", to, link, ns.Name, err)
	}
	return nil
}

// RouteLocal makes every address of dst one of the host itself, as many hosts
// on one link would have them.
func (ns *Namespace) RouteLocal(dst netip.Prefix) error {
	lo, err := ns.handle.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo in %s: %w", ns.Name, err)
	}
	parsed, err := netlink.ParseIPNet(dst.Masked().String())
	if err != nil {
		return err
	}
	route := &netlink.Route{
		LinkIndex: lo.Attrs().Index, Dst: parsed,
		Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
	}
	if err := ns.handle.RouteReplace(route); err != nil {
		return fmt.Errorf("have %s in %s: %w", dst, ns.Name, err)
	}
	return nil
}
