package main

import (
	"context"
	"flag"
	"fmt"
	"os/exec"
	"path"
	"slices"
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
	for _, t := range targets {
		// Without a bound, go test spends up to a minute on making one input
		// smaller.
		err := command(ctx, "", "go", "test", "-run", "^$", "-fuzz", "^"+t.name+"$",
			"-fuzztime", each.String(), "-fuzzminimizetime", "20x", t.pkg)
		if err != nil {
			return fmt.Errorf("%s.%s: %w", t.pkg, t.name, err)
		}
	}
	return nil
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
