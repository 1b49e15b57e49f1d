package server_test

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

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

// What an edge is told for one request it is told once: who asks again while it is under way,
// or after nobody knows how it ended, is told that, and what was not done may be done yet.
func TestCommandIsGivenOnce(t *testing.T) {
	c := startController(t)
	c.apply()
	e := c.enrolled("berlin")
	c.enrolled("oslo")
	e.open()
	e.until("berlin--oslo")
	fleet := c.fleet()
	rekey := func(ctx context.Context, id string) (*swanherdv1.RekeyTunnelResponse, error) {
		return fleet.RekeyTunnel(ctx, &swanherdv1.RekeyTunnelRequest{Name: "networks/demo/tunnels/berlin--oslo", RequestId: id})
	}
	told := func() int {
		e.mu.Lock()
		defer e.mu.Unlock()
		return len(e.commands)
	}

	e.mu.Lock()
	e.refuses = "it has no SA"
	e.mu.Unlock()
	if _, err := rekey(t.Context(), requestA); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("what the edge refuses: %v", err)
	}
	e.mu.Lock()
	e.refuses = ""
	e.mu.Unlock()

	e.mu.Lock() // it answers nothing
	first := make(chan error, 1)
	go func() {
		_, err := rekey(t.Context(), requestA)
		first <- err
	}()
	c.eventually("the request to be begun", func() bool { return len(c.auditEvents(`action = "tunnel.rekey"`)) == 3 })
	if _, err := rekey(t.Context(), requestA); status.Code(err) != codes.Aborted {
		t.Errorf("while it is under way: %v", err)
	}
	e.mu.Unlock()
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	before := told()
	if again, err := rekey(t.Context(), requestA); err != nil || again.GetEdge() != e.name || told() != before {
		t.Errorf("after it was done: %v, %v, and the edge was told %d times", again, err, told()-before)
	}

	ctx, leave := context.WithCancel(t.Context())
	e.mu.Lock()
	go func() {
		_, err := rekey(ctx, requestB)
		first <- err
	}()
	c.eventually("the next one to be begun", func() bool { return len(c.auditEvents(`action = "tunnel.rekey"`)) == 4 })
	leave()
	<-first
	c.eventually("its end to be told", func() bool { return len(c.auditEvents(`action = "tunnel.rekey"`)) == 5 })
	e.mu.Unlock()
	if _, err := rekey(t.Context(), requestB); status.Code(err) != codes.Aborted {
		t.Errorf("after nobody knows how it ended: %v", err)
	}
}
