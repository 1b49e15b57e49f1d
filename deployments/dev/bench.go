package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// runBench runs every benchmark of the repository, or of the packages named, or
// "dataplane": ours beside others'.
// Figures are only comparable within one run: see BENCHMARKS.md.
func runBench(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == "dataplane" {
		return benchDataPlane(ctx, args[1:])
	}
	if len(args) == 0 {
		args = []string{"./..."}
	}
	return command(ctx, "", append([]string{"go", "test", "-run", "^$", "-bench", ".", "-benchmem", "-benchtime", "300ms"}, args...)...)
}

// benchDataPlane needs root. A round of all takes ten minutes.
func benchDataPlane(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench dataplane", flag.ContinueOnError)
	rounds := flags.Int("rounds", 3, "how often each measure is taken")
	with := flags.String("with", "", "only contenders that match this regular expression, such as 'swanherd$|wireguard'")
	only := flags.String("only", "", "only measures that match this regular expression, such as 'TCP 1|UDP'")
	before := flags.String("before", "", "another build of swanherd-edge, measured beside this one: from before a change")
	figures := flags.String("figures", "", "file for all figures, as JSON, after each round")
	if err := flags.Parse(args); err != nil {
		return err
	}
	for _, file := range []*string{figures, before} {
		if *file == "" {
			continue
		}
		absolute, err := filepath.Abs(*file) // the benchmark runs in another directory
		if err != nil {
			return err
		}
		*file = absolute
	}
	const round, start = 20 * time.Minute, 10 * time.Minute
	return command(ctx, "", "go", "test", "-run", "^$", "-bench", "BenchmarkDataPlane$", "-benchtime", fmt.Sprintf("%dx", *rounds),
		"-timeout", (start + time.Duration(*rounds)*round).String(), "./deployments/lab", "-args", "-with", *with, "-only", *only, "-before", *before, "-figures", *figures)
}

// runFuzz runs each fuzz target for a while, one after the other: go test takes one
// at a time.
func runFuzz(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("fuzz", flag.ContinueOnError)
	each := flags.Duration("time", 20*time.Second, "time for each target")
	total := flags.Duration("total", 0, "time for all targets together, in equal parts; replaces -time")
	only := flags.String("target", "", "only targets whose package and name contain this, such as ipsec/ike.FuzzSchedule")
	if err := flags.Parse(args); err != nil {
		return err
	}
	targets, err := fuzzTargets(ctx)
	if err != nil {
		return err
	}
	targets = slices.DeleteFunc(targets, func(t fuzzTarget) bool { return !strings.Contains(t.pkg+"."+t.name, *only) })
	if len(targets) == 0 {
		return fmt.Errorf("no fuzz target contains %q", *only)
	}
	if *total > 0 {
		*each = fuzzShare(*total, len(targets))
	}
	var errs []error
	for _, t := range targets {
		if err := t.fuzz(ctx, *each); err != nil {
			errs = append(errs, fmt.Errorf("%s.%s: %w", t.pkg, t.name, err))
		}
	}
	return errors.Join(errs...)
}

// fuzz runs the target for a while.
func (t fuzzTarget) fuzz(ctx context.Context, duration time.Duration) error {
	const attempts = 3
	for n := 1; ; n++ {
		// Without a bound, go test spends up to a minute on making one input
		// smaller.
		cmd := prepare(ctx, "", "go", "test", "-run", "^$", "-fuzz", "^"+t.name+"$",
			"-fuzztime", duration.String(), "-fuzzminimizetime", "20x", t.pkg)
		var printed bytes.Buffer
		cmd.Stdout = io.MultiWriter(os.Stdout, &printed)
		cmd.Stderr = cmd.Stdout
		err := cmd.Run()
		if err == nil || n == attempts || !endedBadly(printed.String()) {
			return err
		}
		fmt.Println("the time was over in a bad moment; once more")
	}
}

// endedBadly reports whether a fuzz run failed for no other reason than that its
// time was over while the workers were at something (golang.org/issue/75804, mended in
// Go 1.27).
func endedBadly(printed string) bool {
	return strings.Contains(printed, "    context deadline exceeded\n") && !strings.Contains(printed, "Failing input")
}

// fuzzShare is what one of n targets gets of the time for all, at least a second.
func fuzzShare(total time.Duration, n int) time.Duration {
	return max(time.Second, (total / time.Duration(n)).Truncate(time.Millisecond))
}

// fuzzTarget is a function in a package, such as ./ipsec/ike and FuzzSchedule.
type fuzzTarget struct{ pkg, name string }

func fuzzTargets(ctx context.Context) ([]fuzzTarget, error) {
	out, err := exec.CommandContext(ctx, "git", "grep", "-oE", `^func Fuzz[A-Za-z0-9_]+`, "--", "*_test.go").Output()
	if err != nil {
		return nil, fmt.Errorf("git grep: %w", err)
	}
	var targets []fuzzTarget
	for line := range strings.Lines(string(out)) {
		file, function, _ := strings.Cut(strings.TrimSpace(line), ":")
		targets = append(targets, fuzzTarget{"./" + path.Dir(file), strings.TrimPrefix(function, "func ")})
	}
	return targets, nil
}
