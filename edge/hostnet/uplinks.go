package hostnet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/swanherd/swanherd/edge/state"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// Notifications come in bursts: uplinks are looked at after the first one and while they
	// come, but not more often than each lookPause, nor for more than one part in restFactor
	// of the time; the rest of the host is once they pause.
	settleTime = 200 * time.Millisecond
	lookPause  = 20 * time.Millisecond
	restFactor = 10
	// awayTime is how long the controller is not told of an uplink that has lost its
	// addresses: most come back at once with others, and what it would plan for that moment
	// would move the tunnels of all peers twice.
	awayTime = 5 * time.Second
	// The kernel drops notifications when they come too fast, so the host is
	// looked at this often in any case.
	lookInterval = 30 * time.Second
)

// UplinksConfig is what is known of the uplinks beforehand.
type UplinksConfig struct {
	// Configured by the operator, by name and interface. Empty: each interface with a
	// default route is one.
	Configured []*swanherdv1.Uplink
	// Known are the names of those that were found before, and Remember is given what is
	// known when that has changed; nil: nobody is.
	Known    []state.KnownUplink
	Remember func([]state.KnownUplink)
	// Changed is called when Current or Down have changed, by Run; nil: nobody is. It must
	// not block.
	Changed func()
	// Tunnel is the tunnel interface, which is none.
	Tunnel string
	// Port is where the edge answers IKE and ESP in UDP.
	Port uint16
}

// Uplinks watches the WAN attachments of the host, and keeps what leaves from the addresses
// of each to it.
type Uplinks struct {
	host  *Host
	cfg   UplinksConfig
	apart *uplinksApart
	known []state.KnownUplink
	// restUntil is when the uplinks may be looked at again, lost since when those are without
	// addresses that had some, said the last error about apart.
	restUntil time.Time
	lost      map[string]time.Time
	said      string
	flaps     flaps
	quiet     time.Duration // until flaps are to be asked again, 0 for never

	current atomic.Pointer[uplinkState]
	told    atomic.Pointer[[]*swanherdv1.Uplink]
	changed chan struct{}
	// hostChanged is sent to whenever any address, route or link may have
	// changed.
	hostChanged chan struct{}
}

// uplinkState is what was found at one time.
type uplinkState struct {
	uplinks []*swanherdv1.Uplink
	down    map[string]string
}

func (s *uplinkState) add(up *swanherdv1.Uplink, down string) {
	s.uplinks = append(s.uplinks, up)
	if down != "" {
		s.down[up.GetName()] = down
	}
}

// NewUplinks looks at the host's uplinks: those configured, or else each interface with a
// default route, named wan1, wan2 and so on. It keeps its name, and is listed without
// addresses while it is away.
func (h *Host) NewUplinks(cfg UplinksConfig) (*Uplinks, error) {
	u := &Uplinks{
		host: h, cfg: cfg, apart: newUplinksApart(h), known: cfg.Known,
		lost: map[string]time.Time{}, flaps: flaps{}, changed: make(chan struct{}, 1), hostChanged: make(chan struct{}, 1),
	}
	found, err := u.look()
	if err != nil {
		return nil, err
	}
	if len(found.uplinks) == 0 {
		h.logger.Warn("no uplink found: this host has no default route; name uplinks with --uplink name=wan1,interface=eth0")
	}
	u.current.Store(found)
	u.told.Store(&found.uplinks)
	u.keepApart()
	return u, nil
}

// Current returns the uplinks, which the caller does not change.
func (u *Uplinks) Current() []*swanherdv1.Uplink { return u.current.Load().uplinks }

// Told returns the uplinks as the controller is to see them, which the caller does not
// change: one whose addresses are gone keeps them for a moment.
func (u *Uplinks) Told() []*swanherdv1.Uplink { return *u.told.Load() }

// Down returns the names of the uplinks that nothing can leave by now, and why. The caller
// does not change it.
func (u *Uplinks) Down() map[string]string { return u.current.Load().down }

// Changed is sent to when Told has changed.
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
	soon := time.NewTimer(settleTime)
	defer soon.Stop()
	soon.Stop()
	waiting := false // for soon
	for {
		select {
		case <-ctx.Done():
			return
		case <-lost:
			u.refresh()
			return
		case <-notes:
			if !waiting {
				waiting = true
				soon.Reset(time.Until(u.restUntil))
			}
			settle.Reset(settleTime)
		case <-soon.C:
			if waiting = false; u.lookAgain() {
				signal(u.hostChanged)
			}
		case <-settle.C:
			if again := u.refresh(); again > 0 {
				settle.Reset(again)
			}
		case <-look.C:
			u.refresh()
		}
	}
}

// refresh looks at the host and tells who wants to know. It returns when it is to be called
// again if nothing happens, 0 for never.
func (u *Uplinks) refresh() time.Duration {
	u.lookAgain()
	signal(u.hostChanged)
	again := u.tell(time.Now())
	if u.quiet > 0 && (again == 0 || u.quiet < again) {
		again = u.quiet
	}
	return again
}

