package plan

import (
	"strings"

	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// delta is what changed in one network between two topologies.
type delta struct {
	// structure is set when sites, edges, meshes or profiles changed, or the
	// network itself.
	structure bool
	// all is set when everything has to be looked at.
	all bool
	// settings is set when what the network's edges have in common changed.
	settings bool
	// Names of what changed.
	sites, edges, uplinks, meshes, profiles map[string]bool
}

// touched finds the networks that differ and in what.
func touched(from, to *model.Topology) map[model.NetworkName]*delta {
	deltas := map[model.NetworkName]*delta{}
	at := func(name string) *delta {
		network, _, _ := strings.Cut(strings.TrimPrefix(name, "networks/"), "/")
		key := model.NetworkName{Network: network}
		if deltas[key] == nil {
			deltas[key] = &delta{
				sites: map[string]bool{}, edges: map[string]bool{}, uplinks: map[string]bool{},
				meshes: map[string]bool{}, profiles: map[string]bool{},
			}
		}
		return deltas[key]
	}
	for c := range model.Diff(from.Networks, to.Networks) {
		if c.Old == nil || c.New == nil {
			d := at(c.Name)
			d.structure, d.all = true, true
		}
	}
	mark(from.Sites, to.Sites, at, func(d *delta) map[string]bool { return d.sites })
	mark(from.Edges, to.Edges, at, func(d *delta) map[string]bool { return d.edges })
	mark(from.Meshes, to.Meshes, at, func(d *delta) map[string]bool { return d.meshes })
	mark(from.Profiles, to.Profiles, at, func(d *delta) map[string]bool { return d.profiles })
	for c := range model.Diff(from.EdgeStatuses, to.EdgeStatuses) {
		if c.Old == nil || c.New == nil || !sameUplinks(c.Old.Value.GetUplinks(), c.New.Value.GetUplinks()) {
			at(c.Name).uplinks[c.Name] = true
		}
	}
	for c := range model.Diff(from.Authorities, to.Authorities) {
		if network, ok := strings.CutPrefix(c.Name, model.NetworkName{}.AuthorityName()); ok {
			at("networks/" + network).settings = true
		}
	}
	for c := range model.Diff(from.Revocations, to.Revocations) {
		at(c.Name).settings = true
	}
	return deltas
}

func mark[T any](from, to model.Table[T], at func(string) *delta, group func(*delta) map[string]bool) {
	for c := range model.Diff(from, to) {
		d := at(c.Name)
		d.structure = true
		group(d)[c.Name] = true
	}
}

func sameUplinks(x, y []*swanherdv1.Uplink) bool {
	if len(x) != len(y) {
		return false
	}
	for i := range x {
		if !proto.Equal(x[i], y[i]) {
			return false
		}
	}
	return true
}

// dirtyEdges returns the edges whose links may differ between two indexes of a
// network. A link belongs to two edges; it is enough to have one of them.
func (d *delta) dirtyEdges(before, after *network) map[string]bool {
	dirty := map[string]bool{}
	for _, n := range []*network{before, after} {
		if d.all {
			for name := range n.edges {
				dirty[name] = true
			}
			continue
		}
		for name := range d.edges {
			dirty[name] = true
		}
		for name := range d.uplinks {
			dirty[name] = true
		}
		sites := d.touchedSites(n)
		for s := range sites {
			for _, e := range s.edges {
				dirty[e.name] = true
			}
		}
	}
	return dirty
}

// touchedSites returns the sites of an index all of whose links may differ.
func (d *delta) touchedSites(n *network) map[*site]bool {
	sites := map[*site]bool{}
	moved := map[*site]bool{} // sites whose edges changed
	for name := range d.sites {
		if s := n.sites[name]; s != nil {
			sites[s] = true
		}
	}
	for name := range d.edges {
		if e := n.edges[name]; e != nil && e.site != nil {
			moved[e.site] = true
		}
	}
	for _, m := range n.meshes {
		if d.meshes[m.name] || d.profiles[m.profile.GetName()] || m.wantsTransit && d.changesTransit(m, moved) {
			for s := range m.roles {
				sites[s] = true
			}
		}
	}
	return sites
}

// changesTransit says whether what transit offers in the mesh may differ: when
// a site of it changed, or which hub is the first to have an edge.
func (d *delta) changesTransit(m *mesh, moved map[*site]bool) bool {
	for s := range m.roles {
		if d.sites[s.name] || m.roles[s] == roleHub && moved[s] {
			return true
		}
	}
	return false
}

// touchesSite says whether the edge or its site changed.
func (d *delta) touchesSite(e *edge) bool {
	return d.edges[e.name] || e.site != nil && d.sites[e.site.name]
}
