package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

const (
	// Retention is how long a job is kept after its end.
	Retention = 24 * time.Hour
	// MaxKept is how many jobs a network has at most; of those that ended the oldest go.
	MaxKept = 500
	// tendInterval is how often the leader looks after jobs.
	tendInterval = 5 * time.Second
	// maxWaiting is how many ends of jobs wait for the store at once, and maxOfEdge how many of
	// one edge, which runs no more; further ones are as lost as with a session, and their jobs
	// are given up in time.
	maxWaiting = 64
	maxOfEdge  = 4
	// writeTimeout bounds how long an end may take to be stored.
	writeTimeout = 10 * time.Second
	// maxForgotten is how many jobs go in one transaction.
	maxForgotten = 50
)

// ErrEnded says that a job does not run any more.
var ErrEnded = errors.New("the job has ended")

// A Keeper takes in the ends of jobs.
type Keeper struct {
	store  *store.Store
	sealer *store.Sealer
	log    *slog.Logger
	ends   chan end

	mu      sync.Mutex
	waiting map[string]int // ends by the edge
}

// end is how a job ended, as an edge says.
type end struct {
	edge   string
	report *swanherdv1.JobReport
}

// NewKeeper returns a Keeper; Run makes it work.
func NewKeeper(s *store.Store, sealer *store.Sealer, log *slog.Logger) *Keeper {
	return &Keeper{store: s, sealer: sealer, log: log, ends: make(chan end, maxWaiting), waiting: map[string]int{}}
}

// Report takes in how a job ended, as the edge says. It does not block.
func (k *Keeper) Report(edge string, r *swanherdv1.JobReport) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.waiting[edge] < maxOfEdge {
		select {
		case k.ends <- end{edge, r}:
			k.waiting[edge]++
			return
		default:
		}
	}
	k.log.Debug("too many jobs end at once; this one is given up in time", "edge", edge, "job", r.GetJob())
}

// taken notes that an end of the edge does not wait any more.
func (k *Keeper) taken(edge string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.waiting[edge]--; k.waiting[edge] == 0 {
		delete(k.waiting, edge)
	}
}

// Run stores how jobs end, until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-k.ends:
			err := k.take(ctx, e)
			k.taken(e.edge)
			if err != nil && ctx.Err() == nil {
				k.log.Warn("the end of a job is not stored", "edge", e.edge, "job", e.report.GetJob(), "error", err)
			}
		}
	}
}

func (k *Keeper) take(ctx context.Context, e end) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	name := e.report.GetJob()
	if _, err := model.ParseJobName(name); err != nil {
		return err
	}
	// Another replica may just have begun it. What no job is costs no read of etcd more.
	if _, ok := k.store.Snapshot().Jobs.Get(name); !ok {
		if _, ok := k.store.CatchUp(ctx).Jobs.Get(name); !ok {
			return fmt.Errorf("%s does not exist", name)
		}
	}
	_, err := k.end(ctx, name, e.report.GetOutput(), func(j *swanherdv1.Job) error {
		if j.GetEdge() != e.edge {
			return fmt.Errorf("it is a job of %s", j.GetEdge())
		}
		conclude(j, e.report)
		return nil
	})
	return err
}

// conclude makes of a job what the report says.
func conclude(j *swanherdv1.Job, r *swanherdv1.JobReport) {
	switch {
	case r.GetError() != "":
		j.State, j.Error = swanherdv1.Job_STATE_FAILED, r.GetError()
	case r.GetCancelled():
		j.State = swanherdv1.Job_STATE_CANCELLED
	default:
		j.State = swanherdv1.Job_STATE_SUCCEEDED
	}
	switch result := r.GetResult().(type) {
	case *swanherdv1.JobReport_PingResult:
		j.Result = &swanherdv1.Job_PingResult{PingResult: result.PingResult}
	case *swanherdv1.JobReport_TraceResult:
		j.Result = &swanherdv1.Job_TraceResult{TraceResult: result.TraceResult}
	case *swanherdv1.JobReport_CaptureResult:
		j.Result = &swanherdv1.Job_CaptureResult{CaptureResult: result.CaptureResult}
	case *swanherdv1.JobReport_TunnelsResult:
		j.Result = &swanherdv1.Job_TunnelsResult{TunnelsResult: result.TunnelsResult}
	}
}

// Fail ends a job that its edge did not begin, and returns it.
func (k *Keeper) Fail(ctx context.Context, name, why string) (model.Row[*swanherdv1.Job], error) {
	return k.end(ctx, name, nil, func(j *swanherdv1.Job) error {
		j.State, j.Error = swanherdv1.Job_STATE_FAILED, why
		return nil
	})
}

