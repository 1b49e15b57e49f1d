package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
)

// A task is something a developer runs by name.
type task struct {
	name string
	help string
	run  func(ctx context.Context, args []string) error
}

func tasks() []task {
	return []task{
		{"test", "set up what the tests need, then run all of them; a test that skips fails the task", runTest},
		{"setup", "install what the tests need (Debian packages, peers in Go, npm modules)", runSetup},
		{"lint", "formatting, vet, protocol lint, generated code current", runLint},
		{"gen", "generate code from proto/", runGen},
		{"ui", "build dashboard/ui into dashboard/dist", runUI},
		{"bench", "run the benchmarks; arguments go to go test; dataplane: ours beside WireGuard and strongSwan (-help)", runBench},
		{"fuzz", "run every fuzz target for a while (-time 20s, -total 1m, -target NAME)", runFuzz},
		{"lab", "run only the tests that need network namespaces and real peers", runLab},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "dev:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		usage()
		return nil
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	for _, t := range tasks() {
		if t.name == args[0] {
			return t.run(ctx, args[1:])
		}
	}
	usage()
	return fmt.Errorf("no task %q", args[0])
}

func usage() {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "usage: go run ./deployments/dev TASK [ARGUMENT ...]")
	for _, t := range tasks() {
		fmt.Fprintf(w, "  %s\t%s\n", t.name, t.help)
	}
	w.Flush()
}

// moduleRoot returns the directory of the main module's go.mod.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if mod == "" || mod == os.DevNull {
		return "", errors.New("run it inside the repository")
	}
	return filepath.Dir(mod), nil
}

// command runs a program with our output, after printing what it runs.
func command(ctx context.Context, dir string, argv ...string) error {
	cmd := prepare(ctx, dir, argv...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
	}
	return nil
}

// prepare prints argv and returns the command that runs it in dir.
func prepare(ctx context.Context, dir string, argv ...string) *exec.Cmd {
	where := ""
	if dir != "" {
		where = " (in " + dir + ")"
	}
	fmt.Printf("+ %s%s\n", strings.Join(argv, " "), where)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	return cmd
}
