package main

import (
	"context"
	"flag"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// runBench runs every benchmark of the repository, or of the packages named.
// Figures are only comparable within one run: see BENCHMARKS.md.
func runBench(ctx context.Context, args []string) error {
	if len(args) == 0 {
		args = []string{"./..."}
	}
	return command(ctx, "", append([]string{"go", "test", "-run", "^$", "-bench", ".", "-benchmem", "-benchtime", "300ms"}, args...)...)
}

// runFuzz runs each fuzz target for a while; go test takes one at a time.
func runFuzz(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("fuzz", flag.ContinueOnError)
	each := flags.Duration("time", 20*time.Second, "time for each target")
	if err := flags.Parse(args); err != nil {
		return err
	}
	files, err := exec.CommandContext(ctx, "git", "grep", "-lE", `^func Fuzz[A-Za-z0-9_]+`, "--", "*_test.go").Output()
	if err != nil {
		return fmt.Errorf("git grep: %w", err)
	}
	for _, file := range strings.Fields(string(files)) {
		if err := fuzzFile(ctx, file, *each); err != nil {
			return err
		}
	}
	return nil
}

func fuzzFile(ctx context.Context, file string, each time.Duration) error {
	out, err := exec.CommandContext(ctx, "git", "grep", "-ho", "-E", `^func Fuzz[A-Za-z0-9_]+`, "--", file).Output()
	if err != nil {
		return fmt.Errorf("git grep: %w", err)
	}
	pkg := "./" + file[:strings.LastIndex(file, "/")]
	for line := range strings.Lines(string(out)) {
		target := strings.TrimSpace(strings.TrimPrefix(line, "func "))
		if err := command(ctx, "", "go", "test", "-run", "^$", "-fuzz", "^"+target+"$", "-fuzztime", each.String(), pkg); err != nil {
			return err
		}
	}
	return nil
}
