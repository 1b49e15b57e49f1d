package api

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// record adds to the transaction what changes in each network, and what it takes to
// go back: so the cost is that of the change. A network that goes leaves nothing.
func (e *edit) record() error {
	for network, content := range e.changedNetworks() {
		if _, stays := e.next.Networks.Get(network.String()); !stays {
			continue
		}
		for _, c := range content.GetChanges() {
			if c.GetAction() != swanherdv1.ResourceChange_ACTION_CREATED {
				appendResource(content.GetBefore(), &e.base.Topology, c.GetName())
			}
		}
		r := store.TopologyRevision{TopologyRevision: &storev1.TopologyRevision{Actor: e.actor, Time: timestamppb.New(e.now), Rollout: e.rollout}, Content: content}
		if err := e.svc.store.RecordIn(e.txn, network, r); err != nil {
			return err
		}
	}
	return nil
}

// changedNetworks are the changes of what manifests hold, by network.
func (e *edit) changedNetworks() map[model.NetworkName]*storev1.RevisionContent {
	out := map[model.NetworkName]*storev1.RevisionContent{}
	for _, c := range e.changes {
		if c.GetAction() == swanherdv1.ResourceChange_ACTION_UNCHANGED || wordOf(c.GetName()) == edges.word {
			continue
		}
		n := networkOf(c.GetName())
		if out[n] == nil {
			out[n] = &storev1.RevisionContent{Before: &swanherdv1.Manifest{}}
		}
		out[n].Changes = append(out[n].Changes, c)
	}
	return out
}

func trimRevisions(ctx context.Context, s *store.Store, network model.NetworkName) {
	if err := s.TrimRevisions(ctx, network); err != nil { // the next change tries again
		slog.DebugContext(ctx, "trim revisions", "network", network.String(), "error", err)
	}
}

// appendResource adds the resource of that name to a manifest, without what the
// server sets.
func appendResource(m *swanherdv1.Manifest, t *model.Topology, name string) {
	switch wordOf(name) {
	case networks.word:
		m.Networks = appendPlain(m.Networks, t.Networks, name)
	case profiles.word:
		m.Profiles = appendPlain(m.Profiles, t.Profiles, name)
	case segments.word:
		m.Segments = appendPlain(m.Segments, t.Segments, name)
	case sites.word:
		m.Sites = appendPlain(m.Sites, t.Sites, name)
	case meshes.word:
		m.Meshes = appendPlain(m.Meshes, t.Meshes, name)
	case gateways.word:
		m.Gateways = appendPlain(m.Gateways, t.Gateways, name)
	case assertions.word:
		m.Assertions = appendPlain(m.Assertions, t.Assertions, name)
	}
}

func appendPlain[T resource](list []T, rows model.Table[T], name string) []T {
	row, ok := rows.Get(name)
	if !ok {
		return list
	}
	plain := proto.Clone(row.Value).(T)
	clearUnwritable(plain)
	return append(list, plain)
}

// ListRevisions implements TopologyService.
func (s *Topology) ListRevisions(ctx context.Context, req *swanherdv1.ListRevisionsRequest) (*swanherdv1.ListRevisionsResponse, error) {
	network, err := model.ParseNetworkName(req.GetParent())
	if err != nil {
		return nil, access.Invalid("parent", err.Error())
	}
	if _, ok := s.store.Snapshot().Networks.Get(req.GetParent()); !ok {
		return nil, status.Errorf(codes.NotFound, "%s does not exist", req.GetParent())
	}
	q, err := newQuery(ctx, req, (&swanherdv1.Revision{}).ProtoReflect().Descriptor())
	if err != nil {
		return nil, err
	}
	last := int64(math.MaxInt64)
	if q.token.After != "" {
		after, err := strconv.ParseInt(lastSegment(q.token.After), 10, 64)
		if err != nil {
			return nil, errPageToken
		}
		last = after - 1
	}
	records, err := s.store.Revisions(ctx, network, 0, last)
	if err != nil {
		return nil, access.StoreError(err)
	}
	out, next := page(q, func(yield func(*swanherdv1.Revision) bool) {
		for _, r := range records {
			if !yield(shownRevision(network, r)) {
				return
			}
		}
	})
	return &swanherdv1.ListRevisionsResponse{Revisions: out, NextPageToken: next}, nil
}

// summaryOf is what changed in a few words.
func summaryOf(changes []*swanherdv1.ResourceChange) string {
	counts := map[string]int{}
	var order []string
	for _, c := range changes {
		if c.GetAction() == swanherdv1.ResourceChange_ACTION_UNCHANGED {
			continue
		}
		word := wordOf(c.GetName()) + "." + verb(c.GetAction())
		if counts[word]++; counts[word] == 1 {
			order = append(order, word)
		}
	}
	if len(changes) == 1 && len(order) == 1 {
		return order[0] + " " + changes[0].GetName()
	}
	for i, word := range order {
		order[i] = fmt.Sprintf("%s %d", word, counts[word])
	}
	return strings.Join(order, ", ")
}

