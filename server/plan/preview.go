package plan

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/swanherd/swanherd/proto/digest"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

const (
	// maxPreviewed bounds each list of a preview.
	maxPreviewed = 1000
	// maxPrefixes bounds the prefixes of one site in it.
	maxPrefixes = 100
)

// Preview tells what a change from one topology to another does: to which edges
// and tunnels, and what sites can reach afterwards. It plans the first one whole,
// and of the second what differs.
func Preview(from, to *model.Topology) *swanherdv1.ChangePlan {
	planner := NewPlanner()
	before, _ := planner.Update(from)
	after, changes := planner.Update(to)
	p := &preview{from: from, to: to, before: before, after: after, out: &swanherdv1.ChangePlan{}}
	p.tunnels(p.edges(changes))
	p.reachability(changes)
	return p.out
}

type preview struct {
	from, to      *model.Topology
	before, after *Plan
	out           *swanherdv1.ChangePlan
}

func (p *preview) tunnels(names map[string]bool) {
	var all []*swanherdv1.TunnelChange
	had, has := map[[3]string]bool{}, map[[3]string]bool{}
	for name := range names {
		if t, ok := p.before.Tunnels.Get(name); ok {
			had[betweenOf(t.Value)] = true
		}
		if t, ok := p.after.Tunnels.Get(name); ok {
			has[betweenOf(t.Value)] = true
		}
	}
	for name := range names {
		c := p.tunnel(name)
		old, now := p.before.Tunnels.Value(name), p.after.Tunnels.Value(name)
		if old == nil && had[betweenOf(now)] || now == nil && has[betweenOf(old)] {
			c.Reasons = append(c.Reasons, "path") // another carries the same
		}
		all = append(all, c)
	}
	for _, c := range all {
		switch c.GetEffect() {
		case swanherdv1.TunnelChange_EFFECT_ADDED:
			p.out.TunnelsAdded++
		case swanherdv1.TunnelChange_EFFECT_REMOVED:
			p.out.TunnelsRemoved++
		case swanherdv1.TunnelChange_EFFECT_INTERRUPTED:
			p.out.TunnelsInterrupted++
		case swanherdv1.TunnelChange_EFFECT_REKEYED:
			p.out.TunnelsRekeyed++
		default:
			p.out.TunnelsUpdated++
		}
	}
	slices.SortFunc(all, func(a, b *swanherdv1.TunnelChange) int {
		return cmp.Or(cmp.Compare(harm[a.GetEffect()], harm[b.GetEffect()]), cmp.Compare(a.GetTunnel(), b.GetTunnel()))
	})
	p.out.Tunnels = all[:min(maxPreviewed, len(all))]
}

// betweenOf is what a tunnel and those that carry the same by other uplinks have in common.
func betweenOf(t *swanherdv1.Tunnel) [3]string {
	return [3]string{t.GetSegment(), t.GetA().GetEdge(), t.GetB().GetEdge() + t.GetB().GetGateway()}
}

// harm orders effects by what they may cost.
var harm = map[swanherdv1.TunnelChange_Effect]int{
	swanherdv1.TunnelChange_EFFECT_REMOVED:     0,
	swanherdv1.TunnelChange_EFFECT_INTERRUPTED: 1,
	swanherdv1.TunnelChange_EFFECT_REKEYED:     2,
	swanherdv1.TunnelChange_EFFECT_ADDED:       3,
	swanherdv1.TunnelChange_EFFECT_UPDATED:     4,
}

// tunnel is what happens to a tunnel of which an end gets another intent.
func (p *preview) tunnel(name string) *swanherdv1.TunnelChange {
	old, existed := p.before.Tunnels.Get(name)
	now, exists := p.after.Tunnels.Get(name)
	ends := old.Value
	if exists {
		ends = now.Value
	}
	c := &swanherdv1.TunnelChange{Tunnel: name, EdgeA: ends.GetA().GetEdge(), EdgeB: ends.GetB().GetEdge()}
	switch {
	case !existed:
		c.Effect = swanherdv1.TunnelChange_EFFECT_ADDED
		return c
	case !exists:
		c.Effect = swanherdv1.TunnelChange_EFFECT_REMOVED
		return c
	}
	c.Effect = swanherdv1.TunnelChange_EFFECT_UPDATED
	for _, edge := range []string{c.GetEdgeA(), c.GetEdgeB()} {
		effect, reasons := compareIntents(p.before.tunnelIntent(edge, name), p.after.tunnelIntent(edge, name))
		c.Reasons = append(c.Reasons, reasons...)
		if len(reasons) > 0 && harm[effect] < harm[c.GetEffect()] {
			c.Effect = effect
		}
	}
	slices.Sort(c.Reasons)
	c.Reasons = slices.Compact(c.Reasons)
	return c
}

func (p *Plan) tunnelIntent(edge, name string) *swanherdv1.TunnelIntent {
	return resources(p.Intents.Value(edge)).Get(name).GetTunnel()
}

