package access

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// Defaults of what a request leaves open.
const (
	DefaultEnrollmentTokenLife = 24 * time.Hour
	DefaultLinkLife            = 15 * time.Minute
	DefaultLinkSessionLife     = 8 * time.Hour
	janitorInterval            = 10 * time.Minute
)

// bootstrapToken is the administrator's token that the first start makes.
const bootstrapToken = "apiTokens/admin"

// Config configures a Keeper.
type Config struct {
	Store *store.Store
	// EdgeEndpoints, `host:port`, and CAPin, hexadecimal, which is the pin of the moment, go
	// into enrolment tokens.
	EdgeEndpoints []string
	CAPin         func() string
	// URL is the dashboard's, `https://host:7443`.
	URL string
	// OIDC is the identity provider of people; nil: they have API tokens.
	OIDC *OIDC
	// RateLimit is how often each principal may call; Limited is told of each call that
	// was refused for that, nil: nobody is.
	RateLimit RateLimit
	Limited   func()
	Log       *slog.Logger
}

// Keeper keeps tokens and login links, and authenticates who shows one. Its
// errors are gRPC statuses.
type Keeper struct {
	cfg      Config
	store    *store.Store
	failures *failureLimiter
	audits   *auditLimiter
	uses     *tokenUses
	provider *provider // nil: there is none
	signIns  *signIns
	calls    *callLimiter
}

// NewKeeper returns a keeper of what the store holds.
func NewKeeper(cfg Config) *Keeper {
	k := &Keeper{cfg: cfg, store: cfg.Store, failures: newFailureLimiter(), audits: newAuditLimiter(), uses: newTokenUses(), signIns: newSignIns(), calls: newCallLimiter(cfg.RateLimit)}
	if cfg.OIDC != nil {
		k.provider = newProvider(*cfg.OIDC, cfg.Log)
	}
	return k
}

// Bootstrap makes the administrator's token of a new store and returns its
// secret; empty when the store has tokens already. The secret is handed to keep
// before it is stored, as nobody could learn it later: a controller that ends
// between the two makes another one at its next start.
func (k *Keeper) Bootstrap(ctx context.Context, keep func(token string) error) (string, error) {
	if k.store.Snapshot().APITokens.Len() > 0 {
		return "", nil
	}
	secret := newSecret()
	_, id, _ := strings.Cut(bootstrapToken, "/")
	token := &swanherdv1.ApiToken{
		Name:        bootstrapToken,
		Role:        swanherdv1.Role_ROLE_ADMIN,
		Description: "made at the first start",
		CreateTime:  timestamppb.Now(),
	}
	if err := keep(formatAPIToken(id, secret)); err != nil {
		return "", err
	}
	err := k.putAPIToken(ctx, token, secret, "system", func(*store.Txn) error { return nil })
	if status.Code(err) == codes.AlreadyExists { // another replica was first
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("make the administrator's token: %w", err)
	}
	return formatAPIToken(id, secret), nil
}

// Authenticate returns who shows the token, an API token or an ID token. Whatever is
// wrong with it, the error is the same UNAUTHENTICATED.
func (k *Keeper) Authenticate(ctx context.Context, token string) (Principal, error) {
	if k.provider != nil && isIDToken(token) {
		return k.person(ctx, token)
	}
	id, secret, err := parseAPIToken(token)
	if err != nil {
		return Principal{}, errBadToken
	}
	row, ok := k.store.Snapshot().APITokens.Get("apiTokens/" + id)
	if !ok { // another replica may just have made it
		row, ok = k.store.CatchUp(context.Background()).APITokens.Get("apiTokens/" + id)
	}
	if !ok {
		matches(secret, hashSecret(nil)) // as long as for a known id
		return Principal{}, errBadToken
	}
	now, expire := time.Now(), row.Value.GetToken().GetExpireTime()
	current := matches(secret, row.Value.GetSecretSha256())
	previous := matches(secret, row.Value.GetPreviousSha256()) && now.Before(row.Value.GetPreviousEndTime().AsTime())
	if !current && !previous || expire != nil && !now.Before(expire.AsTime()) {
		return Principal{}, errBadToken
	}
	k.uses.note(row.Name, now)
	p := Principal{
		Actor: "token:" + id,
		Grants: []Grant{{
			Role: row.Value.GetToken().GetRole(), Networks: row.Value.GetToken().GetNetworks(), Labels: row.Value.GetToken().GetMatchLabels(),
		}},
	}
	if expire != nil {
		p.ExpireTime = expire.AsTime()
	}
	return p, nil
}

