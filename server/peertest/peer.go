// Package peertest runs the real peers of deployments/dev for tests: programs in modules of
// their own, which say their URL and serve until their input ends.
package peertest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// programs are what was built, by name: func() (string, error).
var programs sync.Map

// program builds a program of deployments/dev, once; it returns its file. That is where the
// one before it was, also of other processes, which have theirs open.
func program(name string) (string, error) {
	build, _ := programs.LoadOrStore(name, sync.OnceValues(func() (string, error) {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
		if err != nil {
			return "", fmt.Errorf("go list: %w", err)
		}
		out := filepath.Join(cache, "swanherd", "peers", name)
		built := fmt.Sprintf("%s.%d", out, os.Getpid())
		source := filepath.Join(strings.TrimSpace(string(module)), "deployments", "dev", name)
		if text, err := exec.Command("go", "build", "-C", source, "-o", built, ".").CombinedOutput(); err != nil {
			return "", fmt.Errorf("go build: %s: %w", text, err)
		}
		return out, os.Rename(built, out)
	}))
	return build.(func() (string, error))()
}

// Peer is a program that runs.
type Peer struct {
	// URL is where it is.
	URL string

	process *exec.Cmd
	input   io.Closer
}

// Start starts the program of that name, tells it what input holds, and waits for its URL.
// It ends with the test, if it was not stopped before.
func Start(t testing.TB, name string, input []byte, args ...string) *Peer {
	t.Helper()
	file, err := program(name)
	if err != nil {
		t.Skipf("SKIPPED: needs the modules of deployments/dev/%s: %v", name, err)
	}
	process := exec.CommandContext(t.Context(), file, args...)
	process.Stderr = t.Output()
	process.WaitDelay = time.Second
	in, err := process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write(input); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%s says no URL: %v", name, err)
	}
	return &Peer{URL: strings.TrimSpace(line), process: process, input: in}
}

// Stop stops it.
func (p *Peer) Stop() {
	p.input.Close()
	_ = p.process.Wait() // when the test ends, it is killed
}
