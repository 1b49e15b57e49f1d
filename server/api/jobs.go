package api

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/job"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// JobsConfig is what JobService works with.
type JobsConfig struct {
	Store  *store.Store
	Keeper *job.Keeper
	Fleet  *fleet.Fleet
	// Command gives a command to an edge, at whatever replica its session is.
	Command func(ctx context.Context, edge string, c *swanherdv1.Command) error
}

// Jobs implements JobService.
type Jobs struct {
	swanherdv1.UnimplementedJobServiceServer
	JobsConfig
}

// NewJobs returns the service.
func NewJobs(cfg JobsConfig) *Jobs { return &Jobs{JobsConfig: cfg} }

// CreateJob implements JobService.
func (s *Jobs) CreateJob(ctx context.Context, req *swanherdv1.CreateJobRequest) (*swanherdv1.Job, error) {
	network, err := model.ParseNetworkName(req.GetParent())
	if err != nil {
		return nil, access.Invalid("parent", err.Error())
	}
	j := proto.CloneOf(req.GetJob())
	clearUnwritable(j)
	j.Name = model.JobName{Network: network.Network, Job: "j" + newUID()}.String()
	out, err := committed(ctx, s.Store, req, func() (*swanherdv1.Job, *store.Txn, error) { return s.newJob(ctx, network, j) })
	switch {
	case err != nil:
		return nil, access.StoreError(err)
	case req.GetValidateOnly():
		out.Name = ""
		return out, nil
	case out.GetName() != j.GetName(): // the same request began it before
		if row, ok := s.Store.Snapshot().Jobs.Get(out.GetName()); ok {
			return shown(row), nil
		}
		return out, nil
	}
	return s.begin(ctx, out)
}

// newJob is a job that is to begin, with the transaction that stores it.
func (s *Jobs) newJob(ctx context.Context, network model.NetworkName, j *swanherdv1.Job) (*swanherdv1.Job, *store.Txn, error) {
	if err := s.check(ctx, network, j); err != nil {
		return nil, nil, err
	}
	j = proto.CloneOf(j)
	now := time.Now()
	j.Creator, j.State = access.PrincipalFrom(ctx).Actor, swanherdv1.Job_STATE_RUNNING
	j.CreateTime, j.Deadline = timestamppb.New(now), timestamppb.New(now.Add(job.Limit(j)))
	t := s.Store.Txn()
	s.Store.Edges.RequireIn(t, j.GetEdge(), store.AnyRevision)
	s.Store.Jobs.CreateIn(t, j.GetName(), j)
	s.Store.AppendEventIn(t, network, access.Audit(j.GetCreator(), j.GetName(), "job.create", taskWord(j)+" by "+j.GetEdge()))
	return j, t, nil
}

// begin has the edge begin a job. Who asked for it may leave meanwhile.
func (s *Jobs) begin(ctx context.Context, j *swanherdv1.Job) (*swanherdv1.Job, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandTimeout)
	defer cancel()
	err := s.Command(ctx, j.GetEdge(), &swanherdv1.Command{Action: &swanherdv1.Command_StartJob{StartJob: &swanherdv1.StartJob{Job: j}}})
	if err == nil {
		return j, nil
	}
	ended, err := s.Keeper.Fail(context.WithoutCancel(ctx), j.GetName(), status.Convert(err).Message())
	if err != nil && !errors.Is(err, job.ErrEnded) {
		return nil, access.StoreError(err)
	}
	return shown(ended), nil
}

// taskWord is what a job does, for the audit log.
func taskWord(j *swanherdv1.Job) string {
	m := j.ProtoReflect()
	if f := m.WhichOneof(m.Descriptor().Oneofs().ByName("task")); f != nil {
		return string(f.Name())
	}
	return "nothing"
}

// check says everything that is wrong with a job besides what its proto says.
func (s *Jobs) check(ctx context.Context, network model.NetworkName, j *swanherdv1.Job) error {
	edge, err := model.ParseEdgeName(j.GetEdge())
	if err != nil {
		return access.Invalid("job.edge", err.Error())
	}
	if edge.Network != network.Network {
		return access.Invalid("job.edge", fmt.Sprintf("%s is not an edge of %s", edge, network))
	}
	snap := s.Store.Snapshot()
	if scope := scopeOf(ctx, snap); !scope.Changes(edge.String()) {
		return scope.Denied(edge.String())
	}
	if wrong := s.taskMistakes(network, j); len(wrong) > 0 {
		return access.InvalidAll(wrong)
	}
	if _, ok := snap.Edges.Get(edge.String()); !ok {
		return status.Errorf(codes.NotFound, "%s does not exist", edge)
	}
	if _, ok := s.Fleet.Home(edge.String()); !ok {
		return status.Errorf(codes.FailedPrecondition, "%s has no session with the controller; begin the job when it is back", edge)
	}
	if running(snap, network) >= job.MaxKept {
		return status.Errorf(codes.ResourceExhausted, "%s has %d jobs that run; wait for some to end, or cancel them", network, job.MaxKept)
	}
	return nil
}

