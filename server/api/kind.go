package api

import (
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// resource is a resource of the topology.
type resource interface {
	proto.Message
	GetName() string
	GetUid() string
	GetEtag() string
	GetCreateTime() *timestamppb.Timestamp
}

// kind is one kind of resource, for what all kinds have in common.
type kind[T resource] struct {
	// word is the kind's name in requests, events and messages.
	word string
	// collection is the kind's segment in names.
	collection string
	rows       func(*model.Topology) *model.Table[T]
	stored     func(*store.Store) *store.Collection[T]
	parse      func(string) error
}

var (
	networks = kind[*swanherdv1.Network]{
		word: "network", collection: "networks",
		rows:   func(t *model.Topology) *model.Table[*swanherdv1.Network] { return &t.Networks },
		stored: func(s *store.Store) *store.Collection[*swanherdv1.Network] { return s.Networks },
		parse:  func(s string) error { _, err := model.ParseNetworkName(s); return err },
	}
	sites = kind[*swanherdv1.Site]{
		word: "site", collection: "sites",
		rows:   func(t *model.Topology) *model.Table[*swanherdv1.Site] { return &t.Sites },
		stored: func(s *store.Store) *store.Collection[*swanherdv1.Site] { return s.Sites },
		parse:  func(s string) error { _, err := model.ParseSiteName(s); return err },
	}
	meshes = kind[*swanherdv1.Mesh]{
		word: "mesh", collection: "meshes",
		rows:   func(t *model.Topology) *model.Table[*swanherdv1.Mesh] { return &t.Meshes },
		stored: func(s *store.Store) *store.Collection[*swanherdv1.Mesh] { return s.Meshes },
		parse:  func(s string) error { _, err := model.ParseMeshName(s); return err },
	}
	profiles = kind[*swanherdv1.Profile]{
		word: "profile", collection: "profiles",
		rows:   func(t *model.Topology) *model.Table[*swanherdv1.Profile] { return &t.Profiles },
		stored: func(s *store.Store) *store.Collection[*swanherdv1.Profile] { return s.Profiles },
		parse:  func(s string) error { _, err := model.ParseProfileName(s); return err },
	}
	gateways = kind[*swanherdv1.Gateway]{
		word: "gateway", collection: "gateways",
		rows:   func(t *model.Topology) *model.Table[*swanherdv1.Gateway] { return &t.Gateways },
		stored: func(s *store.Store) *store.Collection[*swanherdv1.Gateway] { return s.Gateways },
		parse:  func(s string) error { _, err := model.ParseGatewayName(s); return err },
	}
	segments = kind[*swanherdv1.Segment]{
		word: "segment", collection: "segments",
		rows:   func(t *model.Topology) *model.Table[*swanherdv1.Segment] { return &t.Segments },
		stored: func(s *store.Store) *store.Collection[*swanherdv1.Segment] { return s.Segments },
		parse:  func(s string) error { _, err := model.ParseSegmentName(s); return err },
	}
	assertions = kind[*swanherdv1.Assertion]{
		word: "assertion", collection: "assertions",
		rows:   func(t *model.Topology) *model.Table[*swanherdv1.Assertion] { return &t.Assertions },
		stored: func(s *store.Store) *store.Collection[*swanherdv1.Assertion] { return s.Assertions },
		parse:  func(s string) error { _, err := model.ParseAssertionName(s); return err },
	}
	edges = kind[*swanherdv1.Edge]{
		word: "edge", collection: "edges",
		rows:   func(t *model.Topology) *model.Table[*swanherdv1.Edge] { return &t.Edges },
		stored: func(s *store.Store) *store.Collection[*swanherdv1.Edge] { return s.Edges },
		parse:  func(s string) error { _, err := model.ParseEdgeName(s); return err },
	}
)

// shown is a stored resource as the API shows it, with its etag.
func shown[T proto.Message](row model.Row[T]) T {
	out := proto.Clone(row.Value).(T)
	setString(out, "etag", store.ETag(row.Revision))
	return out
}

func setString(m proto.Message, field protoreflect.Name, value string) {
	r := m.ProtoReflect()
	r.Set(r.Descriptor().Fields().ByName(field), protoreflect.ValueOfString(value))
}

func setTime(m proto.Message, field protoreflect.Name, t *timestamppb.Timestamp) {
	r := m.ProtoReflect()
	r.Set(r.Descriptor().Fields().ByName(field), protoreflect.ValueOfMessage(t.ProtoReflect()))
}

// writable says whether clients set the field: it is neither the server's nor
// the name or etag, which say which resource is meant.
func writable(f protoreflect.FieldDescriptor) bool {
	if f.Name() == "etag" {
		return false
	}
	behaviors, _ := proto.GetExtension(f.Options(), annotations.E_FieldBehavior).([]annotations.FieldBehavior)
	return !slices.Contains(behaviors, annotations.FieldBehavior_OUTPUT_ONLY) &&
		!slices.Contains(behaviors, annotations.FieldBehavior_IDENTIFIER)
}

// clearUnwritable leaves in m its name and what clients may set.
func clearUnwritable(m proto.Message) {
	r := m.ProtoReflect()
	fields := r.Descriptor().Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); !writable(f) && f.Name() != "name" {
			r.Clear(f)
		}
	}
}

// lastSegment is the id in a resource name.
func lastSegment(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// networkOf is the network in a resource name.
func networkOf(name string) model.NetworkName {
	rest := strings.TrimPrefix(name, "networks/")
	id, _, _ := strings.Cut(rest, "/")
	return model.NetworkName{Network: id}
}
