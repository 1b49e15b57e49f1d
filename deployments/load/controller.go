package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/cli"
)

// controller is the program, in a process of its own.
type controller struct {
	program, dir                    string
	operators, edges, metricsListen string

	process *exec.Cmd
	words   tail
	conn    *grpc.ClientConn

	topology swanherdv1.TopologyServiceClient
	access   swanherdv1.AccessServiceClient
}

func newController(ctx context.Context, dir string) (*controller, error) {
	c := &controller{program: filepath.Join(dir, "swanherd-server"), dir: filepath.Join(dir, "controller")}
	build := exec.CommandContext(ctx, "go", "build", "-o", c.program, "github.com/swanherd/swanherd/server/cmd/swanherd-server")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the controller: %w\n%s", err, out)
	}
	for _, to := range []*string{&c.operators, &c.edges, &c.metricsListen} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		*to = l.Addr().String()
		l.Close()
	}
	return c, nil
}

// start runs the process and waits until it serves; it returns how long that took.
func (c *controller) start(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	c.process = exec.Command(c.program, "--data-dir", c.dir, "--listen", c.operators, "--edge-listen", c.edges,
		"--metrics-listen", c.metricsListen, "--profiling", "--log-level", "warn")
	c.process.Stderr, c.process.Stdout = &c.words, io.Discard
	c.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.process.Start(); err != nil {
		return 0, err
	}
	for {
		if resp, err := http.Get("http://" + c.metricsListen + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				break
			}
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return 0, fmt.Errorf("wait for the controller: %w", err)
		}
	}
	took := time.Since(began)
	if c.conn == nil {
		return took, c.connect()
	}
	return took, nil
}

func (c *controller) connect() error {
	x, err := cli.ReadCredential(filepath.Join(c.dir, "admin-credential"))
	if err != nil {
		return err
	}
	x.Server = c.operators
	if c.conn, err = cli.Connect(x); err != nil {
		return err
	}
	c.topology, c.access = swanherdv1.NewTopologyServiceClient(c.conn), swanherdv1.NewAccessServiceClient(c.conn)
	return nil
}

func (c *controller) kill() {
	if c.process == nil {
		return
	}
	_ = c.process.Process.Kill()
	_ = c.process.Wait()
	c.process = nil
}

// memory is what the process takes, in octets.
type memory struct {
	resident float64 // as the kernel sees it
	inUse    float64 // the spans of the heap, and stacks, that hold something
}

// memory looks after a garbage collection.
func (c *controller) memory(ctx context.Context) (m memory, err error) {
	resp, err := http.Get("http://" + c.metricsListen + "/debug/pprof/heap?gc=1")
	if err != nil {
		return m, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if err != nil {
		return m, err
	}
	for _, name := range []string{"go_memstats_heap_inuse_bytes", "go_memstats_stack_inuse_bytes"} {
		octets, err := c.metric(name)
		if err != nil {
			return m, err
		}
		m.inUse += octets
	}
	if err := pause(ctx, 2*time.Second); err != nil { // what is free goes back by and by
		return m, err
	}
	m.resident, err = c.resident()
	return m, err
}

// profile stores one of the controller's profiles.
func (c *controller) profile(name, file string) error {
	resp, err := http.Get("http://" + c.metricsListen + "/debug/pprof/" + name)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}

func (c *controller) resident() (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.process.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(text)[0], 64)
			return kib * 1024, err
		}
	}
	return 0, errors.New("the kernel tells no memory of the controller")
}

// metric adds up the samples of one metric.
func (c *controller) metric(name string) (float64, error) {
	resp, err := http.Get("http://" + c.metricsListen + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	sum := 0.0
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		value, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("metric %s: %w", name, err)
		}
		sum += value
	}
	return sum, nil
}

// revision is the store's.
func (c *controller) revision(ctx context.Context) (int64, error) {
	resp, err := c.topology.Apply(ctx, &swanherdv1.ApplyRequest{Manifest: &swanherdv1.Manifest{}, ValidateOnly: true})
	return resp.GetRevision(), err
}

func (c *controller) lastWords() string { return c.words.String() }

// tail keeps the last of what is written to it.
type tail struct {
	mu sync.Mutex
	b  bytes.Buffer
}

const tailLen = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b.Write(p)
	t.b.Next(max(0, t.b.Len()-tailLen))
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}

// pause waits, or returns why not.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