func running(snap *store.Snapshot, network model.NetworkName) (n int) {
	for row := range snap.Jobs.InNetwork(network) {
		if row.Value.GetState() == swanherdv1.Job_STATE_RUNNING {
			n++
		}
	}
	return n
}

func (s *Jobs) taskMistakes(network model.NetworkName, j *swanherdv1.Job) (wrong []access.Violation) {
	note := func(field, format string, args ...any) {
		wrong = append(wrong, access.Violation{Field: "job." + field, Message: fmt.Sprintf(format, args...)})
	}
	segment := func(field, name string) {
		if name == "" {
			return
		}
		if n, err := model.ParseSegmentName(name); err != nil {
			note(field, "%v", err)
		} else if n.Network != network.Network {
			note(field, "%s is not a segment of %s", name, network)
		}
	}
	switch task := j.GetTask().(type) {
	case *swanherdv1.Job_Ping:
		segment("ping.segment", task.Ping.GetSegment())
		if !sameFamily(task.Ping.GetSource(), task.Ping.GetDestination()) {
			note("ping.source", "is of another address family than the destination")
		}
	case *swanherdv1.Job_Trace:
		segment("trace.segment", task.Trace.GetSegment())
		if !sameFamily(task.Trace.GetSource(), task.Trace.GetDestination()) {
			note("trace.source", "is of another address family than the destination")
		}
	case *swanherdv1.Job_Capture:
		segment("capture.segment", task.Capture.GetSegment())
		if task.Capture.GetUplink() != "" && task.Capture.GetSegment() != "" {
			note("capture.segment", "is not with an uplink, where packets of all segments are encrypted")
		}
	case *swanherdv1.Job_Rekey:
		s.tunnelMistakes(j.GetEdge(), "rekey.tunnels", task.Rekey.GetTunnels(), note)
	case *swanherdv1.Job_Restart:
		s.tunnelMistakes(j.GetEdge(), "restart.tunnels", task.Restart.GetTunnels(), note)
	}
	return wrong
}

// tunnelMistakes notes which tunnels are none of the edge.
func (s *Jobs) tunnelMistakes(edge, field string, tunnels []string, note func(field, format string, args ...any)) {
	for i, name := range tunnels {
		if _, err := model.ParseTunnelName(name); err != nil {
			note(fmt.Sprintf("%s[%d]", field, i), "%v", err)
		} else if t, ok := s.Fleet.Tunnel(name); !ok || t.GetA().GetEdge() != edge && t.GetB().GetEdge() != edge {
			note(fmt.Sprintf("%s[%d]", field, i), "%s is no tunnel of %s", name, edge)
		}
	}
}

// sameFamily says whether addresses are of one family; source may be empty.
func sameFamily(source, destination string) bool {
	if source == "" {
		return true
	}
	a, err := netip.ParseAddr(source)
	b, berr := netip.ParseAddr(destination)
	return err == nil && berr == nil && a.Unmap().Is4() == b.Unmap().Is4()
}

// row is a job, of a name that may be bad.
func (s *Jobs) row(name string) (model.Row[*swanherdv1.Job], error) {
	if _, err := model.ParseJobName(name); err != nil {
		return model.Row[*swanherdv1.Job]{}, access.Invalid("name", err.Error())
	}
	row, ok := s.Store.Snapshot().Jobs.Get(name)
	if !ok {
		return row, notThere(name)
	}
	return row, nil
}

// GetJob implements JobService.
func (s *Jobs) GetJob(_ context.Context, req *swanherdv1.GetJobRequest) (*swanherdv1.Job, error) {
	row, err := s.row(req.GetName())
	if err != nil {
		return nil, err
	}
	return shown(row), nil
}

// ListJobs implements JobService.
func (s *Jobs) ListJobs(ctx context.Context, req *swanherdv1.ListJobsRequest) (*swanherdv1.ListJobsResponse, error) {
	out, next, err := listRows(ctx, s.Store, req, func(snap *store.Snapshot) model.Table[*swanherdv1.Job] { return snap.Jobs },
		func(_ *store.Snapshot, row model.Row[*swanherdv1.Job]) *swanherdv1.Job { return shown(row) })
	if err != nil {
		return nil, err
	}
	return &swanherdv1.ListJobsResponse{Jobs: out, NextPageToken: next}, nil
}

