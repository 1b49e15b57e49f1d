package server_test

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/cli"
	"github.com/swanherd/swanherd/server/providertest"
)

// startSignIn starts a controller with a provider and the people of an organisation.
func startSignIn(t testing.TB, life time.Duration) (*controller, *providertest.Provider) {
	t.Helper()
	p := providertest.Start(t, life, "https://127.0.0.1/unused",
		providertest.Person{Name: "alice", Email: "Alice@example.net", Verified: true, Groups: []string{"noc", "all"}},
		providertest.Person{Name: "bob", Email: "bob@example.net", Verified: true, Groups: []string{"all"}},
		// Says to be somebody else, which nobody verified.
		providertest.Person{Name: "mallory", Email: "alice@example.net"},
	)
	c := startController(t, func(cfg *server.Config) { cfg.OIDC = p.Settings() })
	c.apply()
	c.knowsProvider()
	return c, p
}

// knowsProvider waits until the provider has told the controller where its keys are.
func (c *controller) knowsProvider() {
	c.t.Helper()
	c.eventually("the keys of the provider", func() bool {
		return status.Code(c.whoAmI("a.b.c")) == codes.Unauthenticated
	})
}

func (c *controller) whoAmI(token string) error {
	c.t.Helper()
	conn := c.dial(token)
	defer conn.Close()
	_, err := swanherdv1.NewAccessServiceClient(conn).WhoAmI(c.t.Context(), &swanherdv1.WhoAmIRequest{})
	return err
}

