package server_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server"
)

// A login link is no way for a token to outlive itself.
func TestLoginLinkEndsWithItsMaker(t *testing.T) {
	c := startController(t)
	anyone := swanherdv1.NewAccessServiceClient(c.dial(""))
	maker := func() (*swanherdv1.ApiToken, string) {
		token, err := c.access().CreateApiToken(t.Context(), &swanherdv1.CreateApiTokenRequest{ApiToken: &swanherdv1.ApiToken{
			Role: swanherdv1.Role_ROLE_OPERATOR, ExpireTime: timestamppb.New(time.Now().Add(time.Hour)),
		}})
		if err != nil {
			t.Fatal(err)
		}
		link, err := swanherdv1.NewAccessServiceClient(c.dial(token.GetSecret())).CreateLoginLink(t.Context(),
			&swanherdv1.CreateLoginLinkRequest{SessionTtl: durationpb.New(24 * time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		_, code, _ := strings.Cut(link.GetUrl(), "/#login=")
		return token, code
	}
	token, code := maker()
	session, err := anyone.RedeemLoginLink(t.Context(), &swanherdv1.RedeemLoginLinkRequest{Code: code})
	if err != nil || session.GetExpireTime().AsTime().After(token.GetExpireTime().AsTime()) {
		t.Errorf("session ends at %v, %v; its maker at %v", session.GetExpireTime().AsTime(), err, token.GetExpireTime().AsTime())
	}
	token, code = maker()
	if _, err := c.access().DeleteApiToken(t.Context(), &swanherdv1.DeleteApiTokenRequest{Name: token.GetName()}); err != nil {
		t.Fatal(err)
	}
	_, err = anyone.RedeemLoginLink(t.Context(), &swanherdv1.RedeemLoginLinkRequest{Code: code})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("link of a revoked token: %v", err)
	}
}

// A start that cannot write the administrator's credential must not lose it.
func TestCredentialIsWrittenOrMadeAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "controller")
	file := filepath.Join(dir, "admin-credential")
	if err := os.MkdirAll(filepath.Join(file, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	cfg := server.Config{DataDir: dir, Listen: "127.0.0.1:0", EdgeListen: "127.0.0.1:0", MetricsListen: "127.0.0.1:0"}
	if s, err := server.Start(t.Context(), cfg); err == nil {
		s.Close()
		t.Fatal("started without a credential")
	} else if !strings.Contains(err.Error(), file) {
		t.Errorf("error does not name %s: %v", file, err)
	}
	if err := os.RemoveAll(file); err != nil {
		t.Fatal(err)
	}
	s, err := server.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Info().AdminToken == "" || s.Info().CredentialFile != file {
		t.Errorf("second start made token %q in %q", s.Info().AdminToken, s.Info().CredentialFile)
	}
}

// A token that is rotated has another secret at once, and the one before for no longer
// than its grace; no secret is ever shown again.
func TestAPITokenRotates(t *testing.T) {
	c := startController(t)
	works := func(secret string) bool {
		t.Helper()
		_, err := swanherdv1.NewAccessServiceClient(c.dial(secret)).WhoAmI(t.Context(), &swanherdv1.WhoAmIRequest{})
		if err != nil && status.Code(err) != codes.Unauthenticated {
			t.Fatal(err)
		}
		return err == nil
	}
	token, err := c.access().CreateApiToken(t.Context(), &swanherdv1.CreateApiTokenRequest{ApiToken: &swanherdv1.ApiToken{Role: swanherdv1.Role_ROLE_VIEWER}})
	if err != nil {
		t.Fatal(err)
	}
	own := swanherdv1.NewAccessServiceClient(c.dial(token.GetSecret()))
	if _, err := own.RotateApiToken(t.Context(), &swanherdv1.RotateApiTokenRequest{Name: "apiTokens/admin"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a viewer rotated the administrator's token: %v", err)
	}
	forever := timestamppb.New(time.Now().Add(100 * 365 * 24 * time.Hour))
	if _, err := own.RotateApiToken(t.Context(), &swanherdv1.RotateApiTokenRequest{Name: "apiTokens/self", ExpireTime: forever}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a viewer prolonged its token: %v", err)
	}
	second, err := own.RotateApiToken(t.Context(), &swanherdv1.RotateApiTokenRequest{Name: "apiTokens/self", Grace: durationpb.New(time.Hour)})
	if err != nil || second.GetName() != token.GetName() || second.GetRole() != token.GetRole() {
		t.Fatalf("rotate: %v, %v", second, err)
	}
	if !works(token.GetSecret()) || !works(second.GetSecret()) {
		t.Error("within the grace one of the two secrets does not work")
	}
	third, err := c.access().RotateApiToken(t.Context(), &swanherdv1.RotateApiTokenRequest{Name: token.GetName()})
	if err != nil {
		t.Fatal(err)
	}
	if works(token.GetSecret()) || works(second.GetSecret()) || !works(third.GetSecret()) {
		t.Error("without grace a secret before works, or the present one does not")
	}
	list, err := c.access().ListApiTokens(t.Context(), &swanherdv1.ListApiTokensRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range list.GetApiTokens() {
		if k.GetSecret() != "" {
			t.Errorf("the list shows the secret of %s", k.GetName())
		}
		if k.GetLastUsedTime() == nil || time.Since(k.GetLastUsedTime().AsTime()) > time.Minute {
			t.Errorf("%s was used last at %v", k.GetName(), k.GetLastUsedTime().AsTime())
		}
	}
}

// Whoever guesses is locked out for a while, by whatever way, and whoever has the
// right secret is not, even from the same address.
func TestGuessingIsLimited(t *testing.T) {
	c := startController(t)
	whoAmI := func(secret string) codes.Code {
		_, err := swanherdv1.NewAccessServiceClient(c.dial(secret)).WhoAmI(t.Context(), &swanherdv1.WhoAmIRequest{})
		return status.Code(err)
	}
	wrong := c.token[:len(c.token)-4] + "AAAA"
	var last codes.Code
	for range 30 {
		last = whoAmI(wrong)
	}
	if last != codes.ResourceExhausted {
		t.Errorf("the thirtieth wrong token: %v", last)
	}
	if got := whoAmI(c.token); got != codes.OK {
		t.Errorf("the right token from the same address: %v", got)
	}
	// The same source over another door.
	_, err := swanherdv1.NewAccessServiceClient(c.dial("")).RedeemLoginLink(t.Context(), &swanherdv1.RedeemLoginLinkRequest{Code: "guess"})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a login link after too many guesses: %v", err)
	}
	// REST says so with its status; nobody passes for another address.
	resp, _ := c.rest("GET", "/v1/whoami", wrong, "")
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("REST answers %d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
}
