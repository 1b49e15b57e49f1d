package model

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Fields says where in a request a resource is, by its name: `sites[2]` in a
// manifest, `site` in a CreateSiteRequest. Resources that are not in it were
// stored before.
type Fields map[string]string

// ValidateState finds everything that is wrong with a whole state, beyond what
// the rules in the protos say of each message. It is used for what the state
// would be after a write, whether of a manifest or of one resource. What sees is false of
// is not named to whoever asked; nil: all may be.
func ValidateState(t *Topology, fields Fields, sees func(name string) bool) Violations {
	v := validator{t: t, fields: fields, sees: sees}
	for row := range t.Networks.All() {
		v.traffic(row.Value)
	}
	for row := range t.Profiles.All() {
		v.inNetwork(row.Name)
		v.profile(row.Value)
	}
	v.segments()
	spaces := map[string][]takenPrefix{} // by network, or segment
	for row := range t.Sites.All() {
		v.inNetwork(row.Name)
		network := networkOf(row.Name)
		spaces[network] = append(spaces[network], v.prefixes(row.Value.GetName(), "", row.Value.GetPrefixes())...)
		for segment, prefixes := range v.siteSegments(row.Value) {
			spaces[segment] = append(spaces[segment], prefixes...)
		}
	}
	for row := range t.Gateways.All() { // these are in the default segment
		v.inNetwork(row.Name)
		network := networkOf(row.Name)
		v.gateway(row.Value, spaces[network])
		spaces[network] = append(spaces[network], v.prefixes(row.Value.GetName(), "", row.Value.GetPrefixes())...)
	}
	for _, prefixes := range spaces {
		v.overlaps(prefixes)
	}
	for row := range t.Meshes.All() {
		v.inNetwork(row.Name)
		v.mesh(row.Value)
		v.meshSegments(row.Value)
		v.paths(row.Value)
	}
	v.assertions()
	slices.SortStableFunc(v.found, func(a, b Violation) int {
		return cmp.Or(natural(a.Field, b.Field), strings.Compare(a.Resource, b.Resource), strings.Compare(a.Problem, b.Problem))
	})
	return v.found
}

type validator struct {
	t      *Topology
	fields Fields
	sees   func(name string) bool // nil: all
	found  Violations
}

// Outside is how what somebody may not be told of is called to them.
const Outside = "something outside of what your role is limited to"

// may says whether the thing of that name may be named.
func (v *validator) may(name string) bool { return v.sees == nil || v.sees(name) }

// called is the name of a thing, or Outside.
func (v *validator) called(name string) string {
	if v.may(name) {
		return name
	}
	return Outside
}

// add reports a violation in a field of a resource.
func (v *validator) add(resource, field, problem, remedy string) {
	at, asked := v.fields[resource]
	one := Violation{Resource: resource, Field: field, Problem: problem, Remedy: remedy}
	if asked {
		one.Field = strings.TrimPrefix(at+"."+field, ".")
	}
	v.found = append(v.found, one)
}

func networkOf(name string) string {
	network, _, _ := strings.Cut(strings.TrimPrefix(name, "networks/"), "/")
	return "networks/" + network
}

func (v *validator) inNetwork(name string) {
	network := networkOf(name)
	if _, ok := v.t.Networks.Get(network); !ok {
		v.add(name, "name", network+" does not exist", "create the network first, or in the same manifest"+v.known(v.askedNetworks()))
	}
}

// askedNetworks are the networks in the request. Which others there are is not
// for everybody to know.
func (v *validator) askedNetworks() []string {
	var names []string
	for row := range v.t.Networks.All() {
		if _, asked := v.fields[row.Name]; asked {
			names = append(names, row.Name)
		}
	}
	return names
}

func (v *validator) profile(p *swanherdv1.Profile) {
	check := func(kind Proposal, field string, proposals []string) {
		for i, text := range proposals {
			if wrong, ok := CheckProposal(kind, text); !ok {
				v.add(p.GetName(), fmt.Sprintf("%s[%d]", field, i), wrong.Problem, wrong.Remedy)
			}
		}
	}
	check(ProposalIKE, "ike_proposals", p.GetIkeProposals())
	check(ProposalESP, "esp_proposals", p.GetEspProposals())
	v.sla(p)
}

