package server_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server"
	"github.com/swanherd/swanherd/server/kms/kmstest"
)

// notOnce are the methods that are no reads and take no request_id, and why.
var notOnce = map[protoreflect.Name]string{
	"RedeemLoginLink":  "who redeems is nobody yet, whose answers could be kept; the code is good once",
	"Enroll":           "is the same for the same token and key, also years later",
	"PollEnrollment":   "is the same for the same request and key, also years later",
	"RenewCertificate": "who lost the answer renews again; the certificate that it has stays good",
	"TestWebhookSink":  "changes nothing, and is asked again to test again",
}

// traceless are the changes of which no audit event tells here, and why.
var traceless = map[protoreflect.Name]string{
	"ResumeEdges": "there is something to give up only after a store was restored (TestRestoreFromBackup)",
}

// answeredAnew are the methods whose answer is of the moment, also the second time.
var answeredAnew = map[protoreflect.Name]string{
	"RotateSealing": "what there is to be sealed anew becomes less meanwhile",
	"CancelJob":     "the edge ends the job meanwhile",
}

// changing says whether a method is no read: by its verb, or if it has none because it is
// not in the REST form, since it is answered once.
func changing(m protoreflect.MethodDescriptor) bool {
	rule, _ := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
	if rule == nil {
		return !m.IsStreamingServer()
	}
	return rule.GetGet() == ""
}

// Whatever changes something can be asked for again by who lost the answer, and be checked
// alone.
func TestEveryChangeTakesARequestID(t *testing.T) {
	excepted := map[protoreflect.Name]bool{}
	for _, m := range publicMethods(t) {
		id, alone := m.Input().Fields().ByName("request_id"), m.Input().Fields().ByName("validate_only")
		if _, not := notOnce[m.Name()]; not || !changing(m) {
			excepted[m.Name()] = true
			if id != nil || alone != nil {
				t.Errorf("%s takes a request_id or validate_only, and is no change", fullName(m))
			}
			continue
		}
		if id == nil || id.Kind() != protoreflect.StringKind {
			t.Errorf("%s has no request_id (AIP-155)", fullName(m))
		}
		if alone == nil || alone.Kind() != protoreflect.BoolKind {
			t.Errorf("%s has no validate_only (AIP-163)", fullName(m))
		}
	}
	for name := range notOnce {
		if !excepted[name] {
			t.Errorf("%s is excepted, and there is no such method", name)
		}
	}
}

// startAbleToAll starts a controller that can do what any method asks for: it is a cluster, of
// one, and its keys are a key management service's.
func startAbleToAll(t *testing.T) *controller {
	return startController(t, func(cfg *server.Config) {
		cfg.Cluster, cfg.ReplicaListen = clusterOfOne(t), "127.0.0.1:0"
		cfg.KMS = kmstest.Start(t).Wrapper()
	})
}

// Every change is only checked where that is all that is wanted, and made once by a request
// that comes twice.
func TestChangesAreCheckedAloneAndMadeOnce(t *testing.T) {
	c := startAbleToAll(t)
	others := c.populated("networks/others")
	others.values["swanherd.v1.CreateLoginLinkRequest.role"] = swanherdv1.Role_ROLE_OPERATOR.Number()
	others.values["swanherd.v1.RotateSealingRequest.what"] = swanherdv1.RotateSealingRequest_WHAT_WRAPPING.Number()
	others.values["swanherd.v1.CreateClusterMemberRequest.cluster_member"] = (&swanherdv1.ClusterMember{PeerAddress: "http://127.0.0.1:2"}).ProtoReflect()
	others.values["swanherd.v1.CreateApiTokenRequest.api_token"] = (&swanherdv1.ApiToken{Role: swanherdv1.Role_ROLE_OPERATOR}).ProtoReflect()
	others.ids["cluster_member"] = "2b"
	for i, m := range sampledMethods(t) {
		if _, not := notOnce[m.Name()]; not || !changing(m) {
			continue
		}
		t.Run(string(m.Parent().Name())+"/"+string(m.Name()), func(t *testing.T) {
			if m.Parent().Name() != "ClusterService" { // a cluster takes one new member at a time
				t.Parallel()
			}
			of := *c
			of.t = t
			s := of.populated(fmt.Sprintf("networks/tenant-%03d", i))
			x := newOnce(t, &of, m, s.request(t, m))
			if prepare, ok := possible[m.Name()]; ok {
				prepare(&of, s, x.good)
			}
			x.checkedAlone()
			x.madeOnce(fmt.Sprintf("7b0a2b1e-6a0f-4c58-9a39-%012d", i), others.request(t, m))
		})
	}
}

