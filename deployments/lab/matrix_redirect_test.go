package lab_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/engine"
	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// The other gateway of each end is a host behind the first one, with the same
// identity (RFC 5685).
const ourOther, theirOther = "198.51.100.2", "203.0.113.2"

// other makes the host of the other gateway of an end.
func (x *run) other(s side) *lab.Namespace {
	name, first := [...]string{"our-other", "their-other"}[s], x.hosts[s.String()]
	x.add(x.net, name)
	outside := netip.MustParseAddr([...]string{ourOther, theirOther}[s])
	inside := outside.Prev()
	x.must(x.net.Link(
		lab.End{Host: first, Interface: "other0", Addresses: []netip.Prefix{netip.PrefixFrom(inside, 24)}},
		lab.End{Host: x.hosts[name], Interface: "wan1", Addresses: []netip.Prefix{netip.PrefixFrom(outside, 24)}},
	))
	x.must(x.hosts[name].Route(netip.MustParsePrefix("0.0.0.0/0"), inside))
	far, via := x.hosts[(1-s).String()], netip.MustParseAddr([...]string{ourPublic, theirPublic}[s])
	x.must(far.Route(netip.PrefixFrom(outside, 24).Masked(), via))
	return x.hosts[name]
}

// through has the LAN of an end send through its other gateway.
func (x *run) through(s side) {
	l := lans[x.children[0]]
	_, err := x.hosts[s.String()].Run(x.ctx, "ip", "route", "replace",
		[...]string{l.theirs, l.ours}[s], "via", [...]string{ourOther, theirOther}[s])
	x.must(err)
}

// twin is our other gateway.
func (x *run) twin() (*gateway, engine.TunnelConfig) {
	ns := x.other(ours)
	g := startGateway(x.t, ns, x.engine)
	x.must(ns.RouteDevice(netip.MustParsePrefix(lans[x.children[0]].theirs), "swan0"))
	config := x.config
	config.Local = netip.AddrPortFrom(netip.MustParseAddr(ourOther), 0)
	x.must(g.apply(config))
	return g, config
}

// moveTo has the case go on with our other gateway, through which our LAN sends
// from now on.
func (x *run) moveTo(g *gateway, config engine.TunnelConfig) {
	before := x.gateway.log
	x.t.Cleanup(func() {
		if x.t.Failed() {
			x.t.Logf("log of our first gateway:\n%s", before)
		}
	})
	x.through(ours)
	x.gateway, x.config = g, config
}

// sendsAway has our gateway send the peer to the other one in its first exchange,
// or, when it has a tunnel for somebody else as well, when it knows who it is.
func sendsAway(whoComes bool) step {
	return step{"our gateway sends the peer away", func(x *run) {
		g, config := x.twin()
		away := x.config
		away.RedirectTo = ike.Gateway{Addr: netip.MustParseAddrPort(ourOther + ":500")}
		tunnels := []engine.TunnelConfig{away}
		if whoComes {
			other := x.config
			other.Name = "others"
			var err error
			other.Peer.ID, err = ident.ParseID("somebody.example")
			x.must(err)
			other.Children = []ike.ChildConfig{{
				Name: "net", Proposals: other.Children[0].Proposals, LocalTS: other.Children[0].LocalTS,
				RemoteTS: []ts.Selector{ts.FromPrefix(netip.MustParsePrefix("10.9.0.0/24"))},
			}}
			tunnels = append(tunnels, other)
		}
		x.must(x.gateway.apply(tunnels...))
		x.moveTo(g, config)
	}}
}

// sendAway has our gateway send away the peer that is there.
func sendAway() step {
	return step{"our gateway sends away the peer that is there", func(x *run) {
		first, mark := x.gateway, x.gateway.events.mark()
		g, config := x.twin()
		x.config.RedirectTo = ike.Gateway{Addr: netip.MustParseAddrPort(ourOther + ":500")}
		x.must(x.gateway.apply(x.config))
		x.moveTo(g, config)
		x.settle("the tunnel with the other gateway")
		x.gateway = first
		awaitEvent[ike.IKEDown](x, mark, "the IKE SA of the first gateway to go", nil)
		x.gateway = g
	}}
}

