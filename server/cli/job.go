package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Intervals at which a job is looked at.
const (
	jobLook     = 200 * time.Millisecond
	jobFarewell = 15 * time.Second // how long the end of a job that is cancelled is waited for
)

func newJob(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use: "job", Short: "Have an edge find out or do something once: ping, trace, capture, bundle, rekey, restart",
		Long: "Has an edge find out or do something once. Each waits for the end of its job; Ctrl-C ends the job. `swanherd get jobs`\n" +
			"lists what there was, also of others, until a day after its end.",
	}
	cmd.AddCommand(newJobPing(s), newJobTrace(s), newJobCapture(s), newJobBundle(s), newJobRekey(s), newJobRestart(s), newJobOutput(s), newJobCancel(s))
	return cmd
}

// jobCommand is a command that has an edge, its first argument, do the job that make makes of the
// others, and shows its end.
func (s *session) jobCommand(use, short, example string, args cobra.PositionalArgs, make func(c *client, args []string) (*swanherdv1.Job, error)) *cobra.Command {
	return s.fileJobCommand(use, short, example, args, nil, make)
}

// fileJobCommand is jobCommand for a job whose output goes to a file, nil: it has none.
func (s *session) fileJobCommand(use, short, example string, args cobra.PositionalArgs, file *string, make func(c *client, args []string) (*swanherdv1.Job, error)) *cobra.Command {
	var background bool
	cmd := &cobra.Command{Use: use, Short: short, Example: example, Args: args}
	cmd.RunE = s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
		edge, err := edgeKind().name(c, args[0])
		if err != nil {
			return err
		}
		j, err := make(c, args[1:])
		if err != nil {
			return err
		}
		j.Edge = edge
		if file != nil && *file == "" && !background {
			return usagef("say where the file goes with --write, or begin it with --background and get it later with `swanherd job output`")
		}
		j, err = c.jobs.CreateJob(cmd.Context(), &swanherdv1.CreateJobRequest{Parent: c.parent, Job: j})
		if err != nil {
			return err
		}
		if background {
			return s.printJob(j)
		}
		to := ""
		if file != nil {
			to = *file
		}
		return s.seeJob(cmd.Context(), c, j, to)
	})
	cmd.Flags().BoolVar(&background, "background", false, "do not wait for the end of the job")
	if file != nil {
		cmd.Flags().StringVarP(file, "write", "w", "", "`file` for the output, - for standard output")
	}
	return cmd
}

// seeJob waits for the end of a job and shows it. Who does not want to wait any longer has it
// cancelled.
func (s *session) seeJob(ctx context.Context, c *client, j *swanherdv1.Job, file string) error {
	j, err := s.awaitJob(ctx, c, j)
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), jobFarewell)
		defer cancel()
		fmt.Fprintln(s.Err, "cancelling the job")
		if j, err = c.jobs.CancelJob(ctx, &swanherdv1.CancelJobRequest{Name: j.GetName()}); err == nil {
			j, err = s.awaitJob(ctx, c, j)
		}
	}
	if err != nil {
		return err
	}
	if err := s.takeOutput(ctx, c, j, file); err != nil {
		return err
	}
	if j.GetState() == swanherdv1.Job_STATE_FAILED {
		return errors.New(j.GetError())
	}
	if file == "-" {
		return nil
	}
	return s.printJob(j)
}

// awaitJob returns the job as it ended, or as it was when ctx ended.
func (s *session) awaitJob(ctx context.Context, c *client, j *swanherdv1.Job) (*swanherdv1.Job, error) {
	for j.GetState() == swanherdv1.Job_STATE_RUNNING {
		select {
		case <-ctx.Done():
			return j, fmt.Errorf("%s still runs: %w", j.GetName(), ctx.Err())
		case <-time.After(jobLook):
		}
		now, err := c.jobs.GetJob(ctx, &swanherdv1.GetJobRequest{Name: j.GetName()})
		if err != nil {
			return j, err
		}
		j = now
	}
	return j, nil
}

