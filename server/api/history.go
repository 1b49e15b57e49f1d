package api

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/history"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// History implements HistoryService.
type History struct {
	swanherdv1.UnimplementedHistoryServiceServer

	store *store.Store
	fleet *fleet.Fleet
	query Query
}

// Query is how a series was from start to end in steps of at least that length, and the
// names of replicas whose part is missing.
type Query func(ctx context.Context, series string, start, end time.Time, step time.Duration) (curve history.Curve, missing []string, err error)

// NewHistory returns the service.
func NewHistory(s *store.Store, live *fleet.Fleet, query Query) *History {
	return &History{store: s, fleet: live, query: query}
}

// defaultSpan is how much of history is shown to who does not say.
const defaultSpan = 24 * time.Hour

// QueryHistory implements HistoryService.
func (h *History) QueryHistory(ctx context.Context, req *swanherdv1.QueryHistoryRequest) (*swanherdv1.History, error) {
	of, exists, err := h.subject(req.GetName())
	if err != nil {
		return nil, access.Invalid("name", err.Error())
	}
	start, end, err := span(req, time.Now())
	if err != nil {
		return nil, err
	}
	curve, missing, err := h.query(ctx, of, start, end, req.GetStep().AsDuration())
	if err != nil {
		return nil, status.Errorf(codes.Internal, "read the history of %s: %v", of, err)
	}
	if !exists && len(curve.Points) == 0 && len(missing) == 0 { // one that was removed may have a history
		return nil, status.Errorf(codes.NotFound, "%s does not exist", of)
	}
	out := &swanherdv1.History{Name: req.GetName(), Step: durationpb.New(curve.Step), MissingReplicas: missing}
	var total history.Point
	for _, p := range curve.Points {
		total = total.Plus(p)
		out.Points = append(out.Points, shownPoint(p, curve.TimeOf(p)))
	}
	out.Total = shownPoint(total, start)
	return out, nil
}

// subject is the name of what the history is of, and whether there is such a thing now.
func (h *History) subject(name string) (of string, exists bool, err error) {
	of, ok := strings.CutSuffix(name, "/history")
	if !ok {
		return "", false, errHistoryName
	}
	if n, err := model.ParseNetworkName(of); err == nil {
		_, exists = h.store.Snapshot().Networks.Get(n.String())
		return of, exists, nil
	}
	if _, err := model.ParseTunnelName(of); err != nil {
		return "", false, errHistoryName
	}
	_, exists = h.fleet.Tunnel(of)
	return of, exists, nil
}

var errHistoryName = errors.New("is not of the form networks/{network}/tunnels/{tunnel}/history or networks/{network}/history")

// span is the time that is asked for.
func span(req *swanherdv1.QueryHistoryRequest, now time.Time) (start, end time.Time, err error) {
	end = now
	for field, t := range map[string]*timestamppb.Timestamp{"start_time": req.GetStartTime(), "end_time": req.GetEndTime()} {
		if t != nil && !t.IsValid() {
			return start, end, access.Invalid(field, "is no time between the years 1 and 9999")
		}
	}
	if t := req.GetEndTime(); t != nil && t.AsTime().Before(now) {
		end = t.AsTime()
	}
	start = end.Add(-defaultSpan)
	if t := req.GetStartTime(); t != nil {
		start = t.AsTime()
	}
	if !start.Before(end) {
		return start, end, access.Invalid("start_time", "is not before end_time, or not in the past")
	}
	return start, end, nil
}

func shownPoint(p history.Point, at time.Time) *swanherdv1.HistoryPoint {
	out := &swanherdv1.HistoryPoint{
		Time: timestamppb.New(at), Samples: p.Samples, UpSamples: p.Up, OctetsIn: p.OctetsIn, OctetsOut: p.OctetsOut,
		PacketsIn: p.PacketsIn, PacketsOut: p.PacketsOut, Drops: p.Drops,
		Missing: p.Missing, Probes: p.Probes, ProbesLost: p.ProbesLost,
	}
	if answers := p.Probes - min(p.Probes, p.ProbesLost); answers > 0 {
		out.Latency = durationpb.New(mean(p.RTT, answers))
	}
	if p.Jitters > 0 {
		out.Jitter = durationpb.New(mean(p.Jitter, p.Jitters))
	}
	return out
}

// mean is of microseconds. What edges say may be nonsense, but is a time.
func mean(sum, n uint64) time.Duration {
	return time.Duration(min(sum/n, uint64(time.Hour/time.Microsecond))) * time.Microsecond
}
