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
	how := ""
	if req.GetReauthenticate() {
		how = ", with a new authentication"
	}
	edge, err := f.commandTunnel(ctx, req.GetName(), "rekey", how, &swanherdv1.Command{Action: &swanherdv1.Command_RekeyTunnel{
		RekeyTunnel: &swanherdv1.RekeyTunnel{Tunnel: req.GetName(), Reauthenticate: req.GetReauthenticate()},
	}})
	if err != nil {
		return nil, err
	}
	return &swanherdv1.RekeyTunnelResponse{Edge: edge}, nil
}

// RestartTunnel implements FleetService.
func (f *Fleet) RestartTunnel(ctx context.Context, req *swanherdv1.RestartTunnelRequest) (*swanherdv1.RestartTunnelResponse, error) {
	edge, err := f.commandTunnel(ctx, req.GetName(), "restart", "", &swanherdv1.Command{Action: &swanherdv1.Command_RestartTunnel{
		RestartTunnel: &swanherdv1.RestartTunnel{Tunnel: req.GetName()},
	}})
	if err != nil {
		return nil, err
	}
	return &swanherdv1.RestartTunnelResponse{Edge: edge}, nil
}

// commandTunnel has an end of the tunnel carry out a command, and returns that end when it
// has begun. How is for the audit log.
func (f *Fleet) commandTunnel(ctx context.Context, tunnel, verb, how string, c *swanherdv1.Command) (edge string, err error) {
	name, err := model.ParseTunnelName(tunnel)
	if err != nil {
		return "", access.Invalid("name", err.Error())
	}
	t, ok := f.fleet.Tunnel(tunnel)
	if !ok {
		return "", status.Errorf(codes.NotFound, "%s does not exist", tunnel)
	}
	if edge, err = f.reachableEnd(t); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	if err := f.command(ctx, edge, c); err != nil {
		return "", err
	}
	event := access.Audit(access.PrincipalFrom(ctx).Actor, tunnel, "tunnel."+verb, "by "+edge+how)
	if err := f.store.AppendEvent(ctx, model.NetworkName{Network: name.Network}, event); err != nil {
		return "", access.StoreError(err)
	}
	return edge, nil
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