// redirectedFromUs sends a peer that follows from our gateway to our other one, in
// each way that there is.
func redirectedFromUs(base interopCase) []interopCase {
	var out []interopCase
	for _, way := range []struct {
		name          string
		before, steps []step
	}{
		{"in IKE_SA_INIT", []step{sendsAway(false)}, nil},
		{"in IKE_AUTH", []step{sendsAway(true)}, nil},
		{"while it is up", nil, []step{sendAway()}},
	} {
		c := base
		c.name, c.initiates, c.lossy = fmt.Sprintf("redirect/%s, by ours", way.name), theirs, true
		c.before = append(c.before[:len(c.before):len(c.before)], way.before...)
		c.steps = append(way.steps, rekeyChild(ours), rekeyIKE(theirs))
		out = append(out, c)
	}
	return out
}

// redirectCases are those with strongSwan, which follows; it sends away only by a
// plug-in of somebody's own. Old ones crash when they are sent away in IKE_AUTH
// (5.9.8, by a segmentation fault once it has begun again).
func redirectCases(old bool) []interopCase {
	cases := redirectedFromUs(interopCase{auth: "ed25519+ecdsa256"})
	for i := range cases {
		cases[i].steps = append(cases[i].steps, theirLog("redirected to "+ourOther))
	}
	if old {
		cases = slices.DeleteFunc(cases, func(c interopCase) bool { return strings.Contains(c.name, "IKE_AUTH") })
	}
	return cases
}

// libreswanRedirectCases go both ways.
func libreswanRedirectCases(base interopCase) []interopCase {
	follows := base
	follows.conn = "  accept-redirect=yes\n  accept-redirect-to=" + ourOther
	cases := redirectedFromUs(follows)
	base.lossy = true
	base.before = []step{theirTwin(), {"their LAN sends through the other one", func(x *run) { x.through(theirs) }}}
	base.tunnel = func(c *engine.TunnelConfig) {
		c.Gateways = []ike.Gateway{{Addr: netip.MustParseAddrPort(theirOther + ":500")}}
	}
	with := func(name string, edit func(*interopCase)) {
		c := base
		c.name = fmt.Sprintf("redirect/%s, by theirs", name)
		edit(&c)
		c.steps = append(c.steps, remoteIs(theirOther), rekeyChild(theirs), rekeyIKE(ours))
		cases = append(cases, c)
	}
	with("in IKE_SA_INIT", func(c *interopCase) {
		c.options = "  global-redirect=yes\n  global-redirect-to=" + theirOther
	})
	with("in IKE_AUTH", func(c *interopCase) {
		c.conn = "  send-redirect=yes\n  redirect-to=" + theirOther
	})
	with("while it is up", func(c *interopCase) {
		c.before = nil
		c.steps = []step{redirectByTheirs()}
	})
	return cases
}

// theirTwin begins libreswan's other gateway, which the case goes on with.
func theirTwin() step {
	return step{"their other gateway", func(x *run) {
		first := x.peer.(*libreswanPeer)
		x.t.Cleanup(func() {
			if x.t.Failed() {
				x.t.Logf("log of their first gateway:\n%s", first.log())
			}
		})
		x.other(theirs)
		twin := &libreswanPeer{x: x, host: "their-other", addr: netip.MustParseAddr(theirOther), dir: filepath.Join(x.dir, "b"), tree: first.tree}
		x.must(os.Mkdir(twin.dir, 0o700))
		twin.start()
		x.peer = twin
	}}
}

// redirectByTheirs has libreswan send us away while we are there.
func redirectByTheirs() step {
	return step{"their gateway sends us away", func(x *run) {
		first := x.peer.(*libreswanPeer)
		mark := x.gateway.events.mark()
		theirTwin().do(x)
		x.must(first.command(x.ctx, "--name", "ours", "--redirect-to", theirOther))
		awaitEvent[ike.IKEUp](x, mark, "a new IKE SA", nil)
		x.settle("the tunnel with the other gateway")
		x.through(theirs)
	}}
}

// theirCommand gives libreswan a command in its own words.
func theirCommand(args ...string) step {
	return step{fmt.Sprint("their command ", args), func(x *run) {
		x.must(x.peer.(*libreswanPeer).command(x.ctx, args...))
	}}
}

// remoteIs wants the IKE SA to be with that address.
func remoteIs(addr string) step {
	return step{"the IKE SA is with " + addr, func(x *run) {
		for _, sa := range x.gateway.tunnel().IKE {
			if sa.Remote.Addr().String() != addr {
				x.t.Errorf("the IKE SA is with %s, want %s", sa.Remote, addr)
			}
		}
	}}
}
