package plan

import (
	"maps"
	"slices"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// regions are the parts of a regional mesh: a hub-and-spoke mesh for each region,
// and a full one of all hubs between them.
type regions struct {
	each    []*mesh // in the order of their labels
	between *mesh
	of      map[*site]*mesh
}

func (n *network) resolveRegional(t *model.Topology, name model.NetworkName, m *swanherdv1.Mesh, profile *swanherdv1.Profile) []*mesh {
	r := &regions{between: newMesh(m, profile), of: map[*site]*mesh{}}
	r.between.regions = r
	byLabel := map[string]*mesh{}
	add := func(sites []*site, as role) {
		for _, s := range sites {
			label := model.RegionOf(m.GetRegional(), t.Sites.Value(s.name))
			if label == "" || r.of[s] != nil {
				continue // refused before it was stored; or a hub already
			}
			part := byLabel[label]
			if part == nil {
				part = newMesh(m, profile)
				part.regions, byLabel[label] = r, part
			}
			r.of[s] = part
			part.assign([]*site{s}, as)
			if as == roleHub {
				part.hubs = append(part.hubs, s)
			} else {
				part.spokes = append(part.spokes, s)
			}
		}
	}
	hubs := n.selected(t, name, m.GetRegional().GetHubs())
	add(hubs, roleHub)
	add(n.selected(t, name, m.GetRegional().GetSpokes()), roleSpoke)
	r.between.members = slices.DeleteFunc(hubs, func(s *site) bool { return r.of[s] == nil })
	r.between.assign(r.between.members, roleMember)
	for _, label := range slices.Sorted(maps.Keys(byLabel)) {
		r.each = append(r.each, byLabel[label])
	}
	if m.GetRegional().GetTransit() {
		for _, part := range r.parts() {
			part.setTransit()
		}
	}
	return r.parts()
}

// parts are the meshes of the regions, then that between them.
func (r *regions) parts() []*mesh { return append(slices.Clip(r.each), r.between) }

// parts are the mesh, or all of the regional one that it is a part of.
func (m *mesh) parts() []*mesh {
	if m.regions == nil {
		return []*mesh{m}
	}
	return m.regions.parts()
}

// spread adds to what the transit hub of each region carries for its spokes what is
// in the other regions. The regions' own were set before.
func (r *regions) spread() {
	for _, part := range r.each {
		part.own = part.carried
	}
	for _, part := range r.each {
		if len(part.transits) == 0 {
			continue
		}
		all := slices.Clone(part.own)
		for _, other := range r.each {
			if other == part {
				continue
			}
			all = append(all, other.own...)
			for _, h := range other.hubs {
				all = append(all, h.prefixes...)
			}
		}
		part.carried = newPrefixSet(all)
	}
}

// carries returns what s offers to t besides its own as it carries transit; false
// when it does not.
func (m *mesh) carries(s, t *site) (prefixSet, bool) {
	if m.regions != nil && m == m.regions.between {
		part := m.regions.of[s]
		return part.own, part.carriesTransit(s)
	}
	return m.carried, m.carriesTransit(s) && m.roles[t] == roleSpoke
}

// behind says whether a site may be among those that transit in the mesh carries.
func (m *mesh) behind(s *site) bool {
	if m.regions == nil {
		return m.roles[s] == roleSpoke
	}
	part := m.regions.of[s]
	return part != nil && (part.roles[s] == roleSpoke || part != m && m != m.regions.between)
}
