package api

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/model"
)

// ResumeEdges implements TopologyService. That an operator gave up what an edge runs is
// stored with the edge, so that every replica knows it, and for that history alone.
func (s *Topology) ResumeEdges(ctx context.Context, req *swanherdv1.ResumeEdgesRequest) (*swanherdv1.ResumeEdgesResponse, error) {
	network, err := model.ParseNetworkName(req.GetParent())
	if err != nil {
		return nil, access.Invalid("parent", err.Error())
	}
	for i, name := range req.GetNames() {
		if edge, err := model.ParseEdgeName(name); err != nil || edge.Network != network.Network {
			return nil, access.Invalid(fmt.Sprintf("names[%d]", i), fmt.Sprintf("%q is no edge of %s", name, network))
		}
	}
	var resumed []string
	return once(ctx, s, req, func(e *edit) (err error) {
		resumed, err = e.resume(network, req.GetNames())
		return err
	}, func(*edit) *swanherdv1.ResumeEdgesResponse {
		return &swanherdv1.ResumeEdgesResponse{Names: resumed}
	})
}

// resume notes for each of the edges, all of the network if there are none, whose intent
// is given up.
func (e *edit) resume(network model.NetworkName, names []string) (resumed []string, err error) {
	if _, ok := e.base.Networks.Get(network.String()); !ok {
		return nil, status.Errorf(codes.NotFound, "%s does not exist", network)
	}
	named, scope := len(names) > 0, e.who.Scope(e.base)
	if !named {
		for row := range e.base.Edges.InNetwork(network) {
			if scope.Changes(row.Name) {
				names = append(names, row.Name)
			}
		}
	}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		if !scope.Changes(name) {
			return nil, scope.Denied(name)
		}
		row, ok := e.base.Edges.Get(name)
		if !ok {
			return nil, status.Errorf(codes.NotFound, "%s does not exist", name)
		}
		live := e.svc.fleet.EdgeStatus(name)
		if live.GetIntentState() != swanherdv1.IntentState_INTENT_STATE_CONFLICT_PAUSED {
			if named {
				return nil, status.Errorf(codes.FailedPrecondition, "%s is not CONFLICT_PAUSED: there is nothing to give up", name)
			}
			continue
		}
		resumed = append(resumed, name)
		next := proto.Clone(row.Value).(*swanherdv1.Edge)
		next.SupersededEpoch = live.GetConflictEpoch()
		setRow(e, edges, name, next)
		e.note(name, swanherdv1.ResourceChange_ACTION_UPDATED, []string{"superseded_epoch"})
	}
	return resumed, nil
}
