package plan

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// delta is what changed in one network between two topologies.
type delta struct {
	// all is set when everything has to be looked at.
	all bool
	// selection is set when it has to be looked at anew which mesh has which sites.
	selection bool
	// settings is set when what the network's edges have in common changed.
	settings bool
	// segments is set when the network has other segments.
	segments bool
	// Names of what changed.
	sites, edges, uplinks, meshes, profiles, gateways, keys map[string]bool
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
				gateways: map[string]bool{}, keys: map[string]bool{},
			}
		}
		return deltas[key]
	}
	for c := range model.Diff(from.Networks, to.Networks) {
		if c.Old == nil || c.New == nil {
			at(c.Name).all = true
		} else if !sameTraffic(c.Old.Value, c.New.Value) {
			at(c.Name).settings = true
		}
	}
	for c := range model.Diff(from.Sites, to.Sites) {
		d := at(c.Name)
		d.sites[c.Name] = true
		d.selection = d.selection || c.Old == nil || c.New == nil || !maps.Equal(c.Old.Value.GetLabels(), c.New.Value.GetLabels()) ||
			!sameSegments(c.Old.Value, c.New.Value)
	}
	for c := range model.Diff(from.Segments, to.Segments) {
		at(c.Name).segments = true
	}
	for c := range model.Diff(from.Edges, to.Edges) {
		at(c.Name).edges[c.Name] = true
	}
	for c := range model.Diff(from.Meshes, to.Meshes) {
		d := at(c.Name)
		d.meshes[c.Name], d.selection = true, true
	}
	for c := range model.Diff(from.Profiles, to.Profiles) {
		d := at(c.Name)
		d.profiles[c.Name], d.selection = true, true
	}
	for c := range model.Diff(from.Gateways, to.Gateways) {
		at(c.Name).gateways[c.Name] = true
	}
	for c := range model.Diff(from.PreSharedKeys, to.PreSharedKeys) {
		at(c.Name).keys[c.Name] = true
	}
	for c := range model.Diff(from.EdgeStatuses, to.EdgeStatuses) {
		if c.Old == nil || c.New == nil || !sameUplinks(c.Old.Value.GetUplinks(), c.New.Value.GetUplinks()) {
			at(c.Name).uplinks[c.Name] = true
		}
	}
	for c := range model.Diff(from.Authorities, to.Authorities) {
		if network, ok := strings.CutPrefix(c.Name, model.NetworkAuthorities); ok {
			at("networks/" + network).settings = true
			continue
		}
		for row := range to.Networks.All() { // the controller's own
			at(row.Name).settings = true
		}
	}
	for c := range model.Diff(from.Revocations, to.Revocations) {
		at(c.Name).settings = true
	}
	return deltas
}

// sameTraffic says whether both have the same traffic classes.
func sameTraffic(x, y *swanherdv1.Network) bool {
	return slices.EqualFunc(x.GetTrafficClasses(), y.GetTrafficClasses(), func(a, b *swanherdv1.TrafficClass) bool { return proto.Equal(a, b) })
}

// sameSegments says whether both are in the same segments.
func sameSegments(x, y *swanherdv1.Site) bool {
	in := func(s *swanherdv1.Site) map[string]bool {
		names := map[string]bool{}
		for _, x := range s.GetSegments() {
			names[x.GetSegment()] = true
		}
		return names
	}
	return maps.Equal(in(x), in(y))
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

// dirtyLinks returns the edges of an index, before the change or after it, whose links
// may differ. A link belongs to two edges; it is enough to have one of them.
func (d *delta) dirtyLinks(n *network) map[string]bool {
	if d.all {
		return n.edgeNames()
	}
	dirty := maps.Clone(d.edges)
	maps.Copy(dirty, d.uplinks)
	for s := range d.touchedSites(n) {
		for _, e := range s.edges {
			dirty[e.name] = true
		}
	}
	for _, g := range n.gateways {
		if !d.touchesGateway(g) {
			continue
		}
		for _, e := range n.edges {
			if g.attaches(e) {
				dirty[e.name] = true
			}
		}
	}
	return dirty
}

// dirtySettings returns the edges of an index, before the change or after it, that are
// new, gone, or have other settings.
func (d *delta) dirtySettings(n *network) map[string]bool {
	if d.all || d.settings || d.segments {
		dirty := n.edgeNames()
		maps.Copy(dirty, d.edges)
		return dirty
	}
	dirty := maps.Clone(d.edges)
	for name := range d.sites {
		if s := n.sites[name]; s != nil {
			for _, e := range s.all {
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
// a site of it changed, or which hubs have an edge.
func (d *delta) changesTransit(m *mesh, moved map[*site]bool) bool {
	for _, part := range m.parts() {
		for s := range part.roles {
			if d.sites[s.name] || part.roles[s] == roleHub && moved[s] {
				return true
			}
		}
	}
	return false
}
