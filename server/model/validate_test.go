package model

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func manifest() *swanherdv1.Manifest {
	return &swanherdv1.Manifest{
		Networks: []*swanherdv1.Network{{Name: "networks/demo"}},
		Profiles: []*swanherdv1.Profile{{
			Name:         "networks/demo/profiles/default",
			IkeProposals: []string{"aes256gcm16-prfsha384-x25519"},
			EspProposals: []string{"aes256gcm16-x25519-esn"},
		}},
		Sites: []*swanherdv1.Site{
			{Name: "networks/demo/sites/berlin", Prefixes: []string{"10.1.0.0/16"}, Labels: map[string]string{"region": "emea"}},
			{Name: "networks/demo/sites/oslo", Prefixes: []string{"10.2.0.0/16", "2001:db8:2::/48"}},
		},
		Meshes: []*swanherdv1.Mesh{{
			Name: "networks/demo/meshes/all", Profile: "networks/demo/profiles/default",
			Topology: &swanherdv1.Mesh_FullMesh{FullMesh: &swanherdv1.FullMesh{Sites: &swanherdv1.SiteSelector{All: true}}},
		}},
	}
}

// validate merges a manifest into a state and returns all that is wrong.
func validate(t *Topology, m *swanherdv1.Manifest) Violations {
	merged, found := MergeManifest(t, m, Prune{})
	return append(found, ValidateState(merged.Topology, merged.Fields, nil)...)
}

// inSegments puts the prefixes of all sites into segments too.
func inSegments(m *swanherdv1.Manifest, ids ...string) {
	for _, id := range ids {
		name := "networks/demo/segments/" + id
		m.Segments = append(m.Segments, &swanherdv1.Segment{Name: name})
		for _, s := range m.GetSites() {
			s.Segments = append(s.Segments, &swanherdv1.SiteSegment{Segment: name, Prefixes: slices.Clone(s.GetPrefixes())})
		}
	}
}

func links(pairs ...string) *swanherdv1.Mesh_ExplicitLinks {
	l := &swanherdv1.ExplicitLinks{}
	for i := 0; i < len(pairs); i += 2 {
		l.Links = append(l.Links, &swanherdv1.Link{SiteA: "networks/demo/sites/" + pairs[i], SiteB: "networks/demo/sites/" + pairs[i+1]})
	}
	return &swanherdv1.Mesh_ExplicitLinks{ExplicitLinks: l}
}

func hubs(hubs, spokes *swanherdv1.SiteSelector) *swanherdv1.Mesh_HubAndSpoke {
	return &swanherdv1.Mesh_HubAndSpoke{HubAndSpoke: &swanherdv1.HubAndSpoke{Hubs: hubs, Spokes: spokes}}
}