// sla checks that the SLA of a profile can be judged.
func (v *validator) sla(p *swanherdv1.Profile) {
	sla := p.GetSla()
	switch {
	case sla == nil:
	case p.GetProbing().GetDisabled():
		v.add(p.GetName(), "probing.disabled", "disables the probes by which the sla is judged", "enable probing, or leave the SLA out")
	case !hasLimit(sla):
		v.add(p.GetName(), "sla", noLimit, limitRemedy)
	}
}

// What is wrong with an SLA that hasLimit is false of.
const (
	noLimit     = "has no limit"
	limitRemedy = "name a traffic_class, or one of max_loss_percent, max_latency and max_jitter"
)

func hasLimit(sla *swanherdv1.PathSla) bool {
	return sla.GetTrafficClass() != swanherdv1.PathSla_TRAFFIC_CLASS_UNSPECIFIED || sla != nil && sla.MaxLossPercent != nil ||
		sla.GetMaxLatency() != nil || sla.GetMaxJitter() != nil
}

// takenPrefix is a prefix and the site or gateway that has it.
type takenPrefix struct {
	prefix netip.Prefix
	owner  string
	within string // the part of the owner that it is in, as in `segments[0].`
	index  int
}

func (p takenPrefix) field() string { return fmt.Sprintf("%sprefixes[%d]", p.within, p.index) }

// prefixes checks each prefix of a site, of a segment in it, or of a gateway by itself and
// returns the good ones.
func (v *validator) prefixes(owner, within string, texts []string) []takenPrefix {
	var good []takenPrefix
	for i, text := range texts {
		at := takenPrefix{owner: owner, within: within, index: i}
		p, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
			v.add(owner, at.field(), fmt.Sprintf("%q is not a prefix", clip(text)), "write it as in 10.1.0.0/16 or 2001:db8:1::/48")
		case p.Addr().Is4In6():
			v.add(owner, at.field(), fmt.Sprintf("%s is an IPv4 prefix in IPv6 form", text), "write it as IPv4")
		case p.Masked() != p:
			v.add(owner, at.field(), fmt.Sprintf("%s has host bits set", text), fmt.Sprintf("write %s", p.Masked()))
		default:
			at.prefix = p
			good = append(good, at)
		}
	}
	return good
}

// overlaps finds the prefixes that are inside others of the same network and segment. In
// ascending order, a prefix comes right after those that hold it.
func (v *validator) overlaps(prefixes []takenPrefix) {
	slices.SortFunc(prefixes, func(a, b takenPrefix) int {
		return cmp.Or(a.prefix.Compare(b.prefix), strings.Compare(a.owner, b.owner), cmp.Compare(a.index, b.index))
	})
	var holding []takenPrefix
	for _, p := range prefixes {
		for len(holding) > 0 && !holding[len(holding)-1].prefix.Overlaps(p.prefix) {
			holding = holding[:len(holding)-1]
		}
		if len(holding) > 0 {
			v.overlap(holding[len(holding)-1], p)
		}
		holding = append(holding, p)
	}
}

// overlap reports one overlap, at the one of the two that was asked for; when
// both were, at the later one.
func (v *validator) overlap(a, b takenPrefix) {
	atA, askedA := v.fields[a.owner]
	atB, askedB := v.fields[b.owner]
	if askedA && !askedB || askedA && natural(atA+"."+a.field(), atB+"."+b.field()) > 0 {
		a, b = b, a
	}
	if a.owner == b.owner {
		v.add(b.owner, b.field(), fmt.Sprintf("%s overlaps %s of the same %s (%s)", b.prefix, a.prefix, ownerWord(a.owner), a.field()), "remove the narrower one")
		return
	}
	where := a.owner
	if at, asked := v.fields[a.owner]; asked {
		where += ", " + at + "." + a.field()
	}
	taken := fmt.Sprintf("%s of %s", a.prefix, where)
	if !v.may(a.owner) {
		taken = "a prefix of " + Outside
	}
	v.add(b.owner, b.field(), fmt.Sprintf("%s overlaps %s", b.prefix, taken),
		"give each site and gateway of a network prefixes of its own, or put sites into different segments")
}

