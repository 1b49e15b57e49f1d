package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

const (
	network = "networks/demo"
	berlin  = network + "/edges/berlin"
)

// office is a keeper with a store.
type office struct {
	*testing.T
	*Keeper
	now time.Time
}

func newOffice(t *testing.T) *office {
	dir := t.TempDir()
	s, err := store.Open(t.Context(), store.Config{DataDir: filepath.Join(dir, "etcd"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	sealer, err := store.LoadSealer(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	return &office{T: t, Keeper: NewKeeper(s, sealer, slog.New(slog.NewTextHandler(t.Output(), nil))), now: time.Now()}
}

// begun stores a job that runs until a deadline.
func (o *office) begun(id string, deadline time.Time) string {
	o.Helper()
	name := network + "/jobs/" + id
	revision, err := o.store.Jobs.Create(o.Context(), name, &swanherdv1.Job{
		Name: name, Edge: berlin, State: swanherdv1.Job_STATE_RUNNING, Deadline: timestamppb.New(deadline),
	})
	if err != nil {
		o.Fatal(err)
	}
	o.await(revision)
	return name
}

func (o *office) await(revision int64) {
	o.Helper()
	if _, err := o.store.WaitRevision(o.Context(), revision); err != nil {
		o.Fatal(err)
	}
}

// tend looks after the jobs at a time, and returns their states by their ids.
func (o *office) tend(now time.Time) map[string]swanherdv1.Job_State {
	o.Helper()
	if err := o.tendOnce(o.Context(), now); err != nil {
		o.Fatal(err)
	}
	out := map[string]swanherdv1.Job_State{}
	rows, _, err := o.store.Jobs.List(o.Context(), model.NetworkName{})
	if err != nil {
		o.Fatal(err)
	}
	for _, row := range rows {
		out[strings.TrimPrefix(row.Name, network+"/jobs/")] = row.Value.GetState()
	}
	return out
}

// A job of which nothing is heard is given up at its deadline; what ended is forgotten after
// a day, with what it brought.
func TestJobsAreGivenUpAndForgotten(t *testing.T) {
	o := newOffice(t)
	silent, told := o.begun("silent", o.now.Add(time.Minute)), o.begun("told", o.now.Add(time.Minute))
	if err := o.take(t.Context(), end{berlin, &swanherdv1.JobReport{Job: told, Output: []byte("packets")}}); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(o.tend(o.now.Add(59 * time.Second))); got != "map[silent:STATE_RUNNING told:STATE_SUCCEEDED]" {
		t.Errorf("before the deadline: %s", got)
	}
	if got := fmt.Sprint(o.tend(o.now.Add(61 * time.Second))); got != "map[silent:STATE_FAILED told:STATE_SUCCEEDED]" {
		t.Errorf("after the deadline: %s", got)
	}
	if err := o.take(t.Context(), end{berlin, &swanherdv1.JobReport{Job: silent}}); !errors.Is(err, ErrEnded) {
		t.Errorf("told too late: %v", err)
	}
	if row, err := o.store.JobOutputs.Get(t.Context(), told+"/output"); err != nil || strings.Contains(string(row.Value.GetData().GetCiphertext()), "packets") {
		t.Errorf("the output in the store is %v, %v", row.Value, err)
	}
	if out, err := o.Output(t.Context(), told); err != nil || string(out) != "packets" {
		t.Errorf("the output is %q, %v", out, err)
	}
	if got := o.tend(o.now.Add(Retention - time.Minute)); len(got) != 2 {
		t.Errorf("before a day was over: %v", got)
	}
	if got := o.tend(o.now.Add(Retention + 2*time.Minute)); len(got) != 0 {
		t.Errorf("after a day: %v", got)
	}
	if _, err := o.Output(t.Context(), told); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the output of what is forgotten: %v", err)
	}
}

// Of too many jobs the oldest go.
func TestOldestJobsGo(t *testing.T) {
	o := newOffice(t)
	txn := o.store.Txn()
	for i := range MaxKept + 3 {
		name := fmt.Sprintf("%s/jobs/j%04d", network, i)
		o.store.Jobs.CreateIn(txn, name, &swanherdv1.Job{
			Name: name, State: swanherdv1.Job_STATE_SUCCEEDED, EndTime: timestamppb.New(o.now.Add(time.Duration(i) * time.Millisecond)),
		})
	}
	revision, err := txn.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	o.await(revision)
	got := o.tend(o.now.Add(time.Hour))
	if len(got) != MaxKept {
		t.Errorf("%d jobs are kept", len(got))
	}
	for _, id := range []string{"j0000", "j0001", "j0002"} {
		if _, ok := got[id]; ok {
			t.Errorf("%s is kept, and newer ones are not", id)
		}
	}
}

// An edge that tells ends without end takes no other edge's place.
func TestFloodOfEndsLeavesRoom(t *testing.T) {
	o := newOffice(t)
	job := o.begun("told", o.now.Add(time.Minute))
	for i := range 10 * maxWaiting {
		o.Report("networks/demo/edges/mallory", &swanherdv1.JobReport{Job: fmt.Sprintf("networks/demo/jobs/none%d", i)})
	}
	o.Report(berlin, &swanherdv1.JobReport{Job: job})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { o.Keeper.Run(ctx) })
	for deadline := time.Now().Add(time.Minute); o.tend(o.now)["told"] != swanherdv1.Job_STATE_SUCCEEDED; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the end of berlin's job is not stored")
		}
	}
	cancel()
	running.Wait()
	if len(o.waiting) != 0 {
		t.Errorf("waiting are %v", o.waiting)
	}
}
