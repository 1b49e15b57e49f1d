package api

import (
	"context"
	"fmt"
	"net/netip"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/plan"
)

// Explain implements TopologyService.
func (s *Topology) Explain(ctx context.Context, req *swanherdv1.ExplainRequest) (*swanherdv1.ExplainResponse, error) {
	network, err := model.ParseNetworkName(req.GetParent())
	if err != nil {
		return nil, access.Invalid("parent", err.Error())
	}
	snap := s.store.Snapshot()
	if _, ok := snap.Networks.Get(req.GetParent()); !ok {
		return nil, status.Errorf(codes.NotFound, "%s does not exist", req.GetParent())
	}
	from, err := address("source", req.GetSource())
	if err != nil {
		return nil, err
	}
	to, err := address("destination", req.GetDestination())
	if err != nil {
		return nil, err
	}
	if from.Is4() != to.Is4() {
		return nil, access.Invalid("destination", "is not of the same IP version as source")
	}
	segment := model.SegmentName{Network: network.Network}
	if name := req.GetSegment(); name != "" {
		if problem, remedy := model.CheckSegment(&snap.Topology, network, name, scopeOf(ctx, snap).Sees); problem != "" {
			return nil, access.Invalid("segment", problem+"; "+remedy)
		}
		segment.Segment = model.SegmentID(name)
	}
	out := plan.Explain(&snap.Topology, segment, from, to)
	if scope := scopeOf(ctx, snap); scope.Limited() && !scope.Sees(out.GetSourceSite()) && !scope.Sees(out.GetDestinationSite()) {
		return nil, scope.Denied(fmt.Sprintf("what is between %s and %s", from, to))
	}
	for _, hop := range out.GetHops() {
		tellStatus(hop, func(tunnel string) swanherdv1.TunnelStatus {
			t, _ := s.fleet.Tunnel(tunnel)
			return t.GetStatus()
		})
	}
	return out, nil
}

// tellStatus fills in how the tunnel of a hop is, and the others that could carry it. Of
// several it goes over the first that is up.
func tellStatus(hop *swanherdv1.ExplainHop, of func(tunnel string) swanherdv1.TunnelStatus) {
	hop.Status = of(hop.GetTunnel())
	for _, p := range hop.GetPaths() {
		if p.GetTunnel() == "" {
			continue
		}
		if p.Status = of(p.GetTunnel()); carries(p.GetStatus()) && !carries(hop.GetStatus()) {
			hop.Tunnel, hop.Status = p.GetTunnel(), p.GetStatus()
		}
	}
}

// carries says whether a tunnel of that status carries traffic.
func carries(s swanherdv1.TunnelStatus) bool {
	return s == swanherdv1.TunnelStatus_TUNNEL_STATUS_UP || s == swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED
}

func address(field, text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return a, access.Invalid(field, "is not an address such as 10.1.0.5 or 2001:db8::5")
	}
	return a.Unmap(), nil
}
