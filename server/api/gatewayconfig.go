package api

import (
	"context"
	"encoding/pem"
	"errors"
	"net/netip"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/gatewayconfig"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/plan"
)

// RenderGatewayConfig implements TopologyService.
func (s *Topology) RenderGatewayConfig(ctx context.Context, req *swanherdv1.RenderGatewayConfigRequest) (*swanherdv1.RenderGatewayConfigResponse, error) {
	name, err := model.ParseGatewayName(req.GetName())
	if err != nil {
		return nil, access.Invalid("name", err.Error())
	}
	snap := s.store.Snapshot()
	row, ok := snap.Gateways.Get(req.GetName())
	if !ok {
		return nil, notThere(req.GetName())
	}
	if scope := scopeOf(ctx, snap); !scope.Changes(row.Name) { // it tells of every edge that has a tunnel with it
		return nil, scope.Denied(row.Name)
	}
	in := gatewayconfig.Input{Gateway: row.Value}
	for _, t := range plan.GatewayTunnels(&snap.Topology, name) {
		in.Tunnels = append(in.Tunnels, gatewayconfig.Tunnel{
			Edge: lastSegment(t.Tunnel.GetA().GetEdge()), Address: hostOf(t.Tunnel.GetA().GetEndpoint()), Priority: t.Priority, Intent: t.Intent,
		})
	}
	if len(in.Tunnels) == 0 {
		return nil, status.Errorf(codes.FailedPrecondition,
			"%s has no tunnel: it takes an enabled edge that is attached, at a site with prefixes of the same IP version as the gateway's", req.GetName())
	}
	if authority, ok := snap.Authorities.Get(model.NetworkName{Network: name.Network}.AuthorityName()); ok {
		var all strings.Builder
		for _, der := range model.TrustAnchors(authority.Value) {
			all.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		}
		in.Authority = all.String()
	}
	out, err := gatewayconfig.Render(req.GetFormat(), in)
	var unsupported *gatewayconfig.UnsupportedError
	if errors.As(err, &unsupported) {
		return nil, access.InUse(unsupported.Error(), []access.Obstacle{{Subject: unsupported.Resource, Description: unsupported.Field + ": " + unsupported.Problem + "; " + unsupported.Remedy}})
	}
	if err != nil {
		return nil, status.Errorf(codes.Internal, "render the configuration: %v", err)
	}
	return &swanherdv1.RenderGatewayConfigResponse{Config: out.Config, Placeholders: out.Placeholders, Warnings: out.Warnings}, nil
}

// hostOf is the address in an endpoint; empty when there is none.
func hostOf(endpoint string) string {
	if at, err := netip.ParseAddrPort(endpoint); err == nil {
		return at.Addr().String()
	}
	return ""
}
