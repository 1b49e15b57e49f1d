package server_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// publicMethods are the methods of every service that is called by request and
// answer. The stream of an edge is tested in package session.
func publicMethods(t testing.TB) []protoreflect.MethodDescriptor {
	t.Helper()
	var methods []protoreflect.MethodDescriptor
	protoregistry.GlobalFiles.RangeFilesByPackage("swanherd.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			for j := range f.Services().Get(i).Methods().Len() {
				if m := f.Services().Get(i).Methods().Get(j); !m.IsStreamingClient() {
					methods = append(methods, m)
				}
			}
		}
		return true
	})
	if len(methods) < 30 {
		t.Fatalf("found %d methods only", len(methods))
	}
	return methods
}

// sampledMethods are all public methods, or with -short one in sixteen of them. Files come
// in another order each time, so over the runs they are others.
func sampledMethods(t testing.TB) []protoreflect.MethodDescriptor {
	t.Helper()
	methods := publicMethods(t)
	if !testing.Short() {
		return methods
	}
	var sampled []protoreflect.MethodDescriptor
	for i := 0; i < len(methods); i += 16 {
		sampled = append(sampled, methods[i])
	}
	return sampled
}

func fullName(m protoreflect.MethodDescriptor) string {
	return "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
}

func newMessage(t testing.TB, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	typ, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return typ.New().Interface()
}

// samples makes a good request of every method about one network that is
// there, with everything in it.
type samples struct {
	network string // `networks/{network}`
	edge    *testEdge
	// ids of what exists, by the segment of a resource's pattern, `site`.
	ids map[string]string
	// alert waits for one, and returns its id.
	alert func(testing.TB) string
	// values of fields by their full names, where the name alone does not tell.
	values map[protoreflect.FullName]any
}

// request returns a good request of the method.
func (s *samples) request(t testing.TB, m protoreflect.MethodDescriptor) proto.Message {
	req := newMessage(t, m.Input())
	r := req.ProtoReflect()
	fields := r.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if v, ok := s.values[f.FullName()]; ok {
			r.Set(f, protoreflect.ValueOf(v))
			continue
		}
		switch {
		case f.Name() == "parent":
			r.Set(f, protoreflect.ValueOfString(s.network))
		case f.Name() == "name":
			r.Set(f, protoreflect.ValueOfString(s.named(t, m)))
		case strings.HasPrefix(string(m.Name()), "Create") && strings.HasSuffix(string(f.Name()), "_id") && f.Name() != "request_id":
			r.Set(f, protoreflect.ValueOfString("fresh"))
		case f.Message() != nil && !f.IsList() && !f.IsMap():
			if res := s.resource(f.Message().FullName()); res != nil {
				r.Set(f, protoreflect.ValueOfMessage(res.ProtoReflect()))
			}
		}
	}
	return req
}

// named is the name of what a method such as GetSite is about.
func (s *samples) named(t testing.TB, m protoreflect.MethodDescriptor) string {
	kind := strings.TrimLeftFunc(string(m.Name()[1:]), func(r rune) bool { return r >= 'a' && r <= 'z' }) // without the verb
	pattern := ""
	protoregistry.GlobalTypes.RangeMessages(func(mt protoreflect.MessageType) bool {
		res, _ := proto.GetExtension(mt.Descriptor().Options(), annotations.E_Resource).(*annotations.ResourceDescriptor)
		if res.GetType() == "swanherd.dev/"+kind {
			pattern = res.GetPattern()[0]
		}
		return pattern == ""
	})
	if pattern == "" {
		t.Fatalf("%s: no message has a google.api.resource of the type swanherd.dev/%s; give it one", fullName(m), kind)
	}
	segments := strings.Split(pattern, "/")
	for i, seg := range segments {
		switch id := strings.Trim(seg, "{}"); {
		case id == seg:
		case id == "network":
			segments[i] = strings.TrimPrefix(s.network, "networks/")
		case s.ids[id] != "":
			segments[i] = s.ids[id]
		case id == "alert":
			segments[i] = s.alert(t)
		default:
			t.Fatalf("%s: samples know no %s", fullName(m), id)
		}
	}
	return strings.Join(segments, "/")
}

