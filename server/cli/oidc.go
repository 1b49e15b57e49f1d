package cli

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	providerTimeout = 30 * time.Second
	// refreshBefore is how long before the end of an ID token another one is asked for.
	refreshBefore = 30 * time.Second
	callbackPath  = "/callback"
)

// IDSession is a sign-in with the identity provider.
type IDSession struct {
	Issuer   string   `yaml:"issuer"`
	ClientID string   `yaml:"client_id"`
	Scopes   []string `yaml:"scopes"`
	// CAFile holds the authorities of the provider's certificate; empty: the system's.
	CAFile       string    `yaml:"ca_file,omitempty"`
	IDToken      string    `yaml:"id_token"`
	RefreshToken string    `yaml:"refresh_token,omitempty"`
	Expiry       time.Time `yaml:"expiry"`
}

// idClient is the command line as a public client of the provider (RFC 8252).
type idClient struct {
	session  *IDSession
	provider *oidc.Provider
	config   oauth2.Config
}

// client asks the provider where to sign in. The context that it returns is for calls
// to the provider.
func (x *IDSession) client(ctx context.Context) (context.Context, *idClient, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if x.CAFile != "" {
		pem, err := os.ReadFile(x.CAFile)
		if err != nil {
			return nil, nil, usagef("read --oidc-ca: %w", err)
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, nil, usagef("read --oidc-ca: %s holds no certificate in PEM", x.CAFile)
		}
	}
	ctx = oidc.ClientContext(ctx, &http.Client{Transport: transport, Timeout: providerTimeout})
	provider, err := oidc.NewProvider(ctx, x.Issuer)
	if err != nil {
		return nil, nil, fmt.Errorf("ask the identity provider %s: %w", x.Issuer, err)
	}
	endpoint := provider.Endpoint()
	endpoint.AuthStyle = oauth2.AuthStyleInParams // a public client has no secret to prove
	return ctx, &idClient{session: x, provider: provider, config: oauth2.Config{ClientID: x.ClientID, Endpoint: endpoint, Scopes: x.Scopes}}, nil
}

// take takes over what the provider issued. nonce is what the token must have; empty: a
// flow in which there is none.
func (c *idClient) take(ctx context.Context, token *oauth2.Token, nonce string) error {
	raw, ok := token.Extra("id_token").(string)
	if !ok {
		return errors.New("the identity provider issued no ID token; sign in again")
	}
	id, err := c.provider.VerifierContext(ctx, &oidc.Config{ClientID: c.session.ClientID}).Verify(ctx, raw)
	if err != nil {
		return fmt.Errorf("verify the ID token: %w", err)
	}
	if nonce != "" && subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(nonce)) != 1 {
		return errors.New("the ID token is from another sign-in; sign in again")
	}
	c.session.IDToken, c.session.Expiry = raw, id.Expiry
	if token.RefreshToken != "" {
		c.session.RefreshToken = token.RefreshToken
	}
	return nil
}

// signInByDevice has the person confirm a code on any device with a browser (RFC 8628).
func (s *session) signInByDevice(ctx context.Context, x *IDSession) error {
	ctx, c, err := x.client(ctx)
	if err != nil {
		return err
	}
	if c.config.Endpoint.DeviceAuthURL == "" {
		return usagef("the identity provider %s has no device flow; sign in without --device", x.Issuer)
	}
	auth, err := c.config.DeviceAuth(ctx)
	if err != nil {
		return fmt.Errorf("start the device flow: %w", err)
	}
	fmt.Fprintf(s.Err, "open %s and enter the code %s\n", auth.VerificationURI, auth.UserCode)
	if auth.VerificationURIComplete != "" {
		fmt.Fprintf(s.Err, "or open %s\n", auth.VerificationURIComplete)
	}
	token, err := c.config.DeviceAccessToken(ctx, auth)
	if err != nil {
		return fmt.Errorf("wait for the sign-in: %w", err)
	}
	return c.take(ctx, token, "")
}

// signInByBrowser has the person sign in with a browser of this machine: by a code that
// comes back over loopback (RFC 8252, Section 7.3), and that only who began can use
// (PKCE, RFC 7636).
func (s *session) signInByBrowser(ctx context.Context, x *IDSession) error {
	ctx, c, err := x.client(ctx)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen for the answer of the browser: %w", err)
	}
	state, nonce, verifier := rand.Text(), rand.Text(), oauth2.GenerateVerifier()
	c.config.RedirectURL = "http://" + listener.Addr().String() + callbackPath
	fmt.Fprintf(s.Err, "open in a browser of this machine:\n%s\n",
		c.config.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier)))
	code, err := awaitCode(ctx, listener, state, x.Issuer)
	if err != nil {
		return err
	}
	token, err := c.config.Exchange(ctx, code, oauth2.VerifierOption(verifier))
	if err != nil {
		return fmt.Errorf("redeem the code: %w", err)
	}
	return c.take(ctx, token, nonce)
}

