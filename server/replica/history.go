package replica

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	replicav1 "github.com/swanherd/swanherd/proto/swanherd/replica/v1"
	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	"github.com/swanherd/swanherd/server/history"
)

// historyTime is for how long a query waits for what other replicas have.
const historyTime = 3 * time.Second

// History implements ReplicaService.
func (s *Server) History(_ context.Context, req *replicav1.HistoryRequest) (*replicav1.HistoryResponse, error) {
	start, end := req.GetStartTime().AsTime(), req.GetEndTime().AsTime()
	curve, err := s.series.Query(req.GetSeries(), start, end, time.Now(), req.GetStep().AsDuration())
	if err != nil {
		return nil, status.Errorf(codes.Internal, "read the history of %s: %v", req.GetSeries(), err)
	}
	return &replicav1.HistoryResponse{Step: durationpb.New(curve.Step), Points: curve.Encoded()}, nil
}

// History returns what the other replicas have of a series, and the names of those that
// do not tell.
func (f *Follower) History(ctx context.Context, series string, start, end time.Time, step time.Duration) (curves []history.Curve, missing []string) {
	ctx, cancel := context.WithTimeout(ctx, historyTime)
	defer cancel()
	req := &replicav1.HistoryRequest{
		Series: series, StartTime: timestamppb.New(start), EndTime: timestamppb.New(end), Step: durationpb.New(step),
	}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, r := range f.Store.Snapshot().LiveReplicas() {
		if r.GetName() == f.Name || r.GetAddress() == "" {
			continue
		}
		asking.Go(func() {
			curve, err := f.historyOf(ctx, r, req)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				f.Log.Warn("a replica tells no history", "replica", r.GetName(), "error", err)
				missing = append(missing, r.GetName())
				return
			}
			curves = append(curves, curve)
		})
	}
	asking.Wait()
	slices.Sort(missing)
	return curves, missing
}

func (f *Follower) historyOf(ctx context.Context, r *storev1.Replica, req *replicav1.HistoryRequest) (history.Curve, error) {
	conn, err := f.dial(r)
	if err != nil {
		return history.Curve{}, err
	}
	defer conn.Close()
	resp, err := replicav1.NewReplicaServiceClient(conn).History(ctx, req)
	if err != nil {
		return history.Curve{}, err
	}
	return history.DecodeCurve(resp.GetStep().AsDuration(), resp.GetPoints())
}