var errBadToken = status.Error(codes.Unauthenticated, "the API token is not valid; sign in again")

// CreateAPIToken makes a token and returns it with its secret. keep adds to the
// transaction what has to be remembered of the answer.
func (k *Keeper) CreateAPIToken(ctx context.Context, want *swanherdv1.ApiToken, keep func(*store.Txn, *swanherdv1.ApiToken) error) (*swanherdv1.ApiToken, error) {
	if err := inFuture("api_token.expire_time", want.GetExpireTime()); err != nil {
		return nil, err
	}
	for i, n := range want.GetNetworks() {
		if _, err := model.ParseNetworkName(n); err != nil {
			return nil, Invalid(fmt.Sprintf("api_token.networks[%d]", i), err.Error())
		}
	}
	token := &swanherdv1.ApiToken{
		Name:        "apiTokens/" + newID(),
		Role:        want.GetRole(),
		Networks:    want.GetNetworks(),
		Description: want.GetDescription(),
		ExpireTime:  want.GetExpireTime(),
		CreateTime:  timestamppb.Now(),
		MatchLabels: want.GetMatchLabels(),
	}
	return k.issue(ctx, token, PrincipalFrom(ctx).Actor, keep)
}

// issue stores the token under a new secret, which is in the answer only. more
// adds to the transaction.
func (k *Keeper) issue(ctx context.Context, token *swanherdv1.ApiToken, actor string, more func(*store.Txn, *swanherdv1.ApiToken) error) (*swanherdv1.ApiToken, error) {
	secret := newSecret()
	out := withAPISecret(token, secret)
	err := k.putAPIToken(ctx, token, secret, actor, func(t *store.Txn) error { return more(t, out) })
	if err != nil {
		return nil, err
	}
	return out, nil
}

// withAPISecret is the token as its owner gets it.
func withAPISecret(token *swanherdv1.ApiToken, secret []byte) *swanherdv1.ApiToken {
	out := proto.CloneOf(token)
	_, id, _ := strings.Cut(token.GetName(), "/")
	out.Secret = formatAPIToken(id, secret)
	return out
}

func (k *Keeper) putAPIToken(ctx context.Context, token *swanherdv1.ApiToken, secret []byte, actor string, more func(*store.Txn) error) error {
	t := k.store.Txn()
	k.store.APITokens.CreateIn(t, token.GetName(), &storev1.ApiToken{
		Token: token, SecretSha256: hashSecret(secret), Actor: actor,
	})
	message := "role " + strings.ToLower(strings.TrimPrefix(token.GetRole().String(), "ROLE_"))
	if len(token.GetMatchLabels()) > 0 {
		message += ", for what carries " + LabelText(token.GetMatchLabels())
	}
	k.store.AppendEventIn(t, store.NoNetwork, Audit(actor, token.GetName(), "apiToken.create", message))
	if err := more(t); err != nil {
		return err
	}
	return k.commit(ctx, t)
}

// commit commits t and waits until the keeper's own reads see it, so that a
// token works as soon as its owner has it.
func (k *Keeper) commit(ctx context.Context, t *store.Txn) error {
	revision, err := t.Commit(ctx)
	if err != nil {
		return StoreError(err)
	}
	if _, err := k.store.WaitRevision(ctx, revision); err != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	return nil
}

// RotateAPIToken gives the token another secret and returns it with that; the one
// before works for the grace. keep is as in CreateAPIToken.
func (k *Keeper) RotateAPIToken(ctx context.Context, name string, grace time.Duration, expire *timestamppb.Timestamp, keep func(*store.Txn, *swanherdv1.ApiToken) error) (*swanherdv1.ApiToken, error) {
	if err := inFuture("expire_time", expire); err != nil {
		return nil, err
	}
	row, err := k.store.APITokens.Get(ctx, name)
	if err != nil {
		return nil, StoreError(err)
	}
	now, secret := time.Now(), newSecret()
	changed := proto.CloneOf(row.Value)
	changed.PreviousSha256, changed.PreviousEndTime = row.Value.GetSecretSha256(), timestamppb.New(now.Add(grace))
	changed.SecretSha256 = hashSecret(secret)
	changed.Token.RotateTime = timestamppb.New(now)
	if expire != nil {
		changed.Token.ExpireTime = expire
	}
	t := k.store.Txn()
	if expire != nil {
		if err := k.keepAdministrator(t, row.Value.GetToken()); err != nil {
			return nil, err
		}
	}
	k.store.APITokens.UpdateIn(t, name, changed, row.Revision)
	k.store.AppendEventIn(t, store.NoNetwork, Audit(PrincipalFrom(ctx).Actor, name, "apiToken.rotate", fmt.Sprintf("the secret before works for %s more", grace)))
	out := withAPISecret(changed.GetToken(), secret)
	if err := keep(t, out); err != nil {
		return nil, err
	}
	if err := k.commit(ctx, t); err != nil {
		return nil, err
	}
	return out, nil
}

