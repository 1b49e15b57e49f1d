package server_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// What nobody answers for must not fill the controller's memory.
func TestLongRequests(t *testing.T) {
	c := startController(t)
	network := func(octets int) string {
		return fmt.Sprintf(`{"manifest":{"networks":[{"name":"networks/demo","description":%q}]}}`, strings.Repeat("a", octets))
	}
	for _, x := range []struct {
		who, token string
		octets     int
		contains   string
	}{
		{"stranger", "", 100, "no token"},
		{"stranger", "", 1 << 20, "has no valid API token"},
		{"wrong token", "swa_admin_AAAA", 1 << 20, "has no valid API token"},
		{"administrator", c.token, 1 << 20, "description"},
		{"administrator", c.token, 20 << 20, "send it in parts"},
	} {
		resp, body := c.rest("POST", "/v1/manifest:apply", x.token, network(x.octets))
		if resp.StatusCode < 400 || !strings.Contains(body, x.contains) {
			t.Errorf("%s, %d octets: %d %s, want an error with %q", x.who, x.octets, resp.StatusCode, body[:min(300, len(body))], x.contains)
		}
	}
	stranger := swanherdv1.NewTopologyServiceClient(c.dial(""))
	_, err := stranger.Apply(t.Context(), &swanherdv1.ApplyRequest{Manifest: &swanherdv1.Manifest{
		Networks: []*swanherdv1.Network{{Name: "networks/demo", Description: strings.Repeat("a", 1<<20)}},
	}})
	if err == nil || status.Code(err) == codes.ResourceExhausted || !strings.Contains(err.Error(), "no valid API token") {
		t.Errorf("a stranger's long call: %v", err)
	}
	if _, err := c.fleet().ListEvents(t.Context(), &swanherdv1.ListEventsRequest{Parent: "networks/-"}); err != nil {
		t.Errorf("after that: %v", err)
	}
}