// compareIntents tells how one end of a tunnel takes its new intent: as the IKE
// engine does it, what is negotiated is replaced before it is given up, what is the
// engine's own changes in place (ipsec/engine/testdata/changes.txt). What is at an
// address that is no more cannot wait for that; that the peer's address becomes known is
// no change of where it is.
func compareIntents(old, now *swanherdv1.TunnelIntent) (effect swanherdv1.TunnelChange_Effect, reasons []string) {
	effect = swanherdv1.TunnelChange_EFFECT_UPDATED
	differs := func(e swanherdv1.TunnelChange_Effect, field string, differ bool) {
		if !differ {
			return
		}
		reasons = append(reasons, field)
		if harm[e] < harm[effect] {
			effect = e
		}
	}
	interrupted, rekeyed, updated := swanherdv1.TunnelChange_EFFECT_INTERRUPTED, swanherdv1.TunnelChange_EFFECT_REKEYED, swanherdv1.TunnelChange_EFFECT_UPDATED
	known := len(old.GetRemoteEndpoints()) > 0 && len(now.GetRemoteEndpoints()) > 0
	moved := known && !proto.Equal(old.GetRemoteEndpoints()[0], now.GetRemoteEndpoints()[0])
	differs(interrupted, "remote_endpoints", moved)
	differs(updated, "remote_endpoints", !moved && !slices.EqualFunc(old.GetRemoteEndpoints(), now.GetRemoteEndpoints(),
		func(a, b *swanherdv1.PeerEndpoint) bool { return proto.Equal(a, b) }))
	differs(interrupted, "uplink", old.GetUplink() != now.GetUplink())
	differs(interrupted, "local_address", old.GetLocalAddress() != now.GetLocalAddress())
	differs(rekeyed, "authentication", !proto.Equal(old.GetAuthentication(), now.GetAuthentication()))
	differs(rekeyed, "ike_proposals", !slices.Equal(old.GetIkeProposals(), now.GetIkeProposals()))
	differs(updated, "ike_rekey_time", !proto.Equal(old.GetIkeRekeyTime(), now.GetIkeRekeyTime()))
	differs(updated, "dpd_delay", !proto.Equal(old.GetDpdDelay(), now.GetDpdDelay()))
	differs(updated, "critical", old.GetCritical() != now.GetCritical())
	differs(updated, "path", !proto.Equal(old.GetPath(), now.GetPath()))
	differs(updated, "role", old.GetRole() != now.GetRole())
	differs(rekeyed, "force_udp_encapsulation", old.GetForceUdpEncapsulation() != now.GetForceUdpEncapsulation())
	differs(updated, "tcp_encapsulation", old.GetTcpEncapsulation() != now.GetTcpEncapsulation())
	differs(updated, "probe", !proto.Equal(old.GetProbe(), now.GetProbe()) && sameProbes(old, now))
	differs(rekeyed, "probe", !sameProbes(old, now))
	compareChildren(old.GetChildren(), now.GetChildren(), func(field string, negotiated bool) {
		if negotiated {
			differs(rekeyed, "children."+field, true)
		} else {
			differs(updated, "children."+field, true)
		}
	})
	return effect, reasons
}

// sameProbes says whether probes have the same addresses, which are in the selectors.
func sameProbes(old, now *swanherdv1.TunnelIntent) bool {
	a, b := old.GetProbe(), now.GetProbe()
	return a.GetLocalAddress() == b.GetLocalAddress() && a.GetRemoteAddress() == b.GetRemoteAddress()
}

// compareChildren tells which fields of Child SAs differ, and whether SAs have to be
// negotiated for it.
func compareChildren(old, now []*swanherdv1.ChildIntent, differ func(field string, negotiated bool)) {
	if len(old) != len(now) {
		differ("name", true)
	}
	for i := range min(len(old), len(now)) {
		a, b := old[i], now[i]
		for field, same := range map[string]bool{
			"esp_proposals":                slices.Equal(a.GetEspProposals(), b.GetEspProposals()),
			"local_ts":                     slices.Equal(a.GetLocalTs(), b.GetLocalTs()),
			"remote_ts":                    slices.Equal(a.GetRemoteTs(), b.GetRemoteTs()),
			"local_prefixes":               slices.Equal(a.GetLocalPrefixes(), b.GetLocalPrefixes()),
			"remote_prefixes":              slices.Equal(a.GetRemotePrefixes(), b.GetRemotePrefixes()),
			"replay_window":                a.GetReplayWindow() == b.GetReplayWindow(),
			"mode":                         a.GetMode() == b.GetMode(),
			"outer_header":                 proto.Equal(a.GetOuterHeader(), b.GetOuterHeader()),
			"traffic_flow_confidentiality": proto.Equal(a.GetTrafficFlowConfidentiality(), b.GetTrafficFlowConfidentiality()),
		} {
			if !same {
				differ(field, true)
			}
		}
		if !proto.Equal(a.GetRekeyTime(), b.GetRekeyTime()) {
			differ("rekey_time", false)
		}
		if a.GetRekeyBytes() != b.GetRekeyBytes() {
			differ("rekey_bytes", false)
		}
	}
}

