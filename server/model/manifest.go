package model

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Merged is what a state would be with a manifest in it.
type Merged struct {
	// Topology is the state. Rows that the manifest changes have revision 0, and
	// their messages are the manifest's, with what the server assigns (uid, times)
	// taken over from the stored ones; for new ones it is unset.
	Topology *Topology
	// Changes tells for each resource of the manifest, in its order, and for
	// each pruned one, what happens to it.
	Changes []*swanherdv1.ResourceChange
	// Fields says where in the manifest each resource is, for ValidateState.
	Fields Fields
}

// Changed says whether anything is to be stored.
func (m *Merged) Changed() bool {
	return slices.ContainsFunc(m.Changes, func(c *swanherdv1.ResourceChange) bool {
		return c.GetAction() != swanherdv1.ResourceChange_ACTION_UNCHANGED
	})
}

// resource is what Network, Profile, Segment, Site, Mesh, Gateway and Assertion have in common.
type resource interface {
	proto.Message
	GetName() string
}

// Prune says which profiles, segments, sites, meshes, gateways and assertions go of those
// that a manifest does not name and that are in the networks that it names or has resources of.
type Prune struct {
	// All: any go at all.
	All bool
	// Labels that a resource has to carry, all of them, to go.
	Labels map[string]string
}

// labelled is a resource that has labels.
type labelled interface {
	resource
	GetLabels() map[string]string
}

// carries says whether labels have every one of wanted.
func carries(labels, wanted map[string]string) bool {
	for key, value := range wanted {
		if have, ok := labels[key]; !ok || have != value {
			return false
		}
	}
	return true
}

// MergeManifest puts a manifest into a state: each of its resources replaces
// the stored one of the same name, and what prune says goes. Violations are
// resources that the manifest has twice or whose names are malformed;
// ValidateState finds the rest.
func MergeManifest(t *Topology, manifest *swanherdv1.Manifest, prune Prune) (*Merged, Violations) {
	next := *t
	m := &merge{Merged: Merged{Topology: &next, Fields: Fields{}}, networks: map[string]bool{}}
	next.Networks = mergeTable(m, t.Networks, manifest.GetNetworks(), "networks")
	next.Profiles = mergeTable(m, t.Profiles, manifest.GetProfiles(), "profiles")
	next.Segments = mergeTable(m, t.Segments, manifest.GetSegments(), "segments")
	next.Sites = mergeTable(m, t.Sites, manifest.GetSites(), "sites")
	next.Meshes = mergeTable(m, t.Meshes, manifest.GetMeshes(), "meshes")
	next.Gateways = mergeTable(m, t.Gateways, manifest.GetGateways(), "gateways")
	next.Assertions = mergeTable(m, t.Assertions, manifest.GetAssertions(), "assertions")
	if prune.All {
		next.Assertions = pruneTable(m, next.Assertions, prune.Labels)
		next.Gateways = pruneTable(m, next.Gateways, prune.Labels)
		next.Meshes = pruneTable(m, next.Meshes, prune.Labels)
		next.Sites = pruneTable(m, next.Sites, prune.Labels)
		next.Segments = pruneTable(m, next.Segments, prune.Labels)
		next.Profiles = pruneTable(m, next.Profiles, prune.Labels)
	}
	return &m.Merged, m.found
}

type merge struct {
	Merged
	networks map[string]bool // that the manifest is about
	found    Violations
}

