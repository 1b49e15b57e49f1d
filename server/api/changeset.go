package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/plan"
	"github.com/swanherd/swanherd/server/rollout"
	"github.com/swanherd/swanherd/server/store"
)

// maxChangeSets bounds the change sets of a network.
const maxChangeSets = 200

// Rollouts implements RolloutService.
type Rollouts struct {
	swanherdv1.UnimplementedRolloutServiceServer

	store    *store.Store
	topology *Topology
	// view is how a network is now.
	view func(model.NetworkName) *rollout.View
}

// NewRollouts returns the service.
func NewRollouts(s *store.Store, t *Topology, view func(model.NetworkName) *rollout.View) *Rollouts {
	return &Rollouts{store: s, topology: t, view: view}
}

// CreateChangeSet implements RolloutService.
func (s *Rollouts) CreateChangeSet(ctx context.Context, req *swanherdv1.CreateChangeSetRequest) (*swanherdv1.ChangeSet, error) {
	network, err := model.ParseNetworkName(req.GetParent())
	if err != nil {
		return nil, access.Invalid("parent", err.Error())
	}
	c := proto.CloneOf(req.GetChangeSet())
	clearUnwritable(c)
	c.Name = model.ChangeSetName{Network: network.Network, ChangeSet: cmp.Or(req.GetChangeSetId(), "c"+newUID())}.String()
	if err := checkChangeSet(network, c); err != nil {
		return nil, err
	}
	c.Actor, c.CreateTime = access.PrincipalFrom(ctx).Actor, timestamppb.New(time.Now())
	out, err := committed(ctx, s.store, req, func() (*swanherdv1.ChangeSet, *store.Txn, error) { return s.newChangeSet(ctx, network, c) })
	return out, access.StoreError(err)
}

// newChangeSet is a change set that is to be made, as its caller sees it, with the
// transaction that does so.
func (s *Rollouts) newChangeSet(ctx context.Context, network model.NetworkName, c *swanherdv1.ChangeSet) (*swanherdv1.ChangeSet, *store.Txn, error) {
	e := s.topology.begin(ctx)
	e.within = "change_set.manifest."
	if err := s.plan(e, network, c); err != nil {
		return nil, nil, err
	}
	scope := e.who.Scope(e.base)
	if !scope.HoldsAll(c) {
		return nil, nil, scope.Denied("a change set with more than sites that carry them")
	}
	if _, exists := e.base.ChangeSets.Get(c.GetName()); exists {
		return nil, nil, taken(scope, c.GetName())
	}
	if len(inNetwork(e.base.ChangeSets, network)) >= maxChangeSets {
		return nil, nil, status.Errorf(codes.ResourceExhausted, "%s has %d change sets; delete those that are done with", network, maxChangeSets)
	}
	t := s.store.Txn()
	s.store.Networks.RequireIn(t, network.String(), store.AnyRevision)
	s.store.ChangeSets.CreateIn(t, c.GetName(), c)
	s.store.AppendEventIn(t, network, access.Audit(c.GetActor(), c.GetName(), "changeSet.create", summaryOf(c.GetChanges())))
	out := shownChangeSet(scope, model.Row[*swanherdv1.ChangeSet]{Value: c})
	out.Etag = "" // it is of the revision
	return out, t, nil
}

func shownChangeSet(scope access.Scope, row model.Row[*swanherdv1.ChangeSet]) *swanherdv1.ChangeSet {
	c := proto.CloneOf(row.Value)
	c.Etag = store.ETag(row.Revision)
	if scope.Limited() {
		hideChanges(c.GetPlan(), func(name string) bool { return !scope.Sees(name) })
	}
	return c
}

// listedChangeSet is a change set without what is long.
func listedChangeSet(scope access.Scope, row model.Row[*swanherdv1.ChangeSet]) *swanherdv1.ChangeSet {
	c := shownChangeSet(scope, row)
	c.Manifest, c.Changes, c.Plan = nil, nil, nil
	return c
}

