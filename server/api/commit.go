package api

import (
	"context"
	"errors"

	"google.golang.org/protobuf/proto"

	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/store"
)

// committed makes a change that is in no edit of the topology, by the transaction that prepare
// returns with the answer; without one nothing is to be changed. With validate_only it is
// prepared alone (AIP-163); with a request_id it is made once, as by once. prepare is called again
// when somebody else was faster. It leaves an etag empty, which is known then. What a request may
// have in it that is secret is a key of its own making, which its hash does not show.
//
// An error may be the store's, for access.StoreError.
func committed[R proto.Message](ctx context.Context, s *store.Store, req change, prepare func() (R, *store.Txn, error)) (R, error) {
	var none R
	actor := access.PrincipalFrom(ctx).Actor
	once := req.GetRequestId() != "" && !req.GetValidateOnly()
	var err error
	for range editAttempts {
		if once {
			if before, err := replay[R](ctx, s, actor, req); err != nil || before.ProtoReflect().IsValid() {
				return before, err
			}
		}
		out, t, perr := prepare()
		if perr != nil || t == nil {
			return out, perr
		}
		if req.GetValidateOnly() {
			return out, t.Check(ctx)
		}
		if once {
			if err := keepAnswer(ctx, s, t, actor, req, proto.Clone(out), nil); err != nil {
				return none, err
			}
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