// DropAPIToken returns the transaction that revokes a token at once; its error may be the
// store's.
func (k *Keeper) DropAPIToken(ctx context.Context, name string) (*store.Txn, error) {
	row, err := k.store.APITokens.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	t := k.store.Txn()
	if err := k.keepAdministrator(t, row.Value.GetToken()); err != nil {
		return nil, err
	}
	k.store.APITokens.DeleteIn(t, name, row.Revision)
	k.store.TokenUses.DropIn(t, name)
	k.store.AppendEventIn(t, store.NoNetwork, Audit(PrincipalFrom(ctx).Actor, name, "apiToken.delete", ""))
	return t, nil
}

// CreateLoginLink makes a link that signs a browser in once, with at most the
// caller's own rights. keep is as in CreateAPIToken.
func (k *Keeper) CreateLoginLink(ctx context.Context, req *swanherdv1.CreateLoginLinkRequest, keep func(*store.Txn, *swanherdv1.LoginLink) error) (*swanherdv1.LoginLink, error) {
	p := PrincipalFrom(ctx)
	role := req.GetRole()
	if role == swanherdv1.Role_ROLE_UNSPECIFIED {
		role = swanherdv1.Role_ROLE_VIEWER
	}
	if role > p.Role() {
		return nil, status.Errorf(codes.PermissionDenied, "a login link has at most your own role, %s", p.Role())
	}
	if p.identity != nil { // its rights change with the bindings, and the link's would not
		return nil, status.Errorf(codes.PermissionDenied, "a login link is for who has an API token, which %s does not come with", p.Actor)
	}
	ttl, sessionTTL := DefaultLinkLife, DefaultLinkSessionLife
	if req.GetTtl() != nil {
		ttl = req.GetTtl().AsDuration()
	}
	if req.GetSessionTtl() != nil {
		sessionTTL = req.GetSessionTtl().AsDuration()
	}
	code := base64.RawURLEncoding.EncodeToString(newSecret())
	expire := timestamppb.New(time.Now().Add(ttl))
	link := &storev1.LoginLink{
		Name:       linkName(code),
		Role:       role,
		Networks:   p.Networks(),
		ExpireTime: expire,
		SessionTtl: durationpb.New(sessionTTL),
		Actor:      p.Actor,

		MatchLabels: p.Grants[0].Labels, // who has a token has one grant
	}
	t := k.store.Txn()
	k.store.LoginLinks.CreateIn(t, link.GetName(), link)
	k.store.AppendEventIn(t, store.NoNetwork, Audit(p.Actor, "loginLinks/"+link.GetName()[11:19], "loginLink.create", "role "+role.String()))
	out := &swanherdv1.LoginLink{Url: k.cfg.URL + "/#login=" + code, ExpireTime: expire}
	if err := keep(t, out); err != nil {
		return nil, err
	}
	if err := k.commit(ctx, t); err != nil {
		return nil, err
	}
	return out, nil
}

// RedeemLoginLink turns the code of a login link into an API token, once.
func (k *Keeper) RedeemLoginLink(ctx context.Context, code string) (*swanherdv1.ApiToken, error) {
	row, err := k.store.LoginLinks.Get(ctx, linkName(code))
	if errors.Is(err, store.ErrNotFound) {
		return nil, errBadLink
	}
	if err != nil {
		return nil, StoreError(err)
	}
	if !time.Now().Before(row.Value.GetExpireTime().AsTime()) {
		return nil, errBadLink
	}
	expire, ok := k.sessionEnd(row.Value, time.Now())
	if !ok {
		return nil, errBadLink
	}
	token := &swanherdv1.ApiToken{
		Name:        "apiTokens/" + newID(),
		Role:        row.Value.GetRole(),
		Networks:    row.Value.GetNetworks(),
		Description: "browser session from a login link of " + row.Value.GetActor(),
		ExpireTime:  timestamppb.New(expire),
		CreateTime:  timestamppb.Now(),
		MatchLabels: row.Value.GetMatchLabels(),
	}
	out, err := k.issue(ctx, token, row.Value.GetActor(), func(t *store.Txn, _ *swanherdv1.ApiToken) error {
		k.store.LoginLinks.DeleteIn(t, row.Name, row.Revision)
		return nil
	})
	if c := status.Code(err); c == codes.NotFound || c == codes.Aborted { // somebody else was faster
		return nil, errBadLink
	}
	return out, err
}

