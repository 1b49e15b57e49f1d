package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/plan"
	"github.com/swanherd/swanherd/server/rollout"
	"github.com/swanherd/swanherd/server/store"
)

// maxEndedRollouts is how many rollouts of a network are remembered after their end.
const maxEndedRollouts = 100

// runningRollout is the network's rollout that has not ended; nil for none.
func runningRollout(snap *store.Snapshot, network model.NetworkName) *swanherdv1.Rollout {
	for row := range snap.Rollouts.InNetwork(network) {
		if !rollout.Ended(row.Value.GetRollout().GetState()) {
			return row.Value.GetRollout()
		}
	}
	return nil
}

// checkRollouts refuses a change of a network that a rollout is changing.
func (e *edit) checkRollouts() error {
	for network := range e.changedNetworks() {
		if r := runningRollout(e.base, network); r != nil && r.GetName() != e.rollout {
			return underRollout(e.who.Scope(e.base), network, r)
		}
	}
	return nil
}

func demandsApproval(snap *store.Snapshot, network model.NetworkName) bool {
	return snap.Networks.Value(network.String()).GetApprovalRequired()
}

// checkApproval refuses a change of a network that demands approval, unless it is the end
// of a rollout or an administrator says why it cannot wait.
func (e *edit) checkApproval() error {
	for network := range e.changedNetworks() {
		if !demandsApproval(e.base, network) || e.rollout != "" {
			continue
		}
		if err := e.svc.breakGlassIn(e.txn, e.who, e.breakGlass, network, ""); err != nil {
			return err
		}
	}
	return nil
}

// breakGlassIn refuses a change of a network that demands approval, unless an administrator
// says why it cannot wait, which the audit log then has. What would have to be done before
// a change set is said in the refusal.
func (s *Topology) breakGlassIn(t *store.Txn, who access.Principal, why string, network model.NetworkName, before string) error {
	if why == "" {
		return access.NeedsApproval(network.String(), before)
	}
	if err := who.MayBreakGlass(network.String()); err != nil {
		return err
	}
	s.store.AppendEventIn(t, network, access.Audit(who.Actor, network.String(), "network.breakGlass", why))
	return nil
}

func underRollout(scope access.Scope, network model.NetworkName, r *swanherdv1.Rollout) error {
	if !scope.Sees(r.GetName()) {
		return access.InUse(fmt.Sprintf("%s is being changed by a rollout of %s; wait for its end", network, model.Outside),
			[]access.Obstacle{{Subject: network.String(), Description: "is being changed; wait for the end of that"}})
	}
	return access.InUse(fmt.Sprintf("%s is being changed by %s; wait for its end, or abort it", network, r.GetName()),
		[]access.Obstacle{{Subject: r.GetName(), Description: "changes " + network.String() + "; wait for its end, or abort it"}})
}

// dropRollouts forgets the rollouts and change sets of a network.
func (e *edit) dropRollouts(n model.NetworkName) {
	s := e.svc.store
	for row := range e.base.ChangeSets.InNetwork(n) {
		s.ChangeSets.DropIn(e.txn, row.Name)
	}
	for row := range e.base.Rollouts.InNetwork(n) {
		s.Rollouts.DropIn(e.txn, row.Name)
	}
	for row := range e.base.RolloutPlans.InNetwork(n) {
		s.RolloutPlans.DropIn(e.txn, row.Name)
	}
}

