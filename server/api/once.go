package api

import (
	"bytes"
	"context"
	"crypto/sha256"
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

// change is what the requests that change the topology have in common.
type change interface {
	proto.Message
	GetRequestId() string
	GetValidateOnly() bool
}

// namedChange is a change of what the request names.
type namedChange interface {
	change
	GetName() string
}

// once makes a change by prepare and answers what answer makes of it. With a
// request_id it does so once: to the same request again it gives the same answer
// (AIP-155), at whatever replica, as the answer is stored with the change. answer
// is called before the revision is known: it leaves an etag or revision empty for
// that.
func once[R proto.Message](ctx context.Context, s *Topology, req change, prepare func(*edit) error, answer func(*edit) R) (R, error) {
	return attempt(ctx, s, func(e *edit) (R, error) {
		var none R
		id := ""
		if !req.GetValidateOnly() {
			id = req.GetRequestId()
		}
		if id != "" {
			if before, err := replay[R](ctx, s.store, e.actor, req); err != nil || before.ProtoReflect().IsValid() {
				return before, err
			}
		}
		if err := prepare(e); err != nil {
			return none, err
		}
		if req.GetValidateOnly() {
			return answer(e), nil
		}
		if err := e.stamp(); err != nil {
			return none, err
		}
		out := answer(e)
		if id != "" {
			kept := proto.Clone(out)
			if !e.changed() { // then the answer is of the revision that there is
				date(kept, e.base.Revision)
			}
			if err := keepAnswer(ctx, s.store, e.txn, e.actor, req, kept, nil); err != nil {
				return none, err
			}
		}
		revision, err := e.commit(ctx)
		if err != nil {
			return none, err
		}
		date(out, revision)
		return out, nil
	})
}

// keepAnswer adds to the transaction what the request is answered; whole is, sealed, the hash
// of all of a request that comes here without its secret, nil for others.
func keepAnswer(ctx context.Context, s *store.Store, t *store.Txn, actor string, req change, out proto.Message, whole *storev1.SealedSecret) error {
	a, err := answerRecord(ctx, req, out)
	if err != nil {
		return err
	}
	a.SealedRequestSha256 = whole
	return s.AnswerIn(ctx, t, actor, req.GetRequestId(), a)
}

// answerRecord is what is kept of a request and its answer; nil: there is none yet.
func answerRecord(ctx context.Context, req, out proto.Message) (*storev1.AnsweredRequest, error) {
	sum, err := requestSum(req)
	if err != nil {
		return nil, err
	}
	a := &storev1.AnsweredRequest{RequestSha256: sum, Claimed: out == nil}
	if a.Response, err = proto.Marshal(out); err != nil {
		return nil, fmt.Errorf("encode the answer: %w", err)
	}
	a.Method, _ = grpc.Method(ctx)
	return a, nil
}

// answered returns what the actor's request was answered before, and the revision of
// what it changed; nil when it was not made before.
func answered(ctx context.Context, s *store.Store, actor, id string, req proto.Message) (*storev1.AnsweredRequest, int64, error) {
	a, revision, err := s.Answered(ctx, actor, id)
	if err != nil || a == nil {
		return nil, 0, err
	}
	sum, err := requestSum(req)
	if err != nil {
		return nil, 0, err
	}
	method, _ := grpc.Method(ctx)
	if a.GetMethod() != method || !bytes.Equal(a.GetRequestSha256(), sum) {
		return nil, 0, errOtherRequest()
	}
	return a, revision, nil
}

func errOtherRequest() error {
	return access.Invalid("request_id", "was used for another request; make a new one for each request")
}

// replay returns what the request was answered before; an invalid message when it
// was not made before.
func replay[R proto.Message](ctx context.Context, s *store.Store, actor string, req change) (R, error) {
	var none R
	a, revision, err := answered(ctx, s, actor, req.GetRequestId(), req)
	if err != nil || a == nil {
		return none, err
	}
	return answerOf[R](ctx, s, a, revision)
}

// answerOf is the answer that was kept, of that revision.
func answerOf[R proto.Message](ctx context.Context, s *store.Store, a *storev1.AnsweredRequest, revision int64) (R, error) {
	var none R
	out := none.ProtoReflect().New().Interface().(R)
	if err := proto.Unmarshal(a.GetResponse(), out); err != nil {
		return none, status.Errorf(codes.Internal, "decode the answer to the request before: %v", err)
	}
	date(out, revision)
	if _, err := s.WaitRevision(ctx, revision); err != nil { // what it made may be asked for next
		return none, status.FromContextError(ctx.Err()).Err()
	}
	return out, nil
}

func requestSum(req proto.Message) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	sum := sha256.Sum256(b)
	return sum[:], nil
}

// date fills in the revision at which an answer took effect, where it was left out.
func date(m proto.Message, revision int64) {
	r := m.ProtoReflect()
	fields := r.Descriptor().Fields()
	if f := fields.ByName("etag"); f != nil && r.Get(f).String() == "" {
		r.Set(f, protoreflect.ValueOfString(store.ETag(revision)))
	}
	if f := fields.ByName("revision"); f != nil && r.Get(f).Int() == 0 {
		r.Set(f, protoreflect.ValueOfInt64(revision))
	}
}

// editAttempts bounds how often an edit starts over because another replica
// changed the same network meanwhile.
const editAttempts = 5

// attempt runs f on an edit of the newest topology, again when another replica
// was faster. Edits of this replica wait for one another.
func attempt[R any](ctx context.Context, s *Topology, f func(*edit) (R, error)) (R, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range editAttempts - 1 {
		e := s.begin(ctx)
		r, err := f(e)
		var conflict *store.ConditionError
		if !errors.As(err, &conflict) {
			return r, access.StoreError(err)
		}
		// What was in the way is in the store; wait for it to be seen here.
		if _, err := s.store.WaitRevision(ctx, max(conflict.Have, e.base.Revision)); err != nil {
			break
		}
	}
	r, err := f(s.begin(ctx))
	return r, access.StoreError(err)
}