// sessionEnd is when a session from the link ends: not later than the token
// that made the link, or else an expiring token could prolong its own life. ok
// is false when that token is no more.
func (k *Keeper) sessionEnd(link *storev1.LoginLink, now time.Time) (_ time.Time, ok bool) {
	_, id, _ := strings.Cut(link.GetActor(), ":")
	maker, ok := k.store.Snapshot().APITokens.Get("apiTokens/" + id)
	if !ok {
		return time.Time{}, false
	}
	end := now.Add(link.GetSessionTtl().AsDuration())
	if limit := maker.Value.GetToken().GetExpireTime(); limit != nil && limit.AsTime().Before(end) {
		end = limit.AsTime()
	}
	return end, now.Before(end)
}

var errBadLink = status.Error(codes.PermissionDenied, "the login link is not valid: it was used, or is too old; ask for a new one")

// CreateEnrollmentToken makes a token with which edges of a site enrol. keep is as in
// CreateAPIToken.
func (k *Keeper) CreateEnrollmentToken(ctx context.Context, parent string, want *swanherdv1.EnrollmentToken, keep func(*store.Txn, *swanherdv1.EnrollmentToken) error) (*swanherdv1.EnrollmentToken, error) {
	network, err := model.ParseNetworkName(parent)
	if err != nil {
		return nil, Invalid("parent", err.Error())
	}
	if err := checkEnrollmentToken(network, want); err != nil {
		return nil, err
	}
	name := model.EnrollmentTokenName{Network: network.Network, Token: newID()}
	token := &swanherdv1.EnrollmentToken{
		Name:        name.String(),
		Site:        want.GetSite(),
		MaxUses:     max(want.GetMaxUses(), 1),
		ExpireTime:  want.GetExpireTime(),
		Description: want.GetDescription(),
		CreateTime:  timestamppb.Now(),

		AllowedCidrs:     want.GetAllowedCidrs(),
		Edge:             want.GetEdge(),
		ApprovalRequired: want.GetApprovalRequired(),
		CreateSite:       want.GetCreateSite(),
		SiteLabels:       want.GetSiteLabels(),

		AttestationRequired: want.GetAttestationRequired(),
	}
	if token.ExpireTime == nil {
		token.ExpireTime = timestamppb.New(time.Now().Add(DefaultEnrollmentTokenLife))
	}
	secret := newSecret()
	t := k.store.Txn()
	switch {
	case token.GetCreateSite():
	case token.GetSite() != "":
		k.store.Sites.RequireIn(t, token.GetSite(), store.AnyRevision)
	default:
		k.store.Edges.RequireIn(t, token.GetEdge(), store.AnyRevision)
	}
	k.store.EnrollmentTokens.CreateIn(t, name.String(), &storev1.EnrollmentToken{Token: token, SecretSha256: hashSecret(secret)})
	k.store.AppendEventIn(t, network, Audit(PrincipalFrom(ctx).Actor, name.String(), "enrollmentToken.create",
		fmt.Sprintf("for %s, %d uses", cmp.Or(token.GetEdge(), token.GetSite(), "sites that it makes"), token.GetMaxUses())))
	out, err := k.withSecret(token, secret)
	if err != nil {
		return nil, err
	}
	if err := keep(t, out); err != nil {
		return nil, err
	}
	if err := k.commit(ctx, t); err != nil {
		return nil, err
	}
	return out, nil
}

// checkEnrollmentToken says what of a wanted token makes no sense.
func checkEnrollmentToken(network model.NetworkName, want *swanherdv1.EnrollmentToken) error {
	var found []Violation
	violate := func(field, message string) { found = append(found, Violation{"enrollment_token." + field, message}) }
	if want.GetSite() != "" {
		site, err := model.ParseSiteName(want.GetSite())
		if err != nil {
			violate("site", err.Error())
		} else if site.Network != network.Network {
			violate("site", fmt.Sprintf("%s is not a site of %s", site, network))
		}
	} else if want.GetEdge() == "" && !want.GetCreateSite() {
		violate("site", "name the site that edges will serve, or the edge that is to be replaced, or set create_site")
	}
	if want.GetEdge() != "" {
		edge, err := model.ParseEdgeName(want.GetEdge())
		if err != nil {
			violate("edge", err.Error())
		} else if edge.Network != network.Network {
			violate("edge", fmt.Sprintf("%s is not an edge of %s", edge, network))
		}
		if want.GetMaxUses() > 1 {
			violate("max_uses", "a token for one edge is for one use; make another one for the next device")
		}
	}
	if len(want.GetSiteLabels()) > 0 && !want.GetCreateSite() {
		violate("site_labels", "are for sites that the token makes; set create_site, or label the site itself")
	}
	if err := inFuture("enrollment_token.expire_time", want.GetExpireTime()); err != nil {
		violate("expire_time", "lies in the past; leave it out for the default")
	}
	if len(found) > 0 {
		return InvalidAll(found)
	}
	return nil
}