// once is a method that somebody calls who calls nothing else.
type once struct {
	*testing.T
	m     protoreflect.MethodDescriptor
	conn  *grpc.ClientConn
	good  proto.Message
	c     *controller
	actor string
}

func newOnce(t *testing.T, c *controller, m protoreflect.MethodDescriptor, good proto.Message) *once {
	token, err := c.access().CreateApiToken(t.Context(), &swanherdv1.CreateApiTokenRequest{ApiToken: &swanherdv1.ApiToken{Role: swanherdv1.Role_ROLE_ADMIN}})
	if err != nil {
		t.Fatal(err)
	}
	return &once{t, m, c.dial(token.GetSecret()), good, c, "token:" + strings.TrimPrefix(token.GetName(), "apiTokens/")}
}

func (x *once) with(field protoreflect.Name, v any) proto.Message {
	req := proto.Clone(x.good)
	req.ProtoReflect().Set(x.m.Input().Fields().ByName(field), protoreflect.ValueOf(v))
	return req
}

func (x *once) call(req proto.Message) (proto.Message, error) {
	return call(x.Context(), x, x.conn, x.m, req)
}

// changes are what the caller has changed: whatever changes something is audited in the same
// transaction, in its network or among what belongs to none.
func (x *once) changes() int {
	x.Helper()
	parent := "networks/-"
	if found := networkNames.FindStringSubmatch(prototext.Format(x.good)); found != nil {
		parent = found[1]
	}
	resp, err := x.c.fleet().ListEvents(x.Context(), &swanherdv1.ListEventsRequest{
		Parent: parent, Filter: fmt.Sprintf("kind = AUDIT AND actor = %q", x.actor),
	})
	if err != nil {
		x.Fatal(err)
	}
	return len(resp.GetEvents())
}

var networkNames = regexp.MustCompile(`\b(?:parent|name): *"(networks/tenant-[0-9]+)["/]`)

func (x *once) checkedAlone() {
	x.Helper()
	if out, err := x.call(x.with("validate_only", true)); err != nil {
		x.Fatalf("checked alone: %v", err)
	} else if f := x.m.Output().Fields().ByName("secret"); f != nil && out.ProtoReflect().Get(f).String() != "" {
		x.Errorf("checked alone, it is answered with a secret")
	}
	if n := x.changes(); n != 0 {
		x.Errorf("checked alone, it changed %d things", n)
	}
}

// madeOnce asks twice, and for something else, with one request_id.
func (x *once) madeOnce(id string, other proto.Message) {
	x.Helper()
	req := x.with("request_id", id)
	first, err := x.call(req)
	if err != nil {
		x.Fatalf("after it was checked: %v", err)
	}
	changes := x.changes()
	if _, not := traceless[x.m.Name()]; changes == 0 && !not {
		x.Error("it changes nothing, so this proves nothing; make a sample that does")
	}
	again, err := x.call(req)
	if err != nil {
		x.Fatalf("the same request again: %v", err)
	}
	if diff := cmp.Diff(first, again, protocmp.Transform()); diff != "" && answeredAnew[x.m.Name()] == "" {
		x.Errorf("the same request is answered differently:\n%s", diff)
	}
	other.ProtoReflect().Set(x.m.Input().Fields().ByName("request_id"), protoreflect.ValueOfString(id))
	if proto.Equal(other, req) {
		x.Fatal("the other request is the same one; make a sample that differs")
	}
	if _, err := x.call(other); status.Code(err) != codes.InvalidArgument || !slices.Equal(violated(err), []string{"request_id"}) {
		x.Errorf("another request with its id: %v about %q", err, violated(err))
	}
	if n := x.changes(); n != changes {
		x.Errorf("asked again, it changed %d things", n-changes)
	}
}