// takeOutput writes what a job brought to a file.
func (s *session) takeOutput(ctx context.Context, c *client, j *swanherdv1.Job, file string) error {
	if file == "" || j.GetOutputSize() == 0 {
		return nil
	}
	out, err := c.jobs.GetJobOutput(ctx, &swanherdv1.GetJobOutputRequest{Name: j.GetName() + "/output"})
	if err != nil {
		return err
	}
	if file == "-" {
		_, err = s.Out.Write(out.GetData())
		return err
	}
	if err := os.WriteFile(file, out.GetData(), 0o600); err != nil {
		return fmt.Errorf("write the output, which `swanherd job output %s` gets again: %w", base(j.GetName()), err)
	}
	return nil
}

// printJob shows a job and what came of it.
func (s *session) printJob(j *swanherdv1.Job) error {
	if s.output != "table" {
		return s.printMessage(j)
	}
	fmt.Fprintf(s.Out, "%s at %s: %s%s\n", base(j.GetName()), base(j.GetEdge()), enumWord(j.GetState()), jobSummary(j))
	switch r := j.GetResult().(type) {
	case *swanherdv1.Job_TraceResult:
		t := newTable(s.Out, "HOP", "ADDRESS", "ROUND TRIP", "ERROR")
		for i, h := range r.TraceResult.GetHops() {
			trip := ""
			if h.GetRoundTrip() != nil {
				trip = milliseconds(h.GetRoundTrip())
			}
			t.row(strconv.Itoa(i+1), h.GetAddress(), trip, h.GetError())
		}
		return t.flush()
	case *swanherdv1.Job_TunnelsResult:
		for _, f := range r.TunnelsResult.GetFailures() {
			fmt.Fprintf(s.Out, "  %s: %s\n", base(f.GetTunnel()), safe(f.GetError()))
		}
	}
	return nil
}

func milliseconds(d *durationpb.Duration) string {
	return millis(float64(d.AsDuration().Nanoseconds()) / 1e3)
}

// jobSummary is what came of a job, in some words.
func jobSummary(j *swanherdv1.Job) string {
	switch r := j.GetResult().(type) {
	case *swanherdv1.Job_PingResult:
		p := r.PingResult
		text := fmt.Sprintf(", %d of %d answered", p.GetReceived(), p.GetSent())
		if p.GetReceived() > 0 {
			text += fmt.Sprintf(", round trip %s to %s, mean %s", milliseconds(p.GetMin()), milliseconds(p.GetMax()), milliseconds(p.GetMean()))
		}
		if p.GetLastError() != "" {
			text += "; " + safe(p.GetLastError())
		}
		return text
	case *swanherdv1.Job_TraceResult:
		if !r.TraceResult.GetReached() {
			return ", not reached"
		}
		return fmt.Sprintf(", reached by %d hops", len(r.TraceResult.GetHops()))
	case *swanherdv1.Job_CaptureResult:
		text := fmt.Sprintf(", %d packets, %d octets", r.CaptureResult.GetPackets(), j.GetOutputSize())
		if n := r.CaptureResult.GetDropped(); n > 0 {
			text += fmt.Sprintf(", %d were too many for the kernel", n)
		}
		if r.CaptureResult.GetFull() {
			text += ", full"
		}
		return text
	case *swanherdv1.Job_TunnelsResult:
		return fmt.Sprintf(", %d tunnels begun, %d not", r.TunnelsResult.GetBegun(), len(r.TunnelsResult.GetFailures()))
	}
	switch {
	case j.GetError() != "":
		return ", " + safe(j.GetError())
	case j.GetOutputSize() > 0:
		return fmt.Sprintf(", %d octets", j.GetOutputSize())
	}
	return ""
}

