package session

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// commands are those that the edge has not answered yet, by their ids.
type commands struct {
	last    uint64
	waiting map[uint64]chan<- string
}

// Command gives a command to an edge and waits until it has begun. The error is a gRPC
// status: NOT_FOUND when the edge has no session here, UNAVAILABLE when the session ended
// before it answered, FAILED_PRECONDITION with the edge's words when it does not do it.
func (s *Server) Command(ctx context.Context, edge string, c *swanherdv1.Command) error {
	s.mu.Lock()
	sess := s.sessions[edge]
	s.mu.Unlock()
	if sess == nil {
		return status.Errorf(codes.NotFound, "%s has no session here", edge)
	}
	answer := make(chan string, 1)
	id, err := sess.command(c, answer)
	if err != nil {
		return err
	}
	defer sess.forget(id)
	select {
	case words := <-answer:
		if words != "" {
			return status.Errorf(codes.FailedPrecondition, "%s does not do it: %s", edge, words)
		}
		return nil
	case <-sess.done:
		return status.Errorf(codes.Unavailable, "the session of %s ended before it answered; look whether it was done", edge)
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// command queues a command, whose answer goes to the channel.
func (s *session) command(c *swanherdv1.Command, answer chan<- string) (uint64, error) {
	s.mu.Lock()
	if s.hello == nil || s.ending != nil {
		s.mu.Unlock()
		return 0, status.Errorf(codes.Unavailable, "the session of %s begins or ends just now; try again", s.identity.Edge)
	}
	c = proto.CloneOf(c)
	s.commands.last++
	c.Id = s.commands.last
	if s.commands.waiting == nil {
		s.commands.waiting = map[uint64]chan<- string{}
	}
	s.commands.waiting[c.Id] = answer
	s.enqueue(&swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Command{Command: c}})
	begin := s.proceed()
	s.mu.Unlock()
	if begin {
		go s.send()
	}
	return c.Id, nil
}

func (s *session) forget(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.commands.waiting, id)
}

// answered passes an edge's answer on. One that nobody waits for says nothing.
func (s *session) answered(r *swanherdv1.CommandResult) {
	if answer := s.commands.waiting[r.GetId()]; answer != nil {
		delete(s.commands.waiting, r.GetId())
		answer <- r.GetError()
	}
}