// GetJobOutput implements JobService.
func (s *Jobs) GetJobOutput(ctx context.Context, req *swanherdv1.GetJobOutputRequest) (*swanherdv1.JobOutput, error) {
	name, ok := strings.CutSuffix(req.GetName(), "/output")
	if !ok {
		return nil, access.Invalid("name", "is not of the form networks/{network}/jobs/{job}/output")
	}
	row, err := s.row(name)
	if err != nil {
		return nil, err
	}
	data, err := s.Keeper.Output(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		return nil, status.Errorf(codes.NotFound, "%s has no output: it is %s", name, strings.ToLower(strings.TrimPrefix(row.Value.GetState().String(), "STATE_")))
	}
	if err != nil {
		return nil, access.StoreError(err)
	}
	out := &swanherdv1.JobOutput{Name: req.GetName(), MediaType: "application/gzip", Data: data}
	if row.Value.GetCapture() != nil {
		out.MediaType = "application/vnd.tcpdump.pcap"
	}
	return out, nil
}

// CancelJob implements JobService. The same request again tells the edge again, which may not
// have heard it the first time.
func (s *Jobs) CancelJob(ctx context.Context, req *swanherdv1.CancelJobRequest) (*swanherdv1.Job, error) {
	if _, err := committed(ctx, s.Store, req, func() (*swanherdv1.Job, *store.Txn, error) { return s.cancellation(ctx, req.GetName()) }); err != nil {
		return nil, access.StoreError(err)
	}
	row, err := s.row(req.GetName())
	if err != nil {
		return nil, err
	}
	if req.GetValidateOnly() || row.Value.GetState() != swanherdv1.Job_STATE_RUNNING {
		return shown(row), nil
	}
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	err = s.Command(ctx, row.Value.GetEdge(), &swanherdv1.Command{Action: &swanherdv1.Command_CancelJob{CancelJob: &swanherdv1.CancelJob{Job: row.Name}}})
	if err == nil { // the edge tells its end
		return shown(row), nil
	}
	ended, err := s.Keeper.Cancel(ctx, row.Name, "the edge was not told: "+status.Convert(err).Message())
	if err != nil && !errors.Is(err, job.ErrEnded) {
		return nil, access.StoreError(err)
	}
	return shown(ended), nil
}

// cancellation is a job that runs, with the transaction that audits its end.
func (s *Jobs) cancellation(ctx context.Context, name string) (*swanherdv1.Job, *store.Txn, error) {
	row, err := s.row(name)
	if err != nil {
		return nil, nil, err
	}
	if row.Value.GetState() != swanherdv1.Job_STATE_RUNNING {
		return nil, nil, status.Errorf(codes.FailedPrecondition, "%s has ended", row.Name)
	}
	network, err := model.NetworkOf(row.Name)
	if err != nil {
		return nil, nil, access.Invalid("name", err.Error())
	}
	t := s.Store.Txn()
	s.Store.AppendEventIn(t, network, access.Audit(access.PrincipalFrom(ctx).Actor, row.Name, "job.cancel", ""))
	return shown(row), t, nil
}

// DeleteJob implements JobService.
func (s *Jobs) DeleteJob(ctx context.Context, req *swanherdv1.DeleteJobRequest) (*emptypb.Empty, error) {
	out, err := committed(ctx, s.Store, req, func() (*emptypb.Empty, *store.Txn, error) {
		row, err := s.row(req.GetName())
		switch {
		case req.GetAllowMissing() && status.Code(err) == codes.NotFound:
			return &emptypb.Empty{}, s.Store.Txn(), nil
		case err != nil:
			return nil, nil, err
		case row.Value.GetState() == swanherdv1.Job_STATE_RUNNING:
			return nil, nil, status.Errorf(codes.FailedPrecondition, "%s runs; cancel it first", row.Name)
		}
		network, err := model.NetworkOf(row.Name)
		if err != nil {
			return nil, nil, access.Invalid("name", err.Error())
		}
		t := s.Store.Txn()
		job.DropIn(t, s.Store, row)
		s.Store.AppendEventIn(t, network, access.Audit(access.PrincipalFrom(ctx).Actor, row.Name, "job.delete", ""))
		return &emptypb.Empty{}, t, nil
	})
	return out, access.StoreError(err)
}
