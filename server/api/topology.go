package api

import (
	"context"
	"fmt"
	"slices"
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
	"github.com/swanherd/swanherd/server/rollout"
	"github.com/swanherd/swanherd/server/store"
)

// Topology implements TopologyService.
type Topology struct {
	swanherdv1.UnimplementedTopologyServiceServer

	store *store.Store
	pki   *pki.Keeper
	fleet *fleet.Fleet
	valid protovalidate.Validator
	// keeper says whether the caller of a stream may still see it.
	keeper *access.Keeper
	sealer *store.Sealer
	view   func(model.NetworkName) *rollout.View

	// mu is held from reading the snapshot that a change is validated against
	// until the change is in the snapshot. Against other replicas the store
	// guards; this spares edits of the same replica the retry.
	mu sync.Mutex
}

// NewTopology returns the service.
func NewTopology(s *store.Store, authorities *pki.Keeper, live *fleet.Fleet, keeper *access.Keeper, sealer *store.Sealer, view func(model.NetworkName) *rollout.View) (*Topology, error) {
	v, err := protovalidate.New()
	if err != nil {
		return nil, fmt.Errorf("make resource validator: %w", err)
	}
	return &Topology{store: s, pki: authorities, fleet: live, keeper: keeper, sealer: sealer, view: view, valid: v}, nil
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

func list[T resource](ctx context.Context, s *Topology, k kind[T], req listRequest) ([]T, string, error) {
	snap := s.store.Snapshot()
	if parent, ok := parentOf(req); ok {
		if err := checkParent(&snap.Topology, parent); err != nil {
			return nil, "", err
		}
	}
	var none T
	q, err := newQuery(ctx, req, none.ProtoReflect().Descriptor())
	if err != nil {
		return nil, "", err
	}
	if snap, err = q.snapshot(ctx, s.store, snap); err != nil {
		return nil, "", err
	}
	rows := rowsOf(*k.rows(&snap.Topology), q.parent, q.first(), scopeOf(ctx, snap))
	out, next := page(q, func(yield func(T) bool) {
		for row := range rows {
			if !yield(s.shown(row.Name, shown(row)).(T)) {
				return
			}
		}
	})
	return out, next, nil
}

// shown adds to a resource what is known besides what is stored.
func (s *Topology) shown(name string, m proto.Message) proto.Message {
	if e, ok := m.(*swanherdv1.Edge); ok {
		return s.live(e)
	}
	return m
}

// create stores want under the name, which it lacks so far.
func create[T resource](ctx context.Context, s *Topology, k kind[T], name string, want T, req change) (T, error) {
	want = proto.Clone(want).(T)
	if !want.ProtoReflect().IsValid() { // left out of the request
		want = want.ProtoReflect().New().Interface().(T)
	}
	setString(want, "name", name)
	setString(want, "etag", "")
	return once(ctx, s, req, func(e *edit) error {
		if _, exists := k.rows(&e.base.Topology).Get(name); exists {
			return taken(e.who.Scope(e.base), name)
		}
		return write(e, k, want)
	}, func(e *edit) T { return written(e, k, name) })
}

// taken refuses to make what there is already. To whom it is outside of, that is all that
// is said of a name.
func taken(scope access.Scope, name string) error {
	if !scope.Sees(name) {
		return scope.Denied(name)
	}
	return status.Errorf(codes.AlreadyExists, "%s exists already; update it instead", name)
}

// updateRequest is what the requests of Update have in common.
type updateRequest interface {
	change
	GetUpdateMask() *fieldmaskpb.FieldMask
}

// update changes the fields of a resource that the mask names.
func update[T resource](ctx context.Context, s *Topology, k kind[T], want T, req updateRequest, allowMissing bool) (T, error) {
	name := want.GetName()
	if err := k.parse(name); err != nil {
		var none T
		return none, access.Invalid(k.word+".name", err.Error())
	}
	return once(ctx, s, req, func(e *edit) error {
		old, exists := k.rows(&e.base.Topology).Get(name)
		switch {
		case !exists && !allowMissing:
			return status.Errorf(codes.NotFound, "%s does not exist", name)
		case !exists: // then the mask does not matter (AIP-134)
			created := proto.Clone(want).(T)
			setString(created, "etag", "")
			return write(e, k, created)
		}
		next, err := masked(old.Value, want, req.GetUpdateMask())
		if err != nil {
			return err
		}
		setString(next, "etag", want.GetEtag())
		return write(e, k, next)
	}, func(e *edit) T { return written(e, k, name) })
}

// write validates one resource and puts it into the edit.
func write[T resource](e *edit, k kind[T], want T) error {
	e.violations = append(e.violations, mistakes(e.svc.valid, k.word, want)...)
	if err := put(e, k, want); err != nil {
		return err
	}
	return e.check()
}

// written is a resource as it will be. Its etag is empty when the edit changes it:
// the revision is not known yet.
func written[T resource](e *edit, k kind[T], name string) T {
	row, _ := k.rows(&e.next).Get(name)
	if row.Revision == 0 {
		return proto.Clone(row.Value).(T)
	}
	return shown(row)
}

// childName makes the name of a new resource in a network.
func childName(parent, collection, id string) (string, error) {
	if _, err := model.ParseNetworkName(parent); err != nil {
		return "", access.Invalid("parent", err.Error())
	}
	return parent + "/" + collection + "/" + id, nil
}

// deleteRequest is what the requests of Delete have in common.
type deleteRequest interface {
	change
	GetName() string
	GetEtag() string
	GetAllowMissing() bool
}

// deleted runs one deletion.
func deleted[T resource](ctx context.Context, s *Topology, k kind[T], req deleteRequest, f func(*edit) error) (*emptypb.Empty, error) {
	if err := k.parse(req.GetName()); err != nil {
		return nil, access.Invalid("name", err.Error())
	}
	return once(ctx, s, req, func(e *edit) error {
		if _, exists := k.rows(&e.base.Topology).Get(req.GetName()); !exists && req.GetAllowMissing() {
			return nil
		}
		if err := f(e); err != nil {
			return err
		}
		return e.check()
	}, func(*edit) *emptypb.Empty { return &emptypb.Empty{} })
}

// DeleteNetwork implements TopologyService; a network that has resources stays.
func (s *Topology) DeleteNetwork(ctx context.Context, req *swanherdv1.DeleteNetworkRequest) (*emptypb.Empty, error) {
	n := networkOf(req.GetName())
	return deleted(ctx, s, networks, req, func(e *edit) error {
		if err := emptyNetwork(e, n); err != nil {
			return err
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
		for row := range e.base.EnrollmentRequests.InNetwork(n) {
			s.store.EnrollmentRequests.DropIn(e.txn, row.Name)
		}
		for row := range e.base.PreSharedKeys.InNetwork(n) {
			s.store.PreSharedKeys.DropIn(e.txn, row.Name)
		}
		e.dropDevices(n, func(*swanherdv1.Device) bool { return true })
		e.dropRollouts(n)
		s.store.Jobs.DropNetworkIn(e.txn, n)
		s.store.JobOutputs.DropNetworkIn(e.txn, n)
		e.dropAlertsOf(n)
		s.store.DropRevisionsIn(e.txn, n)
		s.pki.DropNetworkIn(e.txn, n)
		return nil
	})
}

// maxNamed is how many resources that are in the way an error names.
const maxNamed = 20

// emptyNetwork refuses to delete a network that has something in it.
func emptyNetwork(e *edit, n model.NetworkName) error {
	var has []string
	var in []access.Obstacle
	count := func(word string, names []string) {
		if len(names) > 0 {
			has = append(has, fmt.Sprintf("%d %s", len(names), word))
		}
		for _, name := range names[:min(maxNamed, len(names))] {
			in = append(in, access.Obstacle{Subject: name, Description: "is in the network; delete it first"})
		}
	}
	count("sites", inNetwork(e.base.Sites, n))
	count("edges", inNetwork(e.base.Edges, n))
	count("meshes", inNetwork(e.base.Meshes, n))
	count("gateways", inNetwork(e.base.Gateways, n))
	count("profiles", inNetwork(e.base.Profiles, n))
	count("segments", inNetwork(e.base.Segments, n))
	count("assertions", inNetwork(e.base.Assertions, n))
	if len(has) == 0 {
		return nil
	}
	return access.InUse(fmt.Sprintf("%s still has %s; delete them first", n, strings.Join(has, ", ")), in)
}

func inNetwork[T any](t model.Table[T], n model.NetworkName) []string {
	var names []string
	for row := range t.InNetwork(n) {
		names = append(names, row.Name)
	}
	return names
}

// inUse refuses to delete what others use. Those that are not in scope are not named.
func inUse(scope access.Scope, name, remedy string, users []string) error {
	if len(users) == 0 {
		return nil
	}
	seen := slices.DeleteFunc(slices.Clone(users), func(user string) bool { return !scope.Sees(user) })
	obstacles := make([]access.Obstacle, len(seen))
	for i, user := range seen {
		obstacles[i] = access.Obstacle{Subject: user, Description: "uses " + name + "; " + remedy}
	}
	named := strings.Join(seen[:min(maxNamed, len(seen))], ", ")
	if len(seen) < len(users) {
		obstacles = append(obstacles, access.Obstacle{Subject: name, Description: "is used by " + model.Outside + "; ask who has the whole network"})
		named = strings.TrimPrefix(named+", "+model.Outside, ", ")
	}
	return access.InUse(fmt.Sprintf("%s is in use by %s; %s", name, named, remedy), obstacles)
}

// DeleteSite implements TopologyService. The site's edges stay enrolled and
// lose their tunnels; tokens for the site go with it.
func (s *Topology) DeleteSite(ctx context.Context, req *swanherdv1.DeleteSiteRequest) (*emptypb.Empty, error) {
	return deleted(ctx, s, sites, req, func(e *edit) error {
		if err := inUse(e.who.Scope(e.base), req.GetName(), "take it out of it first", meshesNaming(&e.next, req.GetName())); err != nil {
			return err
		}
		return e.removeSite(req.GetName(), req.GetEtag())
	})
}

func (e *edit) removeSite(name, etag string) error {
	if err := remove(e, sites, name, etag); err != nil {
		return err
	}
	e.dropTokensOf(name)
	e.dropDevices(networkOf(name), func(d *swanherdv1.Device) bool { return d.GetSite() == name })
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

// dropDevices forgets the devices of a network of which which is true.
func (e *edit) dropDevices(n model.NetworkName, which func(*swanherdv1.Device) bool) {
	for row := range e.base.Devices.InNetwork(n) {
		if which(row.Value) {
			e.svc.store.Devices.DropIn(e.txn, row.Name)
			e.svc.store.DeviceSerials.DropIn(e.txn, deviceSerialName(row.Value.GetSerialNumber()))
		}
	}
}

// DeleteMesh implements TopologyService.
func (s *Topology) DeleteMesh(ctx context.Context, req *swanherdv1.DeleteMeshRequest) (*emptypb.Empty, error) {
	return deleted(ctx, s, meshes, req, func(e *edit) error { return remove(e, meshes, req.GetName(), req.GetEtag()) })
}

// DeleteProfile implements TopologyService; a profile in use stays.
func (s *Topology) DeleteProfile(ctx context.Context, req *swanherdv1.DeleteProfileRequest) (*emptypb.Empty, error) {
	return deleted(ctx, s, profiles, req, func(e *edit) error {
		if err := inUse(e.who.Scope(e.base), req.GetName(), "give it another profile first", usersOf(&e.next, req.GetName())); err != nil {
			return err
		}
		return remove(e, profiles, req.GetName(), req.GetEtag())
	})
}

// DeleteEdge implements TopologyService: the edge's certificates are revoked,
// its session ends at once.
func (s *Topology) DeleteEdge(ctx context.Context, req *swanherdv1.DeleteEdgeRequest) (*emptypb.Empty, error) {
	return deleted(ctx, s, edges, req, func(e *edit) error {
		name, err := model.ParseEdgeName(req.GetName())
		if err != nil {
			return access.Invalid("name", err.Error())
		}
		return e.removeEdge(name, req.GetEtag())
	})
}

// DeleteGateway implements TopologyService.
func (s *Topology) DeleteGateway(ctx context.Context, req *swanherdv1.DeleteGatewayRequest) (*emptypb.Empty, error) {
	return deleted(ctx, s, gateways, req, func(e *edit) error { return remove(e, gateways, req.GetName(), req.GetEtag()) })
}

// usersOf returns the meshes and gateways that refer to the profile.
func usersOf(t *model.Topology, profile string) []string {
	var out []string
	for row := range t.Gateways.InNetwork(networkOf(profile)) {
		if row.Value.GetProfile() == profile {
			out = append(out, row.Name)
		}
	}
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
		m.GetRegional().GetHubs(), m.GetRegional().GetSpokes(),
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
