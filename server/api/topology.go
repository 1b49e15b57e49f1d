package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/pki"
	"github.com/swanherd/swanherd/server/store"
)

// Topology implements TopologyService.
type Topology struct {
	swanherdv1.UnimplementedTopologyServiceServer

	store *store.Store
	pki   *pki.Keeper
	fleet *fleet.Fleet
	valid protovalidate.Validator

	// mu is held from reading the snapshot that a change is validated against
	// until the change is in the snapshot. Against other replicas the store
	// guards; this spares edits of the same replica the retry.
	mu sync.Mutex
}

// NewTopology returns the service.
func NewTopology(s *store.Store, keeper *pki.Keeper, live *fleet.Fleet) (*Topology, error) {
	v, err := protovalidate.New()
	if err != nil {
		return nil, fmt.Errorf("make resource validator: %w", err)
	}
	return &Topology{store: s, pki: keeper, fleet: live, valid: v}, nil
}

func get[T resource](s *Topology, k kind[T], name string) (T, error) {
	var none T
	if err := k.parse(name); err != nil {
		return none, access.Invalid("name", err.Error())
	}
	row, ok := k.rows(&s.store.Snapshot().Topology).Get(name)
	if !ok {
		return none, status.Errorf(codes.NotFound, "%s does not exist", name)
	}
	return shown(row), nil
}

func list[T resource](ctx context.Context, s *Topology, k kind[T], parent, token string, size int32) ([]T, string, error) {
	snap := s.store.Snapshot()
	if parent != "" {
		if err := checkParent(&snap.Topology, parent); err != nil {
			return nil, "", err
		}
	}
	t, err := decodePageToken(token, parent)
	if err != nil {
		return nil, "", err
	}
	rows, next := page(t, size, rowsAfter(*k.rows(&snap.Topology), parent, t.After, access.PrincipalFrom(ctx).Sees))
	out := make([]T, len(rows))
	for i, row := range rows {
		out[i] = shown(row)
	}
	return out, next, nil
}

// create stores want under the name, which it lacks so far.
func create[T resource](ctx context.Context, s *Topology, k kind[T], name string, want T, validateOnly bool) (T, error) {
	want = proto.Clone(want).(T)
	if !want.ProtoReflect().IsValid() { // left out of the request
		want = want.ProtoReflect().New().Interface().(T)
	}
	setString(want, "name", name)
	setString(want, "etag", "")
	return attempt(s, ctx, func(e *edit) (T, error) {
		if _, exists := k.rows(&e.base.Topology).Get(name); exists {
			var none T
			return none, status.Errorf(codes.AlreadyExists, "%s exists already; update it instead", name)
		}
		return write(ctx, e, k, want, validateOnly)
	})
}

// update changes the fields of a resource that the mask names.
func update[T resource](ctx context.Context, s *Topology, k kind[T], want T, mask *fieldmaskpb.FieldMask, validateOnly bool) (T, error) {
	return attempt(s, ctx, func(e *edit) (T, error) {
		var none T
		if err := k.parse(want.GetName()); err != nil {
			return none, access.Invalid(k.word+".name", err.Error())
		}
		old, exists := k.rows(&e.base.Topology).Get(want.GetName())
		if !exists {
			return none, status.Errorf(codes.NotFound, "%s does not exist", want.GetName())
		}
		next, err := masked(old.Value, want, mask)
		if err != nil {
			return none, err
		}
		setString(next, "etag", want.GetEtag())
		return write(ctx, e, k, next, validateOnly)
	})
}

// write validates, stores and shows one resource.
func write[T resource](ctx context.Context, e *edit, k kind[T], want T, validateOnly bool) (T, error) {
	var none T
	for _, v := range access.Violations(e.svc.valid.Validate(want)) {
		e.violations = append(e.violations, access.Violation{Field: k.word + "." + v.Field, Message: v.Message})
	}
	if err := put(e, k, want); err != nil {
		return none, err
	}
	if err := e.check(); err != nil {
		return none, err
	}
	if validateOnly {
		return k.rows(&e.next).Value(want.GetName()), nil
	}
	snap, err := e.commit(ctx)
	if err != nil {
		return none, err
	}
	row, ok := k.rows(&snap.Topology).Get(want.GetName())
	if !ok {
		return none, status.Errorf(codes.Aborted, "%s was deleted in between", want.GetName())
	}
	return shown(row), nil
}

// editAttempts bounds how often an edit starts over because another replica
// changed the same network meanwhile.
const editAttempts = 5