// CreateRollout implements RolloutService.
func (s *Rollouts) CreateRollout(ctx context.Context, req *swanherdv1.CreateRolloutRequest) (*swanherdv1.Rollout, error) {
	network, err := model.ParseNetworkName(req.GetParent())
	if err != nil {
		return nil, access.Invalid("parent", err.Error())
	}
	r := proto.CloneOf(req.GetRollout())
	clearUnwritable(r)
	changeSet, err := model.ParseChangeSetName(r.GetChangeSet())
	if err != nil {
		return nil, access.Invalid("rollout.change_set", err.Error())
	}
	if changeSet.Network != network.Network {
		return nil, access.Invalid("rollout.change_set", fmt.Sprintf("%s is not a change set of %s", changeSet, network))
	}
	r.Name = model.RolloutName{Network: network.Network, Rollout: cmp.Or(req.GetRolloutId(), "r"+newUID())}.String()
	once := req.GetRequestId() != "" && !req.GetValidateOnly()
	return attempt(ctx, s.topology, func(e *edit) (*swanherdv1.Rollout, error) {
		if once {
			if before, err := replay[*swanherdv1.Rollout](ctx, s.store, e.actor, req); err != nil || before.ProtoReflect().IsValid() {
				return before, err
			}
		}
		if scope := e.who.Scope(e.base); !scope.Changes(changeSet.String()) {
			return nil, scope.Denied(changeSet.String())
		}
		r.Actor, r.CreateTime = e.actor, timestamppb.New(e.now)
		c, ok := e.base.ChangeSets.Get(changeSet.String())
		if !ok {
			return nil, status.Errorf(codes.NotFound, "%s does not exist", changeSet)
		}
		if _, exists := e.base.Rollouts.Get(r.GetName()); exists {
			return nil, taken(e.who.Scope(e.base), r.GetName())
		}
		if err := s.mayBegin(ctx, e, network, c.Value); err != nil {
			return nil, err
		}
		state, p, err := s.begun(e, network, c.Value, proto.CloneOf(r))
		if err != nil {
			return nil, err
		}
		out := shownRollout(e.who.Scope(e.base), model.Row[*storev1.Rollout]{Value: state})
		out.Etag = "" // it is of the revision
		if req.GetValidateOnly() {
			return out, nil
		}
		if once {
			if err := keepAnswer(ctx, s.store, e.txn, e.actor, req, proto.Clone(out), nil); err != nil {
				return nil, err
			}
		}
		s.store.GuardTopologyIn(e.txn, network, e.base.Revision)
		s.store.ChangeSets.RequireIn(e.txn, c.Name, c.Revision)
		s.store.Rollouts.CreateIn(e.txn, r.GetName(), state)
		s.store.RolloutPlans.PutIn(e.txn, r.GetName(), p)
		s.forgetEndedIn(e, network, c.Name)
		s.store.AppendEventIn(e.txn, network, access.Audit(e.actor, r.GetName(), "rollout.create",
			fmt.Sprintf("%s to %d edges in %d batches", c.Name, len(p.GetEdges()), len(p.GetBatchEnds()))))
		revision, err := e.txn.Commit(ctx)
		if err != nil {
			return nil, err
		}
		_, _ = s.store.WaitRevision(ctx, revision) // it is stored
		date(out, revision)
		return out, nil
	})
}

// mayBegin refuses a change set that is not to be rolled out, or whose plan is of a
// network that there is no more.
func (s *Rollouts) mayBegin(ctx context.Context, e *edit, network model.NetworkName, c *swanherdv1.ChangeSet) error {
	switch {
	case c.GetState() == swanherdv1.ChangeSet_STATE_COMPLETED:
		return status.Errorf(codes.FailedPrecondition, "%s is a part of the network already; make another change set", c.GetName())
	case (c.GetApprovalRequired() || demandsApproval(e.base, network)) && c.GetState() != swanherdv1.ChangeSet_STATE_APPROVED:
		return status.Errorf(codes.FailedPrecondition, "%s is not approved; somebody else than %s has to approve it", c.GetName(), c.GetActor())
	}
	if demandsApproval(e.base, network) && access.SameHand(e.base, c.GetActor(), c.GetApprover()) {
		return status.Errorf(codes.FailedPrecondition, "%s was approved by the same hand, %s; somebody else has to approve it", c.GetName(), c.GetApprover())
	}
	if r := runningRollout(e.base, network); r != nil {
		return underRollout(e.who.Scope(e.base), network, r)
	}
	changed, err := s.store.TopologyRevisionOf(ctx, network)
	if err != nil {
		return access.StoreError(err)
	}
	if changed > c.GetPlannedRevision() {
		return status.Errorf(codes.FailedPrecondition, "%s changed at revision %d, after %s was planned at %d; plan it again", network, changed, c.GetName(), c.GetPlannedRevision())
	}
	view := s.view(network)
	if view == nil {
		return status.Error(codes.Unavailable, "this replica has not planned the network yet; try again")
	}
	var in []access.Obstacle
	for _, reason := range view.Broken(c.GetAssertions(), false) {
		in = append(in, access.Obstacle{Subject: c.GetName(), Description: "asserts what does not hold now: " + broken(e, reason)})
	}
	if len(in) > 0 {
		return access.InUse(c.GetName()+" "+in[0].Description, in)
	}
	return nil
}