// edges tells what changes of each intent, and returns the tunnels that do.
func (p *preview) edges(changes Changes) map[string]bool {
	tunnels := map[string]bool{}
	for _, name := range slices.Concat(changes.RemovedIntents, changes.Intents) {
		old, now := p.before.Intents.Value(name), p.after.Intents.Value(name)
		c := &swanherdv1.EdgeChange{Edge: name, Removed: now == nil}
		upserts, removals := digest.Difference(resources(old), resources(now))
		for _, r := range upserts {
			if r.GetTunnel() == nil { // of the edge as a whole
				c.SettingsChanged = true
				continue
			}
			tunnels[r.GetName()] = true
			if resources(old).Get(r.GetName()) == nil {
				c.TunnelsAdded++
			} else {
				c.TunnelsChanged++
			}
		}
		for _, name := range removals {
			if resources(old).Get(name).GetTunnel() == nil {
				c.SettingsChanged = true
				continue
			}
			tunnels[name] = true
			c.TunnelsRemoved++
		}
		if p.out.EdgesTouched++; len(p.out.Edges) < maxPreviewed {
			p.out.Edges = append(p.out.Edges, c)
		}
	}
	return tunnels
}

// resources of an intent; none of nil.
func resources(i *Intent) *digest.Set {
	if i == nil {
		return nil
	}
	return i.Resources
}

// reachability compares what the sites of the edges that are touched can reach.
func (p *preview) reachability(changes Changes) {
	touched := map[string]bool{}
	for _, name := range slices.Concat(changes.Intents, changes.RemovedIntents) {
		touched[p.from.Edges.Value(name).GetSite()] = true
		touched[p.to.Edges.Value(name).GetSite()] = true
	}
	before, after := edgesOf(p.from, touched), edgesOf(p.to, touched)
	var all []*swanherdv1.ReachabilityChange
	for row := range p.to.Sites.All() { // a site that goes reaches nothing, and nobody is there to miss it
		if !touched[row.Name] {
			continue
		}
		changes := p.siteReach(row.Name, before[row.Name], after[row.Name])
		if slices.ContainsFunc(changes, func(c *swanherdv1.ReachabilityChange) bool { return len(c.GetLostPrefixes()) > 0 }) {
			p.out.SitesLosing++
		}
		if slices.ContainsFunc(changes, func(c *swanherdv1.ReachabilityChange) bool { return len(c.GetGainedPrefixes()) > 0 }) {
			p.out.SitesGaining++
		}
		all = append(all, changes...)
	}
	slices.SortStableFunc(all, func(a, b *swanherdv1.ReachabilityChange) int {
		return cmp.Compare(min(1, len(b.GetLostPrefixes())), min(1, len(a.GetLostPrefixes())))
	})
	p.out.Reachability = all[:min(maxPreviewed, len(all))]
}

// siteReach tells of a site what it reaches no more, or now does, in each segment; its
// edges are those before and after the change.
func (p *preview) siteReach(site string, before, after []string) (all []*swanherdv1.ReachabilityChange) {
	had, has := reach(p.before, before), reach(p.after, after)
	segments := setOf(slices.Collect(maps.Keys(had)), slices.Collect(maps.Keys(has)))
	for _, segment := range slices.Sorted(maps.Keys(segments)) {
		old, now := newPrefixSet(had[segment]), newPrefixSet(has[segment])
		if slices.Equal(old, now) {
			continue
		}
		c := &swanherdv1.ReachabilityChange{Site: site, LostPrefixes: prefixStrings(old.without(now)), GainedPrefixes: prefixStrings(now.without(old))}
		if segment != "" {
			network, _ := model.NetworkOf(site)
			c.Segment = model.SegmentName{Network: network.Network, Segment: segment}.String()
		}
		c.LostPrefixes = c.LostPrefixes[:min(maxPrefixes, len(c.LostPrefixes))]
		c.GainedPrefixes = c.GainedPrefixes[:min(maxPrefixes, len(c.GainedPrefixes))]
		all = append(all, c)
	}
	return all
}

// edgesOf are the edges of the sites.
func edgesOf(t *model.Topology, sites map[string]bool) map[string][]string {
	out := map[string][]string{}
	for row := range t.Edges.All() {
		if site := row.Value.GetSite(); sites[site] {
			out[site] = append(out[site], row.Name)
		}
	}
	return out
}

// reach is what the edges have tunnels to, by the id of the segment.
func reach(p *Plan, edges []string) map[string][]netip.Prefix {
	all := map[string][]netip.Prefix{}
	for _, edge := range edges {
		for r := range resources(p.Intents.Value(edge)).All() {
			for _, child := range r.GetTunnel().GetChildren() {
				segment := r.GetTunnel().GetSegment()
				_, remote := protected(child)
				all[segment] = append(all[segment], parsePrefixes(remote)...)
			}
		}
	}
	return all
}