func (c *controller) bind(member string, role swanherdv1.Role, networks ...string) *swanherdv1.RoleBinding {
	c.t.Helper()
	b, err := swanherdv1.NewRoleBindingServiceClient(c.dial(c.token)).CreateRoleBinding(c.t.Context(), &swanherdv1.CreateRoleBindingRequest{
		RoleBinding: &swanherdv1.RoleBinding{Member: member, Role: role, Networks: networks},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

func (c *controller) unbind(b *swanherdv1.RoleBinding) {
	c.t.Helper()
	_, err := swanherdv1.NewRoleBindingServiceClient(c.dial(c.token)).DeleteRoleBinding(c.t.Context(), &swanherdv1.DeleteRoleBindingRequest{Name: b.GetName()})
	if err != nil {
		c.t.Fatal(err)
	}
}

// context is what the terminal has stored.
func (x *terminal) context() *cli.Context {
	x.c.t.Helper()
	b, err := os.ReadFile(x.config)
	if err != nil {
		x.c.t.Fatal(err)
	}
	var cfg cli.Config
	if err := yaml.Unmarshal(b, &cfg); err != nil || len(cfg.Contexts) != 1 {
		x.c.t.Fatalf("configuration %s: %v", b, err)
	}
	return cfg.Contexts[0]
}

// reason is that of an error's google.rpc.ErrorInfo.
func reason(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

const (
	viewer   = swanherdv1.Role_ROLE_VIEWER
	operator = swanherdv1.Role_ROLE_OPERATOR
	admin    = swanherdv1.Role_ROLE_ADMIN
)

// People may do what their bindings give, there where it is given, in their own name.
func TestPeopleHaveTheRolesOfTheirBindings(t *testing.T) {
	c, p := startSignIn(t, time.Hour)
	nobody := &terminal{c: c, config: filepath.Join(t.TempDir(), "config.yaml")}
	code, text := nobody.signsIn(nobody.login(p), signInURL, func(at string) { p.Visit(p.Browser(p.Roots()), at, "alice") })
	if code != 5 || !strings.Contains(text, "email:alice@example.net has no role") {
		t.Errorf("without a binding: exit code %d, %s", code, text)
	}
	if _, err := c.topology().CreateNetwork(t.Context(), &swanherdv1.CreateNetworkRequest{NetworkId: "other"}); err != nil {
		t.Fatal(err)
	}
	c.terminal().says(0, "", "role grant operator group:noc --in demo", "group:noc is operator in networks/demo")
	alice := c.signedIn(p, "alice")
	alice.says(0, "", "whoami", "email:alice@example.net", "OPERATOR", "demo")
	alice.says(0, "", "get networks", "demo", "!other")
	alice.says(0, "", "delete site rome", "rome deleted")
	alice.says(5, "", "get sites --network other", "may not act in networks/other")
	alice.says(5, "", "apitoken list", "needs ROLE_ADMIN")
	alice.says(5, "", "dashboard", "is for who has an API token")
	c.terminal().says(0, "", "events --filter action=site.delete", "email:alice@example.net")
	if x := alice.context(); x.Token != "" || x.OIDC.IDToken == "" || x.OIDC.RefreshToken == "" {
		t.Errorf("stored: %+v", x)
	}
	if info, err := os.Stat(alice.config); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file of the credentials: %v, %v", info.Mode(), err)
	}

	// The log has each sign-in once, however many calls are made with it.
	events, err := c.fleet().ListEvents(t.Context(), &swanherdv1.ListEventsRequest{Parent: "networks/-", Filter: `action="signIn.accept" OR action="signIn.refuse"`})
	if err != nil {
		t.Fatal(err)
	}
	var signIns []string
	for _, e := range events.GetEvents() {
		signIns = append(signIns, e.GetAction()+" "+e.GetActor()+" from "+e.GetSource().GetAddress())
	}
	if got := strings.Join(signIns, ", "); got != "signIn.accept email:alice@example.net from 127.0.0.1, signIn.refuse email:alice@example.net from 127.0.0.1" {
		t.Errorf("the sign-ins in the log are %s", got)
	}

	// Of two roles each is good where it was given, and the higher one not where the lower is.
	c.bind("email:BOB@example.net", viewer)
	c.bind("subject:bob", admin, "networks/demo")
	bob := c.signedIn(p, "bob")
	bob.says(0, "", "whoami", "email:bob@example.net", "ADMIN", "demo")
	bob.says(0, "", "get networks", "demo", "other")
	bob.says(0, "", "delete site oslo", "oslo deleted")
	bob.says(5, "", "delete network other", "may not act in networks/other")
	bob.says(5, "", "apitoken list", "concerns all networks")
	bob.says(5, "", "role list", "concerns all networks")
	bob.says(3, "", "apitoken rotate self", "without an API token")
	bob.says(5, "", "apitoken delete admin", "its own token only")

	// An address counts only if the provider verified it.
	c.bind("email:alice@example.net", admin)
	mallory := &terminal{c: c, config: filepath.Join(t.TempDir(), "config.yaml")}
	code, text = mallory.signsIn(mallory.login(p), signInURL, func(at string) { p.Visit(p.Browser(p.Roots()), at, "mallory") })
	if code != 5 || !strings.Contains(text, "subject:mallory has no role") {
		t.Errorf("with an address that is not verified: exit code %d, %s", code, text)
	}
	alice.says(0, "", "role list", "group:noc", "email:BOB@example.net")
}

// A role that was taken away is gone at once, and what is open by it ends.
func TestRoleIsTakenAwayAtOnce(t *testing.T) {
	c, p := startSignIn(t, time.Hour)
	b := c.bind("group:noc", viewer, "networks/demo")
	token := c.signedIn(p, "alice").context().OIDC.IDToken
	watch, err := swanherdv1.NewTopologyServiceClient(c.dial(token)).Watch(t.Context(), &swanherdv1.WatchRequest{Parent: "networks/demo"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	c.unbind(b)
	if err := c.whoAmI(token); status.Code(err) != codes.PermissionDenied {
		t.Errorf("the next call: %v", err)
	}
	for err == nil {
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("the open stream: %v", err)
	}
}

// Only what the provider made for this controller counts, for as long as it says.
func TestIDTokensAreProved(t *testing.T) {
	c, p := startSignIn(t, 3*time.Second)
	for _, group := range []string{"group:all", "group:noc"} {
		c.bind(group, viewer)
	}
	other := startController(t, func(cfg *server.Config) {
		cfg.OIDC = p.Settings()
		cfg.OIDC.ClientID = "wiki"
	})
	other.knowsProvider()
	other.bind("group:noc", viewer)
	if err := c.whoAmI(other.signedIn(p, "alice").context().OIDC.IDToken); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a token for another client: %v", err)
	}
	alice, bob := c.signedIn(p, "alice").context().OIDC.IDToken, c.signedIn(p, "bob").context().OIDC.IDToken
	a, b := strings.Split(alice, "."), strings.Split(bob, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`))
	for what, token := range map[string]string{
		"another one's signature": a[0] + "." + a[1] + "." + b[2],
		"no signature":            none + "." + a[1] + ".",
		"a part":                  a[0] + "." + a[1] + ".",
		"no JSON":                 a[0] + ".e30." + a[2],
	} {
		if err := c.whoAmI(token); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: %v", what, err)
		}
	}
	c.eventually("the end of the token", func() bool {
		err := c.whoAmI(alice)
		return status.Code(err) == codes.Unauthenticated && strings.Contains(err.Error(), "expired")
	})
	// A token that was good is none that somebody guesses; others are.
	for range 30 {
		if err := c.whoAmI(alice); status.Code(err) != codes.Unauthenticated {
			t.Fatalf("an old token again: %v", err)
		}
	}
	for range 30 {
		_ = c.whoAmI(none + "." + a[1] + ".")
	}
	if err := c.whoAmI(none + "." + a[1] + "."); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("after thirty forged tokens: %v", err)
	}
}

// The command line goes on with another token when one ends, until one signs out.
func TestSignInIsRenewedAndEnded(t *testing.T) {
	c, p := startSignIn(t, 10*time.Second) // ends so soon that each command asks for another one
	c.bind("group:noc", viewer)
	x := &terminal{c: c, config: filepath.Join(t.TempDir(), "config.yaml")}
	code, text := x.signsIn(x.login(p)+" --device", deviceCode, func(code string) { p.Confirm(code, "alice", "allowed") })
	if code != 0 {
		t.Fatalf("by device: %s", text)
	}
	first := x.context().OIDC
	x.says(0, "", "whoami", "email:alice@example.net")
	if second := x.context().OIDC; second.RefreshToken == first.RefreshToken || second.RefreshToken == "" || second.IDToken == first.IDToken {
		t.Error("the command did not ask for another token, and store it")
	}
	stored, err := os.ReadFile(x.config)
	if err != nil {
		t.Fatal(err)
	}
	x.says(0, "", "logout", "signed out", "!warning")
	x.says(64, "", "whoami", "not signed in")
	if err := os.WriteFile(x.config, stored, 0o600); err != nil {
		t.Fatal(err)
	}
	x.says(1, "", "whoami", "could not be renewed")

	denied := &terminal{c: c, config: filepath.Join(t.TempDir(), "config.yaml")}
	code, text = denied.signsIn(denied.login(p)+" --device", deviceCode, func(code string) { p.Confirm(code, "alice", "denied") })
	if code != 1 || !strings.Contains(text, "access_denied") {
		t.Errorf("who refuses: exit code %d, %s", code, text)
	}
}

// Who is signed in goes on when the provider is down. Nobody new is let in, and told why.
func TestProviderMayBeDown(t *testing.T) {
	c, p := startSignIn(t, time.Hour)
	c.bind("group:noc", viewer)
	token := c.signedIn(p, "alice").context().OIDC.IDToken
	if err := c.whoAmI(token); err != nil {
		t.Fatal(err)
	}
	p.Stop()
	if err := c.whoAmI(token); err != nil {
		t.Errorf("who was signed in: %v", err)
	}
	if err := c.whoAmI(c.token); err != nil {
		t.Errorf("an API token: %v", err)
	}
	c.restart()
	if err := c.whoAmI(token); status.Code(err) != codes.Unavailable || reason(err) != access.ReasonProviderUnavailable {
		t.Errorf("without the provider's keys: %v", err)
	}
	p.Restart() // with other keys
	c.eventually("the provider to be known", func() bool {
		return status.Code(c.whoAmI(token)) == codes.Unauthenticated
	})
	fresh := c.signedIn(p, "alice").context().OIDC.IDToken
	if err := c.whoAmI(fresh); err != nil {
		t.Errorf("with the new keys: %v", err)
	}
}

// Whatever happens to bindings and the provider, somebody can manage access.
func TestLastAdministratorStays(t *testing.T) {
	c := startController(t)
	x := c.terminal()
	x.says(3, "", "apitoken delete self", "apiTokens/admin")
	_, err := c.access().RotateApiToken(t.Context(), &swanherdv1.RotateApiTokenRequest{
		Name: "apiTokens/admin", ExpireTime: timestamppb.New(time.Now().Add(time.Hour)),
	})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "make another one first") {
		t.Errorf("the last administrator's token is made to end: %v", err)
	}
	for _, limited := range []string{"--in demo", "--ttl 1h"} {
		x.says(0, "", "apitoken create --role admin "+limited, "swa_")
	}
	x.says(3, "", "apitoken delete self", "apiTokens/admin")
	x.says(0, "", "apitoken rotate self", "swa_") // is the same one's
}

// Two administrators who delete each other's token at once leave one.
func TestAdministratorsDoNotLockEachOtherOut(t *testing.T) {
	c := startController(t)
	for range 5 {
		second, err := c.access().CreateApiToken(t.Context(), &swanherdv1.CreateApiTokenRequest{ApiToken: &swanherdv1.ApiToken{Role: admin}})
		if err != nil {
			t.Fatal(err)
		}
		first := c.ownToken()
		one, other := c.access(), swanherdv1.NewAccessServiceClient(c.dial(second.GetSecret()))
		var group sync.WaitGroup
		errs := make([]error, 2)
		group.Go(func() {
			_, errs[0] = one.DeleteApiToken(t.Context(), &swanherdv1.DeleteApiTokenRequest{Name: second.GetName()})
		})
		group.Go(func() {
			_, errs[1] = other.DeleteApiToken(t.Context(), &swanherdv1.DeleteApiTokenRequest{Name: first})
		})
		group.Wait()
		if errs[0] == nil && errs[1] == nil {
			t.Fatal("both are gone")
		}
		if errs[1] == nil {
			c.token = second.GetSecret()
		} else if errs[0] != nil {
			t.Fatalf("neither is gone: %v", errs)
		}
		if err := c.whoAmI(c.token); err != nil {
			t.Fatalf("who is left: %v", err)
		}
	}
}

// ownToken is the name of the token in use.
func (c *controller) ownToken() string {
	c.t.Helper()
	who, err := c.access().WhoAmI(c.t.Context(), &swanherdv1.WhoAmIRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	return "apiTokens/" + strings.TrimPrefix(who.GetActor(), "token:")
}
