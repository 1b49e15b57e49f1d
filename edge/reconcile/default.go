package reconcile

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/swanherd/swanherd/edge/hostnet"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// A tunnel whose remote selectors hold all there is of a family is the way out for what
// comes from the site, but not for this host itself, which has to reach its peers and its
// controller. So its default route goes by the source.

// addDefault has what comes from the local selectors of child i, or from all of the site
// where these hold everything too, take it as the way to all.
func (p *Routing) addDefault(name string, b *tunnelBuilder, i int, all netip.Prefix, errs *Errors) {
	if !slices.Contains(p.carriers[all], name) {
		p.carriers[all] = append(p.carriers[all], name)
	}
	field := fmt.Sprintf("children[%d].local_ts", i)
	from := p.sources(b.config.Children[i].LocalTS, all)
	if len(from) == 0 {
		errs.add(name, field, fmt.Sprintf("nothing says what comes from the site: the way to %s is for that alone, as this host itself has to reach its peers; name prefixes here or in local_prefixes", all))
	}
	for _, prefix := range from {
		for _, a := range b.env.outside(b.config.Local.Addr()) {
			if prefix.Contains(a) && !p.apart {
				errs.add(name, field, fmt.Sprintf("%s holds %s, from which tunnels leave: their packets on the way to %s would be led back into one; leave it out", prefix, a, all))
			}
		}
		if !slices.Contains(p.Default.From, prefix) {
			p.Default.From = append(p.Default.From, prefix)
		}
	}
}

// sources are the prefixes of the family of all that selectors hold, those of the site
// in the place of all.
func (p *Routing) sources(selectors []ts.Selector, all netip.Prefix) (from []netip.Prefix) {
	for _, s := range selectors {
		prefixes := ts.Prefixes(s)
		if slices.Contains(prefixes, all) {
			prefixes = p.LocalNets
		}
		from = append(from, prefixes...)
	}
	return slices.DeleteFunc(from, func(q netip.Prefix) bool { return q.Addr().Is4() != all.Addr().Is4() || q.Bits() == 0 })
}

// outside are the addresses from which tunnels leave: local if it is known, and those of
// the uplinks.
func (env *Environment) outside(local netip.Addr) (out []netip.Addr) {
	if local.IsValid() {
		out = append(out, local)
	}
	for _, up := range env.Uplinks {
		for _, text := range up.GetAddresses() {
			if a, err := netip.ParseAddr(text); err == nil && !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	return out
}

// exceptFromDefault leaves the site, and what other routes lead into tunnels, to these.
func (p *Routing) exceptFromDefault() {
	if len(p.Default.From) == 0 {
		return
	}
	except := slices.Concat(p.Default.From, p.LocalNets)
	for _, r := range p.Routes {
		except = append(except, r.Prefix)
	}
	slices.SortFunc(except, netip.Prefix.Compare)
	p.Default.Except = slices.DeleteFunc(slices.Compact(except), func(q netip.Prefix) bool { return q.Bits() == 0 })
}

// defaultLimitedTo is limitedTo for the default route, of both families.
func (p *Routing) defaultLimitedTo(inner map[string]int) hostnet.Default {
	d := p.Default
	for _, all := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		d.MTU = p.narrowest(netip.PrefixFrom(all, 0), d.MTU, inner)
	}
	return d
}