func newJobPing(s *session) *cobra.Command {
	t := &swanherdv1.PingTask{}
	var interval time.Duration
	var segment string
	cmd := s.jobCommand("ping EDGE DESTINATION", "Send echo requests from an edge's LAN side",
		"  swanherd job ping berlin 10.2.0.1\n  swanherd job ping berlin 10.2.0.1 --count 50 --interval 100ms --size 1400",
		exactly(2, "an edge and the address that it sends to"), func(c *client, args []string) (*swanherdv1.Job, error) {
			t.Destination, t.Interval = args[0], durationpb.New(interval)
			t.Segment = segmentName(c.parent, segment)
			return &swanherdv1.Job{Task: &swanherdv1.Job_Ping{Ping: t}}, nil
		})
	flags := cmd.Flags()
	flags.Int32Var(&t.Count, "count", 5, "how many, 100 at most")
	flags.DurationVar(&interval, "interval", time.Second, "between two")
	flags.Int32Var(&t.Size, "size", 56, "octets of data in each")
	flags.StringVar(&t.Source, "source", "", "address of the edge that they come from (default: as its routes have it)")
	flags.StringVar(&segment, "segment", "", "segment that they are sent in (default: the default one)")
	return cmd
}

func newJobTrace(s *session) *cobra.Command {
	t := &swanherdv1.TraceTask{}
	var segment string
	cmd := s.jobCommand("trace EDGE DESTINATION", "Show the way from an edge's LAN side to an address",
		"  swanherd job trace berlin 10.2.0.1", exactly(2, "an edge and the address that the way leads to"),
		func(c *client, args []string) (*swanherdv1.Job, error) {
			t.Destination = args[0]
			t.Segment = segmentName(c.parent, segment)
			return &swanherdv1.Job{Task: &swanherdv1.Job_Trace{Trace: t}}, nil
		})
	cmd.Flags().Int32Var(&t.MaxHops, "max-hops", 30, "how far to look, 64 at most")
	cmd.Flags().StringVar(&t.Source, "source", "", "address of the edge that it begins at (default: as its routes have it)")
	cmd.Flags().StringVar(&segment, "segment", "", "segment of the way (default: the default one)")
	return cmd
}

func newJobCapture(s *session) *cobra.Command {
	t := &swanherdv1.CaptureTask{}
	var length time.Duration
	var segment, file string
	cmd := s.fileJobCommand("capture EDGE", "Record packets at an edge into a file that Wireshark and tcpdump read",
		"  swanherd job capture berlin --host 10.2.0.1 --protocol 6 --port 443 -w berlin.pcap\n  swanherd job capture berlin --uplink wan1 --duration 1m -w berlin.pcap",
		exactly(1, "an edge"), &file, func(c *client, _ []string) (*swanherdv1.Job, error) {
			t.Duration = durationpb.New(length)
			t.Segment = segmentName(c.parent, segment)
			return &swanherdv1.Job{Task: &swanherdv1.Job_Capture{Capture: t}}, nil
		})
	flags := cmd.Flags()
	flags.StringVar(&t.Uplink, "uplink", "", "at this uplink, where packets are as they travel (default: at the tunnels' interface, in clear)")
	flags.StringVar(&segment, "segment", "", "at the tunnels' interface of this segment")
	flags.StringVar(&t.Host, "host", "", "only packets from or to this address")
	flags.Int32Var(&t.Protocol, "protocol", 0, "only packets of this IP protocol, such as 6 for TCP, 17 for UDP, 50 for ESP")
	flags.Int32Var(&t.Port, "port", 0, "only packets from or to this port")
	flags.DurationVar(&length, "duration", 10*time.Second, "for how long, 5m at most")
	flags.Int32Var(&t.MaxPackets, "packets", 1000, "how many at most, up to 10,000 and 512 KiB")
	flags.Int32Var(&t.SnapLength, "snap-length", 128, "octets of each at most")
	return cmd
}

func newJobBundle(s *session) *cobra.Command {
	var file string
	return s.fileJobCommand("bundle EDGE", "Collect what explains how an edge fares into an archive: status, intent, transcripts, host",
		"  swanherd job bundle berlin -w berlin.tar.gz", exactly(1, "an edge"), &file, func(*client, []string) (*swanherdv1.Job, error) {
			return &swanherdv1.Job{Task: &swanherdv1.Job_Bundle{Bundle: &swanherdv1.BundleTask{}}}, nil
		})
}

