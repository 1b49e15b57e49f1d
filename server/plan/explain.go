package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// maxHops bounds a path; over regions with transit it takes three.
const maxHops = 8

// Explain tells over which tunnels a packet goes from one address to another in a
// network, as far as the plan says: at each edge the tunnel whose traffic selectors
// take it, the narrowest first. Where there is none it tells why. Of a hop, the
// status is left to whoever knows it.
func Explain(t *model.Topology, name model.NetworkName, source, destination netip.Addr) *swanherdv1.ExplainResponse {
	n := newNetwork(t, name, &network{})
	out := &swanherdv1.ExplainResponse{}
	from, to := n.siteOf(source), n.siteOf(destination)
	switch {
	case from == nil:
		out.Reason = fmt.Sprintf("no site of %s has a prefix with %s", name, source)
		return out
	case to == nil:
		out.SourceSite = from.name
		out.Reason = fmt.Sprintf("no site of %s has a prefix with %s", name, destination)
		return out
	}
	out.SourceSite, out.DestinationSite = from.name, to.name
	visited := map[*site]bool{}
	for at := from; at != to; {
		visited[at] = true
		hop, next := n.hop(at, source, destination)
		switch {
		case next == nil:
			out.Reason = n.whyNone(at, to)
			return out
		case visited[next] || len(out.GetHops()) == maxHops:
			out.Reason = fmt.Sprintf("%s would send it back to %s", short(at.name), short(next.name))
			return out
		}
		out.Hops = append(out.Hops, hop)
		at = next
	}
	out.Reachable = true
	if out.Reason = "over a tunnel of its own"; len(out.GetHops()) > 1 {
		out.Reason = fmt.Sprintf("over %d tunnels, by transit", len(out.GetHops()))
	} else if from == to {
		out.Reason = "both are of the same site"
	}
	return out
}

func short(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// siteOf is the site with the narrowest prefix that has the address.
func (n *network) siteOf(addr netip.Addr) *site {
	var found *site
	bits := -1
	for _, s := range n.sites {
		for _, p := range s.prefixes {
			if p.Contains(addr) && p.Bits() > bits {
				found, bits = s, p.Bits()
			}
		}
	}
	return found
}

// hop finds the tunnel that takes a packet at a site, and the site behind it.
func (n *network) hop(at *site, source, destination netip.Addr) (*swanherdv1.ExplainHop, *site) {
	var best *swanherdv1.ExplainHop
	var next *site
	bits := -1
	for _, e := range at.edges {
		n.eachPeer(e, func(m *mesh, peer *edge) {
			if carried, ok := m.carries(peer.site, at); !hasAddr(peer.site.prefixes, destination) && !(ok && hasAddr(carried, destination)) {
				return // spares making the tunnel
			}
			l := n.newLink(m, e, peer)
			if l == nil {
				return
			}
			intent := l.a
			if l.tunnel.GetB().GetEdge() == e.name {
				intent = l.b
			}
			for _, child := range intent.GetChildren() {
				local, okLocal := narrowest(child.GetLocalTs(), source)
				remote, okRemote := narrowest(child.GetRemoteTs(), destination)
				better := remote.Bits() > bits || remote.Bits() == bits && best != nil && intent.GetName() < best.GetTunnel()
				if okLocal && okRemote && better {
					best = &swanherdv1.ExplainHop{
						Tunnel: intent.GetName(), Mesh: m.name, FromEdge: e.name, ToEdge: peer.name, FromSite: at.name, ToSite: peer.site.name,
						LocalPrefix: local.String(), RemotePrefix: remote.String(),
					}
					next, bits = peer.site, remote.Bits()
				}
			}
		})
	}
	return best, next
}

func hasAddr(prefixes []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// narrowest is the narrowest of the prefixes that has the address.
func narrowest(texts []string, addr netip.Addr) (best netip.Prefix, ok bool) {
	for _, p := range parsePrefixes(texts) {
		if p.Contains(addr) && (!ok || p.Bits() > best.Bits()) {
			best, ok = p, true
		}
	}
	return best, ok
}

// whyNone tells why no tunnel at a site takes what is for another one.
func (n *network) whyNone(at, to *site) string {
	for _, s := range []*site{at, to} {
		switch {
		case len(s.all) == 0:
			return fmt.Sprintf("site %s has no edge; enrol one", short(s.name))
		case len(s.edges) == 0:
			return fmt.Sprintf("every edge of site %s is disabled", short(s.name))
		case len(s.prefixes) == 0:
			return fmt.Sprintf("site %s has no prefix, so that a tunnel would have nothing to protect", short(s.name))
		}
	}
	var reasons []string
	for _, m := range n.meshes {
		a, b := m.roles[at], m.roles[to]
		if m.regions != nil {
			if m != m.regions.between {
				continue // told once, of all its regions
			}
			a, b = m.regions.role(at), m.regions.role(to)
		}
		switch {
		case a == 0 && b == 0:
		case a == 0 || b == 0:
			in, out := at, to
			if a == 0 {
				in, out = to, at
			}
			reasons = append(reasons, fmt.Sprintf("mesh %s has %s but not %s", short(m.name), short(in.name), short(out.name)))
		case m.links != nil:
			reasons = append(reasons, fmt.Sprintf("mesh %s has no link between the two", short(m.name)))
		case !m.wantsTransit:
			reasons = append(reasons, fmt.Sprintf("in mesh %s they are connected over hubs only, which carry no transit", short(m.name)))
		default:
			reasons = append(reasons, fmt.Sprintf("in mesh %s no hub between them has an enabled edge", short(m.name)))
		}
	}
	if len(reasons) == 0 {
		return "no mesh has either of the two sites"
	}
	return strings.Join(reasons, "; ")
}

// role is a site's in the mesh of its region.
func (r *regions) role(s *site) role {
	if part := r.of[s]; part != nil {
		return part.roles[s]
	}
	return 0
}