// awaitCode waits until the browser brings a code. What is not an answer to this sign-in
// is refused, and waited on.
func awaitCode(ctx context.Context, listener net.Listener, state, issuer string) (string, error) {
	type answer struct {
		code string
		err  error
	}
	answers := make(chan answer, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+callbackPath, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(state)) != 1 || q.Has("iss") && q.Get("iss") != issuer { // RFC 9207
			http.Error(w, "this is no answer to the sign-in that waits here; start again", http.StatusBadRequest)
			return
		}
		a := answer{code: q.Get("code")}
		if a.code == "" {
			a.err = fmt.Errorf("the identity provider refused: %s %s", q.Get("error"), q.Get("error_description"))
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "You may close this window and go on in the terminal.")
		select {
		case answers <- a:
		default: // the first one counts
		}
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: providerTimeout}
	go server.Serve(listener)
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = server.Shutdown(stop) // the browser has its answer, or has waited long enough
	}()
	select {
	case a := <-answers:
		return a.code, a.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// refresh gets another ID token if the present one ends soon.
func (x *IDSession) refresh(ctx context.Context, now time.Time) (changed bool, err error) {
	if now.Before(x.Expiry.Add(-refreshBefore)) {
		return false, nil
	}
	if x.RefreshToken == "" {
		return false, usagef("the sign-in has expired; run `swanherd login --oidc` again")
	}
	ctx, c, err := x.client(ctx)
	if err != nil {
		return false, err
	}
	token, err := c.config.TokenSource(ctx, &oauth2.Token{RefreshToken: x.RefreshToken}).Token()
	if err != nil {
		return false, fmt.Errorf("the sign-in could not be renewed; run `swanherd login --oidc` again: %w", err)
	}
	return true, c.take(ctx, token, "")
}

// refreshed is the context with a token that is good, which is stored.
func (s *session) refreshed(ctx context.Context, x *Context) (*Context, error) {
	if x.OIDC == nil {
		return x, nil
	}
	used := x.OIDC.RefreshToken
	changed, err := x.OIDC.refresh(ctx, time.Now())
	if err == nil && !changed {
		return x, nil
	}
	cfg, loadErr := loadConfig(s.configFile)
	if loadErr != nil {
		return nil, errors.Join(err, loadErr)
	}
	stored, findErr := cfg.find(x.Name)
	if findErr != nil {
		return nil, errors.Join(err, findErr)
	}
	if err != nil {
		if stored.OIDC != nil && stored.OIDC.RefreshToken != used && time.Now().Before(stored.OIDC.Expiry) {
			return stored, nil // another command was faster with a token that works once
		}
		return nil, err
	}
	stored.OIDC = x.OIDC
	return stored, cfg.save(s.configFile)
}

// revoke tells the provider to forget the sign-in (RFC 7009), if it can.
func (x *IDSession) revoke(ctx context.Context) error {
	if x.RefreshToken == "" {
		return nil
	}
	ctx, c, err := x.client(ctx)
	if err != nil {
		return err
	}
	var where struct {
		Revocation string `json:"revocation_endpoint"`
	}
	if err := c.provider.Claims(&where); err != nil {
		return err
	}
	if where.Revocation == "" {
		return nil
	}
	form := url.Values{"token": {x.RefreshToken}, "token_type_hint": {"refresh_token"}, "client_id": {x.ClientID}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, where.Revocation, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := ctx.Value(oauth2.HTTPClient).(*http.Client).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the identity provider answers %s", resp.Status)
	}
	return nil
}

// identityProvider asks the controller how people sign in to it.
func identityProvider(ctx context.Context, x *Context) (*IDSession, error) {
	conn, err := Connect(x)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	p, err := swanherdv1.NewSignInServiceClient(conn).GetIdentityProvider(ctx, &swanherdv1.GetIdentityProviderRequest{})
	if err != nil {
		return nil, err
	}
	if p.GetIssuer() == "" {
		return nil, usagef("the controller has no identity provider (swanherd-server --oidc-issuer); sign in with an API token")
	}
	return &IDSession{Issuer: p.GetIssuer(), ClientID: p.GetClientId(), Scopes: p.GetScopes()}, nil
}