func newJobRekey(s *session) *cobra.Command {
	t := &swanherdv1.RekeyTask{}
	cmd := s.jobCommand("rekey EDGE [TUNNEL...]", "Make new SAs of an edge's tunnels before their time, without a gap",
		"  swanherd job rekey berlin --reauthenticate", cobra.MinimumNArgs(1), func(c *client, args []string) (_ *swanherdv1.Job, err error) {
			t.Tunnels, err = tunnelNames(c, args)
			return &swanherdv1.Job{Task: &swanherdv1.Job_Rekey{Rekey: t}}, err
		})
	cmd.Flags().BoolVar(&t.Reauthenticate, "reauthenticate", false, "by a new authentication, which also proves both ends' certificates again")
	return cmd
}

func newJobRestart(s *session) *cobra.Command {
	return s.jobCommand("restart EDGE [TUNNEL...]", "Delete all SAs of an edge's tunnels and have them connect anew, with a gap",
		"  swanherd job restart berlin berlin--oslo", cobra.MinimumNArgs(1), func(c *client, args []string) (*swanherdv1.Job, error) {
			names, err := tunnelNames(c, args)
			return &swanherdv1.Job{Task: &swanherdv1.Job_Restart{Restart: &swanherdv1.RestartTask{Tunnels: names}}}, err
		})
}

func tunnelNames(c *client, ids []string) (names []string, err error) {
	for _, id := range ids {
		name, err := tunnelKind().name(c, id)
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

func newJobOutput(s *session) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "output NAME", Short: "Get what a job brought: a capture's packets, a bundle", Args: exactly(1, "the job"),
		Example: "  swanherd job output j01k9 -w berlin.pcap",
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			name, err := jobKind().name(c, args[0])
			if err != nil {
				return err
			}
			return s.takeOutput(cmd.Context(), c, &swanherdv1.Job{Name: name, OutputSize: 1}, file)
		}),
	}
	cmd.Flags().StringVarP(&file, "write", "w", "-", "`file` for the output, - for standard output")
	return cmd
}

func newJobCancel(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "cancel NAME", Short: "End a job before its time", Args: exactly(1, "the job"),
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			name, err := jobKind().name(c, args[0])
			if err != nil {
				return err
			}
			j, err := c.jobs.CancelJob(cmd.Context(), &swanherdv1.CancelJobRequest{Name: name})
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), jobFarewell)
			defer cancel()
			if j, err = s.awaitJob(ctx, c, j); err != nil {
				return err
			}
			return s.printJob(j)
		}),
	}
}

func jobKind() kind {
	return kind{
		plural: "jobs", singular: "job", segment: "jobs",
		header: []string{"NAME", "EDGE", "TASK", "STATE", "RESULT", "BY", "AGE"},
		row: func(m proto.Message, now time.Time) []string {
			j := m.(*swanherdv1.Job)
			task := ""
			if r := j.ProtoReflect(); j.GetTask() != nil {
				task = string(r.WhichOneof(r.Descriptor().Oneofs().ByName("task")).Name())
			}
			result := jobSummary(j)
			return []string{base(j.GetName()), base(j.GetEdge()), task, enumWord(j.GetState()), result[min(len(result), 2):], j.GetCreator(), age(j.GetCreateTime(), now)}
		},
		list: func(ctx context.Context, c *client, want listing) (proto.Message, error) {
			return c.jobs.ListJobs(ctx, &swanherdv1.ListJobsRequest{Parent: c.parent, PageSize: pageSize, PageToken: want.token, Filter: want.filter, OrderBy: want.orderBy})
		},
		get: func(ctx context.Context, c *client, name string) (proto.Message, error) {
			return c.jobs.GetJob(ctx, &swanherdv1.GetJobRequest{Name: name})
		},
		remove: func(ctx context.Context, c *client, want removal) error {
			_, err := c.jobs.DeleteJob(ctx, &swanherdv1.DeleteJobRequest{Name: want.name, AllowMissing: want.missing, ValidateOnly: want.dryRun})
			return err
		},
	}
}
