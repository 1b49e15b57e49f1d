package server_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// populated makes a network with everything in it, and samples for it.
func (c *controller) populated(network string) *samples {
	c.t.Helper()
	m := manifest()
	text := func(s string) string { return strings.Replace(s, "networks/demo", network, 1) }
	m.Networks[0].Name, m.Profiles[0].Name, m.Meshes[0].Name = network, text(m.Profiles[0].GetName()), text(m.Meshes[0].GetName())
	m.Meshes[0].Profile = m.Profiles[0].GetName()
	for _, s := range m.GetSites() {
		s.Name, s.Labels = text(s.GetName()), map[string]string{"region": "emea"}
	}
	m.Segments = []*swanherdv1.Segment{{Name: network + "/segments/corp"}}
	m.Assertions = []*swanherdv1.Assertion{{Name: network + "/assertions/tills", Source: "10.1.0.0/16", Destination: "10.9.0.0/16"}} // which never holds, and is in nobody's way
	ctx := c.t.Context()
	applied, err := c.topology().Apply(ctx, &swanherdv1.ApplyRequest{Manifest: m})
	if err != nil {
		c.t.Fatal(err)
	}
	token := func(site string) *swanherdv1.EnrollmentToken {
		made, err := c.access().CreateEnrollmentToken(ctx, &swanherdv1.CreateEnrollmentTokenRequest{
			Parent: network, EnrollmentToken: &swanherdv1.EnrollmentToken{Site: site, MaxUses: 1000},
		})
		if err != nil {
			c.t.Fatal(err)
		}
		return made
	}
	made := token(m.GetSites()[0].GetName())
	e, peer := c.newEdge(), c.newEdge()
	e.enroll(made.GetSecret())
	peer.enroll(token(m.GetSites()[1].GetName()).GetSecret())
	c.planned(network)
	api, err := c.access().CreateApiToken(ctx, &swanherdv1.CreateApiTokenRequest{
		ApiToken: &swanherdv1.ApiToken{Role: swanherdv1.Role_ROLE_VIEWER, Networks: []string{network}},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	binding, err := swanherdv1.NewRoleBindingServiceClient(c.dial(c.token)).CreateRoleBinding(ctx, &swanherdv1.CreateRoleBindingRequest{
		RoleBinding: &swanherdv1.RoleBinding{Member: "group:" + strings.ReplaceAll(network, "/", "-"), Role: swanherdv1.Role_ROLE_VIEWER, Networks: []string{network}},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.bind("subject:"+strings.ReplaceAll(network, "/", "-"), swanherdv1.Role_ROLE_VIEWER, network)
	users, err := swanherdv1.NewUserServiceClient(c.dial(c.token)).ListUsers(ctx, &swanherdv1.ListUsersRequest{Filter: "member:" + strconv.Quote(strings.ReplaceAll(network, "/", "-"))})
	if err != nil || len(users.GetUsers()) != 1 {
		c.t.Fatalf("users are %v, %v", users, err)
	}
	device, err := c.devices().CreateDevice(ctx, &swanherdv1.CreateDeviceRequest{
		Parent: network, Device: &swanherdv1.Device{SerialNumber: "S-" + strings.ReplaceAll(network, "/", "-"), Site: m.GetSites()[2].GetName()},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	waiting := c.newEdge()
	asked, err := waiting.tryEnrollSerial(device.GetSerialNumber())
	if err != nil {
		c.t.Fatal(err)
	}
	events, err := c.fleet().ListEvents(ctx, &swanherdv1.ListEventsRequest{Parent: network, PageSize: 1})
	if err != nil || len(events.GetEvents()) != 1 {
		c.t.Fatalf("events are %v, %v", events, err)
	}
	changeSet, rollout := c.rolledOut(network)
	rule, err := c.alerts().CreateAlertRule(ctx, &swanherdv1.CreateAlertRuleRequest{Parent: network, AlertRuleId: "offline", AlertRule: &swanherdv1.AlertRule{
		Condition: swanherdv1.AlertCondition_ALERT_CONDITION_EDGE_OFFLINE, Severity: swanherdv1.AlertSeverity_ALERT_SEVERITY_WARNING,
	}})
	if err != nil {
		c.t.Fatal(err)
	}
	sink, err := c.alerts().CreateWebhookSink(ctx, &swanherdv1.CreateWebhookSinkRequest{Parent: network, WebhookSinkId: "noc", WebhookSink: &swanherdv1.WebhookSink{
		Url: "https://receiver.invalid/alerts", Secret: "whsec_" + strings.Repeat("abcd", 8),
	}})
	if err != nil {
		c.t.Fatal(err)
	}
	c.gateway(network, e.name)
	e.open()
	runs, ended := c.bothJobs(network, e)
	e.hangUp()
	last := func(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }
	certificates, err := c.certificates().ListCertificates(ctx, &swanherdv1.ListCertificatesRequest{Parent: network, PageSize: 1})
	if err != nil || len(certificates.GetCertificates()) != 1 {
		c.t.Fatalf("certificates are %v, %v", certificates, err)
	}
	return &samples{
		network: network, edge: e,
		alert: func(t testing.TB) (id string) { // that the edge is offline, which takes a moment to be seen
			c.eventually("an alert of "+network, func() bool {
				alerts, err := c.alerts().ListAlerts(ctx, &swanherdv1.ListAlertsRequest{Parent: network, Filter: "resource:edges"})
				if err != nil {
					t.Fatal(err)
				}
				for _, a := range alerts.GetAlerts() {
					id = last(a.GetName())
				}
				return id != ""
			})
			return id
		},
		ids: map[string]string{
			"revision": fmt.Sprint(applied.GetRevision()), "cluster_member": "1a", "event": last(events.GetEvents()[0].GetName()), "site": "berlin", "edge": last(e.name), "mesh": "all", "profile": "default", "segment": "corp", "assertion": "tills", "tunnel": "berlin--oslo",
			"enrollment_token": last(token(m.GetSites()[0].GetName()).GetName()), "api_token": last(api.GetName()),
			"user": last(users.GetUsers()[0].GetName()), "role_binding": last(binding.GetName()), "device": last(device.GetName()), "enrollment_request": last(asked.GetPending().GetEnrollmentRequest()),
			"change_set": changeSet, "rollout": rollout,
			"gateway": "partner", "pre_shared_key": "partner", "alert_rule": last(rule.GetName()), "webhook_sink": last(sink.GetName()),
			"job": last(ended), "certificate": certificates.GetCertificates()[0].GetSerial(),
		},
		values: map[protoreflect.FullName]any{
			"swanherd.v1.UpdateDeviceRequest.device":                          (&swanherdv1.Device{Name: device.GetName(), SerialNumber: device.GetSerialNumber(), Site: device.GetSite(), Description: "a spare"}).ProtoReflect(),
			"swanherd.v1.CreateNetworkRequest.network_id":                     strings.TrimPrefix(network, "networks/") + "-fresh",
			"swanherd.v1.RenderGatewayConfigRequest.name":                     network + "/gateways/partner",
			"swanherd.v1.RenderGatewayConfigRequest.format":                   swanherdv1.GatewayConfigFormat_GATEWAY_CONFIG_FORMAT_STRONGSWAN.Number(),
			"swanherd.v1.CancelJobRequest.name":                               runs,
			"swanherd.v1.ExplainRequest.source":                               "10.1.0.1",
			"swanherd.v1.ExplainRequest.destination":                          "10.2.0.1",
			"swanherd.v1.RedeemLoginLinkRequest.code":                         "nonsense",
			"swanherd.v1.EnrollRequest.token":                                 made.GetSecret(),
			"swanherd.v1.EnrollRequest.control_csr":                           e.csr(e.control),
			"swanherd.v1.EnrollRequest.ike_csr":                               e.csr(e.ike),
			"swanherd.v1.PollEnrollmentRequest.enrollment_request":            asked.GetPending().GetEnrollmentRequest(),
			"swanherd.v1.PollEnrollmentRequest.control_csr":                   waiting.csr(waiting.control),
			"swanherd.v1.PollEnrollmentRequest.ike_csr":                       waiting.csr(waiting.ike),
			"swanherd.v1.ImportCertificateAuthorityRequest.certificate_chain": "a chain that nothing waits for",
			"swanherd.v1.ForceCertificateAuthorityRequest.phase":              swanherdv1.CertificateAuthority_PHASE_DISTRIBUTING.Number(),
			"swanherd.v1.RotateSealingRequest.what":                           swanherdv1.RotateSealingRequest_WHAT_DATA_KEY.Number(),
			"swanherd.v1.RenewCertificateRequest.control_csr":                 e.csr(e.control),
			"swanherd.v1.RenewCertificateRequest.ike_csr":                     e.csr(e.ike),
		},
	}
}

// gateway makes a gateway with a pre-shared key, which an edge has a tunnel with.
func (c *controller) gateway(network, edge string) {
	c.t.Helper()
	ctx := c.t.Context()
	key, err := c.topology().CreatePreSharedKey(ctx, &swanherdv1.CreatePreSharedKeyRequest{
		Parent: network, PreSharedKeyId: "partner", PreSharedKey: &swanherdv1.PreSharedKey{Secret: "a secret of a test"},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	_, err = c.topology().CreateGateway(ctx, &swanherdv1.CreateGatewayRequest{Parent: network, GatewayId: "partner", Gateway: &swanherdv1.Gateway{
		Profile: network + "/profiles/default", Address: "203.0.113.9", Prefixes: []string{"10.88.0.0/16"},
		Authentication: &swanherdv1.Gateway_PreSharedKey{PreSharedKey: &swanherdv1.GatewayPreSharedKey{Key: key.GetName()}},
		Attachments:    []*swanherdv1.GatewayAttachment{{Who: &swanherdv1.GatewayAttachment_Edge{Edge: edge}}},
	}})
	if err != nil {
		c.t.Fatal(err)
	}
}

// planned waits until the network has a tunnel.
func (c *controller) planned(network string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 15*time.Second)
	defer cancel()
	stream, err := c.fleet().WatchTunnels(ctx, &swanherdv1.WatchTunnelsRequest{Parent: network})
	if err != nil {
		c.t.Fatal(err)
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			c.t.Fatalf("%s gets no tunnel: %v", network, err)
		}
		if m.GetKind() == swanherdv1.WatchTunnelsResponse_KIND_UPSERTED {
			return
		}
	}
}

// connTo is a connection to where the method is served.
func (c *controller) connTo(m protoreflect.MethodDescriptor, operators *grpc.ClientConn, edges *grpc.ClientConn) *grpc.ClientConn {
	if m.Parent().Name() == "EnrollmentService" {
		return edges
	}
	return operators
}

// Whatever a client sends in whatever field of whatever request, the answer is
// about the request: no code that means that the controller is broken, and for
// INVALID_ARGUMENT the path of each field that is wrong, among them the one that
// was made bad.
func TestEveryFieldOfEveryRequestMayBeBad(t *testing.T) {
	for _, m := range sampledMethods(t) {
		t.Run(string(m.Parent().Name())+"/"+string(m.Name()), func(t *testing.T) {
			t.Parallel()
			c := startController(t) // of its own, as wrong secrets are limited
			s := c.populated("networks/tenant")
			conn := c.connTo(m, c.dial(c.token), c.newEdge().dial())
			good := s.request(t, m)
			if m.Name() != "DeleteApiToken" { // what is deleted cannot be deleted again
				if _, err := call(t.Context(), t, conn, m, good); status.Code(err) == codes.InvalidArgument {
					t.Fatalf("the sample is refused: %v; teach samples of %s", err, m.Input().Name())
				}
			}
			calls := 0
			mutate(good, badValues, func(bad mutation) {
				calls++
				_, err := call(t.Context(), t, conn, m, bad.req)
				if wrong := badAnswer(m, err); wrong != "" {
					t.Errorf("%s %s: %s", bad.path, bad.what, wrong)
				} else if fields := violated(err); !elsewhere(bad.path) && len(fields) > 0 && !slices.ContainsFunc(fields, func(f string) bool { return related(f, bad.about) }) {
					t.Errorf("%s %s: the answer is about %q", bad.path, bad.what, fields)
				}
			})
			t.Logf("%d calls", calls)
		})
	}
}

// elsewhere says whether other fields are wrong when that one is: those that it
// says the place of.
func elsewhere(path string) bool { return path == "parent" || strings.HasSuffix(path, "_id") }

// badAnswer says what is wrong with an answer to a bad request; empty: nothing.
func badAnswer(m protoreflect.MethodDescriptor, err error) string {
	switch code := status.Code(err); code {
	case codes.Internal, codes.Unknown, codes.DataLoss, codes.Unimplemented, codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return fmt.Sprintf("%s: %v", code, err)
	case codes.InvalidArgument:
		fields := violated(err)
		if len(fields) == 0 {
			return fmt.Sprintf("INVALID_ARGUMENT without a field: %v", err)
		}
		for _, f := range fields {
			if !isPath(m.Input(), f) {
				return fmt.Sprintf("%q is no field of %s: %v", f, m.Input().Name(), err)
			}
		}
	}
	return ""
}

// violated are the fields that a refusal names.
func violated(err error) []string {
	var out []string
	for _, d := range status.Convert(err).Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.GetFieldViolations() {
				out = append(out, v.GetField())
			}
		}
	}
	return out
}

// obstacles are the resources that a refusal says are in the way.
func obstacles(err error) []string {
	var out []string
	for _, d := range status.Convert(err).Details() {
		if failure, ok := d.(*errdetails.PreconditionFailure); ok {
			for _, v := range failure.GetViolations() {
				out = append(out, v.GetSubject())
			}
		}
	}
	return out
}

// related says whether one path is the other, or of what is in it or around it.
func related(a, b string) bool {
	a, b = strings.ReplaceAll(a, "[", ".["), strings.ReplaceAll(b, "[", ".[")
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] && !(strings.HasPrefix(x[i], "[") && strings.HasPrefix(y[i], "[")) {
			return slices.Contains([]string{"topology", "authentication", "who", "task"}, x[i]) // the oneof that the other is a member of
		}
	}
	return true
}

// isPath says whether a path such as `site.labels["a.b"]` or `sites[2].name` is
// one of the message.
func isPath(d protoreflect.MessageDescriptor, path string) bool {
	for {
		end := strings.IndexAny(path, ".[")
		name, rest := path, ""
		if end >= 0 {
			name, rest = path[:end], path[end:]
		}
		var f protoreflect.FieldDescriptor
		if d != nil {
			f = d.Fields().ByName(protoreflect.Name(name))
			if f == nil && d.Oneofs().ByName(protoreflect.Name(name)) != nil {
				return rest == ""
			}
		}
		if f == nil {
			return false
		}
		if strings.HasPrefix(rest, "[") {
			close := strings.Index(rest, "]")
			if rest[1] == '"' {
				close = strings.LastIndex(rest, `"]`) + 1
			}
			if close < 2 || !f.IsList() && !f.IsMap() {
				return false
			}
			rest = rest[close+1:]
		}
		if rest == "" {
			return true
		}
		if rest[0] != '.' {
			return false
		}
		d, path = f.Message(), rest[1:]
	}
}

// rawCodec sends octets as they are.
type rawCodec struct{ encoding.Codec }

func (rawCodec) Marshal(v any) ([]byte, error) {
	if b, ok := v.([]byte); ok {
		return b, nil
	}
	return proto.Marshal(v.(proto.Message))
}
func (rawCodec) Unmarshal(b []byte, v any) error { return proto.Unmarshal(b, v.(proto.Message)) }
func (rawCodec) Name() string                    { return "proto" }

// What is no message of protobuf at all is the client's mistake too.
func TestRequestsThatCannotBeDecoded(t *testing.T) {
	c := startController(t)
	operators, edges := c.dial(c.token), c.newEdge().dial()
	for _, m := range publicMethods(t) {
		conn := c.connTo(m, operators, edges)
		for _, raw := range [][]byte{{0xff}, {0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f}, {0x0a, 0x05, 'a'}, []byte(strings.Repeat("\x0b", 20000)), {0x07}} {
			_, err := call(t.Context(), t, conn, m, raw, grpc.ForceCodec(rawCodec{}))
			if code := status.Code(err); code != codes.InvalidArgument && code != codes.Unauthenticated && code != codes.PermissionDenied {
				t.Errorf("%s of % x: %v, want INVALID_ARGUMENT", fullName(m), raw[:min(8, len(raw))], err)
			}
		}
	}
	site := []byte("\x0a\x0dnetworks/demo\x12\x01x\x1a\x07\x22\x01a\x22\x02a\xff")
	if _, err := c.raw(operators, "CreateSite", site); status.Code(err) != codes.InvalidArgument || !slices.Equal(violated(err), []string{"site.prefixes[1]"}) {
		t.Errorf("a text that is not UTF-8: %v about %q, want INVALID_ARGUMENT about site.prefixes[1]", err, violated(err))
	}
}

// raw calls a method with octets that need not be a message.
func (c *controller) raw(conn *grpc.ClientConn, method protoreflect.Name, octets []byte) (proto.Message, error) {
	c.t.Helper()
	for _, m := range publicMethods(c.t) {
		if m.Name() == method {
			return call(c.t.Context(), c.t, conn, m, octets, grpc.ForceCodec(rawCodec{}))
		}
	}
	c.t.Fatalf("there is no method %s", method)
	return nil, nil
}

// FuzzRequest sends arbitrary octets as the request of each method, beginning
// with good ones.
func FuzzRequest(f *testing.F) {
	c := startController(f)
	s := c.populated("networks/demo")
	operators, edges := c.dial(c.token), c.newEdge().dial()
	methods := publicMethods(f)
	for i, m := range methods {
		b, err := proto.Marshal(s.request(f, m))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), b)
	}
	f.Fuzz(func(t *testing.T, method uint8, octets []byte) {
		m := methods[int(method)%len(methods)]
		_, err := call(t.Context(), t, c.connTo(m, operators, edges), m, octets, grpc.ForceCodec(rawCodec{}))
		if status.Code(err) == codes.InvalidArgument && len(violated(err)) == 0 {
			return // cannot be decoded
		}
		if wrong := badAnswer(m, err); wrong != "" {
			t.Errorf("%s: %s", fullName(m), wrong)
		}
	})
}