// begun is a rollout at its beginning, and what it brings to whom.
func (s *Rollouts) begun(e *edit, network model.NetworkName, c *swanherdv1.ChangeSet, r *swanherdv1.Rollout) (*storev1.Rollout, *storev1.RolloutPlan, error) {
	e.within = ""
	if err := e.merge(c.GetManifest(), model.Prune{All: c.GetPrune(), Labels: c.GetPruneLabels()}); err != nil {
		return nil, nil, err
	}
	e.fields = model.Fields{}
	if err := e.check(); err != nil {
		return nil, nil, err
	}
	if !e.changed() {
		return nil, nil, status.Errorf(codes.FailedPrecondition, "%s changes nothing of %s", c.GetName(), network)
	}
	amendment := model.AmendmentBetween(&e.base.Topology, &e.next)
	p := &storev1.RolloutPlan{Name: r.GetName(), Upserts: amendment.Upserts, Deleted: amendment.Deleted, Assertions: c.GetAssertions()}
	if view := s.view(network); view != nil {
		p.Assertions = append(view.Standing(&e.base.Topology, &e.next), p.Assertions...)
	}
	var order []string
	order, p.BatchEnds = rollout.Order(candidates(e, network), r.GetBatches())
	for _, name := range order {
		p.Edges = append(p.Edges, lastSegment(name))
	}
	return rollout.Start(r, p.GetBatchEnds()), p, nil
}

// candidates are the edges of which the change touches the intent.
func candidates(e *edit, network model.NetworkName) []rollout.Candidate {
	planner := plan.NewNetworkPlanner(network)
	planner.Update(&e.base.Topology)
	_, changes := planner.Update(&e.next)
	var out []rollout.Candidate
	for _, name := range changes.Intents {
		at := e.base.Edges.Value(name).GetSite()
		site, ok := e.next.Sites.Get(at)
		if !ok {
			site, _ = e.base.Sites.Get(at)
		}
		out = append(out, rollout.Candidate{Name: name, Labels: site.Value.GetLabels(), Hub: isHub(&e.base.Topology, site.Value) || isHub(&e.next, site.Value)})
	}
	return out
}

// isHub says whether a mesh has the site as a hub.
func isHub(t *model.Topology, site *swanherdv1.Site) bool {
	for row := range t.Meshes.InNetwork(networkOf(site.GetName())) {
		for _, hubs := range []*swanherdv1.SiteSelector{row.Value.GetHubAndSpoke().GetHubs(), row.Value.GetRegional().GetHubs()} {
			if model.Selects(hubs, site) {
				return true
			}
		}
	}
	return false
}

// forgetEndedIn drops the oldest rollouts that have ended beyond those that are kept, and
// their change sets, which would be too many one day. That of the rollout that begins stays.
func (s *Rollouts) forgetEndedIn(e *edit, network model.NetworkName, begins string) {
	var ended []*swanherdv1.Rollout
	for row := range e.base.Rollouts.InNetwork(network) {
		ended = append(ended, row.Value.GetRollout()) // none is running
	}
	rollouts, changeSets := forgotten(ended, begins)
	for _, name := range rollouts {
		s.store.Rollouts.DropIn(e.txn, name)
	}
	for _, name := range changeSets {
		s.store.ChangeSets.DropIn(e.txn, name)
	}
}