// ownerWord is the kind of what has a prefix.
func ownerWord(name string) string {
	if strings.Contains(name, "/gateways/") {
		return "gateway"
	}
	return "site"
}

// usesProfile checks that a mesh or gateway names a profile of its network.
func (v *validator) usesProfile(resource, profile string) {
	network := networkOf(resource)
	if name, err := ParseProfileName(profile); err == nil && "networks/"+name.Network != network { // whether it is there or not
		v.add(resource, "profile", fmt.Sprintf("%s is in another network", profile), "use a profile of "+network)
	} else if _, ok := v.t.Profiles.Get(profile); !ok {
		v.add(resource, "profile", fmt.Sprintf("profile %q does not exist", clip(profile)),
			"create it, or name one of the network's"+v.known(v.t.Profiles.names(network+"/")))
	}
}

func (v *validator) mesh(m *swanherdv1.Mesh) {
	v.usesProfile(m.GetName(), m.GetProfile())
	switch topology := m.GetTopology().(type) {
	case *swanherdv1.Mesh_FullMesh:
		v.selector(m, "full_mesh.sites", topology.FullMesh.GetSites())
	case *swanherdv1.Mesh_HubAndSpoke:
		hubs := v.selector(m, "hub_and_spoke.hubs", topology.HubAndSpoke.GetHubs())
		spokes := v.selector(m, "hub_and_spoke.spokes", topology.HubAndSpoke.GetSpokes())
		if len(spokes) > 0 && !slices.ContainsFunc(spokes, func(s string) bool { return !slices.Contains(hubs, s) }) {
			v.add(m.GetName(), "hub_and_spoke.spokes", "selects no site that is not a hub", "select at least one other site")
		}
		v.priorities(m, topology.HubAndSpoke, hubs)
	case *swanherdv1.Mesh_Regional:
		v.regional(m, topology.Regional)
	case *swanherdv1.Mesh_ExplicitLinks:
		v.links(m, topology.ExplicitLinks.GetLinks())
	}
}

// regional checks that every site has a region, and every region a hub.
func (v *validator) regional(m *swanherdv1.Mesh, r *swanherdv1.Regional) {
	hubs := v.selector(m, "regional.hubs", r.GetHubs())
	spokes := v.selector(m, "regional.spokes", r.GetSpokes())
	regions := map[string]bool{}
	var nowhere, alone []string
	for _, hub := range hubs {
		if region := RegionOf(r, v.t.Sites.Value(hub)); region != "" {
			regions[region] = true
		} else {
			nowhere = append(nowhere, hub)
		}
	}
	label := regionLabel(r)
	v.listed(m, "regional.hubs", nowhere, "has no label "+label, "give it one, or select by labels that only hubs with it carry")
	nowhere = nil
	for _, spoke := range spokes {
		if slices.Contains(hubs, spoke) {
			continue
		}
		switch region := RegionOf(r, v.t.Sites.Value(spoke)); {
		case region == "":
			nowhere = append(nowhere, spoke)
		case !regions[region]:
			alone = append(alone, spoke)
		}
	}
	v.listed(m, "regional.spokes", nowhere, "has no label "+label, "give it one, or select by labels that only spokes with it carry")
	v.listed(m, "regional.spokes", alone, "is in a region without a hub", "make a site with the same "+label+" a hub")
}

// listed reports what is wrong with each of some sites that a selector picks.
func (v *validator) listed(m *swanherdv1.Mesh, field string, sites []string, problem, remedy string) {
	for _, s := range sites[:min(maxListed, len(sites))] {
		v.add(m.GetName(), field, v.called(s)+" "+problem, remedy)
	}
}

// selector checks a selector and returns the sites that it selects.
func (v *validator) selector(m *swanherdv1.Mesh, field string, s *swanherdv1.SiteSelector) []string {
	for i, name := range s.GetSites() {
		v.site(m, fmt.Sprintf("%s.sites[%d]", field, i), name)
	}
	var selected []string
	for row := range v.t.Sites.WithPrefix(networkOf(m.GetName()) + "/") {
		if Selects(s, row.Value) {
			selected = append(selected, row.Name)
		}
	}
	if len(selected) > 0 || len(s.GetSites()) > 0 { // unknown sites were reported one by one
		return selected
	}
	if len(s.GetMatchLabels()) > 0 {
		v.add(m.GetName(), field, "selects no site: none has "+labels(s.GetMatchLabels()), "give sites these labels"+v.labelsInUse(m, s))
	} else {
		v.add(m.GetName(), field, "selects no site", "set all, match_labels or sites, and have at least one site in the network")
	}
	return nil
}