func TestViolations(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*swanherdv1.Manifest)
		// Each one wanted, in order: the field, and what the message has to say.
		want [][]string
	}{
		{"nothing", func(*swanherdv1.Manifest) {}, nil},
		{
			"an SLA without a limit", func(m *swanherdv1.Manifest) { m.Profiles[0].Sla = &swanherdv1.PathSla{} },
			[][]string{{"profiles[0].sla", "has no limit", "name a traffic_class"}},
		},
		{
			"an SLA without probes", func(m *swanherdv1.Manifest) {
				m.Profiles[0].Sla = &swanherdv1.PathSla{TrafficClass: swanherdv1.PathSla_TRAFFIC_CLASS_VOICE}
				m.Profiles[0].Probing = &swanherdv1.Probing{Disabled: true}
			},
			[][]string{{"profiles[0].probing.disabled", "disables the probes by which the sla is judged"}},
		},
		{
			"several paths", func(m *swanherdv1.Manifest) {
				m.Meshes[0].Paths = &swanherdv1.MeshPaths{Pairing: swanherdv1.MeshPaths_PAIRING_ALL, MaxPaths: 2}
			}, nil,
		},
		{
			"several paths without probes", func(m *swanherdv1.Manifest) {
				m.Meshes[0].Paths = &swanherdv1.MeshPaths{Pairing: swanherdv1.MeshPaths_PAIRING_SAME_CLASS}
				m.Profiles[0].Probing = &swanherdv1.Probing{Disabled: true}
			}, [][]string{{"profiles[0].probing.disabled", "the paths of networks/demo/meshes/all", "enable probing"}},
		},
		{
			"how many of one path", func(m *swanherdv1.Manifest) {
				m.Meshes[0].Paths = &swanherdv1.MeshPaths{Pairing: swanherdv1.MeshPaths_PAIRING_PREFERRED, MaxPaths: 3}
			}, [][]string{{"meshes[0].paths.max_paths", "the preferred one alone", "PAIRING_ALL"}},
		},
		{
			"a priority of a hub that is none", func(m *swanherdv1.Manifest) {
				m.Sites[0].Labels = map[string]string{"prio": "first"}
				m.Meshes[0].Topology = &swanherdv1.Mesh_HubAndSpoke{HubAndSpoke: &swanherdv1.HubAndSpoke{
					Hubs: &swanherdv1.SiteSelector{Sites: []string{m.Sites[0].GetName()}}, Spokes: &swanherdv1.SiteSelector{All: true}, PriorityLabel: "prio",
				}}
			},
			[][]string{{"meshes[0].hub_and_spoke.priority_label", `is "first" at `, "0 to 9999"}},
		},
		{
			"traffic classes", func(m *swanherdv1.Manifest) {
				voice := &swanherdv1.PathSla{TrafficClass: swanherdv1.PathSla_TRAFFIC_CLASS_VOICE}
				many := &swanherdv1.TrafficClass{Id: "many", Sla: voice}
				for range 30 {
					many.Matches = append(many.Matches, &swanherdv1.TrafficMatch{Dscp: []uint32{1}})
				}
				m.Networks[0].TrafficClasses = []*swanherdv1.TrafficClass{
					{Id: "voice", Sla: voice, Matches: []*swanherdv1.TrafficMatch{{Ports: []*swanherdv1.PortRange{{First: 5060}}}}},
					{Id: "voice", Sla: &swanherdv1.PathSla{}, Matches: []*swanherdv1.TrafficMatch{{}, {Prefixes: []string{"10.1.2.3/16"}}}},
					many,
				}
			},
			[][]string{
				{"networks[0].traffic_classes[0].matches[0].ports", "no protocol that has ports", "PROTOCOL_UDP"},
				{"networks[0].traffic_classes[1].id", "voice is traffic_classes[0] already"},
				{"networks[0].traffic_classes[1].matches[0]", "matches all traffic"},
				{"networks[0].traffic_classes[1].matches[1].prefixes[0]", "is not a prefix"},
				{"networks[0].traffic_classes[1].sla", "has no limit"},
				{"networks[0].traffic_classes[2].matches", "more than 30 matches"},
			},
		},
		{
			"overlap", func(m *swanherdv1.Manifest) { m.Sites[1].Prefixes[0] = "10.1.2.0/24" },
			[][]string{{"sites[1].prefixes[0]", "10.1.2.0/24 overlaps 10.1.0.0/16", "networks/demo/sites/berlin", "sites[0].prefixes[0]"}},
		},
		{
			"overlap the other way", func(m *swanherdv1.Manifest) { m.Sites[1].Prefixes[0] = "10.0.0.0/8" },
			[][]string{{"sites[1].prefixes[0]", "10.0.0.0/8 overlaps 10.1.0.0/16", "sites[0].prefixes[0]"}},
		},
		{
			"the same prefix", func(m *swanherdv1.Manifest) { m.Sites[1].Prefixes[0] = "10.1.0.0/16" },
			[][]string{{"sites[1].prefixes[0]", "overlaps"}},
		},
		{
			"overlap in one site", func(m *swanherdv1.Manifest) { m.Sites[0].Prefixes = []string{"10.1.0.0/16", "10.1.1.0/24"} },
			[][]string{{"sites[0].prefixes[1]", "of the same site"}},
		},
		{
			"the same prefixes in segments", func(m *swanherdv1.Manifest) { inSegments(m, "corp", "iot") }, nil,
		},
		{
			"overlap in a segment", func(m *swanherdv1.Manifest) {
				inSegments(m, "corp", "iot")
				m.Sites[1].Segments[1].Prefixes = append(m.Sites[1].Segments[1].Prefixes, "10.1.7.0/24")
			}, [][]string{{"sites[1].segments[1].prefixes[2]", "10.1.7.0/24 overlaps 10.1.0.0/16", "sites[0].segments[1].prefixes[0]"}},
		},
		{
			"host bits in a segment", func(m *swanherdv1.Manifest) {
				inSegments(m, "corp")
				m.Sites[0].Segments[0].Prefixes[0] = "10.1.0.1/16"
			}, [][]string{{"sites[0].segments[0].prefixes[0]", "host bits"}},
		},
		{
			"unknown segments", func(m *swanherdv1.Manifest) {
				inSegments(m, "corp")
				m.Sites[0].Segments[0].Segment = "networks/demo/segments/guest"
				m.Meshes[0].Segments = []string{"networks/demo/segments/guest", "networks/other/segments/corp", "corp"}
			}, [][]string{
				{"meshes[0].segments[0]", "guest does not exist", "networks/demo/segments/corp"}, {"meshes[0].segments[1]", "another network"},
				{"meshes[0].segments[2]", "not a name"}, {"sites[0].segments[0].segment", "guest does not exist"},
			},
		},
		{
			"segments twice", func(m *swanherdv1.Manifest) {
				inSegments(m, "corp")
				m.Sites[0].Segments = append(m.Sites[0].Segments, &swanherdv1.SiteSegment{Segment: "networks/demo/segments/corp", Prefixes: []string{"10.9.0.0/16"}})
				m.Meshes[0].Segments = []string{"networks/demo/segments/default", "networks/demo/segments/default"}
			}, [][]string{{"meshes[0].segments[1]", "the same segment as segments[0]"}, {"sites[0].segments[1].segment", "the same segment as segments[0]"}},
		},
		{
			"the default segment", func(m *swanherdv1.Manifest) {
				m.Segments = []*swanherdv1.Segment{{Name: "networks/demo/segments/default"}}
				m.Sites[0].Segments = []*swanherdv1.SiteSegment{{Segment: "networks/demo/segments/default", Prefixes: []string{"10.9.0.0/16"}}}
			}, [][]string{{"segments[0].name", "always there"}, {"sites[0].segments[0].segment", "put them into prefixes"}},
		},
		{
			"too many segments", func(m *swanherdv1.Manifest) {
				for i := range maxSegments + 1 {
					m.Segments = append(m.Segments, &swanherdv1.Segment{Name: fmt.Sprintf("networks/demo/segments/s%03d", i)})
				}
			}, [][]string{{"segments[64].name", "more than 64 segments"}},
		},
		{"default route and all", func(m *swanherdv1.Manifest) { m.Sites[1].Prefixes[1] = "::/0" }, nil},
		{
			"host bits", func(m *swanherdv1.Manifest) { m.Sites[0].Prefixes[0] = "10.1.0.1/16" },
			[][]string{{"sites[0].prefixes[0]", "host bits", "write 10.1.0.0/16"}},
		},
		{
			"no prefix", func(m *swanherdv1.Manifest) { m.Sites[0].Prefixes[0] = "10.1.0.0" },
			[][]string{{"sites[0].prefixes[0]", "not a prefix"}},
		},
		{"selector without match", func(m *swanherdv1.Manifest) {
			m.Meshes[0].GetFullMesh().Sites = &swanherdv1.SiteSelector{MatchLabels: map[string]string{"region": "apac"}}
		}, [][]string{{"meshes[0].full_mesh.sites", "selects no site", "region: apac", "region: emea"}}},
		{
			"empty selector", func(m *swanherdv1.Manifest) { m.Meshes[0].GetFullMesh().Sites = &swanherdv1.SiteSelector{} },
			[][]string{{"meshes[0].full_mesh.sites", "selects no site", "set all"}},
		},
		{"unknown site in a selector", func(m *swanherdv1.Manifest) {
			m.Meshes[0].GetFullMesh().Sites = &swanherdv1.SiteSelector{Sites: []string{"networks/demo/sites/paris"}}
		}, [][]string{{"meshes[0].full_mesh.sites.sites[0]", "networks/demo/sites/paris does not exist", "networks/demo/sites/berlin"}}},
		{
			"unknown profile", func(m *swanherdv1.Manifest) { m.Meshes[0].Profile = "networks/demo/profiles/gold" },
			[][]string{{"meshes[0].profile", "gold", "does not exist", "networks/demo/profiles/default"}},
		},
		{
			"unknown sites in a link", func(m *swanherdv1.Manifest) { m.Meshes[0].Topology = links("berlin", "rome") },
			[][]string{{"meshes[0].explicit_links.links[0].site_b", "rome does not exist"}},
		},
		{
			"link to itself", func(m *swanherdv1.Manifest) { m.Meshes[0].Topology = links("berlin", "oslo", "oslo", "oslo") },
			[][]string{{"meshes[0].explicit_links.links[1]", "linked to itself"}},
		},
		{
			"link twice", func(m *swanherdv1.Manifest) { m.Meshes[0].Topology = links("berlin", "oslo", "oslo", "berlin") },
			[][]string{{"meshes[0].explicit_links.links[1]", "same sites as explicit_links.links[0]"}},
		},
		{"no spoke", func(m *swanherdv1.Manifest) {
			m.Meshes[0].Topology = hubs(&swanherdv1.SiteSelector{All: true}, &swanherdv1.SiteSelector{All: true})
		}, [][]string{{"meshes[0].hub_and_spoke.spokes", "no site that is not a hub"}}},
		{"a region without a hub", func(m *swanherdv1.Manifest) {
			m.Sites = append(m.Sites, &swanherdv1.Site{Name: "networks/demo/sites/lima", Labels: map[string]string{"region": "amer"}})
			m.Meshes[0].Topology = &swanherdv1.Mesh_Regional{Regional: &swanherdv1.Regional{
				Hubs: &swanherdv1.SiteSelector{Sites: []string{"networks/demo/sites/berlin"}}, Spokes: &swanherdv1.SiteSelector{All: true},
			}}
		}, [][]string{
			{"meshes[0].regional.spokes", "lima is in a region without a hub", "the same region"},
			{"meshes[0].regional.spokes", "oslo has no label region"},
		}},
		{"a hub without a region", func(m *swanherdv1.Manifest) {
			m.Meshes[0].Topology = &swanherdv1.Mesh_Regional{Regional: &swanherdv1.Regional{
				RegionLabel: "zone", Hubs: &swanherdv1.SiteSelector{All: true}, Spokes: &swanherdv1.SiteSelector{All: true},
			}}
		}, [][]string{{"meshes[0].regional.hubs", "berlin has no label zone"}, {"meshes[0].regional.hubs", "oslo has no label zone"}}},
		{"algorithms", func(m *swanherdv1.Manifest) {
			m.Profiles[0].IkeProposals = []string{"aes256gcm16-prfsha384-x25519", "rot13-x25519"}
			m.Profiles[0].EspProposals = []string{"aes256gcm16-prfsha384"}
		}, [][]string{
			{"profiles[0].esp_proposals[0]", `"prfsha384"`, "valid are aes128gcm16"},
			{"profiles[0].ike_proposals[1]", `"rot13"`, "prfsha256"},
		}},
		{
			"unknown network", func(m *swanherdv1.Manifest) { m.Networks[0].Name = "networks/other" },
			[][]string{
				{"meshes[0].name", "networks/demo does not exist", "networks/other"},
				{"profiles[0].name", "networks/demo does not exist"},
				{"sites[0].name", "networks/demo does not exist"},
				{"sites[1].name", "networks/demo does not exist"},
			},
		},
		{
			"twice", func(m *swanherdv1.Manifest) { m.Sites[1].Name = m.Sites[0].Name },
			[][]string{{"sites[1].name", "twice", "sites[0]"}},
		},
		{"another network's profile", func(m *swanherdv1.Manifest) {
			m.Networks = append(m.Networks, &swanherdv1.Network{Name: "networks/other"})
			m.Profiles = append(m.Profiles, &swanherdv1.Profile{Name: "networks/other/profiles/p"})
			m.Meshes[0].Profile = "networks/other/profiles/p"
		}, [][]string{{"meshes[0].profile", "in another network"}}},
		{"several at once", func(m *swanherdv1.Manifest) {
			m.Sites[0].Prefixes[0] = "10.1.0.1/16"
			m.Meshes[0].Profile = "networks/demo/profiles/gold"
			m.Profiles[0].IkeProposals = []string{"aes256gcm16"}
		}, [][]string{{"meshes[0].profile"}, {"profiles[0].ike_proposals[0]", "no pseudorandom function"}, {"sites[0].prefixes[0]"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := manifest()
			c.change(m)
			got := validate(&Topology{}, m)
			if len(got) != len(c.want) {
				t.Fatalf("%d violations, want %d:\n%v", len(got), len(c.want), got.Error())
			}
			for i, want := range c.want {
				if got[i].Field != want[0] {
					t.Errorf("field %q, want %q", got[i].Field, want[0])
				}
				for _, part := range want[1:] {
					if !strings.Contains(got[i].String(), part) {
						t.Errorf("%q does not say %q", got[i], part)
					}
				}
			}
		})
	}
}