func shownRevision(network model.NetworkName, r store.TopologyRevision) *swanherdv1.Revision {
	summary := summaryOf(r.Content.GetChanges())
	if r.GetRollout() != "" {
		summary = r.GetRollout() + ": " + summary
	}
	return &swanherdv1.Revision{
		Name: fmt.Sprintf("%s/revisions/%d", network, r.Revision), Revision: r.Revision, CreateTime: r.GetTime(),
		Actor: r.GetActor(), Summary: summary, Changes: r.Content.GetChanges(),
	}
}

// GetRevision implements TopologyService.
func (s *Topology) GetRevision(ctx context.Context, req *swanherdv1.GetRevisionRequest) (*swanherdv1.Revision, error) {
	network, number, err := parseRevision(req.GetName())
	if err != nil {
		return nil, err
	}
	r, manifest, err := s.networkAt(ctx, s.store.CatchUp(ctx), network, number)
	if err != nil {
		return nil, err
	}
	out := shownRevision(network, r)
	out.Manifest = manifest
	return out, nil
}

// RestoreRevision implements TopologyService.
func (s *Topology) RestoreRevision(ctx context.Context, req *swanherdv1.RestoreRevisionRequest) (*swanherdv1.ApplyResponse, error) {
	network, number, err := parseRevision(req.GetName())
	if err != nil {
		return nil, err
	}
	return once(ctx, s, req, func(e *edit) error {
		_, manifest, err := s.networkAt(ctx, e.base, network, number)
		if err != nil {
			return err
		}
		if err := e.merge(manifest, model.Prune{All: true}); err != nil {
			return err
		}
		e.fields = model.Fields{} // what is wrong is in the way, not in the request
		return e.check()
	}, func(e *edit) *swanherdv1.ApplyResponse { return e.applied(req.GetValidateOnly()) })
}

func parseRevision(name string) (model.NetworkName, int64, error) {
	parts := strings.Split(name, "/")
	wrong := access.Invalid("name", "is not a name of the form networks/{network}/revisions/{revision}")
	if len(parts) != 4 || parts[2] != "revisions" {
		return model.NetworkName{}, 0, wrong
	}
	network, err := model.ParseNetworkName(parts[0] + "/" + parts[1])
	if err != nil {
		return network, 0, wrong
	}
	number, err := strconv.ParseInt(parts[3], 10, 64)
	if err != nil || number <= 0 || strconv.FormatInt(number, 10) != parts[3] {
		return network, 0, wrong
	}
	return network, number, nil
}

// networkAt is a network as it was after a change: as it is in the snapshot, with
// each change since then taken back, the newest first.
func (s *Topology) networkAt(ctx context.Context, snap *store.Snapshot, network model.NetworkName, number int64) (store.TopologyRevision, *swanherdv1.Manifest, error) {
	var none store.TopologyRevision
	records, err := s.store.Revisions(ctx, network, number, snap.Revision)
	if err != nil {
		return none, nil, access.StoreError(err)
	}
	if len(records) == 0 || records[len(records)-1].Revision != number {
		return none, nil, status.Errorf(codes.NotFound, "%s/revisions/%d does not exist, or is not kept any more", network, number)
	}
	at := snap.Topology
	for _, r := range records[:len(records)-1] {
		takeBack(&at, r.Content)
	}
	m := &swanherdv1.Manifest{}
	for _, name := range slices.Concat([]string{network.String()}, inNetwork(at.Profiles, network), inNetwork(at.Segments, network), inNetwork(at.Sites, network),
		inNetwork(at.Meshes, network), inNetwork(at.Gateways, network), inNetwork(at.Assertions, network)) {
		appendResource(m, &at, name)
	}
	return records[len(records)-1], m, nil
}

// takeBack makes a topology what it was before a change.
func takeBack(t *model.Topology, content *storev1.RevisionContent) {
	for _, c := range content.GetChanges() {
		if c.GetAction() != swanherdv1.ResourceChange_ACTION_CREATED {
			continue
		}
		t.Profiles, t.Sites, t.Meshes = t.Profiles.Without(c.GetName()), t.Sites.Without(c.GetName()), t.Meshes.Without(c.GetName())
		t.Segments = t.Segments.Without(c.GetName())
		t.Gateways = t.Gateways.Without(c.GetName())
		t.Assertions = t.Assertions.Without(c.GetName())
	}
	before := content.GetBefore()
	t.Networks = withAll(t.Networks, before.GetNetworks())
	t.Profiles = withAll(t.Profiles, before.GetProfiles())
	t.Segments = withAll(t.Segments, before.GetSegments())
	t.Sites = withAll(t.Sites, before.GetSites())
	t.Meshes = withAll(t.Meshes, before.GetMeshes())
	t.Gateways = withAll(t.Gateways, before.GetGateways())
	t.Assertions = withAll(t.Assertions, before.GetAssertions())
}

func withAll[T resource](rows model.Table[T], values []T) model.Table[T] {
	for _, v := range values {
		rows = rows.With(model.Row[T]{Name: v.GetName(), Value: v})
	}
	return rows
}
