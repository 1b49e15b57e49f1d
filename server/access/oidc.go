package access

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/time/rate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	providerTimeout = 10 * time.Second
	// discoveryInterval is after what time a provider is asked again that did not answer
	// at the start.
	discoveryInterval = 5 * time.Second
	// keysInterval is how often its keys are fetched at most, whatever keys tokens name.
	keysInterval, keysBurst = 5 * time.Second, 2
	// maxIDToken bounds the tokens that are looked at, in octets.
	maxIDToken = 16 << 10
)

// signingAlgs are the signatures of ID tokens that are taken, those of key pairs: an
// HMAC would make the client's name or secret the key, and "none" is none.
var signingAlgs = []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA}

// OIDC says which identity provider's people may sign in.
type OIDC struct {
	// Issuer is the provider's URL, as its tokens have it.
	Issuer string
	// ClientID is what the controller is to the provider; tokens are for it.
	ClientID string
	// GroupsClaim names the claim with a person's groups.
	GroupsClaim string
	// RootCAs are the authorities of the provider's certificate; nil: the system's.
	RootCAs *x509.CertPool
}

// provider verifies ID tokens. The provider's keys stay in memory, so who has a token
// goes on when it is down.
type provider struct {
	cfg      OIDC
	log      *slog.Logger
	client   *http.Client
	keys     *keyFetcher
	verifier atomic.Pointer[oidc.IDTokenVerifier] // nil until the provider has answered
}

func newProvider(cfg OIDC, log *slog.Logger) *provider {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.RootCAs}
	return &provider{
		cfg: cfg, log: log,
		client: &http.Client{Transport: transport, Timeout: providerTimeout},
		keys:   &keyFetcher{next: transport, limit: rate.NewLimiter(rate.Every(keysInterval), keysBurst)},
	}
}

// run asks the provider where its keys are, until it answers or ctx ends.
func (p *provider) run(ctx context.Context) {
	for warned := ""; ; {
		found, err := oidc.NewProvider(oidc.ClientContext(ctx, p.client), p.cfg.Issuer)
		if err == nil {
			err = p.found(ctx, found)
		}
		if err == nil {
			return
		}
		if ctx.Err() == nil && warned != err.Error() {
			p.log.Warn("the identity provider does not answer; people cannot sign in with it", "issuer", p.cfg.Issuer, "error", err)
			warned = err.Error()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(discoveryInterval):
		}
	}
}

// found takes from the provider's description where its keys are.
func (p *provider) found(ctx context.Context, described *oidc.Provider) error {
	var where struct {
		Keys string `json:"jwks_uri"`
	}
	if err := described.Claims(&where); err != nil {
		return err
	}
	if !strings.HasPrefix(where.Keys, "https://") {
		return fmt.Errorf("jwks_uri %q of the provider is no https:// URL", where.Keys)
	}
	fetch := oidc.ClientContext(ctx, &http.Client{Transport: p.keys, Timeout: providerTimeout})
	p.verifier.Store(oidc.NewVerifier(p.cfg.Issuer, keySet{oidc.NewRemoteKeySet(fetch, where.Keys)},
		&oidc.Config{ClientID: p.cfg.ClientID, SupportedSigningAlgs: signingAlgs}))
	return nil
}

// verify returns who an ID token is of, and until when.
func (p *provider) verify(ctx context.Context, raw string) (*identity, time.Time, error) {
	v := p.verifier.Load()
	if v == nil {
		return nil, time.Time{}, errNoProvider(p.cfg.Issuer)
	}
	var unproved error
	var expired *oidc.TokenExpiredError
	token, err := v.Verify(context.WithValue(ctx, unprovedKey{}, &unproved), raw)
	switch {
	case errors.Is(unproved, errProviderFails), unproved != nil && ctx.Err() != nil:
		return nil, time.Time{}, errNoProvider(p.cfg.Issuer)
	case errors.As(err, &expired):
		return nil, time.Time{}, errOldIDToken
	case err != nil:
		return nil, time.Time{}, errBadIDToken
	}
	who, err := p.identify(token)
	if err != nil {
		return nil, time.Time{}, errBadIDToken
	}
	return who, token.Expiry, nil
}

// identify takes from a token what bindings go by.
func (p *provider) identify(token *oidc.IDToken) (*identity, error) {
	var claims struct {
		AuthorizedParty string `json:"azp"`
		Email           string `json:"email"`
		EmailVerified   bool   `json:"email_verified"`
	}
	var all map[string]json.RawMessage
	if err := errors.Join(token.Claims(&claims), token.Claims(&all)); err != nil {
		return nil, err
	}
	// Of several audiences the one that it was made for must be this (OpenID Connect
	// Core 1.0, Section 3.1.3.7).
	if azp := claims.AuthorizedParty; azp != "" && azp != p.cfg.ClientID || azp == "" && len(token.Audience) > 1 {
		return nil, errors.New("the token was made for another client")
	}
	if !printable(token.Subject) {
		return nil, errors.New("the subject is empty, or no text of one line")
	}
	who := &identity{subject: token.Subject, groups: groupsIn(all[p.cfg.GroupsClaim])}
	if claims.EmailVerified && printable(claims.Email) {
		who.email = strings.ToLower(claims.Email)
	}
	return who, nil
}

