package api

import (
	"context"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// Users implements UserService.
type Users struct {
	swanherdv1.UnimplementedUserServiceServer

	store  *store.Store
	keeper *access.Keeper
}

// NewUsers returns the service.
func NewUsers(s *store.Store, keeper *access.Keeper) *Users { return &Users{store: s, keeper: keeper} }

// GetUser implements UserService.
func (s *Users) GetUser(_ context.Context, req *swanherdv1.GetUserRequest) (*swanherdv1.User, error) {
	if err := checkUserName(req.GetName()); err != nil {
		return nil, err
	}
	snap := s.store.Snapshot()
	row, ok := s.keeper.Users(snap).Get(req.GetName())
	if !ok {
		return nil, status.Errorf(codes.NotFound, "%s does not exist", req.GetName())
	}
	return s.keeper.ShownUser(snap, row.Value), nil
}

// ListUsers implements UserService.
func (s *Users) ListUsers(ctx context.Context, req *swanherdv1.ListUsersRequest) (*swanherdv1.ListUsersResponse, error) {
	q, err := newQuery(ctx, req, (&swanherdv1.User{}).ProtoReflect().Descriptor())
	if err != nil {
		return nil, err
	}
	snap, err := q.snapshot(ctx, s.store, s.store.Snapshot())
	if err != nil {
		return nil, err
	}
	users, next := page(q, func(yield func(*swanherdv1.User) bool) {
		for row := range s.keeper.Users(snap).After(q.first()) {
			if !yield(s.keeper.ShownUser(snap, row.Value)) {
				return
			}
		}
	})
	return &swanherdv1.ListUsersResponse{Users: users, NextPageToken: next}, nil
}

// DisableUser implements UserService.
func (s *Users) DisableUser(ctx context.Context, req *swanherdv1.DisableUserRequest) (*swanherdv1.User, error) {
	if err := checkUserName(req.GetName()); err != nil {
		return nil, err
	}
	out, err := committed(ctx, s.store, req, func() (*swanherdv1.User, *store.Txn, error) { return s.keeper.DisableUser(ctx, req) })
	return out, access.StoreError(err)
}

// EnableUser implements UserService.
func (s *Users) EnableUser(ctx context.Context, req *swanherdv1.EnableUserRequest) (*swanherdv1.User, error) {
	if err := checkUserName(req.GetName()); err != nil {
		return nil, err
	}
	out, err := committed(ctx, s.store, req, func() (*swanherdv1.User, *store.Txn, error) { return s.keeper.EnableUser(ctx, req.GetName()) })
	return out, access.StoreError(err)
}

func checkUserName(name string) error {
	if id, ok := strings.CutPrefix(name, "users/"); !ok || !model.ValidID(id) {
		return access.Invalid("name", "is not a name of the form users/{user}, as a list of users shows it")
	}
	return nil
}
