package api

import (
	"context"
	"errors"

	"google.golang.org/protobuf/proto"

	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/store"
)

// answers is how the answer to a request with a request_id is found again, and kept.
type answers[R proto.Message] struct {
	replay func() (R, error)
	keep   func(*store.Txn, R) error
}

// conflictAttempts bounds how often a change starts over because another one of the
// same thing came in between.
const conflictAttempts = 20

// committed makes a change that is in no edit of the topology, by the transaction that prepare
// returns with the answer; one that is empty changes nothing. With validate_only it is checked
// alone (AIP-163); with a request_id it is made once, as by once. prepare is called again when
// somebody else was faster. It leaves an etag empty, which is known then. What a request may have
// in it that is secret is long and of chance, so that its hash does not show it.
//
// An error may be the store's, for access.StoreError.
func committed[R proto.Message](ctx context.Context, s *store.Store, req change, prepare func() (R, *store.Txn, error)) (R, error) {
	actor := access.PrincipalFrom(ctx).Actor
	return committedWith(ctx, s, req, answers[R]{
		replay: func() (R, error) { return replay[R](ctx, s, actor, req) },
		keep:   func(t *store.Txn, out R) error { return keepAnswer(ctx, s, t, actor, req, out, nil) },
	}, prepare)
}

// committedWith is committed with answers that are kept in another way.
func committedWith[R proto.Message](ctx context.Context, s *store.Store, req change, a answers[R], prepare func() (R, *store.Txn, error)) (R, error) {
	var none R
	once := req.GetRequestId() != "" && !req.GetValidateOnly()
	var err error
	for range conflictAttempts {
		if once {
			if before, err := a.replay(); err != nil || before.ProtoReflect().IsValid() {
				return before, err
			}
		}
		out, t, perr := prepare()
		if perr != nil {
			return out, perr
		}
		if req.GetValidateOnly() {
			return out, t.Check(ctx)
		}
		if once {
			if err := a.keep(t, proto.Clone(out).(R)); err != nil {
				return none, err
			}
		}
		if t.Empty() {
			return out, nil
		}
		var revision int64
		if revision, err = t.Commit(ctx); err == nil {
			_, _ = s.WaitRevision(ctx, revision) // it is stored: a cache that lags must not fail the call
			date(out, revision)
			return out, nil
		}
		var conflict *store.ConditionError
		if !errors.As(err, &conflict) || !once && conflict.Is(store.ErrExists) {
			break
		}
		if _, werr := s.WaitRevision(ctx, conflict.Have); werr != nil {
			break
		}
	}
	return none, err
}
