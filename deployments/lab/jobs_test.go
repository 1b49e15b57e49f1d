package lab_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/edge/job"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Addresses of the hosts of TestJobsNetns: the agent's, its router's, the one behind it.
const (
	jobHere, jobRouter, jobThere    = "192.0.2.2", "192.0.2.1", "192.0.2.6"
	jobHere6, jobRouter6, jobThere6 = "2001:db8:1::2", "2001:db8:1::1", "2001:db8:2::2"
)

// jobHosts are an agent's host, a router and a host behind it.
func jobHosts(t *testing.T) (here, there *lab.Namespace) {
	t.Helper()
	n := lab.New()
	t.Cleanup(func() { n.Close() })
	hosts := map[string]*lab.Namespace{}
	for _, name := range []string{"here", "router", "there"} {
		ns, err := n.Add(name)
		must(t, err)
		hosts[name] = ns
	}
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	must(t,
		n.Link(lab.End{hosts["here"], "eth0", []netip.Prefix{prefix(jobHere + "/30"), prefix(jobHere6 + "/64")}},
			lab.End{hosts["router"], "eth0", []netip.Prefix{prefix(jobRouter + "/30"), prefix(jobRouter6 + "/64")}}),
		n.Link(lab.End{hosts["there"], "eth0", []netip.Prefix{prefix(jobThere + "/30"), prefix(jobThere6 + "/64")}},
			lab.End{hosts["router"], "eth1", []netip.Prefix{prefix("192.0.2.5/30"), prefix("2001:db8:2::1/64")}}),
		hosts["here"].Route(prefix("0.0.0.0/0"), addr(jobRouter)), hosts["here"].Route(prefix("::/0"), addr(jobRouter6)),
		hosts["there"].Route(prefix("0.0.0.0/0"), addr("192.0.2.5")), hosts["there"].Route(prefix("::/0"), addr("2001:db8:2::1")),
	)
	return hosts["here"], hosts["there"]
}

// jobRunner is a runner of jobs on a host, whose "tunnels" are at eth0.
type jobRunner struct {
	*job.Runner
	t    *testing.T
	ends chan *swanherdv1.JobReport
}