// forgotten are the names of ended rollouts beyond those that are kept, and of the change
// sets that none of those is of.
func forgotten(ended []*swanherdv1.Rollout, begins string) (rollouts, changeSets []string) {
	slices.SortFunc(ended, func(a, b *swanherdv1.Rollout) int {
		return a.GetCreateTime().AsTime().Compare(b.GetCreateTime().AsTime())
	})
	n := max(0, len(ended)-maxEndedRollouts)
	named := map[string]bool{begins: true}
	for _, r := range ended[n:] {
		named[r.GetChangeSet()] = true
	}
	for _, r := range ended[:n] {
		rollouts = append(rollouts, r.GetName())
		if !named[r.GetChangeSet()] {
			named[r.GetChangeSet()] = true
			changeSets = append(changeSets, r.GetChangeSet())
		}
	}
	return rollouts, changeSets
}

func shownRollout(scope access.Scope, row model.Row[*storev1.Rollout]) *swanherdv1.Rollout {
	r := proto.CloneOf(row.Value.GetRollout())
	r.Etag = store.ETag(row.Revision)
	if scope.Limited() && r.GetReason() != "" {
		r.Reason = "who sees the whole network sees why: it may name edges that your role is not for"
	}
	return r
}

// GetRollout implements RolloutService.
func (s *Rollouts) GetRollout(ctx context.Context, req *swanherdv1.GetRolloutRequest) (*swanherdv1.Rollout, error) {
	name, err := model.ParseRolloutName(req.GetName())
	if err != nil {
		return nil, access.Invalid("name", err.Error())
	}
	snap := s.store.Snapshot()
	row, ok := snap.Rollouts.Get(req.GetName())
	if !ok {
		return nil, status.Errorf(codes.NotFound, "%s does not exist", req.GetName())
	}
	scope := scopeOf(ctx, snap)
	r := shownRollout(scope, row)
	p, active := snap.RolloutPlans.Get(req.GetName())
	if view := s.view(model.NetworkName{Network: name.Network}); active && view != nil {
		r.Progress = view.Progress(row.Revision, row.Value, p.Value)
		if r.Progress != nil && scope.Limited() {
			r.Progress.Waiting = nil // it names edges, in scope or not
		}
	}
	return r, nil
}

// ListRollouts implements RolloutService.
func (s *Rollouts) ListRollouts(ctx context.Context, req *swanherdv1.ListRolloutsRequest) (*swanherdv1.ListRolloutsResponse, error) {
	out, next, err := listRows(ctx, s.store, req, func(snap *store.Snapshot) model.Table[*storev1.Rollout] { return snap.Rollouts },
		func(snap *store.Snapshot, row model.Row[*storev1.Rollout]) *swanherdv1.Rollout {
			return shownRollout(scopeOf(ctx, snap), row)
		})
	if err != nil {
		return nil, err
	}
	return &swanherdv1.ListRolloutsResponse{Rollouts: out, NextPageToken: next}, nil
}

// PauseRollout implements RolloutService.
func (s *Rollouts) PauseRollout(ctx context.Context, req *swanherdv1.PauseRolloutRequest) (*swanherdv1.Rollout, error) {
	return s.change(ctx, req, "rollout.pause", func(r *storev1.Rollout) error {
		return rollout.Pause(r, access.PrincipalFrom(ctx).Actor)
	})
}

// ResumeRollout implements RolloutService.
func (s *Rollouts) ResumeRollout(ctx context.Context, req *swanherdv1.ResumeRolloutRequest) (*swanherdv1.Rollout, error) {
	return s.change(ctx, req, "rollout.resume", rollout.Resume)
}

