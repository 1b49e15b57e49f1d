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
// segment of a network, the default one if its name has none, as far as the plan says: at
// each edge the tunnel whose traffic selectors take it, the narrowest first. Where there is
// none it tells why. Of a hop, the status is left to whoever knows it.
func Explain(t *model.Topology, segment model.SegmentName, source, destination netip.Addr) *swanherdv1.ExplainResponse {
	n := newNetwork(t, segment, &network{}, nil)
	name := model.NetworkName{Network: segment.Network}.String()
	if segment.Segment != "" {
		name = segment.String()
	}
	out := &swanherdv1.ExplainResponse{}
	from, to := n.siteOf(source), n.siteOf(destination)
	switch {
	case from == nil:
		out.Reason = fmt.Sprintf("no site or gateway of %s has a prefix with %s", name, source)
		return out
	case to == nil:
		out.SourceSite, out.SourceGateway = n.placeNames(from)
		out.Reason = fmt.Sprintf("no site or gateway of %s has a prefix with %s", name, destination)
		return out
	}
	out.SourceSite, out.SourceGateway = n.placeNames(from)
	out.DestinationSite, out.DestinationGateway = n.placeNames(to)
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
		if out.Reason = "both are of the same site"; out.GetSourceGateway() != "" {
			out.Reason = "both are behind the same gateway"
		}
	}
	for _, hop := range out.GetHops() {
		if hop.GetObstacle() != "" {
			out.Reason += "; it may not come up: " + hop.GetObstacle()
		}
	}
	return out
}

func short(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// placeNames is the name of a site, or of the gateway whose place it is.
func (n *network) placeNames(at *site) (site, gateway string) {
	if g := n.gatewayAt(at); g != nil {
		return "", g.name
	}
	return at.name, ""
}

// siteOf is the site, or the place of the gateway, with the narrowest prefix that has the
// address.
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
	for _, g := range n.gateways {
		for _, p := range g.place.prefixes {
			if p.Contains(addr) && p.Bits() > bits {
				found, bits = g.place, p.Bits()
			}
		}
	}
	return found
}

// hop finds the tunnel that takes a packet at a site, and the site behind it.
func (n *network) hop(at *site, source, destination netip.Addr) (*swanherdv1.ExplainHop, *site) {
	best := bestHop{source: source, destination: destination, bits: -1}
	for _, e := range at.edges {
		n.eachPeer(e, func(m *mesh, peer *edge) {
			if carried, ok := m.carries(peer.site, at); !hasAddr(peer.site.prefixes, destination) && !(ok && hasAddr(carried, destination)) {
				return // spares making the tunnel
			}
			if all := n.newLinks(m, e, peer); len(all) > 0 { // they have the same selectors
				intent := all[0].a
				if all[0].tunnel.GetB().GetEdge() == e.name {
					intent = all[0].b
				}
				best.consider(intent, false, peer.site, &swanherdv1.ExplainHop{
					Mesh: m.name, FromEdge: e.name, ToEdge: peer.name, FromSite: at.name, ToSite: peer.site.name, Paths: n.explainPaths(m, e, peer),
					Obstacle: all[0].tunnel.GetObstacle(),
				})
			}
		})
		n.eachGateway(e, func(g *gateway) {
			if l := n.newGatewayLink(g, e); l != nil {
				best.consider(l.a, false, g.place, &swanherdv1.ExplainHop{FromEdge: e.name, ToGateway: g.name, FromSite: at.name})
			}
		})
	}
	if g := n.gatewayAt(at); g != nil {
		for _, e := range n.edges {
			if !e.enabled || !g.attaches(e) {
				continue
			}
			if l := n.newGatewayLink(g, e); l != nil {
				best.consider(l.a, true, e.site, &swanherdv1.ExplainHop{FromGateway: g.name, ToEdge: e.name, ToSite: e.site.name})
			}
		}
	}
	return best.hop, best.next
}

// explainPaths lists the pairs of uplinks of two edges, seen from x, if the mesh wants
// several.
func (n *network) explainPaths(m *mesh, x, y *edge) []*swanherdv1.ExplainPath {
	a, b := x, y
	if b.name < a.name {
		a, b = b, a
	}
	if !m.pairing.several || len(a.uplinks) == 0 || len(b.uplinks) == 0 {
		return nil
	}
	var out []*swanherdv1.ExplainPath
	for _, c := range m.pairing.candidates(a.uplinks, b.uplinks) {
		e := &swanherdv1.ExplainPath{FromUplink: c.a.GetName(), ToUplink: c.b.GetName(), Class: c.class(), Cost: c.cost(), Metered: c.metered()}
		if a != x {
			e.FromUplink, e.ToUplink = e.GetToUplink(), e.GetFromUplink()
		}
		switch e.Reason = m.pairing.whyNot(&c); {
		case c.chosen && e.GetReason() != "":
			e.Reason += "; no other pair does better, and two edges have one tunnel at least"
			fallthrough
		case c.chosen:
			e.Tunnel = n.tunnelName(m, a, b, c.uplinkPair)
		case e.GetReason() == "":
			e.Reason = fmt.Sprintf("others go first, and the mesh has max_paths %d", m.pairing.most)
		}
		out = append(out, e)
	}
	return out
}

// gatewayAt is the gateway whose place it is; nil at a site.
func (n *network) gatewayAt(place *site) *gateway {
	for _, g := range n.gateways {
		if g.place == place {
			return g
		}
	}
	return nil
}

// bestHop is the tunnel with the narrowest selector for a packet, the first by name of
// several.
type bestHop struct {
	source, destination netip.Addr
	hop                 *swanherdv1.ExplainHop
	next                *site
	bits                int
}

// consider takes a tunnel, of which an intent of one end is known; mirrored: it is not the
// end that sends.
func (b *bestHop) consider(intent *swanherdv1.TunnelIntent, mirrored bool, next *site, hop *swanherdv1.ExplainHop) {
	for _, child := range intent.GetChildren() {
		near, far := protected(child)
		if mirrored {
			near, far = far, near
		}
		local, okLocal := narrowest(near, b.source)
		remote, okRemote := narrowest(far, b.destination)
		better := remote.Bits() > b.bits || remote.Bits() == b.bits && b.hop != nil && intent.GetName() < b.hop.GetTunnel()
		if okLocal && okRemote && better {
			hop.Tunnel, hop.LocalPrefix, hop.RemotePrefix = intent.GetName(), local.String(), remote.String()
			b.hop, b.next, b.bits = hop, next, remote.Bits()
		}
	}
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
	if g := n.gatewayAt(to); g != nil {
		return fmt.Sprintf("no edge of site %s holds a tunnel with gateway %s that has both addresses", short(at.name), short(g.name))
	}
	if g := n.gatewayAt(at); g != nil {
		return fmt.Sprintf("gateway %s has no tunnel with an edge of site %s that has both addresses", short(g.name), short(to.name))
	}
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
