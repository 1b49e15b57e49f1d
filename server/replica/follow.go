package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	replicav1 "github.com/swanherd/swanherd/proto/swanherd/replica/v1"
	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/store"
)

const (
	// silence is after what time without a frame a replica counts as unreachable.
	silence = 4 * time.Second
	// redial is how long a follower waits before it tries again.
	redial = 500 * time.Millisecond
	// maxMessage bounds a frame in octets.
	maxMessage = 16 << 20
)

// Follower follows every other replica that the store announces.
type Follower struct {
	// Name is this replica's own, which it does not follow.
	Name  string
	Store *store.Store
	Fleet *fleet.Fleet
	// Credentials prove this replica to others and others to it.
	Credentials credentials.TransportCredentials
	Trust       Trust
	// Supersede ends sessions here that edges left for another replica.
	Supersede func([]fleet.Superseded)
	Log       *slog.Logger

	mu    sync.Mutex
	peers map[string]followee // those followed, by name; guarded by mu
}

// followee is what is known of another replica: whether it can be followed, and whether what
// it knows of the store may be old.
type followee struct{ reached, stale bool }

// GoesOnElsewhere says, of a replica which the store does not answer, whether it seems to
// answer others: one of them says so, or none can be reached.
func (f *Follower) GoesOnElsewhere() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	reached := false
	for _, p := range f.peers {
		if p.reached && !p.stale {
			return true
		}
		reached = reached || p.reached
	}
	return len(f.peers) > 0 && !reached
}

func (f *Follower) note(name string, p followee) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.peers == nil {
		f.peers = map[string]followee{}
	}
	f.peers[name] = p
}

func (f *Follower) forget(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.peers, name)
}

// Run follows until ctx ends.
func (f *Follower) Run(ctx context.Context) {
	sub := f.Store.Subscribe()
	defer sub.Close()
	followed := map[string]context.CancelFunc{}
	var running sync.WaitGroup
	defer running.Wait()
	for {
		select {
		case <-ctx.Done():
			for _, stop := range followed {
				stop()
			}
			return
		case <-sub.Changed():
		}
		f.reconcile(ctx, followed, &running)
	}
}

// reconcile begins to follow those that came, and forgets those that went.
func (f *Follower) reconcile(ctx context.Context, followed map[string]context.CancelFunc, running *sync.WaitGroup) {
	live := map[string]bool{}
	for _, r := range f.Store.Snapshot().LiveReplicas() {
		name := r.GetName()
		if name == f.Name || r.GetAddress() == "" {
			continue
		}
		live[name] = true
		if followed[name] == nil {
			one, stop := context.WithCancel(ctx)
			followed[name] = stop
			running.Go(func() { f.follow(one, r) })
		}
	}
	for name, stop := range followed {
		if !live[name] {
			stop()
			delete(followed, name)
		}
	}
}

// follow follows one replica until ctx ends.
func (f *Follower) follow(ctx context.Context, r *storev1.Replica) {
	log := f.Log.With("replica", r.GetName(), "address", r.GetAddress())
	log.Info("following another replica")
	f.note(r.GetName(), followee{})
	defer f.forget(r.GetName())
	// Only now may what it said last be called the end of its sessions.
	defer f.Fleet.Gone(r.GetName())
	reached, renewed := true, false
	for ctx.Err() == nil {
		err := f.stream(ctx, r, func() {
			if !reached {
				log.Info("replica can be followed again")
			}
			reached, renewed = true, false
		})
		if ctx.Err() != nil {
			return
		}
		if distrusted(err) && !renewed {
			renewed = true // with certificates of the moment it goes on at once
			continue
		}
		f.note(r.GetName(), followee{})
		f.Fleet.Unreachable(r.GetName())
		if reached {
			log.Warn("cannot follow a replica, trying again", "error", err)
		}
		reached = false
		select {
		case <-ctx.Done():
		case <-time.After(redial):
		}
	}
}

// stream takes in what the replica tells until the stream breaks or falls silent.
func (f *Follower) stream(ctx context.Context, r *storev1.Replica, synced func()) error {
	conn, err := f.dial(r)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(silence, func() { cancel(errors.New("it says nothing")) })
	defer quiet.Stop()
	stream, err := replicav1.NewReplicaServiceClient(conn).Follow(ctx)
	if err != nil {
		return err
	}
	for first, counters := true, false; ; first = false {
		if wanted := f.Fleet.Watched(); first || wanted != counters {
			counters = wanted
			if err := stream.Send(&replicav1.FollowRequest{Counters: counters}); err != nil {
				return err
			}
		}
		frame, err := stream.Recv()
		if err != nil {
			return errors.Join(err, context.Cause(ctx))
		}
		quiet.Reset(silence)
		if frame.GetSynced() { // which comes with each heartbeat
			if err := f.Trust.holds(stream.Context()); err != nil {
				return err
			}
		}
		if frame.GetReplica() != r.GetName() {
			return fmt.Errorf("%s is at that address", frame.GetReplica())
		}
		f.note(r.GetName(), followee{reached: true, stale: frame.GetStale()})
		if over := f.Fleet.Adopt(r.GetName(), fleet.Share{Edges: frame.GetEdges(), Ends: frame.GetEnds()}); len(over) > 0 {
			f.Supersede(over)
		}
		if frame.GetSynced() {
			synced()
		}
	}
}

func (f *Follower) dial(r *storev1.Replica) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+r.GetAddress(), grpc.WithTransportCredentials(f.Credentials),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("reach %s: %w", r.GetName(), err)
	}
	return conn, nil
}
