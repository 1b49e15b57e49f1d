package api

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/store"
)

// Keys implements KeyService.
type Keys struct {
	swanherdv1.UnimplementedKeyServiceServer

	store *store.Store
	ring  *store.KeyRing
}

// NewKeys returns the service.
func NewKeys(s *store.Store, ring *store.KeyRing) *Keys { return &Keys{store: s, ring: ring} }

// GetSealing implements KeyService.
func (k *Keys) GetSealing(ctx context.Context, _ *swanherdv1.GetSealingRequest) (*swanherdv1.Sealing, error) {
	uses, err := k.ring.Uses(ctx)
	if err != nil {
		return nil, access.StoreError(err)
	}
	out := &swanherdv1.Sealing{Wrapper: k.ring.WrapperName()}
	for _, key := range k.ring.Keys() {
		out.Keys = append(out.Keys, shownKey(key.GetId(), uses))
		last := out.Keys[len(out.Keys)-1]
		last.CreateTime, last.RetireTime = key.GetCreateTime(), key.GetRetireTime()
		delete(uses, key.GetId())
	}
	for _, id := range slices.Sorted(maps.Keys(uses)) {
		out.Keys = append(out.Keys, shownKey(id, uses))
		out.Keys[len(out.Keys)-1].InFile = true
	}
	for _, key := range out.GetKeys() {
		key.Active = key.GetId() == k.ring.Active()
	}
	return out, nil
}

func shownKey(id string, uses map[string]store.KeyUse) *swanherdv1.SealingKey {
	return &swanherdv1.SealingKey{Id: id, Secrets: int32(uses[id].Secrets), AuditSeals: int32(uses[id].Seals)}
}

// RotateSealing implements KeyService.
func (k *Keys) RotateSealing(ctx context.Context, req *swanherdv1.RotateSealingRequest) (*swanherdv1.Sealing, error) {
	_, err := committed(ctx, k.store, req, func() (*swanherdv1.Sealing, *store.Txn, error) {
		t, err := k.rotation(ctx, req.GetWhat())
		return &swanherdv1.Sealing{}, t, err
	})
	if err != nil {
		return nil, access.StoreError(err)
	}
	return k.GetSealing(ctx, &swanherdv1.GetSealingRequest{})
}

// rotation is the transaction that replaces a key, or what it is wrapped with.
func (k *Keys) rotation(ctx context.Context, what swanherdv1.RotateSealingRequest_What) (*store.Txn, error) {
	t := k.store.Txn()
	action, message := "sealing.rewrap", "the keys of secrets are wrapped anew"
	var err error
	if what == swanherdv1.RotateSealingRequest_WHAT_DATA_KEY {
		var id string
		id, err = k.ring.Rotate(ctx, t, time.Now())
		action, message = "sealing.rotate", "key "+id+" seals from now on"
	} else {
		err = k.ring.Rewrap(ctx, t)
	}
	switch {
	case errors.Is(err, store.ErrNoWrapper):
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	case err != nil && ctx.Err() == nil:
		return nil, status.Error(codes.Unavailable, err.Error())
	case err != nil:
		return nil, err
	}
	k.store.AppendEventIn(t, store.NoNetwork, access.Audit(access.PrincipalFrom(ctx).Actor, "sealing", action, message))
	return t, nil
}
