package hostnet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// Notifications come in bursts; the host is looked at once they pause.
	settleTime = 200 * time.Millisecond
	// The kernel drops notifications when they come too fast, so the host is
	// looked at this often in any case.
	lookInterval = 30 * time.Second
)

// Uplinks watches the WAN attachments of the host.
type Uplinks struct {
	host *Host
	// configured by the operator; empty: the interfaces with a default route.
	configured []*swanherdv1.Uplink
	tunnel     string
	port       uint32

	current atomic.Pointer[[]*swanherdv1.Uplink]
	changed chan struct{}
	// hostChanged is sent to whenever any address, route or link may have
	// changed.
	hostChanged chan struct{}
}

// NewUplinks looks at the host's uplinks: those configured, by name and
// interface, or else each interface with a default route, named wan1, wan2 and
// so on. Tunnel is the tunnel interface, which is none. Port is where the edge
// answers IKE and ESP in UDP.
func (h *Host) NewUplinks(configured []*swanherdv1.Uplink, tunnel string, port uint16) (*Uplinks, error) {
	u := &Uplinks{
		host: h, configured: configured, tunnel: tunnel, port: uint32(port),
		changed: make(chan struct{}, 1), hostChanged: make(chan struct{}, 1),
	}
	found, err := u.look()
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		h.logger.Warn("no uplink found: this host has no default route; name uplinks with --uplink name=wan1,interface=eth0")
	}
	u.current.Store(&found)
	return u, nil
}

// Current returns the uplinks, which the caller does not change.
func (u *Uplinks) Current() []*swanherdv1.Uplink { return *u.current.Load() }

// Changed is sent to when Current has changed.
func (u *Uplinks) Changed() <-chan struct{} { return u.changed }

// HostChanged is sent to when anything of the host's addresses, links or routes
// may have changed, be it an uplink's or not.
func (u *Uplinks) HostChanged() <-chan struct{} { return u.hostChanged }

// Run follows the kernel's notifications until ctx ends.
func (u *Uplinks) Run(ctx context.Context) {
	notes := make(chan struct{}, 1)
	for ctx.Err() == nil {
		done := make(chan struct{})
		lost, err := u.subscribe(notes, done)
		if err != nil {
			u.host.logger.Warn("no notifications of address changes; looking at intervals", "interval", lookInterval, "error", err)
		}
		u.follow(ctx, notes, lost)
		close(done)
	}
}

// follow looks at the host after notifications, until ctx ends or the
// subscription is lost.
func (u *Uplinks) follow(ctx context.Context, notes <-chan struct{}, lost <-chan struct{}) {
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	settle := time.NewTimer(0) // what happened before the subscription
	defer settle.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-lost:
			u.refresh()
			return
		case <-notes:
			settle.Reset(settleTime)
		case <-settle.C:
			u.refresh()
		case <-look.C:
			u.refresh()
		}
	}
}

