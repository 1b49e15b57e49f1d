package server_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func (c *controller) jobs() swanherdv1.JobServiceClient {
	return swanherdv1.NewJobServiceClient(c.dial(c.token))
}

func pingJob(edge string) *swanherdv1.Job {
	return &swanherdv1.Job{Edge: edge, Task: &swanherdv1.Job_Ping{Ping: &swanherdv1.PingTask{
		Destination: "10.2.0.1", Count: 3, Interval: durationpb.New(time.Second), Size: 56,
	}}}
}

func captureJob(edge string) *swanherdv1.Job {
	return &swanherdv1.Job{Edge: edge, Task: &swanherdv1.Job_Capture{Capture: &swanherdv1.CaptureTask{Host: "10.2.0.1", Protocol: 6, Port: 443}}}
}

// started is the last job that the edge was told to begin.
func (e *testEdge) started() *swanherdv1.Job {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := len(e.commands) - 1; i >= 0; i-- {
		if j := e.commands[i].GetStartJob().GetJob(); j != nil {
			return j
		}
	}
	return nil
}

func (e *testEdge) reportJob(r *swanherdv1.JobReport) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_JobReport{JobReport: r}})
}

// ended is the job once it does not run any more.
func (c *controller) ended(name string) *swanherdv1.Job {
	c.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		j, err := c.jobs().GetJob(c.t.Context(), &swanherdv1.GetJobRequest{Name: name})
		if err != nil || time.Now().After(deadline) {
			c.t.Fatalf("%s: %v, %v", name, j, err)
		}
		if j.GetState() != swanherdv1.Job_STATE_RUNNING {
			return j
		}
	}
}

// A job goes to its edge, and its end and output come back. Nobody else ends it.
func TestJobs(t *testing.T) {
	c := startController(t)
	c.apply()
	berlin, oslo := c.enrolled("berlin"), c.enrolled("oslo")
	berlin.open()
	berlin.until("berlin--oslo")
	oslo.open()
	ctx := t.Context()
	made, err := c.jobs().CreateJob(ctx, &swanherdv1.CreateJobRequest{Parent: "networks/demo", Job: captureJob(berlin.name)})
	if err != nil || made.GetState() != swanherdv1.Job_STATE_RUNNING || made.GetCreator() == "" {
		t.Fatalf("%v, %v", made, err)
	}
	if got := berlin.started(); got.GetName() != made.GetName() || got.GetCapture().GetPort() != 443 {
		t.Fatalf("the edge got %v", got)
	}
	oslo.reportJob(&swanherdv1.JobReport{Job: made.GetName(), Error: "it is not mine"})
	berlin.reportJob(&swanherdv1.JobReport{Job: "networks/demo/jobs/nobodys"})
	berlin.reportJob(&swanherdv1.JobReport{Job: made.GetName(), Output: []byte("packets"), Result: &swanherdv1.JobReport_CaptureResult{
		CaptureResult: &swanherdv1.CaptureResult{Packets: 2},
	}})
	j := c.ended(made.GetName())
	if j.GetState() != swanherdv1.Job_STATE_SUCCEEDED || j.GetCaptureResult().GetPackets() != 2 || j.GetOutputSize() != 7 || j.GetEndTime() == nil || j.GetError() != "" {
		t.Errorf("it ended as %v", j)
	}
	out, err := c.jobs().GetJobOutput(ctx, &swanherdv1.GetJobOutputRequest{Name: j.GetName() + "/output"})
	if err != nil || string(out.GetData()) != "packets" || out.GetMediaType() != "application/vnd.tcpdump.pcap" {
		t.Errorf("its output is %v, %v", out, err)
	}
	berlin.reportJob(&swanherdv1.JobReport{Job: made.GetName(), Error: "no, it failed"}) // it has ended
	if _, err := c.jobs().CancelJob(ctx, &swanherdv1.CancelJobRequest{Name: j.GetName()}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("cancel what has ended: %v", err)
	}
	if list, err := c.jobs().ListJobs(ctx, &swanherdv1.ListJobsRequest{Parent: "networks/demo", Filter: `edge:"berlin"`}); err != nil || len(list.GetJobs()) != 1 || list.GetJobs()[0].GetState() != swanherdv1.Job_STATE_SUCCEEDED {
		t.Errorf("jobs are %v, %v", list, err)
	}
	if _, err := c.jobs().DeleteJob(ctx, &swanherdv1.DeleteJobRequest{Name: j.GetName()}); err != nil {
		t.Error(err)
	}
	if _, err := c.jobs().GetJobOutput(ctx, &swanherdv1.GetJobOutputRequest{Name: j.GetName() + "/output"}); status.Code(err) != codes.NotFound {
		t.Errorf("output of what was deleted: %v", err)
	}
}