func (k *Keeper) withSecret(token *swanherdv1.EnrollmentToken, secret []byte) (*swanherdv1.EnrollmentToken, error) {
	out := proto.Clone(token).(*swanherdv1.EnrollmentToken)
	var err error
	out.Secret, err = EnrollmentSecret{
		Endpoints: k.cfg.EdgeEndpoints,
		Pin:       k.cfg.CAPin(),
		Name:      token.GetName(),
		Secret:    base64.RawURLEncoding.EncodeToString(secret),
	}.format()
	if err != nil {
		return nil, status.Errorf(codes.Internal, "encode enrollment token: %v", err)
	}
	return out, nil
}

// DropEnrollmentToken returns the transaction that revokes a token at once; edges that used it
// stay.
func (k *Keeper) DropEnrollmentToken(ctx context.Context, name string) (*store.Txn, error) {
	n, err := model.ParseEnrollmentTokenName(name)
	if err != nil {
		return nil, Invalid("name", err.Error())
	}
	t := k.store.Txn()
	k.store.EnrollmentTokens.DeleteIn(t, name, store.AnyRevision)
	k.store.AppendEventIn(t, model.NetworkName{Network: n.Network}, Audit(PrincipalFrom(ctx).Actor, name, "enrollmentToken.delete", ""))
	return t, nil
}

// CheckEnrollmentToken returns the stored token that the presented one belongs
// to, as of now. ok is false whatever is wrong with it; a token that was used
// up is returned all the same, as a repeated enrolment may still show it.
func (k *Keeper) CheckEnrollmentToken(ctx context.Context, presented string) (_ model.Row[*storev1.EnrollmentToken], ok bool, _ error) {
	var none model.Row[*storev1.EnrollmentToken]
	name, secret, err := ParseEnrollmentToken(presented)
	if err != nil {
		return none, false, nil
	}
	if _, err := model.ParseEnrollmentTokenName(name); err != nil {
		return none, false, nil
	}
	row, err := k.store.EnrollmentTokens.Get(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		matches(secret, hashSecret(nil))
		return none, false, nil
	}
	if err != nil {
		return none, false, StoreError(err)
	}
	if !matches(secret, row.Value.GetSecretSha256()) || !time.Now().Before(row.Value.GetToken().GetExpireTime().AsTime()) {
		return none, false, nil
	}
	return row, true, nil
}

// Run removes what expired until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	t := time.NewTicker(janitorInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if err := k.removeExpired(ctx, time.Now()); err != nil && ctx.Err() == nil {
				k.cfg.Log.Warn("cannot remove expired tokens", "error", err)
			}
		}
	}
}

// maxRemovals stays below what one transaction of etcd takes.
const maxRemovals = 100

func (k *Keeper) removeExpired(ctx context.Context, now time.Time) error {
	snap, t, n := k.store.Snapshot(), k.store.Txn(), 0
	for row := range snap.LoginLinks.All() {
		if n < maxRemovals && now.After(row.Value.GetExpireTime().AsTime()) {
			k.store.LoginLinks.DropIn(t, row.Name)
			n++
		}
	}
	for row := range snap.APITokens.All() {
		expire := row.Value.GetToken().GetExpireTime()
		if n < maxRemovals && expire != nil && now.After(expire.AsTime()) {
			k.store.APITokens.DropIn(t, row.Name)
			k.store.TokenUses.DropIn(t, row.Name)
			n++
		}
	}
	if t.Empty() {
		return nil
	}
	_, err := t.Commit(ctx)
	return err
}

func inFuture(field string, t *timestamppb.Timestamp) error {
	if t != nil && !t.AsTime().After(time.Now()) {
		return Invalid(field, "lies in the past; leave it out for the default")
	}
	return nil
}
