package replica

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	replicav1 "github.com/swanherd/swanherd/proto/swanherd/replica/v1"
	"github.com/swanherd/swanherd/server/fleet"
)

const (
	// frameInterval bounds how far others are behind; changes in between merge.
	frameInterval = 200 * time.Millisecond
	// heartbeat is how often a frame comes when nothing changes.
	heartbeat = time.Second
	// maxFrame is how many edges, and how many ends, one frame holds.
	maxFrame = 500
)

// Server implements ReplicaService: it tells other replicas what edges told this one.
type Server struct {
	replicav1.UnimplementedReplicaServiceServer

	name  string
	fleet *fleet.Fleet
	run   Run
	trust Trust
}

// NewServer returns the service of the replica of that name, `replicas/{replica}`.
func NewServer(name string, f *fleet.Fleet, run Run, trust Trust) *Server {
	return &Server{name: name, fleet: f, run: run, trust: trust}
}

// Follow implements ReplicaService.
func (s *Server) Follow(stream replicav1.ReplicaService_FollowServer) error {
	asked, received := make(chan *replicav1.FollowRequest), make(chan error, 1)
	go func() { received <- receive(stream, asked) }()
	t := &teller{server: s, stream: stream, counters: -1}
	ticker := time.NewTicker(frameInterval)
	defer ticker.Stop()
	for {
		select {
		case req := <-asked:
			t.want(req)
		case err := <-received:
			return err
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-ticker.C:
			if err := t.tell(); err != nil {
				return err
			}
		}
	}
}

func receive(stream grpc.BidiStreamingServer[replicav1.FollowRequest, replicav1.FollowResponse], asked chan<- *replicav1.FollowRequest) error {
	for {
		req, err := stream.Recv()
		if err != nil {
			return err
		}
		select {
		case asked <- req:
		case <-stream.Context().Done():
			return context.Cause(stream.Context())
		}
	}
}

// teller is one follower's stream. Its goroutine owns it.
type teller struct {
	server *Server
	stream replicav1.ReplicaService_FollowServer

	began    bool // the follower has asked
	synced   bool
	after    uint64
	counters int64 // sequence number from which counters are due; negative: not wanted
	last     time.Time
}

func (t *teller) want(req *replicav1.FollowRequest) {
	t.began = true
	switch {
	case !req.GetCounters():
		t.counters = -1
	case t.counters < 0:
		t.counters = 0
	}
}

// tell sends what changed, in frames.
func (t *teller) tell() error {
	if !t.began {
		return nil
	}
	share, seq := t.server.fleet.ShareSince(t.after, t.counters)
	t.after = seq
	if t.counters >= 0 {
		t.counters = int64(seq)
	}
	for len(share.Edges) > 0 || len(share.Ends) > 0 {
		frame := &replicav1.FollowResponse{}
		frame.Edges, share.Edges = cut(share.Edges)
		frame.Ends, share.Ends = cut(share.Ends)
		if err := t.send(frame); err != nil {
			return err
		}
	}
	if t.synced && time.Since(t.last) < heartbeat {
		return nil
	}
	if err := t.server.trust.holds(t.stream.Context()); err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	t.synced = true
	return t.send(&replicav1.FollowResponse{Synced: true})
}

func (t *teller) send(frame *replicav1.FollowResponse) error {
	frame.Replica = t.server.name
	t.last = time.Now()
	return t.stream.Send(frame)
}

func cut[T any](rows []T) (first, rest []T) {
	n := min(len(rows), maxFrame)
	return rows[:n], rows[n:]
}
