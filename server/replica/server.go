package replica

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	replicav1 "github.com/swanherd/swanherd/proto/swanherd/replica/v1"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/history"
)

const (
	// frameInterval bounds how far others are behind; changes in between merge.
	frameInterval = 200 * time.Millisecond
	// heartbeat is how often a frame comes when nothing changes.
	heartbeat = time.Second
	// maxFrame is how many edges, and how many ends, one frame holds, and maxFrameOctets
	// how many octets, but for one row more: far below the maxMessage that a follower takes.
	maxFrame       = 500
	maxFrameOctets = 2 << 20
)

// Server implements ReplicaService: it tells other replicas what edges told this one.
type Server struct {
	replicav1.UnimplementedReplicaServiceServer

	name   string
	fleet  *fleet.Fleet
	series *history.Series
	run    Run
	trust  Trust
	stale  func() bool
}

// NewServer returns the service of the replica of that name, `replicas/{replica}`. stale
// says whether what it knows of the store may be old.
func NewServer(name string, f *fleet.Fleet, series *history.Series, run Run, trust Trust, stale func() bool) *Server {
	return &Server{name: name, fleet: f, series: series, run: run, trust: trust, stale: stale}
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
		if err := t.send(takeFrame(&share)); err != nil {
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
	frame.Replica, frame.Stale = t.server.name, t.server.stale()
	t.last = time.Now()
	return t.stream.Send(frame)
}

// takeFrame moves rows from a share to a frame.
func takeFrame(share *fleet.Share) *replicav1.FollowResponse {
	frame, room := &replicav1.FollowResponse{}, maxFrameOctets
	frame.Edges, share.Edges = cut(share.Edges, &room)
	frame.Ends, share.Ends = cut(share.Ends, &room)
	return frame
}

// cut takes rows while there is room.
func cut[T proto.Message](rows []T, room *int) (first, rest []T) {
	n := 0
	for n < min(len(rows), maxFrame) && *room > 0 {
		*room -= proto.Size(rows[n])
		n++
	}
	return rows[:n], rows[n:]
}
