package api

import (
	"context"
	"errors"

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
		resp.Plan = plan.Preview(&e.base.Topology, &e.next)
		resp.TunnelsAdded, resp.TunnelsRemoved = resp.GetPlan().GetTunnelsAdded(), resp.GetPlan().GetTunnelsRemoved()
	}
	if validateOnly {
		resp.Revision = e.base.Revision
	}
	return resp
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
		checkAllETags(e, sites, m.GetSites()),
		checkAllETags(e, meshes, m.GetMeshes()))
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
