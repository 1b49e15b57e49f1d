package dashboard

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// attemptCookie holds what a sign-in with the identity provider began with, until
	// the browser comes back with a code.
	attemptCookie = "__Host-swanherd-signin"
	attemptLife   = 10 * time.Minute
	callbackPath  = "/auth/oidc/callback"
	// maxCookie is what browsers keep of a cookie, its name and attributes included
	// (RFC 6265, Section 6.1).
	maxCookie       = 4096 - 256
	providerTimeout = 10 * time.Second
)

// provider signs browsers in with the controller's identity provider: by a code and PKCE
// (RFC 7636), in this process, so that no script sees a token. The session is the ID
// token in the cookie, and ends when that does.
type provider struct {
	signIn swanherdv1.SignInServiceClient
	access swanherdv1.AccessServiceClient
	client *http.Client
	asks   *rate.Limiter
	known  atomic.Pointer[describedProvider]
}

type describedProvider struct {
	provider *oidc.Provider
	config   oauth2.Config
}

// newProvider returns a provider; roots are the authorities of its certificate, nil: the
// system's.
func newProvider(conn grpc.ClientConnInterface, roots *x509.CertPool) *provider {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	return &provider{
		signIn: swanherdv1.NewSignInServiceClient(conn), access: swanherdv1.NewAccessServiceClient(conn),
		client: &http.Client{Transport: transport, Timeout: providerTimeout},
		asks:   rate.NewLimiter(rate.Every(time.Second), 5),
	}
}

// describe tells the user interface whether there is a provider.
func (p *provider) describe(w http.ResponseWriter, r *http.Request) {
	found, err := p.signIn.GetIdentityProvider(r.Context(), &swanherdv1.GetIdentityProviderRequest{})
	if err != nil {
		http.Error(w, "the controller does not answer", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{"issuer": found.GetIssuer()}) // a browser that left is no error of ours
}

var errNoProvider = errors.New("the controller has no identity provider; ask it for a sign-in link (swanherd dashboard)")

// described asks the controller which provider there is, and that where to sign in; once.
func (p *provider) described(ctx context.Context) (*describedProvider, error) {
	if d := p.known.Load(); d != nil {
		return d, nil
	}
	if !p.asks.Allow() {
		return nil, errors.New("the identity provider did not answer just now; wait a moment")
	}
	found, err := p.signIn.GetIdentityProvider(ctx, &swanherdv1.GetIdentityProviderRequest{})
	if err != nil {
		return nil, errors.New("the controller does not answer")
	}
	if found.GetIssuer() == "" {
		return nil, errNoProvider
	}
	asked, err := oidc.NewProvider(oidc.ClientContext(ctx, p.client), found.GetIssuer())
	if err != nil {
		return nil, errors.New("the identity provider does not answer; try again, or ask the controller for a sign-in link (swanherd dashboard)")
	}
	endpoint := asked.Endpoint()
	endpoint.AuthStyle = oauth2.AuthStyleInParams // a public client has no secret to prove
	d := &describedProvider{asked, oauth2.Config{
		ClientID: found.GetClientId(), Endpoint: endpoint,
		// A browser's session is not renewed.
		Scopes: slices.DeleteFunc(found.GetScopes(), func(s string) bool { return s == oidc.ScopeOfflineAccess }),
	}}
	p.known.Store(d)
	return d, nil
}

// forRequest is the client of the provider as that request reaches it.
func (d *describedProvider) forRequest(r *http.Request) oauth2.Config {
	c := d.config
	c.RedirectURL = "https://" + r.Host + callbackPath // the provider knows those that are right
	return c
}

// begin sends the browser to the provider.
func (p *provider) begin(w http.ResponseWriter, r *http.Request) {
	d, err := p.described(r.Context())
	if err != nil {
		code := http.StatusServiceUnavailable
		if errors.Is(err, errNoProvider) {
			code = http.StatusNotFound
		}
		http.Error(w, err.Error(), code)
		return
	}
	state, nonce, verifier := rand.Text(), rand.Text(), oauth2.GenerateVerifier()
	cookie := newCookie(strings.Join([]string{state, nonce, verifier}, "."))
	cookie.Name, cookie.MaxAge = attemptCookie, int(attemptLife.Seconds())
	cookie.SameSite = http.SameSiteLaxMode // it comes back from the provider's site
	http.SetCookie(w, cookie)
	config := d.forRequest(r)
	http.Redirect(w, r, config.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier)), http.StatusSeeOther)
}

// callback makes a session of the code that the browser brings.
func (p *provider) callback(w http.ResponseWriter, r *http.Request) {
	over := newCookie("")
	over.Name, over.MaxAge = attemptCookie, -1
	http.SetCookie(w, over) // an attempt is for one code
	token, expiry, err := p.redeem(r)
	if err != nil {
		http.Error(w, "sign-in failed: "+err.Error(), http.StatusForbidden)
		return
	}
	cookie := newCookie(token)
	cookie.Expires = expiry
	http.SetCookie(w, cookie)
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// redeem proves that the code is the answer to an attempt of this browser, and returns
// the ID token that it is for.
func (p *provider) redeem(r *http.Request) (string, time.Time, error) {
	var none time.Time
	d, err := p.described(r.Context())
	if err != nil {
		return "", none, err
	}
	attempt, err := r.Cookie(attemptCookie)
	if err != nil {
		return "", none, errors.New("this browser began none, or too long ago; begin again")
	}
	parts := strings.Split(attempt.Value, ".")
	query := r.URL.Query()
	if len(parts) != 3 || !same(query.Get("state"), parts[0]) || query.Has("iss") && !d.is(query.Get("iss")) { // RFC 9207
		return "", none, errors.New("this is the answer to another one; begin again")
	}
	if query.Get("code") == "" {
		return "", none, fmt.Errorf("the identity provider refused (%q)", query.Get("error"))
	}
	ctx := oidc.ClientContext(r.Context(), p.client)
	config := d.forRequest(r)
	token, err := config.Exchange(ctx, query.Get("code"), oauth2.VerifierOption(parts[2]))
	if err != nil {
		return "", none, errors.New("the identity provider does not take its code back; begin again")
	}
	raw, _ := token.Extra("id_token").(string)
	id, err := d.provider.VerifierContext(ctx, &oidc.Config{ClientID: config.ClientID}).Verify(ctx, raw)
	if err != nil || !same(id.Nonce, parts[1]) {
		return "", none, errors.New("the ID token is not for this sign-in; begin again")
	}
	if len(raw) > maxCookie {
		return "", none, fmt.Errorf("the ID token has %d octets, and a browser keeps %d; have the identity provider send fewer groups", len(raw), maxCookie)
	}
	return raw, id.Expiry, p.welcome(r.Context(), raw)
}

func (d *describedProvider) is(issuer string) bool {
	var claims struct {
		Issuer string `json:"issuer"`
	}
	return d.provider.Claims(&claims) == nil && claims.Issuer == issuer
}

// welcome asks the controller whether the token is good for anything.
func (p *provider) welcome(ctx context.Context, token string) error {
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	_, err := p.access.WhoAmI(ctx, &swanherdv1.WhoAmIRequest{})
	switch status.Code(err) {
	case codes.OK:
		return nil
	case codes.PermissionDenied, codes.Unauthenticated:
		return errors.New(status.Convert(err).Message())
	default:
		return errors.New("the controller does not answer")
	}
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
