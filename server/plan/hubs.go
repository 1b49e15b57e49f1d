package plan

import (
	"cmp"
	"slices"
	"strconv"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// hub is a site that carries traffic between spokes.
type hub struct {
	*site
	priority uint32 // lower goes first
}

// edgesOfHub is how many priorities a hub takes, one for each of its edges: these do not
// share the traffic, hubs of equal priority do.
const edgesOfHub = 16

// transitHubs are the hubs with enabled edges that carry transit, the first one first. A
// region has one alone: what others send there is led to one place.
func (m *mesh) transitHubs() []hub {
	var hubs []hub
	for i, s := range m.hubs {
		if len(s.edges) == 0 {
			continue
		}
		priority := i
		if m.priorityLabel != "" {
			priority = hubPriority(s.labels[m.priorityLabel])
		}
		hubs = append(hubs, hub{s, uint32(priority) * edgesOfHub})
	}
	slices.SortStableFunc(hubs, func(a, b hub) int { return cmp.Compare(a.priority, b.priority) })
	if m.regions != nil && len(hubs) > 1 {
		hubs = hubs[:1]
	}
	return hubs
}

// hubPriority is what a label says. What is no number was refused before it was stored.
func hubPriority(text string) int {
	if n, err := strconv.Atoi(text); err == nil {
		return n
	}
	return model.MaxHubPriority + 1
}

// carriesTransit says whether a site is among the hubs that do.
func (m *mesh) carriesTransit(s *site) bool {
	return slices.ContainsFunc(m.transits, func(h hub) bool { return h.site == s })
}

// standby is what the tunnel between two edges is beside those to other hubs, at the end
// that is a spoke; nil where there are no others.
func (n *network) standby(m *mesh, spoke, peer *edge, p uplinkPair) *swanherdv1.TunnelPath {
	if len(m.transits) < 2 || m.roles[spoke.site] != roleSpoke {
		return nil
	}
	at := slices.IndexFunc(m.transits, func(h hub) bool { return h.site == peer.site })
	if at < 0 {
		return nil
	}
	group := m.name + "." + spoke.id.Edge
	if n.segment.Segment != "" {
		group += "." + n.segment.Segment
	}
	path := p.message(group)
	path.Priority = m.transits[at].priority + uint32(min(slices.Index(peer.site.edges, peer), edgesOfHub-1))
	return path
}