// resource is a good resource of that type, nil when samples know none.
func (s *samples) resource(name protoreflect.FullName) proto.Message {
	n := s.network
	all := &swanherdv1.SiteSelector{All: true}
	switch name {
	case "swanherd.v1.Network":
		return &swanherdv1.Network{Name: n, DisplayName: "Network"}
	case "swanherd.v1.Site":
		return &swanherdv1.Site{
			Name: n + "/sites/" + s.ids["site"], Labels: map[string]string{"region": "emea"}, Prefixes: []string{"10.77.0.0/16"},
			Location: &swanherdv1.Location{Latitude: 50},
			Segments: []*swanherdv1.SiteSegment{{Segment: n + "/segments/" + s.ids["segment"], Prefixes: []string{"10.78.0.0/16"}}},
		}
	case "swanherd.v1.Mesh":
		return &swanherdv1.Mesh{
			Name: n + "/meshes/" + s.ids["mesh"], Profile: n + "/profiles/" + s.ids["profile"],
			Topology: &swanherdv1.Mesh_FullMesh{FullMesh: &swanherdv1.FullMesh{Sites: all}},
			Segments: []string{n + "/segments/default"}, Paths: &swanherdv1.MeshPaths{Pairing: swanherdv1.MeshPaths_PAIRING_ALL},
		}
	case "swanherd.v1.Profile":
		return &swanherdv1.Profile{Name: n + "/profiles/" + s.ids["profile"], IkeProposals: []string{"aes256gcm16-prfsha384-x25519"}}
	case "swanherd.v1.Assertion":
		return &swanherdv1.Assertion{Name: n + "/assertions/" + s.ids["assertion"], Source: "10.1.0.0/16", Destination: "10.2.0.0/16"}
	case "swanherd.v1.Segment":
		return &swanherdv1.Segment{Name: n + "/segments/" + s.ids["segment"], Labels: map[string]string{"region": "emea"}}
	case "swanherd.v1.Gateway":
		return &swanherdv1.Gateway{
			Name: n + "/gateways/" + s.ids["gateway"], Profile: n + "/profiles/" + s.ids["profile"], Address: "203.0.113.9", Prefixes: []string{"10.89.0.0/16"},
			Authentication: &swanherdv1.Gateway_PreSharedKey{PreSharedKey: &swanherdv1.GatewayPreSharedKey{Key: n + "/preSharedKeys/" + s.ids["pre_shared_key"]}},
			Attachments:    []*swanherdv1.GatewayAttachment{{Who: &swanherdv1.GatewayAttachment_Edge{Edge: n + "/edges/" + s.ids["edge"]}}},
		}
	case "swanherd.v1.PreSharedKey":
		return &swanherdv1.PreSharedKey{Name: n + "/preSharedKeys/" + s.ids["pre_shared_key"], Secret: "a secret of a test", Labels: map[string]string{"region": "emea"}}
	case "swanherd.v1.Edge":
		return &swanherdv1.Edge{Name: n + "/edges/" + s.ids["edge"], Site: n + "/sites/" + s.ids["site"]}
	case "swanherd.v1.EnrollmentToken":
		return &swanherdv1.EnrollmentToken{Site: n + "/sites/" + s.ids["site"]}
	case "swanherd.v1.Device":
		return &swanherdv1.Device{SerialNumber: "FRESH-" + strings.TrimPrefix(n, "networks/"), Site: n + "/sites/" + s.ids["site"]}
	case "swanherd.v1.Job":
		return pingJob(n + "/edges/" + s.ids["edge"])
	case "swanherd.v1.ChangeSet":
		return &swanherdv1.ChangeSet{
			Manifest: s.resource("swanherd.v1.Manifest").(*swanherdv1.Manifest), ApprovalRequired: true,
			Assertions: []*swanherdv1.Assertion{{Source: "10.2.0.0/16", Destination: "10.3.0.0/16", AfterOnly: true}},
		}
	case "swanherd.v1.Rollout":
		return &swanherdv1.Rollout{
			ChangeSet: n + "/changeSets/" + s.ids["change_set"], Batches: []*swanherdv1.RolloutBatch{{MatchLabels: map[string]string{"region": "emea"}, Percent: 10}},
			Policy: &swanherdv1.RolloutPolicy{},
		}
	case "swanherd.v1.AlertRule":
		return &swanherdv1.AlertRule{
			Name: n + "/alertRules/" + s.ids["alert_rule"], Condition: swanherdv1.AlertCondition_ALERT_CONDITION_EDGE_OFFLINE,
			Severity: swanherdv1.AlertSeverity_ALERT_SEVERITY_WARNING, MatchLabels: map[string]string{"region": "emea"},
		}
	case "swanherd.v1.WebhookSink":
		return &swanherdv1.WebhookSink{
			Name: n + "/webhookSinks/" + s.ids["webhook_sink"], Url: "https://receiver.invalid/alerts", Secret: "whsec_" + strings.Repeat("abcd", 8),
		}
	case "swanherd.v1.ClusterMember":
		return &swanherdv1.ClusterMember{PeerAddress: "https://192.0.2.1:2380"}
	case "swanherd.v1.ApiToken":
		return &swanherdv1.ApiToken{Role: swanherdv1.Role_ROLE_VIEWER}
	case "swanherd.v1.RoleBinding":
		return &swanherdv1.RoleBinding{Member: "group:noc", Role: swanherdv1.Role_ROLE_VIEWER, Networks: []string{n}}
	case "swanherd.v1.Manifest":
		m := &swanherdv1.Manifest{
			Networks: []*swanherdv1.Network{s.resource("swanherd.v1.Network").(*swanherdv1.Network)},
			Profiles: []*swanherdv1.Profile{s.resource("swanherd.v1.Profile").(*swanherdv1.Profile)},
			Segments: []*swanherdv1.Segment{s.resource("swanherd.v1.Segment").(*swanherdv1.Segment)},
			Sites:    []*swanherdv1.Site{s.resource("swanherd.v1.Site").(*swanherdv1.Site)},
			Meshes:   []*swanherdv1.Mesh{s.resource("swanherd.v1.Mesh").(*swanherdv1.Mesh)},
			Gateways: []*swanherdv1.Gateway{s.resource("swanherd.v1.Gateway").(*swanherdv1.Gateway)},
		}
		return m
	}
	return nil
}

