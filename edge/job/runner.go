package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// maxRunning is how many jobs an edge has at once.
	maxRunning = 4
	// maxOutput bounds what a job brings, in octets, as the session protocol does.
	maxOutput = 512 << 10
	// workLimit bounds a task that has no time of its own.
	workLimit = 30 * time.Second
	// maxText bounds an explanation in octets.
	maxText = 1024
)

// A Place is where an edge has the LANs of a segment.
type Place struct {
	// Interface is the tunnels' there.
	Interface string
	// Enter calls f where the interface is; nil: it is where the agent is.
	Enter func(f func() error) error
}

func (p Place) enter(f func() error) error {
	if p.Enter == nil {
		return f()
	}
	return p.Enter(f)
}

// Config is what jobs work with. All of it is required.
type Config struct {
	// Place is where the LANs of a segment are, by the segment's id; empty: the default one.
	Place func(segment string) (Place, bool)
	// Uplink is the interface of an uplink.
	Uplink func(name string) (string, bool)
	// Tunnels are the names of all tunnels. Rekey and Restart make one anew.
	Tunnels func() []string
	Rekey   func(tunnel string, reauthenticate bool) error
	Restart func(tunnel string) error
	// Files is what explains how the edge fares, by file name, without keys and secrets.
	Files func(ctx context.Context) map[string][]byte
	// Ended is told how a job ended; it does not block.
	Ended  func(*swanherdv1.JobReport)
	Logger *slog.Logger
}

// A Runner runs jobs.
type Runner struct {
	ctx context.Context // all jobs' end
	cfg Config
	all sync.WaitGroup

	mu      sync.Mutex
	running map[string]context.CancelFunc // by the job's name
}

// New returns a Runner without jobs. Those that it gets end with ctx.
func New(ctx context.Context, cfg Config) *Runner {
	return &Runner{ctx: ctx, cfg: cfg, running: map[string]context.CancelFunc{}}
}

// Start begins a job. Its error says why it cannot.
func (r *Runner) Start(j *swanherdv1.Job) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch _, ok := r.running[j.GetName()]; {
	case r.ctx.Err() != nil:
		return errors.New("the agent stops")
	case ok:
		return errors.New("it runs already")
	case len(r.running) >= maxRunning:
		return fmt.Errorf("%d jobs run here, which is as many as may; wait for one to end, or cancel one", maxRunning)
	}
	do, limit, err := r.task(j)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.ctx, limit)
	r.running[j.GetName()] = cancel
	r.cfg.Logger.Info("job begins at the controller's wish", "job", j.GetName(), "task", taskWord(j))
	r.all.Go(func() {
		report := do(ctx)
		r.mu.Lock()
		delete(r.running, j.GetName())
		r.mu.Unlock()
		report.Job, report.Cancelled = j.GetName(), report.GetError() == "" && errors.Is(ctx.Err(), context.Canceled)
		cancel()
		r.cfg.Logger.Info("job ends", "job", j.GetName(), "error", report.GetError())
		r.cfg.Ended(report)
	})
	return nil
}

// Cancel ends a job before its time.
func (r *Runner) Cancel(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	cancel, ok := r.running[name]
	if !ok {
		return errors.New("no such job runs here; the agent may have started anew since")
	}
	cancel()
	return nil
}

// Wait waits until ctx ended and all jobs with it.
func (r *Runner) Wait() {
	<-r.ctx.Done()
	r.mu.Lock() // who begins one at this moment has done so, or sees that it may not
	r.mu.Unlock()
	r.all.Wait()
}

// work does a task until it is done or ctx ends, and tells its end without the job's name.
type work func(ctx context.Context) *swanherdv1.JobReport

// task is how the job's task is done, and how long that may take.
func (r *Runner) task(j *swanherdv1.Job) (work, time.Duration, error) {
	switch t := j.GetTask().(type) {
	case *swanherdv1.Job_Ping:
		return r.ping(t.Ping)
	case *swanherdv1.Job_Trace:
		return r.trace(t.Trace)
	case *swanherdv1.Job_Capture:
		return r.capture(t.Capture)
	case *swanherdv1.Job_Bundle:
		return r.bundle, workLimit, nil
	case *swanherdv1.Job_Rekey:
		return r.eachTunnel(t.Rekey.GetTunnels(), func(tunnel string) error { return r.cfg.Rekey(tunnel, t.Rekey.GetReauthenticate()) }), workLimit, nil
	case *swanherdv1.Job_Restart:
		return r.eachTunnel(t.Restart.GetTunnels(), r.cfg.Restart), workLimit, nil
	}
	return nil, 0, errors.New("this agent does not know the job's task; update it")
}

// taskWord is what a job does, for the log.
func taskWord(j *swanherdv1.Job) string {
	m := j.ProtoReflect()
	return string(m.WhichOneof(m.Descriptor().Oneofs().ByName("task")).Name())
}

// place is where the LANs of a segment are, `networks/{network}/segments/{segment}`; empty: the
// default one.
func (r *Runner) place(segment string) (Place, error) {
	id := segment[strings.LastIndexByte(segment, '/')+1:]
	if id == "default" {
		id = ""
	}
	p, ok := r.cfg.Place(id)
	if !ok {
		return p, fmt.Errorf("this edge has no place for segment %s; run its agent with --segment name=%[1]s,netns=...", id)
	}
	return p, nil
}

// failed is the end of a job that failed.
func failed(err error) *swanherdv1.JobReport {
	text := err.Error()
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText-3], "") + "..."
	}
	return &swanherdv1.JobReport{Error: text}
}

// maxFailures is how many tunnels a result names that did not do what was asked.
const maxFailures = 100

// eachTunnel begins something with each of the tunnels, all if none is named.
func (r *Runner) eachTunnel(tunnels []string, begin func(string) error) work {
	return func(ctx context.Context) *swanherdv1.JobReport {
		if len(tunnels) == 0 {
			tunnels = r.cfg.Tunnels()
		}
		out := &swanherdv1.TunnelsResult{}
		for _, t := range tunnels {
			err := ctx.Err()
			if err == nil {
				err = begin(t)
			}
			switch {
			case err == nil:
				out.Begun++
			case len(out.GetFailures()) < maxFailures:
				out.Failures = append(out.Failures, &swanherdv1.TunnelFailure{Tunnel: t, Error: failed(err).GetError()})
			}
		}
		report := &swanherdv1.JobReport{Result: &swanherdv1.JobReport_TunnelsResult{TunnelsResult: out}}
		if out.GetBegun() == 0 && len(out.GetFailures()) > 0 {
			report.Error = fmt.Sprintf("none of %d tunnels did; the first: %s: %s", len(tunnels), out.GetFailures()[0].GetTunnel(), out.GetFailures()[0].GetError())
		}
		return report
	}
}
