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