// checkChangeSet refuses what is wrong whatever the network is like.
func checkChangeSet(network model.NetworkName, c *swanherdv1.ChangeSet) error {
	var wrong []access.Violation
	names := map[string][]named{}
	collect(names, networks.collection, c.GetManifest().GetNetworks())
	collect(names, profiles.collection, c.GetManifest().GetProfiles())
	collect(names, sites.collection, c.GetManifest().GetSites())
	collect(names, meshes.collection, c.GetManifest().GetMeshes())
	collect(names, segments.collection, c.GetManifest().GetSegments())
	collect(names, gateways.collection, c.GetManifest().GetGateways())
	collect(names, assertions.collection, c.GetManifest().GetAssertions())
	for collection, list := range names {
		for i, r := range list {
			if in, err := model.NetworkOf(r.GetName()); err != nil || in != network {
				wrong = append(wrong, access.Violation{
					Field:   fmt.Sprintf("change_set.manifest.%s[%d].name", collection, i),
					Message: "is not in " + network.String() + "; a change set is about one network",
				})
			}
		}
	}
	for i, a := range c.GetAssertions() {
		var bad *model.AssertionError
		if _, _, err := model.ParseAssertion(a); errors.As(err, &bad) {
			wrong = append(wrong, access.Violation{Field: fmt.Sprintf("change_set.assertions[%d].%s", i, bad.Field), Message: bad.Problem + "; " + bad.Remedy})
		}
		if a.GetName() != "" {
			wrong = append(wrong, access.Violation{Field: fmt.Sprintf("change_set.assertions[%d].name", i), Message: "is for assertions of the network; put it into the manifest, or leave the name out"})
		}
	}
	for i, a := range c.GetAssertions() {
		if segment, err := model.ParseSegmentName(a.GetSegment()); a.GetSegment() != "" && (err != nil || segment.Network != network.Network) {
			wrong = append(wrong, access.Violation{
				Field: fmt.Sprintf("change_set.assertions[%d].segment", i), Message: "is not of the form " + network.String() + "/segments/{segment}",
			})
		}
	}
	if len(c.GetPruneLabels()) > 0 && !c.GetPrune() {
		wrong = append(wrong, access.Violation{Field: "change_set.prune_labels", Message: "is for prune, which is not asked for; set prune too"})
	}
	if len(wrong) > 0 {
		return access.InvalidAll(wrong)
	}
	return nil
}

func collect[T named](all map[string][]named, collection string, list []T) {
	for _, r := range list {
		all[collection] = append(all[collection], r)
	}
}

// plan finds what the change set does to the network as it is in the edit's base.
func (s *Rollouts) plan(e *edit, network model.NetworkName, c *swanherdv1.ChangeSet) error {
	if _, ok := e.base.Networks.Get(network.String()); !ok {
		return status.Errorf(codes.NotFound, "%s does not exist", network)
	}
	asked := e.within != ""
	if err := e.merge(c.GetManifest(), model.Prune{All: c.GetPrune(), Labels: c.GetPruneLabels()}); err != nil {
		return err
	}
	if !asked {
		e.fields = model.Fields{} // what is wrong is in the way, not in the request
	}
	if err := e.check(); err != nil {
		return err
	}
	planned := e.applied(true)
	c.Changes, c.Plan, c.PlannedRevision = planned.GetChanges(), planned.GetPlan(), planned.GetRevision()
	c.State, c.Approver, c.ApproveTime = swanherdv1.ChangeSet_STATE_PLANNED, "", nil
	return checkAssertions(e, network, c)
}

// checkAssertions holds what is asserted against the plans: that of the network as it
// is, if it has to hold before, and as it will be.
func checkAssertions(e *edit, network model.NetworkName, c *swanherdv1.ChangeSet) error {
	if len(c.GetAssertions()) == 0 {
		return nil
	}
	planner := plan.NewNetworkPlanner(network)
	var in []access.Obstacle
	for when, t := range []*model.Topology{&e.base.Topology, &e.next} {
		p, _ := planner.Update(t)
		for _, reason := range rollout.Broken(p, network, c.GetAssertions(), when == 1, func(string) bool { return true }) {
			in = append(in, access.Obstacle{Subject: c.GetName(), Description: []string{"before the change ", "after the change "}[when] + broken(e, reason)})
		}
	}
	if len(in) > 0 {
		return access.InUse("an assertion does not hold by the plan: "+in[0].Description, in)
	}
	return nil
}

// broken is why an assertion does not hold, without where the packet is lost if that is not
// for all to know.
func broken(e *edit, reason string) string {
	if e.who.Scope(e.base).Limited() {
		reason, _, _ = strings.Cut(reason, ": ")
	}
	return reason
}

// GetChangeSet implements RolloutService.
func (s *Rollouts) GetChangeSet(ctx context.Context, req *swanherdv1.GetChangeSetRequest) (*swanherdv1.ChangeSet, error) {
	if _, err := model.ParseChangeSetName(req.GetName()); err != nil {
		return nil, access.Invalid("name", err.Error())
	}
	snap := s.store.Snapshot()
	row, ok := snap.ChangeSets.Get(req.GetName())
	if !ok {
		return nil, status.Errorf(codes.NotFound, "%s does not exist", req.GetName())
	}
	return shownChangeSet(scopeOf(ctx, snap), row), nil
}

// ListChangeSets implements RolloutService.
func (s *Rollouts) ListChangeSets(ctx context.Context, req *swanherdv1.ListChangeSetsRequest) (*swanherdv1.ListChangeSetsResponse, error) {
	out, next, err := listRows(ctx, s.store, req, func(snap *store.Snapshot) model.Table[*swanherdv1.ChangeSet] { return snap.ChangeSets },
		func(snap *store.Snapshot, row model.Row[*swanherdv1.ChangeSet]) *swanherdv1.ChangeSet {
			return listedChangeSet(scopeOf(ctx, snap), row)
		})
	if err != nil {
		return nil, err
	}
	return &swanherdv1.ListChangeSetsResponse{ChangeSets: out, NextPageToken: next}, nil
}

