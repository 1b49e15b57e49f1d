package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/deployments/lab/wan"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// site is one site of the demonstration: an edge at the WAN, and a host in the
// LAN behind it.
type site struct {
	name     string // last segment of the resource name
	edge     *lab.Namespace
	lan      *lab.Namespace
	wanAddr  netip.Addr
	lanAddr4 netip.Addr // of the host in the LAN
	lanAddr6 netip.Addr
	agent    *lab.Program
}

// world is the emulated WAN with everything on it.
type world struct {
	net        *lab.Network
	controller *lab.Namespace
	wan        *lab.Namespace
	sites      []*site
	// behind is the site whose cable to the WAN is line; empty: none.
	behind string
	line   *wan.Line
}

// close takes the WAN away.
func (w *world) close() error {
	var err error
	if w.line != nil {
		err = w.line.Close()
	}
	return errors.Join(err, w.net.Close())
}

// The controller's address on the WAN, and the port of its edge listener.
var controllerAddr = netip.MustParseAddr("203.0.113.2")

const edgePort = 7444

// newWorld makes a router with the controller and every site of the manifest
// on links of their own: 198.51.100.(4i)/30 for site i. The one of the site behind is a
// line whose conditions can be set.
func newWorld(sites []*swanherdv1.Site, behind string) (*world, error) {
	w := &world{net: lab.New(), behind: behind}
	var err error
	if w.controller, err = w.net.Add("controller"); err != nil {
		return w, err
	}
	router, err := w.net.Add("wan")
	if err != nil {
		return w, err
	}
	w.wan = router
	err = w.attach(w.controller, "wan0", netip.MustParsePrefix("203.0.113.0/30"), router, "controller")
	if err != nil {
		return w, err
	}
	for i, s := range sites {
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(4 * i)}), 30)
		if err := w.addSite(s, prefix, router); err != nil {
			return w, err
		}
	}
	return w, nil
}

// addSecond makes another provider, with a link of its own to each site, 192.0.2.(4i)/30 for
// site i, and one to the WAN.
func (w *world) addSecond() error {
	provider, err := w.net.Add("lte")
	if err != nil {
		return err
	}
	between := netip.MustParsePrefix("203.0.113.4/30")
	if err := w.attach(provider, "up", between, w.wan, "lte"); err != nil {
		return err
	}
	if err := w.wan.Route(netip.MustParsePrefix("192.0.2.0/24"), between.Addr().Next().Next()); err != nil {
		return err
	}
	for i, s := range w.sites {
		gateway := netip.AddrFrom4([4]byte{192, 0, 2, byte(4*i + 1)})
		err := w.net.Link(
			lab.End{Host: s.edge, Interface: "wan2", Addresses: []netip.Prefix{netip.PrefixFrom(gateway.Next(), 30)}},
			lab.End{Host: provider, Interface: "to-" + s.name, Addresses: []netip.Prefix{netip.PrefixFrom(gateway, 30)}},
		)
		if err == nil {
			err = s.edge.Default(gateway, 200)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// attach links a host with the WAN's router and points its default route there.
func (w *world) attach(host *lab.Namespace, device string, prefix netip.Prefix, router *lab.Namespace, routerDevice string) error {
	gateway := prefix.Addr().Next()
	own := gateway.Next()
	link := w.net.Link
	if w.behind != "" && host.Name == w.behind {
		link = w.linkByLine
	}
	err := link(
		lab.End{Host: host, Interface: device, Addresses: []netip.Prefix{netip.PrefixFrom(own, prefix.Bits())}},
		lab.End{Host: router, Interface: routerDevice, Addresses: []netip.Prefix{netip.PrefixFrom(gateway, prefix.Bits())}},
	)
	if err != nil {
		return err
	}
	return host.Route(netip.MustParsePrefix("0.0.0.0/0"), gateway)
}

// linkByLine joins two hosts by the line.
func (w *world) linkByLine(a, b lab.End) error {
	between, err := w.net.Add("line")
	if err != nil {
		return err
	}
	if err := w.net.Link(a, lab.End{Host: between, Interface: "a"}); err != nil {
		return err
	}
	if err := w.net.Link(b, lab.End{Host: between, Interface: "b"}); err != nil {
		return err
	}
	return between.Do(func() error {
		w.line, err = wan.Join("a", "b", 1)
		return err
	})
}

func (w *world) addSite(s *swanherdv1.Site, wanPrefix netip.Prefix, router *lab.Namespace) error {
	name := s.GetName()[len("networks/demo/sites/"):]
	x := &site{name: name}
	var err error
	if x.edge, err = w.net.Add(name); err != nil {
		return err
	}
	if x.lan, err = w.net.Add(name + "-lan"); err != nil {
		return err
	}
	if err := w.attach(x.edge, "wan1", wanPrefix, router, "to-"+name); err != nil {
		return err
	}
	x.wanAddr = wanPrefix.Addr().Next().Next()
	var gateways, hosts []netip.Prefix
	for _, p := range s.GetPrefixes() {
		prefix, err := netip.ParsePrefix(p)
		if err != nil {
			return fmt.Errorf("%s: prefix %q: %w", s.GetName(), p, err)
		}
		gateway := prefix.Addr().Next()
		host := gateway.Next()
		gateways = append(gateways, netip.PrefixFrom(gateway, prefix.Bits()))
		hosts = append(hosts, netip.PrefixFrom(host, prefix.Bits()))
		if prefix.Addr().Is4() {
			x.lanAddr4 = host
		} else {
			x.lanAddr6 = host
		}
	}
	err = w.net.Link(
		lab.End{Host: x.edge, Interface: "lan0", Addresses: gateways},
		lab.End{Host: x.lan, Interface: "eth0", Addresses: hosts},
	)
	if err != nil {
		return err
	}
	for _, g := range gateways {
		all := netip.MustParsePrefix("0.0.0.0/0")
		if g.Addr().Is6() {
			all = netip.MustParsePrefix("::/0")
		}
		if err := x.lan.Route(all, g.Addr()); err != nil {
			return err
		}
	}
	w.sites = append(w.sites, x)
	return nil
}