// AbortRollout implements RolloutService.
func (s *Rollouts) AbortRollout(ctx context.Context, req *swanherdv1.AbortRolloutRequest) (*swanherdv1.Rollout, error) {
	return s.change(ctx, req, "rollout.abort", func(r *storev1.Rollout) error {
		return rollout.Abort(r, access.PrincipalFrom(ctx).Actor, s.store.Snapshot().Revision, time.Now())
	})
}

// change stores what an operator makes of a rollout; the leader goes on from there.
func (s *Rollouts) change(ctx context.Context, req namedChange, action string, f func(*storev1.Rollout) error) (*swanherdv1.Rollout, error) {
	name := req.GetName()
	parsed, err := model.ParseRolloutName(name)
	if err != nil {
		return nil, access.Invalid("name", err.Error())
	}
	network := model.NetworkName{Network: parsed.Network}
	out, err := committed(ctx, s.store, req, func() (*swanherdv1.Rollout, *store.Txn, error) {
		row, err := s.store.Rollouts.Get(ctx, name)
		if err != nil {
			return nil, nil, err
		}
		if err := f(row.Value); err != nil {
			return nil, nil, status.Errorf(codes.FailedPrecondition, "%s: %v", name, err)
		}
		t := s.store.Txn()
		s.store.Rollouts.UpdateIn(t, name, row.Value, row.Revision)
		s.store.AppendEventIn(t, network, access.Audit(access.PrincipalFrom(ctx).Actor, name, action, ""))
		return proto.CloneOf(row.Value.GetRollout()), t, nil
	})
	return out, access.StoreError(err)
}

// Complete makes the change of a rollout the network, in the transaction in which the
// rollout becomes next. fence makes that depend on the leadership. The error is
// FAILED_PRECONDITION when the change does not go with the network any more.
func (s *Rollouts) Complete(ctx context.Context, row model.Row[*storev1.Rollout], next *storev1.Rollout, event *swanherdv1.Event, fence func(*store.Txn)) error {
	network, r := networkOf(row.Name), row.Value.GetRollout()
	_, err := attempt(ctx, s.topology, func(e *edit) (struct{}, error) {
		e.actor, e.rollout = r.GetActor(), row.Name
		if err := e.amend(e.base.RolloutPlans.Value(row.Name)); err != nil {
			return struct{}{}, err
		}
		if err := e.stamp(); err != nil {
			return struct{}{}, err
		}
		fence(e.txn)
		s.store.Rollouts.UpdateIn(e.txn, row.Name, next, row.Revision)
		s.store.RolloutPlans.DropIn(e.txn, row.Name)
		if c, ok := e.base.ChangeSets.Get(r.GetChangeSet()); ok {
			done := proto.CloneOf(c.Value)
			done.State = swanherdv1.ChangeSet_STATE_COMPLETED
			s.store.ChangeSets.UpdateIn(e.txn, c.Name, done, c.Revision)
		}
		s.store.AppendEventIn(e.txn, network, event)
		_, err := e.commit(ctx)
		return struct{}{}, err
	})
	return err
}

// amend makes the edit what a rollout brings.
func (e *edit) amend(p *storev1.RolloutPlan) error {
	e.within = ""
	if err := e.merge(p.GetUpserts(), model.Prune{}); err != nil {
		return err
	}
	for _, name := range p.GetDeleted() {
		var err error
		switch wordOf(name) {
		case sites.word:
			err = e.removeSite(name, "")
		case meshes.word:
			err = remove(e, meshes, name, "")
		case profiles.word:
			err = remove(e, profiles, name, "")
		case segments.word:
			err = remove(e, segments, name, "")
		case gateways.word:
			err = remove(e, gateways, name, "")
		case assertions.word:
			err = remove(e, assertions, name, "")
		default:
			err = errors.New("this controller does not know what it is")
		}
		if err != nil {
			return status.Errorf(codes.FailedPrecondition, "delete %s: %v", name, err)
		}
	}
	e.fields = model.Fields{}
	return e.check()
}
