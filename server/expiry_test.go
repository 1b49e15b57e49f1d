package server_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// A token ends when it says, with the answer that any wrong token gets: for calls, for
// streams that are open, and for edges that enrol.
func TestTokensEnd(t *testing.T) {
	c := startController(t)
	c.apply()
	expire := time.Now().Add(3 * time.Second)
	// good is for what works while the token lasts, however slow the machine is.
	good := func(what string, err error) {
		t.Helper()
		if err != nil && time.Now().Before(expire) {
			t.Errorf("%s, before its end: %v", what, err)
		}
	}
	enrolment := c.makeToken(&swanherdv1.EnrollmentToken{Site: "networks/demo/sites/berlin", MaxUses: 2, ExpireTime: timestamppb.New(expire)})
	made, err := c.access().CreateApiToken(t.Context(), &swanherdv1.CreateApiTokenRequest{ApiToken: &swanherdv1.ApiToken{
		Role: swanherdv1.Role_ROLE_VIEWER, ExpireTime: timestamppb.New(expire),
	}})
	if err != nil {
		t.Fatal(err)
	}
	conn := c.dial(made.GetSecret())
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	watch, err := swanherdv1.NewTopologyServiceClient(conn).Watch(ctx, &swanherdv1.WatchRequest{Parent: "networks/demo"})
	good("a stream", err)
	early := c.newEdge()
	_, err = early.tryEnroll(enrolment.GetSecret(), "")
	good("an enrolment token", err)
	whoami := func() error {
		_, err := swanherdv1.NewAccessServiceClient(conn).WhoAmI(ctx, &swanherdv1.WhoAmIRequest{})
		return err
	}
	good("an API token", whoami())

	for err = nil; err == nil; {
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.Unauthenticated || time.Now().Before(expire) {
		t.Errorf("the stream ended with %v", err)
	}
	if err := whoami(); status.Code(err) != codes.Unauthenticated || status.Convert(err).Message() != "the API token is not valid; sign in again" {
		t.Errorf("an API token at its end: %v, want UNAUTHENTICATED", err)
	}
	if resp, body := c.rest("GET", "/v1/networks/demo", made.GetSecret(), ""); resp.StatusCode != 401 {
		t.Errorf("by REST: %s %s", resp.Status, body)
	}
	if _, err := c.newEdge().tryEnroll(enrolment.GetSecret(), "late"); status.Code(err) != codes.PermissionDenied || status.Convert(err).Message() != "enrollment token is not valid" {
		t.Errorf("an enrolment token at its end: %v, want PERMISSION_DENIED", err)
	}
	// Nor does one begin that is at its end already.
	past := timestamppb.New(expire)
	_, err = c.access().CreateApiToken(ctx, &swanherdv1.CreateApiTokenRequest{ApiToken: &swanherdv1.ApiToken{Role: swanherdv1.Role_ROLE_VIEWER, ExpireTime: past}})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("an API token that ended before it was made: %v", err)
	}
	_, err = c.access().CreateEnrollmentToken(ctx, &swanherdv1.CreateEnrollmentTokenRequest{
		Parent: "networks/demo", EnrollmentToken: &swanherdv1.EnrollmentToken{Site: "networks/demo/sites/oslo", ExpireTime: past},
	})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("an enrolment token that ended before it was made: %v", err)
	}
}
