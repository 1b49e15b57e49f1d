package plan

import (
	"encoding/pem"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/swanherd/swanherd/proto/digest"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// network is the index of one segment of a network: who is where, and which meshes select
// which sites. A segment has the sites that have prefixes in it, the default one all.
type network struct {
	segment model.SegmentName // without a segment: the default one
	sites   map[string]*site
	edges   map[string]*edge
	meshes  []*mesh // by name; without those whose profile is missing
	// gateways by name; those of a network are in its default segment.
	gateways []*gateway
	// trust is the resource that all of the network's edges have in common; the default
	// segment has it.
	trust *swanherdv1.IntentResource
	// traffic are its traffic classes, of which the SLAs are resolved; the default segment
	// has them.
	traffic []*swanherdv1.TrafficClass
}

type site struct {
	name     string
	revision int64
	prefixes []netip.Prefix
	texts    []string // prefixes as strings
	labels   map[string]string
	edges    []*edge // enabled ones, by name
	all      []*edge // by name
}

type edge struct {
	name    string
	id      model.EdgeName
	site    *site // nil when it is missing
	enabled bool
	uplinks []*uplinkInfo // by preference
	// identity on the wire.
	identity string
	// probes is where the addresses of its probes are.
	probes netip.Prefix
}

// mesh is a Mesh with its selectors resolved. One of the three groups is set.
type mesh struct {
	name     string
	profile  *swanherdv1.Profile
	critical bool
	// members of a full mesh, by name.
	members []*site
	// hubs and spokes; a site that is both is a hub.
	hubs, spokes []*site
	// links of the sites that have explicit ones.
	links map[*site][]*site
	// roles of the sites in the mesh.
	roles map[*site]role
	// transits are the hubs that carry traffic between spokes, the first one first; of a
	// region there is one at most.
	transits []hub
	// wantsTransit is set also when no hub has an edge.
	wantsTransit bool
	// priorityLabel is as in HubAndSpoke.
	priorityLabel string
	// carried is what a transit hub offers: the prefixes of all spokes and, where it is
	// the only one, its own. Several offer the same, each besides its own, as what a spoke
	// sends goes by the longest prefix before it goes by who is first.
	carried prefixSet
	// own is what of carried is of the mesh's own region, in a regional mesh.
	own prefixSet
	// texts of the prefixes that carried gave, so that each exists once; guarded by
	// textsMu, as links are made in parallel.
	texts   map[netip.Prefix]string
	textsMu sync.Mutex
	// regions is set when the mesh is a part of a regional one.
	regions *regions
	// What all tunnels of the mesh share; messages are never changed.
	ikeRekey, childRekey, dpdDelay *durationpb.Duration
	replayWindow                   uint32
	sla                            *swanherdv1.PathSla // nil: no limits
	pairing                        pairing
}

type role uint8

const (
	roleMember role = iota + 1
	roleHub
	roleSpoke
)

// newNetwork makes the index of a network. What it can it takes from the index
// before.
func newNetwork(t *model.Topology, segment model.SegmentName, before *network, secrets Secrets) *network {
	name := model.NetworkName{Network: segment.Network}
	n := &network{segment: segment, sites: map[string]*site{}, edges: map[string]*edge{}}
	for row := range t.Sites.InNetwork(name) {
		if _, in := model.PrefixesIn(row.Value, segment.Segment); !in {
			continue
		}
		s := &site{name: row.Name}
		if old := before.sites[row.Name]; old != nil && old.revision == row.Revision {
			s.revision, s.prefixes, s.texts, s.labels = old.revision, old.prefixes, old.texts, old.labels
		} else {
			s.set(row, segment.Segment)
		}
		n.sites[row.Name] = s
	}
	for row := range t.Edges.InNetwork(name) {
		n.addEdge(t, row)
	}
	for row := range t.Meshes.InNetwork(name) {
		if profile, ok := t.Profiles.Get(row.Value.GetProfile()); ok && model.Carries(row.Value, segment.Segment) {
			n.meshes = append(n.meshes, n.resolve(t, name, row.Value, profile.Value)...)
		}
	}
	if segment.Segment == "" {
		n.setGateways(t, name, secrets)
		n.setTrust(t, name)
		n.setTraffic(t, name)
	}
	return n
}

// update changes what of the index d touches, but for its meshes: their sites are the
// same as before, and which of them carries transit may differ.
func (n *network) update(t *model.Topology, d *delta) {
	moved := map[*site]bool{} // sites whose edges changed
	note := func(e *edge) {
		if e != nil && e.site != nil {
			moved[e.site] = true
		}
	}
	for name := range d.sites {
		if row, ok := t.Sites.Get(name); ok && n.sites[name] != nil {
			n.sites[name].set(row, n.segment.Segment)
		}
	}
	for name := range d.edges {
		note(n.edges[name])
		n.removeEdge(name)
		if row, ok := t.Edges.Get(name); ok {
			n.addEdge(t, row)
		}
		note(n.edges[name])
	}
	for name := range d.uplinks {
		if e := n.edges[name]; e != nil {
			e.uplinks = preferred(t.EdgeStatuses.Value(name).GetUplinks())
		}
	}
	for _, m := range n.meshes {
		if m.wantsTransit && d.changesTransit(m, moved) {
			m.setTransit()
		}
	}
}

func (s *site) set(row model.Row[*swanherdv1.Site], segment string) {
	s.revision = row.Revision
	texts, _ := model.PrefixesIn(row.Value, segment)
	s.prefixes = parsePrefixes(texts)
	s.texts = prefixStrings(s.prefixes)
	s.labels = row.Value.GetLabels()
}

func (n *network) addEdge(t *model.Topology, row model.Row[*swanherdv1.Edge]) {
	id, err := model.ParseEdgeName(row.Name)
	if err != nil {
		return // refused before it was stored
	}
	e := &edge{name: row.Name, id: id, site: n.sites[row.Value.GetSite()], enabled: !row.Value.GetDisabled(), identity: id.IKEIdentity()}
	e.probes = probePrefix(id.Network, row.Name)
	e.uplinks = preferred(t.EdgeStatuses.Value(row.Name).GetUplinks())
	n.edges[row.Name] = e
	if e.site == nil {
		return
	}
	e.site.all = insert(e.site.all, e)
	if e.enabled {
		e.site.edges = insert(e.site.edges, e)
	}
}

func (n *network) removeEdge(name string) {
	e := n.edges[name]
	if e == nil {
		return
	}
	delete(n.edges, name)
	if e.site != nil {
		same := func(o *edge) bool { return o == e }
		e.site.all, e.site.edges = slices.DeleteFunc(e.site.all, same), slices.DeleteFunc(e.site.edges, same)
	}
}

func insert(edges []*edge, e *edge) []*edge {
	at, _ := slices.BinarySearchFunc(edges, e, func(a, b *edge) int { return strings.Compare(a.name, b.name) })
	return slices.Insert(edges, at, e)
}

// edgeNames are the names of all edges.
func (n *network) edgeNames() map[string]bool {
	names := make(map[string]bool, len(n.edges))
	for name := range n.edges {
		names[name] = true
	}
	return names
}

// setTrust fills in whom all edges of the network believe.
func (n *network) setTrust(t *model.Topology, name model.NetworkName) {
	trust := &swanherdv1.TrustBundle{}
	if authority, ok := t.Authorities.Get(name.AuthorityName()); ok {
		trust.TrustAnchors = pemTexts(model.TrustAnchors(authority.Value))
		rotation := authority.Value.GetRotation()
		if rotation.GetPhase() == swanherdv1.CertificateAuthority_PHASE_REISSUING {
			trust.IssuerPin, trust.RenewWithin = rotation.GetIssuerPin(), rotation.GetRenewWithin()
		}
	}
	if controller, ok := t.Authorities.Get(model.ControllerAuthority); ok {
		trust.ControllerAnchors = pemTexts(model.TrustAnchors(controller.Value))
		// Which of two issues is nothing to the edges, so it changes nothing that they have.
		slices.Sort(trust.ControllerAnchors)
	}
	for row := range t.Revocations.WithPrefix(name.RevocationName("")) {
		trust.RevokedSerials = append(trust.RevokedSerials, row.Name[strings.LastIndexByte(row.Name, '/')+1:])
	}
	n.trust = digest.Resource(trust)
}

func (n *network) setTraffic(t *model.Topology, name model.NetworkName) {
	n.traffic = nil
	for _, c := range t.Networks.Value(name.String()).GetTrafficClasses() {
		n.traffic = append(n.traffic, &swanherdv1.TrafficClass{Id: c.GetId(), Matches: c.GetMatches(), Sla: limitsOf(c.GetSla()), Transports: c.GetTransports()})
	}
}

// pemTexts are certificates in DER as texts.
func pemTexts(ders [][]byte) []string {
	out := make([]string, len(ders))
	for i, der := range ders {
		out[i] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return out
}

// resolve finds the sites of a mesh. A regional one is several.
func (n *network) resolve(t *model.Topology, name model.NetworkName, m *swanherdv1.Mesh, profile *swanherdv1.Profile) []*mesh {
	if r := m.GetRegional(); r != nil {
		return n.resolveRegional(t, name, m, profile)
	}
	resolved := newMesh(m, profile)
	switch topology := m.GetTopology().(type) {
	case *swanherdv1.Mesh_FullMesh:
		resolved.members = n.selected(t, name, topology.FullMesh.GetSites())
		resolved.assign(resolved.members, roleMember)
	case *swanherdv1.Mesh_HubAndSpoke:
		resolved.hubs = n.selected(t, name, topology.HubAndSpoke.GetHubs())
		resolved.assign(resolved.hubs, roleHub)
		for _, s := range n.selected(t, name, topology.HubAndSpoke.GetSpokes()) {
			if resolved.roles[s] == 0 {
				resolved.spokes = append(resolved.spokes, s)
			}
		}
		resolved.assign(resolved.spokes, roleSpoke)
		if topology.HubAndSpoke.GetTransit() {
			resolved.priorityLabel = topology.HubAndSpoke.GetPriorityLabel()
			resolved.setTransit()
		}
	case *swanherdv1.Mesh_ExplicitLinks:
		resolved.links = map[*site][]*site{}
		for _, l := range topology.ExplicitLinks.GetLinks() {
			a, b := n.sites[l.GetSiteA()], n.sites[l.GetSiteB()]
			if a == nil || b == nil || a == b || slices.Contains(resolved.links[a], b) {
				continue
			}
			resolved.links[a] = append(resolved.links[a], b)
			resolved.links[b] = append(resolved.links[b], a)
			resolved.assign([]*site{a, b}, roleMember)
		}
	}
	return []*mesh{resolved}
}

func newMesh(from *swanherdv1.Mesh, profile *swanherdv1.Profile) *mesh {
	m := &mesh{
		name:         from.GetName(),
		critical:     from.GetCritical(),
		profile:      profile,
		roles:        map[*site]role{},
		texts:        map[netip.Prefix]string{},
		ikeRekey:     orDefault(profile.GetIkeRekeyTime(), defaultIKERekey),
		childRekey:   orDefault(profile.GetChildRekeyTime(), defaultChildRekey),
		dpdDelay:     orDefault(profile.GetDpdDelay(), defaultDPDDelay),
		replayWindow: profile.GetReplayWindow(),
		sla:          limitsOf(profile.GetSla()),
		pairing:      pairingOf(from),
	}
	if m.replayWindow == 0 {
		m.replayWindow = defaultReplayWindow
	}
	return m
}

func (n *network) selected(t *model.Topology, name model.NetworkName, selector *swanherdv1.SiteSelector) []*site {
	var sites []*site
	for row := range t.Sites.InNetwork(name) {
		if s := n.sites[row.Name]; s != nil && model.Selects(selector, row.Value) {
			sites = append(sites, s)
		}
	}
	return sites
}

func (m *mesh) assign(sites []*site, r role) {
	for _, s := range sites {
		m.roles[s] = r
	}
}

func (m *mesh) setTransit() {
	if m.regions != nil && m == m.regions.between {
		m.wantsTransit = true
		m.regions.spread()
		return
	}
	m.wantsTransit, m.carried = true, nil
	m.transits = m.transitHubs()
	if len(m.transits) == 0 {
		return
	}
	var carried []netip.Prefix
	if len(m.transits) == 1 {
		carried = slices.Clone(m.transits[0].prefixes)
	}
	for _, s := range m.spokes {
		carried = append(carried, s.prefixes...)
	}
	m.carried = newPrefixSet(carried)
}

// peers returns the sites that the mesh connects s with. The result may hold s.
func (m *mesh) peers(s *site) [][]*site {
	switch m.roles[s] {
	case roleMember:
		if m.links != nil {
			return [][]*site{m.links[s]}
		}
		return [][]*site{m.members}
	case roleHub:
		return [][]*site{m.hubs, m.spokes}
	case roleSpoke:
		return [][]*site{m.hubs}
	default:
		return nil
	}
}

// offered returns what site s has to offer to site t in the mesh: its own
// prefixes and, where s carries transit for t, those of the others in the mesh that
// t has no tunnel of its own with.
func (n *network) offered(m *mesh, s, t *site) []string {
	carried, ok := m.carries(s, t)
	if !ok {
		return s.texts
	}
	carried = carried.without(t.prefixes)
	for _, other := range n.meshes {
		for _, group := range other.peers(t) {
			for _, direct := range group {
				if direct != s && direct != t && m.behind(direct) {
					carried = carried.without(direct.prefixes)
				}
			}
		}
	}
	var list []string
	if len(m.transits) > 1 {
		list = append(list, s.texts...)
	}
	m.textsMu.Lock()
	defer m.textsMu.Unlock()
	for _, p := range carried {
		text, ok := m.texts[p]
		if !ok {
			text = p.String()
			m.texts[p] = text
		}
		list = append(list, text)
	}
	return list
}
