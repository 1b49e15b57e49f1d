package api

import (
	"cmp"
	"context"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// Access implements AccessService.
type Access struct {
	swanherdv1.UnimplementedAccessServiceServer

	store   *store.Store
	sealer  *store.Sealer
	keeper  *access.Keeper
	version string
}

// NewAccess returns the service; version is the server's build.
func NewAccess(s *store.Store, sealer *store.Sealer, keeper *access.Keeper, version string) *Access {
	return &Access{store: s, sealer: sealer, keeper: keeper, version: version}
}

// CreateEnrollmentToken implements AccessService.
func (a *Access) CreateEnrollmentToken(ctx context.Context, req *swanherdv1.CreateEnrollmentTokenRequest) (*swanherdv1.EnrollmentToken, error) {
	named := proto.CloneOf(req.GetEnrollmentToken())
	named.Name = req.GetParent() + "/enrollmentTokens/-"
	if scope := scopeOf(ctx, a.store.Snapshot()); !scope.Admits(named) {
		return nil, scope.Denied(cmp.Or(named.GetEdge(), named.GetSite(), "sites that the token makes in "+req.GetParent()))
	}
	return onceSealed(ctx, a, req, func(keep func(*store.Txn, *swanherdv1.EnrollmentToken) error) (*swanherdv1.EnrollmentToken, error) {
		return a.keeper.CreateEnrollmentToken(ctx, req.GetParent(), req.GetEnrollmentToken(), keep)
	})
}

// GetEnrollmentToken implements AccessService.
func (a *Access) GetEnrollmentToken(_ context.Context, req *swanherdv1.GetEnrollmentTokenRequest) (*swanherdv1.EnrollmentToken, error) {
	if _, err := model.ParseEnrollmentTokenName(req.GetName()); err != nil {
		return nil, access.Invalid("name", err.Error())
	}
	row, ok := a.store.Snapshot().EnrollmentTokens.Get(req.GetName())
	if !ok {
		return nil, notThere(req.GetName())
	}
	return row.Value.GetToken(), nil
}

// ListEnrollmentTokens implements AccessService.
func (a *Access) ListEnrollmentTokens(ctx context.Context, req *swanherdv1.ListEnrollmentTokensRequest) (*swanherdv1.ListEnrollmentTokensResponse, error) {
	snap := a.store.Snapshot()
	if err := checkParent(&snap.Topology, req.GetParent()); err != nil {
		return nil, err
	}
	q, err := newQuery(ctx, req, (&swanherdv1.EnrollmentToken{}).ProtoReflect().Descriptor())
	if err != nil {
		return nil, err
	}
	if snap, err = q.snapshot(ctx, a.store, snap); err != nil {
		return nil, err
	}
	rows := rowsOf(snap.EnrollmentTokens, req.GetParent(), q.first(), scopeOf(ctx, snap))
	tokens, next := page(q, func(yield func(*swanherdv1.EnrollmentToken) bool) {
		for row := range rows {
			if !yield(row.Value.GetToken()) {
				return
			}
		}
	})
	return &swanherdv1.ListEnrollmentTokensResponse{EnrollmentTokens: tokens, NextPageToken: next}, nil
}

// DeleteEnrollmentToken implements AccessService.
func (a *Access) DeleteEnrollmentToken(ctx context.Context, req *swanherdv1.DeleteEnrollmentTokenRequest) (*emptypb.Empty, error) {
	out, err := committed(ctx, a.store, req, func() (*emptypb.Empty, *store.Txn, error) {
		t, err := a.keeper.DropEnrollmentToken(ctx, req.GetName())
		return &emptypb.Empty{}, t, err
	})
	return out, access.StoreError(err)
}

// CreateApiToken implements AccessService.
func (a *Access) CreateApiToken(ctx context.Context, req *swanherdv1.CreateApiTokenRequest) (*swanherdv1.ApiToken, error) {
	return onceSealed(ctx, a, req, func(keep func(*store.Txn, *swanherdv1.ApiToken) error) (*swanherdv1.ApiToken, error) {
		return a.keeper.CreateAPIToken(ctx, req.GetApiToken(), keep)
	})
}

// GetApiToken implements AccessService.
func (a *Access) GetApiToken(ctx context.Context, req *swanherdv1.GetApiTokenRequest) (*swanherdv1.ApiToken, error) {
	name, err := tokenOf(ctx, req.GetName(), "see")
	if err != nil {
		return nil, err
	}
	row, ok := a.store.Snapshot().APITokens.Get(name)
	if !ok {
		return nil, notThere(name)
	}
	return a.keeper.WithUse(row.Value.GetToken()), nil
}

// ListApiTokens implements AccessService.
func (a *Access) ListApiTokens(ctx context.Context, req *swanherdv1.ListApiTokensRequest) (*swanherdv1.ListApiTokensResponse, error) {
	q, err := newQuery(ctx, req, (&swanherdv1.ApiToken{}).ProtoReflect().Descriptor())
	if err != nil {
		return nil, err
	}
	snap, err := q.snapshot(ctx, a.store, a.store.Snapshot())
	if err != nil {
		return nil, err
	}
	tokens, next := page(q, func(yield func(*swanherdv1.ApiToken) bool) {
		for row := range snap.APITokens.After(q.first()) {
			if !yield(a.keeper.WithUse(row.Value.GetToken())) {
				return
			}
		}
	})
	return &swanherdv1.ListApiTokensResponse{ApiTokens: tokens, NextPageToken: next}, nil
}

// ownToken names the caller's own token, which everybody may delete: so a
// browser signs out.
const ownToken = "apiTokens/self"

// tokenOf is the token that a caller names: its own, or any for an administrator.
func tokenOf(ctx context.Context, name, verb string) (string, error) {
	p := access.PrincipalFrom(ctx)
	id, isToken := strings.CutPrefix(p.Actor, "token:")
	switch {
	case name == ownToken && isToken:
		return "apiTokens/" + id, nil
	case name == ownToken:
		return "", status.Errorf(codes.FailedPrecondition, "%s signed in without an API token; there is none to %s", p.Actor, verb)
	case !p.Administers():
		return "", status.Errorf(codes.PermissionDenied, "%s may %s its own token only, %s", p.Actor, verb, ownToken)
	}
	if id, ok := strings.CutPrefix(name, "apiTokens/"); !ok || !model.ValidID(id) {
		return "", access.Invalid("name", "is not a name of the form apiTokens/{api_token}")
	}
	return name, nil
}

// DeleteApiToken implements AccessService.
func (a *Access) DeleteApiToken(ctx context.Context, req *swanherdv1.DeleteApiTokenRequest) (*emptypb.Empty, error) {
	name, err := tokenOf(ctx, req.GetName(), "delete")
	if err != nil {
		return nil, err
	}
	out, err := committed(ctx, a.store, req, func() (*emptypb.Empty, *store.Txn, error) {
		t, err := a.keeper.DropAPIToken(ctx, name)
		return &emptypb.Empty{}, t, err
	})
	return out, access.StoreError(err)
}

// RotateApiToken implements AccessService. Who has no say over other tokens has none
// over how long its own lasts.
func (a *Access) RotateApiToken(ctx context.Context, req *swanherdv1.RotateApiTokenRequest) (*swanherdv1.ApiToken, error) {
	name, err := tokenOf(ctx, req.GetName(), "rotate")
	if err != nil {
		return nil, err
	}
	p := access.PrincipalFrom(ctx)
	if req.GetExpireTime() != nil && !p.Administers() {
		return nil, status.Errorf(codes.PermissionDenied, "%s may not change when its token expires; ask an administrator", p.Actor)
	}
	return onceSealed(ctx, a, req, func(keep func(*store.Txn, *swanherdv1.ApiToken) error) (*swanherdv1.ApiToken, error) {
		return a.keeper.RotateAPIToken(ctx, name, req.GetGrace().AsDuration(), req.GetExpireTime(), keep)
	})
}

// CreateLoginLink implements AccessService.
func (a *Access) CreateLoginLink(ctx context.Context, req *swanherdv1.CreateLoginLinkRequest) (*swanherdv1.LoginLink, error) {
	return onceSealed(ctx, a, req, func(keep func(*store.Txn, *swanherdv1.LoginLink) error) (*swanherdv1.LoginLink, error) {
		return a.keeper.CreateLoginLink(ctx, req, keep)
	})
}

// RedeemLoginLink implements AccessService.
func (a *Access) RedeemLoginLink(ctx context.Context, req *swanherdv1.RedeemLoginLinkRequest) (*swanherdv1.ApiToken, error) {
	return a.keeper.RedeemLoginLink(ctx, req.GetCode())
}

// WhoAmI implements AccessService.
func (a *Access) WhoAmI(ctx context.Context, _ *swanherdv1.WhoAmIRequest) (*swanherdv1.WhoAmIResponse, error) {
	p := access.PrincipalFrom(ctx)
	// Of several roles the highest, and where it is.
	resp := &swanherdv1.WhoAmIResponse{Actor: p.Actor, Role: p.Role(), Networks: p.With(p.Role()).Networks(), ServerVersion: a.version}
	for _, g := range p.Grants {
		resp.Grants = append(resp.Grants, &swanherdv1.RoleGrant{Role: g.Role, Networks: g.Networks, MatchLabels: g.Labels})
	}
	if !p.ExpireTime.IsZero() {
		resp.ExpireTime = timestamppb.New(p.ExpireTime)
	}
	return resp, nil
}

// stillValid ends a stream whose caller's token expired or was revoked, or whose caller's
// role bindings changed.
func stillValid(keeper *access.Keeper, p access.Principal, now time.Time) error {
	if !keeper.Holds(p, now) {
		return status.Error(codes.Unauthenticated, "what this stream was opened with is no longer valid; sign in again")
	}
	return nil
}
