package api

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

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
	c := &swanherdv1.Command{Action: &swanherdv1.Command_RekeyTunnel{
		RekeyTunnel: &swanherdv1.RekeyTunnel{Tunnel: req.GetName(), Reauthenticate: req.GetReauthenticate()},
	}}
	return commandTunnel(ctx, f, req, "rekey", how, c, func(edge string) *swanherdv1.RekeyTunnelResponse {
		return &swanherdv1.RekeyTunnelResponse{Edge: edge}
	})
}

// RestartTunnel implements FleetService.
func (f *Fleet) RestartTunnel(ctx context.Context, req *swanherdv1.RestartTunnelRequest) (*swanherdv1.RestartTunnelResponse, error) {
	c := &swanherdv1.Command{Action: &swanherdv1.Command_RestartTunnel{RestartTunnel: &swanherdv1.RestartTunnel{Tunnel: req.GetName()}}}
	return commandTunnel(ctx, f, req, "restart", "", c, func(edge string) *swanherdv1.RestartTunnelResponse {
		return &swanherdv1.RestartTunnelResponse{Edge: edge}
	})
}

// commandTunnel has an end of the tunnel carry out a command, and answers with that end when it
// has begun. How is for the audit log.
func commandTunnel[R proto.Message](ctx context.Context, f *Fleet, req namedChange, verb, how string, c *swanherdv1.Command, answer func(edge string) R) (R, error) {
	var none R
	name, err := model.ParseTunnelName(req.GetName())
	if err != nil {
		return none, access.Invalid("name", err.Error())
	}
	if before, err := replayed[R](ctx, f.store, req); err != nil || before.ProtoReflect().IsValid() {
		return before, err // the tunnel may be gone meanwhile
	}
	t, ok := f.fleet.Tunnel(req.GetName())
	if !ok {
		return none, status.Errorf(codes.NotFound, "%s does not exist", req.GetName())
	}
	edge, err := f.reachableEnd(t)
	if err != nil || req.GetValidateOnly() {
		return answer(edge), err
	}
	return done(ctx, f.store, req, deed[R]{
		network: model.NetworkName{Network: name.Network},
		event:   access.Audit(access.PrincipalFrom(ctx).Actor, req.GetName(), "tunnel."+verb, "by "+edge+how),
		do: func() (R, error) {
			ctx, cancel := context.WithTimeout(ctx, commandTimeout)
			defer cancel()
			return answer(edge), f.command(ctx, edge, c)
		},
	})
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
