package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	probing "github.com/prometheus-community/pro-bing"
)

// A Program runs in a namespace.
type Program struct {
	cmd    *exec.Cmd
	output *tail
	done   chan struct{}
	err    error
}

// Start runs argv in the namespace with the environment env added to ours. Its
// output goes to out, when that is not nil; the end of it is also kept for
// Output. The program is killed when this process dies.
func (ns *Namespace) Start(out io.Writer, env []string, argv ...string) (*Program, error) {
	p := &Program{
		cmd:    exec.Command(argv[0], argv[1:]...),
		output: &tail{},
		done:   make(chan struct{}),
	}
	var w io.Writer = p.output
	if out != nil {
		w = io.MultiWriter(out, p.output)
	}
	p.cmd.Stdout, p.cmd.Stderr = w, w
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// The death signal is tied to the thread that starts the program, so that
	// thread waits for the program's end.
	p.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error, 1)
	go func() {
		err := ns.Do(func() error {
			if err := p.cmd.Start(); err != nil {
				return fmt.Errorf("start %s in %s: %w", argv[0], ns.Name, err)
			}
			started <- nil
			p.err = p.cmd.Wait()
			close(p.done)
			return nil
		})
		if err != nil {
			started <- err
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// Done is closed when the program has ended.
func (p *Program) Done() <-chan struct{} { return p.done }

// Err says how the program ended, once Done is closed.
func (p *Program) Err() error { return p.err }

// Output is the end of what the program wrote.
func (p *Program) Output() string { return p.output.String() }

// PID is the program's process ID.
func (p *Program) PID() int { return p.cmd.Process.Pid }

// Kill ends the program at once and waits for it.
func (p *Program) Kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// Stop asks the program to end, kills it after patience, and returns how it ended.
func (p *Program) Stop(patience time.Duration) error {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(patience):
		p.Kill()
		return fmt.Errorf("%s did not stop within %v and was killed", p.cmd.Path, patience)
	}
	return p.err
}

// Run runs argv in the namespace to its end and returns what it wrote.
func (ns *Namespace) Run(ctx context.Context, argv ...string) (string, error) {
	var out []byte
	err := ns.Do(func() error {
		var err error
		out, err = exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
		return err
	})
	if err != nil {
		return string(out), fmt.Errorf("%s in %s: %w: %s", strings.Join(argv, " "), ns.Name, err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

// PingResult is what a ping found.
type PingResult struct {
	Sent, Received int
	Average        time.Duration
}

// Ping sends count echo requests from one address to another, 20 ms apart.
// Receiving fewer than count answers is an error. A single one, which is asked
// again where it has to be, is given up after 2 s. Several ones show that nothing
// is lost, and what is late on a busy machine is not lost: they have 10 s.
func (ns *Namespace) Ping(ctx context.Context, from, to netip.Addr, count int) (PingResult, error) {
	var result PingResult
	err := ns.Do(func() error {
		p := probing.New(to.String())
		p.SetPrivileged(true)
		p.Source = from.String()
		p.Count = count
		p.Interval = 20 * time.Millisecond
		p.Timeout = 2 * time.Second
		if count > 1 {
			p.Timeout = 10*time.Second + time.Duration(count)*p.Interval
		}
		if err := p.RunWithContext(ctx); err != nil {
			return err
		}
		st := p.Statistics()
		result = PingResult{Sent: st.PacketsSent, Received: st.PacketsRecv, Average: st.AvgRtt}
		return nil
	})
	if err == nil && result.Received < count {
		err = errors.New("no answer")
	}
	if err != nil {
		return result, fmt.Errorf("ping %s from %s in %s: %d of %d answered: %w", to, from, ns.Name, result.Received, count, err)
	}
	return result, nil
}

// PingUntil sends echo requests until it is over, some of which may be lost, and returns for
// how long in a row they were, at most. What is on its way at the end does not count. Each
// answer is told as it comes.
func (ns *Namespace) PingUntil(ctx context.Context, from, to netip.Addr, every time.Duration, over <-chan struct{}, answer func()) (result PingResult, gone time.Duration, err error) {
	const late = 500 * time.Millisecond
	answered := map[int]bool{}
	err = ns.Do(func() error {
		p := probing.New(to.String())
		p.SetPrivileged(true)
		p.Source, p.Interval = from.String(), every
		p.OnRecv = func(packet *probing.Packet) {
			answered[packet.Seq] = true
			answer()
		}
		done := make(chan struct{})
		go func() {
			select {
			case <-over:
			case <-done:
			}
			p.Stop()
		}()
		err := p.RunWithContext(ctx)
		close(done)
		st := p.Statistics()
		result = PingResult{Sent: st.PacketsSent, Received: st.PacketsRecv, Average: st.AvgRtt}
		return err
	})
	for range late / every {
		if result.Sent > 0 && !answered[result.Sent-1] {
			result.Sent--
		}
	}
	run := 0
	for i := range result.Sent {
		if run++; answered[i] {
			run = 0
		}
		gone = max(gone, time.Duration(run)*every)
	}
	if err != nil {
		err = fmt.Errorf("ping %s from %s in %s: %w", to, from, ns.Name, err)
	}
	return result, gone, err
}

// tail keeps the last part of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailSize = 64 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if excess := len(t.buf) - tailSize; excess > 0 {
		t.buf = append(t.buf[:0], t.buf[excess:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
