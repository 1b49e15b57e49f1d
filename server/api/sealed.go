package api

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/store"
)

// secretRequest is what the requests that are answered with a secret have in common.
type secretRequest interface {
	proto.Message
	GetRequestId() string
	GetValidateOnly() bool
}

// onceSealed is once for what is answered with a secret. The answer is kept sealed, so
// that who lost it on the way gets the same one, by the same request: without that, a
// token would be there that nobody has, and one that was rotated would be lost.
func onceSealed[R proto.Message](ctx context.Context, a *Access, req secretRequest, make func(keep func(*store.Txn, R) error) (R, error)) (R, error) {
	if req.GetValidateOnly() {
		return checkedAlone(ctx, make)
	}
	id, actor := req.GetRequestId(), access.PrincipalFrom(ctx).Actor
	if id == "" {
		return make(func(*store.Txn, R) error { return nil })
	}
	if out, found, err := replaySealed[R](ctx, a, actor, id, req); found || err != nil {
		return out, access.StoreError(err)
	}
	out, err := make(func(t *store.Txn, out R) error { return a.keepSealed(ctx, t, actor, id, req, out) })
	if c := status.Code(err); c == codes.AlreadyExists || c == codes.Aborted { // as when it is made twice at once
		if before, found, err := replaySealed[R](ctx, a, actor, id, req); found || err != nil {
			return before, access.StoreError(err)
		}
	}
	return out, access.StoreError(err)
}

// errChecked ends the making of something of which all is known to be right.
var errChecked = errors.New("it was only to be checked")

// checkedAlone is what would be made, without the name and the secret that it does not have.
func checkedAlone[R proto.Message](ctx context.Context, make func(keep func(*store.Txn, R) error) (R, error)) (R, error) {
	var found R
	out, err := make(func(t *store.Txn, made R) error {
		if err := t.Check(ctx); err != nil {
			return err
		}
		found = made
		return errChecked
	})
	if !errors.Is(err, errChecked) {
		return out, access.StoreError(err)
	}
	clearNew(found)
	return found, nil
}

// clearNew takes out of an answer what there is only once it is made: a name, and the secret
// that it is answered with.
func clearNew(m proto.Message) {
	r := m.ProtoReflect()
	for _, field := range []protoreflect.Name{"name", "secret", "url"} {
		if f := r.Descriptor().Fields().ByName(field); f != nil {
			r.Clear(f)
		}
	}
}

// keepSealed adds to t what the request is answered.
func (a *Access) keepSealed(ctx context.Context, t *store.Txn, actor, id string, req, out proto.Message) error {
	b, err := proto.Marshal(out)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	defer clear(b)
	sum, err := requestSum(req)
	if err != nil {
		return err
	}
	key, err := store.AnswerKey(actor, id)
	if err != nil {
		return err
	}
	method, _ := grpc.Method(ctx)
	return a.store.AnswerIn(ctx, t, actor, id, &storev1.AnsweredRequest{
		Method: method, RequestSha256: sum, SealedResponse: a.sealer.Seal(key, b),
	})
}

// replaySealed is what the request was answered before, if it was made.
func replaySealed[R proto.Message](ctx context.Context, a *Access, actor, id string, req proto.Message) (out R, found bool, _ error) {
	before, revision, err := answered(ctx, a.store, actor, id, req)
	if err != nil || before == nil {
		return out, false, err
	}
	key, err := store.AnswerKey(actor, id)
	if err != nil {
		return out, false, err
	}
	b, err := a.sealer.Open(key, before.GetSealedResponse())
	if err != nil {
		return out, false, status.Errorf(codes.Internal, "the answer to the request before: %v", err)
	}
	defer clear(b)
	if _, err := a.store.WaitRevision(ctx, revision); err != nil { // the token has to work here
		return out, false, status.FromContextError(ctx.Err()).Err()
	}
	out = out.ProtoReflect().New().Interface().(R)
	if err := proto.Unmarshal(b, out); err != nil {
		return out, false, status.Errorf(codes.Internal, "decode the answer to the request before: %v", err)
	}
	return out, true, nil
}