// stored returns the state after a manifest was applied at a revision.
func stored(t *testing.T, m *swanherdv1.Manifest, revision int64) *Topology {
	t.Helper()
	merged, found := MergeManifest(&Topology{}, m, Prune{})
	if len(found) > 0 {
		t.Fatal(found)
	}
	top := &Topology{Revision: revision}
	top.Networks = at(merged.Topology.Networks, revision)
	top.Profiles = at(merged.Topology.Profiles, revision)
	top.Sites = at(merged.Topology.Sites, revision)
	top.Meshes = at(merged.Topology.Meshes, revision)
	return top
}

func at[T any](t Table[T], revision int64) Table[T] {
	var rows []Row[T]
	for r := range t.All() {
		r.Revision = revision
		rows = append(rows, r)
	}
	return NewTable(rows)
}

// A violation in what was stored before is named by its resource, and an
// overlap is reported at the one that was asked for.
func TestViolationsAgainstWhatIsStored(t *testing.T) {
	top := stored(t, manifest(), 7)
	got := validate(top, &swanherdv1.Manifest{Sites: []*swanherdv1.Site{
		{Name: "networks/demo/sites/aachen", Prefixes: []string{"10.0.0.0/8"}},
	}})
	if len(got) != 2 || got[0].Field != "sites[0].prefixes[0]" || !strings.Contains(got.Error(), "networks/demo/sites/berlin") ||
		!strings.Contains(got.Error(), "networks/demo/sites/oslo") {
		t.Errorf("violations are\n%v", got.Error())
	}

	next := *top
	next.Profiles = next.Profiles.Without("networks/demo/profiles/default")
	got = ValidateState(&next, nil, nil)
	if len(got) != 1 || got[0].Resource != "networks/demo/meshes/all" || got[0].Field != "profile" {
		t.Errorf("violations are\n%v", got.Error())
	}
}