func mergeTable[T resource](m *merge, stored Table[T], manifest []T, collection string) Table[T] {
	var rows []Row[T]
	for i, wanted := range manifest {
		name, field := wanted.GetName(), fmt.Sprintf("%s[%d]", collection, i)
		if err := checkName(collection, name); err != nil {
			m.found = append(m.found, Violation{Field: field + ".name", Problem: err.Error()})
			continue
		}
		if before, twice := m.Fields[name]; twice {
			m.found = append(m.found, Violation{
				Resource: name, Field: field + ".name",
				Problem: fmt.Sprintf("%s is in the manifest twice, first as %s", name, before), Remedy: "remove one of the two",
			})
			continue
		}
		m.Fields[name] = field
		m.networks[networkOf(name)] = true
		change := &swanherdv1.ResourceChange{Name: name, Action: swanherdv1.ResourceChange_ACTION_CREATED}
		next := proto.CloneOf(wanted)
		if have, ok := stored.Get(name); ok {
			Assign(next, have.Value)
			change.Action = swanherdv1.ResourceChange_ACTION_UPDATED
			change.Fields = ChangedFields(have.Value, next)
			if len(change.GetFields()) == 0 {
				change.Action = swanherdv1.ResourceChange_ACTION_UNCHANGED
			}
		} else {
			Assign(next, next.ProtoReflect().New().Interface())
			change.Fields = ChangedFields(next.ProtoReflect().New().Interface(), next)
		}
		m.Changes = append(m.Changes, change)
		if change.GetAction() != swanherdv1.ResourceChange_ACTION_UNCHANGED {
			rows = append(rows, Row[T]{Name: name, Value: next})
		}
	}
	return stored.Apply(rows, nil)
}

func pruneTable[T labelled](m *merge, stored Table[T], wanted map[string]string) Table[T] {
	var gone []string
	for row := range stored.All() {
		if _, named := m.Fields[row.Name]; !named && m.networks[networkOf(row.Name)] && carries(row.Value.GetLabels(), wanted) {
			gone = append(gone, row.Name)
			m.Changes = append(m.Changes, &swanherdv1.ResourceChange{Name: row.Name, Action: swanherdv1.ResourceChange_ACTION_DELETED})
		}
	}
	return stored.Apply(nil, gone)
}

func checkName(collection, name string) error {
	var err error
	switch collection {
	case "networks":
		_, err = ParseNetworkName(name)
	case "profiles":
		_, err = ParseProfileName(name)
	case "segments":
		_, err = ParseSegmentName(name)
	case "sites":
		_, err = ParseSiteName(name)
	case "meshes":
		_, err = ParseMeshName(name)
	case "gateways":
		_, err = ParseGatewayName(name)
	case "assertions":
		_, err = ParseAssertionName(name)
	}
	return err
}

// assigned are the fields that the server sets, whatever a client sent.
var assigned = []protoreflect.Name{"uid", "etag", "create_time", "update_time", "superseded_epoch"}

// Assign gives to the fields that the server sets the values of stored.
func Assign(m, stored proto.Message) {
	to, from := m.ProtoReflect(), stored.ProtoReflect()
	for _, name := range assigned {
		d := to.Descriptor().Fields().ByName(name)
		switch {
		case d == nil:
		case from.Has(d):
			to.Set(d, from.Get(d))
		default:
			to.Clear(d)
		}
	}
}

// ChangedFields returns the paths of the fields in which two messages of the
// same type differ, such as `labels.region`, `location.latitude` or `prefixes`,
// in order; fields that the server sets are left out, and so is the name.
func ChangedFields(from, to proto.Message) []string {
	paths := changedFields(nil, "", from.ProtoReflect(), to.ProtoReflect())
	slices.SortFunc(paths, strings.Compare)
	return paths
}

func changedFields(paths []string, prefix string, from, to protoreflect.Message) []string {
	fields := from.Descriptor().Fields()
	for i := range fields.Len() {
		d := fields.Get(i)
		path := prefix + string(d.Name())
		if prefix == "" && (slices.Contains(assigned, d.Name()) || d.Name() == "name") {
			continue
		}
		a, b := from.Get(d), to.Get(d)
		switch {
		case d.IsMap():
			paths = changedKeys(paths, path+".", a.Map(), b.Map())
		case !d.IsList() && d.Message() != nil && from.Has(d) && to.Has(d):
			paths = changedFields(paths, path+".", a.Message(), b.Message())
		case from.Has(d) != to.Has(d) || !a.Equal(b):
			paths = append(paths, path)
		}
	}
	return paths
}

func changedKeys(paths []string, prefix string, from, to protoreflect.Map) []string {
	from.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		if !to.Has(k) || !to.Get(k).Equal(v) {
			paths = append(paths, prefix+k.String())
		}
		return true
	})
	to.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		if !from.Has(k) {
			paths = append(paths, prefix+k.String())
		}
		return true
	})
	return paths
}
