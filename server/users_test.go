package server_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Who is locked out is out at once: with calls, with streams, with the tokens that it
// made, and whatever role it gets, until it is let in again.
func TestPeopleAreLockedOut(t *testing.T) {
	c, p := startSignIn(t, time.Hour)
	c.bind("group:noc", admin)
	c.bind("email:zoe@example.net", viewer, "networks/demo")
	admins := c.terminal()
	alice := c.signedIn(p, "alice")
	token := alice.context().OIDC.IDToken
	made, err := swanherdv1.NewAccessServiceClient(c.dial(token)).CreateApiToken(t.Context(), &swanherdv1.CreateApiTokenRequest{
		ApiToken: &swanherdv1.ApiToken{Role: admin, Description: "for later"},
	})
	if err != nil {
		t.Fatal(err)
	}
	watch, err := swanherdv1.NewTopologyServiceClient(c.dial(token)).Watch(t.Context(), &swanherdv1.WatchRequest{Parent: "networks/demo"})
	if err != nil {
		t.Fatal(err)
	}
	admins.says(0, "", "user list", "subject:alice", "alice@example.net", "admin in all", "127.0.0.1", "email:zoe@example.net", "viewer in networks/demo", "!disabled")
	alice.says(3, "", "user disable alice@example.net", "is you")
	admins.says(64, "", "user disable mallory", "nobody is known")
	admins.says(0, "", "user disable Alice@example.net --reason left --delete-tokens", "subject:alice is locked out; 0 API tokens")
	if err := c.whoAmI(token); status.Code(err) != codes.PermissionDenied {
		t.Errorf("the next call: %v", err)
	}
	for err == nil {
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("the open stream: %v", err)
	}
	if err := c.whoAmI(made.GetSecret()); status.Code(err) != codes.Unauthenticated {
		t.Errorf("the token that was made: %v", err)
	}
	c.bind("subject:alice", admin)
	alice.says(5, "", "whoami", "is locked out")
	admins.says(0, "", "user list", "disabled by token:admin")
	admins.says(0, "", "events --filter action=user.disable --network -", "token:admin", "subject:alice: left; 1 API tokens deleted")
	admins.says(0, "", "user enable alice@example.net", "may sign in")
	alice.says(0, "", "whoami", "email:alice@example.net")

	// By any name, before somebody has come.
	c.bind("email:Bob@example.net", viewer)
	admins.says(0, "", "user disable bob@example.net --reason early", "is locked out")
	c.bind("group:all", viewer)
	bob := &terminal{c: c, config: filepath.Join(t.TempDir(), "config.yaml")}
	code, text := bob.signsIn(bob.login(p), signInURL, func(at string) { p.Visit(p.Browser(p.Roots()), at, "bob") })
	if code != 5 || !strings.Contains(text, "is locked out") {
		t.Errorf("locked out before the first sign-in: exit code %d, %s", code, text)
	}
}
