package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// reconnectDelay is how long follow waits after a stream broke.
const reconnectDelay = time.Second

// follow shows the resources of a kind, then each change, until ctx ends. A stream
// that breaks goes on where it was.
func (s *session) follow(ctx context.Context, c *client, k kind) error {
	if k.plural == "tunnels" {
		return usagef("tunnels are watched with `swanherd watch`")
	}
	req := &swanherdv1.WatchRequest{Parent: c.parent, Kinds: []string{k.plural}}
	if req.Parent == "" {
		req.Parent = "networks/-"
	}
	for {
		err := s.followOnce(ctx, c, k, req)
		switch {
		case ctx.Err() != nil:
			return nil
		case status.Code(err) == codes.OutOfRange && req.GetResumeToken() != "":
			fmt.Fprintln(s.Err, "away for too long: what follows is all there is")
			req.ResumeToken = ""
		case status.Code(err) != codes.Unavailable:
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(reconnectDelay):
		}
	}
}

func (s *session) followOnce(ctx context.Context, c *client, k kind, req *swanherdv1.WatchRequest) error {
	stream, err := c.topology.Watch(ctx, req)
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := s.printFollowed(k, m); err != nil {
			return err
		}
		if m.GetResumeToken() != "" {
			req.ResumeToken = m.GetResumeToken()
		}
	}
}

func (s *session) printFollowed(k kind, m *swanherdv1.WatchResponse) error {
	if s.output != "table" {
		return s.printMessage(m)
	}
	r := followed(m)
	if r == nil {
		return nil
	}
	clock := time.Now().Format(time.TimeOnly)
	cells := k.row(r, time.Now())
	if m.GetKind() == swanherdv1.WatchResponse_KIND_REMOVED {
		_, err := fmt.Fprintf(s.Out, "%s  REMOVED   %s\n", clock, cells[0])
		return err
	}
	_, err := fmt.Fprintf(s.Out, "%s  UPSERTED  %s\n", clock, safe(strings.Join(cells, "  ")))
	return err
}

// followed is the resource in a message; nil when there is none.
func followed(m *swanherdv1.WatchResponse) proto.Message {
	message := m.ProtoReflect()
	field := message.WhichOneof(message.Descriptor().Oneofs().ByName("resource"))
	if field == nil {
		return nil
	}
	return message.Get(field).Message().Interface()
}