// site checks that a mesh names a site of its network.
func (v *validator) site(m *swanherdv1.Mesh, field, name string) {
	network := networkOf(m.GetName())
	if _, err := ParseSiteName(name); err != nil {
		v.add(m.GetName(), field, err.Error(), "write "+network+"/sites/{site}")
	} else if networkOf(name) != network {
		v.add(m.GetName(), field, name+" is in another network", "name a site of "+network)
	} else if _, ok := v.t.Sites.Get(name); !ok {
		v.add(m.GetName(), field, name+" does not exist", "create it, or name one of the network's"+v.known(v.t.Sites.names(network+"/")))
	}
}

func (v *validator) links(m *swanherdv1.Mesh, links []*swanherdv1.Link) {
	first := map[[2]string]int{}
	for i, l := range links {
		field := fmt.Sprintf("explicit_links.links[%d]", i)
		v.site(m, field+".site_a", l.GetSiteA())
		v.site(m, field+".site_b", l.GetSiteB())
		if l.GetSiteA() == l.GetSiteB() {
			v.add(m.GetName(), field, l.GetSiteA()+" is linked to itself", "name two different sites")
			continue
		}
		pair := [2]string{min(l.GetSiteA(), l.GetSiteB()), max(l.GetSiteA(), l.GetSiteB())}
		if before, twice := first[pair]; twice {
			v.add(m.GetName(), field, fmt.Sprintf("links the same sites as explicit_links.links[%d]", before), "remove one of the two")
			continue
		}
		first[pair] = i
	}
}

// maxListed is how many names a remedy lists.
const maxListed = 8

func (v *validator) known(names []string) string {
	if len(names) == 0 {
		return "; there is none yet"
	}
	if names = slices.DeleteFunc(names, func(name string) bool { return !v.may(name) }); len(names) == 0 {
		return ""
	}
	if len(names) > maxListed {
		return fmt.Sprintf("; there are %s and %d more", strings.Join(names[:maxListed], ", "), len(names)-maxListed)
	}
	return "; there are " + strings.Join(names, ", ")
}

// labelsInUse lists the values that sites have for the keys of a selector.
func (v *validator) labelsInUse(m *swanherdv1.Mesh, s *swanherdv1.SiteSelector) string {
	var values []string
	for row := range v.t.Sites.WithPrefix(networkOf(m.GetName()) + "/") {
		for key := range s.GetMatchLabels() {
			if have, ok := row.Value.GetLabels()[key]; ok && v.may(row.Name) {
				values = append(values, key+": "+have)
			}
		}
	}
	slices.Sort(values)
	values = slices.Compact(values)
	if len(values) == 0 {
		return ""
	}
	return ", or select by one in use: " + strings.Join(values[:min(maxListed, len(values))], ", ")
}

func labels(m map[string]string) string {
	list := make([]string, 0, len(m))
	for key, value := range m {
		list = append(list, key+": "+value)
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// names returns the names of a table below a prefix.
func (t Table[T]) names(prefix string) []string {
	var names []string
	for row := range t.WithPrefix(prefix) {
		names = append(names, row.Name)
	}
	return names
}

// natural compares field paths such that [2] is before [10].
func natural(a, b string) int {
	for a != "" && b != "" {
		x, restA := token(a)
		y, restB := token(b)
		if x != y {
			n, errN := strconv.Atoi(x)
			m, errM := strconv.Atoi(y)
			if errN == nil && errM == nil {
				return cmp.Compare(n, m)
			}
			return strings.Compare(x, y)
		}
		a, b = restA, restB
	}
	return cmp.Compare(len(a), len(b))
}

// token cuts a run of digits, or of anything else, off s.
func token(s string) (head, rest string) {
	digit := func(c byte) bool { return '0' <= c && c <= '9' }
	end := 1
	for end < len(s) && digit(s[end]) == digit(s[0]) {
		end++
	}
	return s[:end], s[end:]
}
