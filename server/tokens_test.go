package server_test

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const requestC = "6f1c2a52-3f0e-4c53-9d7b-0c6a54a1f003"

// Who lost the answer asks again and has the token, also after a restart; and no second
// one is made.
func TestTokensAreMadeOnce(t *testing.T) {
	c := startController(t)
	c.apply()
	make := func() (*swanherdv1.ApiToken, *swanherdv1.ApiToken, *swanherdv1.EnrollmentToken) {
		t.Helper()
		made, err := c.access().CreateApiToken(t.Context(), &swanherdv1.CreateApiTokenRequest{
			RequestId: requestA, ApiToken: &swanherdv1.ApiToken{Role: swanherdv1.Role_ROLE_VIEWER, Description: "once"},
		})
		if err != nil {
			t.Fatal(err)
		}
		rotated, err := c.access().RotateApiToken(t.Context(), &swanherdv1.RotateApiTokenRequest{
			RequestId: requestB, Name: made.GetName(), Grace: durationpb.New(0),
		})
		if err != nil {
			t.Fatal(err)
		}
		enrol, err := c.access().CreateEnrollmentToken(t.Context(), &swanherdv1.CreateEnrollmentTokenRequest{
			RequestId: requestC, Parent: "networks/demo", EnrollmentToken: &swanherdv1.EnrollmentToken{Site: "networks/demo/sites/berlin"},
		})
		if err != nil {
			t.Fatal(err)
		}
		return made, rotated, enrol
	}
	made, rotated, enrol := make()
	c.restart()
	made2, rotated2, enrol2 := make()
	for _, pair := range [][2]proto.Message{{made, made2}, {rotated, rotated2}, {enrol, enrol2}} {
		if !proto.Equal(pair[0], pair[1]) {
			t.Errorf("the same request was answered\n%v, then\n%v", pair[0], pair[1])
		}
	}
	if _, err := swanherdv1.NewAccessServiceClient(c.dial(rotated2.GetSecret())).WhoAmI(t.Context(), &swanherdv1.WhoAmIRequest{}); err != nil {
		t.Errorf("the token as it was rotated: %v", err)
	}
	c.newEdge().enroll(enrol2.GetSecret())
	tokens, err := c.access().ListApiTokens(t.Context(), &swanherdv1.ListApiTokensRequest{Filter: `description = "once"`})
	if err != nil || len(tokens.GetApiTokens()) != 1 || tokens.GetApiTokens()[0].GetSecret() != "" {
		t.Errorf("tokens that are there: %v, %v; want one, without its secret", tokens, err)
	}
	_, err = c.access().CreateApiToken(t.Context(), &swanherdv1.CreateApiTokenRequest{
		RequestId: requestA, ApiToken: &swanherdv1.ApiToken{Role: swanherdv1.Role_ROLE_ADMIN},
	})
	if status.Code(err) != codes.InvalidArgument || !slices.Equal(violated(err), []string{"request_id"}) {
		t.Errorf("another request with the same id: %v about %q", err, violated(err))
	}
}

// Another caller with the same request_id gets nothing of the first one's.
func TestTokenAnswersAreOfTheirCaller(t *testing.T) {
	c := startController(t)
	req := &swanherdv1.CreateApiTokenRequest{RequestId: requestA, ApiToken: &swanherdv1.ApiToken{Role: swanherdv1.Role_ROLE_ADMIN}}
	first, err := c.access().CreateApiToken(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	second, err := swanherdv1.NewAccessServiceClient(c.dial(first.GetSecret())).CreateApiToken(t.Context(), req)
	if err != nil || second.GetName() == first.GetName() || second.GetSecret() == first.GetSecret() {
		t.Errorf("another administrator got %v, %v", second.GetName(), err)
	}
}

// The same request at the same time makes one token, and each is answered with it.
func TestTokensAreMadeOnceAtOnce(t *testing.T) {
	c := startController(t)
	const callers = 8
	answers := make(chan *swanherdv1.ApiToken, callers)
	client := c.access()
	for range callers {
		go func() {
			made, err := client.CreateApiToken(t.Context(), &swanherdv1.CreateApiTokenRequest{
				RequestId: requestA, ApiToken: &swanherdv1.ApiToken{Role: swanherdv1.Role_ROLE_VIEWER},
			})
			if err != nil {
				t.Error(err)
			}
			answers <- made
		}()
	}
	first := <-answers
	for range callers - 1 {
		if next := <-answers; !proto.Equal(first, next) {
			t.Errorf("one caller got %v, another %v", first.GetName(), next.GetName())
		}
	}
}

func TestListsOfTokensAreFiltered(t *testing.T) {
	c := startController(t)
	c.apply()
	for _, id := range []string{"berlin", "oslo", "rome"} {
		c.tokenFor(id, uint32(len(id)))
	}
	got, err := c.access().ListEnrollmentTokens(t.Context(), &swanherdv1.ListEnrollmentTokensRequest{
		Parent: "networks/demo", Filter: "max_uses < 6", OrderBy: "site desc",
	})
	if err != nil {
		t.Fatal(err)
	}
	var sites []string
	for _, token := range got.GetEnrollmentTokens() {
		sites = append(sites, token.GetSite()[strings.LastIndexByte(token.GetSite(), '/')+1:])
	}
	if !slices.Equal(sites, []string{"rome", "oslo"}) {
		t.Errorf("tokens are of %v", sites)
	}
	_, err = c.access().ListApiTokens(t.Context(), &swanherdv1.ListApiTokensRequest{Filter: "nothing = 1", OrderBy: "nothing"})
	if status.Code(err) != codes.InvalidArgument || !slices.Equal(violated(err), []string{"filter", "order_by"}) {
		t.Errorf("a bad filter and a bad order: %v about %q", err, violated(err))
	}
}