// refresh looks at the host and tells who wants to know.
func (u *Uplinks) refresh() {
	signal(u.hostChanged)
	found, err := u.look()
	if err != nil {
		u.host.logger.Warn("cannot look at the uplinks", "error", err)
		return
	}
	if slices.EqualFunc(found, u.Current(), func(a, b *swanherdv1.Uplink) bool { return proto.Equal(a, b) }) {
		return
	}
	u.current.Store(&found)
	for _, f := range found {
		u.host.logger.Info("uplink", "name", f.GetName(), "interface", f.GetInterface(), "addresses", f.GetAddresses())
	}
	signal(u.changed)
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// subscribe forwards the kernel's notifications of address, route, rule and link
// changes to notes until done is closed; lost is closed when one of the
// subscriptions has ended, as it does when the kernel had to drop notifications.
func (u *Uplinks) subscribe(notes chan<- struct{}, done <-chan struct{}) (lost <-chan struct{}, err error) {
	addrs, routes, links := make(chan netlink.AddrUpdate), make(chan netlink.RouteUpdate), make(chan netlink.LinkUpdate)
	rules := make(chan struct{})
	if err := errors.Join(
		netlink.AddrSubscribe(addrs, done),
		netlink.RouteSubscribe(routes, done),
		netlink.LinkSubscribe(links, done),
		subscribeToRules(rules, done),
	); err != nil {
		return nil, fmt.Errorf("subscribe to netlink: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		defer func() {
			close(ended)
			// The senders end with done; until then nobody may hold them up.
			go drain(addrs)
			go drain(routes)
			go drain(links)
			go drain(rules)
		}()
		for {
			var ok bool
			select {
			case _, ok = <-addrs:
			case r, open := <-routes:
				ok = open
				if r.Protocol == RouteProtocol && r.Type != unix.RTM_DELROUTE {
					continue // our own doing; that one is gone may be another's
				}
			case _, ok = <-links:
			case _, ok = <-rules:
			}
			if !ok {
				break
			}
			signal(notes)
		}
	}()
	return ended, nil
}

// subscribeToRules sends to gone after a rule was removed, until done is closed, and
// closes it at the end.
func subscribeToRules(gone chan<- struct{}, done <-chan struct{}) error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
	if err != nil {
		return err
	}
	go func() {
		<-done
		s.Close()
	}()
	go func() {
		defer close(gone)
		for {
			messages, _, err := s.Receive()
			if err != nil {
				return
			}
			for _, m := range messages {
				if m.Header.Type == unix.RTM_DELRULE {
					gone <- struct{}{}
				}
			}
		}
	}()
	return nil
}

func drain[T any](c <-chan T) {
	for range c {
	}
}

// look finds the uplinks as they are.
func (u *Uplinks) look() ([]*swanherdv1.Uplink, error) {
	if len(u.configured) > 0 {
		return u.lookConfigured()
	}
	defaults, err := u.host.defaultRoutes(u.tunnel)
	if err != nil {
		return nil, err
	}
	var out []*swanherdv1.Uplink
	for i, index := range defaults {
		link, err := u.host.nl.LinkByIndex(index)
		if err != nil {
			continue // gone in between
		}
		up := &swanherdv1.Uplink{Name: fmt.Sprintf("wan%d", i+1), Interface: link.Attrs().Name, Port: u.port}
		if err := u.host.fill(up, link); err != nil {
			return nil, err
		}
		out = append(out, up)
	}
	return out, nil
}

// lookConfigured finds the addresses of the configured uplinks. An interface
// that is missing has none.
func (u *Uplinks) lookConfigured() ([]*swanherdv1.Uplink, error) {
	var out []*swanherdv1.Uplink
	for _, c := range u.configured {
		up := proto.Clone(c).(*swanherdv1.Uplink)
		up.Port = u.port
		link, err := u.host.nl.LinkByName(up.GetInterface())
		if err == nil {
			err = u.host.fill(up, link)
		}
		var missing netlink.LinkNotFoundError
		if err != nil && !errors.As(err, &missing) {
			return nil, fmt.Errorf("look at uplink %s: %w", up.GetName(), err)
		}
		out = append(out, up)
	}
	return out, nil
}

func (h *Host) fill(up *swanherdv1.Uplink, link netlink.Link) error {
	addrs, err := h.addresses(link)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		up.Addresses = append(up.Addresses, a.String())
	}
	return nil
}

// defaultRoutes returns the interfaces that have a default route, the preferred
// first, apart from the tunnel interface.
func (h *Host) defaultRoutes(tunnel string) ([]int, error) {
	var list []netlink.Route
	err := h.eachRoute(netlink.FAMILY_ALL, netlink.Route{Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST}, func(r *netlink.Route) {
		if prefix, ok := prefixOf(r.Dst, r.Family); ok && prefix.Bits() == 0 {
			list = append(list, *r)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var own int
	if link, err := h.nl.LinkByName(tunnel); err == nil {
		own = link.Attrs().Index
	}
	slices.SortStableFunc(list, func(a, b netlink.Route) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.LinkIndex, b.LinkIndex))
	})
	var out []int
	for _, r := range list {
		hops := []int{r.LinkIndex}
		for _, hop := range r.MultiPath {
			hops = append(hops, hop.LinkIndex)
		}
		for _, index := range hops {
			if index != 0 && index != own && !slices.Contains(out, index) {
				out = append(out, index)
			}
		}
	}
	return out, nil
}
