package api

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// deed is what no transaction of the store does, such as a command to an edge: what the audit
// log says of it, and how it is done. The error of do is a gRPC status.
type deed[R proto.Message] struct {
	network model.NetworkName
	event   *swanherdv1.Event
	do      func() (R, error)
}

// done does it, audited before, so that nothing is done that is not, and again when it failed.
// With a request_id it is done at most once: the request claims its answer before, at whatever
// replica, and who comes with the same one meanwhile, or after a controller that ended in the
// middle, is told that the end is not known (ABORTED).
func done[R proto.Message](ctx context.Context, s *store.Store, req change, d deed[R]) (R, error) {
	var none R
	before, err := claim[R](ctx, s, req, d)
	if err != nil || before.ProtoReflect().IsValid() {
		return before, access.StoreError(err)
	}
	out, err := d.do()
	ctx = context.WithoutCancel(ctx) // who asked may have left; how it ended stays to be told
	if err != nil {
		failed(ctx, s, req, d, err)
		return none, err
	}
	if req.GetRequestId() != "" { // without the answer, the end is as good as not known to who asks again
		_ = settle(ctx, s, req, d.event.GetActor(), out)
	}
	return out, nil
}

// failed audits that the deed was not done, and takes the claim back unless it may have been.
func failed[R proto.Message](ctx context.Context, s *store.Store, req change, d deed[R], cause error) {
	event := proto.CloneOf(d.event)
	event.Message = "failed: " + status.Convert(cause).Message()
	t := s.Txn()
	s.AppendEventIn(t, d.network, event)
	if code := status.Code(cause); req.GetRequestId() != "" && code != codes.DeadlineExceeded && code != codes.Canceled {
		s.ForgetIn(t, event.GetActor(), req.GetRequestId())
	}
	_, _ = t.Commit(ctx) // the caller has it
}

// replayed is what the request was answered before; an invalid message when it was not made
// before, or asks for no such thing.
func replayed[R proto.Message](ctx context.Context, s *store.Store, req change) (R, error) {
	var none R
	if req.GetRequestId() == "" || req.GetValidateOnly() {
		return none, nil
	}
	a, revision, err := answered(ctx, s, access.PrincipalFrom(ctx).Actor, req.GetRequestId(), req)
	switch {
	case err != nil || a == nil:
		return none, access.StoreError(err)
	case a.GetClaimed():
		return none, status.Error(codes.Aborted, "this request is being carried out, or how that ended is not known; see what became of it before you ask with another request_id")
	}
	return answerOf[R](ctx, s, a, revision)
}

// claim stores that the deed is begun; the answer is of the same request before, if it is valid.
func claim[R proto.Message](ctx context.Context, s *store.Store, req change, d deed[R]) (R, error) {
	var none R
	var err error
	for range conflictAttempts {
		if before, err := replayed[R](ctx, s, req); err != nil || before.ProtoReflect().IsValid() {
			return before, err
		}
		t := s.Txn()
		s.AppendEventIn(t, d.network, d.event)
		if req.GetRequestId() != "" {
			if err := keepAnswer(ctx, s, t, d.event.GetActor(), req, nil, nil); err != nil {
				return none, err
			}
		}
		if _, err = t.Commit(ctx); !errors.Is(err, store.ErrExists) { // else the same request came in between
			break
		}
	}
	return none, err
}

// settle keeps the answer in the place of the claim.
func settle(ctx context.Context, s *store.Store, req change, actor string, out proto.Message) error {
	a, err := answerRecord(ctx, req, out)
	if err != nil {
		return err
	}
	t := s.Txn()
	if err := s.SettleIn(ctx, t, actor, req.GetRequestId(), a); err != nil {
		return err
	}
	_, err = t.Commit(ctx)
	return err
}
