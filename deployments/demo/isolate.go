package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

const (
	// insideVariable tells the second instance of this program that it runs
	// in the namespaces, and where the scratch directory is.
	insideVariable = "SWANHERD_DEMO_DIR"
	// listenerFD is the operator listener that the first instance opened, so
	// that a browser outside the namespaces reaches the dashboard.
	listenerFD = 3
)

// errVerdict says that the second instance reported a failure by itself.
var errVerdict = errors.New("the demonstration failed")

// runIsolated builds the programs, then runs this program again, for which
// everything else is made and which leaves nothing behind. Without privileges
// it runs in user, network and mount namespaces of its own.
func runIsolated(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "swanherd-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := build(ctx, dir); err != nil {
		return err
	}
	listener, err := listen(o.listen)
	if err != nil {
		return err
	}
	defer listener.Close()

	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideVariable+"="+dir)
	cmd.Stdin = struct{ io.Reader }{os.Stdin} // by us: it may not read a terminal in a group of its own
	cmd.WaitDelay = time.Second               // for what was typed and not read
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{listener}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true, // Ctrl-C reaches only us; we pass it on
		Pdeathsig: syscall.SIGKILL,
	}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	if err := startLocked(cmd); err != nil {
		if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EINVAL) {
			return errors.New("this system does not let users make network namespaces; run it as root, or allow them with `sysctl -w kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0 user.max_user_namespaces=10000` (those that exist)")
		}
		return fmt.Errorf("start in namespaces: %w", err)
	}
	return supervise(ctx, cmd)
}

// startLocked starts cmd from a thread that lives as long as this program,
// because the death signal is tied to the thread.
func startLocked(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		started <- cmd.Start()
		select {}
	}()
	return <-started
}

func supervise(ctx context.Context, cmd *exec.Cmd) error {
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err = <-done:
		case <-time.After(20 * time.Second):
			cmd.Process.Kill()
			<-done
			return errors.New("did not end within 20 s and was killed")
		}
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return errVerdict
	}
	return err
}

// build compiles the programs that the demonstration runs: the same ones that
// are installed on a real system.
func build(ctx context.Context, dir string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", dir+string(filepath.Separator),
		"github.com/swanherd/swanherd/server/cmd/swanherd-server",
		"github.com/swanherd/swanherd/server/cmd/swanherd",
		"github.com/swanherd/swanherd/edge/cmd/swanherd-edge")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build the programs: %w", err)
	}
	return nil
}

// listen opens the operator listener; when the port is taken, any other one.
func listen(address string) (*os.File, error) {
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		host, _, splitErr := net.SplitHostPort(address)
		if splitErr != nil {
			return nil, splitErr
		}
		l, err = net.Listen("tcp", net.JoinHostPort(host, "0"))
	}
	if err != nil {
		return nil, fmt.Errorf("listen for the dashboard: %w", err)
	}
	defer l.Close()
	return l.(*net.TCPListener).File()
}