// Cancel ends a job that its edge cannot be asked to end, and returns it.
func (k *Keeper) Cancel(ctx context.Context, name, why string) (model.Row[*swanherdv1.Job], error) {
	return k.end(ctx, name, nil, func(j *swanherdv1.Job) error {
		j.State, j.Error = swanherdv1.Job_STATE_CANCELLED, why
		return nil
	})
}

// end stores the end of a job that runs, with its output. Its error is ErrEnded when it
// does not run any more.
func (k *Keeper) end(ctx context.Context, name string, output []byte, change func(*swanherdv1.Job) error) (model.Row[*swanherdv1.Job], error) {
	for {
		row, err := k.store.Jobs.Get(ctx, name)
		if err != nil {
			return row, err
		}
		if row.Value.GetState() != swanherdv1.Job_STATE_RUNNING {
			return row, ErrEnded
		}
		j := proto.CloneOf(row.Value)
		if err := change(j); err != nil {
			return row, err
		}
		j.EndTime, j.OutputSize = timestamppb.Now(), int64(len(output))
		t := k.store.Txn()
		k.store.Jobs.UpdateIn(t, name, j, row.Revision)
		if len(output) > 0 {
			if err := k.putOutput(t, name, output); err != nil {
				return row, err
			}
		}
		revision, err := t.Commit(ctx)
		if errors.Is(err, store.ErrConflict) {
			continue // somebody else ends it
		}
		if err == nil {
			_, _ = k.store.WaitRevision(ctx, revision) // it is stored
		}
		return model.Row[*swanherdv1.Job]{Name: name, Value: j, Revision: revision}, err
	}
}

func (k *Keeper) putOutput(t *store.Txn, name string, output []byte) error {
	key, err := k.store.JobOutputs.Key(outputName(name))
	if err != nil {
		return err
	}
	k.store.JobOutputs.PutIn(t, outputName(name), &storev1.JobOutput{Data: k.sealer.Seal(key, output)})
	return nil
}

// Output is what a job brought; store.ErrNotFound: nothing.
func (k *Keeper) Output(ctx context.Context, name string) ([]byte, error) {
	row, err := k.store.JobOutputs.Get(ctx, outputName(name))
	if err != nil {
		return nil, err
	}
	key, err := k.store.JobOutputs.Key(outputName(name))
	if err != nil {
		return nil, err
	}
	return k.sealer.Open(key, row.Value.GetData())
}

func outputName(job string) string { return job + "/output" }

// DropIn removes, as a part of t, a job as it is at a revision, and what it brought.
func DropIn(t *store.Txn, s *store.Store, row model.Row[*swanherdv1.Job]) {
	s.Jobs.DeleteIn(t, row.Name, row.Revision)
	s.JobOutputs.DropIn(t, outputName(row.Name))
}

// Tend gives up jobs of which nothing was heard in time, and forgets old ones, until ctx
// ends. It is the leader's to call.
func (k *Keeper) Tend(ctx context.Context) {
	ticker := time.NewTicker(tendInterval)
	defer ticker.Stop()
	for {
		if err := k.tendOnce(ctx, time.Now()); err != nil && ctx.Err() == nil {
			k.log.Warn("cannot look after jobs; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (k *Keeper) tendOnce(ctx context.Context, now time.Time) error {
	snap := k.store.Snapshot()
	var errs []error
	ended := map[string][]model.Row[*swanherdv1.Job]{} // by network, the oldest first
	for row := range snap.Jobs.All() {
		j := row.Value
		if j.GetState() != swanherdv1.Job_STATE_RUNNING {
			network, err := model.NetworkOf(row.Name)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			ended[network.String()] = append(ended[network.String()], row)
		} else if now.After(j.GetDeadline().AsTime()) {
			why := fmt.Sprintf("%s did not tell its end in time; it may have started anew, or have no session: see its status", j.GetEdge())
			if _, err := k.Fail(ctx, row.Name, why); err != nil && !errors.Is(err, ErrEnded) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(append(errs, k.forget(ctx, ended, now))...)
}

// forget removes jobs that ended long ago, and the oldest where there are too many.
func (k *Keeper) forget(ctx context.Context, ended map[string][]model.Row[*swanherdv1.Job], now time.Time) error {
	t := k.store.Txn()
	n := 0
	for _, rows := range ended {
		slices.SortFunc(rows, func(a, b model.Row[*swanherdv1.Job]) int {
			return a.Value.GetEndTime().AsTime().Compare(b.Value.GetEndTime().AsTime())
		})
		for i, row := range rows {
			old := now.Sub(row.Value.GetEndTime().AsTime()) > Retention
			if (old || len(rows)-i > MaxKept) && n < maxForgotten {
				DropIn(t, k.store, row)
				n++
			}
		}
	}
	if t.Empty() {
		return nil
	}
	_, err := t.Commit(ctx)
	return err
}