// What an edge refuses has failed at once; without a session there is no job; a job is
// cancelled also at an edge that is gone.
func TestJobsThatDoNotRun(t *testing.T) {
	c := startController(t)
	c.apply()
	e := c.enrolled("berlin")
	ctx := t.Context()
	create := func(j *swanherdv1.Job, id string) (*swanherdv1.Job, error) {
		return c.jobs().CreateJob(ctx, &swanherdv1.CreateJobRequest{Parent: "networks/demo", Job: j, RequestId: id})
	}
	if _, err := create(pingJob(e.name), ""); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "no session") {
		t.Errorf("without a session: %v", err)
	}
	e.open()
	e.until()
	e.refuses = "4 jobs run here"
	if j, err := create(pingJob(e.name), ""); err != nil || j.GetState() != swanherdv1.Job_STATE_FAILED || !strings.Contains(j.GetError(), "4 jobs run here") {
		t.Errorf("what the edge refuses: %v, %v", j, err)
	}
	e.mu.Lock()
	e.refuses = ""
	e.mu.Unlock()
	const id = "7b0a2b1e-6a0f-4c58-9a39-5d9f6a1f9f11"
	first, err := create(pingJob(e.name), id)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := create(pingJob(e.name), id); err != nil || again.GetName() != first.GetName() {
		t.Errorf("the same request again: %v, %v", again, err)
	}
	if _, err := create(captureJob(e.name), id); status.Code(err) != codes.InvalidArgument {
		t.Errorf("another request with its id: %v", err)
	}
	if _, err := c.jobs().DeleteJob(ctx, &swanherdv1.DeleteJobRequest{Name: first.GetName()}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("delete what runs: %v", err)
	}
	e.hangUp()
	<-e.ended
	c.counted("the session to end", func(n *swanherdv1.FleetCounts) bool { return n.GetEdgesConnected() == 0 })
	if again, err := create(pingJob(e.name), id); err != nil || again.GetName() != first.GetName() {
		t.Errorf("the same request again, when the edge is gone: %v, %v", again, err)
	}
	if j, err := c.jobs().CancelJob(ctx, &swanherdv1.CancelJobRequest{Name: first.GetName()}); err != nil || j.GetState() != swanherdv1.Job_STATE_CANCELLED {
		t.Errorf("cancelled without a session: %v, %v", j, err)
	}
}

