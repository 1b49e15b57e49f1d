package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/model"
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
	// Query is a hash of the request, Epoch that of the store.
	Query    []byte `json:"q"`
	Epoch    string `json:"e"`
	Revision int64  `json:"r"`
}

// topologyWatch is one stream.
type topologyWatch struct {
	svc    *Topology
	req    *swanherdv1.WatchRequest
	who    access.Principal
	token  resumeToken
	stream swanherdv1.TopologyService_WatchServer
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
			err = stillValid(s.keeper, w.who, now)
		case <-sub.Changed():
			err = w.advance(s.store.Snapshot(), swanherdv1.WatchResponse_KIND_UNSPECIFIED)
		case <-bookmark.C:
			err = w.advance(s.store.Snapshot(), swanherdv1.WatchResponse_KIND_BOOKMARK)
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
	same := proto.CloneOf(req)
	same.ResumeToken = ""
	sum, err := requestSum(same)
	if err != nil {
		return nil, err
	}
	w := &topologyWatch{
		svc: s, req: req, who: access.PrincipalFrom(ctx), stream: stream,
		token: resumeToken{Query: sum[:8], Epoch: s.store.Epoch()}, seen: &store.Snapshot{},
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
	if t.Epoch != w.token.Epoch { // the store was replaced
		return nil, expired
	}
	snap, err := s.store.SnapshotAt(ctx, t.Revision)
	if errors.Is(err, store.ErrPast) {
		return nil, expired
	}
	if err != nil {
		return nil, access.StoreError(err)
	}
	w.seen = snap
	return w, nil
}

// advance sends what differs between what the caller has and now. closing, unless
// it is unspecified, is sent behind it.
func (w *topologyWatch) advance(now *store.Snapshot, closing swanherdv1.WatchResponse_Kind) error {
	out := slices.Concat(
		watched(w, networks, now, func(r *swanherdv1.WatchResponse, m *swanherdv1.Network) {
			r.Resource = &swanherdv1.WatchResponse_Network{Network: m}
		}),
		watched(w, profiles, now, func(r *swanherdv1.WatchResponse, m *swanherdv1.Profile) {
			r.Resource = &swanherdv1.WatchResponse_Profile{Profile: m}
		}),
		watched(w, segments, now, func(r *swanherdv1.WatchResponse, m *swanherdv1.Segment) {
			r.Resource = &swanherdv1.WatchResponse_Segment{Segment: m}
		}),
		watched(w, sites, now, func(r *swanherdv1.WatchResponse, m *swanherdv1.Site) {
			r.Resource = &swanherdv1.WatchResponse_Site{Site: m}
		}),
		watched(w, meshes, now, func(r *swanherdv1.WatchResponse, m *swanherdv1.Mesh) {
			r.Resource = &swanherdv1.WatchResponse_Mesh{Mesh: m}
		}),
		watched(w, gateways, now, func(r *swanherdv1.WatchResponse, m *swanherdv1.Gateway) {
			r.Resource = &swanherdv1.WatchResponse_Gateway{Gateway: m}
		}),
		watched(w, edges, now, func(r *swanherdv1.WatchResponse, m *swanherdv1.Edge) {
			r.Resource = &swanherdv1.WatchResponse_Edge{Edge: m}
		}))
	w.seen = now
	if closing != swanherdv1.WatchResponse_KIND_UNSPECIFIED {
		out = append(out, &swanherdv1.WatchResponse{Kind: closing})
	}
	for i, m := range out {
		if i == len(out)-1 {
			token, err := w.resume(now.Revision)
			if err != nil {
				return err
			}
			m.ResumeToken = token
		}
		if err := w.stream.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func (w *topologyWatch) resume(revision int64) (string, error) {
	w.token.Revision = revision
	b, err := json.Marshal(w.token)
	if err != nil {
		return "", status.Errorf(codes.Internal, "encode resume_token: %v", err)
	}
	return base64.RawURLEncoding.EncodeToString(b), nil
}

// watched are the messages about one kind of resource.
func watched[T resource](w *topologyWatch, k kind[T], now *store.Snapshot, set func(*swanherdv1.WatchResponse, T)) []*swanherdv1.WatchResponse {
	if len(w.req.GetKinds()) > 0 && !slices.Contains(w.req.GetKinds(), k.collection) {
		return nil
	}
	was, is := w.who.Scope(w.seen), w.who.Scope(now)
	var out []*swanherdv1.WatchResponse
	tell := func(name string, old, current *model.Row[T]) {
		network := networkOf(name).String()
		if w.req.GetParent() != fleet.AllNetworks && network != w.req.GetParent() {
			return
		}
		r := &swanherdv1.WatchResponse{Kind: swanherdv1.WatchResponse_KIND_UPSERTED}
		switch {
		case current != nil && is.Sees(name):
			set(r, w.svc.shown(name, shown(*current)).(T))
		case old != nil && was.Sees(name):
			var none T
			gone := none.ProtoReflect().New().Interface().(T)
			setString(gone, "name", name)
			r.Kind = swanherdv1.WatchResponse_KIND_REMOVED
			set(r, gone)
		default:
			return
		}
		out = append(out, r)
	}
	rows := k.rows(&now.Topology)
	for c := range model.Diff(*k.rows(&w.seen.Topology), *rows) {
		tell(c.Name, c.Old, c.New)
	}
	if is.Limited() && k.collection == edges.collection { // and those that their sites' labels move
		for row := range rows.All() {
			if old, ok := k.rows(&w.seen.Topology).Get(row.Name); ok && old.Revision == row.Revision && was.Sees(row.Name) != is.Sees(row.Name) {
				tell(row.Name, &old, &row)
			}
		}
	}
	return out
}