// mutation is a good request with one field made bad.
type mutation struct {
	path string // of the field
	what string
	// about is the path of what was made for the field to be in, and lacks the
	// rest of what it needs; or else the field's.
	about string
	req   proto.Message
}

// mutate calls f with the request in which each field, at whatever depth, has
// each of the values, such as badValues of it.
func mutate(req proto.Message, values func(protoreflect.FieldDescriptor) []badValue, f func(mutation)) {
	mutateIn(req, "", "", 0, func(m protoreflect.Message) protoreflect.Message { return m }, values, f)
}

const maxDepth = 8

func mutateIn(root proto.Message, prefix, made string, depth int, at func(protoreflect.Message) protoreflect.Message,
	values func(protoreflect.FieldDescriptor) []badValue, f func(mutation),
) {
	fields := at(proto.Clone(root).ProtoReflect()).Descriptor().Fields()
	for i := fields.Len() - 1; i >= 0; i-- { // secrets are first fields, and wrong ones are limited
		d := fields.Get(i)
		path := prefix + string(d.Name())
		for _, bad := range values(d) {
			next := proto.Clone(root)
			bad.set(at(next.ProtoReflect()), d)
			f(mutation{path, bad.what, cmp.Or(made, path), next})
		}
		if d.Message() == nil || d.IsMap() || depth == maxDepth || strings.HasPrefix(string(d.Message().FullName()), "google.") {
			continue
		}
		within := made
		if within == "" && !at(proto.Clone(root).ProtoReflect()).Has(d) {
			within = path
		}
		inside := func(m protoreflect.Message) protoreflect.Message { return at(m).Mutable(d).Message() }
		if d.IsList() {
			path += "[0]"
			inside = func(m protoreflect.Message) protoreflect.Message {
				l := at(m).Mutable(d).List()
				if l.Len() == 0 {
					l.Append(l.NewElement())
				}
				return l.Get(0).Message()
			}
		}
		mutateIn(root, path+".", within, depth+1, inside, values, f)
	}
}

type badValue struct {
	what string
	set  func(protoreflect.Message, protoreflect.FieldDescriptor)
}

// badValues are what a hostile or careless client may put into a field.
func badValues(d protoreflect.FieldDescriptor) []badValue {
	out := []badValue{{"left out", func(m protoreflect.Message, d protoreflect.FieldDescriptor) { m.Clear(d) }}}
	switch {
	case d.IsMap():
		for _, v := range scalars(d.MapKey()) {
			out = append(out, badValue{"key " + short(v), func(m protoreflect.Message, d protoreflect.FieldDescriptor) {
				m.Mutable(d).Map().Set(v.MapKey(), d.MapValue().Default())
			}})
		}
		for _, v := range scalars(d.MapValue()) {
			out = append(out, badValue{"value " + short(v), func(m protoreflect.Message, d protoreflect.FieldDescriptor) {
				m.Mutable(d).Map().Set(protoreflect.ValueOfString("region").MapKey(), v)
			}})
		}
		return append(out, badValue{"3000 pairs", func(m protoreflect.Message, d protoreflect.FieldDescriptor) {
			for i := range 3000 {
				m.Mutable(d).Map().Set(protoreflect.ValueOfString(fmt.Sprintf("k%d", i)).MapKey(), d.MapValue().Default())
			}
		}})
	case d.IsList():
		for _, v := range elements(d) {
			out = append(out, badValue{"one of " + short(v), func(m protoreflect.Message, d protoreflect.FieldDescriptor) {
				m.Mutable(d).List().Append(v)
			}})
		}
		return append(out, badValue{"3000 elements", func(m protoreflect.Message, d protoreflect.FieldDescriptor) {
			for range 3000 {
				m.Mutable(d).List().Append(elements(d)[0])
			}
		}})
	}
	for _, v := range elements(d) {
		out = append(out, badValue{short(v), func(m protoreflect.Message, d protoreflect.FieldDescriptor) { m.Set(d, v) }})
	}
	return out
}