func TestMerge(t *testing.T) {
	top := stored(t, manifest(), 7)
	m := manifest()
	m.Sites[0].Labels = map[string]string{"region": "dach", "tier": "1"}
	m.Sites[0].Location = &swanherdv1.Location{Latitude: 52.5}
	m.Sites[0].Uid = "forged"
	m.Sites[1] = &swanherdv1.Site{Name: "networks/demo/sites/paris", Prefixes: []string{"10.3.0.0/16"}}
	merged, found := MergeManifest(top, m, Prune{All: true})
	if len(found) > 0 {
		t.Fatal(found)
	}
	var got []string
	for _, c := range merged.Changes {
		got = append(got, strings.TrimPrefix(c.GetAction().String(), "ACTION_")+" "+c.GetName()+" "+strings.Join(c.GetFields(), ","))
	}
	want := []string{
		"UNCHANGED networks/demo ",
		"UNCHANGED networks/demo/profiles/default ",
		"UPDATED networks/demo/sites/berlin labels.region,labels.tier,location",
		"CREATED networks/demo/sites/paris prefixes",
		"UNCHANGED networks/demo/meshes/all ",
		"DELETED networks/demo/sites/oslo ",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("changes are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if berlin, _ := merged.Topology.Sites.Get("networks/demo/sites/berlin"); berlin.Revision != 0 || berlin.Value.GetUid() != "" {
		t.Errorf("berlin is %v, want revision 0 and no forged uid", berlin)
	}
	if oslo, ok := merged.Topology.Sites.Get("networks/demo/sites/oslo"); ok {
		t.Errorf("%v was not pruned", oslo)
	}
	again, _ := MergeManifest(stored(t, m, 8), m, Prune{All: true})
	if again.Changed() {
		t.Errorf("the same manifest again changes %v", again.Changes)
	}
}

func TestPruneByLabels(t *testing.T) {
	m := manifest()
	m.Profiles = append(m.Profiles, &swanherdv1.Profile{Name: "networks/demo/profiles/mine", Labels: map[string]string{"owner": "a"}})
	m.Sites[0].Labels["owner"] = "a"
	m.Sites[1].Labels = map[string]string{"owner": "b"}
	merged, _ := MergeManifest(stored(t, m, 7), &swanherdv1.Manifest{Networks: m.Networks}, Prune{All: true, Labels: map[string]string{"owner": "a"}})
	var gone []string
	for _, c := range merged.Changes {
		if c.GetAction() == swanherdv1.ResourceChange_ACTION_DELETED {
			gone = append(gone, c.GetName())
		}
	}
	if strings.Join(gone, " ") != "networks/demo/sites/berlin networks/demo/profiles/mine" {
		t.Errorf("pruned are %v", gone)
	}
}

func TestNames(t *testing.T) {
	if n, err := ParseTunnelName("networks/demo/tunnels/berlin--oslo"); err != nil || n.Tunnel != "berlin--oslo" || n.String() != "networks/demo/tunnels/berlin--oslo" {
		t.Errorf("ParseTunnelName = %v, %v", n, err)
	}
	for _, bad := range []string{
		"", "networks/", "networks/Demo", "networks/demo/sites/berlin/", "networks/demo/edges/berlin",
		"networks/demo/sites/", "networks//sites/berlin", "networks/demo/sites/-x", "x/networks/demo/sites/a", "networks/demo/sites/" + strings.Repeat("a", 64),
	} {
		if n, err := ParseSiteName(bad); err == nil {
			t.Errorf("ParseSiteName(%q) = %v, want an error", bad, n)
		}
	}
}

// Who asks for several paths with a profile that is there already hears what is wrong of the
// mesh, and who disables the probes of a mesh that is there hears it of the profile.
func TestSeveralPathsNeedProbes(t *testing.T) {
	stored := manifest()
	stored.Profiles[0].Probing = &swanherdv1.Probing{Disabled: true}
	merged, _ := MergeManifest(&Topology{}, stored, Prune{})
	asked := &swanherdv1.Manifest{Meshes: manifest().GetMeshes()}
	asked.Meshes[0].Paths = &swanherdv1.MeshPaths{Pairing: swanherdv1.MeshPaths_PAIRING_ALL}
	found := validate(merged.Topology, asked)
	if len(found) != 1 || found[0].Field != "meshes[0].paths.pairing" || !strings.Contains(found[0].Problem, "networks/demo/profiles/default disables") {
		t.Errorf("found %v", found)
	}
	stored = manifest()
	stored.Meshes[0].Paths = asked.Meshes[0].GetPaths()
	merged, _ = MergeManifest(&Topology{}, stored, Prune{})
	asked = &swanherdv1.Manifest{Profiles: manifest().GetProfiles()}
	asked.Profiles[0].Probing = &swanherdv1.Probing{Disabled: true}
	if found = validate(merged.Topology, asked); len(found) != 1 || found[0].Field != "profiles[0].probing.disabled" {
		t.Errorf("found %v", found)
	}
}
