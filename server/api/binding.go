package api

import (
	"context"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// RoleBindings implements RoleBindingService.
type RoleBindings struct {
	swanherdv1.UnimplementedRoleBindingServiceServer

	store  *store.Store
	keeper *access.Keeper
}

// NewRoleBindings returns the service.
func NewRoleBindings(s *store.Store, keeper *access.Keeper) *RoleBindings {
	return &RoleBindings{store: s, keeper: keeper}
}

// CreateRoleBinding implements RoleBindingService.
func (s *RoleBindings) CreateRoleBinding(ctx context.Context, req *swanherdv1.CreateRoleBindingRequest) (*swanherdv1.RoleBinding, error) {
	out, err := committed(ctx, s.store, req, func() (*swanherdv1.RoleBinding, *store.Txn, error) {
		return s.keeper.NewRoleBinding(ctx, req.GetRoleBinding())
	})
	return out, access.StoreError(err)
}

// GetRoleBinding implements RoleBindingService.
func (s *RoleBindings) GetRoleBinding(_ context.Context, req *swanherdv1.GetRoleBindingRequest) (*swanherdv1.RoleBinding, error) {
	if err := checkBindingName(req.GetName()); err != nil {
		return nil, err
	}
	row, ok := s.store.Snapshot().RoleBindings.Get(req.GetName())
	if !ok {
		return nil, status.Errorf(codes.NotFound, "%s does not exist", req.GetName())
	}
	return row.Value, nil
}

// ListRoleBindings implements RoleBindingService.
func (s *RoleBindings) ListRoleBindings(ctx context.Context, req *swanherdv1.ListRoleBindingsRequest) (*swanherdv1.ListRoleBindingsResponse, error) {
	q, err := newQuery(ctx, req, (&swanherdv1.RoleBinding{}).ProtoReflect().Descriptor())
	if err != nil {
		return nil, err
	}
	snap, err := q.snapshot(ctx, s.store, s.store.Snapshot())
	if err != nil {
		return nil, err
	}
	bindings, next := page(q, func(yield func(*swanherdv1.RoleBinding) bool) {
		for row := range snap.RoleBindings.After(q.first()) {
			if !yield(row.Value) {
				return
			}
		}
	})
	return &swanherdv1.ListRoleBindingsResponse{RoleBindings: bindings, NextPageToken: next}, nil
}

// DeleteRoleBinding implements RoleBindingService.
func (s *RoleBindings) DeleteRoleBinding(ctx context.Context, req *swanherdv1.DeleteRoleBindingRequest) (*emptypb.Empty, error) {
	if err := checkBindingName(req.GetName()); err != nil {
		return nil, err
	}
	out, err := committed(ctx, s.store, req, func() (*emptypb.Empty, *store.Txn, error) {
		t, err := s.keeper.DropRoleBinding(ctx, req.GetName())
		return &emptypb.Empty{}, t, err
	})
	return out, access.StoreError(err)
}

func checkBindingName(name string) error {
	if id, ok := strings.CutPrefix(name, "roleBindings/"); !ok || !model.ValidID(id) {
		return access.Invalid("name", "is not a name of the form roleBindings/{role_binding}")
	}
	return nil
}
