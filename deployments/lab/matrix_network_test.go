package lab_test

import (
	"fmt"
	"net/netip"

	"github.com/swanherd/swanherd/deployments/lab"
)

// network makes the two gateways, a host behind each, and the NATs between them
// that the case wants:
//
//	our-lan -- ours -- [our-nat] -- wire -- [their-nat] -- theirs -- their-lan
//
// The gateways have no route to each other's LAN, so that nothing passes but
// through a tunnel.
func (x *run) network() {
	n := lab.New()
	x.net = n
	x.t.Cleanup(func() { n.Close() })
	for _, name := range []string{"ours", "theirs", "our-lan", "their-lan"} {
		x.add(n, name)
	}
	everything := netip.MustParsePrefix("0.0.0.0/0")
	for i, s := range []struct{ gateway, lan string }{{"ours", "our-lan"}, {"theirs", "their-lan"}} {
		var inside, host []netip.Prefix
		for _, name := range x.children {
			if x.transport {
				name = "net" // there is no traffic of it
			}
			l := [...]string{lans[name].ours, lans[name].theirs}[i]
			inside = append(inside, netip.PrefixFrom(lanHost(l).Prev(), 24))
			host = append(host, netip.PrefixFrom(lanHost(l), 24))
		}
		x.must(n.Link(lab.End{Host: x.hosts[s.gateway], Interface: "lan0", Addresses: inside}, lab.End{Host: x.hosts[s.lan], Interface: "eth0", Addresses: host}))
		x.must(x.hosts[s.lan].Route(everything, inside[0].Addr()))
	}
	// outer is the end of each side on the wire between them.
	var outer [2]lab.End
	for i, s := range []struct{ gateway, nat, public string }{{"ours", "our-nat", ourPublic}, {"theirs", "their-nat", theirPublic}} {
		public := netip.MustParsePrefix(s.public + "/24")
		x.addr[i] = public.Addr()
		outer[i] = lab.End{Host: x.hosts[s.gateway], Interface: "wan1", Addresses: []netip.Prefix{public}}
		if x.nat[i] {
			outer[i] = x.addNAT(n, side(i), s.gateway, s.nat, public)
		}
	}
	x.add(n, "wire")
	x.must(n.Link(outer[ours], lab.End{Host: x.hosts["wire"], Interface: "ours"}))
	x.must(n.Link(lab.End{Host: x.hosts["wire"], Interface: "theirs"}, outer[theirs]))
	var err error
	x.cable, err = newCable(x.hosts["wire"], "ours", "theirs")
	x.must(err)
	x.t.Cleanup(x.cable.close)
}

func (x *run) add(n *lab.Network, name string) {
	ns, err := n.Add(name)
	x.must(err)
	x.hosts[name] = ns
}

// addNAT puts a gateway behind a NAT that changes the ports of what goes out,
// and forwards IKE to the gateway. It returns the NAT's outer end.
func (x *run) addNAT(n *lab.Network, s side, gateway, name string, public netip.Prefix) lab.End {
	x.add(n, name)
	inside := netip.MustParsePrefix(fmt.Sprintf("198.18.%d.2/24", s+1))
	router := netip.PrefixFrom(inside.Addr().Prev(), 24)
	x.must(n.Link(
		lab.End{Host: x.hosts[gateway], Interface: "wan1", Addresses: []netip.Prefix{inside}},
		lab.End{Host: x.hosts[name], Interface: "inner0", Addresses: []netip.Prefix{router}},
	))
	x.must(x.hosts[gateway].Route(netip.MustParsePrefix("0.0.0.0/0"), router.Addr()))
	x.addr[s] = inside.Addr()
	_, err := x.hosts[name].Run(x.ctx, "nft", fmt.Sprintf(`
		table ip nat {
			chain out { type nat hook postrouting priority srcnat; oifname "outer0" masquerade random; }
			chain in { type nat hook prerouting priority dstnat; iifname "outer0" udp dport { 500, 4500 } dnat to %s; }
		}`, inside.Addr()))
	x.must(err)
	return lab.End{Host: x.hosts[name], Interface: "outer0", Addresses: []netip.Prefix{public}}
}

// block drops IKE and ESP on arrival at either gateway, until the function that
// it returns is called.
func (x *run) block() (unblock func()) {
	for _, name := range []string{"ours", "theirs"} {
		_, err := x.hosts[name].Run(x.ctx, "nft", "table inet block { chain in { type filter hook input priority 0; udp dport { 500, 4500 } drop; }; }")
		x.must(err)
	}
	return func() {
		for _, name := range []string{"ours", "theirs"} {
			_, err := x.hosts[name].Run(x.ctx, "nft", "delete table inet block")
			x.must(err)
		}
	}
}
