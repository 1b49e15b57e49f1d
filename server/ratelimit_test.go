package server_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server"
	"github.com/swanherd/swanherd/server/access"
)

// Who calls too often is told when to come again, by gRPC and REST, and no other is.
func TestPrincipalsAreLimited(t *testing.T) {
	c := startController(t, func(cfg *server.Config) { cfg.RateLimit = access.RateLimit{PerSecond: 0.001, Burst: 5} })
	token, err := c.access().CreateApiToken(t.Context(), &swanherdv1.CreateApiTokenRequest{ApiToken: &swanherdv1.ApiToken{Role: viewer}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := c.whoAmI(token.GetSecret()); err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
	}
	err = c.whoAmI(token.GetSecret())
	retry := false
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			retry = info.GetRetryDelay().AsDuration() > 0
		}
	}
	if status.Code(err) != codes.ResourceExhausted || reason(err) != "RATE_LIMITED" || !retry {
		t.Errorf("the sixth call: %v, when again: %t", err, retry)
	}
	if resp, _ := c.rest(http.MethodGet, "/v1/whoami", token.GetSecret(), ""); resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" {
		t.Errorf("REST answers %d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
	if err := c.whoAmI(c.token); err != nil {
		t.Errorf("another principal from the same address: %v", err)
	}
	resp, err := http.Get("http://" + c.s.Info().MetricsAddr.String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(text), "swanherd_calls_limited_total 2\n") {
		t.Errorf("the metrics do not count two calls: %v", err)
	}
}
