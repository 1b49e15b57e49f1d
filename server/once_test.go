package server_test

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Changes outside the topology too are only checked where that is all that is wanted, and
// are made once by a request that comes twice.
func TestChangesAreCheckedAloneAndMadeOnce(t *testing.T) {
	wanted := []protoreflect.Name{
		"CreateAlertRule", "UpdateAlertRule", "DeleteAlertRule", "CreateWebhookSink", "UpdateWebhookSink", "DeleteWebhookSink",
		"CreateDevice", "DeleteDevice", "CreateChangeSet", "DeleteJob", "CreateRoleBinding", "DeleteRoleBinding",
	}
	c := startController(t)
	conn := c.dial(c.token)
	for i, m := range sampledMethods(t) {
		if !slices.Contains(wanted, m.Name()) {
			continue
		}
		t.Run(string(m.Name()), func(t *testing.T) {
			id := protoreflect.ValueOfString(fmt.Sprintf("7b0a2b1e-6a0f-4c58-9a39-%012d", i))
			good := c.populated("networks/tenant-"+strconv.Itoa(i)).request(t, m)
			if r, ok := good.(*swanherdv1.CreateChangeSetRequest); ok {
				r.ChangeSet.Assertions = nil // those of the sample do not hold
			}
			with := func(field protoreflect.Name, v protoreflect.Value) proto.Message {
				req := proto.Clone(good)
				req.ProtoReflect().Set(m.Input().Fields().ByName(field), v)
				return req
			}
			if _, err := call(t.Context(), t, conn, m, with("validate_only", protoreflect.ValueOfBool(true))); err != nil {
				t.Fatalf("checked alone: %v", err)
			}
			once := with("request_id", id)
			first, err := call(t.Context(), t, conn, m, once)
			if err != nil {
				t.Fatalf("after it was checked: %v", err)
			}
			again, err := call(t.Context(), t, conn, m, once)
			if err != nil {
				t.Fatalf("the same request again: %v", err)
			}
			if diff := cmp.Diff(first, again, protocmp.Transform()); diff != "" {
				t.Errorf("the same request is answered differently:\n%s", diff)
			}
			other := c.populated("networks/other-"+strconv.Itoa(i)).request(t, m)
			other.ProtoReflect().Set(m.Input().Fields().ByName("request_id"), id)
			if _, err := call(t.Context(), t, conn, m, other); status.Code(err) != codes.InvalidArgument {
				t.Errorf("another request with its id: %v", err)
			}
		})
	}
}

// A rollout is begun once, and not at all where it is only checked.
func TestRolloutIsBegunOnce(t *testing.T) {
	s := startStaged(t, startController(t))
	req := &swanherdv1.CreateRolloutRequest{Parent: "networks/demo", ValidateOnly: true, RequestId: requestA, Rollout: &swanherdv1.Rollout{
		ChangeSet: s.change("bigger", 2048), Policy: quick(never), Batches: []*swanherdv1.RolloutBatch{{MaxEdges: 1}},
	}}
	for range 2 {
		if r, err := s.rollouts().CreateRollout(t.Context(), req); err != nil || len(r.GetBatchStates()) == 0 {
			t.Fatalf("checked alone: %v, %v", r, err)
		}
	}
	req.ValidateOnly = false
	first, err := s.rollouts().CreateRollout(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.rollouts().CreateRollout(t.Context(), req)
	if err != nil || again.GetName() != first.GetName() || again.GetEtag() != first.GetEtag() {
		t.Errorf("the same request again: %v, %v", again, err)
	}
	req.RequestId = requestB
	if _, err := s.rollouts().CreateRollout(t.Context(), req); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a second rollout beside the first: %v", err)
	}
}

// A token that is only checked is none, and one that is turned keeps its secret.
func TestTokensAreCheckedAlone(t *testing.T) {
	c := startController(t)
	c.apply()
	ctx := t.Context()
	enrol, err := c.access().CreateEnrollmentToken(ctx, &swanherdv1.CreateEnrollmentTokenRequest{
		Parent: "networks/demo", ValidateOnly: true, EnrollmentToken: &swanherdv1.EnrollmentToken{Site: "networks/demo/sites/berlin"},
	})
	if err != nil || enrol.GetName()+enrol.GetSecret() != "" || enrol.GetSite() != "networks/demo/sites/berlin" {
		t.Errorf("%v, %v", enrol, err)
	}
	if list, err := c.access().ListEnrollmentTokens(ctx, &swanherdv1.ListEnrollmentTokensRequest{Parent: "networks/demo"}); err != nil || len(list.GetEnrollmentTokens()) != 0 {
		t.Errorf("enrolment tokens are %v, %v", list, err)
	}
	if api, err := c.access().CreateApiToken(ctx, &swanherdv1.CreateApiTokenRequest{
		ValidateOnly: true, ApiToken: &swanherdv1.ApiToken{Role: swanherdv1.Role_ROLE_VIEWER},
	}); err != nil || api.GetName()+api.GetSecret() != "" {
		t.Errorf("%v, %v", api, err)
	}
	if turned, err := c.access().RotateApiToken(ctx, &swanherdv1.RotateApiTokenRequest{Name: "apiTokens/self", ValidateOnly: true}); err != nil || turned.GetSecret() != "" {
		t.Errorf("%v, %v", turned, err)
	}
	if _, err := c.access().WhoAmI(ctx, &swanherdv1.WhoAmIRequest{}); err != nil {
		t.Errorf("the token that was only to be checked for turning works no more: %v", err)
	}
	_, err = c.access().CreateEnrollmentToken(ctx, &swanherdv1.CreateEnrollmentTokenRequest{
		Parent: "networks/demo", ValidateOnly: true, EnrollmentToken: &swanherdv1.EnrollmentToken{Site: "networks/demo/sites/nowhere"},
	})
	if err == nil {
		t.Error("a token for no site is right")
	}
}
