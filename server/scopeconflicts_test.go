package server_test

import (
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// things are what an error may name: resources, and prefixes or addresses.
var things = regexp.MustCompile(`networks/demo/\w+/[\w-]+|\d+\.\d+\.\d+\.\d+(/\d+)?|OLD-\d+`)

// namesNothingNew holds an error to name nothing but what the request names, and what carries
// region=emea.
func namesNothingNew(t testing.TB, what string, req proto.Message, err error) {
	t.Helper()
	asked := prototext.Format(req)
	for _, thing := range things.FindAllString(told(err), -1) {
		own := regexp.MustCompile(`/(berlin|oslo|wien|own[\w-]*)$`).MatchString(thing)
		id := `"` + thing[strings.LastIndexByte(thing, '/')+1:] + `"`
		if !own && !strings.Contains(asked, thing) && !strings.Contains(asked, id) {
			t.Errorf("%s: it names %s: %v", what, thing, err)
		}
	}
	if id := regexp.MustCompile(`hidden[\w-]*`).FindString(told(err)); id != "" && !strings.Contains(asked, id) {
		t.Errorf("%s: it names %s: %v", what, id, err)
	}
}

func gatewayTo(id, address, prefix, key string, attached *swanherdv1.GatewayAttachment) *swanherdv1.Gateway {
	return &swanherdv1.Gateway{
		Name: "networks/demo/gateways/" + id, Profile: "networks/demo/profiles/default", Address: address, Prefixes: []string{prefix},
		Authentication: &swanherdv1.Gateway_PreSharedKey{PreSharedKey: &swanherdv1.GatewayPreSharedKey{Key: "networks/demo/preSharedKeys/" + key}},
		Attachments:    []*swanherdv1.GatewayAttachment{attached},
	}
}

func ofEdge(id string) *swanherdv1.GatewayAttachment {
	return &swanherdv1.GatewayAttachment{Who: &swanherdv1.GatewayAttachment_Edge{Edge: "networks/demo/edges/" + id}}
}

func ofRegion(region string) *swanherdv1.GatewayAttachment {
	return &swanherdv1.GatewayAttachment{Who: &swanherdv1.GatewayAttachment_Sites{Sites: &swanherdv1.GatewaySites{MatchLabels: map[string]string{"region": region}}}}
}

func keyOf(id, region string) *swanherdv1.CreatePreSharedKeyRequest {
	return &swanherdv1.CreatePreSharedKeyRequest{Parent: "networks/demo", PreSharedKeyId: id, PreSharedKey: &swanherdv1.PreSharedKey{
		Secret: "a secret of a test", Labels: map[string]string{"region": region},
	}}
}

// othersThings are in the network beside what carries region=emea, and touch it.
func (c *controller) othersThings() {
	c.t.Helper()
	ctx, t := c.t.Context(), c.t
	for id, region := range map[string]string{"hidden-key": "apac", "own-lent": "emea"} {
		if _, err := c.topology().CreatePreSharedKey(ctx, keyOf(id, region)); err != nil {
			t.Fatal(err)
		}
	}
	rome, berlin := labelled("rome", "apac"), labelled("berlin", "emea")
	berlin.Labels["tier"] = "gold"
	rome.Segments = []*swanherdv1.SiteSegment{{Segment: "networks/demo/segments/hidden-segment", Prefixes: []string{"10.50.0.0/16"}}}
	mesh := func(id string, m *swanherdv1.Mesh) *swanherdv1.Mesh {
		m.Name, m.Profile = "networks/demo/meshes/"+id, "networks/demo/profiles/hidden-profile"
		return m
	}
	m := &swanherdv1.Manifest{
		Profiles: []*swanherdv1.Profile{{Name: "networks/demo/profiles/hidden-profile"}},
		Segments: []*swanherdv1.Segment{{Name: "networks/demo/segments/hidden-segment"}, {Name: "networks/demo/segments/own-open", Labels: map[string]string{"region": "emea"}}},
		Sites:    []*swanherdv1.Site{rome, berlin},
		Meshes: []*swanherdv1.Mesh{
			mesh("hidden-links", &swanherdv1.Mesh{Topology: &swanherdv1.Mesh_ExplicitLinks{ExplicitLinks: &swanherdv1.ExplicitLinks{
				Links: []*swanherdv1.Link{{SiteA: "networks/demo/sites/berlin", SiteB: "networks/demo/sites/rome"}},
			}}}),
			mesh("hidden-gold", &swanherdv1.Mesh{Topology: &swanherdv1.Mesh_FullMesh{FullMesh: &swanherdv1.FullMesh{
				Sites: &swanherdv1.SiteSelector{MatchLabels: map[string]string{"tier": "gold"}},
			}}}),
		},
		Gateways: []*swanherdv1.Gateway{
			gatewayTo("hidden-gateway", "203.0.113.8", "10.60.0.0/16", "own-lent", ofEdge("rome")),
			gatewayTo("seen", "203.0.113.7", "10.61.0.0/16", "hidden-key", ofEdge("oslo")),
		},
	}
	c.eventually("the rollout to have ended", func() bool {
		_, err := c.topology().Apply(ctx, &swanherdv1.ApplyRequest{Manifest: m})
		if err != nil && status.Code(err) != codes.FailedPrecondition {
			t.Fatal(err)
		}
		return err == nil
	})
	if _, err := swanherdv1.NewDeviceServiceClient(c.dial(c.token)).CreateDevice(ctx, &swanherdv1.CreateDeviceRequest{
		Parent: "networks/demo", Device: &swanherdv1.Device{SerialNumber: "OLD-1", Site: "networks/demo/sites/rome"},
	}); err != nil {
		t.Fatal(err)
	}
}

// conflicts are refused without a word of what carries other labels.
func (c *controller) conflicts(conn *grpc.ClientConn) {
	ctx, t := c.t.Context(), c.t
	c.othersThings()
	topology := swanherdv1.NewTopologyServiceClient(conn)
	site := func(id, prefix string) *swanherdv1.CreateSiteRequest {
		return &swanherdv1.CreateSiteRequest{Parent: "networks/demo", SiteId: id, Site: &swanherdv1.Site{
			Prefixes: []string{prefix}, Labels: map[string]string{"region": "emea"},
		}}
	}
	inSegment := func(segment, prefix string) *swanherdv1.UpdateSiteRequest {
		return &swanherdv1.UpdateSiteRequest{UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"segments"}}, Site: &swanherdv1.Site{
			Name: "networks/demo/sites/oslo", Segments: []*swanherdv1.SiteSegment{{Segment: "networks/demo/segments/" + segment, Prefixes: []string{prefix}}},
		}}
	}
	gateway := func(g *swanherdv1.Gateway) *swanherdv1.CreateGatewayRequest {
		return &swanherdv1.CreateGatewayRequest{Parent: "networks/demo", GatewayId: g.GetName()[len("networks/demo/gateways/"):], Gateway: g}
	}
	noProfile := gatewayTo("own-x", "203.0.113.5", "10.70.0.0/16", "own-lent", ofEdge("oslo"))
	noProfile.Profile = "networks/demo/profiles/none"
	silver := labelled("berlin", "emea")
	for _, x := range []struct {
		what string
		req  proto.Message
		want codes.Code
	}{
		{"a site with a prefix of a site", site("own-a", "10.3.7.0/24"), codes.InvalidArgument},
		{"a site with a prefix of a gateway", site("own-a", "10.60.7.0/24"), codes.InvalidArgument},
		{"a manifest with one", &swanherdv1.ApplyRequest{Manifest: &swanherdv1.Manifest{Sites: []*swanherdv1.Site{
			{Name: "networks/demo/sites/own-a", Prefixes: []string{"10.3.8.0/24"}, Labels: map[string]string{"region": "emea"}},
		}}}, codes.InvalidArgument},
		{"a site's name", site("rome", "10.71.0.0/16"), codes.PermissionDenied},
		{"a segment that is not the caller's", inSegment("hidden-segment", "10.72.0.0/16"), codes.PermissionDenied},
		{"a segment that is not there", inSegment("none", "10.72.0.0/16"), codes.PermissionDenied},
		{"a site that a mesh names", &swanherdv1.DeleteSiteRequest{Name: "networks/demo/sites/berlin"}, codes.FailedPrecondition},
		{"the last site that a mesh selects", &swanherdv1.UpdateSiteRequest{Site: silver, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels"}}}, codes.FailedPrecondition},
		{"a gateway's name", gateway(gatewayTo("hidden-gateway", "203.0.113.5", "10.70.0.0/16", "own-lent", ofEdge("oslo"))), codes.PermissionDenied},
		{"a gateway with another's key", gateway(gatewayTo("own-x", "203.0.113.5", "10.70.0.0/16", "hidden-key", ofEdge("oslo"))), codes.PermissionDenied},
		{"a gateway at another's edge", gateway(gatewayTo("own-x", "203.0.113.5", "10.70.0.0/16", "own-lent", ofEdge("rome"))), codes.PermissionDenied},
		{"a gateway at others' sites", gateway(gatewayTo("own-x", "203.0.113.5", "10.70.0.0/16", "own-lent", ofRegion("apac"))), codes.PermissionDenied},
		{"a gateway inside a site", gateway(gatewayTo("own-x", "10.3.0.9", "10.70.0.0/16", "own-lent", ofEdge("oslo"))), codes.InvalidArgument},
		{"a gateway with a prefix of another", gateway(gatewayTo("own-x", "203.0.113.5", "10.60.9.0/24", "own-lent", ofEdge("oslo"))), codes.InvalidArgument},
		{"a gateway with no profile", gateway(noProfile), codes.InvalidArgument},
		{"a gateway with another's key, deleted", &swanherdv1.DeleteGatewayRequest{Name: "networks/demo/gateways/seen"}, codes.PermissionDenied},
		{"its configuration", &swanherdv1.RenderGatewayConfigRequest{Name: "networks/demo/gateways/seen", Format: swanherdv1.GatewayConfigFormat_GATEWAY_CONFIG_FORMAT_STRONGSWAN}, codes.PermissionDenied},
		{"a key's name", keyOf("hidden-key", "emea"), codes.PermissionDenied},
		{"a key for others", keyOf("own-given", "apac"), codes.PermissionDenied},
		{"a key that moves out", &swanherdv1.UpdatePreSharedKeyRequest{PreSharedKey: &swanherdv1.PreSharedKey{
			Name: "networks/demo/preSharedKeys/own-lent", Labels: map[string]string{"region": "apac"},
		}}, codes.PermissionDenied},
		{"a key that others use", &swanherdv1.DeletePreSharedKeyRequest{Name: "networks/demo/preSharedKeys/own-lent"}, codes.FailedPrecondition},
		{"a serial number", &swanherdv1.CreateDeviceRequest{Parent: "networks/demo", Device: &swanherdv1.Device{SerialNumber: "OLD-1", Site: "networks/demo/sites/oslo"}}, codes.AlreadyExists},
		{"an explanation in no segment", &swanherdv1.ExplainRequest{Parent: "networks/demo", Source: "10.1.0.1", Destination: "10.2.0.1", Segment: "networks/demo/segments/none"}, codes.InvalidArgument},
		{"a change set's name", &swanherdv1.CreateChangeSetRequest{Parent: "networks/demo", ChangeSetId: "theirs", ChangeSet: &swanherdv1.ChangeSet{
			Manifest: &swanherdv1.Manifest{Sites: []*swanherdv1.Site{{Name: "networks/demo/sites/own-b", Prefixes: []string{"10.73.0.0/16"}, Labels: map[string]string{"region": "emea"}}}},
		}}, codes.PermissionDenied},
		{"an assertion about others", &swanherdv1.CreateChangeSetRequest{Parent: "networks/demo", ChangeSetId: "own-set", ChangeSet: &swanherdv1.ChangeSet{
			Manifest:   &swanherdv1.Manifest{Sites: []*swanherdv1.Site{{Name: "networks/demo/sites/own-b", Prefixes: []string{"10.73.0.0/16"}, Labels: map[string]string{"region": "emea"}}}},
			Assertions: []*swanherdv1.Assertion{{Source: "10.3.0.0/24", Destination: "10.99.0.0/24"}},
		}}, codes.FailedPrecondition},
	} {
		_, err := call(ctx, t, conn, methodOf(t, x.req), x.req)
		if status.Code(err) != x.want {
			t.Errorf("%s: %v, want %s", x.what, err, x.want)
		}
		namesNothingNew(t, x.what, x.req, err)
	}
	if _, err := topology.UpdateSite(ctx, inSegment("own-open", "10.50.0.0/16")); err != nil {
		t.Errorf("a site in a segment that carries the labels: %v", err)
	}
	c.ownGateways(conn)
}

// methodOf is the method that takes the request.
func methodOf(t testing.TB, req proto.Message) protoreflect.MethodDescriptor {
	t.Helper()
	for _, m := range publicMethods(t) {
		if m.Input() == req.ProtoReflect().Descriptor() {
			return m
		}
	}
	t.Fatalf("no method takes %T", req)
	return nil
}

// ownGateways are made, seen and changed by who has what they hold tunnels with.
func (c *controller) ownGateways(conn *grpc.ClientConn) {
	ctx, t := c.t.Context(), c.t
	topology := swanherdv1.NewTopologyServiceClient(conn)
	if _, err := topology.CreatePreSharedKey(ctx, keyOf("own-key", "emea")); err != nil {
		t.Fatal(err)
	}
	own := gatewayTo("own-partner", "203.0.113.4", "10.74.0.0/16", "own-key", ofRegion("emea"))
	if _, err := topology.CreateGateway(ctx, &swanherdv1.CreateGatewayRequest{Parent: "networks/demo", GatewayId: "own-partner", Gateway: own}); err != nil {
		t.Fatal(err)
	}
	own.Prefixes = []string{"10.75.0.0/16"}
	if _, err := topology.Apply(ctx, &swanherdv1.ApplyRequest{Manifest: &swanherdv1.Manifest{Gateways: []*swanherdv1.Gateway{own}}}); err != nil {
		t.Errorf("its own gateway by a manifest: %v", err)
	}
	own.Attachments = append(own.Attachments, ofEdge("rome"))
	_, err := topology.UpdateGateway(ctx, &swanherdv1.UpdateGatewayRequest{Gateway: own})
	outOfScope(t, "a gateway that goes to others too", err)
	got, err := topology.ListGateways(ctx, &swanherdv1.ListGatewaysRequest{Parent: "networks/demo"})
	if names := namesOf(got.GetGateways()); err != nil || names != "[own-partner seen]" {
		t.Errorf("gateways %s, %v", names, err)
	}
	keys, err := topology.ListPreSharedKeys(ctx, &swanherdv1.ListPreSharedKeysRequest{Parent: "networks/demo"})
	if names := namesOf(keys.GetPreSharedKeys()); err != nil || names != "[own-key own-lent]" {
		t.Errorf("keys %s, %v", names, err)
	}
	segments, err := topology.ListSegments(ctx, &swanherdv1.ListSegmentsRequest{Parent: "networks/demo"})
	if names := namesOf(segments.GetSegments()); err != nil || names != "[own-open]" {
		t.Errorf("segments %s, %v", names, err)
	}
	if _, err := topology.RenderGatewayConfig(ctx, &swanherdv1.RenderGatewayConfigRequest{
		Name: own.GetName(), Format: swanherdv1.GatewayConfigFormat_GATEWAY_CONFIG_FORMAT_STRONGSWAN,
	}); err != nil {
		t.Errorf("its own gateway's configuration: %v", err)
	}
	for _, remove := range []func() error{
		func() error {
			return second(topology.DeleteGateway(ctx, &swanherdv1.DeleteGatewayRequest{Name: own.GetName()}))
		},
		func() error {
			return second(topology.DeletePreSharedKey(ctx, &swanherdv1.DeletePreSharedKeyRequest{Name: "networks/demo/preSharedKeys/own-key"}))
		},
	} {
		if err := remove(); err != nil {
			t.Errorf("its own goes again: %v", err)
		}
	}
}
