package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
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
	// credential is the operator's file.
	credential string
	// more are further arguments: those of a replica.
	more []string

	process *exec.Cmd
	ended   chan struct{} // closed when the process has ended
	words   tail
	conn    *grpc.ClientConn

	topology swanherdv1.TopologyServiceClient
	access   swanherdv1.AccessServiceClient
	fleet    swanherdv1.FleetServiceClient
}

// newControllers builds the program and prepares n replicas of the controller, whose
// embedded etcds form a cluster if there is more than one. None runs yet.
func newControllers(ctx context.Context, dir string, n int) ([]*controller, error) {
	program := filepath.Join(dir, "swanherd-server")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/swanherd/swanherd/server/cmd/swanherd-server")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the controller: %w\n%s", err, out)
	}
	const ports = 5
	free, err := freeAddresses(ports * n)
	if err != nil {
		return nil, err
	}
	all := make([]*controller, n)
	var edges, members []string
	for i := range all {
		a := free[ports*i:]
		all[i] = &controller{program: program, dir: filepath.Join(dir, fmt.Sprint("controller-", i)), operators: a[0], edges: a[1], metricsListen: a[2]}
		edges, members = append(edges, a[1]), append(members, fmt.Sprintf("m%d=http://%s", i, a[3]))
	}
	if n == 1 {
		return all, nil
	}
	for i, c := range all {
		c.more = []string{
			"--cluster", strings.Join(members, ","), "--cluster-member", fmt.Sprint("m", i), "--key-file", filepath.Join(dir, "secret.key"),
			"--replica-listen", free[ports*i+4], "--advertise-edge", strings.Join(edges, ","),
		}
	}
	return all, nil
}

// The ports of controllers are of this range, below the one of which the kernel gives to
// whoever wants any (net.ipv4.ip_local_port_range): until a controller listens, again and
// again where it is killed, nobody else is to get them.
const firstPort, endPort = 20_000, 32_000

// freeAddresses are n addresses of loopback with ports that nobody has.
func freeAddresses(n int) ([]string, error) {
	var out []string
	begin := rand.IntN(endPort - firstPort)
	for i := range endPort - firstPort {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", firstPort+(begin+i)%(endPort-firstPort)))
		if err != nil {
			continue // somebody has it
		}
		defer l.Close() // not sooner, so that each has a port of its own
		if out = append(out, l.Addr().String()); len(out) == n {
			return out, nil
		}
	}
	return nil, fmt.Errorf("of the ports %d to %d fewer than %d are free", firstPort, endPort-1, n)
}

// startAll starts replicas, which wait for one another.
func startAll(ctx context.Context, all []*controller) error {
	for _, c := range all {
		if err := c.launch(); err != nil {
			return err
		}
	}
	for _, c := range all {
		if err := c.ready(ctx); err != nil {
			return err
		}
	}
	credential := "" // of the replica that was the first
	for _, c := range all {
		if file := filepath.Join(c.dir, "admin-credential"); exists(file) {
			credential = file
		}
	}
	for _, c := range all {
		if err := c.connect(credential); err != nil {
			return err
		}
	}
	return nil
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// start runs the process and waits until it serves; it returns how long that took.
func (c *controller) start(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := c.launch(); err != nil {
		return 0, err
	}
	err := c.ready(ctx)
	return time.Since(began), err
}

// launch runs the process. It goes when this one goes, by a signal that is tied to the
// thread.
func (c *controller) launch() error {
	// The one operator makes a token for each edge: its calls are not limited.
	c.process = exec.Command(c.program, append([]string{
		"--data-dir", c.dir, "--listen", c.operators, "--edge-listen", c.edges,
		"--metrics-listen", c.metricsListen, "--stun-listen", "", "--profiling", "--log-level", "warn", "--rate-limit", "-1",
	}, c.more...)...)
	c.process.Stderr, c.process.Stdout = &c.words, io.Discard
	c.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.process.Start(); err != nil {
		return err
	}
	ended, process := make(chan struct{}), c.process
	c.ended = ended
	go func() {
		_ = process.Wait()
		close(ended)
	}()
	return nil
}

// ready waits until the process serves.
func (c *controller) ready(ctx context.Context) error {
	for {
		if resp, err := http.Get("http://" + c.metricsListen + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-c.ended:
			return fmt.Errorf("the controller ended before it served: %s", c.lastWords())
		default:
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("wait for the controller: %w; its last words: %s", err, c.lastWords())
		}
	}
}

func (c *controller) connect(credential string) error {
	c.credential = credential
	x, err := cli.ReadCredential(credential)
	if err != nil {
		return err
	}
	x.Server = c.operators
	if c.conn, err = cli.Connect(x); err != nil {
		return err
	}
	c.topology, c.access = swanherdv1.NewTopologyServiceClient(c.conn), swanherdv1.NewAccessServiceClient(c.conn)
	c.fleet = swanherdv1.NewFleetServiceClient(c.conn)
	return nil
}

func (c *controller) kill() {
	if c.process == nil {
		return
	}
	_ = c.process.Process.Kill()
	<-c.ended
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
	samples, err := c.samples(name)
	sum := 0.0
	for _, v := range samples {
		sum += v
	}
	return sum, err
}

// samples are those of one metric, by their labels as they are written.
func (c *controller) samples(name string) (map[string]float64, error) {
	resp, err := http.Get("http://" + c.metricsListen + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	out := map[string]float64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		at := strings.LastIndexByte(rest, ' ')
		value, err := strconv.ParseFloat(rest[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metric %s: %w", name, err)
		}
		out[rest[:at]] = value
	}
	return out, nil
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