func newJobRunner(t *testing.T, host *lab.Namespace) *jobRunner {
	ctx, cancel := context.WithCancel(t.Context())
	r := &jobRunner{t: t, ends: make(chan *swanherdv1.JobReport, 8)}
	r.Runner = job.New(ctx, job.Config{
		Place: func(segment string) (job.Place, bool) {
			return job.Place{Interface: "eth0", Enter: host.Do}, segment == ""
		},
		Ended: func(r2 *swanherdv1.JobReport) { r.ends <- r2 }, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	t.Cleanup(func() { cancel(); r.Wait() })
	return r
}

// end is how a job ends.
func (r *jobRunner) end(j *swanherdv1.Job) *swanherdv1.JobReport {
	r.t.Helper()
	if err := r.Start(j); err != nil {
		r.t.Fatal(err)
	}
	return r.next()
}

func (r *jobRunner) next() *swanherdv1.JobReport {
	r.t.Helper()
	select {
	case report := <-r.ends:
		return report
	case <-time.After(time.Minute):
		r.t.Fatal("the job does not end")
		return nil
	}
}

// TestJobsNetns has jobs ask for the way to a host behind a router, and record packets.
func TestJobsNetns(t *testing.T) {
	lab.Require(t)
	here, there := jobHosts(t)
	r := newJobRunner(t, here)
	// First, as a router answers few at once that it cannot reach something.
	if got := r.end(traceJob("198.51.100.1")).GetTraceResult(); got.GetReached() || len(got.GetHops()) != 1 || got.GetHops()[0].GetError() == "" {
		t.Errorf("the way to nowhere: %v", got)
	}
	waitUntil(t, "IPv6 addresses", func() bool {
		return r.end(pingJob(jobThere6, 1)).GetPingResult().GetReceived() == 1 // they are tentative for a while (RFC 4862)
	})
	if p := r.end(pingJob("2001:db8:9::1", 1)).GetPingResult(); p.GetReceived() != 0 || !strings.Contains(p.GetLastError(), jobRouter6+": unreachable") {
		t.Errorf("ping of what is nowhere: %v", p)
	}
	for _, to := range []string{jobThere, jobThere6} {
		p := r.end(pingJob(to, 5)).GetPingResult()
		if p.GetSent() != 5 || p.GetReceived() != 5 || p.GetMin().AsDuration() <= 0 || p.GetMean().AsDuration() > p.GetMax().AsDuration() {
			t.Errorf("ping %s: %v", to, p)
		}
	}
	for _, way := range [][]string{{jobRouter, jobThere}, {jobRouter6, jobThere6}} {
		got := r.end(traceJob(way[1])).GetTraceResult()
		if !got.GetReached() || len(got.GetHops()) != 2 || got.GetHops()[0].GetAddress() != way[0] || got.GetHops()[1].GetAddress() != way[1] {
			t.Errorf("the way to %s: %v", way[1], got)
		}
	}
	t.Run("capture", func(t *testing.T) { captured(t, r, here, there) })
}

func pingJob(to string, count int32) *swanherdv1.Job {
	return &swanherdv1.Job{Name: "networks/n/jobs/ping", Task: &swanherdv1.Job_Ping{Ping: &swanherdv1.PingTask{
		Destination: to, Count: count, Interval: durationpb.New(20 * time.Millisecond),
	}}}
}

func traceJob(to string) *swanherdv1.Job {
	return &swanherdv1.Job{Name: "networks/n/jobs/trace", Task: &swanherdv1.Job_Trace{Trace: &swanherdv1.TraceTask{Destination: to, MaxHops: 8}}}
}

// captured records, of datagrams from and to several addresses and ports, those that each
// capture asks for.
func captured(t *testing.T, r *jobRunner, here, there *lab.Namespace) {
	send := func(to string, port int, text string) {
		must(t, here.Do(func() error {
			c, err := net.Dial("udp", net.JoinHostPort(to, strconv.Itoa(port)))
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte(text))
			return err
		}))
	}
	_ = there // it has no program at these ports, and answers with errors that quote what was sent
	for _, tt := range []struct {
		name string
		task *swanherdv1.CaptureTask
		want []string // in the packets, in this order
	}{
		{"a port", &swanherdv1.CaptureTask{Port: 7001, MaxPackets: 2}, []string{"first", "third"}},
		{"a host", &swanherdv1.CaptureTask{Host: jobThere, Protocol: 17, MaxPackets: 2}, []string{"first", "second"}},
		{"a host of IPv6 and a port", &swanherdv1.CaptureTask{Host: jobThere6, Port: 7001, MaxPackets: 1}, []string{"third"}},
		{"a host of IPv6 and a protocol", &swanherdv1.CaptureTask{Host: jobThere6, Protocol: 17, MaxPackets: 2}, []string{"third", "fourth"}},
		{"datagrams", &swanherdv1.CaptureTask{Protocol: 17, MaxPackets: 4}, []string{"first", "second", "third", "fourth"}},
		{"an address of nobody", &swanherdv1.CaptureTask{Host: "203.0.113.1", Duration: durationpb.New(300 * time.Millisecond)}, nil},
		{"packets of nobody's protocol", &swanherdv1.CaptureTask{Protocol: 132, Duration: durationpb.New(300 * time.Millisecond)}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r.t = t
			must(t, r.Start(&swanherdv1.Job{Name: "networks/n/jobs/capture", Task: &swanherdv1.Job_Capture{Capture: tt.task}}))
			for i, text := range []string{"first", "second", "third", "fourth"} {
				send([]string{jobThere, jobThere, jobThere6, jobThere6}[i], 7001+i%2, text)
			}
			report := r.next()
			packets := readPcap(t, report.GetOutput())
			if n := int(report.GetCaptureResult().GetPackets()); n != len(packets) || n != len(tt.want) {
				t.Fatalf("%d packets, %d in the file; want %d", n, len(packets), len(tt.want))
			}
			for i, want := range tt.want {
				if !bytes.Contains(packets[i], []byte(want)) {
					t.Errorf("packet %d is %q; want one with %q", i, packets[i], want)
				}
			}
		})
	}
	t.Run("one that is cancelled keeps what it has", func(t *testing.T) {
		r.t = t
		const name = "networks/n/jobs/cancelled"
		must(t, r.Start(&swanherdv1.Job{Name: name, Task: &swanherdv1.Job_Capture{Capture: &swanherdv1.CaptureTask{Protocol: 17, Duration: durationpb.New(5 * time.Minute), SnapLength: 96}}}))
		send(jobThere, 7001, strings.Repeat("long", 200))
		must(t, r.Cancel(name))
		report := r.next()
		if packets := readPcap(t, report.GetOutput()); !report.GetCancelled() || len(packets) != 1 || len(packets[0]) != 96 {
			t.Errorf("cancelled %t, packets %q", report.GetCancelled(), packets)
		}
		if r.Cancel(name) == nil {
			t.Error("a job that ended was cancelled")
		}
	})
	t.Run("more than may run at once", func(t *testing.T) {
		r.t = t
		long := &swanherdv1.Job_Capture{Capture: &swanherdv1.CaptureTask{Duration: durationpb.New(5 * time.Minute)}}
		var started []string
		for i := range 10 {
			name := "networks/n/jobs/many" + strconv.Itoa(i)
			if r.Start(&swanherdv1.Job{Name: name, Task: long}) == nil {
				started = append(started, name)
			}
		}
		for _, name := range started {
			must(t, r.Cancel(name))
			r.next()
		}
		if len(started) != 4 {
			t.Errorf("%d ran at once", len(started))
		}
	})
}

// readPcap returns the packets of a file.
func readPcap(t *testing.T, file []byte) (packets [][]byte) {
	t.Helper()
	if len(file) < 24 || binary.LittleEndian.Uint32(file) != 0xa1b23c4d || binary.LittleEndian.Uint32(file[20:]) != 1 {
		t.Fatalf("no pcap of Ethernet: %x", file)
	}
	for b := file[24:]; len(b) > 0; {
		n := binary.LittleEndian.Uint32(b[8:])
		if since := time.Since(time.Unix(int64(binary.LittleEndian.Uint32(b)), int64(binary.LittleEndian.Uint32(b[4:])))); since < 0 || since > time.Minute {
			t.Errorf("a packet of %s ago", since)
		}
		packets = append(packets, b[16:16+n])
		b = b[16+n:]
	}
	return packets
}

// must fails the test at the first error.
func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}