func elements(d protoreflect.FieldDescriptor) []protoreflect.Value {
	if d.Message() == nil {
		return scalars(d)
	}
	of := func(m proto.Message) protoreflect.Value { return protoreflect.ValueOfMessage(m.ProtoReflect()) }
	switch d.Message().FullName() {
	case "google.protobuf.Timestamp":
		return []protoreflect.Value{
			of(&timestamppb.Timestamp{}), of(&timestamppb.Timestamp{Seconds: math.MaxInt64}), of(&timestamppb.Timestamp{Seconds: math.MinInt64, Nanos: -1}),
			of(&timestamppb.Timestamp{Nanos: math.MaxInt32}),
		}
	case "google.protobuf.Duration":
		return []protoreflect.Value{
			of(&durationpb.Duration{}), of(&durationpb.Duration{Seconds: math.MaxInt64}), of(&durationpb.Duration{Seconds: -1, Nanos: 1}),
			of(&durationpb.Duration{Nanos: math.MaxInt32}),
		}
	case "google.protobuf.FieldMask":
		var out []protoreflect.Value
		for _, paths := range [][]string{{""}, {"*"}, {"nothing"}, {"name"}, {"etag"}, {"uid", "create_time"}, {"labels.region"}, {"prefixes.x"}, {".."}, {"*", "labels"}, {"location..latitude"}, {strings.Repeat("a.", 5000)}} {
			out = append(out, of(&fieldmaskpb.FieldMask{Paths: paths}))
		}
		return out
	}
	typ, err := protoregistry.GlobalTypes.FindMessageByName(d.Message().FullName())
	if err != nil {
		return nil
	}
	return []protoreflect.Value{protoreflect.ValueOfMessage(typ.New())}
}

func scalars(d protoreflect.FieldDescriptor) []protoreflect.Value {
	var out []protoreflect.Value
	switch d.Kind() {
	case protoreflect.StringKind:
		for _, s := range []string{
			" ", "\x00", "-", "a", "🐑", "%s%n%x", "../../etc", "networks/-", "networks/demo", "networks/demo/sites/nowhere", "networks/other/sites/berlin",
			"networks//sites/", "/", "10.1.0.0/16", "::/129", "' OR 1=1 --", "a=(((((", `"`, strings.Repeat("a", 5000), strings.Repeat("(", 3000), strings.Repeat("NOT ", 3000),
		} {
			out = append(out, protoreflect.ValueOfString(s))
		}
	case protoreflect.BytesKind:
		for _, b := range [][]byte{{0}, []byte("networks/demo"), make([]byte, 5000)} {
			out = append(out, protoreflect.ValueOfBytes(b))
		}
	case protoreflect.BoolKind:
		out = append(out, protoreflect.ValueOfBool(true))
	case protoreflect.EnumKind:
		for _, n := range []protoreflect.EnumNumber{1, -1, 9999, math.MaxInt32} {
			out = append(out, protoreflect.ValueOfEnum(n))
		}
	case protoreflect.Int32Kind:
		for _, n := range []int32{1, -1, math.MaxInt32, math.MinInt32} {
			out = append(out, protoreflect.ValueOfInt32(n))
		}
	case protoreflect.Int64Kind:
		for _, n := range []int64{1, -1, math.MaxInt64, math.MinInt64} {
			out = append(out, protoreflect.ValueOfInt64(n))
		}
	case protoreflect.Uint32Kind:
		for _, n := range []uint32{1, 77, math.MaxUint32} {
			out = append(out, protoreflect.ValueOfUint32(n))
		}
	case protoreflect.Uint64Kind:
		for _, n := range []uint64{1, math.MaxUint64} {
			out = append(out, protoreflect.ValueOfUint64(n))
		}
	case protoreflect.DoubleKind:
		for _, n := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), -1e308, 1e-300} {
			out = append(out, protoreflect.ValueOfFloat64(n))
		}
	}
	return out
}

func short(v protoreflect.Value) string {
	s := fmt.Sprintf("%q", fmt.Sprint(v.Interface()))
	if len(s) > 60 {
		return fmt.Sprintf("%s... (%d octets)", s[:50], len(s))
	}
	return s
}

// call makes a call and returns the first answer; a stream is left after it.
func call(ctx context.Context, t testing.TB, conn *grpc.ClientConn, m protoreflect.MethodDescriptor, req any, options ...grpc.CallOption) (proto.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	resp := newMessage(t, m.Output())
	if !m.IsStreamingServer() {
		return resp, conn.Invoke(ctx, fullName(m), req, resp, options...)
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, fullName(m), options...)
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(req); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	return resp, stream.RecvMsg(resp)
}
