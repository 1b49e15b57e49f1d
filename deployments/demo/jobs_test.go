package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// jobs has an edge look for the other sites and at itself.
func (f *fleetTest) jobs() {
	berlin, oslo := f.site("berlin"), f.site("oslo")
	for _, to := range []string{oslo.lanAddr4.String(), oslo.lanAddr6.String()} {
		p := f.job(&swanherdv1.Job{Task: &swanherdv1.Job_Ping{Ping: &swanherdv1.PingTask{Destination: to, Count: 3, Interval: durationpb.New(20e6)}}}).GetPingResult()
		if p.GetReceived() != 3 {
			f.Errorf("ping from berlin to %s: %v", to, p)
		}
	}
	way := f.job(&swanherdv1.Job{Task: &swanherdv1.Job_Trace{Trace: &swanherdv1.TraceTask{Destination: oslo.lanAddr4.String()}}}).GetTraceResult()
	if !way.GetReached() || len(way.GetHops()) != 2 { // oslo's edge, and the host in its LAN
		f.Errorf("the way from berlin to oslo: %v", way)
	}
	for _, at := range []*swanherdv1.CaptureTask{{Protocol: 1}, {Uplink: "wan1", Protocol: 17, Port: 4500}} { // in clear, and as it travels
		at.Duration, at.MaxPackets = durationpb.New(60e9), 2
		j := f.begin(&swanherdv1.Job{Task: &swanherdv1.Job_Capture{Capture: at}})
		f.ping(berlin, oslo)
		j = f.end(j)
		out, err := f.jobClient().GetJobOutput(f.ctx, &swanherdv1.GetJobOutputRequest{Name: j.GetName() + "/output"})
		if err != nil || j.GetCaptureResult().GetPackets() != 2 || len(out.GetData()) <= 24 {
			f.Errorf("captured %v: %d octets, %v", j, len(out.GetData()), err)
		}
	}
	f.bundle()
	rekeyed := f.job(&swanherdv1.Job{Task: &swanherdv1.Job_Rekey{Rekey: &swanherdv1.RekeyTask{}}}).GetTunnelsResult()
	if rekeyed.GetBegun() != 3 || len(rekeyed.GetFailures()) != 0 {
		f.Errorf("all tunnels of berlin are rekeyed: %v", rekeyed)
	}
	f.ping(berlin, oslo)
}

// bundle looks whether what explains how berlin fares is there, and no secret.
func (f *fleetTest) bundle() {
	j := f.job(&swanherdv1.Job{Task: &swanherdv1.Job_Bundle{Bundle: &swanherdv1.BundleTask{}}})
	out, err := f.jobClient().GetJobOutput(f.ctx, &swanherdv1.GetJobOutputRequest{Name: j.GetName() + "/output"})
	if err != nil {
		f.Fatal(err)
	}
	zip, err := gzip.NewReader(bytes.NewReader(out.GetData()))
	if err != nil {
		f.Fatal(err)
	}
	files := map[string]string{}
	for tape := tar.NewReader(zip); ; {
		h, err := tape.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			f.Fatal(err)
		}
		b, err := io.ReadAll(tape)
		if err != nil {
			f.Fatal(err)
		}
		files[h.Name] = string(b)
	}
	for name, want := range map[string]string{
		"bundle/status.json": "berlin--oslo", "bundle/intent.json": "berlin--oslo", "bundle/host.txt": "interface ",
		"bundle/goroutines.txt": "goroutine profile", "bundle/transcripts/berlin--oslo.txt": "IKE_SA_INIT",
	} {
		if !strings.Contains(files[name], want) {
			f.Errorf("%s does not say %q: %.300s", name, want, files[name])
		}
	}
}

func (f *fleetTest) jobClient() swanherdv1.JobServiceClient {
	return swanherdv1.NewJobServiceClient(f.conn)
}

// job has berlin do a job, and returns it as it succeeded.
func (f *fleetTest) job(j *swanherdv1.Job) *swanherdv1.Job { return f.end(f.begin(j)) }

func (f *fleetTest) begin(j *swanherdv1.Job) *swanherdv1.Job {
	f.Helper()
	j.Edge = network + "/edges/berlin"
	made, err := f.jobClient().CreateJob(f.ctx, &swanherdv1.CreateJobRequest{Parent: network, Job: j})
	if err != nil {
		f.Fatal(err)
	}
	return made
}

func (f *fleetTest) end(j *swanherdv1.Job) *swanherdv1.Job {
	f.Helper()
	f.await("the end of a job", func() (ended bool) {
		now, err := f.jobClient().GetJob(f.ctx, &swanherdv1.GetJobRequest{Name: j.GetName()})
		if err != nil {
			f.Fatal(err)
		}
		j = now
		return j.GetState() != swanherdv1.Job_STATE_RUNNING
	})
	if j.GetState() != swanherdv1.Job_STATE_SUCCEEDED {
		f.Errorf("a job ended as %v", j)
	}
	return j
}
