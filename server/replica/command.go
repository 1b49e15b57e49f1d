package replica

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	replicav1 "github.com/swanherd/swanherd/proto/swanherd/replica/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Run gives a command to an edge; its errors are those of session.Server.Command.
type Run func(ctx context.Context, edge string, c *swanherdv1.Command) error

// Command implements ReplicaService.
func (s *Server) Command(ctx context.Context, req *replicav1.CommandRequest) (*replicav1.CommandResponse, error) {
	if err := s.run(ctx, req.GetEdge(), req.GetCommand()); err != nil {
		return nil, err
	}
	return &replicav1.CommandResponse{}, nil
}

// Command gives a command to an edge that has its session with another replica.
func (f *Follower) Command(ctx context.Context, replica, edge string, c *swanherdv1.Command) error {
	row, ok := f.Store.Snapshot().Replicas.Get(replica)
	if !ok {
		return status.Errorf(codes.Unavailable, "the replica of the controller that holds the session of %s ended; try again once the edge is back", edge)
	}
	conn, err := f.dial(row.Value)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = replicav1.NewReplicaServiceClient(conn).Command(ctx, &replicav1.CommandRequest{Edge: edge, Command: c})
	if status.Code(err) == codes.Unavailable {
		return fmt.Errorf("ask %s, which holds the session of %s: %w", replica, edge, err)
	}
	return err
}
