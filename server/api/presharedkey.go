package api

import (
	"context"
	"crypto/subtle"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// The methods of TopologyService about pre-shared keys. Keys are in no manifest: what is
// in one may be read by whoever may read the topology.

// shownPreSharedKey is a stored key as the API shows it: without its secret, which is
// sealed beside it.
func shownPreSharedKey(row model.Row[*storev1.PreSharedKey]) *swanherdv1.PreSharedKey {
	return shown(model.Row[*swanherdv1.PreSharedKey]{Name: row.Name, Value: row.Value.GetKey(), Revision: row.Revision})
}

func (s *Topology) keyRow(field, name string) (model.Row[*storev1.PreSharedKey], error) {
	if _, err := model.ParsePreSharedKeyName(name); err != nil {
		return model.Row[*storev1.PreSharedKey]{}, access.Invalid(field, err.Error())
	}
	row, ok := s.store.Snapshot().PreSharedKeys.Get(name)
	if !ok {
		return row, notThere(name)
	}
	return row, nil
}

// GetPreSharedKey implements TopologyService.
func (s *Topology) GetPreSharedKey(_ context.Context, req *swanherdv1.GetPreSharedKeyRequest) (*swanherdv1.PreSharedKey, error) {
	row, err := s.keyRow("name", req.GetName())
	if err != nil {
		return nil, err
	}
	return shownPreSharedKey(row), nil
}

// ListPreSharedKeys implements TopologyService.
func (s *Topology) ListPreSharedKeys(ctx context.Context, req *swanherdv1.ListPreSharedKeysRequest) (*swanherdv1.ListPreSharedKeysResponse, error) {
	out, next, err := listRows(ctx, s.store, req, func(snap *store.Snapshot) model.Table[*storev1.PreSharedKey] { return snap.PreSharedKeys },
		func(_ *store.Snapshot, row model.Row[*storev1.PreSharedKey]) *swanherdv1.PreSharedKey {
			return shownPreSharedKey(row)
		})
	if err != nil {
		return nil, err
	}
	return &swanherdv1.ListPreSharedKeysResponse{PreSharedKeys: out, NextPageToken: next}, nil
}

// CreatePreSharedKey implements TopologyService.
func (s *Topology) CreatePreSharedKey(ctx context.Context, req *swanherdv1.CreatePreSharedKeyRequest) (*swanherdv1.PreSharedKey, error) {
	if err := checkParent(&s.store.Snapshot().Topology, req.GetParent()); err != nil {
		return nil, err
	}
	name, err := childName(req.GetParent(), "preSharedKeys", req.GetPreSharedKeyId())
	if err != nil {
		return nil, err
	}
	key := &swanherdv1.PreSharedKey{}
	if want := req.GetPreSharedKey(); want != nil {
		key = proto.CloneOf(want)
	}
	clearUnwritable(key)
	key.Name = name
	return onceKey(ctx, s, req, func(t *store.Txn) (*swanherdv1.PreSharedKey, error) { return s.createKeyIn(ctx, t, key) })
}

func (s *Topology) createKeyIn(ctx context.Context, t *store.Txn, key *swanherdv1.PreSharedKey) (*swanherdv1.PreSharedKey, error) {
	snap := s.store.Snapshot()
	if scope := scopeOf(ctx, snap); !scope.Carried(networkOf(key.GetName()).String(), key.GetLabels()) {
		return nil, scope.Denied(key.GetName())
	}
	if row, exists := snap.PreSharedKeys.Get(key.GetName()); exists {
		return nil, taken(scopeOf(ctx, snap), row.Name)
	}
	if err := s.checkKey(key); err != nil {
		return nil, err
	}
	if key.GetSecret() == "" {
		return nil, access.Invalid("pre_shared_key.secret", "is needed: 8 to 256 printable ASCII characters")
	}
	now := timestamppb.New(time.Now())
	key.Uid, key.CreateTime, key.UpdateTime = strings.ToLower(ulid.Make().String()), now, now
	stored, err := s.sealedKey(key, nil)
	if err != nil {
		return nil, err
	}
	s.store.Networks.RequireIn(t, networkOf(key.GetName()).String(), store.AnyRevision)
	s.store.PreSharedKeys.CreateIn(t, key.GetName(), stored)
	s.auditKey(ctx, t, key.GetName(), "create", "")
	return proto.CloneOf(stored.GetKey()), nil
}

// checkKey says everything that is wrong with a key of the request.
func (s *Topology) checkKey(key *swanherdv1.PreSharedKey) error {
	wrong := mistakes(s.valid, "pre_shared_key", key)
	for i := range wrong {
		if wrong[i].Field == "pre_shared_key.secret" { // the rule's message is a pattern
			wrong[i].Message = "has to be 8 to 256 printable ASCII characters without a space at either end"
		}
	}
	if len(wrong) > 0 {
		return access.InvalidAll(wrong)
	}
	return nil
}

// sealedKey takes the secret out of a key and returns what is stored of it; without a new
// secret it keeps the one before.
func (s *Topology) sealedKey(key *swanherdv1.PreSharedKey, before *storev1.PreSharedKey) (*storev1.PreSharedKey, error) {
	out := &storev1.PreSharedKey{Key: key, Secret: before.GetSecret(), Version: before.GetVersion()}
	if key.GetSecret() == "" {
		return out, nil
	}
	record, err := s.store.PreSharedKeys.Key(key.GetName())
	if err != nil {
		return nil, err
	}
	octets := []byte(key.GetSecret())
	defer clear(octets)
	key.Secret, key.SecretTime = "", key.GetUpdateTime()
	out.Secret, out.Version = s.sealer.Seal(record, octets), strings.ToLower(ulid.Make().String())
	return out, nil
}

func (s *Topology) auditKey(ctx context.Context, t *store.Txn, name, verb, message string) {
	s.store.AppendEventIn(t, networkOf(name), access.Audit(access.PrincipalFrom(ctx).Actor, name, "preSharedKey."+verb, message))
}

// UpdatePreSharedKey implements TopologyService: another secret reaches the edges at once,
// and each tunnel with it authenticates anew while the one before still carries traffic.
func (s *Topology) UpdatePreSharedKey(ctx context.Context, req *swanherdv1.UpdatePreSharedKeyRequest) (*swanherdv1.PreSharedKey, error) {
	want := req.GetPreSharedKey()
	if _, err := model.ParsePreSharedKeyName(want.GetName()); err != nil {
		return nil, access.Invalid("pre_shared_key.name", err.Error())
	}
	return onceKey(ctx, s, req, func(t *store.Txn) (*swanherdv1.PreSharedKey, error) {
		row, ok := s.store.Snapshot().PreSharedKeys.Get(want.GetName())
		switch {
		case ok:
			return s.updateKeyIn(ctx, t, row, req)
		case !req.GetAllowMissing():
			return nil, notThere(want.GetName())
		}
		if err := checkParent(&s.store.Snapshot().Topology, networkOf(want.GetName()).String()); err != nil {
			return nil, err
		}
		key := proto.CloneOf(want)
		clearUnwritable(key)
		return s.createKeyIn(ctx, t, key)
	})
}

func (s *Topology) updateKeyIn(ctx context.Context, t *store.Txn, row model.Row[*storev1.PreSharedKey], req *swanherdv1.UpdatePreSharedKeyRequest) (*swanherdv1.PreSharedKey, error) {
	old := model.Row[*swanherdv1.PreSharedKey]{Name: row.Name, Value: row.Value.GetKey(), Revision: row.Revision}
	next, err := changed(old, req.GetPreSharedKey(), req.GetPreSharedKey().GetEtag(), req.GetUpdateMask())
	if err != nil {
		return nil, err
	}
	if scope := scopeOf(ctx, s.store.Snapshot()); !scope.Carried(networkOf(row.Name).String(), next.GetLabels()) {
		return nil, scope.Denied(row.Name)
	}
	if err := s.checkKey(next); err != nil {
		return nil, err
	}
	fields := changedFields(old.Value, next)
	next.UpdateTime = timestamppb.New(time.Now())
	stored, err := s.sealedKey(next, row.Value)
	if err != nil {
		return nil, err
	}
	if snap := s.store.Snapshot(); stored.GetVersion() != row.Value.GetVersion() && demandsApproval(snap, networkOf(row.Name)) && len(keyUsers(snap, row.Name)) > 0 {
		err := s.breakGlassIn(t, access.PrincipalFrom(ctx), access.BreakGlass(ctx), networkOf(row.Name), "make another key (swanherd psk create) and have the gateway use it; for that ")
		if err != nil {
			return nil, err
		}
	}
	s.store.PreSharedKeys.UpdateIn(t, row.Name, stored, row.Revision)
	s.auditKey(ctx, t, row.Name, "update", fields)
	return proto.CloneOf(stored.GetKey()), nil
}

// keyUsers are the gateways that have the key.
func keyUsers(snap *store.Snapshot, key string) (users []string) {
	for g := range snap.Gateways.InNetwork(networkOf(key)) {
		if g.Value.GetPreSharedKey().GetKey() == key {
			users = append(users, g.Name)
		}
	}
	return users
}

// DeletePreSharedKey implements TopologyService; a key in use stays.
func (s *Topology) DeletePreSharedKey(ctx context.Context, req *swanherdv1.DeletePreSharedKeyRequest) (*emptypb.Empty, error) {
	if _, err := model.ParsePreSharedKeyName(req.GetName()); err != nil {
		return nil, access.Invalid("name", err.Error())
	}
	return onceKey(ctx, s, req, func(t *store.Txn) (*emptypb.Empty, error) {
		snap := s.store.Snapshot()
		row, ok := snap.PreSharedKeys.Get(req.GetName())
		if !ok && !req.GetAllowMissing() {
			return nil, notThere(req.GetName())
		}
		if !ok {
			return &emptypb.Empty{}, nil
		}
		if err := checkETag(row.Name, req.GetEtag(), row.Revision); err != nil {
			return nil, err
		}
		if err := inUse(scopeOf(ctx, snap), row.Name, "give it another key first", keyUsers(snap, row.Name)); err != nil {
			return nil, err
		}
		s.store.PreSharedKeys.DeleteIn(t, row.Name, row.Revision)
		s.store.GuardTopologyIn(t, networkOf(row.Name), snap.Revision) // no gateway begins to use it meanwhile
		s.auditKey(ctx, t, row.Name, "delete", "")
		return &emptypb.Empty{}, nil
	})
}

// onceKey is once for keys, which are in no edit of the topology. Of a request that holds a
// secret no hash is kept that is open to see: by it a short secret could be guessed.
func onceKey[R proto.Message](ctx context.Context, s *Topology, req change, prepare func(*store.Txn) (R, error)) (R, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out, err := committedWith(ctx, s.store, req, answers[R]{
		replay: func() (R, error) { return replayKey[R](ctx, s, req) },
		keep:   func(t *store.Txn, out R) error { return s.keepKeyAnswer(ctx, t, req, out) },
	}, func() (R, *store.Txn, error) {
		t := s.store.Txn()
		out, err := prepare(t)
		return out, t, err
	})
	return out, access.StoreError(err)
}

// withoutSecret is the request without the secret in it.
func withoutSecret(req change) change {
	out := proto.Clone(req).(change)
	if r, ok := out.(interface {
		GetPreSharedKey() *swanherdv1.PreSharedKey
	}); ok && r.GetPreSharedKey() != nil {
		r.GetPreSharedKey().Secret = ""
	}
	return out
}

// keepKeyAnswer adds to the transaction what the request is answered, and, sealed, the hash
// of all of the request.
func (s *Topology) keepKeyAnswer(ctx context.Context, t *store.Txn, req change, out proto.Message) error {
	actor := access.PrincipalFrom(ctx).Actor
	key, err := store.AnswerKey(actor, req.GetRequestId())
	if err != nil {
		return err
	}
	sum, err := requestSum(req)
	if err != nil {
		return err
	}
	return keepAnswer(ctx, s.store, t, actor, withoutSecret(req), out, s.sealer.Seal(key, sum))
}

// replayKey is replay for a request that may hold a secret.
func replayKey[R proto.Message](ctx context.Context, s *Topology, req change) (R, error) {
	var none R
	actor := access.PrincipalFrom(ctx).Actor
	a, revision, err := answered(ctx, s.store, actor, req.GetRequestId(), withoutSecret(req))
	if err != nil || a == nil {
		return none, access.StoreError(err)
	}
	key, err := store.AnswerKey(actor, req.GetRequestId())
	if err != nil {
		return none, err
	}
	sum, err := requestSum(req)
	if err != nil {
		return none, err
	}
	before, err := s.sealer.Open(key, a.GetSealedRequestSha256())
	if err != nil {
		return none, status.Errorf(codes.Internal, "the request before: %v", err)
	}
	if subtle.ConstantTimeCompare(sum, before) != 1 {
		return none, errOtherRequest()
	}
	return answerOf[R](ctx, s.store, a, revision)
}
