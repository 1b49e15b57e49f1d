package reconcile

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/edge/hostnet"
	"github.com/swanherd/swanherd/edge/probe"
	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ts"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Probes is what the reconciler needs of package probe.
type Probes interface {
	// Set makes paths those to be measured.
	Set(paths []probe.Path)
}

// probeSettings takes over which addresses probes have. On a host without IPv6 there are
// none: tunnels are as good without.
func (p *Plan) probeSettings(s *swanherdv1.ProbeSettings, env Environment, errs *Errors) {
	if s == nil || !env.IPv6 {
		return
	}
	network, err := netip.ParsePrefix(s.GetNetworkPrefix())
	local, err2 := netip.ParsePrefix(s.GetLocalPrefix())
	switch {
	case err != nil || err2 != nil:
		return // the rules of the proto say so
	case network != network.Masked() || network.Bits() == 0:
		errs.add(settingsName, "probes.network_prefix", fmt.Sprintf("%s is not a prefix with no bits behind its length, such as fd12:3456:789a::/48", network))
		return
	case local != local.Masked() || local.Bits() < network.Bits() || !network.Contains(local.Addr()):
		errs.add(settingsName, "probes.local_prefix", fmt.Sprintf("%s is not a part of the network's prefix %s", local, network))
		return
	}
	p.ProbeNetwork, p.ProbeLocal = network, local
	p.Routes = append(p.Routes, hostnet.Route{Prefix: network})
}

// addProbe has the tunnel measured: its first child in tunnel mode carries the probes
// too. The routes that lead them there are those of the network's prefix.
func (p *Plan) addProbe(b *tunnelBuilder) {
	intent := b.intent.GetProbe()
	if intent == nil || !b.env.IPv6 {
		return
	}
	if b.intent.GetSegment() != "" {
		b.fail("probe", "a tunnel of a segment is not probed: probes are of the default one; leave this out")
		return
	}
	if !p.ProbeLocal.IsValid() {
		b.fail("probe", "there are no addresses for probes: give settings.probes, or leave this out")
		return
	}
	local, err := netip.ParseAddr(intent.GetLocalAddress())
	if err != nil || !p.ProbeLocal.Contains(local) {
		b.fail("probe.local_address", fmt.Sprintf("%q is not in settings.probes.local_prefix, %s", intent.GetLocalAddress(), p.ProbeLocal))
		return
	}
	remote, err := netip.ParseAddr(intent.GetRemoteAddress())
	if err != nil || !p.ProbeNetwork.Contains(remote) || p.ProbeLocal.Contains(remote) {
		b.fail("probe.remote_address", fmt.Sprintf("%q is not another edge's in settings.probes.network_prefix, %s", intent.GetRemoteAddress(), p.ProbeNetwork))
		return
	}
	for i := range b.config.Children {
		c := &b.config.Children[i]
		if c.Mode == dataplane.Transport || len(c.LocalTS) >= ts.MaxSelectors || len(c.RemoteTS) >= ts.MaxSelectors {
			continue
		}
		c.LocalTS, c.RemoteTS = withProbes(c.LocalTS, local), withProbes(c.RemoteTS, remote)
		at := probe.Path{
			Tunnel: b.intent.GetName(), Local: local, Remote: remote,
			Interval: intent.GetInterval().AsDuration(), SLA: intent.GetSla(),
		}
		p.quickly(&at, b.intent.GetPath())
		p.Probes = append(p.Probes, at)
		return
	}
	b.fail("probe", "no child in tunnel mode has room for its addresses: leave it out")
}

// withProbes adds the probes of an address to selectors that do not hold them: their
// ports alone, so that nothing else of this host is reached there.
func withProbes(list []ts.Selector, a netip.Addr) []ts.Selector {
	probes := ts.Selector{Protocol: unix.IPPROTO_UDP, StartPort: probe.Port, EndPort: probe.SenderPort, First: a, Last: a}
	for _, s := range list {
		if s.Contains(probes) {
			return list
		}
	}
	return append(list, probes)
}

// reachProbes has the paths measured. A host that may not be changed can do without.
func (r *Reconciler) reachProbes(plan *Plan) {
	if r.cfg.Probes == nil {
		return
	}
	text := ""
	if err := r.cfg.Host.SetLocal(r.cfg.Interface, plan.ProbeLocal); err != nil {
		text, plan.Probes = err.Error(), nil
	}
	if text != "" && text != r.unprobed {
		r.cfg.Logger.Warn("tunnels are not probed", "error", text)
	}
	r.unprobed = text
	r.cfg.Probes.Set(plan.Probes)
	if r.cfg.Chooser != nil {
		r.cfg.Chooser.Choose(plan.Groups, plan.Traffic, plan.sameWay())
	}
}
