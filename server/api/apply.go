package api

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/plan"
)

// Apply implements TopologyService.
func (s *Topology) Apply(ctx context.Context, req *swanherdv1.ApplyRequest) (*swanherdv1.ApplyResponse, error) {
	return once(ctx, s, req, func(e *edit) error {
		if len(req.GetPruneLabels()) > 0 && !req.GetPrune() {
			return access.Invalid("prune_labels", "is for prune, which is not asked for; set prune too")
		}
		if err := e.merge(req.GetManifest(), model.Prune{All: req.GetPrune(), Labels: req.GetPruneLabels()}); err != nil {
			return err
		}
		return e.check()
	}, func(e *edit) *swanherdv1.ApplyResponse { return e.applied(req.GetValidateOnly()) })
}

// applied is the answer to a change of much at once.
func (e *edit) applied(validateOnly bool) *swanherdv1.ApplyResponse {
	resp := &swanherdv1.ApplyResponse{Changes: e.changes}
	if e.changed() {
		resp.Plan = e.preview()
		resp.TunnelsAdded, resp.TunnelsRemoved = resp.GetPlan().GetTunnelsAdded(), resp.GetPlan().GetTunnelsRemoved()
	}
	if validateOnly {
		resp.Revision = e.base.Revision
	}
	return resp
}

// preview is what the edit does to the fleet: all of it in numbers, by name what the
// caller sees.
func (e *edit) preview() *swanherdv1.ChangePlan {
	p := plan.Preview(&e.base.Topology, &e.next)
	was, is := e.scopes()
	if !was.Limited() {
		return p
	}
	hideChanges(p, func(name string) bool { return !was.Sees(name) && !is.Sees(name) })
	return p
}

// hideChanges takes from a plan the names of what is hidden; a tunnel is when both of
// its ends are.
func hideChanges(p *swanherdv1.ChangePlan, hidden func(string) bool) {
	if p == nil {
		return
	}
	p.Tunnels = slices.DeleteFunc(p.Tunnels, func(t *swanherdv1.TunnelChange) bool { return hidden(t.GetEdgeA()) && hidden(t.GetEdgeB()) })
	p.Edges = slices.DeleteFunc(p.Edges, func(c *swanherdv1.EdgeChange) bool { return hidden(c.GetEdge()) })
	p.Reachability = slices.DeleteFunc(p.Reachability, func(c *swanherdv1.ReachabilityChange) bool { return hidden(c.GetSite()) })
}

// merge puts a manifest into the topology. With prune, what its networks have
// and it does not name goes; edges are not in manifests and stay.
func (e *edit) merge(m *swanherdv1.Manifest, prune model.Prune) error {
	merged, found := model.MergeManifest(&e.base.Topology, m, prune)
	for name, field := range merged.Fields {
		e.fields[name] = e.within + field
	}
	for i := range found {
		found[i].Field = e.within + found[i].Field
		found[i].Resource = ""
	}
	e.violate(found)
	e.next, e.changes = *merged.Topology, merged.Changes
	if err := e.checkScope(); err != nil { // before anything is told of what is there
		return err
	}
	if err := e.checkETags(m); err != nil {
		return err
	}
	for _, c := range e.changes {
		if c.GetAction() == swanherdv1.ResourceChange_ACTION_DELETED && wordOf(c.GetName()) == sites.word {
			e.dropTokensOf(c.GetName())
		}
	}
	return nil
}

// checkETags holds resources of the manifest that have an etag to it.
func (e *edit) checkETags(m *swanherdv1.Manifest) error {
	return errors.Join(
		checkAllETags(e, networks, m.GetNetworks()),
		checkAllETags(e, profiles, m.GetProfiles()),
		checkAllETags(e, segments, m.GetSegments()),
		checkAllETags(e, sites, m.GetSites()),
		checkAllETags(e, meshes, m.GetMeshes()),
		checkAllETags(e, gateways, m.GetGateways()),
		checkAllETags(e, assertions, m.GetAssertions()))
}

func checkAllETags[T resource](e *edit, k kind[T], wanted []T) error {
	for _, want := range wanted {
		if want.GetEtag() == "" {
			continue
		}
		old, ok := k.rows(&e.base.Topology).Get(want.GetName())
		if !ok {
			return status.Errorf(codes.NotFound, "%s does not exist, but an etag is given for it", want.GetName())
		}
		if err := checkETag(want.GetName(), want.GetEtag(), old.Revision); err != nil {
			return err
		}
	}
	return nil
}
