package api

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/store"
)

const (
	// bookmarkInterval is how often a stream on which nothing happens says so.
	bookmarkInterval = time.Minute
	// tokenCheckInterval is how often it is looked whether the caller may go on.
	tokenCheckInterval = time.Second
)

// resumeToken says where a stream goes on.
type resumeToken struct {
	// Query is a hash of the request, View of what the caller may see of what it asks for,
	// Epoch that of the store.
	Query    []byte `json:"q"`
	View     []byte `json:"v"`
	Epoch    string `json:"e"`
	Revision int64  `json:"r"`
}

// topologyWatch is one stream.
type topologyWatch struct {
	svc    *Topology
	parent string
	who    access.Principal
	kinds  []followed
	token  resumeToken
	stream swanherdv1.TopologyService_WatchServer
	stale  staleness
	// seen is what the caller has.
	seen *store.Snapshot
}

// Watch implements TopologyService.
func (s *Topology) Watch(req *swanherdv1.WatchRequest, stream swanherdv1.TopologyService_WatchServer) error {
	ctx := stream.Context()
	sub := s.store.Subscribe()
	defer sub.Close()
	w, err := s.newWatch(ctx, req, stream)
	if err != nil {
		return err
	}
	if err := w.tellStale(); err != nil { // before what may be old
		return err
	}
	if err := w.advance(s.store.Snapshot(), swanherdv1.WatchResponse_KIND_SYNCED); err != nil {
		return err
	}
	bookmark, check := time.NewTicker(bookmarkInterval), time.NewTicker(tokenCheckInterval)
	defer bookmark.Stop()
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case now := <-check.C:
			if err = stillValid(s.keeper, w.who, now); err == nil {
				err = w.tellStale()
			}
		case <-sub.Changed():
			err = w.advance(s.store.Snapshot(), swanherdv1.WatchResponse_KIND_UNSPECIFIED)
		case <-bookmark.C:
			if w.stale.since == nil { // else nobody knows that there is nothing new
				err = w.advance(s.store.Snapshot(), swanherdv1.WatchResponse_KIND_BOOKMARK)
			}
		}
		if err != nil {
			return err
		}
	}
}

func (s *Topology) newWatch(ctx context.Context, req *swanherdv1.WatchRequest, stream swanherdv1.TopologyService_WatchServer) (*topologyWatch, error) {
	if err := checkParent(&s.store.Snapshot().Topology, req.GetParent()); err != nil {
		return nil, err
	}
	who := access.PrincipalFrom(ctx)
	kinds, err := followedKinds(who, req)
	if err != nil {
		return nil, err
	}
	same := proto.CloneOf(req)
	same.ResumeToken = ""
	sum, err := requestSum(same)
	if err != nil {
		return nil, err
	}
	w := &topologyWatch{
		svc: s, parent: req.GetParent(), who: who, kinds: kinds, stream: stream,
		token: resumeToken{Query: sum[:8], View: viewSum(who, kinds), Epoch: s.store.Epoch()}, seen: &store.Snapshot{},
		stale: staleness{store: s.store},
	}
	if req.GetResumeToken() == "" {
		return w, nil
	}
	var t resumeToken
	b, err := base64.RawURLEncoding.DecodeString(req.GetResumeToken())
	if err != nil || json.Unmarshal(b, &t) != nil || !slices.Equal(t.Query, w.token.Query) || t.Revision <= 0 {
		return nil, access.Invalid("resume_token", "is not from a stream of the same request; watch without one")
	}
	expired := access.Expired("what resume_token stands for", "watch without one, and take what comes for all there is")
	if t.Epoch != w.token.Epoch || !slices.Equal(t.View, w.token.View) { // another store, or role
		return nil, expired
	}
	snap, err := s.store.SnapshotAt(ctx, t.Revision)
	if _, stale := s.store.StaleSince(); stale && errors.Is(err, store.ErrPast) && t.Revision > s.store.Snapshot().Revision {
		return nil, status.Error(codes.Unavailable, "resume_token is of a state that this replica has not learnt of, as its store does not answer; try another replica, or later")
	}
	if errors.Is(err, store.ErrPast) {
		return nil, expired
	}
	if err != nil {
		return nil, access.StoreError(err)
	}
	w.seen = snap
	return w, nil
}

// tellStale says when the replica ceases to learn of changes, and when it does again.
func (w *topologyWatch) tellStale() error {
	switch {
	case !w.stale.turned():
		return nil
	case w.stale.since == nil:
		return w.advance(w.svc.store.Snapshot(), swanherdv1.WatchResponse_KIND_CURRENT)
	default:
		return w.stream.Send(&swanherdv1.WatchResponse{Kind: swanherdv1.WatchResponse_KIND_STALE, StaleSinceTime: w.stale.since})
	}
}

// advance sends what differs between what the caller has and now. closing, unless
// it is unspecified, is sent behind it. The last message has the token: it waits until it is
// known to be the last.
func (w *topologyWatch) advance(now *store.Snapshot, closing swanherdv1.WatchResponse_Kind) error {
	var last *swanherdv1.WatchResponse
	send := func(m *swanherdv1.WatchResponse) (err error) {
		if last != nil {
			err = w.stream.Send(last)
		}
		last = m
		return err
	}
	for _, k := range w.kinds {
		step := &watchStep{w.svc, w.parent, w.seen, now, k.who.Scope(w.seen), k.who.Scope(now)}
		for m := range k.changes(step) {
			if err := send(m); err != nil {
				return err
			}
		}
	}
	w.seen = now
	if closing != swanherdv1.WatchResponse_KIND_UNSPECIFIED {
		if err := send(&swanherdv1.WatchResponse{Kind: closing}); err != nil {
			return err
		}
	}
	if last == nil {
		return nil
	}
	token, err := w.resume(now.Revision)
	if err != nil {
		return err
	}
	last.ResumeToken = token
	return w.stream.Send(last)
}

func (w *topologyWatch) resume(revision int64) (string, error) {
	w.token.Revision = revision
	b, err := json.Marshal(w.token)
	if err != nil {
		return "", status.Errorf(codes.Internal, "encode resume_token: %v", err)
	}
	return base64.RawURLEncoding.EncodeToString(b), nil
}

// viewSum is a hash of what somebody sees: with another role, or when there are more kinds,
// what changed since is not all that is new.
func viewSum(who access.Principal, kinds []followed) []byte {
	h := sha256.New()
	for _, g := range who.Grants {
		fmt.Fprintf(h, "%d %q %q\n", g.Role, g.Networks, access.LabelText(g.Labels))
	}
	for _, k := range kinds {
		fmt.Fprintln(h, k.collection())
	}
	return h.Sum(nil)[:8]
}