// What is wrong with a job is said by its field.
func TestJobsMistakes(t *testing.T) {
	c := startController(t)
	c.apply()
	e := c.enrolled("berlin")
	e.open()
	for field, j := range map[string]*swanherdv1.Job{
		"job.edge":                pingJob("networks/demo/sites/berlin"),
		"job.ping.source":         {Edge: e.name, Task: &swanherdv1.Job_Ping{Ping: &swanherdv1.PingTask{Destination: "10.0.0.1", Source: "2001:db8::1"}}},
		"job.trace.segment":       {Edge: e.name, Task: &swanherdv1.Job_Trace{Trace: &swanherdv1.TraceTask{Destination: "10.0.0.1", Segment: "networks/other/segments/a"}}},
		"job.capture.segment":     {Edge: e.name, Task: &swanherdv1.Job_Capture{Capture: &swanherdv1.CaptureTask{Uplink: "wan1", Segment: "networks/demo/segments/a"}}},
		"job.rekey.tunnels[0]":    {Edge: e.name, Task: &swanherdv1.Job_Rekey{Rekey: &swanherdv1.RekeyTask{Tunnels: []string{"networks/demo/tunnels/lima--oslo"}}}},
		"job.ping.destination":    {Edge: e.name, Task: &swanherdv1.Job_Ping{Ping: &swanherdv1.PingTask{Destination: "oslo"}}},
		"job.capture.max_packets": {Edge: e.name, Task: &swanherdv1.Job_Capture{Capture: &swanherdv1.CaptureTask{MaxPackets: 1 << 20}}},
		"job.capture.duration":    {Edge: e.name, Task: &swanherdv1.Job_Capture{Capture: &swanherdv1.CaptureTask{Duration: durationpb.New(time.Hour)}}},
		"job.task":                {Edge: e.name},
	} {
		_, err := c.jobs().CreateJob(t.Context(), &swanherdv1.CreateJobRequest{Parent: "networks/demo", Job: j, ValidateOnly: true})
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(fmt.Sprint(status.Convert(err).Details()), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	j, err := c.jobs().CreateJob(t.Context(), &swanherdv1.CreateJobRequest{Parent: "networks/demo", Job: pingJob(e.name), ValidateOnly: true})
	if err != nil || e.started() != nil || j.GetDeadline() == nil {
		t.Errorf("checked alone: %v, %v", j, err)
	}
}

// bothJobs makes a job that runs, and one that ended with an output.
func (c *controller) bothJobs(network string, e *testEdge) (runs, ended string) {
	c.t.Helper()
	for _, name := range []*string{&runs, &ended} {
		j, err := c.jobs().CreateJob(c.t.Context(), &swanherdv1.CreateJobRequest{Parent: network, Job: captureJob(e.name)})
		if err != nil {
			c.t.Fatal(err)
		}
		*name = j.GetName()
	}
	e.reportJob(&swanherdv1.JobReport{Job: ended, Output: []byte("packets")})
	c.ended(ended)
	return runs, ended
}

// Whatever replica an edge is at, the others' jobs get there, and its end is known
// everywhere.
func (c *controller) runsJob(ctx context.Context, e *testEdge) {
	c.t.Helper()
	j, err := c.jobs().CreateJob(ctx, &swanherdv1.CreateJobRequest{Parent: "networks/demo", Job: pingJob(e.name)})
	if err != nil || e.started().GetName() != j.GetName() {
		c.t.Fatalf("%v, %v", j, err)
	}
	e.reportJob(&swanherdv1.JobReport{Job: j.GetName(), Result: &swanherdv1.JobReport_PingResult{PingResult: &swanherdv1.PingResult{Sent: 3, Received: 2}}})
	if got := c.ended(j.GetName()); got.GetPingResult().GetReceived() != 2 {
		c.t.Errorf("it ended as %v", got)
	}
}

// What an operator has an edge find out, on the command line.
func TestCommandLineRunsJobs(t *testing.T) {
	c := startController(t)
	x := c.terminal()
	x.says(0, fleetFile(c), "apply -f -", "created")
	e := c.enrolled("berlin")
	e.open()
	e.until()
	// answers has the edge end the next job so.
	answers := func(r *swanherdv1.JobReport) {
		before := e.started().GetName()
		go func() {
			for t.Context().Err() == nil && e.started().GetName() == before {
				time.Sleep(10 * time.Millisecond)
			}
			r.Job = e.started().GetName()
			e.reportJob(r)
		}()
	}
	file := filepath.Join(t.TempDir(), "berlin.pcap")
	answers(&swanherdv1.JobReport{Result: &swanherdv1.JobReport_PingResult{PingResult: &swanherdv1.PingResult{
		Sent: 5, Received: 4, Min: durationpb.New(1e6), Mean: durationpb.New(2e6), Max: durationpb.New(3e6), LastError: "192.0.2.1: unreachable",
	}}})
	x.says(0, "", "job ping berlin 10.2.0.1 --count 5", "SUCCEEDED", "4 of 5 answered", "1.00 ms to 3.00 ms", "192.0.2.1: unreachable")
	answers(&swanherdv1.JobReport{Result: &swanherdv1.JobReport_TraceResult{TraceResult: &swanherdv1.TraceResult{
		Reached: true, Hops: []*swanherdv1.TraceHop{{}, {Address: "10.2.0.1", RoundTrip: durationpb.New(1e6)}},
	}}})
	x.says(0, "", "job trace berlin 10.2.0.1", "reached by 2 hops", "10.2.0.1", "1.00 ms")
	answers(&swanherdv1.JobReport{Output: []byte("packets"), Result: &swanherdv1.JobReport_CaptureResult{CaptureResult: &swanherdv1.CaptureResult{Packets: 2}}})
	x.says(0, "", "job capture berlin --port 443 -w "+file, "2 packets, 7 octets")
	if b, err := os.ReadFile(file); err != nil || string(b) != "packets" {
		t.Errorf("the file is %q, %v", b, err)
	}
	if got := e.started().GetCapture(); got.GetPort() != 443 || got.GetSnapLength() != 128 {
		t.Errorf("the edge was to capture %v", got)
	}
	capture := e.started().GetName()
	x.says(0, "", "job output "+capture[strings.LastIndexByte(capture, '/')+1:], "packets")
	answers(&swanherdv1.JobReport{Error: "disk is full"})
	x.says(1, "", "job bundle berlin -w "+file, "disk is full")
	x.says(0, "", "job rekey berlin --background", "RUNNING")
	answered := e.started().GetName()
	x.says(0, "", "get jobs", "ping", "trace", "capture", "FAILED", "RUNNING", "token:admin")
	x.says(64, "", "job capture berlin", "--write")
	x.says(64, "", "job ping berlin", "an edge and the address")
	x.says(3, "", "delete job "+answered, "cancel it first")
}