// attempt runs f on an edit of the newest topology, again when another replica
// was faster. Edits of this replica wait for one another.
func attempt[R any](s *Topology, ctx context.Context, f func(*edit) (R, error)) (R, error) {
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

// deleted runs one deletion.
func (s *Topology) deleted(ctx context.Context, f func(*edit) error) (*emptypb.Empty, error) {
	return attempt(s, ctx, func(e *edit) (*emptypb.Empty, error) {
		if err := f(e); err != nil {
			return nil, err
		}
		if _, err := e.commit(ctx); err != nil {
			return nil, err
		}
		return &emptypb.Empty{}, nil
	})
}

// childName makes the name of a new resource in a network.
func childName(parent, collection, id string) (string, error) {
	if _, err := model.ParseNetworkName(parent); err != nil {
		return "", access.Invalid("parent", err.Error())
	}
	return parent + "/" + collection + "/" + id, nil
}

// DeleteNetwork implements TopologyService; a network that has resources stays.
func (s *Topology) DeleteNetwork(ctx context.Context, req *swanherdv1.DeleteNetworkRequest) (*emptypb.Empty, error) {
	n, err := model.ParseNetworkName(req.GetName())
	if err != nil {
		return nil, access.Invalid("name", err.Error())
	}
	return s.deleted(ctx, func(e *edit) error {
		var has []string
		count := func(word string, c int) {
			if c > 0 {
				has = append(has, fmt.Sprintf("%d %s", c, word))
			}
		}
		count("sites", inNetwork(e.base.Sites, n))
		count("edges", inNetwork(e.base.Edges, n))
		count("meshes", inNetwork(e.base.Meshes, n))
		count("profiles", inNetwork(e.base.Profiles, n))
		if len(has) > 0 {
			return status.Errorf(codes.FailedPrecondition, "%s still has %s; delete them first", n, strings.Join(has, ", "))
		}
		if err := remove(e, networks, req.GetName(), req.GetEtag()); err != nil {
			return err
		}
		for row := range e.base.EnrollmentTokens.InNetwork(n) {
			s.store.EnrollmentTokens.DropIn(e.txn, row.Name)
		}
		for row := range e.base.Revocations.InNetwork(n) {
			s.store.Revocations.DropIn(e.txn, row.Name)
		}
		s.pki.DropNetworkIn(e.txn, n)
		return nil
	})
}

func inNetwork[T any](t model.Table[T], n model.NetworkName) int {
	c := 0
	for range t.InNetwork(n) {
		c++
	}
	return c
}

// DeleteSite implements TopologyService. The site's edges stay enrolled and
// lose their tunnels; tokens for the site go with it.
func (s *Topology) DeleteSite(ctx context.Context, req *swanherdv1.DeleteSiteRequest) (*emptypb.Empty, error) {
	return s.deleted(ctx, func(e *edit) error {
		if by := meshesNaming(&e.next, req.GetName()); len(by) > 0 {
			return status.Errorf(codes.FailedPrecondition, "%s is named by %s; take it out of them first", req.GetName(), strings.Join(by, ", "))
		}
		return e.removeSite(req.GetName(), req.GetEtag())
	})
}

func (e *edit) removeSite(name, etag string) error {
	if err := remove(e, sites, name, etag); err != nil {
		return err
	}
	e.dropTokensOf(name)
	return nil
}

// dropTokensOf removes the enrolment tokens for a site that goes.
func (e *edit) dropTokensOf(site string) {
	for row := range e.base.EnrollmentTokens.InNetwork(networkOf(site)) {
		if row.Value.GetToken().GetSite() == site {
			e.svc.store.EnrollmentTokens.DropIn(e.txn, row.Name)
		}
	}
}

// DeleteMesh implements TopologyService.
func (s *Topology) DeleteMesh(ctx context.Context, req *swanherdv1.DeleteMeshRequest) (*emptypb.Empty, error) {
	return s.deleted(ctx, func(e *edit) error { return remove(e, meshes, req.GetName(), req.GetEtag()) })
}

// DeleteProfile implements TopologyService; a profile in use stays.
func (s *Topology) DeleteProfile(ctx context.Context, req *swanherdv1.DeleteProfileRequest) (*emptypb.Empty, error) {
	return s.deleted(ctx, func(e *edit) error {
		if by := meshesUsing(&e.next, req.GetName()); len(by) > 0 {
			return status.Errorf(codes.FailedPrecondition, "%s is in use by %s; give them another profile first", req.GetName(), strings.Join(by, ", "))
		}
		return remove(e, profiles, req.GetName(), req.GetEtag())
	})
}

// DeleteEdge implements TopologyService: the edge's certificates are revoked,
// its session ends at once.
func (s *Topology) DeleteEdge(ctx context.Context, req *swanherdv1.DeleteEdgeRequest) (*emptypb.Empty, error) {
	name, err := model.ParseEdgeName(req.GetName())
	if err != nil {
		return nil, access.Invalid("name", err.Error())
	}
	return s.deleted(ctx, func(e *edit) error { return e.removeEdge(name, req.GetEtag()) })
}

// meshesUsing returns the meshes that refer to the profile.
func meshesUsing(t *model.Topology, profile string) []string {
	var out []string
	for row := range t.Meshes.InNetwork(networkOf(profile)) {
		if row.Value.GetProfile() == profile {
			out = append(out, row.Name)
		}
	}
	return out
}

// meshesNaming returns the meshes that name the site, not merely select it.
func meshesNaming(t *model.Topology, site string) []string {
	var out []string
	for row := range t.Meshes.InNetwork(networkOf(site)) {
		if names(row.Value, site) {
			out = append(out, row.Name)
		}
	}
	return out
}

func names(m *swanherdv1.Mesh, site string) bool {
	selectors := []*swanherdv1.SiteSelector{
		m.GetFullMesh().GetSites(), m.GetHubAndSpoke().GetHubs(), m.GetHubAndSpoke().GetSpokes(),
	}
	for _, s := range selectors {
		for _, named := range s.GetSites() {
			if named == site {
				return true
			}
		}
	}
	for _, l := range m.GetExplicitLinks().GetLinks() {
		if l.GetSiteA() == site || l.GetSiteB() == site {
			return true
		}
	}
	return false
}