// lookAgain looks at the uplinks, and says whether they are others than before or there is
// another way by them.
func (u *Uplinks) lookAgain() bool {
	began := time.Now()
	defer func() { u.restUntil = time.Now().Add(max(lookPause, restFactor*time.Since(began))) }()
	found, err := u.look()
	if err != nil {
		u.host.logger.Warn("cannot look at the uplinks", "error", err)
		return false
	}
	var all []string
	for _, f := range found.uplinks {
		all = append(all, f.GetName())
	}
	u.quiet = u.flaps.damp(began, all, found.down)
	before := u.current.Load()
	same := sameUplinks(found.uplinks, before.uplinks)
	u.current.Store(found)
	u.keepApart() // before the tunnels go by them
	for _, f := range found.uplinks {
		if name := f.GetName(); !same || found.down[name] != before.down[name] {
			u.host.logger.Info("uplink", "name", name, "interface", f.GetInterface(), "addresses", f.GetAddresses(), "down", found.down[name])
		}
	}
	changed := !same || !maps.Equal(found.down, before.down)
	if changed && u.cfg.Changed != nil {
		u.cfg.Changed()
	}
	return changed
}

func sameUplinks(a, b []*swanherdv1.Uplink) bool {
	return slices.EqualFunc(a, b, func(a, b *swanherdv1.Uplink) bool { return proto.Equal(a, b) })
}

// tell has the controller told what has settled, and returns when there is more to tell.
func (u *Uplinks) tell(now time.Time) (again time.Duration) {
	told := u.Told()
	next := slices.Clone(u.Current())
	for i, up := range next {
		name := up.GetName()
		at := slices.IndexFunc(told, func(t *swanherdv1.Uplink) bool { return t.GetName() == name })
		if len(up.GetAddresses()) > 0 || at < 0 || len(told[at].GetAddresses()) == 0 {
			delete(u.lost, name)
			continue
		}
		if u.lost[name].IsZero() {
			u.lost[name] = now
		}
		if left := awayTime - now.Sub(u.lost[name]); left > 0 {
			next[i] = told[at]
			if again == 0 || left < again {
				again = left
			}
		}
	}
	if !sameUplinks(next, told) {
		u.told.Store(&next)
		signal(u.changed)
	}
	return again
}

// keepApart has what leaves from the uplinks' addresses leave by them.
func (u *Uplinks) keepApart() {
	text := ""
	if err := u.apart.set(u.Current()); err != nil {
		text = err.Error()
	}
	if text != "" && text != u.said {
		u.host.logger.Warn("cannot route what leaves from the uplinks' addresses by these; trying again", "error", text)
	}
	u.said = text
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
func (u *Uplinks) look() (*uplinkState, error) {
	if len(u.cfg.Configured) > 0 {
		return u.lookConfigured()
	}
	defaults, err := u.host.defaultRoutes(u.cfg.Tunnel)
	if err != nil {
		return nil, err
	}
	links := map[foundUplink]netlink.Link{}
	var found []foundUplink
	for _, index := range defaults {
		link, err := u.host.nl.LinkByIndex(index)
		if err != nil {
			continue // gone in between
		}
		a := link.Attrs()
		f := foundUplink{a.Name, a.HardwareAddr.String()}
		links[f] = link
		found = append(found, f)
	}
	u.remember(nameUplinks(u.known, found, time.Now()))
	out := &uplinkState{down: map[string]string{}}
	for _, k := range u.known {
		up := &swanherdv1.Uplink{Name: k.Name, Interface: k.Interface, Port: uint32(u.cfg.Port)}
		link := links[foundUplink{k.Interface, k.HardwareAddress}]
		if link == nil {
			out.add(up, fmt.Sprintf("interface %s has no default route", k.Interface))
			continue
		}
		if err := u.host.fill(up, link); err != nil {
			return nil, err
		}
		out.add(up, whyDown(up, link))
	}
	return out, nil
}

// remember takes in which uplinks are known.
func (u *Uplinks) remember(known []state.KnownUplink) {
	if slices.Equal(known, u.known) {
		return
	}
	u.known = known
	if u.cfg.Remember != nil {
		u.cfg.Remember(slices.Clone(known))
	}
}

// lookConfigured finds the addresses of the configured uplinks. An interface
// that is missing has none.
func (u *Uplinks) lookConfigured() (*uplinkState, error) {
	out := &uplinkState{down: map[string]string{}}
	for _, c := range u.cfg.Configured {
		up := proto.Clone(c).(*swanherdv1.Uplink)
		up.Port = uint32(u.cfg.Port)
		link, err := u.host.nl.LinkByName(up.GetInterface())
		if err == nil {
			err = u.host.fill(up, link)
		}
		var missing netlink.LinkNotFoundError
		switch {
		case errors.As(err, &missing):
			out.add(up, fmt.Sprintf("interface %s is missing", up.GetInterface()))
		case err != nil:
			return nil, fmt.Errorf("look at uplink %s: %w", up.GetName(), err)
		default:
			out.add(up, whyDown(up, link))
		}
	}
	return out, nil
}

// whyDown says why nothing can leave by an uplink, empty if something can.
func whyDown(up *swanherdv1.Uplink, link netlink.Link) string {
	a := link.Attrs()
	switch {
	case a.Flags&net.FlagUp == 0:
		return fmt.Sprintf("interface %s is switched off", a.Name)
	case a.RawFlags&unix.IFF_RUNNING == 0: // of an interface that has a state at all
		return fmt.Sprintf("interface %s has no carrier", a.Name)
	case len(up.GetAddresses()) == 0:
		return fmt.Sprintf("interface %s has no address", a.Name)
	}
	return ""
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