// printable says whether a text can stand in the audit log as a name.
func printable(s string) bool {
	return s != "" && len(s) <= 255 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f })
}

// groupsIn are the groups of a claim, which is a list or one name.
func groupsIn(claim json.RawMessage) []string {
	var list []string
	var one string
	switch {
	case json.Unmarshal(claim, &list) == nil:
	case json.Unmarshal(claim, &one) == nil:
		list = []string{one}
	}
	return slices.DeleteFunc(list, func(g string) bool { return g == "" })
}

// keyFetcher fetches the provider's keys, so often that a new key is found soon, and
// not as often as somebody shows tokens with keys that there are not.
type keyFetcher struct {
	next  http.RoundTripper
	limit *rate.Limiter

	mu   sync.Mutex
	last error // of the last time; nil: there are keys
}

var (
	errProviderFails = errors.New("the identity provider does not give its keys")
	errTooOften      = errors.New("the keys were fetched just now")
)

// keySet tells verify why a signature was not proved: the verifier makes a text of it,
// in which a token may have its say.
type keySet struct{ oidc.KeySet }

type unprovedKey struct{}

// VerifySignature implements oidc.KeySet.
func (s keySet) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	payload, err := s.KeySet.VerifySignature(ctx, jwt)
	if why, ok := ctx.Value(unprovedKey{}).(*error); ok {
		*why = err
	}
	return payload, err
}

// RoundTrip implements http.RoundTripper.
func (f *keyFetcher) RoundTrip(r *http.Request) (*http.Response, error) {
	if !f.limit.Allow() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.last != nil {
			return nil, f.last
		}
		return nil, errTooOften
	}
	resp, err := f.next.RoundTrip(r)
	if err == nil && resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		err = fmt.Errorf("status %s", resp.Status)
	}
	if err != nil {
		err = fmt.Errorf("%w: %v", errProviderFails, err)
	}
	f.mu.Lock()
	f.last = err
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return resp, nil
}

var (
	errBadIDToken = status.Error(codes.Unauthenticated, "the ID token is not valid; sign in again (swanherd login --oidc)")
	// errOldIDToken is of a token that was good, so nobody guessed it.
	errOldIDToken = status.Error(codes.Unauthenticated, "the ID token has expired; sign in again (swanherd login --oidc)")
)

func errNoProvider(issuer string) error {
	return withDetails(codes.Unavailable,
		fmt.Sprintf("the identity provider %s does not answer, and its keys are not known; try again, or use an API token", issuer),
		&errdetails.RetryInfo{RetryDelay: durationpb.New(discoveryInterval)}, errorInfo(ReasonProviderUnavailable, nil))
}

// isIDToken says whether a bearer token has the form of a signed JWT (RFC 7515, Section 3.1).
func isIDToken(token string) bool {
	return len(token) <= maxIDToken && !strings.HasPrefix(token, apiTokenPrefix) && strings.Count(token, ".") == 2
}

// person authenticates by an ID token. What it may do is what its bindings give now; who
// has none is returned with the error, for the audit log.
func (k *Keeper) person(ctx context.Context, token string) (Principal, error) {
	who, expire, err := k.provider.verify(ctx, token)
	if err != nil {
		return Principal{}, err
	}
	return k.bound(ctx, who, expire)
}

// bound is the principal that the bindings make of somebody until its credential expires;
// who has no role is returned with the error, for the audit log.
func (k *Keeper) bound(ctx context.Context, who *identity, expire time.Time) (Principal, error) {
	grants := grantsOf(k.store.Snapshot(), who)
	if len(grants) == 0 { // another replica may just have made one
		grants = grantsOf(k.store.CatchUp(ctx), who)
	}
	p := Principal{Actor: who.actor(), Grants: grants, ExpireTime: expire, identity: who}
	if disabled(k.store.Snapshot(), who) {
		return p, status.Errorf(codes.PermissionDenied, "%s is locked out; an administrator lets it in again with `swanherd user enable`", who.actor())
	}
	if len(grants) == 0 {
		return p, status.Errorf(codes.PermissionDenied,
			"%s has no role; an administrator gives one with `swanherd role grant`", who.actor())
	}
	return p, nil
}

// RunProvider looks for the identity provider until it has answered or ctx ends.
func (k *Keeper) RunProvider(ctx context.Context) {
	if k.provider != nil {
		k.provider.run(ctx)
	}
}

// IdentityProvider is what programs need to know to sign people in.
func (k *Keeper) IdentityProvider() *swanherdv1.IdentityProvider {
	if k.provider == nil {
		return &swanherdv1.IdentityProvider{}
	}
	return &swanherdv1.IdentityProvider{
		Issuer: k.provider.cfg.Issuer, ClientId: k.provider.cfg.ClientID,
		Scopes: []string{oidc.ScopeOpenID, "email", "groups", oidc.ScopeOfflineAccess},
	}
}