// DeleteChangeSet implements RolloutService.
func (s *Rollouts) DeleteChangeSet(ctx context.Context, req *swanherdv1.DeleteChangeSetRequest) (*emptypb.Empty, error) {
	name, err := model.ParseChangeSetName(req.GetName())
	if err != nil {
		return nil, access.Invalid("name", err.Error())
	}
	network := model.NetworkName{Network: name.Network}
	out, err := committed(ctx, s.store, req, func() (*emptypb.Empty, *store.Txn, error) {
		row, err := s.store.ChangeSets.Get(ctx, name.String())
		if err != nil {
			return nil, nil, err
		}
		if r := runningRollout(s.store.Snapshot(), network); r.GetChangeSet() == name.String() {
			return nil, nil, access.InUse(name.String()+" is being rolled out", []access.Obstacle{{Subject: r.GetName(), Description: "brings the change to the fleet; wait for its end, or abort it"}})
		}
		t := s.store.Txn()
		s.store.ChangeSets.DeleteIn(t, row.Name, row.Revision)
		s.store.AppendEventIn(t, network, access.Audit(access.PrincipalFrom(ctx).Actor, name.String(), "changeSet.delete", ""))
		return &emptypb.Empty{}, t, nil
	})
	return out, access.StoreError(err)
}

// PlanChangeSet implements RolloutService.
func (s *Rollouts) PlanChangeSet(ctx context.Context, req *swanherdv1.PlanChangeSetRequest) (*swanherdv1.ChangeSet, error) {
	return s.changeChangeSet(ctx, req, "changeSet.plan", func(network model.NetworkName, row model.Row[*swanherdv1.ChangeSet], c *swanherdv1.ChangeSet) error {
		e := s.topology.begin(ctx)
		e.within = ""
		return s.plan(e, network, c)
	})
}

// ApproveChangeSet implements RolloutService.
func (s *Rollouts) ApproveChangeSet(ctx context.Context, req *swanherdv1.ApproveChangeSetRequest) (*swanherdv1.ChangeSet, error) {
	actor := access.PrincipalFrom(ctx).Actor
	return s.changeChangeSet(ctx, req, "changeSet.approve", func(network model.NetworkName, row model.Row[*swanherdv1.ChangeSet], c *swanherdv1.ChangeSet) error {
		snap := s.store.CatchUp(ctx)
		if c.GetActor() == actor || demandsApproval(snap, network) && access.SameHand(snap, c.GetActor(), actor) {
			return status.Errorf(codes.FailedPrecondition, "%s made the change set; somebody else has to approve it", actor)
		}
		if err := checkETag(row.Name, req.GetEtag(), row.Revision); err != nil {
			return err
		}
		c.State, c.Approver, c.ApproveTime = swanherdv1.ChangeSet_STATE_APPROVED, actor, timestamppb.New(time.Now())
		return nil
	})
}

// changeChangeSet stores what f makes of a change set that is not a part of the network
// yet and not being rolled out.
func (s *Rollouts) changeChangeSet(ctx context.Context, req namedChange, action string,
	f func(model.NetworkName, model.Row[*swanherdv1.ChangeSet], *swanherdv1.ChangeSet) error,
) (*swanherdv1.ChangeSet, error) {
	name := req.GetName()
	parsed, err := model.ParseChangeSetName(name)
	if err != nil {
		return nil, access.Invalid("name", err.Error())
	}
	network := model.NetworkName{Network: parsed.Network}
	out, err := committed(ctx, s.store, req, func() (*swanherdv1.ChangeSet, *store.Txn, error) {
		row, err := s.store.ChangeSets.Get(ctx, name)
		if err != nil {
			return nil, nil, err
		}
		if row.Value.GetState() == swanherdv1.ChangeSet_STATE_COMPLETED {
			return nil, nil, status.Errorf(codes.FailedPrecondition, "%s is a part of the network already; make another change set", name)
		}
		if r := runningRollout(s.store.Snapshot(), network); r.GetChangeSet() == name {
			return nil, nil, status.Errorf(codes.FailedPrecondition, "%s is being rolled out by %s", name, r.GetName())
		}
		c := proto.CloneOf(row.Value)
		if err := f(network, row, c); err != nil {
			return nil, nil, err
		}
		t := s.store.Txn()
		s.store.ChangeSets.UpdateIn(t, name, c, row.Revision)
		s.store.AppendEventIn(t, network, access.Audit(access.PrincipalFrom(ctx).Actor, name, action, ""))
		out := shownChangeSet(scopeOf(ctx, s.store.Snapshot()), model.Row[*swanherdv1.ChangeSet]{Value: c})
		out.Etag = "" // it is of the revision
		return out, t, nil
	})
	return out, access.StoreError(err)
}
