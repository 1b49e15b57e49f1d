package hostnet

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Host is the network of this host.
type Host struct {
	nl     *netlink.Handle
	lister *netlink.Handle // see eachRoute
	logger *slog.Logger
	// within runs a function in the host's network namespace; nil: that of the process.
	within func(func() error) error
}

// Open opens a channel to the kernel. It needs no privileges; most changes do.
func Open(logger *slog.Logger) (*Host, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	lister, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		nl.Close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	// Linux 4.20. Without it all routes are told, and looked at here.
	_ = lister.SetStrictCheck(true)
	return &Host{nl: nl, lister: lister, logger: logger}, nil
}

// Close closes the channel; what was changed stays.
func (h *Host) Close() {
	h.nl.Close()
	h.lister.Close()
}

// SetLink brings an interface up with the given MTU in octets.
func (h *Host) SetLink(name string, mtu int) error {
	link, err := h.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	if link.Attrs().MTU != mtu {
		if err := h.nl.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("set MTU %d of %s: %w", mtu, name, privileged(err))
		}
	}
	if err := h.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring %s up: %w", name, privileged(err))
	}
	return nil
}

// AddressIn returns an address of this host inside one of the prefixes, of the
// family of its first octets: the source for traffic of the host itself into a
// tunnel. The zero Addr means that there is none.
func (h *Host) AddressIn(prefixes []netip.Prefix, v4 bool, except string) (netip.Addr, error) {
	links, err := h.nl.LinkList()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list interfaces: %w", err)
	}
	var found []netip.Addr
	for _, link := range links {
		if link.Attrs().Name == except {
			continue
		}
		addrs, err := h.addresses(link)
		if err != nil {
			return netip.Addr{}, err
		}
		for _, a := range addrs {
			if a.Is4() == v4 && slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) }) {
				found = append(found, a)
			}
		}
	}
	if len(found) == 0 {
		return netip.Addr{}, nil
	}
	return slices.MinFunc(found, netip.Addr.Compare), nil // the same one each time
}

// addresses returns the usable global addresses of an interface, sorted.
func (h *Host) addresses(link netlink.Link) ([]netip.Addr, error) {
	list, err := h.nl.AddrList(link, unix.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
	}
	const unusable = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED | unix.IFA_F_TEMPORARY
	var out []netip.Addr
	for _, a := range list {
		addr, ok := netip.AddrFromSlice(a.IP)
		addr = addr.Unmap()
		if !ok || !addr.IsGlobalUnicast() {
			continue
		}
		if a.Flags&unusable != 0 && addr.Is6() {
			continue
		}
		out = append(out, addr)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out, nil
}

// privileged adds the remedy to an error for want of rights.
func privileged(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%w; run the agent as root or with CAP_NET_ADMIN", err)
	}
	return err
}

// MTU returns an interface's MTU in octets.
func (h *Host) MTU(name string) (int, error) {
	link, err := h.nl.LinkByName(name)
	if err != nil {
		return 0, fmt.Errorf("find interface %s: %w", name, err)
	}
	return link.Attrs().MTU, nil
}

// SourceTo returns the address from which packets to remote leave, by the
// routing table.
func (h *Host) SourceTo(remote netip.Addr) (netip.Addr, error) {
	routes, err := h.nl.RouteGet(remote.AsSlice())
	if err != nil {
		return netip.Addr{}, fmt.Errorf("no route to %s: %w", remote, err)
	}
	for _, r := range routes {
		if source, ok := netip.AddrFromSlice(r.Src); ok {
			return source.Unmap(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("route to %s has no source address", remote)
}
