package api

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/model"
)

// commandTimeout bounds how long an edge may take to begin.
const commandTimeout = 10 * time.Second

// RekeyTunnel implements FleetService.
func (f *Fleet) RekeyTunnel(ctx context.Context, req *swanherdv1.RekeyTunnelRequest) (*swanherdv1.RekeyTunnelResponse, error) {
	name, err := model.ParseTunnelName(req.GetName())
	if err != nil {
		return nil, access.Invalid("name", err.Error())
	}
	t, ok := f.fleet.Tunnel(req.GetName())
	if !ok {
		return nil, status.Errorf(codes.NotFound, "%s does not exist", req.GetName())
	}
	edge, err := f.reachableEnd(t)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	err = f.command(ctx, edge, &swanherdv1.Command{Action: &swanherdv1.Command_RekeyTunnel{
		RekeyTunnel: &swanherdv1.RekeyTunnel{Tunnel: req.GetName(), Reauthenticate: req.GetReauthenticate()},
	}})
	if err != nil {
		return nil, err
	}
	message := "by " + edge
	if req.GetReauthenticate() {
		message += ", with a new authentication"
	}
	event := access.Audit(access.PrincipalFrom(ctx).Actor, req.GetName(), "tunnel.rekey", message)
	if err := f.store.AppendEvent(ctx, model.NetworkName{Network: name.Network}, event); err != nil {
		return nil, access.StoreError(err)
	}
	return &swanherdv1.RekeyTunnelResponse{Edge: edge}, nil
}

// reachableEnd is an end of the tunnel that takes commands, the initiator if it can be:
// it makes new SAs in any case.
func (f *Fleet) reachableEnd(t *swanherdv1.Tunnel) (string, error) {
	ends := []*swanherdv1.TunnelEnd{t.GetA(), t.GetB()}
	if t.GetB().GetInitiator() {
		ends[0], ends[1] = ends[1], ends[0]
	}
	for _, end := range ends {
		if _, ok := f.fleet.Home(end.GetEdge()); ok {
			return end.GetEdge(), nil
		}
	}
	return "", status.Errorf(codes.FailedPrecondition, "neither end of %s has a session with the controller", t.GetName())
}
