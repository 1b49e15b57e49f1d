package api

import (
	"context"
	"maps"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/plan"
	"github.com/swanherd/swanherd/server/rollout"
)

// The methods of TopologyService about assertions, and what these refuse.

// GetAssertion implements TopologyService.
func (s *Topology) GetAssertion(_ context.Context, req *swanherdv1.GetAssertionRequest) (*swanherdv1.Assertion, error) {
	return get(s, assertions, req.GetName())
}

// ListAssertions implements TopologyService.
func (s *Topology) ListAssertions(ctx context.Context, req *swanherdv1.ListAssertionsRequest) (*swanherdv1.ListAssertionsResponse, error) {
	out, next, err := list(ctx, s, assertions, req)
	if err != nil {
		return nil, err
	}
	return &swanherdv1.ListAssertionsResponse{Assertions: out, NextPageToken: next}, nil
}

// CreateAssertion implements TopologyService.
func (s *Topology) CreateAssertion(ctx context.Context, req *swanherdv1.CreateAssertionRequest) (*swanherdv1.Assertion, error) {
	name, err := childName(req.GetParent(), assertions.collection, req.GetAssertionId())
	if err != nil {
		return nil, err
	}
	return create(ctx, s, assertions, name, req.GetAssertion(), req)
}

// UpdateAssertion implements TopologyService.
func (s *Topology) UpdateAssertion(ctx context.Context, req *swanherdv1.UpdateAssertionRequest) (*swanherdv1.Assertion, error) {
	return update(ctx, s, assertions, req.GetAssertion(), req, req.GetAllowMissing())
}

// DeleteAssertion implements TopologyService.
func (s *Topology) DeleteAssertion(ctx context.Context, req *swanherdv1.DeleteAssertionRequest) (*emptypb.Empty, error) {
	return deleted(ctx, s, assertions, req, func(e *edit) error {
		return remove(e, assertions, req.GetName(), req.GetEtag())
	})
}

// TestAssertions implements TopologyService.
func (s *Topology) TestAssertions(_ context.Context, req *swanherdv1.TestAssertionsRequest) (*swanherdv1.TestAssertionsResponse, error) {
	network, err := model.ParseNetworkName(req.GetParent())
	if err != nil {
		return nil, access.Invalid("parent", err.Error())
	}
	snap := s.store.Snapshot()
	if _, ok := snap.Networks.Get(req.GetParent()); !ok {
		return nil, status.Errorf(codes.NotFound, "%s does not exist", req.GetParent())
	}
	view := s.view(network)
	if view == nil {
		return nil, status.Error(codes.Unavailable, "this replica has not planned the network yet; try again")
	}
	return &swanherdv1.TestAssertionsResponse{Results: view.Test(&snap.Topology)}, nil
}

// checkStanding refuses to break by the plan what holds by it, unless an administrator
// says why. What does not hold, as before there are edges, is in nobody's way, and a rollout
// has been held to it.
func (e *edit) checkStanding() error {
	if e.rollout != "" {
		return nil
	}
	for network := range e.changedNetworks() {
		breaks := e.breaks(network)
		switch {
		case len(breaks) == 0:
		case e.breakGlass == "":
			for _, name := range slices.Sorted(maps.Keys(breaks)) {
				e.obstruct(name, breaks[name])
			}
		case !demandsApproval(e.base, network): // where it does, checkApproval notes it
			if err := e.svc.breakGlassIn(e.txn, e.who, e.breakGlass, network, ""); err != nil {
				return err
			}
		}
	}
	return nil
}

// breaks are the assertions of a network that hold by the plan and would not any longer, by
// their names, with the reasons.
func (e *edit) breaks(network model.NetworkName) map[string]string {
	if len(inNetwork(e.base.Assertions, network)) == 0 {
		return nil
	}
	planner := plan.NewNetworkPlanner(network)
	before, _ := planner.Update(&e.base.Topology)
	was := rollout.Planned(before, network, &e.base.Topology)
	after, _ := planner.Update(&e.next)
	is := rollout.Planned(after, network, &e.next)
	maps.DeleteFunc(is, func(name, _ string) bool {
		_, broken := was[name]
		asserted, stood := e.base.Assertions.Get(name)
		return broken || !stood || !proto.Equal(asserted.Value, e.next.Assertions.Value(name))
	})
	return is
}

// obstruct adds that an assertion would not hold.
func (e *edit) obstruct(name, reason string) {
	if sees := e.sees(); sees != nil && !sees(name) {
		e.obstacles = append(e.obstacles, access.Obstacle{
			Subject: networkOf(name).String(), Description: model.Outside + " asserts what would not hold any longer; ask who has the whole network",
		})
		return
	}
	e.obstacles = append(e.obstacles, access.Obstacle{
		Subject: name, Description: "would not hold any longer: " + broken(e, reason) + "; delete the assertion too, or break the glass (--break-glass REASON), if that is meant",
	})
}
