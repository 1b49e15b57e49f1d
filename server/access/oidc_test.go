package access

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/time/rate"
)

// Who somebody is, by the claims of a token whose signature is proved.
func TestIdentityOfClaims(t *testing.T) {
	p := &provider{cfg: OIDC{Issuer: "https://id.example.net", ClientID: "swanherd", GroupsClaim: "roles"}}
	verifier := oidc.NewVerifier(p.cfg.Issuer, nil, &oidc.Config{ClientID: "swanherd", SkipExpiryCheck: true, InsecureSkipSignatureCheck: true})
	for _, x := range []struct{ claims, want string }{
		{`"aud":"swanherd","sub":"a"`, "subject:a []"},
		{`"aud":"swanherd","sub":"a","azp":"swanherd"`, "subject:a []"},
		{`"aud":["swanherd","wiki"],"sub":"a","azp":"swanherd"`, "subject:a []"},
		{`"aud":["swanherd","wiki"],"sub":"a","azp":"wiki"`, "refused"},
		{`"aud":["swanherd","wiki"],"sub":"a"`, "refused"},
		{`"aud":"swanherd","sub":"a","azp":"wiki"`, "refused"},
		{`"aud":"swanherd"`, "refused"},
		{`"aud":"swanherd","sub":"a\nb"`, "refused"},
		{`"aud":"swanherd","sub":"a","email":"A@example.net","email_verified":true`, "email:a@example.net []"},
		{`"aud":"swanherd","sub":"a","email":"A@example.net","email_verified":false`, "subject:a []"},
		{`"aud":"swanherd","sub":"a","email":"A@example.net"`, "subject:a []"},
		{`"aud":"swanherd","sub":"a","email":"a\u0000@example.net","email_verified":true`, "subject:a []"},
		{`"aud":"swanherd","sub":"a","roles":["x","","y z"]`, "subject:a [x|y z]"},
		{`"aud":"swanherd","sub":"a","roles":"x"`, "subject:a [x]"},
		{`"aud":"swanherd","sub":"a","roles":{"x":1}`, "subject:a []"},
		{`"aud":"swanherd","sub":"a","groups":["x"]`, "subject:a []"},
	} {
		encode := base64.RawURLEncoding.EncodeToString
		token, err := verifier.Verify(t.Context(), encode([]byte(`{"alg":"none"}`))+"."+encode([]byte(`{"iss":"https://id.example.net",`+x.claims+`}`))+".")
		if err != nil {
			t.Fatalf("%s: %v", x.claims, err)
		}
		got := "refused"
		if who, err := p.identify(token); err == nil {
			got = who.actor() + " [" + strings.Join(who.groups, "|") + "]"
		}
		if got != x.want {
			t.Errorf("%s: %s, want %s", x.claims, got, x.want)
		}
	}
}

func TestMembersOfBindings(t *testing.T) {
	who := &identity{subject: "a", email: "a@example.net", groups: []string{"noc"}}
	for member, want := range map[string]bool{
		"subject:a": true, "subject:A": false, "subject:a@example.net": false, "email:A@Example.net": true, "email:a": false,
		"group:noc": true, "group:NOC": false, "group:a": false, "noc": false, "": false,
	} {
		if who.is(member) != want {
			t.Errorf("%q: %t", member, !want)
		}
	}
	if (&identity{subject: "a"}).is("email:") {
		t.Error("who has no address is everybody who has none")
	}
}

// Tokens with keys that there are not make no more requests than there may be, and the
// provider's failure is not taken for theirs.
func TestKeysAreFetchedSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, answer := 0, http.StatusOK
		f := &keyFetcher{limit: rate.NewLimiter(rate.Every(keysInterval), keysBurst), next: roundTripper(func() (*http.Response, error) {
			asked++
			w := httptest.NewRecorder()
			w.WriteHeader(answer)
			return w.Result(), nil
		})}
		ask := func() error {
			resp, err := f.RoundTrip(httptest.NewRequest(http.MethodGet, "https://id.example.net/keys", nil))
			if err == nil {
				resp.Body.Close()
			}
			return err
		}
		for range 100 {
			if err := ask(); err != nil && !errors.Is(err, errTooOften) {
				t.Fatal(err)
			}
		}
		if asked != keysBurst {
			t.Errorf("a hundred tokens made %d requests", asked)
		}
		time.Sleep(keysInterval)
		answer = http.StatusBadGateway
		for range 2 { // the second is not asked, and told the same
			if err := ask(); !errors.Is(err, errProviderFails) {
				t.Errorf("the provider fails: %v", err)
			}
		}
		time.Sleep(keysInterval)
		answer = http.StatusOK
		if err := ask(); err != nil {
			t.Errorf("the provider is back: %v", err)
		}
		if err := ask(); !errors.Is(err, errTooOften) {
			t.Errorf("and asked again: %v", err)
		}
	})
}

type roundTripper func() (*http.Response, error)

func (f roundTripper) RoundTrip(*http.Request) (*http.Response, error) { return f() }
